"""The figures of pairs, of a file or of what rollouts would give: margins, lengths, prompts, environments."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from views.data.pair_table import PairTable

SEVERAL = ((1, 1), (2, 2), (3, 4), (5, 8), (9, 16), (17, 32), (33, 64), (65, 128), (129, 0))
"""Bins of how many pairs a prompt has; the last one has no end."""
FAR = 10.0
"""Times the range of the middle half of the rewards, beyond which a reward is told as far from all others."""


@dataclass(frozen=True)
class Spread:
    """Where numbers lie; None where there are none."""

    count: int
    least: float | None
    median: float | None
    mean: float | None
    most: float | None


@dataclass(frozen=True)
class EnvironmentPairs:
    """The pairs of one agent."""

    name: str
    pairs: int
    prompts: int
    share: float  # of all pairs
    margin: Spread
    chosen_longer_share: float | None  # of the pairs whose sides differ in length
    median_chosen: float  # characters
    median_rejected: float


@dataclass(frozen=True)
class PairFigures:
    """What is to be said of pairs in numbers; lengths are in characters."""

    pairs: int
    prompts: int
    responses: int  # different ones, each to its prompt
    with_rewards: int  # pairs with both
    margin: Spread
    chosen_reward: Spread
    rejected_reward: Spread
    far_rewards: int  # of both sides, far from all others
    chosen_length: Spread
    rejected_length: Spread
    chosen_longer: int
    rejected_longer: int
    chosen_longer_share: float | None
    chosen_truncated: int
    rejected_truncated: int
    pairs_per_prompt: dict[str, int]  # number of pairs -> number of prompts
    most_pairs_of_a_prompt: int
    most_pairs_of_a_response: int
    environments: tuple[EnvironmentPairs, ...]  # the largest first

    def as_dict(self) -> dict[str, Any]:
        """Give the figures as JSON types."""
        return asdict(self)


def figures_of(table: PairTable) -> PairFigures:
    """Sum up pairs."""
    frame = table.frame
    per_prompt = frame.lazy().group_by("prompt").len().collect()["len"]
    responses = pl.concat([frame.select("prompt", response=side) for side in ("chosen", "rejected")])
    per_response = responses.lazy().group_by("prompt", "response").len().collect()["len"]
    longer, shorter = _longer(frame)
    return PairFigures(
        pairs=len(frame),
        prompts=len(per_prompt),
        responses=len(per_response),
        with_rewards=frame["margin"].count(),
        margin=spread_of(frame["margin"]),
        chosen_reward=spread_of(frame["chosen_reward"]),
        rejected_reward=spread_of(frame["rejected_reward"]),
        far_rewards=num_far(pl.concat([frame["chosen_reward"], frame["rejected_reward"].alias("chosen_reward")])),
        chosen_length=spread_of(frame["chosen_length"]),
        rejected_length=spread_of(frame["rejected_length"]),
        chosen_longer=longer,
        rejected_longer=shorter,
        chosen_longer_share=share(longer, longer + shorter),
        chosen_truncated=int((frame["chosen_truncated"] != 0).sum()),
        rejected_truncated=int((frame["rejected_truncated"] != 0).sum()),
        pairs_per_prompt=_by_number(per_prompt),
        most_pairs_of_a_prompt=_most(per_prompt),
        most_pairs_of_a_response=_most(per_response),
        environments=tuple(sorted(_environments(table), key=lambda each: (-each.pairs, each.name))),
    )


def share(part: int, whole: int) -> float | None:
    """Give a share of one; None of nothing."""
    return part / whole if whole else None


def spread_of(values: pl.Series) -> Spread:
    """Say where numbers lie; halves are added, for rewards may be as great as floats get."""
    values = values.drop_nulls().cast(pl.Float64).sort()
    if not len(values):
        return Spread(0, None, None, None, None)
    middle = float(values[(len(values) - 1) // 2]) / 2 + float(values[len(values) // 2]) / 2
    mean = float(values.mean())  # type: ignore[arg-type]
    if not math.isfinite(mean):  # the sum is beyond the floats
        mean = min(max(float((values / len(values)).sum()), float(values[0])), float(values[-1]))
    return Spread(len(values), float(values[0]), middle, mean, float(values[-1]))


def num_far(rewards: pl.Series) -> int:
    """Count the rewards that lie far from all others, which tell of a failed verifier or of another scale."""
    ordered = rewards.drop_nulls().sort()
    if len(ordered) < 20:
        return 0
    low, high = float(ordered[len(ordered) // 4]), float(ordered[3 * len(ordered) // 4])
    if not high > low:  # most are the same, and others then are no error
        low, high = float(ordered[len(ordered) // 50]), float(ordered[-1 - len(ordered) // 50])
    reach = FAR * (high / 2 - low / 2) * 2
    if not reach > 0:
        return 0
    return int(((ordered < low - reach) | (ordered > high + reach)).sum())


def _environments(table: PairTable) -> list[EnvironmentPairs]:
    found = []
    for (number,), part in table.frame.partition_by("environment", as_dict=True).items():
        longer, shorter = _longer(part)
        found.append(
            EnvironmentPairs(
                name=table.environments[int(number)],
                pairs=len(part),
                prompts=part["prompt"].n_unique(),
                share=len(part) / len(table),
                margin=spread_of(part["margin"]),
                chosen_longer_share=share(longer, longer + shorter),
                median_chosen=spread_of(part["chosen_length"]).median or 0.0,
                median_rejected=spread_of(part["rejected_length"]).median or 0.0,
            )
        )
    return found


def _longer(frame: pl.DataFrame) -> tuple[int, int]:
    """Count the pairs whose chosen response is the longer one, and those whose rejected one is."""
    chosen, rejected = frame["chosen_length"], frame["rejected_length"]
    return int((chosen > rejected).sum()), int((chosen < rejected).sum())


def _most(counts: pl.Series) -> int:
    return int(counts.max() or 0)  # type: ignore[arg-type]


def _by_number(sizes: pl.Series) -> dict[str, int]:
    counts = {}
    for low, high in SEVERAL:
        number = int(((sizes >= low) & (sizes <= high if high else True)).sum())
        if number:
            counts[number_text(low, high)] = number
    return counts


def number_text(low: int, high: int) -> str:
    """Name a bin of counts."""
    if not high:
        return f"{low} or more"
    return f"{low}" if low == high else f"{low} to {high}"


def values_by_environment(table: PairTable, columns: Sequence[str], *, most: int) -> dict[str, list[float]]:
    """Give the values of columns for the largest environments, the others together."""
    sizes = table.frame["environment"].value_counts(sort=True)["environment"].to_list()
    named, rest = (sizes, []) if len(sizes) <= most else (sizes[: most - 1], sizes[most - 1 :])
    found = {}
    for numbers, name in [([each], table.environments[each]) for each in named] + ([(rest, "others")] if rest else []):
        part = table.frame.filter(pl.col("environment").is_in(numbers))
        found[name] = [value for column in columns for value in part[column].drop_nulls().to_list()]
    return found
