"""Rows of tables: Parquet, Arrow, CSV, and the folders that `save_to_disk` of Hugging Face's datasets writes.

A column stands in each row of a table, so a null says that the row has no such key. A cell of CSV is text: messages
stand in it as JSON, and the columns that are known to hold numbers, booleans or lists are read as JSON.
"""

import csv
import datetime
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemas.errors import InputError
from schemas.lines import LineError, decode_strict
from schemas.streams import open_stream, place_text
from schemas.terminal import path_text, printable

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_AT_ONCE = 1024
ARROW_FILE_MAGIC = b"ARROW1"
SAVED_SET, SAVED_SPLITS, SAVED_STATE = "dataset_info.json", "dataset_dict.json", "state.json"
JSON_COLUMNS = frozenset(
    {
        "chosen_reward",
        "rejected_reward",
        "chosen_truncated",
        "rejected_truncated",
        "prompt_token_ids",
        "chosen_token_ids",
        "rejected_token_ids",
        "chosen_loss_mask",
        "rejected_loss_mask",
        "overall_preference",
    }
)
"""Columns of CSV that never hold text."""
PLAIN = (str, int, float)  # booleans are int
TIMES = (datetime.date, datetime.time, datetime.timedelta)  # and what is made of them, such as a datetime
PYTHONS_MESSAGES = re.compile(r"\s*\[\s*\{\s*'(?:role|content)'")
"""How a table that is written without care for its lists shows messages."""

Rows = Iterator[tuple[int, object | LineError]]


def parquet_rows(path: Path, advance: Callable[[int], None]) -> Rows:
    """Yield the rows of a Parquet file.

    Raises:
        InputError: it can't be read.
    """
    from pyarrow import ArrowException, parquet

    try:
        number = 0
        with parquet.ParquetFile(path) as file:
            _refuse_double_columns(file.schema_arrow.names, path)
            for group in range(file.num_row_groups):
                for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=[group]):
                    for row in _in_microseconds(batch).to_pylist():
                        number += 1
                        yield number, without_nulls(row)
                advance(file.metadata.row_group(group).total_byte_size)
    except FileNotFoundError:
        raise InputError(f"{path_text(path)}: no such file") from None
    except (OSError, ArrowException, OverflowError, ValueError) as error:  # of a time that Python has none for
        raise InputError(f"{path_text(path)}: can't be read as Parquet: {printable(str(error))}") from error


def arrow_rows(path: Path, advance: Callable[[int], None]) -> Rows:
    """Yield the rows of an Arrow file, of the file or the stream format.

    Raises:
        InputError: it can't be read.
    """
    import pyarrow as pa

    try:
        number = 0
        with pa.memory_map(os.fspath(path)) as source:
            is_file = source.read(len(ARROW_FILE_MAGIC)) == ARROW_FILE_MAGIC
            source.seek(0)
            reader = pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)
            batches = map(reader.get_batch, range(reader.num_record_batches)) if is_file else reader
            _refuse_double_columns(reader.schema.names, path)
            for batch in batches:
                batch.validate(full=True)  # a file that is damaged, else a crash
                for start in range(0, batch.num_rows, ROWS_AT_ONCE):
                    for row in _in_microseconds(batch.slice(start, ROWS_AT_ONCE)).to_pylist():
                        number += 1
                        yield number, without_nulls(row)
                advance(batch.nbytes)
    except FileNotFoundError:
        raise InputError(f"{path_text(path)}: no such file") from None
    except (OSError, pa.ArrowException, OverflowError, ValueError) as error:
        raise InputError(f"{path_text(path)}: can't be read as Arrow: {printable(str(error))}") from error


def csv_rows(path: Path, advance: Callable[[int], None]) -> Rows:
    """Yield the rows of a CSV file with a header.

    Raises:
        InputError: it can't be read.
    """
    csv.field_size_limit(sys.maxsize)  # a response is easily longer than what the module takes for one cell
    try:
        with open_stream(path, lambda content: advance(len(content))) as stream:
            reader = csv.reader(io.TextIOWrapper(stream, encoding="utf-8-sig", newline=""), strict=True)
            header = next(reader, [])
            _refuse_double_columns(header, path)
            for number, cells in enumerate((cells for cells in reader if cells), start=1):
                yield number, _row_of(header, cells)
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{place_text(path)}: can't be read as CSV: {printable(str(error))}") from error


def folder_rows(path: Path, advance: Callable[[int], None]) -> Rows:
    """Yield the rows of a data set that was saved with `save_to_disk`.

    Raises:
        InputError: the folder holds none, or can't be read.
    """
    if not is_saved_set(path):
        raise InputError(f"{path_text(path)}: is a directory; name a file in it")
    number = 0
    for name in _names_in(path / SAVED_STATE, "_data_files", "filename"):
        for _, row in arrow_rows(path / name, advance):
            number += 1
            yield number, row


def is_saved_set(path: Path) -> bool:
    """Tell whether a folder is a data set that was saved with `save_to_disk`."""
    return (path / SAVED_SET).is_file() and (path / SAVED_STATE).is_file()


def saved_splits(path: Path) -> list[str]:
    """Name the splits of data sets that were saved together; none where the folder is something else."""
    if not (path / SAVED_SPLITS).is_file():
        return []
    return _names_in(path / SAVED_SPLITS, "splits")


def _names_in(path: Path, key: str, inner: str | None = None) -> list[str]:
    """Give the names that a saved data set's own file lists."""
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))[key]
        return [str(each if inner is None else each[inner]) for each in listed]
    except (ValueError, LookupError, TypeError):
        raise InputError(f"{path_text(path)}: is not what save_to_disk writes; save the data set again") from None


def without_nulls(value: Any) -> Any:
    """Leave out the keys that a row has only because another row has them; make JSON's types of those it has not."""
    if value is None or isinstance(value, PLAIN):
        return value
    if isinstance(value, dict):
        items = ((key, without_nulls(inner)) for key, inner in value.items())
        return {key: inner for key, inner in items if inner is not None}
    if isinstance(value, list | tuple):  # of maps, the entries
        return [without_nulls(inner) for inner in value]
    if isinstance(value, bytes):
        return _text(value)
    if isinstance(value, Decimal):
        return int(value) if value.is_finite() and value.as_integer_ratio()[1] == 1 else float(value)
    return str(value) if isinstance(value, TIMES) else value


def _in_microseconds(batch: "pa.RecordBatch") -> "pa.RecordBatch":
    """Round times down: Python has none that are finer, so PyArrow refuses them where pandas is not installed."""
    import pyarrow as pa

    for place, column in enumerate(batch.schema):
        kind = column.type
        if pa.types.is_timestamp(kind) and kind.unit == "ns":
            target = pa.timestamp("us", kind.tz)
        elif pa.types.is_duration(kind) and kind.unit == "ns":
            target = pa.duration("us")
        else:
            continue
        batch = batch.set_column(place, column.name, batch.column(place).cast(target, safe=False))
    return batch


def _text(content: bytes) -> str | None:
    """Read text that was written as bytes, as some writers of Parquet do."""
    try:
        return content.decode()
    except UnicodeDecodeError:  # an image
        return None


def _refuse_double_columns(names: list[str], path: Path) -> None:
    if doubles := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{place_text(path)}: has several columns called {printable(', '.join(doubles))}")


def _row_of(header: list[str], cells: list[str]) -> object | LineError:
    if len(cells) != len(header):
        return LineError(f"got {len(cells)} cells, expected {len(header)}, as the header has")
    try:
        return {name: _cell(name, text) for name, text in zip(header, cells, strict=True)}
    except LineError as error:
        return error


def _cell(name: str, text: str) -> object:
    """Read what a cell holds; text that is JSON by chance, such as a list of numbers to sort, stays text."""
    if PYTHONS_MESSAGES.match(text):
        raise LineError(f"/{name}: got messages as Python shows them, expected JSON; write the column with json.dumps")
    is_known = name in JSON_COLUMNS
    if is_known and not text:
        return None
    if not is_known and not text.lstrip().startswith("["):
        return text
    try:
        value = decode_strict(text.lower().encode() if text in ("True", "False") else text.encode())
    except LineError:
        return text
    is_list = isinstance(value, list) and bool(value) and all(isinstance(each, dict) for each in value)
    return value if is_known or is_list else text
