"""Signals at a run: whatever it does, it ends soon, with a documented code, and is gone on with to the last bit."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from schemas.preference import write_rows
from tests.faults import (
    Act,
    at_file,
    in_row_of_validation,
    in_step,
    leftovers,
    signalled,
    start,
    start_many,
    went_on,
    whole_checkpoints,
)
from tests.torture import outcome
from tests.training_runs import filled, lines_of
from trainer.run.signals import BEGINS_AGAIN

pytestmark = [pytest.mark.slow, pytest.mark.forks]

ROWS = [{"prompt": f"Another {n}?", "chosen": f"yes {n}", "rejected": "no" * (n % 5 + 1)} for n in range(80)]
LONG = ("dpo.val_micro_batch_size=1", "policy.max_total_sequence_length=48")
"""A validation has forty rows; there is one before the first step and behind the second, fourth, and last."""

SECONDS = 2.0
"""Within which a process has ended that is to end at once."""

Place = Callable[[Act], None]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs, a policy, and runs on one process and on two that nothing has struck."""
    folder = filled(tmp_path_factory.mktemp("signals"))
    write_rows(folder / "held_out.jsonl", ROWS)
    for num_processes in (1, 2):
        went_on(num_processes, folder, *LONG, name=f"whole {num_processes}")
    return folder


def ends_as_the_whole(folder: Path, name: str, num_processes: int = 1) -> bool:
    went_on(num_processes, folder, *LONG, name=name)
    return outcome(folder / name) == outcome(folder / f"whole {num_processes}")


def reading(act: Act) -> None:
    at_file("/pairs.jsonl", act, count=2)


def making_the_folder(act: Act) -> None:
    at_file("/train_config.json", act)


def first_validation(act: Act) -> None:
    in_row_of_validation(3, act)


@pytest.mark.parametrize(
    ("place", "number", "code"),
    [
        (reading, signal.SIGTERM, 75),
        (reading, signal.SIGINT, 130),
        (making_the_folder, signal.SIGUSR1, 75),
        (first_validation, signal.SIGHUP, 75),
        (first_validation, signal.SIGINT, 130),
    ],
)
def test_before_the_first_step(folder: Path, place: Place, number: signal.Signals, code: int) -> None:
    """Nothing is left of such a run; who has asked for --resume auto is told that it may be started again."""
    child = start(folder, *LONG, name="early", strikes=lambda rank: place(signalled(number)))
    assert child.end() == code, child.told
    told = f"stopped: before the first step, by {number.name}; {BEGINS_AGAIN}"
    assert child.last_line == f"dpo: {'error: interrupted' if number == signal.SIGINT else told}"
    assert not (folder / "early").exists()


def test_before_the_first_step_of_a_run_that_does_not_begin_again(folder: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGUSR1):
        never = "checkpointing.resume=never"
        child = start(folder, *LONG, never, name="early", strikes=lambda rank, n=number: reading(signalled(n)))  # type: ignore[misc]
        assert child.end() == 128 + number, child.told
        assert child.last_line == f"dpo: error: ended by {number.name} before the first step; nothing was saved"
        assert not (folder / "early").exists()


PLACES: dict[str, tuple[Place, int]] = {  # and the step behind which the run ends
    "step": (lambda act: in_step(3, act), 3),
    "last step": (lambda act: in_step(5, act), 5),
    "validation": (lambda act: in_row_of_validation(45, act), 2),
    "last validation": (lambda act: in_row_of_validation(125, act), 5),
    "state": (lambda act: at_file(".step_2.unfinished/state", act), 3),
    "manifest": (lambda act: at_file(".step_2.unfinished/manifest.json", act), 3),
}


@pytest.mark.parametrize(
    ("place", "number"), [*zip(PLACES, [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1] * 2, strict=True)]
)
def test_behind_the_step(folder: Path, place: str, number: signal.Signals) -> None:
    """A validation is broken off within sixteen rows, and made up for when the run is gone on with."""
    strike, step = PLACES[place]
    name = f"{place} {number.name}"
    child = start(folder, *LONG, name=name, strikes=lambda rank: strike(signalled(number)))
    assert child.end() == 75, child.told
    assert child.last_line == (
        f"dpo: stopped: after step {step} of 5, by {number.name}; the policy so far is in {folder / name}/checkpoints/"
        f"step_{step}/policy; the same command with --resume auto goes on"
    )
    assert whole_checkpoints(folder / name)[0] == step
    assert "validation-default/loss" not in lines_of(folder / name)[-1]
    assert ends_as_the_whole(folder, name)


def test_while_the_last_policy_is_saved(folder: Path) -> None:
    child = start(folder, *LONG, name="end", strikes=lambda rank: at_file("/.policy.unfinished", signalled(15)))
    assert child.end() == 0, child.told
    assert leftovers(folder / "end") == []
    assert outcome(folder / "end") == outcome(folder / "whole 1")


@pytest.mark.parametrize("place", [reading, PLACES["state"][0]], ids=["reading", "state"])
def test_a_second_signal_ends_it_at_once(folder: Path, place: Place) -> None:
    """The first one comes where the main thread is in a library that doesn't come back."""

    def hangs() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR1])  # of this thread alone
        os.write(2, b"hangs\n")
        time.sleep(60)

    child = start(folder, *LONG, name="twice", strikes=lambda rank: place(hangs))
    child.until("hangs")
    time.sleep(0.2)  # else the signal comes before it sleeps
    child.send(signal.SIGTERM)
    time.sleep(1.1)
    child.send(signal.SIGUSR1)
    assert child.end(SECONDS) == 128 + signal.SIGUSR1
    assert child.last_line == "dpo: error: SIGUSR1 again: ended at once"
    assert ends_as_the_whole(folder, "twice")
    (folder / "twice").rename(folder / f"twice {time.monotonic_ns()}")


@pytest.mark.parametrize(
    "place", [lambda act: at_file("policy/config.json", act, count=2), PLACES["step"][0]], ids=["reading", "step"]
)
def test_a_second_signal_ends_what_waits_for_another_process(folder: Path, place: Place) -> None:
    strikes = lambda rank: place(signalled(signal.SIGSTOP)) if rank == 1 else None  # noqa: E731
    first, second = start_many(2, folder, *LONG, name="waits", strikes=strikes)
    os.waitid(os.P_PID, second.number, os.WSTOPPED)
    first.until_it_waits()  # in a collective
    first.send(signal.SIGUSR1)
    time.sleep(1.1)
    first.send(signal.SIGTERM)
    assert first.end(SECONDS) == 128 + signal.SIGTERM
    assert first.last_line == "dpo: error: SIGTERM again: ended at once"
    second.send(signal.SIGKILL)
    second.end()


@pytest.mark.parametrize("place", ["validation", "manifest"])
def test_a_signal_to_one_process_ends_all(folder: Path, place: str) -> None:
    """The second process writes no manifest; it is struck while it writes its tensors."""
    strike, step = PLACES[place]
    shard = "shard-00002-model-00001-of-00001.safetensors"
    strike = (lambda act: at_file(shard, act)) if place == "manifest" else strike
    # each process has half of the rows of a validation
    strike = (lambda act: in_row_of_validation(25, act)) if place == "validation" else strike
    name = f"one {place}"
    strikes = lambda rank: strike(signalled(signal.SIGTERM)) if rank == 1 else None  # noqa: E731
    children = start_many(2, folder, *LONG, name=name, strikes=strikes)
    assert [child.end() for child in children] == [75, 75], [child.told for child in children]
    assert f"stopped: after step {step} of 5, by SIGTERM" in children[0].last_line
    assert "stopped" not in children[1].told  # told once
    assert whole_checkpoints(folder / name)[0] == step
    assert ends_as_the_whole(folder, name, 2)


def test_nobody_reads_what_it_says(folder: Path) -> None:
    """Ctrl-C ends `dpo train 2>&1 | tee log` and what it writes to; a closed terminal is the same to it."""
    child = start(folder, *LONG, name="unread", strikes=lambda rank: in_step(3, lambda: time.sleep(1)))
    child.until("validation default: loss 0.5")  # behind the second step
    child.hang_up()
    child.send(signal.SIGINT)
    assert child.end() == 75
    assert whole_checkpoints(folder / "unread") == [3, 2]
    assert ends_as_the_whole(folder, "unread")


@pytest.mark.parametrize(("step", "steps"), [(3, [3, 2]), (5, [5, 4, 2])])
def test_the_file_stop(folder: Path, step: int, steps: list[int]) -> None:
    stop = folder / f"stop {step}" / "STOP"
    child = start(folder, *LONG, name=f"stop {step}", strikes=lambda rank: in_step(step, stop.touch))
    assert child.end() == 75, child.told
    assert f"dpo: stopped: after step {step} of 5, by the file STOP; the policy so far is in" in child.last_line
    assert whole_checkpoints(stop.parent) == steps
    assert not stop.exists()
    stop.touch()  # while it doesn't run
    child = start(folder, *LONG, name=f"stop {step}")
    assert child.end() == (75 if step == 3 else 0), child.told
    assert not stop.exists()
    assert ends_as_the_whole(folder, f"stop {step}")


def test_the_file_save(folder: Path) -> None:
    """A checkpoint is validated, so that it can be compared: in its step there is a line more."""
    save = folder / "save" / "SAVE"
    child = start(folder, *LONG, name="save", strikes=lambda rank: in_step(3, save.touch))
    assert child.end() == 0, child.told
    assert whole_checkpoints(save.parent) == [4, 3, 2]
    assert not save.exists()
    weights, lines = outcome(save.parent)
    expected_weights, expected = outcome(folder / "whole 1")
    assert weights == expected_weights
    assert [line["step"] for line in lines] == [0, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert lines[:5] + lines[6:] == expected


def test_without_checkpoints_there_is_one_to_go_on_from(folder: Path) -> None:
    none = "checkpointing.enabled=false"
    child = start(folder, *LONG, none, name="none", strikes=lambda rank: in_step(3, signalled(signal.SIGTERM)))
    assert child.end() == 75, child.told
    assert whole_checkpoints(folder / "none") == [3]
    assert "resume: after step 3" in went_on(1, folder, *LONG, none, name="none")
    assert outcome(folder / "none")[0] == outcome(folder / "whole 1")[0]
