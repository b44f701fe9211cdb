"""Checking a row against the JSON Schema of what it is, which its keys tell."""

import json
from collections.abc import Iterable, Iterator
from enum import StrEnum
from functools import cache
from importlib import resources
from typing import Any

import jsonschema_rs

from schemas.expectations import expectation
from schemas.terminal import bare_excerpt, excerpt

MAX_FINDINGS = 20
"""Of one row against one schema: a long list of which each item is wrong says no more."""


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
    """Yield where a row misses a schema: each place once for each thing that it misses, the first `MAX_FINDINGS`."""
    try:
        errors = validator.iter_errors(row)
    except ValueError:  # there is an error, which can't be told of a row as deep as this
        yield "", "JSON nested too deep", "less than 255 levels"
        return
    told = set()
    for error in errors:
        got = _at(row, error.instance_path) if error.instance is None else error.instance
        details = pointer_of(error.instance_path), shape_of(got), expectation(error)
        if details not in told:
            told.add(details)
            yield details
        if len(told) == MAX_FINDINGS:
            return


def _at(row: Any, path: Iterable[str | int]) -> Any:
    """Give the value at a place: to the validator NaN, which tables may have, is null."""
    for part in path:
        row = row[part]
    return row


def rank_findings(row: Any) -> Iterator[Details]:
    """Refuse a tie in a valid Preference row, which no JSON Schema can: nothing says which completion is preferred."""
    first, second = (completion["rank"] for completion in row["completions"])
    if first == second:
        got = f"two completions of rank {bare_excerpt(json.dumps(first))}"
        yield "/completions", got, "distinct ranks: the lower one is preferred"


def pointer_of(parts: Iterable[str | int]) -> str:
    """Make a JSON pointer (RFC 6901) of keys and places, harmless to read."""
    return "".join("/" + bare_excerpt(str(part).replace("~", "~0").replace("/", "~1")) for part in parts)


def shape_of(value: object) -> str:
    """Describe a value so that a reader can find it: scalars as they are, the rest by kind and size."""
    if isinstance(value, dict):
        return f"an object with keys {bare_excerpt(', '.join(value))}" if value else "an empty object"
    if isinstance(value, list):
        return f"an array of {len(value)}"
    if isinstance(value, str):
        return excerpt(value) if value else "an empty string"
    return bare_excerpt(json.dumps(value))
