"""How long the parts of a run take, and when a checkpoint has to be begun to be there in time."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Literal

Part = Literal["step", "validation", "save"]

RECENT_STEPS = 20
"""Steps whose longest is taken for the next one's length; the first ones may have compiled."""

SLOW_DISK = 100e6
"""Bytes a second that a policy is assumed to be written with, until one was."""


class RunClock:
    """Times the parts of a run from its start on; a run that is resumed has the time before counted in."""

    def __init__(self, limit: timedelta | None = None) -> None:
        self.limit_seconds = None if limit is None else limit.total_seconds()
        self.seconds_before = 0.0  # until the checkpoint that the run is resumed from
        self._started = time.perf_counter()
        self._steps: deque[float] = deque(maxlen=RECENT_STEPS)
        self._longest: dict[Part, float] = {}
        self._expected_save = 0.0

    @property
    def seconds(self) -> float:
        """Give the time since the start of the run, without that between two of its parts."""
        return self.seconds_before + self._seconds_here

    @property
    def _seconds_here(self) -> float:
        return time.perf_counter() - self._started

    @contextmanager
    def timed(self, part: Part) -> Iterator[None]:
        """Time a part of the run; one that fails counts for nothing."""
        started = time.perf_counter()
        yield
        self.took(part, time.perf_counter() - started)

    def took(self, part: Part, seconds: float) -> None:
        """Remember how long a part took."""
        if part == "step":
            self._steps.append(seconds)
        else:
            self._longest[part] = max(self._longest.get(part, 0.0), seconds)

    def expect_save_of(self, num_bytes: int) -> None:
        """Assume a slow disk until a policy was written."""
        self._expected_save = num_bytes / SLOW_DISK

    def must_save(self) -> bool:
        """Say whether a checkpoint after another step might come too late."""
        if self.limit_seconds is None:
            return False
        step, save = max(self._steps, default=0.0), self._longest.get("save", self._expected_save)
        return self._seconds_here + step + self._longest.get("validation", 0.0) + save >= self.limit_seconds
