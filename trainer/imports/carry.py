"""What becomes of each key of an old configuration while it is imported."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from schemas.terminal import bare_excerpt
from trainer.config.keys import field_of, is_mapping

WHOLE_VALUES = ("policy.dtensor_cfg.automodel_kwargs", "policy.dtensor_cfg.env_vars")
"""Mappings of old configurations that are one value."""


class Outcome(StrEnum):
    """What became of a key."""

    CARRIED = "carried"
    RENAMED = "renamed"
    NOT_NEEDED = "not needed"
    LOST = "lost"


@dataclass(frozen=True)
class Note:
    """One key, and what became of it."""

    outcome: Outcome
    old: str
    new: str = ""
    remark: str = ""

    def __str__(self) -> str:
        arrow = f" -> {self.new}" if self.new and self.new != self.old else ""
        remark = f": {self.remark}" if self.remark else ""
        return f"{self.outcome.value:<10}  {self.old}{arrow}{remark}"


@dataclass
class Carry:
    """Old keys that are still to be looked at, ours so far, and a note for each that was."""

    pending: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)  # by our dotted keys
    notes: list[Note] = field(default_factory=list)

    def take(self, old: str, default: Any = None) -> Any:
        """Take an old key out."""
        return self.pending.pop(old, default)

    def take_below(self, prefix: str) -> dict[str, Any]:
        """Take all old keys below a prefix out, without the prefix."""
        found = {key: value for key, value in self.pending.items() if key.startswith(f"{prefix}.")}
        for key in found:
            del self.pending[key]
        return {key.removeprefix(f"{prefix}."): value for key, value in found.items()}

    def put(self, old: str, new: str, value: Any, remark: str = "") -> None:
        """Set one of our keys to the value of an old one; two old ones that differ are told of."""
        if new in self.settings and self.settings[new] != value:
            self.notes.append(
                Note(Outcome.LOST, old, new, f"is {_shown(self.settings[new])} already; {remark}".rstrip("; "))
            )
            return
        self.settings[new] = value
        self.notes.append(Note(Outcome.CARRIED if old == new else Outcome.RENAMED, old, new, remark))

    def drop(self, old: str, reason: str) -> None:
        """Leave out a key without which the run is the same."""
        self.notes.append(Note(Outcome.NOT_NEEDED, old, remark=reason))

    def lose(self, old: str, value: Any, reason: str) -> None:
        """Leave out a key that the run would need to be the same; one that is off, it does not need."""
        if is_off(old, value):
            self.drop(old, f"it was off ({_shown(value)})")
        else:
            self.notes.append(Note(Outcome.LOST, old, remark=f"{reason} (it was {_shown(value)})"))


def is_off(old: str, value: Any) -> bool:
    """Say whether a value means that nothing is done: null, false, empty, and 1 where that is a number of shards."""
    if value is None or value is False or value in ("", [], {}):
        return True
    if isinstance(value, dict):
        return all(is_off(str(name), inner) for name, inner in value.items())
    name = old.rpartition(".")[2]
    return (name.endswith(("parallel_size", "replicate_size")) and value == 1) or ("dropout" in name and value == 0)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Give each dotted key of an old configuration its value."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        declared = field_of(key)
        is_value = key in WHOLE_VALUES or (declared is not None and is_mapping(declared))
        if isinstance(value, dict) and value and not is_value:
            flat |= flatten(value, f"{key}.")
        else:
            flat[key] = value
    return flat


def _shown(value: Any) -> str:
    return bare_excerpt(str(value))
