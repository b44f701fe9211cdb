"""The way through all files: rows one by one, then the rules across rows, then those on the whole."""

import contextlib
import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.chunks import CHUNK_BYTES
from pipeline.gate.across import across_problems
from pipeline.gate.baseline import Baseline
from pipeline.gate.dataset_rules import dataset_problems
from pipeline.gate.finding import Problem, located
from pipeline.gate.form import NO_FORM
from pipeline.gate.found import EnoughError, Found, Hear
from pipeline.gate.gate import Gate
from pipeline.gate.reader import Reader
from pipeline.gate.report import FileReport, Report
from pipeline.gate.rows import AllRows
from pipeline.gate.rules import Rule, Severity
from pipeline.gate.settings import GateSettings
from pipeline.sources import expanded
from pipeline.workers import Workers, default_num_processes
from schemas.errors import InputError
from schemas.streams import place_text
from schemas.tables import is_saved_set
from schemas.terminal import progress

FOLDER_SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
NO_ROWS = Problem(Rule.EMPTY_FILE, "", "an empty file", "at least one row")


@dataclass(frozen=True)
class Machinery:
    """How the work is done; none of it changes what is found."""

    num_workers: int | None = None  # None: one for each core, as far as there is work
    chunk_bytes: int = CHUNK_BYTES


@dataclass
class _Counted:
    """What is known of one file so far."""

    path: str
    lines: int = 0
    rows: int = 0
    invalid: int = 0


def check_files(
    places: Sequence[Path],
    settings: GateSettings,
    *,
    against: Sequence[Path] = (),
    baseline: Baseline | None = None,
    max_errors: int | None = None,
    hear: Hear = lambda finding, severity: None,
    machinery: Machinery = Machinery(),
) -> Report:
    """Check files as one data set; `hear` is given each finding that is not in the baseline.

    A file that can't be read is named in the report, and the others are checked all the same.

    Raises:
        InputError: a file of `against` can't be read, or a folder or pattern stands for no file.
        UsageError: the settings name a schema or a tokenizer that can't be used.
        DpoError: a process died.
    """
    paths, others = _files_of(places), _files_of(against)
    gate = Gate(settings)  # before the processes start: what the user named wrongly is told once
    size = _total_bytes([*paths, *others])
    workers = Workers(
        machinery.num_workers or default_num_processes(size, bytes_each=machinery.chunk_bytes), Gate, settings
    )
    found, rows = Found(settings, baseline, max_errors, hear), AllRows()
    counted = [_Counted(place_text(path)) for path in paths]
    try:
        with progress("checking", total=size, unit="bytes") as advance, contextlib.suppress(EnoughError):
            reader = Reader(gate, workers, advance, machinery.chunk_bytes)
            keys = _prompt_keys(Reader(gate, workers, advance, machinery.chunk_bytes), others)
            _check_rows(reader, paths, counted, found, rows)
            _check_whole(rows, keys, settings, found)
    finally:
        workers.stop()
    is_stopped = found.num_errors == max_errors
    files = [
        FileReport(
            file.path,
            reader.forms.get(number, NO_FORM).name,
            file.rows,
            file.invalid,
            found.by_file[file.path, Severity.ERROR],
            found.by_file[file.path, Severity.WARNING],
        )
        for number, file in enumerate(counted)
        if number not in reader.unreadable
    ]
    return Report(
        tuple(files),
        settings.severities,
        {rule: found.counts[rule] for rule in Rule if found.counts[rule]},
        found.kept,
        found.known,
        is_stopped,
        tuple(reader.unreadable.values()),
        {} if is_stopped else rows.statistics.as_dict(),
    )


def _check_rows(reader: Reader, paths: list[Path], counted: list[_Counted], found: Found, rows: AllRows) -> None:
    at = -1
    for scanned in reader.pieces(enumerate(paths)):
        file = counted[scanned.source]
        if scanned.source != at:
            at = scanned.source
            rows.begin_file(file.path)
        rows.add(scanned.gathered, lines_before=file.lines)
        file.rows += scanned.num_rows
        file.invalid += scanned.num_invalid
        for finding in scanned.findings:
            found.add(finding._replace(line=finding.line + file.lines))
        file.lines += scanned.num_lines
    for number, file in enumerate(counted):
        if not file.rows and number not in reader.unreadable:
            found.add(located(NO_ROWS, path=file.path, line=0, content=file.path.encode()))


def _check_whole(rows: AllRows, against: "array[int]", settings: GateSettings, found: Found) -> None:
    for number, problem in across_problems(rows, against, settings):
        path, line = rows.place(number)
        content = int(rows.columns["row"][number]).to_bytes(8)
        found.add(located(problem, path=path, line=line, content=content))
    if rows.paths:
        for problem in dataset_problems(rows, settings):
            found.add(located(problem, path=rows.paths[0], line=0, content=problem.got.encode()))


def _prompt_keys(reader: Reader, others: list[Path]) -> "array[int]":
    keys = array("Q")
    for scanned in reader.pieces(enumerate(others)):
        keys.extend(map(int, scanned.gathered.columns["prompt"]))
    if reader.unreadable:
        raise InputError("; ".join(reader.unreadable.values()))
    return keys


def _files_of(places: Sequence[Path]) -> list[Path]:
    """Give the files that are meant, in their order, each once; a data set's folder stands for itself."""
    files = [
        path for place in places for path in ([place] if is_saved_set(place) else expanded([place], FOLDER_SUFFIXES))
    ]
    return list(dict.fromkeys(files))


def _total_bytes(paths: Sequence[Path]) -> int | None:
    """Sum the sizes of the files; None where one has none, such as a pipe."""
    if not all(os.path.isfile(path) for path in paths):  # noqa: PTH113 (it never raises)
        return None
    return sum(os.path.getsize(path) for path in paths)  # noqa: PTH202
