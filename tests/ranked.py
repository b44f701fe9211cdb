"""The table that pairing looks at, made of a few literal rollouts: no files, no texts."""

from typing import Any

import polars as pl

from pipeline.pair import PAIR_REASONS, candidate_pairs, reward_deviations, slabs, with_reasons
from pipeline.pairing import Pairing, pair_rollouts
from pipeline.scan import HAS_REASONING, HAS_SEVERAL_MESSAGES, IS_TRUNCATED
from pipeline.settings import Settings
from pipeline.table import ranked_within_group

SCHEMA = {
    "row": pl.get_index_type(),
    "group_high": pl.Int64,
    "group_low": pl.Int64,
    "namespace": pl.Int32,
    "rollout": pl.Int64,
    "reward": pl.Float64,
    "response": pl.Int64,
    "sample": pl.Int64,
    "flags": pl.Int8,
    "num_chars": pl.Int32,
    "agent": pl.Int16,
    "cluster": pl.Int64,
}


def ranked(*rollouts: dict[str, Any]) -> pl.DataFrame:
    """Rank rollouts, given in the order of the input; what one does not say is as if it differed from the others."""
    rows = [
        {
            "row": row,
            "group_high": ord(rollout.get("group", "a")),
            "group_low": 0,
            "namespace": 0,
            "rollout": -1,
            "reward": rollout["reward"],
            "response": rollout.get("response", row),
            "sample": rollout.get("sample", row),
            "flags": rollout.get("truncated", False) * IS_TRUNCATED
            + rollout.get("reasoning", False) * HAS_REASONING
            + rollout.get("several", False) * HAS_SEVERAL_MESSAGES,
            "num_chars": rollout.get("num_chars", 1),
            "agent": rollout.get("agent", 0),
            "cluster": rollout.get("cluster", ord(rollout.get("group", "a"))),
        }
        for row, rollout in enumerate(rollouts)
    ]
    return ranked_within_group(pl.DataFrame(rows, schema=SCHEMA))


def rollouts_of(groups: str, rewards: list[float], **columns: list[Any]) -> list[dict[str, Any]]:
    """Give rollouts column by column; a group is a letter."""
    names = ["group", "reward", *columns]
    return [dict(zip(names, row, strict=True)) for row in zip(groups, rewards, *columns.values(), strict=True)]


def reasons_by_rows(frame: pl.DataFrame, settings: Settings) -> dict[tuple[int, int], str | None]:
    """Give all candidate pairs as rows of the input, each with the rule that speaks against it."""
    rows, found = frame["row"].to_list(), {}
    deviations = reward_deviations(frame).lazy()
    for slab in slabs(frame):
        pairs = slab.lazy().pipe(candidate_pairs).pipe(with_reasons, settings, deviations).collect()
        for chosen, rejected, reason in pairs.select("chosen", "rejected", "reason").rows():
            name = PAIR_REASONS[reason].value if reason < len(PAIR_REASONS) else None
            found[rows[chosen], rows[rejected]] = name
    return found


def pairing_of(rollouts: list[dict[str, Any]], **settings: Any) -> Pairing:
    """Pair rollouts."""
    return pair_rollouts(ranked(*rollouts), Settings(**settings))


def pairs_of(rollouts: list[dict[str, Any]], **settings: Any) -> list[tuple[int, int]]:
    """Pair rollouts; give the pairs as rows of the input, in the order in which they are written."""
    frame = ranked(*rollouts)
    rows = frame["row"].to_list()
    pairs = pair_rollouts(frame, Settings(**settings)).pairs
    return [(rows[chosen], rows[rejected]) for chosen, rejected in pairs.select("chosen", "rejected").rows()]


def unpaired_of(rollouts: list[dict[str, Any]], **settings: Any) -> dict[int, str]:
    """Pair rollouts; give the reason of each that is in no pair, by row of the input."""
    return dict(sorted(pairing_of(rollouts, **settings).unpaired.rows()))
