"""Which of the possible pairs are taken: strategies and caps, on frames of candidate pairs that no rule speaks against.

Every choice depends on what the rows say and on the seed, never on the order of the input. Ties are broken by place,
which is an order by content, or by a number mixed from the seed and both responses.
"""

import polars as pl

from pipeline.attrition import PAIR_REASONS, Reason
from pipeline.labelled import IS_DECIDED
from pipeline.pair import TAKEN
from pipeline.settings import Settings, Strategy

LOWER_TAIL_LEAST_ROLLOUTS = 8
LOWER_TAIL_DEVIATIONS = 2.0
GOLDEN = 0x9E3779B97F4A7C15


def select_by_strategy(pairs: pl.LazyFrame, settings: Settings) -> pl.LazyFrame:
    """Mark as not selected what the strategy does not take.

    What people decided is taken in any case, and counts as what the strategy takes of the prompt.
    """
    chosen, rejected, margin = pl.col("chosen"), pl.col("rejected"), pl.col("margin")
    people = _people_first(settings)
    # `chosen` and `rejected` rise as rewards fall: the first chosen is the best, the last rejected the worst
    match settings.strategy:
        case Strategy.ALL:
            return pairs
        case Strategy.BEST_WORST:
            return pairs.pipe(_take, 1, [chosen, -rejected.cast(pl.Int64)], spared=people)
        case Strategy.BEST_LOWER_TAIL:
            order = [chosen, _distance_from_lower_tail(), -rejected.cast(pl.Int64)]
            return pairs.pipe(_take, 1, order, spared=people)
        case Strategy.CORRECT_WRONG:
            is_correct, is_wrong = (
                pl.col("chosen_reward") >= settings.threshold,
                pl.col("rejected_reward") < settings.threshold,
            )
            is_left_out = ~(is_correct & is_wrong)
            return pairs.pipe(_mark, is_left_out if people is None else is_left_out & ~people, Reason.NOT_SELECTED)
        case Strategy.RANDOM:
            return pairs.pipe(_take, settings.num_pairs, [mixed(settings.seed)], spared=people)
        case Strategy.TOP:
            order = [-margin, chosen, -rejected.cast(pl.Int64)]
            return pairs.pipe(_take, settings.num_pairs, order, spared=people)
        case Strategy.LENGTH_MATCHED:
            distance = (pl.col("chosen_num_chars") - pl.col("rejected_num_chars")).abs()
            return pairs.pipe(_take, 1, [distance, -margin, rejected], of=["group", "chosen"], spared=people)


def cap_by_prompt(pairs: pl.LazyFrame, settings: Settings) -> pl.LazyFrame:
    """Mark what is beyond --max-pairs-per-prompt: which pairs stay is drawn by the seed, those of people first."""
    if settings.max_pairs_per_prompt is None:
        return pairs
    people = _people_first(settings)
    order = [mixed(settings.seed)] if people is None else [~people, mixed(settings.seed)]
    return pairs.pipe(_take, settings.max_pairs_per_prompt, order, reason=Reason.OVER_CAP)


def cap_by_agent(taken: pl.DataFrame, limit: int, settings: Settings) -> pl.DataFrame:
    """Keep at most `limit` pairs of each agent (of the chosen side): from as many prompts as possible.

    First one pair of each prompt, then a second one, and so on; which ones is drawn by the seed, after those that
    people decided.
    """
    number = pl.int_range(pl.len())
    people = _people_first(settings)
    first = [] if people is None else [~people]
    return (
        taken.lazy()
        .with_columns(draw=mixed(settings.seed))
        .sort("group", *first, "draw", "chosen", "rejected")
        .with_columns(turn=number.over("group"))
        .sort("chosen_agent", "turn", *first, "draw", "chosen", "rejected")
        .with_columns(place=number.over("chosen_agent"))
        .filter(pl.col("place") < limit)
        .sort("chosen", "rejected")
        .drop("draw", "turn", "place")
        .collect()
    )


def mixed(seed: int) -> pl.Expr:
    """Mix seed and both responses to a number, as splitmix64 does (Steele, Lea and Flood 2014).

    Polars' own hash may change between its versions, and with it which pairs are drawn.
    """
    return _finalised(mixed_column("chosen_sample", seed) + _unsigned("rejected_sample"))


def mixed_column(column: str, seed: int) -> pl.Expr:
    """Mix a seed and a column of 64 bits."""
    return _finalised(pl.lit((seed * GOLDEN + 1) % 2**64, pl.UInt64) ^ _unsigned(column))


def _take(
    pairs: pl.LazyFrame,
    num_pairs: int | None,
    order: list[pl.Expr],
    *,
    of: list[str] | None = None,
    reason: Reason = Reason.NOT_SELECTED,
    spared: pl.Expr | None = None,
) -> pl.LazyFrame:
    """Mark all but the first `num_pairs` of each group in the given order; those that are spared come first."""
    order = order if spared is None else [~spared, *order]
    is_taken = pl.col("reason") == TAKEN
    names = [f"order_{number}" for number in range(len(order))]
    ranks = (
        pairs.filter(is_taken)
        .with_columns(**dict(zip(names, order, strict=True)))
        .sort([*(of or ["group"]), *names, "chosen", "rejected"])
        .with_columns(rank=pl.int_range(pl.len()).over(of or ["group"]))
        .select("chosen", "rejected", "rank")
    )
    is_beyond = pl.col("rank") >= num_pairs if spared is None else (pl.col("rank") >= num_pairs) & ~spared
    return (
        pairs.join(ranks, on=["chosen", "rejected"], how="left", maintain_order="left")
        .pipe(_mark, is_beyond.fill_null(False), reason)
        .drop("rank")
    )


def _people_first(settings: Settings) -> pl.Expr | None:
    """Say which pairs people decided; None where there are no labels."""
    return None if settings.labels is None else IS_DECIDED


def _mark(pairs: pl.LazyFrame, is_left_out: pl.Expr, reason: Reason) -> pl.LazyFrame:
    code = pl.lit(PAIR_REASONS.index(reason), pl.UInt8)
    is_taken = pl.col("reason") == TAKEN
    return pairs.with_columns(reason=pl.when(is_taken & is_left_out).then(code).otherwise("reason"))


def _distance_from_lower_tail() -> pl.Expr:
    """Measure how far a rejected reward is from two deviations below the mean of its prompt's rollouts.

    With fewer than eight rollouts that point means little, and the worst is taken (Finding the Sweet Spot,
    arXiv 2502.16825: the worst of many is an outlier, and a poor choice).
    """
    lower = pl.col("group_mean") - LOWER_TAIL_DEVIATIONS * pl.col("group_deviation")
    distance = (pl.col("rejected_reward") - lower).abs()
    return (
        pl.when(pl.col("group_size") >= LOWER_TAIL_LEAST_ROLLOUTS).then(distance).otherwise(pl.col("rejected_reward"))
    )


def _unsigned(column: str) -> pl.Expr:
    return pl.col(column).reinterpret(signed=False)


def _finalised(number: pl.Expr) -> pl.Expr:
    number = (number ^ (number // 2**30)) * pl.lit(0xBF58476D1CE4E5B9, pl.UInt64)
    number = (number ^ (number // 2**27)) * pl.lit(0x94D049BB133111EB, pl.UInt64)
    return number ^ (number // 2**31)
