"""The way through all files: rows one by one, then the rules across rows, then those on the whole."""

import contextlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.chunks import CHUNK_BYTES
from pipeline.gate.baseline import Baseline
from pipeline.gate.finding import Finding, Problem, located
from pipeline.gate.form import NO_FORM
from pipeline.gate.found import EnoughError, Found, Hear
from pipeline.gate.gate import Gate
from pipeline.gate.reader import Reader
from pipeline.gate.report import FileReport, Report
from pipeline.gate.rules import ABOUT, Rule, Severity
from pipeline.gate.settings import GateSettings
from pipeline.gate.whole.across import across_problems
from pipeline.gate.whole.dataset_rules import dataset_problems
from pipeline.gate.whole.rows import AllRows
from pipeline.sources import expanded, is_sidecar
from pipeline.workers import Workers, default_num_processes
from schemas.errors import InputError
from schemas.streams import STDIN, as_url, place_text
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
    passed_over: int = 0


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
        InputError: a file of `against` can't be read, or holds nothing to compare with; a folder or pattern stands for
            no file.
        UsageError: the settings name a schema or a tokenizer that can't be used.
        DpoError: a process died.
    """
    paths, others = files_of(places), files_of(against)
    settings = replace(settings, folds_prompts=bool(others))
    gate = Gate(settings)  # before the processes start: what the user named wrongly is told once
    size = _total_bytes([*paths, *others])
    num_workers = machinery.num_workers or default_num_processes(size, bytes_each=machinery.chunk_bytes)
    if size is not None:  # no more than there are pieces
        num_workers = min(num_workers, size // machinery.chunk_bytes + len(paths) + len(others))
    workers = Workers(num_workers, Gate, settings)
    found, rows, other_rows = Found(settings, baseline, max_errors, hear), AllRows(), AllRows()
    counted = [_Counted(place_text(path)) for path in paths]
    try:
        with progress("checking", total=size, unit="bytes") as advance, contextlib.suppress(EnoughError):
            reader = Reader(gate, workers, advance, machinery.chunk_bytes)
            _read_others(reader, others, len(paths), other_rows)
            _check_rows(reader, paths, counted, found, rows, size or 0)
            real_others = {_real(path): place_text(path) for path in others}
            own = {place_text(path): real_others[_real(path)] for path in paths if _real(path) in real_others}
            _check_whole(rows, other_rows, settings, found, own=own)
    finally:
        workers.stop()
    is_stopped = found.num_errors == max_errors
    files = [
        FileReport(
            file.path,
            reader.forms.get(number, NO_FORM).name,
            file.rows,
            file.invalid,
            found.num_of(file.path, Severity.ERROR),
            found.num_of(file.path, Severity.WARNING),
            found.by_file[file.path],
        )
        for number, file in enumerate(counted)
        # of one that breaks off, what was found before is told; of those that were not begun there is nothing to tell
        if file.rows or not (is_stopped or number in reader.unreadable)
    ]
    return Report(
        tuple(files),
        settings.severities,
        counts={rule: found.counts[rule] for rule in Rule if found.counts[rule]},
        findings=found.kept,
        known=found.known,
        is_stopped=is_stopped,
        unreadable=tuple(reader.unreadable.values()),
        statistics={} if is_stopped else rows.as_dict(),
        unmet=0 if baseline is None or is_stopped else baseline.num_left,
        passed_over=sum(file.passed_over for file in counted),
        compared_with=len(other_rows),
    )


def _check_rows(
    reader: Reader, paths: list[Path], counted: list[_Counted], found: Found, rows: AllRows, size: int
) -> None:
    at, num_bytes = -1, 0
    for scanned in reader.pieces(enumerate(paths)):
        file = counted[scanned.source]
        if scanned.source != at:
            at = scanned.source
            rows.begin_file(file.path)
        rows.add(scanned.gathered, lines_before=file.lines)
        num_bytes += scanned.num_bytes
        rows.expect(len(rows) * max(1.0, size / (num_bytes or 1)))
        file.passed_over += scanned.gathered.num_passed_over
        try:
            for finding in scanned.findings:
                found.add(finding._replace(line=finding.line + file.lines))
        except EnoughError:
            file.rows += finding.line  # as if none before were blank
            file.invalid += len(_invalid_lines(scanned.findings, finding.line, found.settings))
            raise
        file.rows += scanned.num_rows
        file.invalid += scanned.num_invalid
        file.lines += scanned.num_lines
    for number, file in enumerate(counted):
        if not file.rows and number not in reader.unreadable:
            found.add(located(NO_ROWS, path=file.path, line=0, content=file.path.encode()))


def _invalid_lines(findings: list[Finding], last: int, settings: GateSettings) -> set[int]:
    """Give the lines up to the last one that have errors."""
    errors = (each for each in findings if settings.severities[each.rule] is Severity.ERROR)
    return {each.line for each in errors if each.line <= last}


def _check_whole(rows: AllRows, against: AllRows, settings: GateSettings, found: Found, *, own: dict[str, str]) -> None:
    """Check rows against one another; `own` is as for `across_problems`."""
    for number, problem in across_problems(rows, against, settings, own):
        path, line = rows.place(number)
        # of two that contradict each other the later one is told: which one that is must make no difference
        key = rows.columns["row"][number] >> (problem.rule is Rule.CONTRADICTORY_PAIR)
        content = key.to_bytes(8)
        found.add(located(problem, path=path, line=line, content=content))
    if not rows.paths:
        return
    together = f" (of {len(rows.paths):,} files together)" if len(rows.paths) > 1 else ""
    for problem in dataset_problems(rows, settings):
        path = rows.first_path(ABOUT[problem.rule].rows)
        problem = problem._replace(got=problem.got + together)
        found.add(located(problem, path=path, line=0, content=b""))  # figures change with every row


def _read_others(reader: Reader, others: list[Path], start: int, rows: AllRows) -> None:
    """Read the files that no prompt may be in, numbered from `start`; what is wrong in single rows is not told here."""
    lines, rows_read = Counter[int](), Counter[int]()
    for scanned in reader.pieces(enumerate(others, start)):
        if scanned.source not in lines:
            rows.begin_file(place_text(others[scanned.source - start]))
        rows.add(scanned.gathered, lines_before=lines[scanned.source])
        lines[scanned.source] += scanned.num_lines
        rows_read[scanned.source] += len(scanned.gathered.columns["line"])
    for number, path in enumerate(others, start):
        if number not in reader.unreadable and not rows_read[number]:
            reader.unreadable[number] = f"--against {place_text(path)}: holds no rollout or pair that can be read"
    if reader.unreadable:
        raise InputError("; ".join(reader.unreadable.values()))


def files_of(places: Sequence[Path]) -> list[Path]:
    """Give the files that are meant, in their order, each once; a data set's folder stands for itself.

    Of other folders and of patterns, what NeMo Gym writes beside rollouts is left out, as `collect-pairs` does.
    """
    files: dict[str, Path] = {}
    for place in places:
        is_set = os.path.isdir(place) and is_saved_set(place)  # noqa: PTH112 (it never raises)
        meant = [place] if is_set else list(expanded([place], FOLDER_SUFFIXES))
        if meant != [place]:  # who names a file wants it checked, whatever it is
            meant = [path for path in meant if not is_sidecar(path)] or meant
        for path in meant:
            files.setdefault(_real(path), path)
    return list(files.values())


def _real(path: Path) -> str:
    """Name a file so that links to it are it."""
    return str(path) if path == STDIN or as_url(path) else os.path.realpath(path)


def _total_bytes(paths: Sequence[Path]) -> int | None:
    """Sum the sizes of the files; None where one has none, such as a pipe."""
    if not all(os.path.isfile(path) for path in paths):  # noqa: PTH113 (it never raises)
        return None
    return sum(os.path.getsize(path) for path in paths)  # noqa: PTH202
