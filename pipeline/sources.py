"""From what the user named (files, folders, globs, URLs, `-`) to the rollout files that are read.

What NeMo Gym writes beside rollouts shares their glob, and none of it is training input: failures carry placeholder
rewards of 0.0. Such files are told by their name, or by what their first row holds, and left out with a note.
"""

import filecmp
import glob
import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

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
MANIFEST = SIDECAR_ENDINGS[".manifest.json"]
COPY = "a copy of "
PAIRS = "preference pairs"
REJECTS = "rejected rows"
LABELS = "labels of people"
KINDS_BY_KEYS: tuple[tuple[set[str], set[str], str], ...] = (  # keys that a row has, keys that it has not
    ({"prompt", "chosen", "rejected"}, {"responses_create_params"}, PAIRS),
    ({"context", "completions"}, {"responses_create_params"}, PAIRS),
    ({"reason", "detail", "source"}, {"responses_create_params"}, REJECTS),
    ({"prompt_digest", "first_digest", "second_digest", "verdict"}, {"responses_create_params"}, LABELS),
    ({"rollout_infos", "num_rollouts"}, set(), SIDECAR_ENDINGS["_reward_profiling.jsonl"]),
    (
        {"responses_create_params", "_ng_rollout_index"},
        {"response", "reward", "output"},
        SIDECAR_ENDINGS["_materialized_inputs.jsonl"],
    ),
)
NUM_FIRST_ROWS = 5
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
    for path in sorted(expanded(places), key=os.path.normpath):  # nothing depends on how they are ordered
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


def expanded(places: Iterable[Path], suffixes: tuple[str, ...] = ROLLOUT_SUFFIXES) -> Iterator[Path]:
    """Give the files that folders and patterns stand for; of a folder, those with one of the suffixes.

    Raises:
        InputError: a folder or a pattern stands for none.
    """
    for place in places:
        url = as_url(place)
        if place == STDIN:
            yield place
        elif url:
            yield from expand_url(url) if glob.has_magic(url) else [place]
        elif os.path.isdir(place):  # noqa: PTH112 (it never raises)
            found = sorted(path for path in place.rglob("*") if path.name.endswith(suffixes) and path.is_file())
            if not found:
                raise InputError(f"{path_text(place)}: a folder without {', '.join(suffixes)} files")
            yield from found
        elif not os.path.lexists(place) and glob.has_magic(str(place)):
            names = glob.glob(str(place), recursive=True)  # noqa: PTH207 (an absolute pattern too)
            matching = sorted(match for match in names if not os.path.isdir(match))  # noqa: PTH112
            if not matching:
                raise InputError(f"{path_text(place)}: no file matches")
            yield from map(Path, matching)
        else:
            yield place


def is_sidecar(path: Path) -> bool:
    """Tell by its name that a file is one of those that are written beside rollouts."""
    return _kind_by_name(path) is not None


def _kind_by_name(path: Path) -> str | None:
    name = path.name.removesuffix(".gz").removesuffix(".zst")
    return next((kind for ending, kind in SIDECAR_ENDINGS.items() if name.endswith(ending)), None)


def _kind_by_content(path: Path) -> str | None:
    """Tell what is no rollout file by its first rows, where somebody has given it another name.

    All of them must say so: a rollout file may hold single rows that failed, in any place.
    """
    kinds = {_kind_of_row(row) for row in _first_rows(path)}
    return kinds.pop() if len(kinds) == 1 else None


def _kind_of_row(row: object) -> str | None:
    if isinstance(row, list):
        is_metrics = bool(row) and isinstance(row[0], dict) and "agent_metrics" in row[0]
        return "metrics" if is_metrics else None
    if not isinstance(row, dict):
        return None
    if row.get("_ng_failure_class") is not None:
        return SIDECAR_ENDINGS["_failures.jsonl"]
    return next((kind for keys, absent, kind in KINDS_BY_KEYS if keys <= row.keys() and not absent & row.keys()), None)


def _first_rows(path: Path) -> Iterator[object]:
    with open_stream(path) as stream:
        lines = enumerate(numbered_lines(stream, MAX_FIRST_LINE_BYTES), start=1)
        rows = (content and without_margin(content, number) for number, content in lines)
        for content in itertools.islice((content for content in rows if content != b""), NUM_FIRST_ROWS):
            try:
                yield None if content is None else decode_tolerant(content)
            except LineError:
                yield None


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
