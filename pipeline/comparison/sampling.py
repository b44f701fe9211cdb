"""How the rollouts of a file were asked for.

Two collections compare two policies only if that is the same on both sides.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from schemas.lines import LineError, decode_tolerant, numbered_lines, without_margin
from schemas.streams import open_stream

NUM_ROWS = 40  # of each file, looked at for how it was asked for
MAX_LINE_BYTES = 16 << 20


@dataclass(frozen=True)
class Sampling:
    """The values that were met in the first rows of the files, each sorted; none where no row says."""

    model: tuple[str, ...] = ()
    temperature: tuple[float, ...] = ()
    top_p: tuple[float, ...] = ()
    max_output_tokens: tuple[float, ...] = ()

    def differences(self, other: "Sampling") -> list[str]:
        """Name what was asked for otherwise; another model is what is compared."""
        names = (field.name for field in fields(self) if field.name != "model")
        return [name for name in names if getattr(self, name) != getattr(other, name)]


def sampling_of(paths: Sequence[Path]) -> Sampling:
    """Look at the first rows of files.

    Raises:
        InputError: one can't be read.
    """
    rows = [row for path in paths for row in _first_rows(path)]
    numbers = {name: tuple(sorted(set(_numbers(rows, name)))) for name in ("temperature", "top_p", "max_output_tokens")}
    models = {model for row in rows if isinstance(model := _at(row, "response", "model"), str) and model}
    return Sampling(tuple(sorted(models)), **numbers)


def _numbers(rows: Iterable[object], name: str) -> Iterator[float]:
    for row in rows:
        asked = _at(row, "responses_create_params", name)
        value = _at(row, "response", name) if asked is None else asked  # the server's own default
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield float(value)


def _at(row: object, *keys: str) -> Any:
    for key in keys:
        row = row.get(key) if isinstance(row, dict) else None
    return row


def _first_rows(path: Path) -> Iterator[object]:
    with open_stream(path) as stream:
        for number, content in enumerate(itertools.islice(numbered_lines(stream, MAX_LINE_BYTES), NUM_ROWS), start=1):
            try:
                yield decode_tolerant(without_margin(content, number)) if content else None
            except LineError:
                continue
