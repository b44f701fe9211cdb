"""JSONL, line by line, with the line's number in every problem.

Only a line feed ends a line: model text holds U+2028 and U+0085 unescaped, and readers that split there tear rows
apart. Blank lines are passed over and a byte order mark is taken off. Two readings of a line exist:
`decode_strict` takes what RFC 8259 allows; `decode_tolerant` also takes what Gym's older writers left behind
(the bare tokens NaN and Infinity).
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from schemas.errors import InputError
from schemas.streams import open_stream, place_text

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
MAX_LINE_BYTES = 256 << 20
JSON_WHITESPACE = b" \t\r\n"
SKIP_BYTES = 1 << 20

_decoder = msgspec.json.Decoder()


class Line(NamedTuple):
    """One line that holds something."""

    number: int  # counted from 1, blank lines too
    content: bytes


class LineError(ValueError):
    """A line is no JSON; the message says why."""


def read_lines(place: Path, advance: Callable[[int], None] = lambda amount: None) -> Iterator[Line]:
    """Yield the lines of an input that are not blank, reporting the bytes read to `advance`.

    Raises:
        InputError: there is no such file, it can't be read, or a line is longer than `MAX_LINE_BYTES`.
    """
    with open_stream(place) as stream:
        for number, content in enumerate(numbered_lines(stream), start=1):
            if content is None:
                raise InputError(f"{place_text(place)}:{number}: a line of more than {MAX_LINE_BYTES >> 20} MiB")
            advance(len(content))
            content = without_margin(content, number)
            if content:
                yield Line(number, content)


def numbered_lines(stream: BinaryIO, max_bytes: int = MAX_LINE_BYTES) -> Iterator[bytes | None]:
    """Yield each line with its end; None for one that is longer than `max_bytes`, which is never held whole."""
    while content := stream.readline(max_bytes + 1):
        if len(content) <= max_bytes:
            yield content
        else:
            while content and not content.endswith(b"\n"):
                content = stream.readline(SKIP_BYTES)
            yield None


def without_margin(content: bytes, number: int) -> bytes:
    """Take off the line's end, white space around the JSON, and the byte order mark before the first line."""
    return (content.removeprefix(BYTE_ORDER_MARK) if number == 1 else content).strip(JSON_WHITESPACE)


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
