"""What a JSON Schema asks for, in words: for each keyword that a row can violate."""

import json
from collections.abc import Iterable

import jsonschema_rs

from schemas.terminal import bare_excerpt

MAX_BRANCHES = 3
"""Of `anyOf` that are told."""
BOUNDS = {
    "minLength": "a length of at least {}",
    "minItems": "a length of at least {}",
    "maxLength": "a length of at most {}",
    "maxItems": "a length of at most {}",
    "minProperties": "at least {} keys",
    "maxProperties": "at most {} keys",
    "minimum": "at least {}",
    "maximum": "at most {}",
    "exclusiveMinimum": "more than {}",
    "exclusiveMaximum": "less than {}",
    "multipleOf": "a multiple of {}",
    "pattern": "a text that matches {}",
    "format": "a text of the format {}",
    "contentEncoding": "a text in {}",
    "contentMediaType": "a text that is {}",
}
"""Keywords whose value says all."""
NEMO_RL_KEY = "task_name"


def expectation(error: jsonschema_rs.ValidationError) -> str:
    """Say in words what the violated keyword asks for."""
    keyword, value = error.kind.name, error.kind.value
    if keyword in BOUNDS:
        return BOUNDS[keyword].format(bare_excerpt(str(value)))
    match keyword:
        case "required":
            return f"a key {bare_excerpt(value)}"
        case "type":
            return _types(value)
        case "enum":
            return f"one of {bare_excerpt(', '.join(map(_shown, value)))}"
        case "const":
            return bare_excerpt(json.dumps(value, ensure_ascii=False))
        case "anyOf" | "oneOf":
            return _branches(error, value)
        case "not":
            return f"anything but {bare_excerpt(json.dumps(value, ensure_ascii=False))}"
        case "additionalProperties" | "unevaluatedProperties":
            return f"no key {bare_excerpt(', '.join(value))}"
        case "additionalItems" | "unevaluatedItems":
            return "fewer items"
        case "uniqueItems":
            return "no item twice"
        case "contains":
            return "items of which enough, and not too many, are as the schema's contains asks"
        case "propertyNames":
            return f"keys that are each {expectation(value)}"
        case "falseSchema":
            return _nothing(error)
    return bare_excerpt(error.message)


def _nothing(error: jsonschema_rs.ValidationError) -> str:
    """Say that there should be no value."""
    place = [str(part) for part in error.schema_path]
    if place[-1:] == [NEMO_RL_KEY]:
        return "no such key (NeMo RL adds it itself and fails where it is there already)"
    if place[-1:] == ["additionalProperties"]:
        return "an object without keys"
    return "no value here"


def _branches(whole: jsonschema_rs.ValidationError, context: Iterable[list[jsonschema_rs.ValidationError]]) -> str:
    """Say what each of several forms asks for first, and where, if not of the value itself."""
    branches = list(context)
    if not all(branches):
        return "one of the forms that the schema names, and not several"
    firsts = [branch[0] for branch in branches]
    if all(error.kind.name == "type" for error in firsts) and len({str(error.instance_path) for error in firsts}) == 1:
        return _types([name for error in firsts for name in _listed(error.kind.value)])
    depth = len(whole.instance_path)
    told = list(dict.fromkeys(_within(error, depth) for error in firsts))
    rest = f"; or {len(told) - MAX_BRANCHES} more" if len(told) > MAX_BRANCHES else ""
    return "; or ".join(told[:MAX_BRANCHES]) + rest


def _within(error: jsonschema_rs.ValidationError, depth: int) -> str:
    below = "/".join(map(str, error.instance_path[depth:]))
    return f"at {bare_excerpt(below)}: {expectation(error)}" if below else expectation(error)


def _types(names: object) -> str:
    return " or ".join(dict.fromkeys(_listed(names)))


def _listed(names: object) -> list[str]:
    return [str(name) for name in names] if isinstance(names, list) else [str(names)]


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
