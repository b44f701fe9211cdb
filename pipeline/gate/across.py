"""The rules across rows: what a key of each row tells."""

from array import array
from collections.abc import Iterator

from pipeline.gate.finding import Problem
from pipeline.gate.rows import AllRows
from pipeline.gate.settings import GateSettings


def across_problems(rows: AllRows, against: "array[int]", settings: GateSettings) -> Iterator[tuple[int, Problem]]:
    """Yield what is wrong with rows beside others, each with the number of the row.

    `against` has the prompt keys of the files that no prompt may be in.
    """
    return iter(())
