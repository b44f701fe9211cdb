"""The slim table of all usable rollouts, without their texts: from here on everything is Polars.

Two frames come out. `Rollouts.ranked` has what pairing looks at, in an order that depends on nothing but what the rows
say: by group, then falling reward, then content. Its rows are called places. `Rollouts.payload` has where each
rollout's text lies, in the order of the input; `row` leads from the one to the other.
"""

from array import array
from dataclasses import dataclass
from typing import Any

import polars as pl

from pipeline.attrition import Reason
from pipeline.gather import Gathered
from pipeline.scan import IS_NAMED, IS_NAMED_EVERYWHERE
from pipeline.settings import DuplicateKeys, Settings

DTYPES = {"b": pl.Int8, "h": pl.Int16, "i": pl.Int32, "q": pl.Int64, "d": pl.Float64}
PAYLOAD = ("line", "prompt_offset", "prompt_bytes", "tools_bytes", "response_offset", "response_bytes")
TOKENS = ("tokens_offset", "prompt_tokens_bytes", "response_tokens_bytes", "loss_mask_bytes")
GROUP = ("group_high", "group_low")

_NO_DUPLICATES = pl.DataFrame(schema={"row": pl.get_index_type(), "reason": pl.String})


@dataclass(frozen=True)
class Rollouts:
    """All usable rollouts, and those that were left out as duplicates."""

    ranked: pl.DataFrame  # row, group, reward, response, sample, flags, num_chars, agent, cluster; tokens of both kinds
    payload: pl.DataFrame
    agents: list[str | None]
    spools: list[str]
    duplicates: pl.DataFrame  # row, reason


def rollouts_of(gathered: Gathered, settings: Settings) -> Rollouts:
    """Build the table; the arrays of `gathered` are given up on the way, so that memory holds each column once."""
    columns = gathered.columns
    if len(gathered.num_lines) == 1:
        columns["namespace"] = array("i", [0]) * len(columns["namespace"])
    tokens = TOKENS if settings.token_ids else ()
    payload = pl.DataFrame([_series(columns, name) for name in ("source", "spool", *PAYLOAD, *tokens)])
    frame = pl.DataFrame([_series(columns, name) for name in list(columns)]).with_row_index("row")
    duplicates = _NO_DUPLICATES
    if settings.duplicate_keys is DuplicateKeys.DROP or frame["sample"].is_duplicated().any():
        duplicates = (
            frame.lazy().pipe(duplicate_reasons, settings.duplicate_keys, has_tokens=settings.token_ids).collect()
        )
        frame = frame.join(duplicates, on="row", how="anti", maintain_order="left")
    if settings.across_files:  # not before: rollouts of two files never have one key
        frame = frame.with_columns(namespace=pl.lit(0, pl.Int32))
    return Rollouts(ranked_within_group(frame), payload, list(gathered.agents), list(gathered.spools), duplicates)


def ranked_within_group(rollouts: pl.DataFrame) -> pl.DataFrame:
    """Sort by group, falling reward and content; number the groups."""
    falling = {"reward"}
    tokens = ["tokens"] if "tokens" in rollouts.columns else []  # one text may be sampled in several ways
    keys = [*GROUP, "namespace", "reward", "response", "sample", *tokens, "row"]
    order = rollouts.select(pl.arg_sort_by(keys, descending=[key in falling for key in keys])).to_series()
    group = rollouts.select(*GROUP, "namespace")[order].select(pl.struct(pl.all()).rle_id()).to_series()
    return rollouts.drop("namespace", "rollout")[order].with_columns(group=group)


def duplicate_reasons(rollouts: pl.LazyFrame, policy: DuplicateKeys, *, has_tokens: bool = False) -> pl.LazyFrame:
    """Name the rows that are the same rollout again, or the same with another reward: columns row and reason.

    Of equal ones one stays. Of contradicting ones none does: nothing says which verdict holds. A rollout is known by
    the row's own ids; rows without any are never taken for duplicates.
    """
    flags = pl.col("flags").cast(pl.Int64)
    is_named = flags & IS_NAMED != 0
    scope = pl.when(flags & IS_NAMED_EVERYWHERE != 0).then(-1).otherwise(pl.col("namespace"))
    rewards = pl.col("reward").n_unique().over("sample", "scope")
    # the one that stays is of the first file by name, so that what stays of a run given twice lies together
    order = pl.col("namespace").cast(pl.Int64) * 2**32 + pl.col("row").cast(pl.Int64)
    if has_tokens:  # one with ids, and always the same, whichever comes first
        is_worse = pl.col("tokens") != pl.col("tokens").max().over("sample", "scope")
        order += is_worse.cast(pl.Int64) * 2**62
    place = order.rank("ordinal").over("sample", "scope")
    num_samples = pl.col("sample").n_unique().over(*GROUP, "namespace", "rollout")
    is_twice = is_named & (rewards == 1) & (place > 1)
    repeats_key = (pl.col("rollout") >= 0) & (num_samples > 1) if policy is DuplicateKeys.DROP else pl.lit(False)
    return (
        rollouts.with_columns(scope=scope)
        .with_columns(
            reason=pl.when(is_named & (rewards > 1))
            .then(pl.lit(Reason.CONFLICTING_REWARDS.value))
            .when(is_twice)
            .then(pl.lit(Reason.DUPLICATE_ROLLOUT.value))
        )
        .with_columns(reason=pl.col("reason").fill_null(pl.when(repeats_key).then(pl.lit(Reason.DUPLICATE_KEY.value))))
        .filter(pl.col("reason").is_not_null())
        .select("row", "reason")
    )


def _series(columns: dict[str, Any], name: str) -> pl.Series:
    column = columns.pop(name)
    return pl.Series(name, column, dtype=DTYPES[column.typecode])
