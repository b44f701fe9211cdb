"""A job: what runs, on how many nodes, and what it asks of the cluster. The words that may stand in a job file."""

import re
import shlex
from dataclasses import dataclass
from os.path import normpath
from pathlib import Path

from schemas.errors import UsageError
from schemas.secrets import without_secrets
from schemas.terminal import counted, excerpt, printable
from trainer.config.sections import TrainConfig
from trainer.jobs.scheduler import OF_SCHEDULER, Scheduler

USUAL_GPUS = 8
"""GPUs of a node, where nothing is said of them."""

WARNING_SECONDS = 120
"""Time to finish a step and to save, before the processes are ended."""

SHORTEST_SECONDS = 600
"""Time of a job below which it would do nothing but start and save."""

MAX_RESTARTS = 100
"""How often a job is started again before somebody should look at it."""

WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._,+/\-]*")
ADDRESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/\-]*")
JOB_NAME = re.compile(r"[a-z]([a-z0-9\-]{0,50}[a-z0-9])?")  # in Kubernetes a service's too, which begins with a letter
KUBERNETES_NAME = re.compile(r"[a-z0-9]([a-z0-9\-]{0,50}[a-z0-9])?")
TIME = re.compile(r"\d+|\d+:\d{1,2}(:\d{1,2})?|\d+-\d{1,2}(:\d{1,2}){0,2}")

FORMS = {
    "--name": (JOB_NAME, "small letters, digits and - between them, a letter first, at most 52 in all"),
    "--time": (TIME, "minutes, hours:minutes:seconds or days-hours:minutes:seconds"),
    "--partition": (WORD, "a name"),
    "--account": (WORD, "a name"),
    "--gpu": (WORD, "a kind of GPU, such as H100"),
    "--image": (ADDRESS, "the name of a container image"),
    "--bucket": (ADDRESS, "a bucket, such as s3://my-runs"),
    "--volume": (KUBERNETES_NAME, "the name of a volume: small letters, digits and -"),
}
"""What each of these options looks like, so that it needs no quotes in any file."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a job asks of the cluster beside its nodes; each field is an option of the command."""

    name: str = "dpo"
    cpus_per_task: int = 8
    mem: int | None = None  # GiB of a node
    time: str | None = None
    partition: str | None = None
    account: str | None = None
    gpu: str | None = None
    setup: tuple[str, ...] = ()
    image: str | None = None
    bucket: str | None = None
    volume: str | None = None
    spot: bool = False

    def check(self, scheduler: Scheduler) -> None:
        """Refuse what the scheduler has no place for, and words that no file could hold.

        Raises:
            UsageError: there is any; all of it is named.
        """
        problems = []
        for option, schedulers in OF_SCHEDULER.items():
            if getattr(self, option.removeprefix("--")) and scheduler not in schedulers:
                problems.append(f"{option} is about {' and '.join(schedulers)}, not {scheduler}")
        for option, (form, meaning) in FORMS.items():
            value = getattr(self, option.removeprefix("--"))
            if value is not None and not form.fullmatch(value):
                problems.append(f"{option} {excerpt(value)}: expected {meaning}")
        if self.time is not None and TIME.fullmatch(self.time) and seconds_of(self.time) < SHORTEST_SECONDS:
            problems.append(
                f"--time {self.time}: expected at least {SHORTEST_SECONDS // 60} minutes, of which the last "
                "ones go into saving"
            )
        problems += [
            f"--setup {excerpt(line)}: {fault}"
            for line in self.setup
            if (fault := fault_of(line) or ("" if _is_closed(line) else "ends inside of a quote, or with a backslash"))
        ]
        if problems:
            raise UsageError(problems[0] if len(problems) == 1 else "wrong options:\n  " + "\n  ".join(problems))


@dataclass(frozen=True)
class Job:
    """A run of dpo train on a cluster."""

    command: tuple[str, ...]  # dpo train and its arguments, none of them quoted
    config: TrainConfig
    asked: Asked

    @property
    def num_nodes(self) -> int:
        """Give the nodes of the run."""
        return self.config.cluster.num_nodes

    @property
    def has_gpus(self) -> bool:
        """Say whether the run is on GPUs."""
        return self.config.cluster.gpus_per_node != "none"

    @property
    def processes_per_node(self) -> int:
        """Give the processes of a node: one for each GPU, on the CPU as many as are told."""
        if not self.has_gpus:
            return self.config.cluster.cpu_processes
        told = self.config.cluster.gpus_per_node
        return told if isinstance(told, int) else USUAL_GPUS

    @property
    def shape(self) -> str:
        """Say in words what the job runs on."""
        nodes = counted(self.num_nodes, "node")
        each = " each" if self.num_nodes > 1 else ""
        here = self.processes_per_node
        if not self.has_gpus:
            return f"{nodes} with {here} {'process' if here == 1 else 'processes'} on the CPU{each}"
        return f"{nodes} with {counted(here, 'GPU')}{each}"

    @property
    def notes(self) -> tuple[str, ...]:
        """Say what fits badly: with a job that is started again, and with a run on the CPU."""
        notes = []
        if not self.config.checkpointing.enabled:
            notes.append(
                "checkpointing.enabled=false: nothing is saved before the end, so a start that is cut short is lost, "
                "and the job is not started again"
            )
        if self.asked.gpu is not None and not self.has_gpus:
            notes.append(
                f"--gpu {self.asked.gpu}: the run is on the CPU (cluster.gpus_per_node=none), so none is asked for"
            )
        return tuple(notes)

    def refuse_outside(self, mount: str, *, start: str) -> None:
        """Keep the run from being written to a disk that goes with the machine.

        Args:
            mount: Where lies what stays.
            start: The folder that dpo is started in.

        Raises:
            UsageError: the folder of the run or of its checkpoints is elsewhere.
        """
        folders = {
            "-o": self.config.output_dir,
            "checkpointing.checkpoint_dir=": self.config.checkpointing.checkpoint_dir,
        }
        for option, folder in folders.items():
            if folder is not None and Path(mount) not in Path(normpath(Path(start) / folder)).parents:
                raise UsageError(
                    f"{option} {excerpt(str(folder))}: would be lost with the machine; what stays is mounted at "
                    f"{mount}: name a folder in there, such as {mount}/runs/{self.asked.name}"
                )


def seconds_of(time: str) -> int:
    """Read a time as Slurm does."""
    days, dash, rest = time.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:
        hours, minutes, seconds = [*parts, 0, 0][:3]
    elif len(parts) == 3:
        hours, minutes, seconds = parts
    else:
        hours, (minutes, seconds) = 0, [*parts, 0][:2]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def _is_closed(line: str) -> bool:
    """Say whether a line of the shell ends what it begins, for what follows would become a part of it."""
    try:
        shlex.split(line, comments=True)
    except ValueError:
        return False
    return True


_SECRET = re.compile(r"\b\w*(?:_KEY|_TOKEN|_PASSWORD|_SECRET)\b\s*=\s*[\"']?[^\s\"'$]")
"""A variable for a secret that is given a value of its own, and not that of another variable."""


def fault_of(text: str) -> str | None:
    """Say why a text can't stand in a job file, if it can't."""
    if printable(text) != text:
        return "has a line break or another character that can't be shown"
    if without_secrets(text) != text or _SECRET.search(text):
        return "holds a key or a password, which has no place in a job file; leave it to the environment of the job"
    return None
