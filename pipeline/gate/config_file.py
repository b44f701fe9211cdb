"""What a repository sets once for its data: `.dpo-validate.toml`, or `[tool.dpo.validate]` in its pyproject.toml.

The nearest one counts, from the working directory up to the root of the repository. Keys are the options without the
dashes in front; paths are relative to the file. All that is wrong with a file is told at once, with its name.
"""

import difflib
import json
import os
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.gate.rules import Severity
from pipeline.gate.told import SWITCHES, Told, limit_told, no_such, refuse_all, severities_told
from schemas.errors import UsageError
from schemas.streams import as_url
from schemas.terminal import bare_excerpt, one_line, path_text, reason
from schemas.validation import Kind

OWN_NAME = ".dpo-validate.toml"
PYPROJECT = "pyproject.toml"
TABLE = ("tool", "dpo", "validate")
TABLE_TEXT = f"[{'.'.join(TABLE)}]"
LIMITS_KEY = "limits"
LINE_ONLY = ("files", "output-format", "json", "write-baseline", "workers", "list-rules", "config", "no-config")
"""What a single run is asked for, so that it is no key."""


class Configured(NamedTuple):
    """A configuration file and what it says."""

    path: Path
    told: Told


def find_config() -> Configured | None:
    """Read the nearest configuration, if there is one.

    Raises:
        UsageError: it can't be used.
    """
    try:
        folder = Path.cwd()
    except FileNotFoundError:  # somebody has removed the working directory
        return None
    for place in (folder, *folder.parents):
        for name in (OWN_NAME, PYPROJECT):
            path = Path(os.path.relpath(place / name, folder))
            table = _table_of(path) if os.path.isfile(path) else None  # noqa: PTH113 (it never raises)
            if table is not None:
                return Configured(path, _told(path, table))
        if os.path.lexists(place / ".git"):
            break
    return None


def read_config(path: Path) -> Configured:
    """Read the configuration that the user names.

    Raises:
        UsageError: it can't be used, or is none.
    """
    table = _table_of(path)
    if table is None:
        raise UsageError(f"{path_text(path)}: has no table {TABLE_TEXT}")
    return Configured(path, _told(path, table))


def _table_of(path: Path) -> Mapping[str, Any] | None:
    """Read a file and give the table that is ours; None where it has none."""
    try:
        content: Any = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise UsageError(f"{path_text(path)}: can't be read: {reason(error)} (see --config and --no-config)") from error
    except (ValueError, RecursionError) as error:  # no UTF-8, no TOML, a number of thousands of digits
        raise UsageError(f"{path_text(path)}: is no TOML: {one_line(error)} (--no-config does without it)") from error
    if path.name != PYPROJECT:
        return content  # type: ignore[no-any-return]
    for depth, key in enumerate(TABLE):
        if depth == len(TABLE) - 1:
            _refuse_misspelled(path, content)
        if key not in content:
            return None
        content = content[key]
        if not isinstance(content, dict):
            raise UsageError(f"{path_text(path)}: [{'.'.join(TABLE[: depth + 1])}]: expected a table")
    return content  # type: ignore[no-any-return]


def _refuse_misspelled(path: Path, tables: Mapping[str, Any]) -> None:
    """Refuse a table whose name is nearly ours: it would be passed over in silence."""
    for name in difflib.get_close_matches(TABLE[-1], tables, cutoff=0.75):
        if name != TABLE[-1]:
            raise UsageError(f"{path_text(path)}: [tool.dpo.{bare_excerpt(name)}]: did you mean {TABLE_TEXT}?")


def _told(path: Path, table: Mapping[str, Any]) -> Told:
    values: dict[str, Any] = {}
    problems = []
    for key, value in table.items():
        try:
            values[key] = _reader_of(key, path)(value, path.parent)
        except ValueError as error:
            problems.append(f"{bare_excerpt(key)}: {error}")
    severities, wrong = severities_told({switch: values.pop(switch, ()) for switch in SWITCHES})
    refuse_all([*problems, *wrong], path_text(path) + (f": {TABLE_TEXT}" if path.name == PYPROJECT else ""))
    return Told(severities, **{key.replace("-", "_"): value for key, value in values.items()})


Reader = Callable[[Any, Path], Any]
"""Gives what a value means, with the folder that paths are relative to; a ValueError says what is wrong with it."""


def _reader_of(key: str, path: Path) -> Reader:
    if key in READERS:
        return READERS[key]
    if key in LINE_ONLY:
        raise ValueError("is an option of the command line alone")
    if key == TABLE[0] and path.name != PYPROJECT:
        raise ValueError(f"in a file of this name the keys stand at the top level, without {TABLE_TEXT}")
    raise ValueError(no_such("key", key, READERS))


def _expected(value: object, expected: str) -> ValueError:
    return ValueError(f"got {bare_excerpt(json.dumps(value, default=str, ensure_ascii=False))}, expected {expected}")


def _text(value: Any, folder: Path) -> str:
    if not (isinstance(value, str) and value):
        raise _expected(value, "a text")
    return value


def _texts(value: Any, folder: Path) -> tuple[str, ...]:
    members = [value] if isinstance(value, str) else value
    if not isinstance(members, list) or not all(isinstance(member, str) and member for member in members):
        raise _expected(value, "a list of texts")
    return tuple(members)


def _path(value: Any, folder: Path) -> Path:
    path = Path(os.path.expanduser(_text(value, folder)))  # noqa: PTH111 (never raises, whoever ~name is)
    return path if as_url(path) else folder / path


def _paths(value: Any, folder: Path) -> tuple[Path, ...]:
    return tuple(_path(member, folder) for member in _texts(value, folder))


def _count(value: Any, folder: Path) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _expected(value, "a whole number of at least 1")
    return value


def _kind(value: Any, folder: Path) -> Kind:
    if value not in [*Kind]:
        raise _expected(value, f"one of {', '.join(Kind)}")
    return Kind(value)


def _fail_on(value: Any, folder: Path) -> Severity:
    if value not in (Severity.ERROR, Severity.WARNING):
        raise _expected(value, f"{Severity.ERROR} or {Severity.WARNING}")
    return Severity(value)


def _limits(value: Any, folder: Path) -> dict[str, float | None]:
    if not isinstance(value, dict):
        raise _expected(value, "a table of numbers, such as { max-length-ratio = 3 }")
    limits = {name: limit_told(name, number) for name, number in value.items()}
    if problems := [f"{bare_excerpt(name)}: {problem}" for name, (_, problem) in limits.items() if problem]:
        raise ValueError("; ".join(problems))
    return {name: number for name, (number, _) in limits.items()}


READERS: dict[str, Reader] = {
    **dict.fromkeys(SWITCHES, _texts),
    "fail-on": _fail_on,
    "max-errors": _count,
    "max-findings": _count,
    "against": _paths,
    "schema": _path,
    "kind": _kind,
    "prompt-key": _text,
    "chosen-key": _text,
    "rejected-key": _text,
    "tokenizer": _path,
    "max-tokens": _count,
    "balance-by": _texts,
    "baseline": _path,
    LIMITS_KEY: _limits,
}
"""How the value of each key is read."""
