"""The rules on the figures of all rows."""

from collections.abc import Iterator

from pipeline.gate.finding import Problem
from pipeline.gate.rows import AllRows
from pipeline.gate.settings import GateSettings


def dataset_problems(rows: AllRows, settings: GateSettings) -> Iterator[Problem]:
    """Yield what is wrong with the rows as a whole."""
    return iter(())
