"""The rows of a file, whatever its packing: JSONL line by line, a JSON array, or a table (schemas/tables.py)."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from schemas.errors import InputError
from schemas.lines import JSON_WHITESPACE, LineError, decode_strict, read_lines, without_margin
from schemas.streams import as_url, open_stream, place_text
from schemas.tables import arrow_rows, csv_rows, folder_rows, parquet_rows

PACKED_SUFFIXES = (".gz", ".zst")
DATA_SUFFIXES = frozenset({".jsonl", ".ndjson", ".json", ".parquet", ".arrow", ".csv", ".txt", *PACKED_SUFFIXES})

WHOLE_FILES = (".parquet", ".arrow")
"""Packings that are not read as a stream."""

MAX_ARRAY_BYTES = 4 << 30
PEEKED_BYTES = 1 << 16

NumberedRow = tuple[int, object | LineError]
"""A row or what is wrong with it, with its line (JSONL) or its place in the file, counted from 1."""


def read_rows(path: Path, advance: Callable[[int], None] = lambda amount: None) -> Iterator[NumberedRow]:
    """Yield each row with its number (the line in JSONL), or what is wrong with its line.

    Raises:
        InputError: the file can't be read.
    """
    suffix = packing(path)
    if suffix in WHOLE_FILES and as_url(path):
        raise InputError(f"{place_text(path)}: {suffix[1:].capitalize()} is not read by URL; fetch the file first")
    if suffix in WHOLE_FILES and path.suffix.lower() in PACKED_SUFFIXES:
        raise InputError(f"{place_text(path)}: {suffix[1:].capitalize()} is not read compressed; unpack the file first")
    if os.path.isdir(path):  # noqa: PTH112 (never raises, as a name that no file can have makes pathlib do)
        yield from folder_rows(path, advance)
    elif suffix == ".parquet":
        yield from parquet_rows(path, advance)
    elif suffix == ".arrow":
        yield from arrow_rows(path, advance)
    elif suffix == ".csv":
        yield from csv_rows(path, advance)
    elif suffix == ".json" and _is_array(path):
        yield from _array_rows(path, advance)
    else:
        yield from _line_rows(path, advance)


def packing(path: Path) -> str:
    """Give the suffix that tells how a file is packed, whether it is compressed or not."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    while suffixes and suffixes[-1] in PACKED_SUFFIXES:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def is_read_by_lines(path: Path) -> bool:
    """Tell JSONL from tables, folders and JSON arrays, whose rows have no lines.

    Raises:
        InputError: it can't be read.
    """
    suffix = packing(path)
    if suffix in (*WHOLE_FILES, ".csv") or os.path.isdir(path):  # noqa: PTH112 (never raises)
        return False
    return not (suffix == ".json" and _is_array(path))


def _line_rows(path: Path, advance: Callable[[int], None]) -> Iterator[NumberedRow]:
    for line in read_lines(path, advance):
        try:
            yield line.number, decode_strict(line.content)
        except LineError as error:
            yield line.number, error


def _is_array(path: Path) -> bool:
    """Tell a file of one array from one of an object on each line, which often has the same suffix."""
    with open_stream(path) as stream:
        number = 0
        while part := stream.read(PEEKED_BYTES):  # by lines, an endless one would fill the memory
            number += 1
            if content := without_margin(part, number):
                return content.startswith(b"[")
    return False


def _array_rows(path: Path, advance: Callable[[int], None]) -> Iterator[NumberedRow]:
    with open_stream(path) as stream:
        content = stream.read(MAX_ARRAY_BYTES + 1)
    if len(content) > MAX_ARRAY_BYTES:
        raise InputError(
            f"{place_text(path)}: a JSON array of more than {MAX_ARRAY_BYTES >> 30} GiB, which is read as a whole; "
            "write one object on each line (.jsonl)"
        )
    advance(len(content))
    try:
        rows = decode_strict(without_margin(content, 1).strip(JSON_WHITESPACE))
    except LineError as error:
        raise InputError(
            f"{place_text(path)}: begins with [, and is no JSON array: {error}; one object on each line needs no ["
        ) from None
    assert isinstance(rows, list)
    yield from enumerate(rows, start=1)
