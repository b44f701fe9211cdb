"""What a report on data is asked for."""

import math
from dataclasses import dataclass
from enum import StrEnum

from pipeline.settings import Format
from schemas.errors import UsageError


class Sort(StrEnum):
    """Which pairs are shown, and in what order."""

    MIXED = "mixed"  # drawn from every environment and margin alike
    MARGIN = "margin"  # the least and the greatest
    LENGTH = "length"  # chosen far longer, and far shorter, than rejected
    RANDOM = "random"


@dataclass(frozen=True)
class DataOptions:
    """All choices of a report on rollouts or pairs. The defaults are the command's."""

    num_pairs: int = 100  # that are shown side by side
    sort: Sort = Sort.MIXED
    environment: str | None = None  # of the pairs, or rollouts, that are shown
    min_margin: float | None = None  # of the pairs that are shown
    max_margin: float | None = None
    seed: int = 0
    threshold: float = 0.5  # of rollouts: the least reward that passes
    form: Format = Format.BINARY  # of rollouts: what pairs of them would be written as
    num_workers: int | None = None
    title: str | None = None

    def __post_init__(self) -> None:
        """Refuse what can't be done.

        Raises:
            UsageError: choices that contradict each other.
        """
        low, high = self.min_margin, self.max_margin
        for name, value in (("--min-margin", low), ("--max-margin", high)):
            if value is not None and math.isnan(value):
                raise UsageError(f"{name} nan: expected a number")
        if self.num_pairs < 0:
            raise UsageError(f"--pairs {self.num_pairs}: expected a number of at least 0")
        if low is not None and high is not None and low > high:
            raise UsageError(f"--min-margin {low:g} is above --max-margin {high:g}: no pair has such a margin")
