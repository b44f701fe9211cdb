"""Disks and modes of files that fail a run: it ends with what and where, and what it had saved is gone on with."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import (
    at_file,
    fill,
    in_step,
    mounted,
    remount_read_only,
    remount_writable,
    signalled,
    start,
    went_on,
    whole_checkpoints,
    without_privileges,
    without_room_for_files,
)
from tests.torture import outcome
from tests.training_runs import filled

pytestmark = [pytest.mark.slow, pytest.mark.forks]

GO_ON = "; when that is mended, the same command with --resume auto goes on from the last checkpoint"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs, a policy, and a run of five steps that nothing has struck; it saves after the second and the fourth."""
    folder = filled(tmp_path_factory.mktemp("faults"))
    went_on(1, folder, name="whole")
    return folder


@pytest.fixture
def disk(folder: Path) -> Iterator[Path]:
    with mounted(folder / "disk", "8m") as disk:
        yield disk


@pytest.fixture
def run(folder: Path) -> Iterator[Path]:
    """The folder of a run that starts without a word of one before."""
    yield folder / "run"
    shutil.rmtree(folder / "run")


PLACES = {  # what is touched when the disk gets full, what the error names, and the checkpoints that there are then
    "state": (".step_4.unfinished/state", "checkpoints/step_4", [2]),
    "policy": (".step_4.unfinished/policy", "checkpoints/step_4", [2]),
    "manifest": (".step_4.unfinished/manifest.json", "checkpoints/step_4", [2]),
    "best": (".step_4.unfinished", "checkpoints/best.json", [4, 2]),
    "first": (".step_2.unfinished/state", "checkpoints/step_2", []),
    "end": ("/.policy.unfinished", "policy", [4, 2]),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_full_disk(folder: Path, disk: Path, place: str) -> None:
    """The best is told last, when the folder of a checkpoint has got its name."""
    path, named, steps = PLACES[place]
    events = ["os.rename"] if place == "best" else ["open", "os.mkdir"]
    child = start(folder, name="disk/run", strikes=lambda rank: at_file(path, lambda: fill(disk), events=events))
    assert child.end() == 1, child.told
    assert child.last_line.startswith(f"dpo: error: {disk}/run/{named}: can't be written: No space left on device; ")
    assert "--resume auto goes on from the last" in child.last_line
    assert whole_checkpoints(disk / "run") == steps
    (disk / "filler").unlink()
    went_on(1, folder, name="disk/run")
    assert outcome(disk / "run") == outcome(folder / "whole")


def test_no_room_for_the_metrics(folder: Path, run: Path) -> None:
    child = start(folder, strikes=lambda rank: in_step(4, without_room_for_files))
    assert child.end() == 1, child.told
    assert child.last_line == f"dpo: error: {run}/metrics.jsonl: can't be written: File too large{GO_ON}"
    assert whole_checkpoints(run) == [2]
    went_on(1, folder)
    assert outcome(run) == outcome(folder / "whole")


@pytest.mark.parametrize(("step", "steps"), [(1, []), (3, [2])])
def test_a_disk_that_can_not_be_written_any_more(folder: Path, disk: Path, step: int, steps: list[int]) -> None:
    child = start(folder, name="disk/run", strikes=lambda rank: in_step(step, lambda: remount_read_only(disk)))
    assert child.end() == 1, child.told
    assert f"{disk}/run/metrics.jsonl: can't be written: Read-only file system{GO_ON}" in child.last_line
    again = start(folder, name="disk/run")
    assert again.end() == 1
    assert again.told == f"dpo: error: {disk}/run: can't be written: Read-only file system\n"
    assert whole_checkpoints(disk / "run") == steps
    remount_writable(disk)
    went_on(1, folder, name="disk/run")
    assert outcome(disk / "run") == outcome(folder / "whole")


@pytest.mark.parametrize(
    ("name", "named"),
    [(".", "result.json"), ("checkpoints", "checkpoints/step_4"), ("metrics.jsonl", "metrics.jsonl")],
    ids=["run", "checkpoints", "metrics"],
)
def test_what_may_not_be_written_any_more(folder: Path, run: Path, name: str, named: str) -> None:
    """A file in a folder that may not be written may be written; so that of the run's is met at the end alone."""

    def strikes(rank: int) -> None:
        without_privileges()
        in_step(4, lambda: (run / name).chmod(0o500))

    child = start(folder, strikes=strikes)
    assert child.end() == 1, child.told
    assert child.last_line.startswith(f"dpo: error: {run}/{named}: can't be written: Permission denied")
    again = start(folder, strikes=lambda rank: without_privileges())
    assert again.end() == 1
    assert again.last_line.startswith("dpo: error: ")
    assert again.last_line.endswith("Permission denied")
    (run / name).chmod(0o700)
    assert 2 in whole_checkpoints(run)
    went_on(1, folder)
    assert outcome(run) == outcome(folder / "whole")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("checkpoints", "dpo: error: the checkpoints to resume from can't be looked at: {run}/checkpoints: Permission"),
        ("checkpoints/step_3", "resume: passed over step_3: manifest.json can't be read: Permission denied"),
        ("checkpoints/step_3/state", "resume: passed over step_3: can't be read: {run}/checkpoints/step_3/state: Perm"),
        ("checkpoints/step_3/training_info.json", "resume: passed over step_3: "),
    ],
    ids=["all", "one", "state", "file"],
)
def test_a_checkpoint_that_may_not_be_read(folder: Path, run: Path, name: str, told: str) -> None:
    """It counts as one that is not whole, and is set aside, because it may be readable again one day."""
    assert start(folder, strikes=lambda rank: in_step(3, signalled(15))).end() == 75
    before = (run / "checkpoints/step_3/state").stat().st_ino
    (run / name).chmod(0)
    child = start(folder, strikes=lambda rank: without_privileges())
    assert child.end() == (3 if name == "checkpoints" else 0), child.told
    assert told.format(run=run) in child.told
    aside = run / "checkpoints/step_3.set_aside"
    if name == "checkpoints":
        (run / name).chmod(0o700)
        assert "resume: after step 3" in went_on(1, folder)
    else:
        (aside / Path(name).relative_to("checkpoints/step_3") if name != "checkpoints/step_3" else aside).chmod(0o700)
        assert (aside / "state").stat().st_ino == before
    assert outcome(run) == outcome(folder / "whole")
