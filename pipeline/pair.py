"""Which rollouts could be paired, in Polars: LazyFrame to LazyFrame, on the slim frame `Rollouts.ranked`.

A frame of pairs has chosen and rejected (places in the ranked frame), margin, and reason: the first rule that speaks
against the pair, as a position in PAIR_REASONS, or TAKEN.
"""

import math
import sys
from collections.abc import Iterator

import polars as pl

from pipeline.attrition import PAIR_REASONS, Reason
from pipeline.labelled import IS_DECIDED, IS_UNDECIDED
from pipeline.reasoning import ReasoningPolicy
from pipeline.scan import HAS_REASONING, IS_TRUNCATED
from pipeline.settings import Settings

CANDIDATES_AT_ONCE = 200_000
MAX_CANDIDATES_OF_ONE_PROMPT = 10_000_000  # about 2 GB
TAKEN = len(PAIR_REASONS)

OF_PAIRING = ("reward", "response", "flags", "num_chars", "agent", "sample")
MARGIN = pl.col("chosen_reward") - pl.col("rejected_reward")
GREATEST = sys.float_info.max


def slabs(ranked: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Cut the ranked frame between groups, so that no piece gives many more candidates than are held at once.

    Adds `place`, and `end`, the place behind the last of the group.
    """
    frame = ranked.with_row_index("place").with_columns(end=(pl.col("place").max().over("group") + 1))
    sizes = frame.lazy().group_by("group", maintain_order=True).len().collect()
    candidates = sizes["len"].cast(pl.Int64) * (sizes["len"].cast(pl.Int64) - 1) // 2
    numbers = (candidates.cum_sum() - candidates) // CANDIDATES_AT_ONCE
    ends = sizes["len"].cum_sum()
    start = 0
    for end in ends.filter(numbers != numbers.shift(-1).fill_null(-1)).to_list():
        yield frame[start:end]
        start = end


def candidate_pairs(slab: pl.LazyFrame) -> pl.LazyFrame:
    """Pair every two rollouts of a group whose rewards differ, the higher one chosen."""
    return every_two(slab).filter(pl.col("margin") > 0)


def every_two(slab: pl.LazyFrame, *, columns: tuple[str, ...] = OF_PAIRING) -> pl.LazyFrame:
    """Pair every two rollouts of a group, the one before the other in the ranked frame chosen, with these columns."""
    reward = pl.col("reward")
    slab = slab.with_columns(
        group_size=pl.len().over("group"),
        group_mean=reward.mean().over("group"),
        group_deviation=reward.std(ddof=0).over("group"),
    )
    behind = slab.select(rejected="place", **{f"rejected_{name}": name for name in columns})
    return (
        slab.select(
            "group",
            "group_size",
            "group_mean",
            "group_deviation",
            chosen="place",
            rejected=pl.int_ranges(pl.col("place") + 1, pl.col("end"), dtype=pl.get_index_type()),
            **{f"chosen_{name}": pl.col(name) for name in columns},
        )
        .explode("rejected", empty_as_null=False)
        .join(behind, on="rejected", maintain_order="left")
        .with_columns(margin=MARGIN.clip(upper_bound=GREATEST))
    )


def with_reasons(pairs: pl.LazyFrame, settings: Settings, deviations: pl.LazyFrame) -> pl.LazyFrame:
    """Name the first rule that speaks against each pair; `deviations` has the reward's by agent.

    What people decided is not held to the rules on rewards.
    """
    below, out_of_bounds = _is_below_margin(settings), _is_out_of_bounds(settings)
    of_people = {}
    if settings.labels is not None:
        of_people = {Reason.NOT_PREFERRED: IS_UNDECIDED}
        below, out_of_bounds = below & ~IS_DECIDED, out_of_bounds & ~IS_DECIDED
    rules = {
        **of_people,
        Reason.BELOW_MARGIN: below,
        Reason.REWARD_BOUNDS: out_of_bounds,
        Reason.EQUAL_RESPONSES: pl.col("chosen_response") == pl.col("rejected_response"),
        Reason.CHOSEN_TRUNCATED: _has("chosen", IS_TRUNCATED),
        Reason.REASONING_DIFFERS: _differs_in_reasoning(settings),
        Reason.LENGTH_RATIO: _is_too_long_apart(settings),
    }
    reason = pl.lit(TAKEN)
    for name, speaks_against in reversed(rules.items()):
        reason = pl.when(speaks_against).then(pl.lit(PAIR_REASONS.index(name))).otherwise(reason)
    if settings.min_margin.in_deviations:
        pairs = pairs.join(deviations, left_on="chosen_agent", right_on="agent", how="left", maintain_order="left")
    return pairs.with_columns(reason=reason.cast(pl.UInt8))


def reward_deviations(ranked: pl.DataFrame) -> pl.DataFrame:
    """Give the standard deviation of the rewards of each agent (population), and their mean.

    Sums are exact before they are rounded, so the figures do not depend on the order of the rows.
    """
    counts = ranked.lazy().group_by("agent", "reward").len().collect()
    rows = []
    for (agent,), part in counts.partition_by("agent", as_dict=True).items():
        weighted = part.select("reward", "len").rows()
        total = sum(count for _, count in weighted)
        scale = max(abs(reward) for reward, _ in weighted) or 1.0  # rewards may be so great that their squares overflow
        mean = math.fsum(reward / scale * count for reward, count in weighted) / total
        variance = math.fsum((reward / scale - mean) ** 2 * count for reward, count in weighted) / total
        rows.append((agent, mean * scale, math.sqrt(variance) * scale))
    schema: dict[str, pl.DataType | type[pl.DataType]] = {
        "agent": ranked.schema["agent"],
        "mean": pl.Float64,
        "deviation": pl.Float64,
    }
    return pl.DataFrame(rows, schema=schema, orient="row")


def _is_below_margin(settings: Settings) -> pl.Expr:
    least = pl.lit(settings.min_margin.value)
    return pl.col("margin") < (least * pl.col("deviation") if settings.min_margin.in_deviations else least)


def _is_out_of_bounds(settings: Settings) -> pl.Expr:
    too_low = too_high = pl.lit(False)
    if settings.min_chosen_reward is not None:
        too_low = pl.col("chosen_reward") < settings.min_chosen_reward
    if settings.max_rejected_reward is not None:
        too_high = pl.col("rejected_reward") > settings.max_rejected_reward
    return too_low | too_high


def _differs_in_reasoning(settings: Settings) -> pl.Expr:
    if settings.reasoning is ReasoningPolicy.STRIP:  # then it is on neither side
        return pl.lit(False)
    return _has("chosen", HAS_REASONING) != _has("rejected", HAS_REASONING)


def _is_too_long_apart(settings: Settings) -> pl.Expr:
    if settings.max_length_ratio is None:
        return pl.lit(False)
    longer = pl.max_horizontal("chosen_num_chars", "rejected_num_chars")
    shorter = pl.min_horizontal("chosen_num_chars", "rejected_num_chars").clip(lower_bound=1)
    return longer > shorter * settings.max_length_ratio


def _has(side: str, flag: int) -> pl.Expr:
    return pl.col(f"{side}_flags").cast(pl.Int64) & flag != 0
