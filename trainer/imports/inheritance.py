"""NeMo RL's YAML files as OmegaConf reads them: parents under `defaults:`, and `${...}` in place of values."""

import operator
import re
from collections.abc import Callable, Mapping
from functools import reduce
from pathlib import Path
from typing import Any

from schemas.errors import InputError, UsageError
from schemas.terminal import path_text
from trainer.config.yaml_file import read_yaml

INNERMOST = re.compile(r"\$\{([^${}]*)\}")
RESOLVERS: dict[str, Callable[[list[float]], float]] = {
    "add": sum,
    "mul": lambda numbers: reduce(operator.mul, numbers),
    "div": lambda numbers: numbers[0] / numbers[1],
    "max": max,
    "min": min,
}
"""NeMo RL's functions of numbers."""
OVERRIDE = "_override_"
MAX_STEPS = 1000  # of values in values, which may go round


def read_inherited(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a file over its parents: later parents win over earlier ones, the file over all.

    Raises:
        InputError: the file or a parent can't be read.
        UsageError: one is no YAML, or its own ancestor.
    """
    if path.resolve() in above:
        raise UsageError(f"{path_text(path)}: is its own parent under defaults:")
    tree = read_yaml(path).tree
    parents = tree.pop("defaults", None) or []
    merged: dict[str, Any] = {}
    for parent in parents if isinstance(parents, list) else [parents]:
        if parent == "_self_":
            continue
        try:
            inherited = read_inherited(path.parent / str(parent), (*above, path.resolve()))
        except InputError as error:
            where = f"{path_text(path)}: its parent under defaults: can't be had"
            raise InputError(f"{where}: {error}; put it there, or take the line out") from error
        merged = merge(merged, inherited)
    return merge(merged, tree)


def merge(below: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay a tree over another; a section with `_override_: true` takes the place of the other."""
    merged = dict(below)
    for name, value in over.items():
        if isinstance(value, dict):
            inner = {key: each for key, each in value.items() if key != OVERRIDE}
            base = merged.get(name)
            is_whole = value.get(OVERRIDE) is True or not isinstance(base, dict)
            merged[name] = merge({} if is_whole else base, inner)  # type: ignore[arg-type]
        else:
            merged[name] = value
    return merged


def interpolate(tree: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Put values in place of `${...}`; give also the keys where that can't be done, each with the reason."""
    unresolved: dict[str, str] = {}
    return _walk(tree, (), tree, unresolved), unresolved


def _walk(value: Any, where: tuple[str, ...], root: Mapping[str, Any], unresolved: dict[str, str]) -> Any:
    if isinstance(value, dict):
        walked = {name: _walk(inner, (*where, str(name)), root, unresolved) for name, inner in value.items()}
        return {name: inner for name, inner in walked.items() if ".".join((*where, str(name))) not in unresolved}
    if isinstance(value, list):
        return [_walk(inner, (*where, str(number)), root, unresolved) for number, inner in enumerate(value)]
    if not isinstance(value, str) or "${" not in value or where[-1] == "chat_template":
        return value
    try:
        return _resolved(value, where, root)
    except (LookupError, ValueError, TypeError, ArithmeticError) as error:
        unresolved[".".join(where)] = str(error)
        return value


def _resolved(text: Any, where: tuple[str, ...], root: Mapping[str, Any]) -> Any:
    """Resolve the innermost interpolation first, until none is left."""
    for _ in range(MAX_STEPS):
        match = INNERMOST.search(text) if isinstance(text, str) else None
        if match is None:
            return text
        value = _value_of(match[1].strip(), where, root)
        text = value if match[0] == text else text[: match.start()] + str(value) + text[match.end() :]
    raise ValueError(f"{excerpt_of(text)} goes round")


def excerpt_of(text: Any) -> str:
    """Shorten what goes round."""
    return str(text)[:40]


def _value_of(inner: str, where: tuple[str, ...], root: Mapping[str, Any]) -> Any:
    name, colon, arguments = inner.partition(":")
    if colon:
        if name not in RESOLVERS:
            raise ValueError(f"${{{name}:...}} can't be resolved here")
        result = RESOLVERS[name]([float(each) for each in arguments.split(",")])
        return int(result) if float(result).is_integer() else result
    dots = len(inner) - len(inner.lstrip("."))
    path = [*(where[:-dots] if dots else ()), *(part for part in inner.strip(".").split("."))]
    here: Any = root
    for part in path:
        if isinstance(here, list) and part.isdigit() and int(part) < len(here):
            here = here[int(part)]
        elif isinstance(here, dict) and part in here:
            here = here[part]
        else:
            raise ValueError(f"${{{inner}}}: there is no key {'.'.join(path)}")
    return here
