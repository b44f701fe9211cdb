"""The dotted keys of the configuration, read from the declarations."""

import difflib
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from trainer.config.sections import TrainConfig

SETS = "data.train"
"""One set of pairs or a list of them, so that its keys may have a number in between: data.train.0.weight."""
NAMED_SETS = "data.val_data_paths"
"""Sets by name: data.val_data_paths.NAME, data.val_data_paths.NAME.split."""


def options(model: type[BaseModel] = TrainConfig, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield every dotted key of the configuration with its declaration."""
    for name, field in model.model_fields.items():
        section = section_of(field)
        if section is None:
            yield prefix + name, field
        else:
            yield from options(section, f"{prefix}{name}.")


def option_keys() -> list[str]:
    """List every dotted key of the configuration."""
    return [key for key, _ in options()]


def section_keys() -> set[str]:
    """Name what stands before the dots of the keys."""
    parts = [key.split(".") for key in option_keys()]
    return {".".join(key[:length]) for key in parts for length in range(1, len(key))}


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """Give the section that a field holds, alone, as an option or one of several; None where it holds values."""
    return None if is_mapping(field) else section_in(field.annotation)


def section_in(kind: Any) -> type[BaseModel] | None:
    """Find the section that a type speaks of."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind
    return next((found for part in get_args(kind) if (found := section_in(part))), None)


def is_mapping(field: FieldInfo) -> bool:
    """Say whether a field holds names of the user's own."""
    return get_origin(field.annotation) is dict


def is_text(field: FieldInfo) -> bool:
    """Say whether a field holds text or a path, so that 123 or [a] are names."""
    kinds = set(get_args(field.annotation)) or {field.annotation}
    kinds = {get_args(kind)[0] if get_origin(kind) is not None and get_args(kind) else kind for kind in kinds}
    return bool(kinds & {str, Path}) and kinds <= {str, Path, NoneType}


def may_be_null(field: FieldInfo) -> bool:
    """Say whether null is a value of the field, and not only a way to leave it out."""
    return NoneType in get_args(field.annotation)


def split_key(key: str) -> list[str]:
    """Split a dotted key; the name of a validation set may have dots of its own."""
    if not key.startswith(f"{NAMED_SETS}."):
        return key.split(".")
    rest = key.removeprefix(f"{NAMED_SETS}.")
    name, _, last = rest.rpartition(".")
    section = section_in(field_of(NAMED_SETS).annotation)  # type: ignore[union-attr]
    is_whole = not name or section is None or last not in section.model_fields
    return [*NAMED_SETS.split("."), *([rest] if is_whole else [name, last])]


def field_of(key: str) -> FieldInfo | None:
    """Find the declaration of a dotted key, or of the mapping that it lies in; None where there is none."""
    model: type[BaseModel] | None = TrainConfig
    field: FieldInfo | None = None
    for part in key.split("."):
        if model is None or (part.isdigit() and field is not None):
            continue  # in a mapping; or one of several sets
        field = model.model_fields.get(part)
        if field is None:
            return None
        model = section_of(field)
    return field


def nearest_key(key: str, usual_names: dict[str, str]) -> str | None:
    """Find the key that was probably meant: by the field's usual names, by the whole key, by its last part."""
    leaf = key.rpartition(".")[2]
    by_leaf = {known.rpartition(".")[2]: known for known in reversed(option_keys())} | usual_names
    section = key.rpartition(".")[0]
    for near in difflib.get_close_matches(
        leaf, [k.rpartition(".")[2] for k in option_keys() if k.startswith(f"{section}.")], 1
    ):
        if f"{section}.{near}" in option_keys():
            return f"{section}.{near}"
    if leaf in by_leaf:
        return by_leaf[leaf]
    for near in difflib.get_close_matches(key, option_keys(), n=1):
        return near
    for near in difflib.get_close_matches(leaf, list(by_leaf), n=1):
        return by_leaf[near]
    return None
