"""Start the processes of this node, pass signals on to them, and end when the last of them has.

torch's elastic launcher, which Accelerate's ends in, is made for runs that start anew: as soon as one process ends
with any code but 0, code 75 too, it gives the others 30 seconds, though one may still be saving; and after a signal the
codes of the processes are lost. Here a process may take as long as it needs, unless one has failed.

Each process is the head of a session of its own. So Ctrl-C, which a terminal sends to all that runs in it, comes to
this process alone, and to each of the others once, from here.
"""

import contextlib
import os
import queue
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from schemas.errors import EXIT_STOPPED, DpoError
from schemas.terminal import stderr_console

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
LOOK_SECONDS = 0.1
"""How often the processes are looked at."""

SAME_SECONDS = 1.0
"""Signals that come together are one: Slurm sends one to each process of a job, and so does this one."""

GRACE_SECONDS = 15.0
"""What the other processes get to end by themselves, once one has failed."""

LAST_SECONDS = 5.0
"""What they get after a second signal, with which they end at once."""

LEAVING_SECONDS = 120.0
"""What they get once the first process has ended well, which is the last one that has something to do."""

SIGNALLED = 128
"""What a shell adds to the number of the signal that has ended a process."""


@dataclass(frozen=True)
class Worker:
    """A process that was started."""

    rank: int
    process: subprocess.Popen[bytes]

    @property
    def is_running(self) -> bool:
        """Say whether it has not ended yet."""
        return self.process.poll() is None

    @property
    def has_failed(self) -> bool:
        """Say whether it has ended, and neither trained to the end nor stopped as it was asked to."""
        return self.process.returncode not in (None, 0, EXIT_STOPPED)

    def send(self, number: int) -> None:
        """Send a signal to the process and what it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


def run_processes(command: Sequence[str], environments: Sequence[Mapping[str, str]]) -> int:
    """Run a command once in each environment, side by side, until all have ended; give the exit code of them all.

    It is 0 where all have ended with 0, and 75 where one has stopped as asked. Output and errors pass unchanged.

    Args:
        environments: Whole environments, with RANK.

    Raises:
        DpoError: a process was ended by a signal; its exit code is that of a shell.
    """
    workers: list[Worker] = []
    with _caught_signals() as caught:
        try:
            for environment in environments:
                process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
                workers.append(Worker(int(environment["RANK"]), process))
            failed = _wait(workers, caught)
        finally:
            for worker in workers:
                if worker.is_running or worker.has_failed:
                    worker.send(signal.SIGKILL)  # and to what a process that was killed has left behind
                worker.process.wait()
    if failed is not None:
        return _exit_code(failed)
    return EXIT_STOPPED if any(worker.process.returncode == EXIT_STOPPED for worker in workers) else 0


def _wait(workers: Sequence[Worker], caught: "queue.SimpleQueue[int]") -> Worker | None:
    """Wait for the processes; give the one that failed first.

    Raises:
        DpoError: they did not end though a signal has come twice, and were killed.
    """
    failed: Worker | None = None
    asked_at: float | None = None
    end_at = leave_at = float("inf")
    while sum(worker.is_running for worker in workers):  # looks at all of them
        number = _next(caught)
        now = time.monotonic()
        if number is not None and asked_at is None:
            _send(workers, number)
            asked_at = now
        elif number is not None and asked_at is not None and now - asked_at > SAME_SECONDS:
            _send(workers, number)
            end_at = min(end_at, now + LAST_SECONDS)
        if failed is None and (failed := _first_failed(workers)) is not None:
            end_at = min(end_at, now + GRACE_SECONDS)
        if not workers[0].is_running:
            leave_at = min(leave_at, now + LEAVING_SECONDS)
        if failed is None and now > leave_at:
            _send(workers, signal.SIGKILL)
            told = f"{LEAVING_SECONDS:g} seconds after process {workers[0].rank} had ended, others had not"
            stderr_console().print(f"warning: {told}: killed; what the run has written is whole")
            return None
        if now > end_at:
            _send(workers, signal.SIGKILL)
            if failed is None:
                error = DpoError(f"killed: {LAST_SECONDS:g} seconds after a second signal, processes had not ended")
                error.exit_code = SIGNALLED + signal.SIGKILL
                raise error
    return _first_failed(workers) if failed is None else failed


def _send(workers: Sequence[Worker], number: int) -> None:
    for worker in workers:
        if worker.is_running:
            worker.send(number)


def _first_failed(workers: Sequence[Worker]) -> Worker | None:
    """Choose the cause among those that have failed since the last look: one that was killed, for others feel it."""
    failed = [worker for worker in workers if worker.has_failed]
    return min(failed, key=lambda worker: (worker.process.returncode > 0, worker.rank), default=None)


def _exit_code(failed: Worker) -> int:
    code = failed.process.returncode
    if code > 0:  # it has said why
        return code
    number = -code
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    remedy = ", as the system does where memory runs out" if number == signal.SIGKILL else ""
    error = DpoError(f"process {failed.rank} (pid {failed.process.pid}) was ended by {name}{remedy}; the run has ended")
    error.exit_code = SIGNALLED + number
    raise error


def _next(caught: "queue.SimpleQueue[int]") -> int | None:
    """Wait a little for a signal."""
    try:
        return caught.get(timeout=LOOK_SECONDS)
    except queue.Empty:
        return None


@contextlib.contextmanager
def _caught_signals() -> Iterator["queue.SimpleQueue[int]"]:
    """Put signals into a queue while the block runs, but those that this process was started to ignore (nohup)."""
    caught: queue.SimpleQueue[int] = queue.SimpleQueue()
    before = {number: signal.getsignal(number) for number in PASSED_ON}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: caught.put(number))
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
