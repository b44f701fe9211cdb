"""Faults of one of two processes: the other ends soon, with a reason, and what was saved is gone on with."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from schemas.preference import write_rows
from tests.faults import (
    SAVES,
    Act,
    Child,
    at_file,
    in_row_of_validation,
    in_step,
    signalled,
    start_many,
    went_on,
    whole_checkpoints,
    without_privileges,
    without_room_for_files,
)
from tests.torture import outcome
from tests.training_runs import ROWS, USUAL, filled
from trainer.run import loop

pytestmark = [pytest.mark.slow, pytest.mark.forks]

LOST = (
    "another process has ended or does not answer (cluster.timeout_minutes says how long it is waited for); its own "
    "message says why"
)
SMALL = "policy.train_micro_batch_size=2"  # so that each process has rows of its own in a step
SHARD = ".step_4.unfinished/state/shard-00002-model-00001-of-00001.safetensors"
SECONDS = 60
"""Within which all processes have ended, whatever happens to one."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs, a policy, and a run of two processes that nothing has struck."""
    folder = filled(tmp_path_factory.mktemp("faults"))
    went_on(2, folder, SMALL, name="whole")
    return folder


def codes(children: list[Child]) -> list[int]:
    give_up = time.monotonic() + SECONDS
    return [child.end(give_up - time.monotonic()) for child in children]


def ends_as_the_whole(folder: Path, name: str) -> bool:
    went_on(2, folder, SMALL, name=name)
    return outcome(folder / name) == outcome(folder / "whole")


def strike(place: str, act: Act) -> None:
    """Strike this process at a place; its pairs are looked at before it has met the others."""
    if place == "looking":
        at_file("/pairs.jsonl", act)
    elif place == "tensors":
        at_file(SHARD, act)
    elif place == "validation":
        in_row_of_validation(2, act)
    else:
        in_step(4, act)


@pytest.mark.parametrize("place", ["looking", "step", "tensors", "validation"])
def test_one_is_killed(folder: Path, place: str) -> None:
    name = f"killed {place}"
    strikes = lambda rank: strike(place, signalled(signal.SIGKILL)) if rank == 1 else None  # noqa: E731
    limit = ["cluster.timeout_minutes=0.05"] if place == "looking" else []  # before they have come together
    children = start_many(2, folder, SMALL, *limit, name=name, strikes=strikes)
    assert codes(children) == [1, -signal.SIGKILL]
    assert children[0].last_line == f"dpo: error: {LOST}"
    if place in ("step", "tensors"):
        assert whole_checkpoints(folder / name) == [2]
    assert ends_as_the_whole(folder, name)


def test_the_main_one_is_killed(folder: Path) -> None:
    strikes = lambda rank: strike("step", signalled(signal.SIGKILL)) if rank == 0 else None  # noqa: E731
    children = start_many(2, folder, SMALL, name="main", strikes=strikes)
    assert codes(children) == [-signal.SIGKILL, 1]
    assert children[1].last_line == f"dpo: error (rank 1): {LOST}"
    assert ends_as_the_whole(folder, "main")


def test_one_stands_still(folder: Path) -> None:
    """It is waited for as long as cluster.timeout_minutes says: six seconds."""
    name = "still"
    strikes = lambda rank: strike("tensors", signalled(signal.SIGSTOP)) if rank == 1 else None  # noqa: E731
    first, second = start_many(2, folder, SMALL, "cluster.timeout_minutes=0.1", name=name, strikes=strikes)
    os.waitid(os.P_PID, second.number, os.WSTOPPED)
    assert first.end(30) == 1
    assert first.last_line == f"dpo: error: {LOST}"
    second.send(signal.SIGKILL)
    second.end()
    assert ends_as_the_whole(folder, name)


@pytest.mark.parametrize(("rank", "problem"), [(0, "File too large"), (1, "File too large"), (1, "Permission denied")])
def test_one_can_not_write(folder: Path, rank: int, problem: str) -> None:
    name = f"unwritten {rank} {problem}"

    def protect() -> None:
        (folder / name / "checkpoints/.step_4.unfinished/state").chmod(0o500)

    def strikes(here: int) -> None:
        if here == rank == 0:
            at_file(".step_4.unfinished/state", without_room_for_files)
        elif here == rank and problem == "Permission denied":
            without_privileges()
            at_file(SHARD, protect)
        elif here == rank:
            at_file(SHARD, without_room_for_files)

    children = start_many(2, folder, SMALL, name=name, strikes=strikes)
    assert codes(children) == [1, 1], [child.told for child in children]
    named = f"{folder / name}/checkpoints/step_4: can't be written: process {rank}: {problem}; make room"
    assert children[0].last_line.startswith(f"dpo: error: {named}")
    assert "error" not in children[1].told  # told once
    assert whole_checkpoints(folder / name) == [2]
    assert ends_as_the_whole(folder, name)


OTHERS: dict[str, tuple[int, str]] = {
    "pairs": (
        1,
        "process 1 of 2 has other pairs than process 0; all must read the same files: compare what lies under",
    ),
    "model": (1, "process 1 of 2 has other model configuration than process 0; all must read the same files"),
    "no model": (3, "process 1: model policy: can't be loaded: Error no file named model.safetensors found"),
    "broken": (3, "process 1: pairs.jsonl:24: Input data was truncated; 1 of 24 rows are no preference pairs"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_one_reads_something_else(tmp_path: Path, kind: str) -> None:
    """Each process has a folder of its own for its working directory, as each node has a disk of its own."""
    for name in "01":
        filled(tmp_path / name)
    place = tmp_path / "1"
    if kind == "pairs":
        write_rows(place / "pairs.jsonl", ROWS[:-1])
    elif kind == "broken":
        (place / "pairs.jsonl").write_text((place / "pairs.jsonl").read_text()[:-20])
    elif kind == "model":
        text = (place / "policy/config.json").read_text()
        (place / "policy/config.json").write_text(text.replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'))
    else:
        (place / "policy/model.safetensors").unlink()
    children = start_many(2, Path(), strikes=lambda rank: os.chdir(tmp_path / str(rank)))
    code, told = OTHERS[kind]
    assert codes(children) == [code, code], [child.told for child in children]
    assert children[0].last_line.startswith(f"dpo: error: {told}")
    assert "error" not in children[1].told  # told once
    assert not (tmp_path / "0" / "run").exists()
    assert not (tmp_path / "1" / "run").exists()


def test_a_loss_that_is_not_finite(folder: Path) -> None:
    """The rate of the third step is infinite, as after a slip in a scheduler; the fourth one finds out."""

    def strikes(rank: int) -> None:
        step, calls = loop.train_step, []

        def struck(training: Any, *inputs: Any) -> Any:
            calls.append(1)
            if len(calls) == 3:
                training.optimizer.param_groups[0]["lr"] = float("inf")
            return step(training, *inputs)

        loop.train_step = struck

    children = start_many(2, folder, SMALL, name="nan", strikes=strikes)
    assert codes(children) == [1, 1], [child.told for child in children]
    assert "the loss is not finite for the pairs " in children[0].last_line
    assert whole_checkpoints(folder / "nan") == [2]
    told = went_on(2, folder, SMALL, "policy.optimizer.lr=5e-4", name="nan")
    assert "resume: policy.optimizer.lr=0.0005, was 0.001 until the checkpoint" in told


@pytest.fixture
def launched(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """`dpo train` with two processes that it has started, in the midst of a run without end."""
    shutil.rmtree(folder / "launched", ignore_errors=True)
    usual = [each for each in USUAL if not each.startswith("dpo.max_num_epochs")]
    arguments = ["train", "pairs.jsonl", "--model", "policy", "-o", "launched", "--gpus", "none", *usual, *SAVES]
    command = [sys.executable, "-m", "cli", *arguments, "dpo.max_num_epochs=100000", "cluster.cpu_processes=2"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    give_up = time.monotonic() + 120
    while not (folder / "launched/checkpoints/step_4").exists():
        assert process.poll() is None and time.monotonic() < give_up  # noqa: PT018
        time.sleep(0.05)
    yield process
    process.kill()
    process.communicate()


def test_the_launcher_tells_who_was_killed(folder: Path, launched: "subprocess.Popen[str]") -> None:
    children = [
        int(number) for number in Path(f"/proc/{launched.pid}/task/{launched.pid}/children").read_text().split()
    ]
    victim = next(number for number in children if b"\0RANK=1\0" in Path(f"/proc/{number}/environ").read_bytes())
    os.kill(victim, signal.SIGKILL)
    output, errors = launched.communicate(timeout=SECONDS)
    assert (launched.returncode, output) == (137, ""), errors
    assert errors.splitlines()[-1] == (
        f"dpo: error: process 1 (pid {victim}) was ended by SIGKILL, as the system does where memory runs out; the run "
        "has ended"
    )
    assert "Traceback" not in errors
    assert not any(Path(f"/proc/{number}").exists() for number in children)
    assert whole_checkpoints(folder / "launched")
