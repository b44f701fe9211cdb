"""What is known of all rows together: their columns, and where each of them stands."""

import contextlib
import importlib
import threading
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from pipeline.gate.gate import COLUMNS, NO_REWARD, Gathered
from pipeline.gate.whole import few_rows, many_rows
from pipeline.gate.whole.few_rows import Columns, Repeat, Spread
from pipeline.gate.whole.figures import share
from pipeline.gate.whole.statistics import Statistics

MANY = 50_000
"""Rows from which on Polars is worth its start, and Python's sets would take too much memory."""


class Comparison(Protocol):
    """A way to compare rows: a module with these functions."""

    def repeats(self, columns: Columns) -> Iterator[Repeat]: ...
    def leaks(self, columns: Columns, against: "array[int]") -> Iterator[int]: ...
    def spreads(self, columns: Columns) -> tuple[Spread, Spread]: ...


@dataclass
class AllRows:
    """The columns of all rows, one after another; the place of a row in them is its number."""

    columns: "dict[str, array[int]]" = field(
        default_factory=lambda: {name: array(code) for name, code in COLUMNS.items()}
    )
    statistics: Statistics = field(default_factory=Statistics)
    paths: list[str] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)  # the number of the first row of each file
    _loading: threading.Thread | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.columns["line"])

    def begin_file(self, path: str) -> None:
        """Say that the rows that come now are of this file."""
        self.paths.append(path)
        self.starts.append(len(self))

    def add(self, gathered: Gathered, *, lines_before: int) -> None:
        """Add the rows of a piece of a file."""
        for name, column in self.columns.items():
            values = gathered.columns[name]
            if name == "line" and lines_before:
                values = array(COLUMNS[name], [line + lines_before for line in values])
            column.extend(values)
        self.statistics.merge(gathered.statistics)

    def expect(self, number: float) -> None:
        """Say how many rows there will be: of many, what compares them is loaded while they are read."""
        if self._loading is None and number >= MANY:
            self._loading = threading.Thread(target=_load_polars)
            with contextlib.suppress(RuntimeError):  # no thread to be had: it is loaded when it is needed
                self._loading.start()

    def place(self, number: int) -> tuple[str, int]:
        """Give the file and the line of a row."""
        return self.paths[bisect_right(self.starts, number) - 1], self.columns["line"][number]

    def place_text(self, number: int) -> str:
        """Show the file and the line of a row, as compilers do."""
        return "{}:{}".format(*self.place(number))

    def first_path(self, kind: str) -> str:
        """Give the first file that has rows of a kind (pairs, rollouts, any) that rules could look at."""
        for path, start in zip(self.paths, self.starts, strict=True):
            if start < len(self) and self.place(start)[0] == path:
                is_pair = self.columns["reward"][start] == NO_REWARD
                if kind in ("any", "pairs" if is_pair else "rollouts"):
                    return path
        return self.paths[0]

    @property
    def comparison(self) -> Comparison:
        """Give the way to compare this many rows."""
        if len(self) < MANY:
            return few_rows
        if self._loading is not None and self._loading.ident is not None:
            self._loading.join()
        return many_rows

    @cached_property
    def spreads(self) -> tuple[Spread, Spread]:
        """Count the prompts of the pairs, and of the rollouts; to be asked for once all rows are there."""
        return self.comparison.spreads(self.columns)

    def as_dict(self) -> dict[str, Any]:
        """Give the figures of all rows as JSON types."""
        figures = self.statistics.as_dict()
        for kind, spread in zip(("pairs", "rollouts"), self.spreads, strict=True):
            if kind in figures:
                figures[kind]["prompts"] = _prompts(spread)
        if self.spreads[1].num_tasks:
            _, rollouts = self.spreads
            figures["rollouts"]["tasks"] = {
                "with_several_rollouts": rollouts.num_tasks,
                "with_different_rewards": rollouts.num_varied,
                "varied_share": share(rollouts.num_varied, rollouts.num_tasks),
            }
        return figures


def _load_polars() -> None:
    with contextlib.suppress(Exception):  # it is imported again where it is needed, and says there what is wrong
        importlib.import_module("polars")
        importlib.import_module("pyarrow")


def _prompts(spread: Spread) -> dict[str, Any]:
    return {
        "distinct": spread.num_prompts,
        "rows_of_most_frequent": spread.num_most,
        "share_of_most_frequent": share(spread.num_most, spread.num_rows),
    }
