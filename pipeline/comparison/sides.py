"""Two collections of rollouts, read by what `collect-pairs` reads with, and kept apart.

Both are read in one go, so that their tasks are told apart by the same words: what the materialized inputs say of a
task counts only if it is known of all files.
"""

from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.attrition import Reason
from pipeline.comparison.silent import SCORED_WITHOUT_TEXT, Silent
from pipeline.gather import Gathered
from pipeline.intake import Intake, Machinery, Missing, intake
from pipeline.materialized import read_materialized
from pipeline.settings import Settings
from pipeline.sources import Inputs, Source, find_inputs
from schemas.errors import DpoError, UsageError
from schemas.streams import STDIN, place_text

if TYPE_CHECKING:  # Polars starts threads when it is imported; the worker processes are forked before
    import polars as pl


TASK = ("task_high", "task_low")
"""The two halves of a task's digest."""


@dataclass(frozen=True)
class Side:
    """One of the two collections."""

    scores: "pl.DataFrame"  # both halves of TASK, reward, is_truncated, num_chars, response, agent, row (null: no text)
    payload: "pl.DataFrame"  # by row: where the texts lie
    spools: list[str]
    rows: int
    uncounted: Counter[Reason]
    without_text: int  # counted rollouts whose response was empty or has no form in text
    inputs: Inputs
    missing: list[Missing]


@dataclass(frozen=True)
class Sides:
    """Both, and the folder in which their texts lie until the block ends."""

    before: Side
    after: Side
    scratch: Path


@contextmanager
def two_sides(
    before: Sequence[Path], after: Sequence[Path], settings: Settings, machinery: Machinery
) -> Iterator[Sides]:
    """Read both sides.

    Raises:
        UsageError: both are to come from stdin.
        InputError: an input can't be read.
        DpoError: a side has no rollout files, or a process died.
    """
    if STDIN in before and STDIN in after:
        raise UsageError("both sides come from stdin; name a file for one of them")
    first, second = _inputs(before, "BEFORE"), _inputs(after, "AFTER")
    num_first = len(first.sources)
    shifted = [
        replace(source, number=source.number + num_first, namespace=source.namespace + num_first)
        for source in second.sources
    ]
    both = Inputs([*first.sources, *shifted], [*first.left_out, *second.left_out])
    with intake(both, settings, machinery, keep_texts=True, keep_rejects=True) as taken:
        stable = _Stable(both.sources)
        yield Sides(
            _side(replace(first), taken, settings, stable),
            _side(replace(second, sources=shifted), taken, settings, stable),
            taken.scratch,
        )


def _inputs(places: Sequence[Path], name: str) -> Inputs:
    inputs = find_inputs(places)
    if not inputs.sources:
        told = "; ".join(f"{place_text(path)}: {kind}" for path, kind in inputs.left_out)
        raise DpoError(f"{name} holds no rollouts: {told}")
    return inputs


def _side(inputs: Inputs, taken: Intake, settings: Settings, stable: "_Stable") -> Side:
    import polars as pl

    from pipeline.scan import IS_TRUNCATED
    from pipeline.table import rollouts_of

    numbers = {source.number for source in inputs.sources}
    rejected = [(number, line, reason) for number, line, reason, _ in taken.gathered.rejected if number in numbers]
    rollouts = rollouts_of(_part(taken.gathered, numbers), settings)
    uncounted = Counter(reason for _, _, reason in rejected)
    uncounted += Counter({Reason(reason): num for reason, num in rollouts.duplicates["reason"].value_counts().rows()})
    rows = len(rollouts.ranked) + uncounted.total()
    agents = pl.Series("agent", rollouts.agents, dtype=pl.String)
    spoken = rollouts.ranked.select(
        pl.col("group_high").alias("task_high"),
        pl.col("group_low").alias("task_low"),
        "reward",
        is_truncated=pl.col("flags").cast(pl.Int64) & IS_TRUNCATED != 0,
        num_chars=pl.col("num_chars").cast(pl.Int64),
        response=pl.col("response"),
        agent=agents.gather(rollouts.ranked["agent"]),
        row=pl.col("row").cast(pl.Int64),
    )
    silent = Silent()
    for source in inputs.sources:
        lines = {line: why for number, line, why in rejected if number == source.number and why in SCORED_WITHOUT_TEXT}
        if lines and source.path != STDIN and (source.is_plain or source.path.is_file()):
            silent.read(source, lines, settings, stable.of(source))
    uncounted -= silent.counted
    uncounted[Reason.DUPLICATE_ROLLOUT] += silent.duplicates
    return Side(
        scores=pl.concat([spoken, silent.frame(spoken.schema)]),
        payload=rollouts.payload,
        spools=rollouts.spools,
        rows=rows,
        uncounted=+uncounted,
        without_text=len(silent.agents),
        inputs=inputs,
        missing=[missing for missing in taken.missing if missing.path in {source.path for source in inputs.sources}],
    )


def _part(gathered: Gathered, numbers: set[int]) -> Gathered:
    """Take out the rollouts of some inputs."""
    kept = [number in numbers for number in gathered.columns["source"]]
    columns = {name: array(column.typecode, compress(column, kept)) for name, column in gathered.columns.items()}
    num_lines = Counter({number: gathered.num_lines[number] for number in numbers})
    return Gathered(columns, gathered.agents, gathered.spools, num_lines=num_lines)


class _Stable:
    """What the materialized inputs say of tasks: it counts only if all files have some, as in the intake."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.is_told = all(source.materialized for source in sources)

    def of(self, source: Source) -> dict[int, bytes]:
        """Give it for the tasks of one file, by their index."""
        return read_materialized(source.materialized).stable if self.is_told and source.materialized else {}
