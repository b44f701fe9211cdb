"""Why a line is no JSON, or has a key twice: where exactly, and what to do about it.

Lines are decoded by msgspec; this slow reader looks only at those in which something is wrong. It goes through a line
token by token and without recursion, so it can name the byte and the pointer.
"""

import math
import re
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from pipeline.gate.finding import Problem
from pipeline.gate.line.json_reasons import (
    A_KEY,
    A_VALUE,
    COMPACT,
    HALF,
    FaultError,
    beginning_fault,
    encoding_fault,
    value_fault,
)
from pipeline.gate.rules import Rule
from schemas.terminal import excerpt, printable
from schemas.validation import pointer_of

MAX_SHOWN_LEVELS = 32
"""Of a pointer; where the fault lies deeper, the row is named."""
MAX_INTEGER_BYTES = 4300
"""Of an integer with its sign: the limit of the decoder, as of Python."""
LONGEST_CHARACTER = 4  # bytes of UTF-8
SPACE = b" \t\r\n"

_SPACE = re.compile(rb"[ \t\r\n]*+")
_TEXT = re.compile(rb'"[^"\\\x00-\x1f]*+(?:\\[^\x00-\x1f][^"\\\x00-\x1f]*+)*+')  # without the quote at its end
_SOUND_ESCAPE = (
    rb'\\(?:["\\/bfnrt]|u(?![dD][89a-fA-F])[0-9a-fA-F]{4}|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})'
)
_SOUND_TEXT = re.compile(rb"[^\\]*+(?:" + _SOUND_ESCAPE + rb"[^\\]*+)*+")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*+)(?P<float>(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?)(?![\w.+-])")
_WORD = re.compile(rb"(?:true|false|null)(?!\w)")


@dataclass(slots=True)
class _Level:
    """An object or an array that is under way."""

    is_object: bool
    key: str | None = None  # of the value that is read; None while a key is read
    place: int = 0  # of the element that is read
    keys: set[str] = field(default_factory=set)

    @property
    def end(self) -> bytes:
        """Give what closes it."""
        return b"}" if self.is_object else b"]"


class _Duplicate(NamedTuple):
    """A key that its object has already."""

    at: int
    pointer: str


@dataclass
class _Reader:
    """The way through a line: where it stands, and what is open there."""

    content: bytes
    at: int = 0
    levels: list[_Level] = field(default_factory=list)
    duplicate: _Duplicate | None = None  # the first

    @property
    def pointer(self) -> str:
        """Name the value that is read."""
        if len(self.levels) > MAX_SHOWN_LEVELS:
            return ""
        parts = (level.key if level.is_object else level.place for level in self.levels)
        return pointer_of(part for part in parts if part is not None)

    @property
    def next(self) -> bytes:
        """Give the next byte; nothing at the end of the line."""
        return self.content[self.at : self.at + 1]

    def pass_by(self, num_bytes: int = 1) -> None:
        """Go on behind some bytes, and the white space that follows them."""
        space = _SPACE.match(self.content, self.at + num_bytes)
        assert space is not None  # it may be empty
        self.at = space.end()


def fault_of(content: bytes) -> Problem | None:
    """Find what is wrong with a line: the first place at which it is no JSON, else the first key that is there twice.

    None where nothing is wrong, of how deep it is nested aside.
    """
    if (problem := encoding_fault(content)) is not None:
        return problem
    reader = _Reader(content)
    try:
        _read(reader)
    except FaultError as fault:
        return Problem(Rule.MALFORMED_JSON, reader.pointer, fault.got, fault.expected, fault.at + 1)
    if reader.duplicate is None:
        return None
    at, pointer = reader.duplicate
    expected = "each key once: some readers take the first value, some the last"
    return Problem(Rule.DUPLICATE_KEY, pointer, "this key a second time", expected, at + 1)


def _read(reader: _Reader) -> None:
    """Read the one value of the line.

    Raises:
        FaultError: it is no JSON from here on.
    """
    if (fault := beginning_fault(reader.content)) is not None:
        raise fault
    reader.pass_by(0)
    while True:
        if _begin_value(reader):
            continue
        while reader.levels:
            if _end_value(reader):
                break  # another value comes
        else:
            break
    if reader.next:
        raise _behind_the_row(reader)


def _begin_value(reader: _Reader) -> bool:
    """Read a scalar, or the beginning of an object or array; say whether a value in it comes next."""
    first = reader.next
    if first in (b"{", b"["):
        level = _Level(is_object=first == b"{")
        reader.levels.append(level)
        reader.pass_by()
        if reader.next == level.end:
            reader.levels.pop()
            reader.pass_by()
            return False
        if level.is_object:
            _read_key(reader, level)
        return True
    if first == b'"':
        _read_text(reader)
    elif word := _WORD.match(reader.content, reader.at):
        reader.pass_by(len(word[0]))
    else:
        _read_number(reader)
    return False


def _end_value(reader: _Reader) -> bool:
    """Read what follows a value in an object or array; say whether another value does."""
    level = reader.levels[-1]
    if reader.next == level.end:
        reader.levels.pop()
        reader.pass_by()
        return False
    if reader.next != b",":
        expected = f"a comma, or the end of the {'object' if level.is_object else 'array'}"
        if reader.next and reader.content[: reader.at].rstrip(SPACE).endswith(b'"'):
            expected += '; a quote inside a text is written \\"'
        raise _fault(reader, expected)
    comma = reader.at
    reader.pass_by()
    if reader.next == level.end:
        raise FaultError(comma, f"a comma before the {level.end.decode()}", "no comma after the last value")
    if level.is_object:
        _read_key(reader, level)
    else:
        level.place += 1
    return True


def _read_key(reader: _Reader, level: _Level) -> None:
    level.key = None
    start = reader.at
    if reader.next != b'"':
        raise _fault(reader, A_KEY)
    text = _read_text(reader)
    key = str(msgspec.json.decode(text))
    if reader.next != b":":
        raise _fault(reader, "a colon after the key")
    level.key = key
    if key in level.keys and reader.duplicate is None:
        reader.duplicate = _Duplicate(start, reader.pointer)
    level.keys.add(key)
    reader.pass_by()


def _read_text(reader: _Reader) -> bytes:
    """Read a text, and give it with its quotes."""
    content, start = reader.content, reader.at
    text = _TEXT.match(content, start)
    assert text is not None  # there is a quote
    if b"\\" in text[0] and (sound := _SOUND_TEXT.match(content, start, text.end())) and sound.end() < text.end():
        raise _escape_fault(content, sound.end())
    reader.at = text.end()
    if reader.next == b"\\":
        reader.at += 1  # what it escapes is the line's end, or no character that can be
    if reader.next != b'"':
        raise _text_fault(reader)
    reader.pass_by()
    return text[0] + b'"'


def _read_number(reader: _Reader) -> None:
    number = _NUMBER.match(reader.content, reader.at)
    if number is None:
        raise _fault(reader, A_VALUE)
    digits = number[0]
    is_too_large = math.isinf(float(digits)) if number["float"] else len(digits) > MAX_INTEGER_BYTES
    if is_too_large:
        raise FaultError(reader.at, f"the number {excerpt(digits.decode())}", "one of at most 1.8e308, or null")
    reader.pass_by(len(digits))


def _fault(reader: _Reader, expected: str) -> FaultError:
    """Say what stands where something else should."""
    return value_fault(reader.content, reader.at, expected)


def _behind_the_row(reader: _Reader) -> FaultError:
    """Say what stands behind a whole value."""
    at, rest = reader.at, reader.content[reader.at :]
    match reader.next:
        case b"," if len(rest) == 1:
            return FaultError(
                at, "a comma behind the row", "no comma, nor an array around the rows: each line is one row"
            )
        case b"{" | b"[" | b",":
            return FaultError(at, "a second value on the line", "each row on a line of its own")
        case b":":
            return FaultError(at, "a key and its value without their object", COMPACT)
        case b"}" | b"]":
            return FaultError(at, f"one {reader.next.decode()} too many", "one that opens for each that closes")
    return _fault(reader, "the end of the line")


def _escape_fault(content: bytes, at: int) -> FaultError:
    if surrogate := _SURROGATE.match(content, at):
        return FaultError(at, f"{HALF}, {surrogate[0].decode()}", "both halves, or neither: the text was cut inside it")
    if content[at + 1 : at + 2] == b"u":
        return FaultError(at, "a \\u without four hexadecimal digits", "four of them")
    escape = content[at : at + LONGEST_CHARACTER + 1].decode(errors="ignore")[:2]
    return FaultError(at, f"the escape {printable(escape)}", "one that JSON has; a backslash itself is written twice")


def _text_fault(reader: _Reader) -> FaultError:
    """Say what breaks a text off: the line's end, or a control character."""
    if not reader.next:
        return _fault(reader, "a quote at the end of the text")
    number = reader.next[0]
    escape = {8: "\\b", 9: "\\t", 12: "\\f", 13: "\\r"}.get(number, f"\\u{number:04x}")
    return FaultError(reader.at, f"the bare control character U+{number:04X} in a text", f"its escape {escape}")
