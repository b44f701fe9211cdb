"""Runs that are killed and gone on with, for tests: each in a process forked from one that has torch loaded.

A process is killed by SIGKILL, either after a time or at its n-th operation on files (as Python's audit events tell
them): opening, renaming, removing, making folders. So each point between two of these operations can be hit.
"""

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from trainer.config.settings import resolve
from trainer.run.loop import train

FILE_EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree", "os.chmod")
TIMES = ("step_seconds", "pairs_per_second", "tokens_per_second", "memory_gb", "mfu")
"""Of train/: metrics that no two runs have alike."""


@dataclass(frozen=True)
class Kill:
    """When a process is to be killed; never, where both are None."""

    after_seconds: float | None = None
    at_operation: int | None = None  # counted from 1


NO_KILL = Kill()


def run_in_child(arguments: Sequence[str], run: Path, log: Path, kill: Kill = NO_KILL, **paths: Path) -> int:
    """Train in a forked process with `--resume auto`; give its wait status. What it says goes into the file `log`."""
    child = os.fork()
    if child == 0:
        _train_and_end(arguments, run, log, kill, paths)
    _, status = os.waitpid(child, 0)
    return status


def count_operations(arguments: Sequence[str], run: Path, log: Path, **paths: Path) -> int:
    """Train in a forked process and count its operations on files of the run's folder."""
    counter = log.with_suffix(".count")
    status = run_in_child([*arguments], run, log, Kill(at_operation=-1), counter=counter, **paths)
    assert status == 0, log.read_text()
    return int(counter.read_text())


def was_killed(status: int) -> bool:
    """Say whether a process was ended by SIGKILL."""
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def outcome(run: Path) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """Give what two runs must have alike to the last bit: the weights, and the metrics but for times."""
    weights = load_file(run / "policy" / "model.safetensors")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {name: value.numpy().tobytes() for name, value in weights.items()}, [
        {
            key: value
            for key, value in line.items()
            if not key.startswith("timing/") and key.removeprefix("train/") not in TIMES
        }
        for line in lines
    ]


def _train_and_end(arguments: Sequence[str], run: Path, log: Path, kill: Kill, paths: dict[str, Path]) -> None:
    """Train, and leave without a way back into the test that has forked."""
    counter = paths.pop("counter", None)
    code = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, sys.stdout.fileno())
        os.dup2(output, sys.stderr.fileno())
        config = resolve(
            [*arguments, "checkpointing.resume=auto"],
            train_data_path=paths["pairs"],
            model_name=str(paths["model"]),
            output_dir=run,
        )
        done = _arm(kill, run)
        result = train(config)
        code = 0 if result is not None and result.finished else 75
        if counter is not None:
            counter.write_text(str(done[0]))
    except BaseException:
        traceback.print_exc(file=open(log, "a"))  # noqa: SIM115, PTH123
    finally:
        os._exit(code)


def _arm(kill: Kill, run: Path) -> list[int]:
    """Count operations on the run's files, and kill this process when it is time."""
    done = [0]
    place = str(run)

    def hook(event: str, values: tuple[Any, ...]) -> None:
        paths = [str(each) for each in values if isinstance(each, str | Path)]
        if event in FILE_EVENTS and any(path.startswith(place) for path in paths):
            done[0] += 1
            if done[0] == kill.at_operation:
                os.kill(os.getpid(), signal.SIGKILL)

    if kill.at_operation is not None:
        sys.addaudithook(hook)
    if kill.after_seconds is not None:
        threading.Thread(target=_kill_after, args=(kill.after_seconds,), daemon=True).start()
    return done


def _kill_after(seconds: float) -> None:
    time.sleep(seconds)
    os.kill(os.getpid(), signal.SIGKILL)
