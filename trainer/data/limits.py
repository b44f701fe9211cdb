"""What one rendering of a chat template may take: some seconds, and some memory.

A template is a program that comes with a model. Its sandbox keeps it from files and commands, and lets it loop for
ever. So a watchdog, one thread while pairs are tokenised, raises an error in the thread whose rendering takes too long;
unlike a signal's handler it serves in every thread, and leaves the handlers of signals alone. Memory is bounded by the
process' address space, where the system has such a limit (Linux): beyond it Python raises MemoryError.

One operation of Python can't be broken off. Of those that take for ever, powers are refused before they are computed;
others (to compare lists that hold one another billions of times over) are not foreseen.
"""

import ctypes
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Self, TypeVar

from jinja2 import Environment, TemplateSyntaxError

MAX_SECONDS = 10.0
"""For one rendering; usual ones take less than a thousandth of a second."""

MAX_GROWTH_BYTES = 4 << 30
"""By how much the process may grow while templates are rendered."""

MAX_CHARACTERS = 16 << 20
MAX_REPETITIONS = 4
"""A text of more than `MAX_CHARACTERS` may be so many times as long as its conversation."""

CHECKS = 20
"""How often within `MAX_SECONDS` the watchdog looks."""

Result = TypeVar("Result")


class OutOfTime(BaseException):
    """A rendering took too long. Not an Exception, which a library could take for one of its own."""


class TimeLimit:
    """A limit on each call that one thread makes while the `with` block runs."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._until: float | None = None  # when the call in progress is broken off
        self._watchdog = threading.Thread(target=self._watch, name="dpo-time-limit", daemon=True)

    def __enter__(self) -> Self:
        self._watchdog.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closed.set()
        self._watchdog.join()

    def call(self, function: Callable[[], Result]) -> Result:
        """Call a function within the limit.

        Raises:
            OutOfTime: it took too long.
        """
        self._until = time.monotonic() + MAX_SECONDS
        try:
            try:
                return function()
            finally:
                with self._lock:  # behind this the watchdog raises nothing more
                    was_broken_off, self._until = self._until is None, None
                if was_broken_off:
                    _raise_in(self._thread, None)
        except OutOfTime:  # wherever between the function and the last line it was raised
            raise OutOfTime from None

    def _watch(self) -> None:
        while not self._closed.wait(MAX_SECONDS / CHECKS):
            with self._lock:
                if self._until is not None and time.monotonic() > self._until:
                    self._until = None
                    _raise_in(self._thread, OutOfTime)


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    """Raise an error in a thread, at its next call or jump; None takes back one that was not raised yet."""
    what = ctypes.py_object() if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), what)


_memory_lock = threading.Lock()
_usual_limits: list[tuple[int, int]] = []  # one for each block that runs now; the first is the process' own


@contextmanager
def bounded_memory() -> Iterator[None]:
    """Keep the process from growing by more than `MAX_GROWTH_BYTES` while the block runs, on Linux.

    The limit is the whole process': blocks of several threads share that of the first.
    """
    if sys.platform != "linux":
        yield
        return
    import resource

    with _memory_lock:
        usual = resource.getrlimit(resource.RLIMIT_AS)
        _usual_limits.append(usual)
        wanted = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + MAX_GROWTH_BYTES
        if len(_usual_limits) == 1 and (usual[0] == resource.RLIM_INFINITY or wanted < usual[0]):
            resource.setrlimit(resource.RLIMIT_AS, (wanted, usual[1]))
    try:
        yield
    finally:
        with _memory_lock:
            own = _usual_limits[0]
            _usual_limits.pop()
            if not _usual_limits:
                resource.setrlimit(resource.RLIMIT_AS, own)


@lru_cache(maxsize=16)
def has_powers(template: str) -> bool:
    """Say whether a template computes a power, which can take for ever; `**` before named arguments is none."""
    try:
        tokens = [(kind, text) for _, kind, text in Environment().lex(template) if kind != "whitespace"]
    except TemplateSyntaxError:  # which is told when it is rendered
        return False
    befores = [text for _, text in tokens]
    return any(
        kind == "operator" and text == "**" and before not in ("(", ",")
        for before, (kind, text) in zip(befores, tokens[1:], strict=False)
    )


def is_far_longer(text: str, messages: object) -> bool:
    """Say whether a rendering is longer than its conversation accounts for."""
    return len(text) > MAX_CHARACTERS and len(text) > MAX_REPETITIONS * len(str(messages))
