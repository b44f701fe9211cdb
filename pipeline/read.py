"""From files to decoded rows, each with its place."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.attrition import Reason, RowDropped
from schemas.lines import LineError, decode_tolerant, read_lines
from schemas.terminal import path_text


class Row(NamedTuple):
    """One line of a rollout file, not decoded yet."""

    path: Path
    line: int
    content: bytes

    @property
    def source(self) -> str:
        """Say where the row stands, as file:line."""
        return f"{path_text(self.path)}:{self.line}"


def read_rows(paths: Iterable[Path], advance: Callable[[int], None] = lambda amount: None) -> Iterator[Row]:
    """Yield the rows of all files in order.

    Raises:
        InputError: a file can't be read.
    """
    for path in paths:
        for line in read_lines(path, advance):
            yield Row(path, line.number, line.content)


def decode_row(content: bytes) -> dict[str, Any]:
    """Decode one rollout.

    Raises:
        RowDropped: the line is no JSON, or no object.
    """
    try:
        value = decode_tolerant(content)
    except LineError as error:
        raise RowDropped(Reason.NOT_JSON, str(error)) from None
    if not isinstance(value, dict):
        raise RowDropped(Reason.NOT_A_ROLLOUT, f"a JSON {type(value).__name__}")
    return value
