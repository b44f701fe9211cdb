"""How far people agree: percent agreement, Cohen's kappa for two, Krippendorff's alpha for any number with gaps.

A unit is what was judged; its values are what people said of it, one for each person who said something. What nobody
said is no value: units of fewer than two values tell nothing of agreement, and are passed over.

Sources: Cohen, A Coefficient of Agreement for Nominal Scales (1960); Krippendorff, Computing Krippendorff's
Alpha-Reliability (2011), whose worked example is in the tests; Wilson, Probable Inference (1927), for shares.
"""

import math
import random
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from enum import StrEnum
from itertools import combinations

from schemas.bootstrap import LEVEL, NORMAL_QUANTILE, Interval

Units = Sequence[Sequence[float]]
Pattern = tuple[float, ...]
Distance = Callable[[float, float], float]

MOST_RESAMPLES, LEAST_RESAMPLES = 1_000, 200
DRAWS = 1_000_000
"""Units drawn for an interval, in all resamples together: so long as a reader waits."""
LEAST_UNITS = 5
"""Of fewer, an interval would say more than is known."""


class Level(StrEnum):
    """What the values are: names, ranks, or numbers of which differences mean something."""

    NOMINAL = "nominal"
    ORDINAL = "ordinal"
    INTERVAL = "interval"


def percent_agreement(units: Iterable[Sequence[Hashable]]) -> float:
    """Give the share of agreeing pairs of values, each unit with the same weight; nan where there is no pair."""
    shares = [_agreeing_share(values) for values in units if len(values) > 1]
    return math.fsum(shares) / len(shares) if shares else math.nan


def cohens_kappa(pairs: Sequence[tuple[Hashable, Hashable]]) -> float:
    """Give the agreement of two people beyond chance; nan where both always say the same one thing, or nothing.

    Args:
        pairs: What the one and the other said, of each unit of which both said something.
    """
    if not pairs:
        return math.nan
    num = len(pairs)
    observed = sum(one == other for one, other in pairs) / num
    of_one, of_other = (Counter(pair[place] for pair in pairs) for place in (0, 1))
    expected = sum(count * of_other[value] for value, count in of_one.items()) / num**2
    return (observed - expected) / (1 - expected) if expected < 1 else math.nan


def krippendorffs_alpha(units: Units, level: Level) -> float:
    """Give one less the ratio of observed to expected disagreement; nan where all values are one, or none meet."""
    return _alpha(Counter(_pattern(values) for values in units if len(values) > 1), level)


def alpha_interval(units: Units, level: Level, *, seed: int = 0) -> Interval:
    """Give alpha with its 95 % percentile interval over units; no ends where there are too few of them.

    Resamples in which all values are one have no alpha, and are left out.
    """
    patterns = sorted(_pattern(values) for values in units if len(values) > 1)
    alpha = _alpha(Counter(patterns), level)
    if len(patterns) < LEAST_UNITS or math.isnan(alpha):
        return Interval(alpha, math.nan, math.nan)
    draw = random.Random(seed)
    times = max(LEAST_RESAMPLES, min(MOST_RESAMPLES, DRAWS // len(patterns)))
    resampled = (_alpha(Counter(draw.choices(patterns, k=len(patterns))), level) for _ in range(times))
    ordered = sorted(value for value in resampled if not math.isnan(value))
    return Interval(alpha, _quantile(ordered, (1 - LEVEL) / 2), _quantile(ordered, (1 + LEVEL) / 2))


def share_interval(count: int, total: int) -> Interval:
    """Give a share with Wilson's 95 % interval; all are nan where there is nothing."""
    if not total:
        return Interval(math.nan, math.nan, math.nan)
    share, squared = count / total, NORMAL_QUANTILE**2
    center = (share + squared / (2 * total)) / (1 + squared / total)
    spread = math.sqrt(share * (1 - share) / total + squared / (4 * total**2))
    half = NORMAL_QUANTILE * spread / (1 + squared / total)
    # rounding must not put the share itself outside
    return Interval(share, min(max(center - half, 0.0), share), max(min(center + half, 1.0), share))


def _agreeing_share(values: Sequence[Hashable]) -> float:
    agreeing = sum(one == other for one, other in combinations(values, 2))
    return agreeing / math.comb(len(values), 2)


def _pattern(values: Sequence[float]) -> Pattern:
    return tuple(sorted(values))


def _alpha(patterns: Counter[Pattern], level: Level) -> float:
    """Compute alpha of units that are given as their sorted values and how many there are of each."""
    counts: Counter[float] = Counter()  # of values that can be paired
    for pattern, times in patterns.items():
        for value in pattern:
            counts[value] += times
    total = counts.total()
    distance = _distance(level, counts)
    expected = math.fsum(
        2 * counts[one] * counts[other] * distance(one, other) for one, other in combinations(sorted(counts), 2)
    )
    if not expected:
        return math.nan
    observed = math.fsum(
        times * 2 * math.fsum(distance(one, other) for one, other in combinations(pattern, 2)) / (len(pattern) - 1)
        for pattern, times in patterns.items()
    )
    return 1 - (total - 1) * observed / expected


def _distance(level: Level, counts: Counter[float]) -> Distance:
    """Give the squared difference of two values, the lower one first."""
    match level:
        case Level.NOMINAL:
            return lambda one, other: float(one != other)
        case Level.INTERVAL:
            return lambda one, other: (one - other) ** 2
        case Level.ORDINAL:  # how many values lie between them, each end counted by half
            order = sorted(counts)
            below = dict(zip(order, _running_sums(counts[value] for value in order), strict=True))
            middle = {value: below[value] + counts[value] / 2 for value in order}
            return lambda one, other: (middle[one] - middle[other]) ** 2


def _running_sums(counts: Iterable[int]) -> Iterable[int]:
    so_far = 0
    for count in counts:
        yield so_far
        so_far += count


def _quantile(ordered: Sequence[float], share: float) -> float:
    if not ordered:
        return math.nan
    place = share * (len(ordered) - 1)
    below = min(int(place), len(ordered) - 2) if len(ordered) > 1 else 0
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
