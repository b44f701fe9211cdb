"""Findings that are known already, and don't fail the gate: kept by fingerprint, so rows may move.

A baseline is a JSON file. What counts is each fingerprint and how often it was there; rule and place are for people.
"""

import json
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec

from pipeline.gate.finding import Finding
from pipeline.gate.rules import Rule, Severity
from schemas.atomic import atomic_writer
from schemas.errors import InputError
from schemas.terminal import path_text, reason

VERSION = 1
HINT = "dpo validate --write-baseline writes one"


class Baseline:
    """The known findings of a file, each as often as it was there."""

    def __init__(self, known: Counter[int]) -> None:
        """Start with nothing met."""
        self._left = known

    def takes(self, fingerprint: int) -> bool:
        """Say whether a finding is known; each known one is taken once."""
        if not self._left.get(fingerprint):
            return False
        self._left[fingerprint] -= 1
        return True

    @property
    def num_left(self) -> int:
        """Count the known findings that were not met."""
        return self._left.total()


class Collected:
    """Findings for a new baseline: 21 bytes for each, however many there are. Its `add` is what `check_files` calls."""

    def __init__(self) -> None:
        """Start with none."""
        self._fingerprints = array("Q")
        self._rules = array("B")
        self._paths = array("I")
        self._lines = array("Q")
        self._number_of_path: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._fingerprints)

    def add(self, finding: Finding, severity: Severity) -> None:
        """Take one up, of whatever severity."""
        self._fingerprints.append(finding.fingerprint)
        self._rules.append(_NUMBER_OF_RULE[finding.rule])
        self._paths.append(self._number_of_path.setdefault(finding.path, len(self._number_of_path)))
        self._lines.append(finding.line)

    def entries(self) -> Iterator[dict[str, object]]:
        """Yield each fingerprint once, by rule and place; its place is the first that it has."""
        paths = list(self._number_of_path)
        ranks = {number: rank for rank, number in enumerate(sorted(range(len(paths)), key=paths.__getitem__))}
        ordered, is_told = array("Q", sorted(self._fingerprints)), bytearray(len(self))
        for at in sorted(range(len(self)), key=lambda at: self._order(at, ranks)):
            first = bisect_left(ordered, self._fingerprints[at])
            if not is_told[first]:
                is_told[first] = True
                count = bisect_right(ordered, self._fingerprints[at], lo=first) - first
                path, line = paths[self._paths[at]], self._lines[at]
                place = f"{path}:{line}" if line else path
                fingerprint = f"{self._fingerprints[at]:016x}"
                yield {"fingerprint": fingerprint, "count": count, "rule": _RULES[self._rules[at]], "place": place}

    def _order(self, at: int, ranks: dict[int, int]) -> int:
        """Give a key to sort by as one number, which takes half of what a tuple takes."""
        place = self._rules[at] << 96 | ranks[self._paths[at]] << 64 | self._lines[at]
        return place << 64 | self._fingerprints[at]


class _Known(msgspec.Struct, frozen=True, gc=False):
    """What counts of a known finding."""

    fingerprint: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16}$")]
    count: Annotated[int, msgspec.Meta(ge=1)]


class _Head(msgspec.Struct):
    baseline_version: int


class _Content(msgspec.Struct):
    findings: list[_Known]


def write_baseline(path: Path, collected: Collected) -> None:
    """Write all collected findings, one on each line, so that two versions of a baseline can be compared.

    Raises:
        DpoError: the file can't be written.
    """
    with atomic_writer(path) as stream:
        stream.write(f'{{\n"baseline_version": {VERSION},\n"findings": ['.encode())
        separator = "\n"
        for entry in collected.entries():
            stream.write(f"{separator}{json.dumps(entry)}".encode())
            separator = ",\n"
        stream.write(b"\n]\n}\n")


def read_baseline(path: Path) -> Baseline:
    """Read a baseline.

    Raises:
        InputError: it can't be read, or is none.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path_text(path)}: no such baseline; {HINT}") from None
    except OSError as error:
        raise InputError(f"{path_text(path)}: can't be read: {reason(error)}") from error
    try:
        head = msgspec.json.decode(content, type=_Head)
        if head.baseline_version != VERSION:
            _refuse(path, f"a baseline of version {head.baseline_version}, expected version {VERSION}")
        known = msgspec.json.decode(content, type=_Content)
    except msgspec.ValidationError as error:
        _refuse(path, f"no baseline ({error})")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        _refuse(path, "no JSON, expected a baseline")
    counts: Counter[int] = Counter()
    for entry in known.findings:
        counts[int(entry.fingerprint, base=16)] += entry.count
    return Baseline(counts)


def _refuse(path: Path, got: str) -> NoReturn:
    raise InputError(f"{path_text(path)}: is {got}; {HINT}")


_RULES = tuple(Rule)
_NUMBER_OF_RULE = {rule: number for number, rule in enumerate(_RULES)}
