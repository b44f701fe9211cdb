"""Intervals by the bootstrap: how sure a mean is, told without a word on how its values are spread.

Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13: the percentile interval. Whole units (tasks,
prompts) are drawn with replacement, so values that belong together must be one value.
"""

import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

NUM_RESAMPLES = 2_000
LEVEL = 0.95
MOST_DRAWN = 1_000
"""Values that are drawn from; of more, the mean is as good as normal, and the interval is taken from its deviation."""
NORMAL_QUANTILE = 1.959964  # of LEVEL, on both sides


@dataclass(frozen=True)
class Interval:
    """A mean and the two ends of its 95 % interval; all are nan where there is no value."""

    mean: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Say whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def bootstrap_mean(values: Sequence[float], *, seed: int = 0) -> Interval:
    """Give the mean of values with its 95 % percentile interval; the same values in any order give the same."""
    if not values:
        return Interval(math.nan, math.nan, math.nan)
    num = len(values)
    mean = math.fsum(values) / num
    if num > MOST_DRAWN:
        half = NORMAL_QUANTILE * math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (num - 1) / num)
        return Interval(mean, mean - half, mean + half)
    return Interval(mean, *_drawn(tuple(sorted(Counter(values).items())), seed))


@lru_cache(maxsize=64)  # where rewards are 0 and 1, the mean reward, pass@1 and the first pass@k have the same values
def _drawn(levels: tuple[tuple[float, int], ...], seed: int) -> tuple[float, float]:
    """Draw from values, of which each is told with how often it is there; give both ends."""
    population = [value for value, times in levels for _ in range(times)]
    num, draw = len(population), random.Random(seed)
    if len(levels) == 1:
        return (math.fsum(population) / num,) * 2
    means = sorted(math.fsum(draw.choices(population, k=num)) / num for _ in range(NUM_RESAMPLES))
    tail = (1 - LEVEL) / 2
    return _quantile(means, tail), _quantile(means, 1 - tail)


def _quantile(ordered: Sequence[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
