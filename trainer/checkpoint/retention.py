"""Which checkpoints stay, and which is the best: pure functions of their steps and metrics."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Standing:
    """A saved policy, as far as it is compared."""

    step: int
    value: float | None  # of the metric; None where there is none


def best_of(standings: Sequence[Standing], *, higher_is_better: bool) -> Standing | None:
    """Give the best, of equals the newer; None where none has the metric."""
    ranked = [each for each in _ranked(standings, higher_is_better) if _is_known(each)]
    return ranked[0] if ranked else None


def kept(standings: Sequence[Standing], *, keep_top_k: int | None, higher_is_better: bool) -> set[int]:
    """Name the steps that stay: the best, or without a metric the newest, and the newest in any case."""
    if keep_top_k is None or not standings:
        return {each.step for each in standings}
    best = _ranked(standings, higher_is_better)[:keep_top_k]
    return {each.step for each in best} | {max(each.step for each in standings)}


def resumable(standings: Sequence[Standing], *, keep_states: int | None) -> set[int]:
    """Name the steps whose state stays: the newest."""
    steps = sorted(each.step for each in standings)
    return set(steps if keep_states is None else steps[-keep_states:])


def _ranked(standings: Sequence[Standing], higher_is_better: bool) -> list[Standing]:
    """Sort from the best to the worst; those without the metric come last, the newer first."""

    def key(one: Standing) -> tuple[bool, float, int]:
        value = one.value if one.value is not None and _is_known(one) else 0.0
        return not _is_known(one), -value if higher_is_better else value, -one.step

    return sorted(standings, key=key)


def _is_known(one: Standing) -> bool:
    return one.value is not None and math.isfinite(one.value)
