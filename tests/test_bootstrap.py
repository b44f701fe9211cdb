"""Intervals by the bootstrap."""

import math
import random
import statistics

import pytest

from schemas.bootstrap import MOST_DRAWN, bootstrap_mean


def test_an_interval_is_that_of_the_exact_distribution() -> None:
    # Of two values 0 and 1, drawn twice, the mean is 0, 1/2 or 1 in 1/4, 1/2, 1/4 of all cases.
    found = bootstrap_mean([0.0, 1.0])
    assert (found.mean, found.low, found.high) == (0.5, 0.0, 1.0)


def test_equal_values_leave_no_doubt() -> None:
    found = bootstrap_mean([0.25] * 50)
    assert (found.mean, found.low, found.high) == (0.25, 0.25, 0.25)
    assert found.is_clear


def test_of_many_values_the_interval_is_the_normal_one() -> None:
    draw = random.Random(0)
    values = [draw.gauss(1.0, 2.0) for _ in range(MOST_DRAWN)]
    found = bootstrap_mean(values)
    half = 1.96 * statistics.stdev(values) / math.sqrt(len(values))
    assert found.low == pytest.approx(found.mean - half, abs=0.1 * half)
    assert found.high == pytest.approx(found.mean + half, abs=0.1 * half)
    more = bootstrap_mean([*values, values[0]])  # one more than are drawn from: by the deviation
    assert more.low == pytest.approx(found.low, abs=0.1 * half)
    assert more.high == pytest.approx(found.high, abs=0.1 * half)


def test_order_does_not_matter_and_the_seed_does() -> None:
    values = [0.0, 0.1, 0.5, 0.7, 1.0, 0.3]
    assert bootstrap_mean(values) == bootstrap_mean(values[::-1])
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)


def test_no_value_has_no_mean() -> None:
    found = bootstrap_mean([])
    assert math.isnan(found.mean)
    assert not found.is_clear
