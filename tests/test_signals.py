"""Signals at a run: whatever it does, it ends soon, with a documented code, and is gone on with to the last bit."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults import (
    Child,
    at_file,
    in_row_of_validation,
    in_step,
    leftovers,
    signalled,
    start,
    start_many,
    whole_checkpoints,
)
from tests.torture import outcome
from tests.training_runs import HELD_OUT, filled
from schemas.preference import write_rows

pytestmark = pytest.mark.slow
LONG = ("dpo.val_micro_batch_size=1","policy.max_total_sequence_length=48", "policy.tokens_per_microbatch=400")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = filled(tmp_path_factory.mktemp("signals"))
    write_rows(folder / "held_out.jsonl", [{"prompt": f"Another {n}?", "chosen": f"yes {n}", "rejected": "no" * (n % 5 + 1)} for n in range(40)])
    child = start(folder, *LONG, name="whole", strikes=lambda rank: in_row_of_validation(40, lambda:os.write(2,b"ROW40")))
    assert child.end() == 0, child.told
    print(child.told)
    return folder


def ends_as_the_whole(folder: Path, name: str, num_processes=1) -> bool:
    for child in start_many(num_processes, folder, *LONG, name=name):
        assert child.end() == 0, child.told
    assert leftovers(folder / name) == []
    return outcome(folder / name) == outcome(folder / "whole")


PLACES = {
    "pairs": lambda act: at_file("/pairs.jsonl", act, count=2),
    "config": lambda act: at_file("/train_config.json", act),
    "val0": lambda act: in_row_of_validation(3, act),
    "val2": lambda act: in_row_of_validation(45, act),
    "final val": lambda act: in_row_of_validation(130, act),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_signal(folder: Path, place: str, number: signal.Signals) -> None:
    name = f"{place} {number.name}"
    child = start(folder, *LONG, name=name, strikes=lambda rank: PLACES[place](signalled(number)))
    code = child.end()
    print("RESULT", place, number.name, code, (folder / name).exists() and [p.name for p in (folder / name).iterdir()], child.last_line if "error" in child.last_line or "stopped" in child.last_line else "-")
    print(child.told)
    assert ends_as_the_whole(folder, name)

def twice(first: signal.Signals, second: signal.Signals) -> None:
    def act():
        os.kill(os.getpid(), first)
        time.sleep(1.3)
        os.kill(os.getpid(), second)
        time.sleep(20)
    return act

@pytest.mark.parametrize("place", ["pairs", "step", "val", "save"])
def test_twice(folder: Path, place: str) -> None:
    name = f"twice {place}"
    act = twice(signal.SIGTERM, signal.SIGINT)
    if place == "pairs":
        def act():
            os.kill(os.getpid(), signal.SIGTERM)
    child = start(folder, *LONG, name=name, strikes=lambda rank: {"pairs": lambda: at_file("/pairs.jsonl", act, count=2), "step": lambda: in_step(3, act), "val": lambda: in_row_of_validation(60, act), "save": lambda: at_file(".step_2.unfinished/manifest.json", act)}[place]())
    started = time.monotonic()
    code = child.end()
    print("RESULT", place, code, time.monotonic() - started, child.last_line)
    assert ends_as_the_whole(folder, name)

@pytest.mark.parametrize("place", ["reading", "step"])
def test_hanging(folder: Path, place: str) -> None:
    name = f"hanging {place}"
    stop = signalled(signal.SIGSTOP)
    children = start_many(2, folder, *LONG, name=name, strikes=lambda rank: rank and {"reading": lambda: at_file("policy/config.json", stop, count=2), "step": lambda: in_step(3, stop)}[place]())
    os.waitid(os.P_PID, children[1].number, os.WSTOPPED)
    time.sleep(1)
    children[0].send(signal.SIGUSR1)
    time.sleep(1.2)
    children[0].send(signal.SIGTERM)
    started = time.monotonic()
    code = children[0].end(10)
    print("RESULT", place, code, time.monotonic() - started, children[0].told)
    children[1].send(signal.SIGKILL)
    children[1].end()
    for child in start_many(2, folder, *LONG, name=name):
        assert child.end() == 0, child.told
    assert leftovers(folder / name) == []


@pytest.mark.parametrize("place", ["reading", "step", "val", "save"])
def test_one_of_two(folder: Path, place: str) -> None:
    name = f"one {place}"
    act = signalled(signal.SIGTERM)
    children = start_many(2, folder, *LONG, name=name, strikes=lambda rank: rank and {"reading": lambda: at_file("policy/config.json", act, count=2), "step": lambda: in_step(3, act), "val": lambda: in_row_of_validation(50, act), "save": lambda: at_file("shard-00002-model-00001-of-00001.safetensors", act)}[place]())
    started = time.monotonic()
    codes = [child.end() for child in children]
    print("RESULT", place, codes, time.monotonic() - started, *[child.told for child in children])
    for child in start_many(2, folder, *LONG, name=name):
        assert child.end() == 0, child.told
    assert leftovers(folder / name) == []

@pytest.mark.parametrize("which", ["SAVE", "STOP"])
@pytest.mark.parametrize("step", [0, 3, 5])
def test_file(folder: Path, which: str, step: int) -> None:
    name = f"{which} {step}"
    if step == 0:
        (folder / name).mkdir()
        (folder / name / which).touch()
        child = start(folder, *LONG, name=name)
    else:
        child = start(folder, *LONG, name=name, strikes=lambda rank: in_step(step, (folder / name / which).touch))
    code = child.end()
    print("RESULT", code, child.last_line, sorted(str(p.relative_to(folder)) for p in (folder/name).glob("**/step_*")), (folder/name/which).exists())
    if step:
        assert ends_as_the_whole(folder, name)

@pytest.mark.parametrize("when", ["x"])
def test_without_checkpoints(folder, when):
    child = start(folder, *LONG, "checkpointing.enabled=false", name="without", strikes=lambda rank: in_step(3, signalled(signal.SIGTERM)))
    code = child.end()
    print("RESULT", code, child.last_line, sorted(str(p.relative_to(folder)) for p in (folder/"without").glob("**/step_*")))
    child = start(folder, *LONG, "checkpointing.enabled=false", name="without")
    code = child.end()
    print("RESULT", code, child.told)
