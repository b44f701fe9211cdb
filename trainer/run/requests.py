"""What a run is asked for while it goes on: by a signal, by a file in its folder, by the clock.

A first SIGTERM, SIGUSR1, SIGHUP or Ctrl-C means: finish the step, save, end. A second one ends the process at once,
even where it waits in a library for another process, because a thread of its own watches. Files: SAVE, STOP.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator

from trainer.run.clock import RunClock

SAVE_FILE, STOP_FILE = "SAVE", "STOP"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
TIME_LIMIT = "checkpointing.checkpoint_must_save_by"
CAUSES = (f"the file {SAVE_FILE}", f"the file {STOP_FILE}", TIME_LIMIT, *(number.name for number in SIGNALS))
"""What may have asked, in the order in which the processes tell one another."""

SAME_SECONDS = 1.0
"""Signals that come together are one: a terminal and a launcher both send a process what the user has typed once."""


@dataclass(frozen=True)
class Asked:
    """What all processes have agreed to do after a step."""

    saves: bool = False
    stops: bool = False
    why: str = ""


class StopAsked(Exception):
    """Ends a validation, on all processes alike, because the run was asked to stop."""


@dataclass
class Requests:
    """Listens for what the run is asked for, on every process; files and clock are the main process's."""

    folder: Path
    clock: RunClock
    accelerator: Accelerator
    say: Callable[[str], None] = lambda text: None
    caught: signal.Signals | None = field(default=None, init=False)
    _caught_at: float = field(default=0.0, init=False)

    def agreed(self, *, looks: bool = True) -> Asked:
        """Say what was asked for, the same on every process; every process must call it.

        Without `looks` only signals count, so that it costs next to nothing.
        """
        causes = self._causes(looks=looks)
        if self.accelerator.num_processes > 1:
            told = torch.tensor([float(each in causes) for each in CAUSES], device=self.accelerator.device)
            told = self.accelerator.reduce(told, reduction="sum")
            causes = [cause for cause, count in zip(CAUSES, told.tolist(), strict=True) if count]
        stops = [cause for cause in causes if cause != CAUSES[0]]
        return Asked(saves=bool(causes), stops=bool(stops), why=(stops or causes or [""])[0])

    def answered(self) -> None:
        """Take the files away that were acted on."""
        if self.accelerator.is_main_process:
            for name in (SAVE_FILE, STOP_FILE):
                (self.folder / name).unlink(missing_ok=True)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take signals as requests while the block runs; in a program's main thread only."""
        reads, writes = os.pipe()
        os.set_blocking(writes, False)
        before = {number: signal.getsignal(number) for number in SIGNALS}
        heard = [number for number in SIGNALS if before[number] is not signal.SIG_IGN]  # as nohup has it
        watcher = threading.Thread(target=self._watch, args=(reads,), daemon=True)
        watcher.start()
        wakeup = signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
        for number in heard:
            signal.signal(number, lambda number, frame: None)  # the watcher has it from the wake-up descriptor
        try:
            yield
        finally:
            for number in heard:
                signal.signal(number, before[number])
            signal.set_wakeup_fd(wakeup)
            os.close(writes)
            watcher.join()
            os.close(reads)

    def _causes(self, *, looks: bool) -> list[str]:
        causes = []
        if looks and self.accelerator.is_main_process:
            causes = [f"the file {name}" for name in (SAVE_FILE, STOP_FILE) if (self.folder / name).exists()]
            causes += [TIME_LIMIT] if self.clock.must_save() else []
        return causes if self.caught is None else [*causes, self.caught.name]

    def _watch(self, reads: int) -> None:
        while content := os.read(reads, 1):
            if content[0] in SIGNALS:
                self._hear(signal.Signals(content[0]))

    def _hear(self, number: signal.Signals) -> None:
        now = time.monotonic()
        if self.caught is None:
            self.caught, self._caught_at = number, now
            self.say(f"{number.name}: the run saves after this step and ends; once more ends it at once")
        elif now - self._caught_at > SAME_SECONDS:
            os.write(sys.stderr.fileno(), f"dpo: error: {number.name} again: ended at once\n".encode())
            os._exit(128 + number)
