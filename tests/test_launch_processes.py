"""Processes that `dpo train` starts: what they get, when they end, and that none is left."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from schemas.preference import write_rows
from tests.tiny_models import save_tiny_policy

REPOSITORY = Path(__file__).parents[1]

WORKER = """
import os, signal, sys, time
rank, plan, heard = int(os.environ["RANK"]), sys.argv[1:], []

def say(text):
    os.write(1, f"{rank} {text}\\n".encode())

def hear(number, frame):
    heard.append(signal.Signals(number).name)
    say(heard[-1])

for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
    signal.signal(number, hear)
say("up")
while not heard and plan[0] == "waits":
    time.sleep(0.01)
what = plan[1 + rank]
time.sleep(0.5 if what.endswith("late") else 0)
what = what.removesuffix("late")
if what == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
while what == "on" or what == "second" and len(heard) < 2:
    time.sleep(0.01)
os._exit(int(what) if what.isdigit() else 143)
"""
"""Says what it hears. Its plan: whether it waits for a signal, and for each rank how it ends then."""

PARENT = """
import os, sys
from schemas.errors import DpoError
from trainer.launch import supervise
supervise.GRACE_SECONDS = supervise.LAST_SECONDS = supervise.LEAVING_SECONDS = 1.0
try:
    environments = [{**os.environ, "RANK": str(rank)} for rank in range(2)]
    sys.exit(supervise.run_processes([sys.executable, "-c", *sys.argv[1:]], environments))
except DpoError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


@pytest.fixture
def started():
    """Start two workers with a plan; give the parent once both are up. None of them outlives the test."""
    parents = []

    def start(*plan: str) -> subprocess.Popen[str]:
        parent = subprocess.Popen(
            [sys.executable, "-c", PARENT, WORKER, *plan],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        parents.append(parent)
        assert sorted(parent.stdout.readline() for _ in range(2)) == ["0 up\n", "1 up\n"]
        return parent

    yield start
    for parent in parents:
        assert parent.poll() is not None
        assert not list(processes_of(parent.args[-1], parent.args[4]))


def processes_of(*words: str) -> Iterator[int]:
    """Find the processes whose command has all of some words."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if all(word.encode() in command for word in words):
            yield int(folder.name)


def ended(parent: subprocess.Popen[str]) -> tuple[int, list[str], str]:
    """Wait for the end: exit code, what the workers said, and what is on stderr."""
    output, errors = parent.communicate(timeout=30)
    return parent.returncode, sorted(output.splitlines()), errors


@pytest.mark.parametrize(
    ("plan", "exit_code"),
    [
        (("goes", "0", "0late"), 0),
        (("goes", "0late", "3"), 3),
        (("goes", "2late", "2"), 2),
        (("goes", "75late", "75"), 75),  # the first has to come to its own end
        (("goes", "75", "1late"), 1),
        (("goes", "on", "4"), 4),  # and the other is killed
    ],
)
def test_the_exit_code_is_that_of_the_process_that_failed_first(started, plan: tuple[str, ...], exit_code: int) -> None:
    assert ended(started(*plan)) == (exit_code, [], "")


def test_a_process_that_is_killed_is_named_and_ends_the_others(started) -> None:
    begun = time.monotonic()
    code, _, errors = ended(started("goes", "on", "killed"))
    assert code == 128 + signal.SIGKILL
    assert errors.startswith("process 1 (pid ")
    assert ") was ended by SIGKILL, as the system does where memory runs out; the run has ended\n" in errors
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP])
def test_a_signal_reaches_each_process_once_and_each_may_take_its_time(started, number: signal.Signals) -> None:
    parent = started("waits", "75late", "75")
    parent.send_signal(number)
    time.sleep(0.1)
    parent.send_signal(number)  # the same, as Slurm and a shell may send both
    assert ended(parent) == (75, [f"0 {number.name}", f"1 {number.name}"], "")


def test_a_second_signal_is_passed_on_too(started) -> None:
    parent = started("waits", "second", "second")
    parent.send_signal(signal.SIGTERM)
    time.sleep(1.2)
    assert parent.poll() is None
    parent.send_signal(signal.SIGTERM)
    assert ended(parent) == (143, ["0 SIGTERM", "0 SIGTERM", "1 SIGTERM", "1 SIGTERM"], "")


def test_processes_that_end_at_no_signal_are_killed(started) -> None:
    parent = started("waits", "on", "on")
    parent.send_signal(signal.SIGTERM)
    time.sleep(1.2)
    parent.send_signal(signal.SIGTERM)
    code, _, errors = ended(parent)
    assert (code, errors) == (137, "killed: 1 seconds after a second signal, processes had not ended\n")


@pytest.mark.parametrize("code", [0, 75])
def test_a_process_that_hangs_when_all_is_done_does_not_hang_the_run(started, code: int) -> None:
    found, _, errors = ended(started("goes", str(code), "on"))
    assert found == code
    assert (
        errors == "warning: 1 seconds after process 0 had ended, others had not: killed; what the run has written is "
        "whole\n"
    )


def test_a_process_ends_with_the_one_that_started_it() -> None:
    """SIGKILL leaves a parent no time to tell anybody."""
    worker = "import time; from trainer.launch.parent import end_with_parent; end_with_parent(); time.sleep(60)"
    parent = (
        "import os, subprocess, sys, time; from trainer.launch.parent import of_this_process;"
        f"process = subprocess.Popen([sys.executable, '-c', {worker!r}], env=os.environ | of_this_process(),"
        "start_new_session=True); print(process.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", parent], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        pid = int(process.stdout.readline())
        time.sleep(0.3)
        process.kill()
        deadline = time.monotonic() + 20
        while is_alive(pid):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def is_alive(pid: int) -> bool:
    """Say whether a process runs; one that has ended may still be waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [{"prompt": f"Q{number}", "chosen": "yes", "rejected": "no"} for number in range(8)]
    write_rows(tmp_path / 'it\'s a "pair".jsonl', rows)
    save_tiny_policy(tmp_path / "policy")
    return tmp_path


SHORT = ("policy.train_global_batch_size=4", "dpo.max_num_steps=1", "policy.self_check=false")


@pytest.mark.slow
def test_dpo_train_starts_its_processes(folder: Path, dpo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths with quotes and spaces arrive; stdout has the policy's folder once; no temporary file is left."""
    monkeypatch.delenv("OMP_NUM_THREADS")
    temporary = folder / "temporary"
    temporary.mkdir()
    command = ("train", 'it\'s a "pair".jsonl', "--model", "policy", "-o", "a run", "--gpus", "none", *SHORT)
    result = dpo(*command, "cluster.cpu_processes=2", "--json", cwd=folder, timeout=240, TMPDIR=str(temporary))
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["policy_dir"] == "a run/policy"
    line, *rest = result.stderr.splitlines()
    assert line.startswith("starting 2 processes: torchrun --nproc-per-node 2 --no-python dpo train ")
    assert "2 processes" in "\n".join(rest)
    for noise in ("OMP_NUM_THREADS", "torch.distributed", "exitcode", "Traceback", "Warning"):
        assert noise not in result.stderr
    assert not list(temporary.iterdir())


def test_a_mistake_is_told_once(folder: Path, dpo) -> None:
    command = ("train", 'it\'s a "pair".jsonl', "--model", "nowhere/at/all", "--gpus", "none")
    result = dpo(*command, "cluster.cpu_processes=2", cwd=folder)
    assert result.returncode == 3
    assert result.stderr.startswith("dpo: error: model nowhere/at/all: no such folder")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.slow
def test_tasks_of_srun_find_one_another(folder: Path) -> None:
    """Two processes with what srun sets in each of two tasks on a node."""
    step = {
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_STEP_TASKS_PER_NODE": "2",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NODEID": "0",
    }
    command = [sys.executable, "-m", "cli", "train", 'it\'s a "pair".jsonl', "--model", "policy", "-o", "run"]
    tasks = [
        subprocess.Popen(
            [*command, "--gpus", "none", *SHORT],
            cwd=folder,
            env={**os.environ, **step, "SLURM_PROCID": str(task), "SLURM_LOCALID": str(task), "PYTHONPATH": REPOSITORY},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for task in range(2)
    ]
    results = [task.communicate(timeout=240) for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], results
    assert [output for output, _ in results] == ["run/policy\n", ""]
    assert "2 processes" in results[0][1]
