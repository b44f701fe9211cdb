"""The labels of people, joined to the pairs that they are on, in Polars: LazyFrame to LazyFrame.

Pairs come with the numbers that labels are known by, `asked` of the prompt and `said` of each response. They leave with
`label`, the place of their label, and `stance`, what it makes of them. Turned ones have their sides exchanged, so that
from here on `chosen` is what people chose.
"""

from collections.abc import Sequence

import msgspec
import polars as pl

from pipeline.labels import REVIEW_COLUMNS, Labels, Review, number_of_digest

NUMBERS = ("asked", "said")
"""Columns of rollouts that labels are known by."""
UNLABELLED, UNDECIDED, CONFIRMED, TURNED, DECIDED = range(5)
REVIEWS = {CONFIRMED: Review.CONFIRMED, TURNED: Review.TURNED, DECIDED: Review.DECIDED}
IS_DECIDED = pl.col("stance") >= CONFIRMED
"""People preferred one of the two."""
IS_UNDECIDED = pl.col("stance") == UNDECIDED


def labels_frame(labels: Labels) -> pl.DataFrame:
    """Give the labels as columns: the numbers of prompt and responses, that of the preferred one, and their places."""
    rows = [(*label.key, label.preferred, place) for place, label in enumerate(labels.labels)]
    numbers = dict.fromkeys(("asked", "low", "high", "preferred"), pl.Int64)
    return pl.DataFrame(rows, schema={**numbers, "label": pl.Int32}, orient="row")


def with_labels(pairs: pl.LazyFrame, labels: pl.DataFrame, *, sides: Sequence[str]) -> pl.LazyFrame:
    """Find the label of each pair and turn what people turned; `sides` are the columns that each side has.

    Pairs of equal rewards, which come in too, stay only if they have a label.
    """
    said = (pl.col("chosen_said"), pl.col("rejected_said"))
    is_other_way = pl.col("preferred") == pl.col("rejected_said")
    return (
        pairs.with_columns(low=pl.min_horizontal(*said), high=pl.max_horizontal(*said))
        .join(
            labels.lazy(),
            left_on=["chosen_asked", "low", "high"],
            right_on=["asked", "low", "high"],
            how="left",
            maintain_order="left",
        )
        .filter((pl.col("margin") > 0) | pl.col("label").is_not_null())
        .with_columns(stance=_stance(is_other_way), is_other_way=is_other_way.fill_null(False))
        .with_columns(margin=pl.when("is_other_way").then(-pl.col("margin")).otherwise("margin"))
        .with_columns(*_exchanged(("", *(f"_{name}" for name in sides))))
        .drop("is_other_way", "preferred", "low", "high")
    )


def told_of_pairs(pairs: pl.DataFrame, ranked: pl.DataFrame, labels: Labels) -> tuple[list[bytes], list[bool]]:
    """Give what rows say of their review, as JSON behind their other keys, and whether the rewards say the same."""
    encode = msgspec.json.Encoder().encode
    unlabelled = dict.fromkeys(REVIEW_COLUMNS)
    columns = [ranked["said"].gather(pairs["chosen"])]
    columns += [ranked["reward"].gather(pairs[side]) for side in ("chosen", "rejected")]
    told: list[bytes] = []
    for place, stance, said, better, worse in zip(pairs["label"], pairs["stance"], *columns, strict=True):
        row: dict[str, object] = unlabelled
        if place is not None:
            label = labels.labels[place]
            chosen_is_first = number_of_digest(label.first) == said
            row = label.told(REVIEWS[stance], chosen_is_first=chosen_is_first, rewards=(better, worse))
        told.append(b"," + encode(row)[1:-1])
    return told, [stance in (UNLABELLED, CONFIRMED) for stance in pairs["stance"]]


def _stance(is_other_way: pl.Expr) -> pl.Expr:
    stance = (
        pl.when(pl.col("label").is_null())
        .then(pl.lit(UNLABELLED))
        .when(pl.col("preferred").is_null())
        .then(pl.lit(UNDECIDED))
        .when(pl.col("margin") == 0)
        .then(pl.lit(DECIDED))
        .when(is_other_way)
        .then(pl.lit(TURNED))
        .otherwise(pl.lit(CONFIRMED))
    )
    return stance.cast(pl.UInt8)


def _exchanged(endings: Sequence[str]) -> list[pl.Expr]:
    """Exchange the columns of the two sides where people preferred the other one."""
    return [
        pl.when("is_other_way").then(f"{other}{ending}").otherwise(f"{side}{ending}").alias(f"{side}{ending}")
        for ending in endings
        for side, other in (("chosen", "rejected"), ("rejected", "chosen"))
    ]
