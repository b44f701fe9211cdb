"""`dpo collect-pairs`: from rollout files to a file of preference pairs, with an account of every row."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.attrition import Attrition, Reason, RowDropped
from pipeline.pair import ROLLOUT_SCHEMA, distinct_responses, pairs_above_margin, unpaired_reasons
from pipeline.read import read_rows
from pipeline.rollout import Rollout, rollout_of
from pipeline.write import binary_preference_row
from schemas.atomic import refuse_unwritable
from schemas.errors import UsageError
from schemas.preference import write_rows
from schemas.terminal import path_text


@dataclass(frozen=True)
class Collection:
    """The pairs of some rollout files, not written yet, and the account of every row."""

    rollouts: Sequence[Rollout]
    pairs: pl.DataFrame  # chosen, rejected (positions in `rollouts`), margin
    attrition: Attrition
    first_drops: dict[Reason, str]  # an example of each reason: file:line and what was met

    def write(self, output: Path) -> None:
        """Write the pairs as BinaryPreference JSONL.

        Raises:
            DpoError: the file can't be written.
        """
        write_rows(output, self._rows())

    def _rows(self) -> Iterator[dict[str, Any]]:
        for chosen, rejected, margin in self.pairs.iter_rows():
            yield binary_preference_row(self.rollouts[chosen], self.rollouts[rejected], margin=margin)


def collect_pairs(
    paths: Sequence[Path],
    *,
    min_margin: float,
    advance: Callable[[int], None] = lambda amount: None,
) -> Collection:
    """Read rollout files, group them by prompt and task, pair them by reward margin.

    Raises:
        InputError: a file can't be read.
    """
    rollouts: list[Rollout] = []
    dropped: Counter[Reason] = Counter()
    first_drops: dict[Reason, str] = {}
    for row in read_rows(_distinct(paths), advance):
        try:
            rollouts.append(rollout_of(row))
        except RowDropped as drop:
            dropped[drop.reason] += 1
            first_drops.setdefault(drop.reason, f"{row.source}: {drop.detail}" if drop.detail else row.source)
    frame = _frame(rollouts)
    candidates = frame.lazy().pipe(pairs_above_margin, min_margin=min_margin).collect()
    pairs = candidates.lazy().pipe(distinct_responses, frame.lazy()).collect()
    attrition = _account(frame, candidates, pairs, dropped)
    return Collection(rollouts, pairs, attrition, first_drops)


def refuse_output(output: Path, inputs: Sequence[Path]) -> None:
    """Tell before the work that its result has no place.

    Raises:
        UsageError: the output is one of the inputs.
        DpoError: the output can't be written.
    """
    for path in inputs:
        if output.is_file() and path.exists() and path.samefile(output):
            raise UsageError(f"{path_text(output)}: is an input too; name another file with -o")
    refuse_unwritable(output)


def _distinct(paths: Sequence[Path]) -> list[Path]:
    """Leave out files that were named before, say by a glob: a rollout must not be paired with itself."""
    by_place = {os.path.realpath(path): path for path in reversed(paths)}
    return list(reversed(by_place.values()))


def _frame(rollouts: Sequence[Rollout]) -> pl.DataFrame:
    columns = {
        "row": range(len(rollouts)),
        "group": [rollout.group for rollout in rollouts],
        "response": [hashlib.blake2b(rollout.response.encode(), digest_size=16).digest() for rollout in rollouts],
        "reward": [rollout.reward for rollout in rollouts],
    }
    return pl.DataFrame(columns, schema=ROLLOUT_SCHEMA)


def _account(
    rollouts: pl.DataFrame, candidates: pl.DataFrame, pairs: pl.DataFrame, dropped: Counter[Reason]
) -> Attrition:
    """Add the reasons that pairing itself gives to those that reading gave, and hold the sum."""
    outcome = unpaired_reasons(rollouts.lazy(), candidates=candidates.lazy(), pairs=pairs.lazy()).collect()
    unpaired = Counter({Reason(reason): count for reason, count in _counts(outcome, "reason") if reason})
    paired = outcome.filter(pl.col("reason").is_null())
    attrition = Attrition(
        rows=len(rollouts) + dropped.total(),
        dropped=dropped + unpaired,
        paired_rollouts=len(paired),
        groups=outcome["group"].n_unique(),
        paired_groups=paired["group"].n_unique(),
        equal_pairs=len(candidates) - len(pairs),
        pairs=len(pairs),
    )
    attrition.check()
    return attrition


def _counts(frame: pl.DataFrame, column: str) -> list[tuple[str | None, int]]:
    return [(value, count) for value, count in frame[column].value_counts().iter_rows()]
