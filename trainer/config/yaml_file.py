"""YAML files: as YAML 1.2 reads numbers and words, each key with its line, each mistake with its place.

PyYAML's own rules are those of YAML 1.1: 5e-7 is text to them, 1:30 ninety, `no` false, and of a key that stands
there twice the last wins. Here 5e-7 is a number, 1:30 and `no` are text, and a key may stand there once.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from schemas.errors import InputError, UsageError
from schemas.terminal import excerpt, path_text

MAX_BYTES = 4 << 20
MAX_KEYS = 100_000
MAX_DIGITS = 4000  # Python reads no longer integers
TAG = "tag:yaml.org,2002:"
MERGE = f"{TAG}merge"
NUMBER = r"[0-9][0-9_]*"
TAGS = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?(?:0|[1-9][0-9_]*)", list("-+0123456789")),
    "float": (
        rf"[-+]?(?:{NUMBER}\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+"
        r"|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    "merge": (r"<<", ["<"]),
}
"""What plain words are: pattern, first characters."""


class ConfigLoader(yaml.SafeLoader):  # type: ignore[misc]
    """A safe loader by the rules above."""

    yaml_implicit_resolvers: dict[str, Any] = {}


for _name, (_pattern, _first) in TAGS.items():
    ConfigLoader.add_implicit_resolver(f"{TAG}{_name}", re.compile(f"^(?:{_pattern})$"), _first)


@dataclass(frozen=True)
class YamlFile:
    """What a file says, and where."""

    tree: dict[str, Any]
    places: dict[str, str]  # dotted key -> file:line


def read_yaml(path: Path) -> YamlFile:
    """Read a YAML or JSON file whose top level is a mapping.

    Raises:
        InputError: there is no such file, or it can't be read.
        UsageError: it is no YAML, no mapping, too large, or has a key twice.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
        text = content.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"{path_text(path)}: no such file; expected a YAML file of settings") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path_text(path)}: no YAML: byte {error.start} is no UTF-8") from error
    except OSError as error:
        raise InputError(f"{path_text(path)}: can't be read: {error.strerror or error}") from error
    if len(content) > MAX_BYTES:
        raise UsageError(f"{path_text(path)}: no settings: more than {MAX_BYTES >> 20} MiB")
    try:
        return _parse(text, path_text(path))
    except RecursionError as error:
        raise UsageError(f"{path_text(path)}: no settings: nested too deeply") from error
    except yaml.YAMLError as error:
        raise UsageError(_explain(error, path_text(path), text)) from error


def _parse(text: str, name: str) -> YamlFile:
    loader = ConfigLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:  # nothing but comments
            return YamlFile({}, {})
        if not isinstance(node, yaml.MappingNode):
            line = node.start_mark.line + 1
            raise UsageError(f"{name}:{line}: expected a mapping of sections (policy:, dpo:, ...), got {_kind(node)}")
        found = list(islice(_lines(node, name, "", ()), MAX_KEYS))
        if len(found) == MAX_KEYS:  # anchors of anchors are more than memory holds
            raise UsageError(f"{name}: no settings: {MAX_KEYS:,} keys and more")
        places = dict(found)
        tree = loader.construct_document(node)
    finally:
        loader.dispose()
    return YamlFile(tree, places)


def _lines(node: yaml.Node, name: str, prefix: str, above: tuple[int, ...]) -> Iterator[tuple[str, str]]:
    """Yield the place of every key; refuse keys that stand there twice, and keys that are no text."""
    if id(node) in above:
        raise UsageError(f"{name}:{node.start_mark.line + 1}: an anchor that holds itself")
    above = (*above, id(node))
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            yield f"{prefix}{number}", f"{name}:{item.start_mark.line + 1}"
            yield from _lines(item, name, f"{prefix}{number}.", above)
    _refuse_no_value(node, f"{name}:{node.start_mark.line + 1}")
    if not isinstance(node, yaml.MappingNode):
        return
    seen: dict[str, int] = {}
    for key, value in sorted(node.value, key=lambda pair: pair[0].tag != MERGE):  # what stands there itself wins
        line = key.start_mark.line + 1
        if key.tag not in (f"{TAG}str", MERGE):
            raise UsageError(f"{name}:{line}: the key {_kind(key)} is no text; put it in quotes")
        if key.value in seen:
            raise UsageError(f"{name}:{line}: {prefix}{key.value} stands there twice, in line {seen[key.value]} too")
        seen[key.value] = line
        if key.tag == MERGE:
            yield f"{prefix}{key.value}", f"{name}:{line}"  # so that what is merged again and again is counted
            for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                yield from _lines(merged, name, prefix, above)
            continue
        yield f"{prefix}{key.value}", f"{name}:{line}"
        yield from _lines(value, name, f"{prefix}{key.value}.", above)


def _refuse_no_value(node: yaml.Node, where: str) -> None:
    """Refuse what a tag asks for and the text is not, and what no setting can be."""
    kind = node.tag.removeprefix(TAG)
    if kind not in (*TAGS, "str", "map", "seq"):
        raise UsageError(f"{where}: the tag {excerpt(node.tag)}; only plain values are read")
    if not isinstance(node, yaml.ScalarNode):
        return
    if kind in TAGS and not re.fullmatch(TAGS[kind][0], node.value):
        raise UsageError(f"{where}: {excerpt(node.value)} is tagged as {kind}, and is none")
    if kind == "int" and len(node.value) > MAX_DIGITS:
        raise UsageError(f"{where}: {excerpt(node.value)} is an integer of more than {MAX_DIGITS:,} digits")
    if "\0" in node.value:
        raise UsageError(f"{where}: a text with a NUL character, which no name or path can have")


def _kind(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return excerpt(node.value)
    return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"


def _explain(error: yaml.YAMLError, name: str, text: str) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    if mark is None:
        return f"{name}: no YAML: {problem}"
    where = f"{name}:{mark.line + 1}"
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return f"{where}: indented with a tab; YAML wants spaces"
    return f"{where}: no YAML: {problem}"
