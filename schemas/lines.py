"""JSONL, line by line, with the line's number in every problem.

Only a line feed ends a line: model text holds U+2028 and U+0085 unescaped, and readers that split there tear rows
apart. Blank lines are passed over and a byte order mark is taken off. Two readings of a line exist:
`decode_strict` takes what RFC 8259 allows; `decode_tolerant` also takes what Gym's older writers left behind
(the bare tokens NaN and Infinity).
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from schemas.errors import InputError
from schemas.terminal import path_text

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PK\x03\x04")  # gzip, zstd, zip
READ_BUFFER_BYTES = 1 << 20
JSON_WHITESPACE = b" \t\r\n"

_decoder = msgspec.json.Decoder()


class Line(NamedTuple):
    """One line that holds something."""

    number: int  # counted from 1, blank lines too
    content: bytes


class LineError(ValueError):
    """A line is no JSON; the message says why."""


def read_lines(path: Path, advance: Callable[[int], None] = lambda amount: None) -> Iterator[Line]:
    """Yield the lines of a file that are not blank, reporting the bytes read to `advance`.

    Raises:
        InputError: there is no such file, or it can't be read.
    """
    try:
        with open_input(path) as stream:
            for number, content in enumerate(stream, start=1):
                advance(len(content))
                if number == 1:
                    if content.startswith(COMPRESSED):
                        raise InputError(f"{path_text(path)}: is compressed; unpack it first")
                    content = content.removeprefix(BYTE_ORDER_MARK)
                content = content.strip(JSON_WHITESPACE)
                if content:
                    yield Line(number, content)
    except OSError as error:
        raise InputError(f"{path_text(path)}: can't be read: {error.strerror or error}") from error


def open_input(path: Path) -> BinaryIO:
    """Open a file for reading, or say in the user's terms why not."""
    if os.path.isdir(path):  # noqa: PTH112 (it never raises)
        shown = path_text(path)
        raise InputError(f"{shown}: is a directory; name a file in it")
    try:
        return path.open("rb", buffering=READ_BUFFER_BYTES)
    except FileNotFoundError:
        raise InputError(f"{path_text(path)}: no such file") from None
    except OSError as error:
        raise InputError(f"{path_text(path)}: can't be read: {error.strerror or error}") from error


def decode_strict(content: bytes) -> object:
    """Decode one line of standard JSON.

    Raises:
        LineError: it is none.
    """
    try:
        return _decoder.decode(content)
    except RecursionError:
        raise LineError("JSON nested too deep") from None
    except UnicodeDecodeError as error:
        raise LineError(f"not UTF-8: byte 0x{error.object[error.start]:02x}") from None
    except msgspec.MsgspecError as error:
        raise LineError(str(error)) from None


def decode_tolerant(content: bytes) -> object:
    """Decode one line of JSON that may hold NaN, Infinity and numbers of any size.

    Raises:
        LineError: it is no JSON, or has a lone surrogate, which no UTF-8 file can hold.
    """
    try:
        return decode_strict(content)
    except LineError as strict_error:
        try:
            value = json.loads(content, parse_int=_number)
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise LineError("a string holds a lone surrogate (half a character)") from None
        except (ValueError, RecursionError):
            raise strict_error from None
        return value


def _number(digits: str) -> int | float:
    """Read an integer of any size: Python refuses those of thousands of digits, as a float they are infinite."""
    try:
        return int(digits)
    except ValueError:
        return float(digits)
