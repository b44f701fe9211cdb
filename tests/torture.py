"""Runs that are killed and gone on with, for tests: each process is forked from one that has torch loaded.

A process is killed by SIGKILL, either after a time or at its n-th operation on files (as Python's audit events tell
them): opening, renaming, removing, making folders. So each point between two of these operations can be hit.

There is no reference cache: it is read by Polars, whose threads are not in a process that is forked, once they were
started in the one that forks.
"""

import faulthandler
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors.torch import load_file

from schemas.errors import DpoError
from trainer.config.settings import resolve
from trainer.run.loop import train
from trainer.run.signals import Signals

FILE_EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree", "os.chmod")
TIMES = ("step_seconds", "pairs_per_second", "tokens_per_second", "memory_gb", "mfu")
"""Of train/: metrics that no two runs have alike."""


USED_ALWAYS = ("checkpointing.resume=auto", "cluster.gpus_per_node=none", "reference.cache_dir=null")
MOST_SECONDS = 300
"""After which a process says where it hangs, and ends."""


@dataclass(frozen=True)
class Kill:
    """When a process is to be killed; never, where both are None."""

    after_seconds: float | None = None
    at_operation: int | None = None  # on files of the run's folder, counted from 1


@dataclass(frozen=True)
class Job:
    """A training as it is started again and again: by `tests.training_runs.filled`'s folder and settings."""

    folder: Path
    settings: tuple[str, ...]
    name: str = "run"

    @property
    def run(self) -> Path:
        """Give the run's folder."""
        return self.folder / self.name

    @property
    def log(self) -> Path:
        """Give the file that all of its processes write what they say into."""
        return self.folder / f"{self.name}.log"

    def start(self, *more: str, kill: Kill | None = None) -> int:
        """Train in one forked process; give its exit code, below 0 where a signal ended it."""
        return self.start_many(1, *more, kills=[kill])[0]

    def start_many(self, num_processes: int, *more: str, kills: Sequence[Kill | None] = ()) -> list[int]:
        """Train in forked processes, as a launcher starts them; give their exit codes."""
        return [end(child) for child in self.launch(num_processes, *more, kills=kills)]

    def launch(self, num_processes: int, *more: str, kills: Sequence[Kill | None] = ()) -> list[int]:
        """Fork the processes and give their numbers; `end` waits for one."""
        port = free_port()
        children = []
        for rank in range(num_processes):
            child = os.fork()
            if child == 0:
                become(rank, num_processes, port)
                _train_and_leave(self, more, kills[rank] if rank < len(kills) else None)
            children.append(child)
        return children

    def count_operations(self) -> int:
        """Train in a forked process and count its operations on files of the run's folder."""
        counter = self.folder / f"{self.name}.count"
        child = os.fork()
        if child == 0:
            _train_and_leave(self, (), Kill(at_operation=-1), counter)
        assert end(child) == 0, self.log.read_text()
        return int(counter.read_text())


def end(child: int) -> int:
    """Wait for a forked process; give its exit code, below 0 where a signal ended it."""
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


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


def become(rank: int, num_processes: int, port: int) -> None:
    """Make this process one of those that a launcher has started."""
    if num_processes > 1:
        told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num_processes, "LOCAL_WORLD_SIZE": num_processes}
        os.environ |= {name: str(value) for name, value in told.items()}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def _train_and_leave(job: Job, more: Sequence[str], kill: Kill | None, counter: Path | None = None) -> NoReturn:
    """Train as `dpo train --resume auto` does, and leave without a way back into the test that has forked."""
    code = 4
    try:
        torch.set_num_threads(1)  # OpenMP's threads of the process that has forked are not here either
        output = os.open(job.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for number in (1, 2):
            os.dup2(output, number)
        sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)  # pytest has its own
        faulthandler.dump_traceback_later(MOST_SECONDS, exit=True, file=sys.stderr)
        config = resolve(
            [*job.settings, *USED_ALWAYS, *more],
            train_data_path=job.folder / "pairs.jsonl",
            model_name=str(job.folder / "policy"),
            output_dir=job.run,
        )
        done = _arm(kill, job.run)
        signals = Signals(begins_again=True)
        with signals.listening():
            result = train(config, signals=signals)
        code = 75 if result is not None and not result.finished else 0
        if counter is not None:
            counter.write_text(str(done[0]))
    except DpoError as error:
        code = error.exit_code
        os.write(2, f"dpo: error: {'' if error.is_told_elsewhere else error}\n".encode())
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def _arm(kill: Kill | None, run: Path) -> list[int]:
    """Count operations on the run's files, and kill this process when it is time."""
    done = [0]
    place = str(run)

    def hook(event: str, values: tuple[Any, ...]) -> None:
        if event in FILE_EVENTS and any(str(each).startswith(place) for each in values if isinstance(each, str | Path)):
            done[0] += 1
            if kill is not None and done[0] == kill.at_operation:
                os.kill(os.getpid(), signal.SIGKILL)

    if kill is not None and kill.at_operation is not None:
        sys.addaudithook(hook)
    if kill is not None and kill.after_seconds is not None:
        threading.Thread(target=_kill_after, args=(kill.after_seconds,), daemon=True).start()
    return done


def _kill_after(seconds: float) -> None:
    time.sleep(seconds)
    os.kill(os.getpid(), signal.SIGKILL)


def free_port() -> int:
    """Give a port that processes can come together at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
