"""From the table of rollouts to the pairs that are written, slab by slab, with a reason for every rollout in none."""

from collections import Counter
from dataclasses import dataclass

import polars as pl

from pipeline.attrition import PAIR_REASONS, LabelUse, Reason
from pipeline.labelled import CONFIRMED, DECIDED, NUMBERS, TURNED, labels_frame, with_labels
from pipeline.labels import Labels
from pipeline.pair import (
    MAX_CANDIDATES_OF_ONE_PROMPT,
    OF_PAIRING,
    TAKEN,
    candidate_pairs,
    every_two,
    reward_deviations,
    slabs,
    with_reasons,
)
from pipeline.scan import HAS_SEVERAL_MESSAGES
from pipeline.select import cap_by_agent, cap_by_prompt, select_by_strategy
from pipeline.settings import Settings
from pipeline.token_ids import NO_IDS
from schemas.errors import DpoError

KEPT = ("group", "chosen", "rejected", "margin")
KEPT_FOR_CAP = ("chosen_agent", "chosen_sample", "rejected_sample")
KEPT_OF_LABELS = ("label", "stance")


@dataclass(frozen=True)
class Pairing:
    """The pairs, as places in the ranked frame, and what became of every rollout."""

    pairs: pl.DataFrame  # group, chosen, rejected, margin; sorted; with labels: label, stance
    unpaired: pl.DataFrame  # row, reason: the rollouts in no pair
    num_groups: int
    num_varied_groups: int  # groups whose rewards differ
    num_paired_groups: int
    num_paired_rollouts: int
    left_out: Counter[Reason]  # candidate pairs that were not taken
    num_several_messages: int
    num_with_token_ids: int | None = None  # None: they were not asked for
    labels: LabelUse | None = None  # None: there are none


def pair_rollouts(ranked: pl.DataFrame, settings: Settings, labels: Labels | None = None) -> Pairing:
    """Pair the rollouts of the ranked frame; `labels` are there where the settings name a file of them.

    Raises:
        DpoError: one prompt alone has more possible pairs than can be looked at.
    """
    _refuse_giants(ranked)
    deviations = reward_deviations(ranked).lazy() if settings.min_margin.in_deviations else pl.LazyFrame()
    known = None if labels is None else labels_frame(labels)
    finished = KEPT if known is None else (*KEPT, *KEPT_OF_LABELS)
    kept = finished if settings.max_pairs_per_agent is None else (*finished, *KEPT_FOR_CAP)
    taken, furthest, left_out = [_no_pairs(ranked).select(kept)], [_NO_REASONS], Counter[Reason]()
    matched: set[int] = set()
    for slab in slabs(ranked):
        candidates = candidate_pairs(slab.lazy()) if known is None else _labelled_candidates(slab.lazy(), known)
        looked_at = candidates.pipe(with_reasons, settings, deviations)
        pairs = looked_at.pipe(select_by_strategy, settings).pipe(cap_by_prompt, settings).collect()
        is_taken = pairs["reason"] == TAKEN
        taken.append(pairs.filter(is_taken).select(kept))
        furthest.append(_furthest_reasons(pairs))
        left_out += _counted(pairs.filter(~is_taken)["reason"])
        if known is not None:
            matched.update(pairs["label"].drop_nulls().unique())
    pairs = pl.concat(taken)
    if settings.max_pairs_per_agent is not None:
        num_before = len(pairs)
        pairs = cap_by_agent(pairs, settings.max_pairs_per_agent, settings).select(finished)
        left_out[Reason.OVER_CAP] += num_before - len(pairs)
    groups = ranked.lazy().group_by("group").agg(alone=pl.len() == 1, varies=_varies()).collect()
    unpaired = _unpaired(ranked, groups, pairs, pl.concat(furthest))
    has_several = ranked.select(pl.col("flags").cast(pl.Int64) & HAS_SEVERAL_MESSAGES != 0).to_series()
    return Pairing(
        pairs=pairs,
        unpaired=unpaired,
        num_groups=len(groups),
        num_varied_groups=int(groups["varies"].sum()),
        num_paired_groups=pairs["group"].n_unique(),
        num_paired_rollouts=len(ranked) - len(unpaired),
        left_out=+left_out,
        num_several_messages=int((has_several.gather(pairs["chosen"]) | has_several.gather(pairs["rejected"])).sum()),
        num_with_token_ids=_num_with_token_ids(ranked, pairs) if settings.token_ids else None,
        labels=None if labels is None else _label_use(labels, len(matched), pairs),
    )


def _labelled_candidates(slab: pl.LazyFrame, labels: pl.DataFrame) -> pl.LazyFrame:
    columns = (*OF_PAIRING, *NUMBERS)
    return every_two(slab, columns=columns).pipe(with_labels, labels, sides=columns)


def _label_use(labels: Labels, num_matched: int, pairs: pl.DataFrame) -> LabelUse:
    of_stance = dict(pairs["stance"].value_counts().iter_rows())
    kinds = (of_stance.get(stance, 0) for stance in (CONFIRMED, TURNED, DECIDED))
    return LabelUse(labels.num_read, num_matched, labels.num_repeated, labels.num_contradicting, *kinds)


def _num_with_token_ids(ranked: pl.DataFrame, pairs: pl.DataFrame) -> int:
    """Count the pairs whose two sides answer one prompt in token ids."""
    asked = ranked["prompt_tokens"]
    of_chosen = asked.gather(pairs["chosen"])
    return int(((of_chosen == asked.gather(pairs["rejected"])) & (of_chosen != NO_IDS)).sum())


def _varies() -> pl.Expr:
    return pl.col("reward").min() != pl.col("reward").max()


_NO_REASONS = pl.DataFrame(schema={"place": pl.get_index_type(), "furthest": pl.UInt8})


def _no_pairs(ranked: pl.DataFrame) -> pl.DataFrame:
    index = pl.get_index_type()
    schema = {"group": ranked.schema["group"], "chosen": index, "rejected": index, "margin": pl.Float64}
    agent = {"chosen_agent": ranked.schema["agent"]}
    samples = {"chosen_sample": pl.Int64, "rejected_sample": pl.Int64}
    return pl.DataFrame(schema={**schema, **agent, **samples, "label": pl.Int32, "stance": pl.UInt8})


def _furthest_reasons(pairs: pl.DataFrame) -> pl.DataFrame:
    """Say for each rollout how far its best pair came."""
    sides = [pairs.lazy().select("reason", place=side) for side in ("chosen", "rejected")]
    return pl.concat(sides).group_by("place").agg(furthest=pl.col("reason").max()).collect()


def _unpaired(ranked: pl.DataFrame, groups: pl.DataFrame, pairs: pl.DataFrame, furthest: pl.DataFrame) -> pl.DataFrame:
    """Name the rollouts that are in no pair, each with its reason."""
    in_pairs = pl.concat([pairs["chosen"], pairs["rejected"].alias("chosen")]).unique().to_frame("place")
    codes = {code: reason.value for code, reason in enumerate(PAIR_REASONS)}
    codes[TAKEN] = Reason.OVER_CAP.value  # taken, but beyond the agent's cap
    return (
        ranked.lazy()
        .select("row", "group")
        .with_row_index("place")
        .join(in_pairs.lazy(), on="place", how="anti", maintain_order="left")
        .join(furthest.lazy(), on="place", how="left", maintain_order="left")
        .join(groups.lazy(), on="group", how="left", maintain_order="left")
        .select(
            "row",
            reason=pl.when("alone")
            .then(pl.lit(Reason.SINGLE_ROLLOUT.value))
            .when(~pl.col("varies") & pl.col("furthest").is_null())  # people compare equal rewards too
            .then(pl.lit(Reason.EQUAL_REWARDS.value))
            .otherwise(pl.col("furthest").replace_strict(codes, return_dtype=pl.String)),
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
