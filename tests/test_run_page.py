"""What a run tells of itself, and the page that it has made while it trains: a guest, never a burden."""

import fcntl
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
from accelerate.state import AcceleratorState

import trainer.run.loop as loop
from schemas.errors import DpoError
from tests.training_runs import filled, held_out, run
from trainer.checkpoint.places import checkpoints_of
from trainer.config.settings import resolve
from trainer.save.run_folder import RunFolder
from trainer.watch import run_page
from trainer.watch.health import Health, Kind, start_health
from trainer.watch.run_page import SWITCH, RunPage, child_environment, start_page

SLEEPER = "import time; time.sleep(60)"
TELLER = """
import json, os, sys
from pathlib import Path
folder = Path(sys.argv[3])
with (folder / "told.jsonl").open("a") as stream:
    print(json.dumps({"arguments": sys.argv[2:], "environment": dict(os.environ), "nice": os.nice(0),
                      "files": [os.readlink(f"/proc/self/fd/{name}") for name in ("0", "1", "2")]}), file=stream)
"""
"""Stands in the place of `dpo report`, and writes down how it was started."""


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs make pages, which the other tests don't."""
    monkeypatch.setenv(SWITCH, "1")


def health() -> Health:
    config = resolve([], train_data_path=Path("pairs.jsonl"), model_name="x/y", output_dir=Path("run"))
    return start_health(config, num_steps=100, steps_in_epoch=100)


def page_in(folder: Path, said: list[str]) -> RunPage:
    (folder / "train_config.json").write_text("{}")
    return start_page(folder, health(), is_enabled=True, is_main=True, say=said.append)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_a_run_leaves_its_report(tmp_path: Path, drawing: None, capsys: pytest.CaptureFixture[str]) -> None:
    run(filled(tmp_path), "run", held_out(tmp_path), "dpo.val_period=3", "logger.num_val_samples_to_print=1")
    folder = tmp_path / "run"
    assert f"\nreport: {folder / 'report.html'}\n" in capsys.readouterr().err
    page = (folder / "report.html").read_text()
    assert "Finished: 7 steps, 3 epochs, in" in page
    assert "Answers before and after" in page
    assert {"loss.png", "loss.svg", "validation_loss.svg"} <= {path.name for path in (folder / "plots").iterdir()}
    told = read(folder / "run.json")
    assert (told["planned_steps"], told["num_processes"], told["ended"]["how"]) == (7, 1, "finished")
    training, validation = told["data"]
    assert (training["pairs"], training["prompts"], training["responses"]) == (24, 4, 20)
    assert (validation["name"], validation["pairs"]) == ("default", 9)
    assert training["sources"][0]["name"] == "pairs.jsonl"
    assert len(training["sources"][0]["sha256"]) == 64
    assert read(folder / "health.json") == {"step": 7, "verdicts": []}


def test_without_the_page_a_run_still_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(filled(tmp_path), "run", num_steps=1)
    assert "report" not in capsys.readouterr().err
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"train_config.json", "metrics.jsonl", "result.json", "run.json", "health.json", "policy"}


def test_a_run_that_goes_on_and_one_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path)
    usual = ("checkpointing.save_period=2", "checkpointing.resume=auto")
    steps = iter(range(3))

    def fails_in_the_fourth(*args: Any) -> Any:
        if next(steps, None) is None:
            raise DpoError("the fourth step fails")
        return train_step(*args)

    train_step = loop.train_step
    monkeypatch.setattr(loop, "train_step", fails_in_the_fourth)
    with pytest.raises(DpoError, match="the fourth"):
        run(tmp_path, "run", *usual)
    told = read(tmp_path / "run" / "run.json")
    assert (told["ended"]["how"], told["ended"]["why"], told["resumed"]) == ("failed", "the fourth step fails", [])
    monkeypatch.setattr(loop, "train_step", train_step)
    run(tmp_path, "run", *usual)
    again = read(tmp_path / "run" / "run.json")
    assert (again["begun"], again["ended"]["how"]) == (told["begun"], "finished")
    assert [each["step"] for each in again["resumed"]] == [2]


def test_a_run_that_is_asked_to_stop(tmp_path: Path) -> None:
    result = run(filled(tmp_path), "run", "checkpointing.checkpoint_must_save_by=0:00:00:00")
    assert (result.steps, result.finished) == (1, False)
    ended = read(tmp_path / "run" / "run.json")["ended"]
    assert (ended["how"], ended["why"]) == ("stopped", "by checkpointing.checkpoint_must_save_by")


def test_the_child_is_no_part_of_the_run(tmp_path: Path, drawing: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_page, "CHILD", TELLER)
    for name in (
        "RANK",
        "LOCAL_RANK",
        "WORLD_SIZE",
        "MASTER_PORT",
        "ACCELERATE_MIXED_PRECISION",
        "TORCHELASTIC_RUN_ID",
    ):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    said: list[str] = []
    page = page_in(tmp_path, said)
    page.end("finished")
    assert said == [f"report: {tmp_path / 'report.html'}"]
    told = read(tmp_path / "told.jsonl")
    assert told["arguments"] == ["report", str(tmp_path)]
    assert told["files"] == [os.devnull] * 3
    assert told["nice"] >= run_page.NICENESS
    assert told["environment"]["CUDA_VISIBLE_DEVICES"] == ""
    assert not {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT"} & {*told["environment"]}
    assert told["environment"]["PATH"] == os.environ["PATH"]
    kept = child_environment({"HOME": "/h", "ACCELERATE_USE_FSDP": "1", "TORCHELASTIC_RUN_ID": "1", "RANK": "0"})
    assert {*kept} == {"HOME", "CUDA_VISIBLE_DEVICES", "PYTHONSAFEPATH", "MPLBACKEND", "OMP_NUM_THREADS"}


def test_the_child_does_not_hold_the_run_folder(tmp_path: Path, drawing: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_page, "CHILD", SLEEPER)
    folder = RunFolder(tmp_path, writes=True)
    folder.take()
    page = page_in(tmp_path, [])
    page.update()
    folder.close()
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where someone holds it
    os.close(descriptor)
    assert page.child is not None
    assert page.child.poll() is None
    page.child.kill()
    page.child.wait()


def test_one_page_at_a_time_and_the_last_one_always(
    tmp_path: Path, drawing: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_page, "CHILD", TELLER)
    page = page_in(tmp_path, [])
    page.update()
    first = page.child
    page.update()  # too soon
    assert page.child is first
    assert first is not None
    first.wait()
    page.update()  # likewise
    assert page.child is first
    monkeypatch.setattr(run_page, "PAUSE_SECONDS", 0.0)
    page.update()
    assert page.child is not first
    assert page.child is not None
    page.child.wait()
    page.end("finished")
    page.end("failed")  # it has ended
    assert len((tmp_path / "told.jsonl").read_text().splitlines()) == 3
    assert read(tmp_path / "run.json")["ended"]["how"] == "finished"


def test_an_old_page_is_not_waited_for(tmp_path: Path, drawing: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_page, "CHILD", SLEEPER)
    page = page_in(tmp_path, [])
    page.update()
    first = page.child
    monkeypatch.setattr(run_page, "CHILD", TELLER)
    page.end("finished")
    assert first is not None
    assert first.returncode == -signal.SIGTERM
    assert len((tmp_path / "told.jsonl").read_text().splitlines()) == 1


def test_a_page_that_takes_too_long_is_given_up(tmp_path: Path, drawing: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_page, "CHILD", SLEEPER)
    monkeypatch.setitem(run_page.LAST_SECONDS, "finished", 0.2)
    said: list[str] = []
    page = page_in(tmp_path, said)
    started = time.monotonic()
    page.end("finished")
    assert time.monotonic() - started < 10
    assert said == [
        f"no report was made in time; dpo report {tmp_path} makes {tmp_path / 'report.html'}",
    ]
    assert page.child is not None
    assert page.child.returncode is not None  # nothing is left of it


def test_nothing_of_it_ends_a_run(tmp_path: Path, drawing: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_page, "CHILD", "raise SystemExit(3)")
    said: list[str] = []
    page = page_in(tmp_path, said)
    page.end("stopped", "by SIGTERM")
    assert said == [f"the report could not be made, or not whole; dpo report {tmp_path} says why"]
    said.clear()
    (tmp_path / "health.json").unlink()
    (tmp_path / "health.json").mkdir()
    page = page_in(tmp_path, said)
    page.update()
    assert page.child is not None
    page.child.wait()
    assert said == [f"warning: report: {tmp_path / 'health.json'}: is a directory; name the file to write"]
    monkeypatch.setattr(run_page.sys, "executable", "/nowhere/python")
    said.clear()
    (tmp_path / "health.json").rmdir()
    page_in(tmp_path, said).end("finished")
    assert said[0].startswith("warning: report: [Errno 2] No such file or directory")


def test_missing_packages_are_told_once(tmp_path: Path, drawing: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_page, "PACKAGES", ("json", "no_such_package"))
    said: list[str] = []
    page = page_in(tmp_path, said)
    page.end("finished")
    assert len(said) == 1
    assert said[0].startswith("no report is made, for no_such_package is not installed; it comes with the extra report")


@pytest.mark.parametrize(
    ("value", "is_enabled", "is_main"), [("0", True, True), ("1", False, True), ("1", True, False)]
)
def test_where_no_page_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, is_enabled: bool, is_main: bool
) -> None:
    monkeypatch.setenv(SWITCH, value)
    page = start_page(tmp_path, health(), is_enabled=is_enabled, is_main=is_main, say=lambda text: None)
    page.update()
    page.end("finished")
    assert page.child is None
    assert (tmp_path / "run.json").exists() == is_main


def test_a_folder_that_was_given_back_stays_away(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    page = start_page(folder, health(), is_enabled=True, is_main=True, say=lambda text: None)
    with pytest.raises(DpoError), page:
        raise DpoError("before the first step")
    assert not folder.exists()


def test_who_interrupts_a_run_does_not_wait(tmp_path: Path, drawing: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_page, "CHILD", SLEEPER)
    said: list[str] = []
    page = page_in(tmp_path, said)
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), page:
        raise KeyboardInterrupt
    assert time.monotonic() - started < 10
    assert (read(tmp_path / "run.json")["ended"]["how"], said) == ("stopped", [])
    assert page.child is not None
    assert page.child.poll() is None  # what it makes tells how the run stands
    page.child.kill()
    page.child.wait()


def test_what_was_seen_is_written_down() -> None:
    found = health()
    for step in range(1, 13):
        found.observe(step, {"accuracy": 1.0, "grad_norm": 1.0, "loss": 0.5})
    told = found.as_dict()
    assert told["step"] == 12
    (verdict,) = told["verdicts"]  # type: ignore[misc, has-type]
    assert (verdict["kind"], verdict["first"], verdict["last"], verdict["count"]) == (Kind.EASY_PAIRS, 11, 11, 1)
    assert verdict["meaning"].startswith("something simple gives the answer away")
    assert json.loads(json.dumps(told)) == told


def test_what_a_run_left_is_removed_where_it_begins_again(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "plots").mkdir(parents=True)
    for name in ("train_config.json", "run.json", "health.json", "report.html", "plots/loss.svg", "plots/loss.png"):
        (folder / name).write_text("{}")
    config = resolve([], train_data_path=Path("pairs.jsonl"), model_name="x/y", output_dir=folder)
    RunFolder(folder, writes=True).start_over(checkpoints_of(config))
    assert list(folder.iterdir()) == []
    (folder / "plots").mkdir()
    (folder / "plots" / "mine.txt").write_text("of the user")
    RunFolder(folder, writes=True).start_over(checkpoints_of(config))
    assert [path.name for path in (folder / "plots").iterdir()] == ["mine.txt"]


def test_a_run_can_take_a_folder_that_is_being_looked_at(tmp_path: Path) -> None:
    looker = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(looker, fcntl.LOCK_SH)
    folder = RunFolder(tmp_path, writes=True)
    Timer(0.05, os.close, [looker]).start()
    folder.take()  # refused at first
    folder.close()
