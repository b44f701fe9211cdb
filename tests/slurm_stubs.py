"""Stand-ins for srun, scontrol and sbatch on one machine, and for dpo, for tests that run a batch script of Slurm's."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cli

SCRIPT = "job.sh"

SRUN = """#!{python}
import json, os, signal, subprocess, sys, time

def started(number):
    per_node = number_of_tasks // number_of_nodes
    told = {{
        "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": str(number_of_tasks),
        "SLURM_STEP_NUM_NODES": str(number_of_nodes), "SLURM_STEP_NODELIST": os.environ["SLURM_JOB_NODELIST"],
        "SLURM_STEP_TASKS_PER_NODE": f"{{per_node}}(x{{number_of_nodes}})", "SLURM_PROCID": str(number),
        "SLURM_LOCALID": str(number % per_node), "SLURM_NODEID": str(number // per_node),
    }}
    return subprocess.Popen(command, env=os.environ | told, start_new_session=True)

def signalled(tasks, signal_number):  # all processes of each task, as slurmstepd does it
    for task in tasks:
        if task.poll() is None:
            os.killpg(task.pid, signal_number)

number_of_tasks, number_of_nodes = int(os.environ["SLURM_NTASKS"]), int(os.environ["SLURM_JOB_NUM_NODES"])
arguments = sys.argv[1:]
options = []
while arguments[0].startswith("--"):
    options.append(arguments.pop(0))
command = arguments
with open("srun.jsonl", "a") as file:
    print(json.dumps(options), file=file)
tasks = []
signal.signal(signal.SIGUSR1, lambda *_: signalled(tasks, signal.SIGUSR1))
tasks += [started(number) for number in range(number_of_tasks)]
while any(task.poll() is None for task in tasks):
    if "--kill-on-bad-exit=1" in options and any(task.poll() for task in tasks):
        signalled(tasks, signal.SIGKILL)
    time.sleep(0.02)
sys.exit(max(task.returncode if task.returncode >= 0 else 128 - task.returncode for task in tasks))
"""

SCONTROL = """#!{python}
import os, sys

if sys.argv[1:3] == ["show", "hostnames"]:
    print("\\n".join(sys.argv[3].split(",")))
elif sys.argv[1] == "requeue":
    with open("requeued", "a") as file:
        print(sys.argv[2], file=file)
    sys.exit(os.path.exists("no-requeue"))
else:
    sys.exit(9)
"""

DPO = """#!{python}
import json, os, signal, sys, time

start = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
rank = int(os.environ["SLURM_PROCID"])
seconds, code = json.load(open("plan.json"))[start][rank]
caught = []
signal.signal(signal.SIGUSR1, lambda *_: caught.append(1))
names = [*{names!r}]
with open(f"dpo-{{start}}-{{rank}}.json", "w") as file:
    json.dump({{"argv": sys.argv[1:], "environment": {{name: os.environ.get(name) for name in names}}}}, file)
until = time.monotonic() + seconds
while time.monotonic() < until and not caught:
    time.sleep(0.02)
with open(f"ended-{{start}}-{{rank}}", "w") as file:
    file.write("signalled" if caught else "by itself")
sys.exit(75 if caught else code)
"""

TOLD = (
    *("MASTER_ADDR", "MASTER_PORT", "HF_HOME", "HF_TOKEN_PATH", "XDG_CACHE_HOME", "TRITON_CACHE_DIR"),
    "OMP_NUM_THREADS",
)
"""Variables that the stand-in of dpo writes down."""


@dataclass(frozen=True)
class Cluster:
    """A folder with a batch script in it, and what the script finds on its PATH."""

    folder: Path
    num_tasks: int = 2
    num_nodes: int = 1
    hosts: str = "localhost"

    def install(self, *, dpo: bool = True) -> None:
        """Put the stand-ins on the PATH."""
        programs = {"srun": SRUN, "scontrol": SCONTROL} | ({"dpo": DPO} if dpo else {})
        (self.folder / "bin").mkdir()
        for name, text in programs.items():
            self.put_on_path(name, text)

    def put_on_path(self, name: str, text: str) -> None:
        """Make a program of a text."""
        path = self.folder / "bin" / name
        path.write_text(text.format(python=sys.executable, names=TOLD))
        path.chmod(0o755)

    def plan(self, *starts: list[tuple[float, int]]) -> None:
        """Say for each start after how many seconds each rank of dpo ends, and with which code."""
        (self.folder / "plan.json").write_text(json.dumps(starts))

    def start(self, script: str, *, restarts: int = 0, **variables: str) -> "subprocess.Popen[str]":
        """Start the script as slurmd does."""
        environment = os.environ | {
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "SLURM_JOB_ID": "1234567",
            "SLURM_JOB_NODELIST": self.hosts,
            "SLURM_JOB_NUM_NODES": str(self.num_nodes),
            "SLURM_NTASKS": str(self.num_tasks),
            "SLURM_CPUS_PER_TASK": "1",
            "SLURM_RESTART_COUNT": str(restarts),
            **variables,
        }
        for name in ("MASTER_ADDR", "MASTER_PORT", "HF_HOME", "HF_TOKEN_PATH", "XDG_CACHE_HOME", "SLURM_TMPDIR"):
            if name not in variables:
                environment.pop(name, None)
        return subprocess.Popen(
            ["bash", script],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, script: str, **options: Any) -> tuple[int, str]:
        """Run the script to its end; give its code and what it wrote to stderr."""
        process = self.start(script, **options)
        _, errors = process.communicate(timeout=200)
        return process.returncode, errors

    @property
    def requeued(self) -> list[str]:
        """Give the jobs that were queued again."""
        path = self.folder / "requeued"
        return path.read_text().split() if path.exists() else []

    def told(self, start: int, rank: int) -> dict[str, Any]:
        """Give arguments and environment of a stand-in for dpo."""
        content: dict[str, Any] = json.loads((self.folder / f"dpo-{start}-{rank}.json").read_text())
        return content

    def ended(self, start: int, rank: int) -> str | None:
        """Say how a stand-in for dpo came to its end; None where it was killed."""
        path = self.folder / f"ended-{start}-{rank}"
        return path.read_text() if path.exists() else None


def write_script(*arguments: str) -> None:
    """Write the script into this folder, which is the cluster's."""
    cli.app(["cluster", "slurm", "-O", SCRIPT, *arguments], standalone_mode=False)


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    """Wait for what a script leaves on its way, as long as it runs."""
    until = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)


def child_of(process: "subprocess.Popen[str]") -> int:
    """Give the number of the one process that a script waits for, which is srun."""
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(child)
