"""Faults of one of two processes: the other ends soon, with a reason, and what was saved is gone on with."""

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from schemas.preference import write_rows
from tests import faults
from tests.faults import (
    Child,
    at_file,
    in_row_of_validation,
    in_step,
    leftovers,
    signalled,
    start_many,
    whole_checkpoints,
    without_privileges,
    without_room_for_files,
)
from tests.torture import outcome
from tests.training_runs import ROWS, filled

pytestmark = pytest.mark.slow

LOST = "another process has ended or does not answer (cluster.timeout_minutes says how long it is waited for)"
TOGETHER = "policy.train_micro_batch_size=2"  # so that each process has rows of its own in a step


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs, a policy, and a run of two processes that nothing has struck."""
    folder = filled(tmp_path_factory.mktemp("faults"))
    assert codes(start_many(2, folder, TOGETHER, name="whole")) == [0, 0]
    return folder


def codes(children: list[Child], within: float = 60) -> list[int]:
    return [child.end(within) for child in children]


def ends_as_the_whole(folder: Path, name: str) -> bool:
    children = start_many(2, folder, TOGETHER, name=name)
    assert codes(children) == [0, 0], children[0].told
    assert leftovers(folder / name) == []
    return outcome(folder / name) == outcome(folder / "whole")


KILL = signalled(signal.SIGKILL)
PLACES: dict[str, Callable[[], None]] = {
    "reading": lambda: at_file("pairs.jsonl", KILL, count=1),
    "step": lambda: in_step(4, KILL),
    "tensors": lambda: at_file("step_4.unfinished/state/shard-00002-model-00001-of-00001.safetensors", KILL),
    "validation": lambda: in_row_of_validation(4, KILL),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("killed", [1, 0])
def test_one_is_killed(folder: Path, place: str, killed: int) -> None:
    name = f"killed {killed} {place}"
    started = time.monotonic()
    children = start_many(2, folder, TOGETHER, name=name, strikes=lambda rank: PLACES[place]() if rank == killed else None)
    found = codes(children)
    print(found, time.monotonic() - started, *[child.told for child in children])
    assert ends_as_the_whole(folder, name)


@pytest.mark.parametrize("place", ["reading", "step", "tensors"])
def test_one_stands_still(folder: Path, place: str) -> None:
    name = f"stopped {place}"
    stop = signalled(signal.SIGSTOP)
    places = {"reading": lambda: at_file("pairs.jsonl", stop), "step": lambda: in_step(4, stop), "tensors": lambda: at_file("-00001.safetensors", stop)}
    started = time.monotonic()
    children = start_many(
        2, folder, TOGETHER, "cluster.timeout_minutes=0.05", name=name, strikes=lambda rank: places[place]() if rank else None
    )
    found = children[0].end()
    took = time.monotonic() - started
    children[1].send(signal.SIGKILL)
    children[1].end()
    print(found, took, *[child.told for child in children])
    assert ends_as_the_whole(folder, name)


@pytest.mark.parametrize("kind", ["room", "access", "main room", "main metrics"])
def test_one_can_not_write(folder: Path, kind: str) -> None:
    name = f"unwritten {kind}"

    def strikes(rank: int) -> None:
        if kind == "room" and rank == 1:
            at_file(".step_4.unfinished/state/shard-00002-model-00001-of-00001.safetensors", without_room_for_files)
        if kind == "main room" and rank == 0:
            at_file(".step_4.unfinished/state", without_room_for_files)
        if kind == "main metrics" and rank == 0:
            in_step(4, without_room_for_files)
        if kind == "access" and rank == 1:
            without_privileges()
            at_file(".step_4.unfinished/state/shard-00002-model-00001-of-00001.safetensors", lambda: (folder / name / "checkpoints/.step_4.unfinished/state").chmod(0o500))

    started = time.monotonic()
    children = start_many(2, folder, TOGETHER, name=name, strikes=strikes)
    found = codes(children)
    print(found, time.monotonic() - started, *[child.told for child in children])
    print(whole_checkpoints(folder / name))
    assert ends_as_the_whole(folder, name)


@pytest.mark.parametrize("kind", ["pairs", "model", "no model", "no pairs", "broken pairs"])
def test_one_reads_others(folder: Path, kind: str, tmp_path: Path) -> None:
    place = filled(tmp_path)
    write_rows(place / "other.jsonl", ROWS[:-1])
    def strikes(rank: int) -> None:
        if rank == 0:
            return
        mine = place / "mine"
        os.chdir(mine)

    for rank, target in enumerate(["0", "1"]):
        (place / target).mkdir()
        shutil.copytree(place / "policy", place / target / "policy")
        shutil.copy(place / "pairs.jsonl", place / target)
    if kind == "pairs":
        write_rows(place / "1" / "pairs.jsonl", ROWS[:-1])
    if kind == "model":
        text = (place / "1/policy/config.json").read_text()
        (place / "1/policy/config.json").write_text(text.replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'))
    if kind == "no model":
        (place / "1/policy/model.safetensors").unlink()
    if kind == "no pairs":
        (place / "1/pairs.jsonl").unlink()
    if kind == "broken pairs":
        (place / "1/pairs.jsonl").write_text((place / "1/pairs.jsonl").read_text()[:-20])
    started = time.monotonic()
    children = start_many(2, Path("."), f"data.validation.data_path={place}/held_out.jsonl", name="run", strikes=lambda rank: os.chdir(place / str(rank)))
    found = codes(children)
    print(found, time.monotonic() - started, *[child.told for child in children])


def test_nan(folder: Path) -> None:
    children = start_many(2, folder, TOGETHER, "policy.optimizer.lr=1e38", "policy.max_grad_norm=0", "checkpointing.save_period=1", name="nan")
    found = codes(children)
    print(found, *[child.told for child in children])
    print(whole_checkpoints(folder / "nan"))
    children = start_many(2, folder, TOGETHER, "policy.optimizer.lr=1e-4", name="nan")
    found = codes(children)
    print(found, *[child.told for child in children])
