"""What stands in a line where JSON should stand, in words, and the remedy for what is frequent."""

import re
from typing import NamedTuple

from pipeline.gate.finding import Problem
from pipeline.gate.rules import Rule
from schemas.terminal import excerpt

MAX_SHOWN_BYTES = 30

A_VALUE, A_KEY = "a value", "a key in double quotes"
HALF = "half a character (a lone surrogate)"
COMPACT = "one row on each line; jq -c . FILE writes it so"
JSON_DUMPS = "JSON, as json.dumps writes it and str() does not"
GIT_CONFLICT = ("the mark of a merge conflict", "the conflict resolved")
WRONG_SUFFIX = "the suffix by which such files are told"

BEGINNINGS = (
    (b"version https://git-lfs", "a pointer of Git LFS", "the file itself; git lfs pull fetches it"),
    (b"<<<<<<<", *GIT_CONFLICT),
    (b"=======", *GIT_CONFLICT),
    (b">>>>>>>", *GIT_CONFLICT),
    (b"\xef\xbb\xbf", "a byte order mark", "at most one, at the beginning of the file"),
    (b"PAR1", "a Parquet file", f"{WRONG_SUFFIX}, .parquet"),
    (b"ARROW1", "an Arrow file", f"{WRONG_SUFFIX}, .arrow"),
)
"""What whole files begin with that are no JSONL."""
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")
UTF16_SAMPLE_BYTES = 1000

_NUMBER_LIKE = re.compile(rb"[-+]?\.?[0-9][\w.+-]*|[-+]")
_NAME = re.compile(rb"[\w$][\w$.-]*")
_CUT_SURROGATE = re.compile(rb"\xed[\xa0-\xbf]")


class _Reason(NamedTuple):
    """What may begin where a value or a key should."""

    pattern: re.Pattern[bytes]
    got: str  # what it is called, with itself for {}
    expected: str


_REASONS = (
    _Reason(re.compile(rb"(?i:[-+]?(?:nan|inf|infinity))\b"), "{}", "a number or null: JSON has no such number"),
    _Reason(re.compile(rb"(?:None|True|False)\b"), "Python's {}", JSON_DUMPS),
    _Reason(re.compile(rb"undefined\b"), "{}", "null, or no such key"),
    _Reason(re.compile(rb"'"), "a single quote", f"double quotes: {JSON_DUMPS}"),
    _Reason(re.compile(rb"//|/\*|#"), "a comment", "no comment: JSON has none"),
    _Reason(re.compile(rb"\xe2\x80[\x98-\x9f]"), "a typographic quote", 'the plain quote, "'),
    _Reason(
        re.compile(rb"\xc2\xa0|\xe2\x80[\x80-\x8b\xa8\xa9]|\xe3\x80\x80|[\x0b\x0c\x1c-\x1f]"),
        "a blank that is none in JSON, {}",
        "a space",
    ),
)


class FaultError(Exception):
    """A line is no JSON from a byte on, which is counted from 0."""

    def __init__(self, at: int, got: str, expected: str) -> None:
        super().__init__(got)
        self.at, self.got, self.expected = at, got, expected


def encoding_fault(content: bytes) -> Problem | None:
    """Find the first byte of a line that is no UTF-8."""
    try:
        content.decode()
    except UnicodeDecodeError as error:
        at = error.start
        for beginning, got, expected in BEGINNINGS:
            if content.startswith(beginning):
                return Problem(Rule.INVALID_UTF8, "", got, expected, 1)
        got = f"byte 0x{content[at]:02x}, which is no UTF-8 here"
        if error.reason == "unexpected end of data":
            got = "a line that ends in the middle of a character"
        elif _CUT_SURROGATE.match(content, at):
            got = HALF
    else:
        if b"\0" not in content or not is_utf16(content):
            return None
        at, got = 0, ""
    if is_utf16(content):
        return Problem(
            Rule.INVALID_UTF8, "", "what looks like UTF-16", "UTF-8; iconv -f UTF-16 -t UTF-8 FILE writes it so", 1
        )
    return Problem(Rule.INVALID_UTF8, "", got, "UTF-8", at + 1)


def is_utf16(beginning: bytes) -> bool:
    """Tell by the beginning of a line or a file whether it is UTF-16 or UTF-32: each ASCII character has a NUL byte."""
    if beginning.startswith(UTF16_MARKS):
        return True
    sample = beginning[:UTF16_SAMPLE_BYTES]
    fewer, more = sorted((sample[0::2].count(0), sample[1::2].count(0)))
    return len(sample) > 2 and 3 * more > len(sample) and 2 * fewer < more


def beginning_fault(content: bytes) -> FaultError | None:
    """Find that a line is the beginning of another kind of file, or the end of a row that began before it."""
    for beginning, got, expected in BEGINNINGS:
        if content.startswith(beginning):
            return FaultError(0, got, expected)
    if content.startswith((b"}", b"]")):
        return FaultError(0, "the end of what began on a line before", COMPACT)
    if content.startswith(b"\0"):
        return FaultError(0, "NUL bytes", "a row: the file was cut by a crash, or is no text")
    return None


def value_fault(content: bytes, at: int, expected: str) -> FaultError:
    """Say what stands at a byte instead of what was expected there."""
    if at >= len(content):
        if content.endswith((b"{", b"[", b",", b":")):
            return FaultError(at, "a row that goes on on the next line", COMPACT)
        return FaultError(
            at, "a line that ends inside a row", f"{expected}: the file was cut, or the row has a line feed"
        )
    for reason in _REASONS:
        if match := reason.pattern.match(content, at):
            return FaultError(at, reason.got.format(_shown(match[0])), reason.expected)
    if expected == A_VALUE and (number := _NUMBER_LIKE.match(content, at)):
        return FaultError(at, f"the number {_shown(number[0])}", "a number as JSON has it (-0.5, 10, 1e6)")
    if expected == A_KEY and (name := _NAME.match(content, at)):
        return FaultError(at, f"the bare word {_shown(name[0])}", expected)
    return FaultError(at, _shown(content[at : at + MAX_SHOWN_BYTES]), expected)


def _shown(part: bytes) -> str:
    return excerpt(part.decode(errors="ignore"))
