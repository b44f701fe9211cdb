"""Sums and counts that come out the same however rows are cut into chunks."""

import math
from dataclasses import dataclass, field
from typing import TypeGuard

from schemas.terminal import bare_excerpt

DENOMINATOR_BITS = 1074
"""The least float above 0 is 2^-1074, and each finite float a multiple of it."""
MAX_PENDING = 512
DIGITS = 6
MAX_VALUES = 1000
MAX_VALUE_CHARS = 200
SHOWN_VALUES = 50
REST = "(others)"


@dataclass(slots=True)
class Sum:
    """Numbers of which the sum is known exactly, as floats added one by one would not know it."""

    count: int = 0
    _total: int = 0  # in units of 2^-DENOMINATOR_BITS
    _least: float = math.inf
    _most: float = -math.inf
    _pending: list[float] = field(default_factory=list)  # counted, and not in the rest

    def add(self, value: float) -> None:
        """Add a finite number."""
        self.count += 1
        self._pending.append(value)
        if len(self._pending) == MAX_PENDING:
            self._settle()

    def merge(self, other: "Sum") -> None:
        """Add the numbers of another one."""
        self._settle()
        other._settle()
        self.count += other.count
        self._total += other._total
        self._least = min(self._least, other._least)
        self._most = max(self._most, other._most)

    @property
    def mean(self) -> float:
        """Give the mean; 0 of nothing."""
        self._settle()
        return self._total / ((self.count or 1) << DENOMINATOR_BITS)

    def as_dict(self) -> dict[str, float | None]:
        """Give the figures as JSON types."""
        if not self.count:
            return {"min": None, "mean": None, "max": None}
        mean = self.mean
        return {"min": rounded(self._least), "mean": rounded(mean), "max": rounded(self._most)}

    def _settle(self) -> None:
        if self._pending:
            self._total += exact_sum(self._pending)
            self._least = min(self._least, *self._pending)
            self._most = max(self._most, *self._pending)
            self._pending = []


def exact_sum(values: list[float]) -> int:
    """Give the sum of finite numbers in units of 2^-DENOMINATOR_BITS."""
    total = 0
    try:  # what rounding the sum leaves is a sum again, and soon 0; this takes a tenth of the time of the other way
        while part := math.fsum(values):
            total += _exact(part)
            values = [*values, -part]
    except OverflowError:
        return total + sum(map(_exact, values))
    return total


def _exact(value: float) -> int:
    numerator, denominator = value.as_integer_ratio()
    return numerator << (DENOMINATOR_BITS + 1 - denominator.bit_length())


def is_number(value: float | None) -> TypeGuard[float]:
    """Tell a number that a finite float can hold: of any size are JSON's integers, and tables have NaN."""
    try:
        return value is not None and math.isfinite(value)
    except OverflowError:
        return False


@dataclass(slots=True)
class Tally:
    """How often each value of a key occurs. Of a key with more than `MAX_VALUES` no value is known: it is an id."""

    total: int = 0
    counts: dict[str, int] | None = field(default_factory=dict)

    def add(self, value: str) -> None:
        """Count a value."""
        self.total += 1
        counts = self.counts
        if counts is not None:
            counts[value] = counts.get(value, 0) + 1
            if len(counts) > MAX_VALUES:
                self.counts = None

    def merge(self, other: "Tally") -> None:
        """Add what another one counted."""
        self.total += other.total
        if self.counts is None or other.counts is None:
            self.counts = None
            return
        for value, count in other.counts.items():
            self.counts[value] = self.counts.get(value, 0) + count
        if len(self.counts) > MAX_VALUES:
            self.counts = None

    def by_frequency(self) -> list[tuple[str, int]]:
        """Give the values that are known, the most frequent first."""
        return sorted((self.counts or {}).items(), key=lambda item: (-item[1], item[0]))

    def as_dict(self) -> dict[str, int]:
        """Give the most frequent values, made harmless, and how many rows have another one."""
        shown: dict[str, int] = {}
        for value, count in self.by_frequency()[:SHOWN_VALUES]:
            text = bare_excerpt(value)
            shown[text] = shown.get(text, 0) + count
        rest = self.total - sum(shown.values())
        return {**shown, REST: shown.get(REST, 0) + rest} if rest else shown


def value_text(value: object) -> str | None:
    """Write a text, a number or a boolean so that it can be counted; None for anything else."""
    if isinstance(value, str):
        return value[:MAX_VALUE_CHARS]
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and not is_number(value):
        return None  # of more digits than Python writes
    return str(value) if isinstance(value, int | float) else None


def rounded(value: float) -> float | None:
    """Leave the digits that a reader looks at; None for what JSON can't hold."""
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


def share(part: int, whole: int) -> float:
    """Give a share of a whole, rounded; 0 of nothing."""
    return round(part / whole, DIGITS - 2) if whole else 0.0
