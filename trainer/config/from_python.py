"""Configurations as programs have them: a `TrainConfig`, a mapping in our words or in older ones, a YAML file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from schemas.errors import UsageError
from trainer.config.sections import TrainConfig
from trainer.config.settings import check
from trainer.config.told import Told
from trainer.config.yaml_file import read_yaml
from trainer.imports.importing import import_tree
from trainer.imports.inheritance import merge

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
            lines = "\n  ".join(f"{note.old}: {note.remark}" for note in imported.lost)
            raise UsageError(f"settings that can't be carried:\n  {lines}")
        tree = imported.tree
    return check(Told(tree=merge(tree, _nested(own))))


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Turn dotted keys into sections."""
    tree: dict[str, Any] = {}
    for key, value in settings.items():
        inner: Any = _nested(value) if isinstance(value, Mapping) else value
        for part in reversed(key.split(".")):
            inner = {part: inner}
        tree = merge(tree, inner)
    return tree
