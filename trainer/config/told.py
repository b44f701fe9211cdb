"""What the YAML file and the command line say, laid over one another, before it is checked against the declarations."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from schemas.terminal import counted, excerpt, printable
from trainer.config.base import one_or_more
from trainer.config.keys import (
    SETS,
    field_of,
    is_mapping,
    may_be_null,
    nearest_key,
    option_keys,
    section_keys,
    split_key,
)
from trainer.config.values import value_of
from trainer.config.yaml_file import read_yaml
from trainer.imports.refused import refusal_of
from trainer.imports.renames import RENAMED, new_name

SHORT_FORMS = {"reference": "reference.mode"}
"""Sections that one value may be given for."""
WHOLE = {SETS, "data.validation"}
"""Sections that a path may be given for, or all keys at once."""
OF_A_SET = ("prompt_key", "chosen_key", "rejected_key", "system_prompt_file", "prompt_file", "weight")
"""What holds for other pairs too."""
PREFIXES = re.compile(r"^(?:\+\+?|~)?")
INTERPOLATION = "${"


@dataclass
class Told:
    """Settings as a tree, where each of a file stands, and what is wrong so far."""

    tree: dict[str, Any] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    has_old_file: bool = False
    has_old_pairs: bool = False  # the pairs to train on, by the name that another tool has for them

    @property
    def has_several_sets(self) -> bool:
        """Say whether data.train is a list of sets."""
        data = self.tree.get("data")
        train = data.get("train") if isinstance(data, dict) else None
        return isinstance(train, list) and len(train) > 1


def tell(
    overrides: Sequence[str], *, pairs: Sequence[Path], config_file: Path | None, options: Mapping[str, object]
) -> Told:
    """Lay the file, the pairs, the options and the overrides over one another.

    Raises:
        InputError: the file can't be read.
        UsageError: it is no YAML.
    """
    told = Told()
    if config_file is not None:
        _take_file(told, config_file)
    given = {**options, **({f"{SETS}.data_path": pairs} if pairs else {})}
    for path in pairs:
        if field_of(str(path)) is not None and not path.exists():
            told.problems.append(f"{path}: is a setting, and has no value; write {path}=VALUE")
    if pairs:
        _put_pairs(told, [str(path) for path in pairs])
    for key, value in options.items():
        _put(told, key, str(value) if isinstance(value, Path) else value)
    for override in overrides:
        _take_override(told, override, given)
    return told


def _take_file(told: Told, path: Path) -> None:
    file = read_yaml(path)
    told.tree, told.places = file.tree, file.places
    if isinstance(told.tree.get("reference"), str):
        told.tree["reference"] = {"mode": told.tree["reference"]}
    answered = set()
    for key, value in list(_leaves(told.tree)):
        where = f"{told.places.get(key, path)}: "
        found = _old_name(key)
        if found is not None:
            known_as, answer = found
            told.has_old_file = True
            told.has_old_pairs |= _names_pairs(key)
            _prune(told.tree, key.split("."))
            if known_as not in answered:
                told.problems.append(f"{where}{known_as}: {answer}")
            answered.add(known_as)
        elif isinstance(value, str) and INTERPOLATION in value and not key.endswith("chat_template"):
            told.problems.append(f"{where}{key}={excerpt(value)}: interpolations are not read; write the value")
            _drop(told.tree, key.split("."))
    _leave_out_nulls(told.tree, "")


def _prune(tree: Any, parts: Sequence[str]) -> None:
    """Take a key out, and the sections that it leaves empty."""
    _drop(tree, parts)
    for length in range(len(parts) - 1, 0, -1):
        if _inside(tree, parts[:length]) == {}:
            _drop(tree, parts[:length])


def _take_override(told: Told, override: str, given: Mapping[str, object]) -> None:
    key, equals, text = override.partition("=")
    mark = PREFIXES.match(key)[0]  # type: ignore[index]
    key = key.removeprefix(mark)
    key = SHORT_FORMS.get(key, key)
    known = {*option_keys(), *section_keys()}
    if not key or (not equals and mark != "~"):
        told.problems.append(f"{excerpt(override)}: not of the form key=value")
    elif (found := _old_name(key)) is not None:
        told.problems.append(f"{printable(found[0])}: {found[1]}")
        told.has_old_pairs |= _names_pairs(key)
    elif mark != "~" and key in known - set(option_keys()) - WHOLE:
        told.problems.append(f"{key}: is a section; set one of its keys, {key}.KEY=")
    elif any(each == key or each.startswith(f"{key}.") for each in given):
        told.problems.append(f"{key}: given as an option and as {key}=; give one")
    elif mark == "~":
        if field_of(key) is None:
            nearest = nearest_key(key, RENAMED)
            told.problems.append(f"~{key}: no such setting" + (f"; did you mean {nearest}?" if nearest else ""))
        _forget(told, key)
    else:
        _put(told, key, value_of(text, field_of(key)))


def _put(told: Told, key: str, value: object) -> None:
    """Put a value at its dotted place; say so where something else stands in the way."""
    if key.startswith(f"{SETS}."):
        _put_in_sets(told, key, value)
        return
    parts = split_key(key)
    _forget_places(told, parts)
    problem = _place(told.tree, parts, value)
    told.problems += [f"{key}: {problem}"] if problem else []


def _place(tree: dict[str, Any], parts: Sequence[str], value: object) -> str | None:
    for number, part in enumerate(parts[:-1]):
        inner = tree.get(part)
        if isinstance(inner, str) and ".".join(parts[: number + 1]) in WHOLE:
            inner = {"data_path": inner}
        tree[part] = {} if inner is None else inner
        tree = tree[part]
        if not isinstance(tree, dict):
            return f"{part} has a value already"
    tree[parts[-1]] = value
    return None


def _put_in_sets(told: Told, key: str, value: object) -> None:
    """Set a key of the set with the number that the dotted key has, or of all sets."""
    data = told.tree.setdefault("data", {})
    if not isinstance(data, dict):
        return  # told when it is checked
    sets = [one for one in one_or_more(data.get("train") or {}) if isinstance(one, dict)]
    number, _, rest = key.removeprefix(f"{SETS}.").partition(".")
    chosen, parts = (sets, [number, rest]) if not number.isdigit() else (sets[int(number) :][:1], [rest])
    parts = [part for part in parts if part]
    if not chosen or not parts:
        told.problems.append(f"{key}: no such setting; {SETS} has {counted(len(sets), 'set')}, numbered from 0")
    elif len(chosen) > 1 and parts == ["data_path"]:
        told.problems.append(f"{key}: {SETS} is a list of sets; name one, such as {SETS}.0.data_path=")
    else:
        _forget_places(told, key.split("."))
        problems = {_place(one, parts, value) for one in chosen} - {None}
        told.problems += [f"{key}: {problem}" for problem in problems]
        data["train"] = sets if isinstance(data.get("train"), list) else sets[0]


def _put_pairs(told: Told, paths: list[str]) -> None:
    """Train on these pairs, read as those of the file would have been."""
    data = told.tree.setdefault("data", {})
    if not isinstance(data, dict):
        return  # told when it is checked
    sets = data.get("train")
    sets = sets if isinstance(sets, list) else [sets]
    usual = sets[0] if len(sets) == 1 and isinstance(sets[0], dict) else {}
    kept = {key: value for key, value in usual.items() if key in OF_A_SET}
    if len(paths) == 1 and usual and all(usual.get(key) is None for key in ("subset", "split", "dataset_name")):
        kept = dict(usual)  # its unknown keys too, which are told when it is checked
    trained = [{**kept, "data_path": path} for path in paths]
    data["train"] = trained[0] if len(trained) == 1 else trained
    told.places = {key: place for key, place in told.places.items() if not key.startswith(f"{SETS}.data_path")}


def _forget_places(told: Told, parts: Sequence[str]) -> None:
    """Forget where a key and what it lies in stood in the file, as it is told anew."""
    for length in range(1, len(parts) + 1):
        told.places.pop(".".join(parts[:length]), None)


def _forget(told: Told, key: str) -> None:
    _drop(told.tree, split_key(key))
    told.places = {k: place for k, place in told.places.items() if k != key and not k.startswith(f"{key}.")}


def _drop(tree: Any, parts: Sequence[str]) -> None:
    above = _inside(tree, parts[:-1])
    if isinstance(above, dict):
        above.pop(parts[-1], None)


def _inside(tree: Any, parts: Sequence[str]) -> Any:
    for part in parts:
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each key that holds a value, down to where the declarations know a mapping."""
    for name, value in tree.items():
        key = f"{prefix}{name}"
        declared = field_of(key)
        if isinstance(value, dict) and value and not (declared is not None and is_mapping(declared)):
            yield from _leaves(value, f"{key}.")
        else:
            yield key, value


def _old_name(key: str) -> tuple[str, str] | None:
    """Give what a key of other tools is known as, and the answer to it; None for any other key."""
    if field_of(key) is not None:
        return None
    if (answer := new_name(key)) is not None:
        return key, answer
    found = refusal_of(key)
    return None if found is None else (found[0], f"has no place here: {found[1].reason}")


def _names_pairs(old: str) -> bool:
    return RENAMED.get(old) in (f"{SETS}.data_path", f"{SETS}.dataset_name")


def _leave_out_nulls(tree: dict[str, Any], prefix: str) -> None:
    """Read an empty section, and null where it is no value, as the defaults."""
    for name, value in list(tree.items()):
        declared = field_of(f"{prefix}{name}")
        if isinstance(value, dict):
            if declared is None or not is_mapping(declared):  # in there null is a value of the user's own
                _leave_out_nulls(value, f"{prefix}{name}.")
        elif value is None and declared is not None and not may_be_null(declared):
            is_section = f"{prefix}{name}" in section_keys()
            if is_section or is_mapping(declared) or f"{prefix}{name}" == "output_dir":
                del tree[name]
