"""What the gate found: one thing that is wrong with one row, or with a file."""

import hashlib
from typing import NamedTuple

from pipeline.gate.rules import Rule


class Problem(NamedTuple):
    """What is wrong, before it is known where. Texts of the data are in here as excerpts, made harmless."""

    rule: Rule
    pointer: str  # JSON pointer (RFC 6901) into the row; "" is the row itself
    got: str
    expected: str
    column: int = 0  # byte of the line at which it shows, counted from 1; 0: not known


class Finding(NamedTuple):
    """A problem with its place."""

    rule: Rule
    path: str  # as it is shown
    line: int  # of the file, counted from 1 (in tables, the row); 0 is the file as a whole
    pointer: str
    got: str
    expected: str
    column: int
    fingerprint: int  # 64 bits: the same where rule, place in the row and content of the row are the same

    @property
    def place(self) -> str:
        """Say where, as compilers do."""
        return ":".join(map(str, filter(None, (self.path, self.line, self.column if self.line else 0))))

    @property
    def message(self) -> str:
        """Say what is wrong, without the place of the row."""
        where = f"{self.pointer}: " if self.pointer else ""
        return f"{where}got {self.got}, expected {self.expected}"


def located(problem: Problem, *, path: str, line: int, content: bytes) -> Finding:
    """Give a problem its place; `content` is what a baseline knows the row by, wherever it moves to."""
    told = "\0".join((problem.rule, problem.pointer)).encode() + b"\0" + content
    fingerprint = int.from_bytes(hashlib.blake2b(told, digest_size=8).digest())
    return Finding(
        problem.rule, path, line, problem.pointer, problem.got, problem.expected, problem.column, fingerprint
    )
