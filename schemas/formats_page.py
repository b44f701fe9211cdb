"""docs/formats.md: the row schemas as a page for people.

`python -m schemas.formats_page` writes it anew. Run it where a schema has changed; a test compares.
"""

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from schemas.validation import Kind, schema_of

REPOSITORY = Path(__file__).parents[1]
PAGE = Path("docs/formats.md")
WIDTH = 118
COMMANDS = {
    Kind.BINARY_PREFERENCE: "binary",
    Kind.PREFERENCE: "preference",
    Kind.TRL: "trl",
    Kind.ROLLOUT: "rollout",
}
"""What `dpo schema` calls each, in the order of the page."""
KEYWORDS = {
    "minLength": "at least {} character",
    "minItems": "at least {} item",
    "maxItems": "at most {} item",
    "minimum": "from {} on",
}
JSON_TYPES = {"string": "text"}
HEAD = """# Formats

The rows that `dpo` reads and writes, made from the JSON Schemas in `schemas/` by `python -m schemas.formats_page`. They
are JSON Schema 2020-12 and refer to nothing outside of themselves, so any validator can use them without a network:

| command | what it prints the schema of | `$id` |
|---|---|---|
COMMANDS

- For an editor, or for another tool: `dpo schema binary > binary.schema.json`. A JSON file that has the key
  `"$schema": "./binary.schema.json"` is then completed and checked as you type; a YAML configuration begins with
  `# yaml-language-server: $schema=train_config.schema.json`.
- The number at the end of an `$id` grows when a row that was valid is so no more. Keys without a type may hold
  anything, as may keys that are not named here.
- `dpo validate` holds each row against its schema, and then against rules that no schema can say. The form of a file
  is told by its keys. [datasets.md](datasets.md) has other forms, which `dpo train` and `dpo validate` turn into these
  on the way, and the kinds of files; [collect-pairs.md](collect-pairs.md) says what becomes of a rollout.
- In JSONL a row stands on one line; the examples below are spread over several for reading only.

The configuration of `dpo train` has a schema too; its keys are in [configuration.md](configuration.md).
"""
DEFINITIONS_HEAD = """## Parts

What the tables above name as a type.
"""


def formats_page() -> str:
    """Write docs/formats.md."""
    schemas: dict[Kind, dict[str, Any]] = {kind: schema_of(kind) for kind in COMMANDS}
    parts = [HEAD.replace("COMMANDS", "\n".join(_commands(schemas)))]
    parts += [_form(schema, COMMANDS[kind]) for kind, schema in schemas.items()]
    definitions: dict[str, Any] = {}
    for schema in schemas.values():
        definitions |= schema["$defs"]
    parts += [DEFINITIONS_HEAD, *(_definition(name, definitions[name]) for name in sorted(definitions))]
    return "\n".join(parts).rstrip("\n") + "\n"


def _commands(schemas: Mapping[Kind, Any]) -> Iterator[str]:
    config = json.loads((REPOSITORY / "schemas" / "train_config.schema.json").read_text(encoding="utf-8"))
    for name, schema in [*((COMMANDS[kind], schema) for kind, schema in schemas.items()), ("train-config", config)]:
        yield f"| `dpo schema {name}` | {schema['title']} | `{schema['$id']}` |"


def _form(schema: dict[str, Any], command: str) -> str:
    """Describe one form: what it is, the least and the most that a row has, and its keys."""
    examples = schema["examples"]
    return "\n".join(
        [
            f"## {schema['title']}",
            "",
            textwrap.fill(f"{schema['description']} (`dpo schema {command}`)", WIDTH),
            "",
            "The least that a row has:",
            "",
            _block([examples[0]]),
            "A full one:",
            "",
            _block(examples[-1:]),
            _table(schema),
        ]
    )


def _definition(name: str, schema: dict[str, Any]) -> str:
    """Describe a part that several keys share."""
    meaning = textwrap.fill(f"{schema['description']} Type: {_type(schema)}.", WIDTH)
    lines = [f"### {name}", "", meaning, "", _block(schema["examples"])]
    inner = schema if "properties" in schema else schema.get("items", {})
    return "\n".join([*lines, *([_table(inner)] if "properties" in inner else [])])


def _block(examples: list[Any]) -> str:
    return "\n".join(f"```json\n{_spread(example)}\n```\n" for example in examples)


def _table(schema: dict[str, Any]) -> str:
    rows = [
        f"| `{key}` | {_type(declared)} | {'yes' if is_required else ''} | {_meaning(declared)} |"
        for key, declared, is_required in _keys(schema, "")
    ]
    return "\n".join(["| key | type | required | meaning |", "|---|---|---|---|", *rows, ""])


def _keys(schema: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any, bool]]:
    """Yield each key with what is declared of it and whether it is required, those of objects in it behind it."""
    for key, declared in schema.get("properties", {}).items():
        yield prefix + key, declared, key in schema.get("required", ())
        if isinstance(declared, dict):
            yield from _keys(declared, f"{prefix}{key}.")
            if isinstance(items := declared.get("items"), dict):
                yield from _keys(items, f"{prefix}{key}[].")


def _type(declared: Any) -> str:
    """Say in words what a key may hold."""
    if declared is False:
        return "not allowed"
    if "$ref" in declared:
        return _link(declared["$ref"])
    if "enum" in declared:
        *others, last = [f"`{value}`" for value in declared["enum"]]
        return f"{', '.join(others)} or {last}"
    kinds = declared.get("type", [])
    words = [JSON_TYPES.get(kind, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)]
    if "array" in words and isinstance(items := declared.get("items"), dict):
        words[words.index("array")] = f"array of {_of_items(items)}"
    limits = [_limit(keyword, declared[keyword]) for keyword in KEYWORDS if keyword in declared]
    return " or ".join(words) + (f" ({', '.join(limits)})" if limits else "") or "any"


def _of_items(items: dict[str, Any]) -> str:
    inner = _type({key: value for key, value in items.items() if key != "minimum"})
    return re.sub(r"\b(integer|object|array)\b", r"\1s", inner)


def _limit(keyword: str, bound: int) -> str:
    text = KEYWORDS[keyword].format(bound)
    return text if bound == 1 or keyword == "minimum" else f"{text}s"


def _link(reference: str) -> str:
    name = reference.rpartition("/")[2]
    return f"[{name}](#{name})"


def _meaning(declared: Any) -> str:
    if declared is False:
        return "NeMo RL adds this key itself, and stops where a row has it already."
    text: str = declared["description"]
    return text.replace("|", r"\|")


def _spread(value: Any, depth: int = 0, taken: int = 0) -> str:
    """Write JSON on as few lines as fit the page."""
    flat = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict | list) or not value or len(flat) + 2 * depth + taken <= WIDTH:
        return flat
    inner = "  " * (depth + 1)
    if isinstance(value, dict):
        parts = [f"{inner}{json.dumps(key)}: {_spread(each, depth + 1, len(key) + 5)}" for key, each in value.items()]
        return "{\n" + ",\n".join(parts) + "\n" + "  " * depth + "}"
    parts = [inner + _spread(each, depth + 1, 1) for each in value]
    return "[\n" + ",\n".join(parts) + "\n" + "  " * depth + "]"


if __name__ == "__main__":
    (REPOSITORY / PAGE).write_text(formats_page(), encoding="utf-8")
