"""Which rollouts are paired, in Polars: LazyFrame to LazyFrame, on a slim frame without texts.

A frame of rollouts has the columns row (position in the input), group, response (equal for equal texts) and reward; a
frame of pairs has chosen and rejected (rows) and margin.
"""

import polars as pl

ROLLOUT_SCHEMA = {"row": pl.UInt32, "group": pl.String, "response": pl.Binary, "reward": pl.Float64}


def pairs_above_margin(rollouts: pl.LazyFrame, *, min_margin: float) -> pl.LazyFrame:
    """Pair every two rollouts of a group whose rewards differ, and by `min_margin` or more.

    The pairs come in the order of NeMo Gym's recipe: groups by first appearance, in a group the higher reward first,
    equal rewards in input order.
    """
    ranked = rollouts.pipe(ranked_within_group)
    return ranked.pipe(combinations_of_two).pipe(margin_at_least, min_margin)


def distinct_responses(pairs: pl.LazyFrame, rollouts: pl.LazyFrame) -> pl.LazyFrame:
    """Leave out the pairs of two equal texts: whatever their rewards are, they are no preference."""
    responses = rollouts.select("row", "response")
    return (
        pairs.join(responses, left_on="chosen", right_on="row", maintain_order="left")
        .join(responses, left_on="rejected", right_on="row", maintain_order="left", suffix="_rejected")
        .filter(pl.col("response") != pl.col("response_rejected"))
        .select("chosen", "rejected", "margin")
    )


def ranked_within_group(rollouts: pl.LazyFrame) -> pl.LazyFrame:
    """Sort by group and falling reward; number the places; `end` is the place behind the group's last."""
    return (
        rollouts.with_columns(first=pl.col("row").min().over("group"))
        .sort(["first", "reward", "row"], descending=[False, True, False])
        .with_row_index("place")
        .with_columns(end=pl.col("place").max().over("first") + 1)
    )


def combinations_of_two(ranked: pl.LazyFrame) -> pl.LazyFrame:
    """Put each rollout before each that ranks behind it in its group."""
    behind = ranked.select(other=pl.col("place"), rejected=pl.col("row"), rejected_reward=pl.col("reward"))
    return (
        ranked.select(
            "place",
            chosen=pl.col("row"),
            chosen_reward=pl.col("reward"),
            other=pl.int_ranges(pl.col("place") + 1, pl.col("end"), dtype=pl.UInt32),
        )
        .explode("other", empty_as_null=False)
        .join(behind, on="other", maintain_order="left")
    )


def margin_at_least(pairs: pl.LazyFrame, min_margin: float) -> pl.LazyFrame:
    """Keep the pairs whose rewards differ by `min_margin` or more; a tie is never a preference."""
    margin = pl.col("chosen_reward") - pl.col("rejected_reward")
    return (
        pairs.with_columns(margin=margin)
        .filter((pl.col("margin") >= min_margin) & (pl.col("margin") > 0))
        .select("chosen", "rejected", "margin")
    )


def unpaired_reasons(rollouts: pl.LazyFrame, *, candidates: pl.LazyFrame, pairs: pl.LazyFrame) -> pl.LazyFrame:
    """Say for each rollout why it is in none of the pairs; null where it is in one.

    `candidates` are the pairs before those of equal texts were left out. Returns the columns row, group, reason.
    """
    alone = pl.len().over("group") == 1
    equal = pl.col("reward").min().over("group") == pl.col("reward").max().over("group")
    return (
        rollouts.with_columns(alone=alone, equal=equal)
        .join(_rows_of(pairs).with_columns(paired=True), on="row", how="left")
        .join(_rows_of(candidates).with_columns(candidate=True), on="row", how="left")
        .select(
            "row",
            "group",
            reason=pl.when("paired")
            .then(None)
            .when("alone")
            .then(pl.lit("single_rollout"))
            .when("equal")
            .then(pl.lit("equal_rewards"))
            .when("candidate")
            .then(pl.lit("equal_responses"))
            .otherwise(pl.lit("below_margin")),
        )
    )


def _rows_of(pairs: pl.LazyFrame) -> pl.LazyFrame:
    return pl.concat([pairs.select(row="chosen"), pairs.select(row="rejected")]).unique()
