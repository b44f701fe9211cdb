"""From what the user named (files, folders, globs, URLs, `-`) to the rollout files that are read.

What NeMo Gym writes beside rollouts shares their glob, and none of it is training input: failures carry placeholder
rewards of 0.0. Such files are told by their name, or by what their first row holds, and left out with a note.
"""

import filecmp
import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.errors import InputError
from schemas.lines import LineError, decode_tolerant, numbered_lines, without_margin
from schemas.streams import STDIN, as_url, expand_url, is_plain_file, open_stream
from schemas.terminal import path_text

ROLLOUT_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
PACKED_SUFFIXES = ("", ".gz", ".zst")
SIDECAR_ENDINGS = {
    "_materialized_inputs.jsonl": "materialized inputs",
    "_failures.jsonl": "failures, with placeholder rewards",
    "_reward_profiling.jsonl": "a reward profile",
    "_agent_metrics.json": "metrics",
    "_aggregate_metrics.json": "metrics",
    "rollout_verdicts.jsonl": "a health report",
    ".capture.jsonl": "captured model calls",
    ".manifest.json": "a manifest",
}
COPY = "a copy of "
MAX_FIRST_LINE_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Source:
    """One input of rollouts."""

    number: int  # position among the inputs, in the order in which they are read
    path: Path
    namespace: int  # place among the inputs' sorted names: the same however they are ordered on the command line
    is_plain: bool  # a regular file, not compressed: it can be read in parts
    materialized: Path | None = None  # the materialized inputs beside it


@dataclass(frozen=True)
class Inputs:
    """What is read, and what was named but is not."""

    sources: list[Source]
    left_out: list[tuple[Path, str]]


def find_inputs(places: Iterable[Path]) -> Inputs:
    """Find the rollout files among what the user named.

    Raises:
        InputError: something named does not exist, or can't be read.
    """
    kept: list[tuple[Path, bool]] = []
    left_out: list[tuple[Path, str]] = []
    seen: set[str] = set()
    for path in sorted(_expanded(places), key=os.path.normpath):  # nothing depends on how they are ordered
        place = str(path) if path == STDIN or as_url(path) else os.path.realpath(path)
        if place in seen:
            continue
        seen.add(place)
        if twin := _twin(path, [other for other, _ in kept]):
            left_out.append((path, COPY + path_text(twin)))
            continue
        is_plain = is_plain_file(path)
        if kind := _kind_by_name(path) or ((is_plain or _is_file(path)) and _kind_by_content(path)):
            left_out.append((path, kind))
        else:
            kept.append((path, is_plain))
    names = sorted({os.path.normpath(path) for path, _ in kept})
    sources = [
        Source(number, path, names.index(os.path.normpath(path)), is_plain, _materialized_beside(path))
        for number, (path, is_plain) in enumerate(kept)
    ]
    return Inputs(sources, left_out)


def _expanded(places: Iterable[Path]) -> Iterator[Path]:
    for place in places:
        url = as_url(place)
        if place == STDIN:
            yield place
        elif url:
            yield from expand_url(url) if glob.has_magic(url) else [place]
        elif os.path.isdir(place):  # noqa: PTH112 (it never raises)
            found = sorted(path for path in place.rglob("*") if path.name.endswith(ROLLOUT_SUFFIXES) and path.is_file())
            if not found:
                raise InputError(f"{path_text(place)}: a folder without {', '.join(ROLLOUT_SUFFIXES)} files")
            yield from found
        elif not os.path.lexists(place) and glob.has_magic(str(place)):
            matches = sorted(glob.glob(str(place), recursive=True))  # noqa: PTH207 (an absolute pattern too)
            if not matches:
                raise InputError(f"{path_text(place)}: no file matches")
            yield from map(Path, matches)
        else:
            yield place


def _kind_by_name(path: Path) -> str | None:
    name = path.name.removesuffix(".gz").removesuffix(".zst")
    return next((kind for ending, kind in SIDECAR_ENDINGS.items() if name.endswith(ending)), None)


def _kind_by_content(path: Path) -> str | None:
    """Tell a sidecar by its first row, where somebody has given it another name."""
    row = _first_row(path)
    if not isinstance(row, dict):
        is_metrics = isinstance(row, list) and bool(row) and isinstance(row[0], dict) and "agent_metrics" in row[0]
        return "metrics" if is_metrics else None
    if row.get("_ng_failure_class") is not None:
        return "failures, with placeholder rewards"
    if "rollout_infos" in row and "num_rollouts" in row:
        return "a reward profile"
    if (
        "responses_create_params" in row
        and "_ng_rollout_index" in row
        and not row.keys() & {"response", "reward", "output"}
    ):
        return "materialized inputs"
    return None


def _first_row(path: Path) -> Any:
    with open_stream(path) as stream:
        for number, content in enumerate(numbered_lines(stream, MAX_FIRST_LINE_BYTES), start=1):
            if content and (content := without_margin(content, number)):
                try:
                    return decode_tolerant(content)
                except LineError:
                    return None
            if content is None:
                return None
    return None


def _twin(path: Path, others: Iterable[Path]) -> Path | None:
    """Find a file of the same content that is read already: the same run, given twice."""
    if not _is_file(path):
        return None
    size = path.stat().st_size
    same_size = (other for other in others if _is_file(other) and other.stat().st_size == size > 0)
    return next((other for other in same_size if filecmp.cmp(path, other, shallow=False)), None)


def _is_file(path: Path) -> bool:
    return path != STDIN and not as_url(path) and os.path.isfile(path)  # noqa: PTH113 (it never raises)


def _materialized_beside(path: Path) -> Path | None:
    """Find `<stem>_materialized_inputs.jsonl` beside a rollout file, packed or not."""
    name = path.name.removesuffix(".gz").removesuffix(".zst")
    if path == STDIN or as_url(path) or not name.endswith(".jsonl"):
        return None
    beside = path.with_name(name.removesuffix(".jsonl") + "_materialized_inputs.jsonl")
    packed = (beside.with_name(beside.name + suffix) for suffix in PACKED_SUFFIXES)
    return next((candidate for candidate in packed if candidate.is_file()), None)
