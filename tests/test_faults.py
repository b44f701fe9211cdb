"""Disks and files that fail a run: it ends soon, says what and where, and what it had saved is gone on with."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import (
    at_file,
    fill,
    in_step,
    leftovers,
    mounted,
    remount_read_only,
    remount_writable,
    start,
    whole_checkpoints,
    without_privileges,
    without_room_for_files,
)
from tests.torture import outcome
from tests.training_runs import filled

FULL = "No space left on device"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs, a policy, and a run that nothing has struck."""
    folder = filled(tmp_path_factory.mktemp("faults"))
    child = start(folder, name="whole")
    assert child.end() == 0, child.told
    return folder


@pytest.fixture
def disk(folder: Path) -> Iterator[Path]:
    with mounted(folder / "disk", "8m") as disk:
        yield disk
    (folder / "disk").rmdir()


def ends_as_the_whole(folder: Path, name: str = "run", *told: str) -> bool:
    """Go on with a run, and say whether nothing tells it from the one that was not struck."""
    child = start(folder, *told, name=name)
    assert child.end() == 0, child.told
    assert leftovers(folder / name) == []
    return outcome(folder / name) == outcome(folder / "whole")


STRUCK = {
    "state": ".step_4.unfinished/state",
    "policy": ".step_4.unfinished/policy",
    "manifest": ".step_4.unfinished/manifest.json",
    "final policy": "/.policy.unfinished",
    "first state": ".step_2.unfinished/state",
}


@pytest.mark.slow
@pytest.mark.parametrize("place", STRUCK)
def test_a_full_disk(folder: Path, disk: Path, place: str) -> None:
    child = start(folder, name="disk/run", strikes=lambda rank: at_file(STRUCK[place], lambda: fill(disk)))
    assert child.end() == 1, child.told
    print(child.told)
    where = disk / "run" / ("policy" if place == "final policy" else f"checkpoints/{STRUCK[place][1:7]}")
    assert child.last_line.startswith(f"dpo: error: {where}: can't be written: "), child.told
    assert FULL in child.last_line
    assert whole_checkpoints(disk / "run") == {"final policy": [4, 2], "first state": []}.get(place, [2])
    (disk / "filler").unlink()
    assert ends_as_the_whole(folder, "disk/run")


@pytest.mark.slow
def test_a_full_disk_best(folder: Path, disk: Path) -> None:
    child = start(
        folder,
        name="disk/run",
        strikes=lambda rank: at_file(".step_4.unfinished", lambda: fill(disk), events=["os.rename"]),
    )
    code = child.end()
    print(code, child.told)
    (disk / "filler").unlink()
    assert ends_as_the_whole(folder, "disk/run")
    assert code == 1


@pytest.mark.slow
def test_metrics_full(folder: Path) -> None:
    child = start(folder, strikes=lambda rank: in_step(4, without_room_for_files))
    code = child.end()
    print(code, child.told)
    assert ends_as_the_whole(folder)
    assert code == 1


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 2, 4])
def test_read_only(folder: Path, disk: Path, step: int) -> None:
    child = start(folder, name="disk/run", strikes=lambda rank: in_step(step, lambda: remount_read_only(disk)))
    code = child.end()
    print(code, child.told)
    again = start(folder, name="disk/run")
    print(again.end(), again.told)
    remount_writable(disk)
    assert ends_as_the_whole(folder, "disk/run")
    assert code == 1


@pytest.mark.slow
@pytest.mark.parametrize("where", ["", "checkpoints", "checkpoints/step_2", "checkpoints/step_2/state", "checkpoints/step_2/manifest.json", "metrics.jsonl", "train_config.json"])
@pytest.mark.parametrize("mode", [0o500, 0])
def test_no_access(folder: Path, where: str, mode: int) -> None:
    shutil.rmtree(folder / "run", ignore_errors=True)

    def strikes(rank: int) -> None:
        without_privileges()
        in_step(4, lambda: (folder / "run" / where).chmod(mode))

    child = start(folder, strikes=strikes)
    code = child.end()
    print(code, child.told)
    again = start(folder, strikes=lambda rank: without_privileges())
    print(again.end(), again.told)
    if (folder / "run" / where).exists():
        (folder / "run" / where).chmod(0o700)
    assert ends_as_the_whole(folder)
