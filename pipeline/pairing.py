"""From the table of rollouts to the pairs that are written, slab by slab, with a reason for every rollout in none."""

from collections import Counter
from dataclasses import dataclass

import polars as pl

from pipeline.attrition import PAIR_REASONS, Reason
from pipeline.pair import (
    MAX_CANDIDATES_OF_ONE_PROMPT,
    TAKEN,
    candidate_pairs,
    reward_deviations,
    slabs,
    with_reasons,
)
from pipeline.scan import HAS_SEVERAL_MESSAGES
from pipeline.select import cap_by_agent, cap_by_prompt, select_by_strategy
from pipeline.settings import Settings
from schemas.errors import DpoError

KEPT = ("group", "chosen", "rejected", "margin")
KEPT_FOR_CAPS = ("chosen_agent", "chosen_sample", "rejected_sample")


@dataclass(frozen=True)
class Pairing:
    """The pairs, as places in the ranked frame, and what became of every rollout."""

    pairs: pl.DataFrame  # group, chosen, rejected, margin; sorted
    unpaired: pl.DataFrame  # row, reason: the rollouts in no pair
    num_groups: int
    num_varied_groups: int  # groups whose rewards differ
    num_paired_groups: int
    num_paired_rollouts: int
    left_out: Counter[Reason]  # candidate pairs that were not taken
    num_several_messages: int


def pair_rollouts(ranked: pl.DataFrame, settings: Settings) -> Pairing:
    """Pair the rollouts of the ranked frame.

    Raises:
        DpoError: one prompt alone has more possible pairs than can be looked at.
    """
    _refuse_giants(ranked)
    deviations = reward_deviations(ranked).lazy() if settings.min_margin.in_deviations else pl.LazyFrame()
    taken, reasons, left_out = [_no_pairs(ranked)], [_NO_REASONS], Counter[Reason]()
    for slab in slabs(ranked):
        looked_at = candidate_pairs(slab.lazy()).pipe(with_reasons, settings, deviations)
        pairs = looked_at.pipe(select_by_strategy, settings).pipe(cap_by_prompt, settings).collect()
        is_taken = pairs["reason"] == TAKEN
        taken.append(pairs.filter(is_taken).select(*KEPT, *KEPT_FOR_CAPS))
        reasons.append(_furthest_reasons(pairs))
        left_out += _counted(pairs.filter(~is_taken)["reason"])
    pairs = pl.concat(taken)
    if settings.max_pairs_per_agent is not None:
        num_before = len(pairs)
        pairs = cap_by_agent(pairs, settings.max_pairs_per_agent, settings.seed)
        left_out[Reason.OVER_CAP] += num_before - len(pairs)
    pairs = pairs.select(*KEPT)
    outcome = _outcome(ranked, pairs, pl.concat(reasons))
    paired = outcome.filter(pl.col("reason").is_null())
    messages = outcome.select("place", several=pl.col("flags").cast(pl.Int64) & HAS_SEVERAL_MESSAGES != 0)
    several = messages.filter("several")["place"].implode()
    return Pairing(
        pairs=pairs,
        unpaired=outcome.filter(pl.col("reason").is_not_null()).select("row", "reason"),
        num_groups=outcome["group"].n_unique(),
        num_varied_groups=outcome.filter("varies")["group"].n_unique(),
        num_paired_groups=paired["group"].n_unique(),
        num_paired_rollouts=len(paired),
        left_out=+left_out,
        num_several_messages=int((pairs["chosen"].is_in(several) | pairs["rejected"].is_in(several)).sum()),
    )


_NO_REASONS = pl.DataFrame(schema={"place": pl.get_index_type(), "furthest": pl.UInt8})


def _no_pairs(ranked: pl.DataFrame) -> pl.DataFrame:
    index = pl.get_index_type()
    schema = {"group": ranked.schema["group"], "chosen": index, "rejected": index, "margin": pl.Float64}
    agent = {"chosen_agent": ranked.schema["agent"]}
    return pl.DataFrame(schema={**schema, **agent, "chosen_sample": pl.Int64, "rejected_sample": pl.Int64})


def _furthest_reasons(pairs: pl.DataFrame) -> pl.DataFrame:
    """Say for each rollout how far its best pair came."""
    sides = [pairs.lazy().select("reason", place=side) for side in ("chosen", "rejected")]
    return pl.concat(sides).group_by("place").agg(furthest=pl.col("reason").max()).collect()


def _outcome(ranked: pl.DataFrame, pairs: pl.DataFrame, furthest: pl.DataFrame) -> pl.DataFrame:
    """Say of each rollout why it is in no pair; null where it is in one."""
    in_pairs = pl.concat([pairs.select(place="chosen"), pairs.select(place="rejected")]).unique()
    names = dict(enumerate([*(reason.value for reason in PAIR_REASONS), Reason.OVER_CAP.value]))  # taken, but capped
    return (
        ranked.lazy()
        .with_row_index("place")
        .select(
            "place",
            "row",
            "group",
            "flags",
            alone=pl.len().over("group") == 1,
            varies=pl.col("reward").min().over("group") != pl.col("reward").max().over("group"),
        )
        .join(in_pairs.lazy().with_columns(paired=True), on="place", how="left", maintain_order="left")
        .join(furthest.lazy(), on="place", how="left", maintain_order="left")
        .with_columns(
            reason=pl.when("paired")
            .then(None)
            .when("alone")
            .then(pl.lit(Reason.SINGLE_ROLLOUT.value))
            .when(~pl.col("varies"))
            .then(pl.lit(Reason.EQUAL_REWARDS.value))
            .otherwise(pl.col("furthest").replace_strict(names, return_dtype=pl.String))
        )
        .collect()
    )


def _counted(reasons: pl.Series) -> Counter[Reason]:
    return Counter({PAIR_REASONS[code]: count for code, count in reasons.value_counts().iter_rows()})


def _refuse_giants(ranked: pl.DataFrame) -> None:
    largest = ranked.lazy().group_by("group").len().select(pl.col("len").max()).collect().item() or 0
    if largest * (largest - 1) // 2 > MAX_CANDIDATES_OF_ONE_PROMPT:
        raise DpoError(
            f"one prompt has {largest:,} rollouts, so {largest * (largest - 1) // 2:,} possible pairs; "
            "collect from part of its rollouts"
        )
