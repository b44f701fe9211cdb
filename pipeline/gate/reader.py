"""Files to checked pieces: lines go to the worker processes, tables are read here."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pipeline.chunks import CHUNK_BYTES, Chunk, chunks_of, lines_of
from pipeline.gate.form import NO_FORM, RowForm, row_form, skeleton
from pipeline.gate.gate import Gate
from pipeline.gate.line.json_reasons import is_utf16
from pipeline.gate.scan import Scanned, ScanTask, scan_chunk, scan_rows
from pipeline.sources import Source
from pipeline.workers import Workers
from schemas.errors import InputError
from schemas.lines import MAX_LINE_BYTES, LineError, decode_tolerant
from schemas.rows import is_read_by_lines, read_rows
from schemas.streams import is_plain_file, place_text
from schemas.terminal import Advance

ROWS_AT_ONCE = 1000
MAX_TELLING_BYTES = 64 << 20
"""At the beginning of a file, where a row is looked for that tells the form of all: the first ones may be broken."""

Piece = TypeVar("Piece")


@dataclass
class Reader:
    """Reads files in their order; what it learns of them on the way stays in `forms` and `unreadable`."""

    gate: Gate  # for what is checked in this process
    workers: Workers
    advance: Advance
    chunk_bytes: int = CHUNK_BYTES
    forms: dict[int, RowForm] = field(default_factory=dict)
    unreadable: dict[int, str] = field(default_factory=dict)  # why

    def pieces(self, files: Iterable[tuple[int, Path]]) -> Iterator[Scanned]:
        """Yield what the pieces of numbered files gave, in order. A file that can't be read is passed over."""
        for by_lines, group in itertools.groupby(files, key=self._is_read_by_lines):
            if by_lines:
                yield from self._scanned(self._tasks(group))
            else:
                for number, path in group:
                    yield from self._noting(number, self._table(number, path))

    def _scanned(self, tasks: Iterator[ScanTask]) -> Iterator[Scanned]:
        lost: set[int] = set()
        for scanned in self.workers.run(scan_chunk, tasks):
            self.advance(scanned.num_bytes, scanned.num_rows)
            if scanned.source in lost:
                continue  # the number of its first line isn't known
            if scanned.unreadable:
                lost.add(scanned.source)
                self.unreadable[scanned.source] = scanned.unreadable
            yield scanned

    def _is_read_by_lines(self, file: tuple[int, Path]) -> bool:
        try:
            return is_read_by_lines(file[1])
        except InputError:
            return True  # which says what is wrong

    def _tasks(self, files: Iterable[tuple[int, Path]]) -> Iterator[ScanTask]:
        for number, path in files:
            yield from self._noting(number, self._tasks_of(number, path))

    def _tasks_of(self, number: int, path: Path) -> Iterator[ScanTask]:
        source = Source(number, path, 0, is_plain_file(path))
        told_by: object = None
        held: list[Chunk] = []  # until a row tells what they hold
        for chunk in chunks_of(source, chunk_bytes=self.chunk_bytes, max_line_bytes=MAX_LINE_BYTES):
            if chunk.start == 0 and (first := _utf16_line(chunk)):
                yield ScanTask(chunk._replace(lines=[first]), None)  # once is enough: no line is any better
                return
            held.append(chunk)
            if number not in self.forms:
                told_by = skeleton(self._telling_row(chunk))
                form = row_form(told_by, self.gate.settings)
                if form is None and chunk.end < MAX_TELLING_BYTES:
                    continue
                self.forms[number] = form or NO_FORM
            yield from (ScanTask(each, told_by) for each in held)
            held.clear()
        yield from (ScanTask(each, None) for each in held)

    def _telling_row(self, chunk: Chunk) -> object:
        """Find the first row of a chunk that tells what the rows are."""
        for _, content in lines_of(chunk, max_line_bytes=MAX_LINE_BYTES):
            try:
                row = decode_tolerant(content) if content else None
            except LineError:
                continue
            if row_form(row, self.gate.settings) is not None:
                return row
        return None

    def _table(self, number: int, path: Path) -> Iterator[Scanned]:
        rows = read_rows(path, self.advance)
        lines_before = 0
        while batch := list(itertools.islice(rows, ROWS_AT_ONCE)):
            if number not in self.forms:
                told = (row_form(row, self.gate.settings) for _, row in batch)
                self.forms[number] = next(filter(None, told), NO_FORM)
            numbered = ((line - lines_before, row) for line, row in batch)
            scanned = scan_rows(self.gate, numbered, source=number, path=place_text(path), form=self.forms[number])
            lines_before += scanned.num_lines
            yield scanned

    def _noting(self, number: int, pieces: Iterator[Piece]) -> Iterator[Piece]:
        try:
            yield from pieces
        except InputError as error:
            self.unreadable[number] = str(error)


def _utf16_line(chunk: Chunk) -> bytes:
    """Give the first line of a file that is UTF-16; nothing of any other."""
    for _, content in lines_of(chunk, max_line_bytes=MAX_LINE_BYTES):
        if content:
            return content if is_utf16(content) else b""
    return b""
