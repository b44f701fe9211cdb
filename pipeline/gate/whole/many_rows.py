"""Comparing rows by their keys in Polars, piece by piece: what it takes beside the columns is bounded for each row.

The keys are hashes, so an equal range of them has an equal share of the keys, and equal ones are in one part. Each part
is looked at in slices of the rows, for the case that many rows have one key. Only what is found is held for all parts:
eight bytes for each. `few_rows` has the same functions, which give the same.
"""

import heapq
import itertools
from array import array
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline.gate.gate import NO_REWARD
from pipeline.gate.whole.few_rows import Columns, Repeat, Spread

if TYPE_CHECKING:
    import polars as pl

MAX_PARTS = 16
ROWS_IN_PART = 1 << 18
"""From which on more parts are made: each costs a little time, whatever is in it."""
NUM_KEYS = 1 << 64
NUM_SLICES = 8
ROWS_IN_SLICES = 1 << 20
"""From which on the rows are looked at in slices."""
NUMBER_BITS = 32
AT_ONCE = 1 << 16
"""Findings that are Python's objects at a time."""

Part = tuple[int, int]


def repeats(columns: Columns) -> Iterator[Repeat]:
    """Yield the rows that repeat or contradict an earlier one of their kind, in order."""
    rows, rewards = _series(columns["row"]), _series(columns["reward"])
    repeated: list[pl.Series] = []
    reversed_: list[pl.Series] = []
    for is_pair in _kinds(rewards):
        for part in _parts(len(rows)):
            related = _related(_pieces(rows, part, rewards, is_pair=is_pair))
            if not related.is_empty():
                for piece in _pieces(rows, part, rewards, is_pair=is_pair):
                    told = piece.with_columns(_group()).join(related, on="group")
                    repeated.append(_later(told, "own"))
                    if is_pair:
                        reversed_.append(_later(told, "other"))
    yield from heapq.merge(
        (Repeat(number, False, first) for number, first in _unpacked(repeated)),
        (Repeat(number, True, first) for number, first in _unpacked(reversed_)),
    )


def leaks(columns: Columns, against: "array[int]") -> Iterator[int]:
    """Yield the numbers of the rows whose prompt is in `against`, in order."""
    import polars as pl

    prompts, others = _series(columns["prompt"]), _series(against)
    found = []
    for part in _parts(max(len(prompts), len(others))):
        known = pl.concat(piece["key"].unique() for piece in _pieces(others, part)).unique().implode()
        found += [piece.filter(pl.col("key").is_in(known))["number"] for piece in _pieces(prompts, part)]
    yield from _in_order(found)


def spreads(columns: Columns) -> tuple[Spread, Spread]:
    """Count prompts: of the pairs, and of the rollouts."""
    prompts, rewards = _series(columns["prompt"]), _series(columns["reward"])
    told = {
        is_pair: [_spread(_pieces(prompts, part, rewards, is_pair=is_pair)) for part in _parts(len(prompts))]
        for is_pair in _kinds(rewards)
    }
    return _whole(told.get(True, [])), _whole(told.get(False, []))


def _series(column: "array[int]") -> "pl.Series":
    """See a column as Polars does, without a copy; the column can't grow as long as the series is there."""
    import polars as pl
    import pyarrow as pa

    kind = pa.uint64() if column.typecode == "Q" else pa.uint32()
    series = pl.from_arrow(pa.Array.from_buffers(kind, len(column), [None, pa.py_buffer(column)]))
    assert isinstance(series, pl.Series)
    return series


def _kinds(rewards: "pl.Series") -> list[bool]:
    """Say which kinds there are: pairs (True), rollouts (False)."""
    return (rewards == NO_REWARD).unique().to_list()


def _parts(num_rows: int) -> list[Part]:
    """Cut the keys into ranges: least and greatest key of each."""
    number = min(MAX_PARTS, -(-num_rows // ROWS_IN_PART) or 1)
    edges = [part * NUM_KEYS // number for part in range(number + 1)]
    return [(least, beyond - 1) for least, beyond in itertools.pairwise(edges)]


def _pieces(
    keys: "pl.Series", part: Part, rewards: "pl.Series | None" = None, *, is_pair: bool = True
) -> "Iterator[pl.DataFrame]":
    """Yield number, key and reward of the rows whose keys are in a part, of one kind if `rewards` are given."""
    import polars as pl

    least, most = (pl.lit(key, dtype=pl.UInt64) for key in part)
    size = -(-len(keys) // (NUM_SLICES if len(keys) > ROWS_IN_SLICES else 1)) or 1
    for start in range(0, len(keys) or 1, size):
        within = keys.slice(start, size)
        is_in_part = within.is_between(least, most)
        piece = {"key": within}
        if rewards is not None:
            piece["reward"] = rewards.slice(start, size)
            is_in_part &= (piece["reward"] == NO_REWARD) == is_pair
        place = is_in_part.arg_true()
        yield pl.DataFrame({"number": place + start, **{name: each.gather(place) for name, each in piece.items()}})


def _group() -> "pl.Expr":
    """Name what is equal for pairs in either order."""
    import polars as pl

    return (pl.col("key") | pl.lit(1, dtype=pl.UInt64)).alias("group")


def _related(pieces: "Iterator[pl.DataFrame]") -> "pl.DataFrame":
    """Give the groups of more than one row, each with the first row of the odd key and of the even one."""
    import polars as pl

    is_odd = pl.col("key") == pl.col("group")
    firsts = [pl.when(is_odd).then("number").alias("odd"), pl.when(~is_odd).then("number").alias("even")]
    sums = [pl.col("odd").min(), pl.col("even").min(), pl.col("rows").sum()]
    of_pieces = [
        piece.with_columns(_group(), rows=pl.lit(1, dtype=pl.UInt32)).with_columns(firsts).group_by("group").agg(sums)
        for piece in pieces
    ]
    return pl.concat(of_pieces).group_by("group").agg(sums).filter(pl.col("rows") > 1)


def _later(told: "pl.DataFrame", of_key: str) -> "pl.Series":
    """Give the rows that have an earlier one of their own key, or of the other: both numbers in one integer."""
    import polars as pl

    is_odd = pl.col("key") == pl.col("group")
    first = pl.when(is_odd if of_key == "own" else ~is_odd).then("odd").otherwise("even")
    packed = pl.col("number").cast(pl.UInt64) * (1 << NUMBER_BITS) + first
    return told.filter(first < pl.col("number")).select(packed).to_series()


def _spread(pieces: "Iterator[pl.DataFrame]") -> Spread:
    """Count the prompts of one part."""
    import polars as pl

    sums = [pl.col("rows").sum(), pl.col("number").min(), pl.col("least").min(), pl.col("most").max()]
    new = {"rows": pl.lit(1, dtype=pl.UInt32), "least": pl.col("reward"), "most": pl.col("reward")}
    groups = pl.concat(piece.with_columns(**new).group_by("key").agg(sums) for piece in pieces)
    groups = groups.group_by("key").agg(sums)
    if groups.is_empty():
        return Spread()
    most = groups.filter(pl.col("rows") == pl.col("rows").max())
    repeated = groups.filter(pl.col("rows") > 1)
    return Spread(
        int(groups["rows"].sum()),
        len(groups),
        most["rows"][0],
        min(most["number"]),
        int(repeated["rows"].sum()),
        len(repeated),
        int((repeated["least"] < repeated["most"]).sum()),
    )


def _whole(parts: list[Spread]) -> Spread:
    """Add up what the parts have."""
    most = max(parts, key=lambda part: (part.num_most, -part.place_of_most), default=Spread())
    sums = Spread(*map(sum, zip(*parts, strict=True))) if parts else Spread()
    return sums._replace(num_most=most.num_most, place_of_most=most.place_of_most)


def _unpacked(found: "list[pl.Series]") -> Iterator[tuple[int, int]]:
    return (divmod(packed, 1 << NUMBER_BITS) for packed in _in_order(found))


def _in_order(found: "list[pl.Series]") -> Iterator[int]:
    """Yield integers in order; the list is emptied, so that they aren't held twice."""
    import polars as pl

    if not found:
        return
    column = pl.concat(found)
    found.clear()
    column = column.sort()
    for start in range(0, len(column), AT_ONCE):
        yield from column.slice(start, AT_ONCE).to_list()
