"""The pairs that a page shows side by side: which ones, their texts, and the buckets that they are filtered by."""

import math
import random
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import polars as pl

from schemas.lines import LineError
from schemas.preference import PreferencePair, pairs_of_rows
from schemas.rows import read_rows
from schemas.streams import place_text
from views.data.options import DataOptions, Sort
from views.data.pair_table import MOST_NAME, PairTable
from views.text import number

MOST_BUCKETS = 5
MUCH, LITTLE = 2.0, 1.1  # ratio of two lengths that is much, and that is next to nothing
LENGTHS = (
    "chosen over twice as long",
    "chosen longer",
    "about the same length",
    "chosen shorter",
    "chosen under half as long",
)
NO_MARGIN = "no rewards"
DIGITS = 3
"""Of margins, as they are shown: those that look alike are alike."""


@dataclass(frozen=True)
class ShownPair:
    """One pair with its texts, and where it is from."""

    pair: PreferencePair
    place: str  # file and line
    chosen_source: str  # the rollout, where the row names it
    rejected_source: str
    margin: float | None
    chosen_reward: float | None
    rejected_reward: float | None
    chosen_length: int
    rejected_length: int
    environment: str


@dataclass(frozen=True)
class Bucket:
    """Some of the shown pairs, as a filter names them."""

    name: str
    count: int


@dataclass(frozen=True)
class Buckets:
    """One way to part the shown pairs: the buckets, and for each pair the position of its own."""

    buckets: tuple[Bucket, ...]
    of_pair: tuple[int, ...]


def chosen_rows(table: PairTable, options: DataOptions) -> tuple[pl.DataFrame, int]:
    """Choose the pairs that are shown, in the order in which they are; say how many could have been.

    The same file, options and seed give the same pairs.
    """
    frame = table.frame.with_row_index("place")
    if options.environment is not None:
        numbers = [number for number, name in enumerate(table.environments) if name == options.environment[:MOST_NAME]]
        frame = frame.filter(pl.col("environment").is_in(numbers))
    if options.min_margin is not None:
        frame = frame.filter(pl.col("margin") >= options.min_margin)
    if options.max_margin is not None:
        frame = frame.filter(pl.col("margin") <= options.max_margin)
    num_wanted = min(options.num_pairs, len(frame))
    match options.sort:
        case Sort.RANDOM:
            places = sorted(random.Random(options.seed).sample(range(len(frame)), num_wanted))
        case Sort.MIXED:
            places = _mixed(frame, num_wanted, options.seed)
        case Sort.MARGIN:
            places = _extremes(frame["margin"].fill_null(0.0).to_list(), num_wanted)
        case Sort.LENGTH:
            both = zip(frame["chosen_length"].to_list(), frame["rejected_length"].to_list(), strict=True)
            places = _extremes([math.log((chosen + 1) / (rejected + 1)) for chosen, rejected in both], num_wanted)
    return frame[places], len(frame)


def shown_pairs(table: PairTable, chosen: pl.DataFrame) -> list[ShownPair]:
    """Read the texts of the chosen pairs: each file once more, and of it only those rows."""
    told = {(row["file"], row["row"]): row for row in chosen.iter_rows(named=True)}
    found: dict[tuple[int, int], ShownPair] = {}
    for position, path in enumerate(table.files):
        wanted = {row for file, row in told if file == position}
        if not wanted:
            continue
        last = max(wanted)
        for at, row in read_rows(path):
            if at in wanted and not isinstance(row, LineError):
                pairs = list(pairs_of_rows([(at, row)], shown=place_text(path), form=table.forms[position]))
                found[position, at] = _shown(pairs[0], row, told[position, at], table)
            if at >= last:
                break
    return [found[place] for place in told if place in found]


def _shown(pair: PreferencePair, row: object, told: dict[str, Any], table: PairTable) -> ShownPair:
    sources: list[object] = ["", ""]
    if isinstance(row, dict):
        completions = row.get("completions")
        if isinstance(completions, list):
            ranked = sorted(completions, key=lambda each: each["rank"])
            sources = [each.get("source") for each in ranked]
        else:
            sources = [row.get("chosen_source"), row.get("rejected_source")]
    chosen_source, rejected_source = (source[:MOST_NAME] if isinstance(source, str) else "" for source in sources)
    return ShownPair(
        pair,
        pair.source,
        chosen_source,
        rejected_source,
        told["margin"],
        told["chosen_reward"],
        told["rejected_reward"],
        told["chosen_length"],
        told["rejected_length"],
        table.environments[told["environment"]],
    )


def margin_buckets(margins: Sequence[float | None]) -> Buckets:
    """Part margins: each value for itself where they are few, else in parts of about the same number."""
    told = [None if margin is None else float(f"{margin:.{DIGITS}g}") for margin in margins]  # 0.7 - 0.4 is 0.3
    values = sorted(margin for margin in told if margin is not None)
    levels = sorted(set(values))
    if len(levels) > MOST_BUCKETS:
        cuts = {values[len(values) * part // MOST_BUCKETS] for part in range(1, MOST_BUCKETS)}
        uppers = sorted({levels[levels.index(cut) - 1] for cut in cuts if cut > levels[0]} | {levels[-1]})
    else:
        uppers = levels
    names, low = [], levels[0] if levels else 0.0
    for upper in uppers:
        first, last = number(low), number(upper)
        names.append(first if first == last else f"{first} to {last}")
        low = levels[min(levels.index(upper) + 1, len(levels) - 1)]
    of_pair = [len(uppers) if margin is None else bisect_left(uppers, margin) for margin in told]
    return _buckets([*names, NO_MARGIN], of_pair)


def length_buckets(pairs: Sequence[ShownPair]) -> Buckets:
    """Part pairs by which side is the longer one, and how much."""
    return _buckets(LENGTHS, [length_bucket(pair.chosen_length, pair.rejected_length) for pair in pairs])


def length_bucket(chosen: int, rejected: int) -> int:
    """Say which of LENGTHS two lengths are."""
    ratio = (chosen + 1) / (rejected + 1)
    if 1 / LITTLE <= ratio <= LITTLE:
        return 2
    if ratio > 1:
        return 0 if ratio > MUCH else 1
    return 4 if ratio < 1 / MUCH else 3


def environment_buckets(pairs: Sequence[ShownPair]) -> Buckets:
    """Part pairs by the agent, the most frequent first; what has no bucket of its own is with the others."""
    counts: dict[str, int] = {}
    for pair in pairs:
        counts[pair.environment] = counts.get(pair.environment, 0) + 1
    names = sorted(counts, key=lambda name: (-counts[name], name))
    named = names if len(names) <= 12 else names[:11]
    of_pair = [named.index(pair.environment) if pair.environment in named else len(named) for pair in pairs]
    return _buckets([*named, "others"], of_pair)


def _buckets(names: Sequence[str], of_pair: Sequence[int]) -> Buckets:
    """Leave out what no pair is in."""
    used = sorted(set(of_pair))
    place = {number: at for at, number in enumerate(used)}
    buckets = tuple(Bucket(names[number], of_pair.count(number)) for number in used)
    return Buckets(buckets, tuple(place[number] for number in of_pair))


def _mixed(frame: pl.DataFrame, num_wanted: int, seed: int) -> list[int]:
    """Draw in turn from every environment and, in it, every tenth of the margins; the greatest margins first."""
    draw = random.Random(seed)
    margins = frame["margin"].fill_null(0.0)
    rank = margins.rank("dense")
    most = max(int(rank.max() or 0), 1)  # type: ignore[arg-type]
    tenth = ((rank - 1) * 10 // most).to_list() if len(frame) else []
    strata: dict[tuple[int, int], list[int]] = {}
    for place, (environment, part) in enumerate(zip(frame["environment"].to_list(), tenth, strict=True)):
        strata.setdefault((environment, int(part)), []).append(place)
    for places in strata.values():
        draw.shuffle(places)
    by_environment: dict[int, list[list[int]]] = {}
    for (environment, _), places in sorted(strata.items()):
        by_environment.setdefault(environment, []).append(places)
    in_turn = [_in_turn(several) for several in by_environment.values()]
    taken = _in_turn(in_turn)[:num_wanted]
    return sorted(taken, key=lambda place: (-margins[place], place))


def _in_turn(several: list[list[int]]) -> list[int]:
    """Take the first of each list, then the second of each."""
    return [each for turn in zip_longest(*several) for each in turn if each is not None]


def _extremes(values: list[float], num_wanted: int) -> list[int]:
    """Take those with the greatest and with the least values, half of each, the greatest first."""
    order = sorted(range(len(values)), key=lambda place: (-values[place], place))
    if num_wanted >= len(order):
        return order
    greatest = (num_wanted + 1) // 2
    return order[:greatest] + order[len(order) - (num_wanted - greatest) :]
