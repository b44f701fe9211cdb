"""Processes that work on pieces of the input: a small seam, so that an engine of another kind can take its place.

Each process makes its own state once (`set_up`), and then runs functions of that state on tasks.
"""

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

from schemas.errors import DpoError

Task = TypeVar("Task")
Result = TypeVar("Result")

TASKS_AHEAD = 3  # for each process: enough that none waits, few enough that memory stays flat

ENDS_ALONE_SECONDS = 1.0

DEAD = (
    "a worker process died (killed, or out of memory?) or could not start; nothing was written; "
    "try again with --workers 1"
)

_state: Any = None


class Workers:
    """A number of processes; with one, everything runs in this one."""

    def __init__(self, num_processes: int, set_up: Callable[..., Any], *arguments: object) -> None:
        """Start the processes."""
        self._num_processes = num_processes
        self._pool: ProcessPoolExecutor | None = None
        self._local: Any = None
        if num_processes == 1:
            self._local = set_up(*arguments)
        else:
            context = multiprocessing.get_context(_start_method())
            self._pool = ProcessPoolExecutor(num_processes, context, initializer=_begin, initargs=(set_up, arguments))
            others = multiprocessing.active_children()
            try:
                self._first = self._submit(_nothing, None)  # starts all processes, while this one has no other threads
            except BaseException:
                self._abandon(others)
                raise
            processes = [child for child in multiprocessing.active_children() if child not in others]
            threading.Thread(target=_end_together, args=(self._pool, processes), daemon=True).start()

    @property
    def tasks_ahead(self) -> int:
        """Tell how many tasks are under way or done before their results are taken."""
        return TASKS_AHEAD * self._num_processes

    def start(self, function: Callable[[Any, Task], Result], task: Task) -> Callable[[], Result]:
        """Start one task beside what `run` does; call what is given to wait for its result.

        Raises:
            DpoError: as for `run`, also when the result is waited for.
        """
        if self._pool is None:
            return lambda: function(self._local, task)
        future = self._submit(function, task)
        return lambda: _result(future)

    def run(self, function: Callable[[Any, Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Yield the results of all tasks in their order.

        Raises:
            DpoError: a process died, could not start, or is out of memory.
        """
        if self._pool is None:
            try:
                for task in tasks:
                    yield function(self._local, task)
            except MemoryError as error:
                raise DpoError("out of memory") from error
            return
        waiting: deque[Future[Result]] = deque()
        for task in tasks:
            waiting.append(self._submit(function, task))
            if len(waiting) >= self.tasks_ahead:
                yield _result(waiting.popleft())
        while waiting:
            yield _result(waiting.popleft())

    def _submit(self, function: Callable[[Any, Task], Result], task: Task) -> "Future[Result]":
        assert self._pool is not None
        try:
            return self._pool.submit(_call, function, task)
        except BrokenProcessPool as error:
            raise DpoError(DEAD) from error
        except (OSError, RuntimeError) as error:  # RuntimeError: the pool's own thread can't start
            reason = getattr(error, "strerror", None) or error
            raise DpoError(f"a worker process could not start: {reason}") from error

    def _abandon(self, others: list[BaseProcess]) -> None:
        """End processes that the pool has started and that will never work: nobody else would."""
        for child in set(multiprocessing.active_children()) - set(others):
            child.kill()
            child.join()
        self._pool = None  # and with it its pipes

    def stop(self) -> None:
        """End the processes; what is under way is not waited for."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        elif hasattr(self._local, "close"):
            self._local.close()


def _end_together(pool: ProcessPoolExecutor, processes: list[BaseProcess]) -> None:
    """End all processes where one was killed, and what reads from them.

    One that is killed while it sends a result leaves half of it in the pipe. The pool would wait for the other half for
    ever, because other processes, and this one, could still write.
    """
    sentinels = wait([process.sentinel for process in processes])
    ended = [process for process in processes if process.sentinel in sentinels]
    for process in ended:
        process.join()  # only then it has an exit code
    if all(process.exitcode == 0 for process in ended):
        return  # their work is done
    for process in processes:
        process.kill()
    reader: threading.Thread | None = pool._executor_manager_thread  # type: ignore[assignment]
    if reader is None:
        return  # the pool was shut down
    reader.join(ENDS_ALONE_SECONDS)
    if reader.is_alive():  # with half of a result; who closes the pool waits for it, so the pipe is still open
        with Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), pool._result_queue._writer.fileno())  # type: ignore[attr-defined]


def _result(future: "Future[Result]") -> Result:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise DpoError(DEAD) from error
    except MemoryError as error:
        raise DpoError("a worker process is out of memory; try again with --workers 1") from error


def default_num_processes(num_bytes: int | None, *, bytes_each: int) -> int:
    """Choose the number of processes: one for each core, as far as there is work for it, if that is known."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores if num_bytes is None else max(1, min(cores, num_bytes // bytes_each))


def _start_method() -> str:
    """Fork where that is quick and safe: on Linux, before anything (Polars) has started threads."""
    is_safe = sys.platform == "linux" and "polars" not in sys.modules and threading.active_count() == 1
    return "fork" if is_safe else "spawn"


def _begin(set_up: Callable[..., Any], arguments: tuple[object, ...]) -> None:
    global _state
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    gc.disable()  # nothing here makes cycles, and rows are many objects
    try:
        threading.Thread(target=_end_with_parent, daemon=True).start()
        _state = set_up(*arguments)
    except Exception as error:  # the pool would print a traceback, and say nothing of the reason
        _state = _NotStarted(str(error))


def _end_with_parent() -> None:
    """Leave when the parent is gone, however it went."""
    if parent := multiprocessing.parent_process():
        with contextlib.suppress(OSError):
            parent.join()
        os._exit(1)


def _nothing(state: Any, task: None) -> None:
    """Do nothing: the first task, which makes the pool start its processes."""


class _NotStarted(str):
    """Why this process has no state."""


def _call(function: Callable[[Any, Task], Result], task: Task) -> Result:
    if isinstance(_state, _NotStarted):
        raise DpoError(f"a worker process could not start: {_state}")
    return function(_state, task)
