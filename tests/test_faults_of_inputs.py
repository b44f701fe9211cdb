"""Inputs and folders that are damaged, changed, moved or used twice, before a run, in it, and before it goes on."""

import gzip
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from schemas.preference import write_rows
from tests.faults import at_file, in_step, leftovers, signalled, start, start_many, went_on, whole_checkpoints
from tests.tiny_models import save_tiny_policy
from tests.torture import outcome
from tests.training_runs import ROWS, filled

pytestmark = [pytest.mark.slow, pytest.mark.forks]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing has struck."""
    folder = filled(tmp_path_factory.mktemp("whole"))
    went_on(1, folder)
    return folder / "run"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return filled(tmp_path)


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = filled(tmp_path_factory.mktemp("stopped"))
    assert start(folder, strikes=stop).end() == 75
    return folder


@pytest.fixture
def stopped(stopped_once: Path, tmp_path: Path) -> Path:
    """A run that was stopped behind its third step of five; where it lies does not matter to it."""
    return shutil.copytree(stopped_once, tmp_path / "stopped")


def stop(rank: int) -> None:
    in_step(3, signalled(signal.SIGTERM))


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["key", "bytes", "compressed"])
def test_pairs_that_are_damaged_in_the_middle(folder: Path, kind: str) -> None:
    """The eighth row lacks bytes, or has others; a compressed file ends early."""
    text, name = (folder / "pairs.jsonl").read_bytes(), "pairs.jsonl"
    if kind == "key":
        text = text[:500] + text[520:]
    elif kind == "bytes":
        text = text[:500] + b"\xff\0\xfe" + text[500:]
    else:
        text, name = gzip.compress(text)[:-40], "pairs.jsonl.gz"
    (folder / name).write_bytes(text)
    child = start(folder, pairs=name)
    assert child.end() == 3, child.told
    assert child.last_line.startswith(f"dpo: error: {folder / name}:" + ("" if kind == "compressed" else "8: "))
    assert len(child.told.splitlines()) == 1
    assert not (folder / "run").exists()


def test_inputs_that_change_while_it_runs_are_read_already(whole: Path, folder: Path) -> None:
    def change() -> None:
        (folder / "pairs.jsonl").write_text("nonsense")
        (folder / "held_out.jsonl").unlink()
        shutil.rmtree(folder / "policy")

    child = start(folder, strikes=lambda rank: in_step(2, change))
    assert child.end() == 0, child.told
    assert outcome(folder / "run") == outcome(whole)


def change(folder: Path, kind: str) -> None:
    pairs, template = folder / "pairs.jsonl", folder / "policy" / "chat_template.jinja"
    if kind == "less pairs":
        write_rows(pairs, ROWS[:-1])
    elif kind == "a response":
        write_rows(pairs, [*ROWS[:-1], {**ROWS[-1], "chosen": "yes 2"}])
    elif kind == "template":
        template.write_text("Mind: " + template.read_text())
    elif kind == "weights":
        save_tiny_policy(folder / "policy", seed=3)
    elif kind == "no pairs":
        pairs.unlink()
    elif kind == "no model":
        shutil.rmtree(folder / "policy")


PAIRS = "  the pairs are not those of the checkpoint; name the files that it was trained on"


@pytest.mark.parametrize(
    ("kind", "code", "told"),
    [
        ("less pairs", 2, PAIRS),
        ("a response", 2, PAIRS),
        ("template", 2, PAIRS),
        ("weights", 2, "  the start policy is not that of the checkpoint"),
        ("no pairs", 3, "dpo: error: {folder}/pairs.jsonl: no such file"),
        ("no model", 3, "dpo: error: model {folder}/policy: no such folder"),
    ],
)
def test_inputs_that_change_before_it_goes_on(whole: Path, stopped: Path, kind: str, code: int, told: str) -> None:
    inputs, before = content(stopped / "policy") | content(stopped), content(stopped / "run")
    change(stopped, kind)
    child = start(stopped)
    assert child.end() == code, child.told
    assert "\n" + told.format(folder=stopped) in "\n" + child.told
    assert content(stopped / "run") == before
    if kind == "less pairs":
        for path, text in inputs.items():
            path.write_bytes(text)
        went_on(1, stopped)
        assert outcome(stopped / "run") == outcome(whole)


@pytest.mark.parametrize("num_processes", [1, 2])
def test_a_reference_that_is_no_longer_kept_is_computed_again(folder: Path, num_processes: int) -> None:
    cache = f"reference.cache_dir={folder / 'cache'}"
    went_on(num_processes, folder, cache, name="whole")
    shutil.rmtree(folder / "cache")
    children = start_many(num_processes, folder, cache, strikes=stop)
    assert {child.end() for child in children} == {75}
    shutil.rmtree(folder / "cache")
    went_on(num_processes, folder, cache)
    assert outcome(folder / "run") == outcome(folder / "whole")


@pytest.mark.parametrize("is_first", [True, False])
def test_of_two_starts_at_once_one_runs(whole: Path, folder: Path, is_first: bool) -> None:
    """The other is told so before it has read a model for long, and changes nothing."""
    if not is_first:
        assert start(folder, strikes=stop).end() == 75
    children = [start(folder, strikes=lambda rank: in_step(1, lambda: time.sleep(1))) for _ in range(2)]
    last_lines = {child.end(): child.last_line for child in children}
    assert last_lines[2] == (
        f"dpo: error: {folder}/run: another run is writing there; wait for its end, or name a new folder with -o"
    )
    assert last_lines[0] == f"{folder}/run/policy"
    assert outcome(folder / "run") == outcome(whole)


def test_a_start_right_behind_a_kill(whole: Path, folder: Path) -> None:
    killed = start(folder, strikes=lambda rank: in_step(3, signalled(signal.SIGKILL)))
    os.waitid(os.P_PID, killed.number, os.WEXITED | os.WNOWAIT)
    assert "resume: after step 2" in went_on(1, folder)
    assert killed.end() == -signal.SIGKILL
    assert outcome(folder / "run") == outcome(whole)


def test_a_kill_in_the_first_checkpoint_leaves_nothing(folder: Path) -> None:
    """Others are saved next time, so that it isn't written again."""
    killed = start(folder, strikes=lambda rank: at_file("step_2.unfinished/manifest.json", signalled(signal.SIGKILL)))
    assert killed.end() == -signal.SIGKILL
    assert leftovers(folder / "run")
    went_on(1, folder, "checkpointing.save_period=3")


def test_a_folder_that_was_moved(whole: Path, stopped: Path) -> None:
    (stopped / "run").rename(stopped / "moved")
    assert f"resume: after step 3, from {stopped}/moved/checkpoints/step_3" in went_on(1, stopped, name="moved")
    assert outcome(stopped / "moved") == outcome(whole)


def test_paths_from_another_working_directory(whole: Path, stopped: Path) -> None:
    (stopped / "deep").mkdir()
    child = start(Path(".."), strikes=lambda rank: os.chdir(stopped / "deep"))
    assert child.end() == 0, child.told
    assert "resume: after step 3, from ../run/checkpoints/step_3" in child.told
    assert outcome(stopped / "run") == outcome(whole)


def test_a_folder_of_checkpoints_that_was_moved_and_linked(whole: Path, stopped: Path) -> None:
    (stopped / "run" / "checkpoints").rename(stopped / "elsewhere")
    (stopped / "run" / "checkpoints").symlink_to(stopped / "elsewhere")
    assert "resume: after step 3" in went_on(1, stopped)
    assert (stopped / "run" / "checkpoints").is_symlink()
    assert outcome(stopped / "run") == outcome(whole)


def test_checkpoints_that_lie_elsewhere_behind_a_link(whole: Path, folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    (folder / "link").symlink_to(folder / "elsewhere")
    option = f"checkpointing.checkpoint_dir={folder / 'link'}"
    assert start(folder, option, strikes=stop).end() == 75
    assert f"resume: after step 3, from {folder}/link/step_3" in went_on(1, folder, option)
    assert not (folder / "run" / "checkpoints").exists()
    assert outcome(folder / "run") == outcome(whole)


def test_a_run_that_branches_off_has_a_checkpoint_from_its_start(whole: Path, stopped: Path) -> None:
    """Else, killed in its first step, it would begin anew where --resume auto looks for what it has."""
    branch = f"checkpointing.resume={stopped}/run/checkpoints/step_3"
    child = start(stopped, branch, name="branch", strikes=lambda rank: in_step(1, signalled(signal.SIGKILL)))
    assert child.end() == -signal.SIGKILL
    assert whole_checkpoints(stopped / "branch") == [3]
    assert f"resume: after step 3, from {stopped}/branch/checkpoints/step_3" in went_on(1, stopped, name="branch")
    assert outcome(stopped / "branch") == outcome(whole)
