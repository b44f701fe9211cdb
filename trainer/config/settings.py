"""From the command line to a `TrainConfig`: `dotted.key=value` settings, every error at once.

A value is read as JSON where it is JSON (3, true, [0.9, 0.98]), else as text. Later settings win.
"""

import difflib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from schemas.errors import UsageError
from schemas.terminal import excerpt
from trainer.config.sections import TrainConfig

RUNS_FOLDER = Path("runs")

TEXT_TYPES = (str, Path, str | None, Path | None)

SHORT_FORMS = {"reference": "reference.mode"}
"""Sections that one value may be given for."""

USUAL_NAMES = {
    "batch_size": "policy.train_global_batch_size",
    "beta": "dpo.reference_policy_kl_penalty",
    "epochs": "dpo.max_num_epochs",
    "learning_rate": "policy.optimizer.lr",
    "max_length": "policy.max_total_sequence_length",
    "max_steps": "dpo.max_num_steps",
    "model": "policy.model_name",
    "num_epochs": "dpo.max_num_epochs",
}
"""Names that other trainers use, and ours."""


def resolve(
    overrides: Sequence[str],
    *,
    train_data_path: Path,
    model_name: str | None = None,
    output_dir: Path | None = None,
    self_check: bool | None = None,
) -> TrainConfig:
    """Make the configuration of a run from the command line.

    Raises:
        UsageError: unknown keys, wrong values, or a setting given as an option too; all of them are named.
    """
    short_forms: dict[str, object] = {"data.train.data_path": str(train_data_path)}
    if model_name is not None:
        short_forms["policy.model_name"] = model_name
    if output_dir is not None:
        short_forms["output_dir"] = str(output_dir)
    if self_check is not None:
        short_forms["policy.self_check"] = self_check
    settings, problems = _parse(overrides)
    for section in sorted(_sections() & settings.keys()):
        problems.append(f"{section}: is a section; set one of its keys, {section}.KEY=")
        del settings[section]
    problems += [f"{key}: given as an option and as {key}=; give one" for key in short_forms if key in settings]
    settings = {"output_dir": str(RUNS_FOLDER / time.strftime("%Y-%m-%d_%H-%M-%S")), **settings, **short_forms}
    tree: dict[str, Any] = {}
    for key, value in settings.items():
        problem = _place(tree, key.split("."), value)
        problems += [problem] if problem else []
    try:
        config = TrainConfig.model_validate(tree)
    except ValidationError as error:
        problems += [_explain(details) for details in error.errors()]
    if problems:
        raise UsageError(problems[0] if len(problems) == 1 else "wrong settings:\n  " + "\n  ".join(problems))
    return config


def options(model: type[BaseModel] = TrainConfig, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield every dotted key of the configuration with its declaration."""
    for name, field in model.model_fields.items():
        section = section_of(field)
        if section is None:
            yield prefix + name, field
        else:
            yield from options(section, f"{prefix}{name}.")


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """Give the section that a field holds, alone, as an option or one of several; None where it holds a value."""
    return _section_in(field.annotation)


def _section_in(kind: Any) -> type[BaseModel] | None:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind
    return next((found for part in get_args(kind) if (found := _section_in(part))), None)


def option_keys() -> list[str]:
    """List every dotted key of the configuration."""
    return [key for key, _ in options()]


def _sections() -> set[str]:
    """Name what stands before the dots of the keys."""
    parts = [key.split(".") for key in option_keys()]
    return {".".join(key[:length]) for key in parts for length in range(1, len(key))}


def _parse(overrides: Sequence[str]) -> tuple[dict[str, object], list[str]]:
    texts = {key for key, field in options() if field.annotation in TEXT_TYPES}  # a model may be called 123
    settings: dict[str, object] = {}
    problems = []
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            problems.append(f"{excerpt(override)}: not of the form key=value")
        else:
            key = SHORT_FORMS.get(key, key)
            settings[key] = text if key in texts and text != "null" else _value(text)
    return settings, problems


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _place(tree: dict[str, Any], parts: list[str], value: object) -> str | None:
    """Put a value at its dotted place; say so where something else stands in the way."""
    for part in parts[:-1]:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            return f"{'.'.join(parts)}: {part} has a value already"
    tree[parts[-1]] = value
    return None


def _explain(details: Any) -> str:
    key = ".".join(map(str, details["loc"]))
    if details["type"] == "extra_forbidden":
        nearest = _nearest_key(key)
        return f"{key}: no such setting" + (f"; did you mean {nearest}?" if nearest else "")
    if details["type"] == "value_error":  # of several keys together
        return f"{key}: {details['ctx']['error']}"
    return f"{key}={excerpt(details['input'])}: {details['msg']}"


def _nearest_key(key: str) -> str | None:
    """Find the key that was probably meant: by the field's usual names, by the whole key, by its last part."""
    leaf = key.rpartition(".")[2]
    by_leaf = {known.rpartition(".")[2]: known for known in option_keys()} | USUAL_NAMES
    if leaf in by_leaf:
        return by_leaf[leaf]
    for near in difflib.get_close_matches(key, option_keys(), n=1):
        return near
    for near in difflib.get_close_matches(leaf, list(by_leaf), n=1):
        return by_leaf[near]
    return None
