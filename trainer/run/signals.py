"""Signals that ask a run to end: a first one is remembered until the step is done, a second one ends the process.

SIGTERM, SIGUSR1, SIGHUP and Ctrl-C are alike. A thread of its own watches, because the main one may wait in a library
for another process. Before the first step there is nothing to finish, so that there a first one ends the run as well.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from schemas.errors import EXIT_STOPPED, DpoError, StoppedError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)

BEGINS_AGAIN = "nothing new was saved; the same command goes on from where this one did"

SAME_SECONDS = 1.0
"""Signals that come together are one: a terminal and a launcher both send a process what the user has typed once."""


class _EndedError(BaseException):
    """Leaves whatever the main thread does before the first step; no one else's `except Exception` may keep it."""


class Signals:
    """Listens for signals; without `listening` there never is one."""

    def __init__(self, *, begins_again: bool = False) -> None:
        self.begins_again = begins_again  # whether the same command would go on from where this one began
        self.caught: signal.Signals | None = None  # the first
        self.say: Callable[[str], None] = lambda text: None
        self._caught_at = 0.0
        self._cleans = False  # has something to clean up, so the main thread has to end
        self._waits = False  # for the end of a step
        self._is_left_alone = False
        self._has_interrupted = False

    @contextlib.contextmanager
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
            signal.signal(number, self._interrupt)
        try:
            yield
        finally:
            for number in heard:
                signal.signal(number, before[number])
            signal.set_wakeup_fd(wakeup)
            os.close(writes)
            watcher.join()
            os.close(reads)

    @contextlib.contextmanager
    def left_alone(self) -> Iterator[None]:
        """Leave signals to the block, which has handlers of its own."""
        self._is_left_alone = True
        try:
            yield
        finally:
            self._is_left_alone = False

    @contextlib.contextmanager
    def ending(self) -> Iterator[None]:
        """Let a first signal end the block in order, until `wait_for_step`; before the block it ends the process.

        Raises:
            StoppedError: a signal has come, and the run may begin again.
            DpoError: a signal has come.
            KeyboardInterrupt: Ctrl-C has come.
        """
        self._cleans = True
        try:
            yield
        except BaseException:  # that of a process, too, which has lost another one to the signal
            if self.caught is None:
                raise
            raise not_begun(self.caught.name, begins_again=self.begins_again) from None

    def wait_for_step(self) -> None:
        """Let a first signal be remembered from now on: there is a step to finish."""
        self._waits = True

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        """Run in the main thread, between two of its instructions; the watcher has the signal already, or gets it."""
        if self._cleans and not (self._waits or self._has_interrupted):  # once, for what cleans up may not be ended
            self.caught, self._has_interrupted = self.caught or signal.Signals(number), True
            raise _EndedError

    def _watch(self, reads: int) -> None:
        while content := os.read(reads, 1):
            if content[0] in SIGNALS:
                self._hear(signal.Signals(content[0]))

    def _hear(self, number: signal.Signals) -> None:
        now = time.monotonic()
        if self._is_left_alone:
            return
        if not self._cleans:  # nothing is there yet, and an exception may be swallowed by what is being imported
            _end_at_once(number, begins_again=self.begins_again)
        if not self._caught_at:
            self.caught, self._caught_at = self.caught or number, now
            if self._waits:
                self.say(f"{number.name}: the run saves after this step and ends; once more ends it at once")
        elif now - self._caught_at > SAME_SECONDS:
            _leave(f"dpo: error: {number.name} again: ended at once", 128 + number)


def _end_at_once(number: signal.Signals, *, begins_again: bool) -> None:
    """End the process from a thread beside the main one."""
    if begins_again and number != signal.SIGINT:
        _leave(f"dpo: stopped: before the first step, by {number.name}; {BEGINS_AGAIN}", EXIT_STOPPED)
    _leave(f"dpo: error: ended by {number.name} before the first step; nothing was saved", 128 + number)


def _leave(text: str, exit_code: int) -> None:
    with contextlib.suppress(OSError):  # of a terminal that was closed
        os.write(sys.stderr.fileno(), f"{text}\n".encode())
    os._exit(exit_code)


def not_begun(name: str, *, begins_again: bool) -> BaseException:
    """Make the error of a run that a signal has ended before its first step."""
    number = signal.Signals[name]
    if number == signal.SIGINT:
        return KeyboardInterrupt()
    if begins_again:
        return StoppedError(f"before the first step, by {name}; {BEGINS_AGAIN}")
    error = DpoError(f"ended by {name} before the first step; nothing was saved")
    error.exit_code = 128 + number
    return error
