"""Checking each row of a file against the JSON Schema of what the file is.

A file's kind is that of its first row that has the keys of one; each later row is then held to that kind.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema_rs

from schemas.lines import LineError
from schemas.rows import read_rows
from schemas.terminal import bare_excerpt, excerpt, path_text


class Kind(StrEnum):
    """What a file's rows are; the value is the name of their schema."""

    ROLLOUT = "rollout"
    BINARY_PREFERENCE = "binary_preference"
    PREFERENCE = "preference"
    TRL = "trl"


KEYS_OF_KIND = (
    ({"responses_create_params", "response"}, Kind.ROLLOUT),
    ({"prompt", "chosen", "rejected"}, Kind.BINARY_PREFERENCE),
    ({"context", "completions"}, Kind.PREFERENCE),
    # what is left is incomplete, but can still be told
    ({"responses_create_params"}, Kind.ROLLOUT),
    ({"response"}, Kind.ROLLOUT),
    ({"completions"}, Kind.PREFERENCE),
    ({"context"}, Kind.PREFERENCE),
    ({"chosen"}, Kind.BINARY_PREFERENCE),
    ({"rejected"}, Kind.BINARY_PREFERENCE),
    ({"prompt"}, Kind.BINARY_PREFERENCE),
)
"""A row is of the first kind of which it has all these keys; any kind may have other columns."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with one row."""

    path: str
    line: int
    pointer: str  # JSON pointer (RFC 6901) into the row; "" is the row itself
    got: str
    expected: str

    def __str__(self) -> str:
        where = f"{self.path}:{self.line}" if self.line else self.path
        return f"{where}: {self.pointer or '(row)'}: got {self.got}, expected {self.expected}"


@dataclass(frozen=True)
class FileReport:
    """What checking one file gave. `findings` holds the first of `num_findings`."""

    path: str
    kind: Kind | None
    rows: int
    invalid_rows: int
    num_findings: int
    findings: tuple[Finding, ...]

    def as_dict(self) -> dict[str, object]:
        """Give the report as JSON types."""
        return {**asdict(self), "findings": [asdict(finding) for finding in self.findings]}


@cache
def schema_of(kind: Kind) -> dict[str, object]:
    """Read the JSON Schema of a kind of row."""
    text = resources.files("schemas").joinpath(f"{kind}.schema.json").read_text(encoding="utf-8")
    schema: dict[str, object] = json.loads(text)
    return schema


@cache
def validator_of(kind: Kind) -> jsonschema_rs.Draft202012Validator:
    """Build the validator of a kind of row, once."""
    return jsonschema_rs.Draft202012Validator(schema_of(kind))


def validate_file(
    path: Path,
    *,
    kind: Kind | None = None,
    max_findings: int,
    advance: Callable[[int], None] = lambda amount: None,
) -> FileReport:
    """Check each row of a file, of the given kind or of its first row's; keep the first `max_findings` findings.

    Raises:
        InputError: the file can't be read.
    """
    shown = path_text(path)
    kept: list[Finding] = []
    rows = invalid_rows = num_findings = 0
    for number, value in read_rows(path, advance):
        rows += 1
        problem = _problem(value)
        kind = kind or detect_kind(value)
        found = [problem] if problem else list(row_findings(value, kind))
        invalid_rows += bool(found)
        num_findings += len(found)
        room = max(0, max_findings - len(kept))
        kept += [Finding(shown, number, *details) for details in found[:room]]
    if rows == 0:
        num_findings = 1
        kept = [Finding(shown, 0, "", "an empty file", "at least one row")]
    return FileReport(shown, kind, rows, invalid_rows, num_findings, tuple(kept))


def detect_kind(row: object) -> Kind | None:
    """Tell what a row is from its keys."""
    if not isinstance(row, dict):
        return None
    kind = next((kind for keys, kind in KEYS_OF_KIND if keys <= row.keys()), None)
    if kind is Kind.BINARY_PREFERENCE and any(isinstance(row.get(side), list) for side in ("chosen", "rejected")):
        return Kind.TRL
    return kind


Details = tuple[str, str, str]
"""JSON pointer, what was got, what was expected."""
Validator = jsonschema_rs.Validator
KNOWN_ROWS = "a rollout, a BinaryPreference row, a Preference row or a row for TRL"


def row_findings(row: object, kind: Kind | None) -> Iterator[Details]:
    """Yield what is wrong with a decoded row."""
    if kind is None:
        yield "", shape_of(row), KNOWN_ROWS
        return
    is_valid = True
    for details in schema_findings(validator_of(kind), row):
        is_valid = False
        yield details
    if is_valid and kind is Kind.PREFERENCE:
        yield from rank_findings(row)


def schema_findings(validator: Validator, row: object) -> Iterator[Details]:
    """Yield where a row misses a schema."""
    for error in validator.iter_errors(row):
        pointer = "".join(f"/{_pointer_part(part)}" for part in error.instance_path)
        yield pointer, shape_of(error.instance), _expectation(error)


def rank_findings(row: Any) -> Iterator[Details]:
    """Refuse a tie in a valid Preference row, which no JSON Schema can: nothing says which completion is preferred."""
    first, second = (completion["rank"] for completion in row["completions"])
    if first == second:
        got = f"two completions of rank {bare_excerpt(json.dumps(first))}"
        yield "/completions", got, "distinct ranks: the lower one is preferred"


def _problem(value: object) -> Details | None:
    if isinstance(value, LineError):
        return "", f"no valid JSON ({value})", "one JSON object on the line"
    return None


def _pointer_part(part: str | int) -> str:
    return bare_excerpt(str(part).replace("~", "~0").replace("/", "~1"))


def shape_of(value: object) -> str:
    """Describe a value so that a reader can find it: scalars as they are, the rest by kind and size."""
    if isinstance(value, dict):
        return f"an object with keys {bare_excerpt(', '.join(value))}" if value else "an empty object"
    if isinstance(value, list):
        return f"an array of {len(value)}"
    if isinstance(value, str):
        return excerpt(value) if value else "an empty string"
    return bare_excerpt(json.dumps(value))


def _expectation(error: jsonschema_rs.ValidationError) -> str:
    """Say in words what the violated keyword asks for."""
    keyword, value = error.kind.name, error.kind.value
    match keyword:
        case "required":
            return f"a key {bare_excerpt(value)}"
        case "type":
            return " or ".join(value) if isinstance(value, list) else str(value)
        case "enum":
            return "one of " + ", ".join(map(str, value))
        case "minLength" | "minItems":
            return f"a length of at least {value}"
        case "maxLength" | "maxItems":
            return f"a length of at most {value}"
        case "falseSchema":
            return "no such key (NeMo RL adds it itself and fails where it is there already)"
        case _:
            return bare_excerpt(error.message)
