"""The rows of a file, whatever its packing: JSONL line by line, Parquet row by row."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from schemas.errors import InputError
from schemas.lines import LineError, decode_strict, read_lines
from schemas.terminal import path_text, printable


def read_rows(
    path: Path, advance: Callable[[int], None] = lambda amount: None
) -> Iterator[tuple[int, object | LineError]]:
    """Yield each row with its number (the line in JSONL), or what is wrong with its line.

    Raises:
        InputError: the file can't be read.
    """
    if path.suffix.lower() == ".parquet":
        yield from _parquet_rows(path, advance)
        return
    for line in read_lines(path, advance):
        try:
            yield line.number, decode_strict(line.content)
        except LineError as error:
            yield line.number, error


def _parquet_rows(path: Path, advance: Callable[[int], None]) -> Iterator[tuple[int, object]]:
    from pyarrow import ArrowException, parquet

    try:
        number = 0
        with parquet.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                for row in file.read_row_group(group).to_pylist():
                    number += 1
                    yield number, _without_nulls(row)
                advance(file.metadata.row_group(group).total_byte_size)
    except FileNotFoundError:
        raise InputError(f"{path_text(path)}: no such file") from None
    except (OSError, ArrowException) as error:
        raise InputError(f"{path_text(path)}: can't be read as Parquet: {printable(str(error))}") from error


def _without_nulls(value: Any) -> Any:
    """Leave out the keys that a row has only because another row has them."""
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_nulls(inner) for inner in value]
    return value
