"""Configurations as programs have them: a `TrainConfig`, a mapping in our words or in older ones, a YAML file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from schemas.errors import UsageError
from trainer.config.keys import nearest_key
from trainer.config.sections import TrainConfig
from trainer.config.settings import check
from trainer.config.told import Told
from trainer.config.yaml_file import read_yaml
from trainer.imports.carry import Note
from trainer.imports.importing import import_tree
from trainer.imports.inheritance import merge
from trainer.imports.renames import RENAMED

Wanted = TrainConfig | Mapping[str, Any] | str | Path | None


def configuration(wanted: Wanted, own: Mapping[str, Any]) -> TrainConfig:
    """Make the configuration of a run from a program.

    A mapping may be nested or have dotted keys, and may have the names of NeMo RL, of its older tutorial or of TRL, as
    `dpo config import` takes them. `own` is laid over it.

    Raises:
        UsageError: a key that the run would need can't be carried, or a value is wrong; all are named.
        InputError: the YAML file can't be read.
    """
    if isinstance(wanted, TrainConfig):
        tree: Mapping[str, Any] = wanted.model_dump(mode="json", exclude_unset=True)
    elif isinstance(wanted, (str, Path)):
        tree = read_yaml(Path(wanted)).tree
    else:
        tree = wanted or {}
    if not isinstance(wanted, TrainConfig):
        imported = import_tree(_nested(tree))
        if imported.lost:
            raise UsageError("\n  ".join(["wrong settings:", *map(_explained, imported.lost)]))
        tree = imported.tree
    return check(Told(tree=merge(tree, _nested(own))))


def _explained(note: Note) -> str:
    """Say why a key was not taken, and which one was probably meant."""
    nearest = nearest_key(note.old, RENAMED)
    return f"{note.old}: {note.remark}" + (f"; did you mean {nearest}?" if nearest and nearest != note.old else "")


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Turn dotted keys into sections."""
    tree: dict[str, Any] = {}
    for key, value in settings.items():
        inner: Any = _nested(value) if isinstance(value, Mapping) else value
        for part in reversed(key.split(".")):
            inner = {part: inner}
        tree = merge(tree, inner)
    return tree
