"""Numbers counted into bins that a reader can make something of, whatever the numbers are."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

NUM_BINS = 20
FAR_SHARE = 0.01
"""Share of the values at each end that may lie in the outermost bin, where they would make all others one bar."""
MOST_DRAWN = 1e15
LEAST_SPREAD = 1e-9  # of the greatest value; below it the edges of bins can't be told apart


@dataclass(frozen=True)
class Bins:
    """Counts by name between common edges."""

    edges: tuple[float, ...]
    counts: dict[str, tuple[int, ...]]
    num_beyond: int = 0  # values outside of the edges, counted in the outermost bins


def binned(values: Mapping[str, Sequence[float]], *, log: bool = False) -> Bins | None:
    """Count finite values into equal bins, or into bins of equal ratio; None where there is nothing to draw.

    Where a few values lie far from all others, the bins cover the others, and the outermost ones have the rest.
    """
    every = sorted(value for each in values.values() for value in each)
    if not every or max(abs(every[0]), abs(every[-1])) > MOST_DRAWN:
        return None
    low, high = every[0], every[-1]
    cut = int(len(every) * FAR_SHARE)
    inner = every[cut], every[-1 - cut]
    if inner[0] < inner[1] and high - low > 10 * (inner[1] - inner[0]):
        low, high = inner
    if log:
        low, high = math.log10(max(low, 1)), math.log10(max(high, 1))
    if high - low <= LEAST_SPREAD * max(abs(high), abs(low)):
        half = max(abs(low) / 10, 0.5) if not log else 0.1
        low, high, num_bins = low - half, high + half, NUM_BINS + 1  # the value lies in the middle of a bin
    else:
        num_bins = NUM_BINS
    edges = [low + (high - low) * place / num_bins for place in range(num_bins + 1)]
    counts = {name: _counts(each, low, high, num_bins, log=log) for name, each in values.items()}
    shown = tuple(10**edge for edge in edges) if log else tuple(edges)
    beyond = 0 if log else sum(value < low or value > high for value in every)
    return Bins(shown, counts, beyond)


def _counts(values: Sequence[float], low: float, high: float, num_bins: int, *, log: bool) -> tuple[int, ...]:
    counts = [0] * num_bins
    for value in values:
        place = math.log10(max(value, 1)) if log else value
        counts[min(max(int((place - low) / (high - low) * num_bins), 0), num_bins - 1)] += 1
    return tuple(counts)
