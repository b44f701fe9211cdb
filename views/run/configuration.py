"""What a run was told, beside what it would have been told by default.

The defaults and meanings are those of schemas/train_config.schema.json, which is made of the options' declarations.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from schemas.terminal import bare_excerpt

NO_DEFAULT = "\N{EN DASH}"
OWN_KEYS = ("output_dir",)
"""Keys that differ with every run, and say nothing of it."""


@dataclass(frozen=True)
class Setting:
    """An option of a run."""

    key: str  # dotted, as on the command line
    value: Any
    default: Any  # None too where there is none
    has_default: bool
    meaning: str

    @property
    def differs(self) -> bool:
        """Say whether it is set otherwise than by default; where the run lies says nothing of it."""
        return self.key not in OWN_KEYS and (not self.has_default or self.value != self.default)

    @property
    def shown(self) -> str:
        """Show the value as in YAML."""
        return shown(self.value)

    @property
    def shown_default(self) -> str:
        """Show the default; a dash where there is none."""
        return shown(self.default) if self.has_default else NO_DEFAULT


def settings_of(config: Mapping[str, Any]) -> tuple[Setting, ...]:
    """Take a configuration apart, in the order of its keys."""
    return tuple(_settings(config, schema(), ""))


def shown(value: Any) -> str:
    """Show a value on one line."""
    if isinstance(value, str):
        return value
    return bare_excerpt(json.dumps(value, ensure_ascii=False)) if isinstance(value, list | dict) else json.dumps(value)


def differences(runs: Mapping[str, tuple[Setting, ...]]) -> Iterator[tuple[str, list[str | None]]]:
    """Yield the keys that are not set alike in all runs, each with its value in every one; None: it has no such key.

    A key that a run does not have, as of a set that it does not validate on, counts as the default.
    """
    tables = [{each.key: each for each in settings} for settings in runs.values()]
    for key in dict.fromkeys(key for table in tables for key in table):
        found = [table.get(key) for table in tables]
        known = [each for each in found if each is not None]
        is_alike = all(each.value == known[0].value for each in known)
        is_default = len(known) < len(found) and not any(each.differs for each in known)
        if key not in OWN_KEYS and not is_default and not (is_alike and len(known) == len(found)):
            yield key, [None if each is None else each.shown for each in found]


@cache
def schema() -> Mapping[str, Any]:
    """Give the schema of configurations."""
    text = (files("schemas") / "train_config.schema.json").read_text(encoding="utf-8")
    found: Mapping[str, Any] = json.loads(text)
    return found


def _settings(value: Any, node: Mapping[str, Any], key: str) -> Iterator[Setting]:
    options = {} if not isinstance(value, Mapping) else _properties(node)
    if isinstance(value, Mapping) and value and options:
        for name, inner in value.items():
            yield from _settings(inner, options.get(name, {}), f"{key}.{name}" if key else str(name))
    elif isinstance(value, Mapping) and value and key == "data.val_data_paths":
        for name, inner in value.items():
            yield from _settings(inner, {"$ref": "#/$defs/DatasetSection"}, f"{key}.{name}")
    elif isinstance(value, list) and value and all(isinstance(each, Mapping) for each in value):
        for number, inner in enumerate(value):
            yield from _settings(inner, _items(node), f"{key}.{number}" if len(value) > 1 else key)
    else:
        yield Setting(key, value, node.get("default"), "default" in node, str(node.get("description", "")))


def _properties(node: Mapping[str, Any]) -> Mapping[str, Any]:
    """Find the options of a section, however it is referred to."""
    for each in _alternatives(node):
        if "properties" in each:
            found: Mapping[str, Any] = each["properties"]
            return found
    return {}


def _items(node: Mapping[str, Any]) -> Mapping[str, Any]:
    for each in _alternatives(node):
        if each.get("type") == "array":
            found: Mapping[str, Any] = each.get("items", {})
            return found
    return {}


def _alternatives(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    if "$ref" in node:
        yield from _alternatives(schema()["$defs"][str(node["$ref"]).rpartition("/")[2]])
    elif "anyOf" in node:
        for each in node["anyOf"]:
            yield from _alternatives(each)
    else:
        yield node
