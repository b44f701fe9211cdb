"""Checking a piece of a file in a worker process: lines or rows in, findings, columns and figures out."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from pipeline.chunks import Chunk, lines_of
from pipeline.gate.finding import Finding, Problem, located
from pipeline.gate.form import RowForm
from pipeline.gate.gate import Gate, Gathered
from pipeline.gate.line.json_rules import TOO_DEEP, TOO_LARGE, decoded
from pipeline.gate.rules import Rule, Severity
from schemas.errors import InputError
from schemas.lines import MAX_LINE_BYTES, LineError
from schemas.rows import NumberedRow
from schemas.streams import place_text

TOO_LONG = Problem(Rule.LINE_TOO_LONG, "", f"more than {MAX_LINE_BYTES >> 20} MiB", "a line that a reader can hold")


class ScanTask(NamedTuple):
    """A piece of a file, and what tells the form of the file's rows."""

    chunk: Chunk
    told_by: object  # the skeleton of a row


@dataclass
class Scanned:
    """What one piece gave; lines are counted from its beginning."""

    source: int
    num_bytes: int
    num_lines: int = 0  # blank ones too
    num_rows: int = 0
    num_invalid: int = 0  # rows with an error of their own
    unreadable: str = ""  # why the piece, or its rest, could not be read
    findings: list[Finding] = field(default_factory=list)
    gathered: Gathered = field(default_factory=Gathered)


def scan_chunk(gate: Gate, task: ScanTask) -> Scanned:
    """Check the lines that begin in a chunk, as far as the file can be read."""
    scanned = Scanned(task.chunk.source, task.chunk.num_bytes)
    try:
        _scan_lines(gate, task, scanned)
    except InputError as error:  # it was there when the chunk was cut
        scanned.unreadable = str(error)
    return scanned


def _scan_lines(gate: Gate, task: ScanTask, scanned: Scanned) -> None:
    chunk = task.chunk
    form, path = gate.form_of(chunk.source, task.told_by), place_text(chunk.path)
    for number, content in lines_of(chunk, max_line_bytes=MAX_LINE_BYTES):
        scanned.num_lines = number
        if content == b"":
            continue
        if content is None:
            _add(scanned, gate, [TOO_LONG], path=path, line=number, content=b"")
            continue
        row, problem = decoded(content)
        problems = [] if problem is None else [problem]
        if problem is None or row is not None:  # with a key twice, it can be read all the same
            problems += _checked(gate, row, form, content=content, line=number, gathered=scanned.gathered)
        _add(scanned, gate, problems, path=path, line=number, content=content)


def scan_rows(gate: Gate, rows: Iterable[NumberedRow], *, source: int, path: str, form: RowForm) -> Scanned:
    """Check rows of a table, or of a JSON array; their number stands for the line."""
    scanned = Scanned(source, 0)
    for number, row in rows:
        scanned.num_lines = number
        content = b""
        if isinstance(row, LineError):
            problems = [Problem(Rule.MALFORMED_JSON, "", str(row), "a row that can be read")]
        else:
            content = msgspec.json.encode(row)
            problems = _checked(gate, row, form, content=content, line=number, gathered=scanned.gathered)
        _add(scanned, gate, problems, path=path, line=number, content=content)
    return scanned


def _checked(gate: Gate, row: object, form: RowForm, *, content: bytes, line: int, gathered: Gathered) -> list[Problem]:
    try:
        return gate.check(row, form, content=content, line=line, gathered=gathered)
    except RecursionError:  # of what goes through a row that could just be decoded
        return [TOO_DEEP]
    except OverflowError:  # JSON's integers have no end
        return [TOO_LARGE]


def _add(scanned: Scanned, gate: Gate, problems: list[Problem], *, path: str, line: int, content: bytes) -> None:
    scanned.num_rows += 1
    is_invalid = False
    for problem in problems:
        severity = gate.settings.severities[problem.rule]
        if severity is not Severity.IGNORE:
            is_invalid |= severity is Severity.ERROR
            scanned.findings.append(located(problem, path=path, line=line, content=content))
    scanned.num_invalid += is_invalid
