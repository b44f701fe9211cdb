"""Intervals of means over pairs, with whole prompts drawn: pairs of one prompt share responses, so they err together.

Each of the draws takes as many prompts as there are, with replacement, and divides the sum over their pairs by the
number of their pairs (Davison and Hinkley 1997, Bootstrap Methods and their Application, sections 2.4 and 3.8). So the
mean is that over pairs, as a training reports it, and not a mean of prompts' means, which is another number where
prompts have different numbers of pairs.

Legend: `P` pairs, `M` metrics, `G` prompts, `B` draws.
"""

import math

import numpy as np
from numpy.typing import NDArray

from schemas.bootstrap import LEVEL, MOST_DRAWN, NORMAL_QUANTILE, NUM_RESAMPLES, Interval

Numbers = NDArray[np.float64]


def intervals_by_prompt(values: Numbers, prompts: NDArray[np.int64], *, seed: int = 0) -> list[Interval]:
    """Give the mean of each metric over the pairs with its 95 % interval; the order of the pairs changes nothing.

    Of a single prompt nothing is known of others: then both ends are nan.

    Args:
        values: (P, M).
        prompts: (P,), the number of each pair's prompt.
    """
    if not len(values):
        return [Interval(math.nan, math.nan, math.nan)] * values.shape[1]
    sums, counts = prompt_sums(values, prompts)
    means = sums.sum(axis=0) / counts.sum()
    if len(counts) == 1:
        return [Interval(float(mean), math.nan, math.nan) for mean in means]
    low, high = _normal(sums, counts, means) if len(counts) > MOST_DRAWN else _drawn(sums, counts, seed)
    return [Interval(*map(float, each)) for each in zip(means, low, high, strict=True)]


def prompt_sums(values: Numbers, prompts: NDArray[np.int64]) -> tuple[Numbers, Numbers]:
    """Sum over the pairs of each prompt, and count them: (G, M) and (G,), in an order by what they are."""
    _, numbers = np.unique(prompts, return_inverse=True)
    num_prompts = int(numbers.max()) + 1
    counts = np.bincount(numbers, minlength=num_prompts).astype(np.float64)
    order = np.lexsort((*values.T, numbers))  # sums round by their order
    sums = np.zeros((num_prompts, values.shape[1]))
    np.add.at(sums, numbers[order], values[order])
    by_content = np.lexsort((*sums.T, counts))
    return sums[by_content], counts[by_content]


def draws(num_prompts: int, seed: int) -> Numbers:
    """Say how often each draw has each prompt: (B, G)."""
    shares = np.full(num_prompts, 1 / num_prompts)
    return np.random.default_rng(seed).multinomial(num_prompts, shares, size=NUM_RESAMPLES).astype(np.float64)


def _drawn(sums: Numbers, counts: Numbers, seed: int) -> tuple[Numbers, Numbers]:
    times = draws(len(counts), seed)  # (B, G)
    means = (times @ sums) / (times @ counts)[:, None]  # (B, M)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return low, high


def _normal(sums: Numbers, counts: Numbers, means: Numbers) -> tuple[Numbers, Numbers]:
    """Take the interval of many prompts from the deviation of a ratio of sums."""
    residuals = sums - means * counts[:, None]
    num = len(counts)
    deviation = np.sqrt(num / (num - 1) * (residuals**2).sum(axis=0)) / counts.sum()
    return means - NORMAL_QUANTILE * deviation, means + NORMAL_QUANTILE * deviation
