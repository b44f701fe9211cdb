"""Cutting inputs into pieces that can be read apart: byte ranges of plain files, blocks of lines of everything else."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pipeline.sources import Source
from schemas.lines import numbered_lines, without_margin
from schemas.streams import READ_BUFFER_BYTES, Watch, open_stream

CHUNK_BYTES = 4 << 20


class Chunk(NamedTuple):
    """A piece of an input: a byte range of a file, or the lines themselves."""

    source: int  # position among the inputs
    path: Path
    start: int
    end: int
    lines: list[bytes | None] | None = None  # None in the list: a line that is too long

    @property
    def num_bytes(self) -> int:
        """Tell how much input it is."""
        return self.end - self.start


def chunks_of(source: Source, *, chunk_bytes: int, max_line_bytes: int, watch: Watch | None = None) -> Iterator[Chunk]:
    """Cut one input; `watch` sees all that is read of it here, which is nothing of a plain file.

    Raises:
        InputError: it can't be read.
    """
    if source.is_plain:
        size = source.path.stat().st_size
        for start in range(0, size, chunk_bytes):
            yield Chunk(source.number, source.path, start, min(start + chunk_bytes, size))
    else:
        yield from _blocks(source, chunk_bytes=chunk_bytes, max_line_bytes=max_line_bytes, watch=watch)


def lines_of(chunk: Chunk, *, max_line_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """Yield the lines that begin in a chunk, with their number in it, blank ones too; None for one that is too long.

    Raises:
        InputError: the file can't be read.
    """
    if chunk.lines is not None:
        yield from enumerate(chunk.lines, start=1)
        return
    with open_stream(chunk.path) as stream:
        position = chunk.start
        if chunk.start:  # the line that is under way belongs to the chunk before
            stream.seek(chunk.start - 1)
            position -= 1
            while True:
                piece = stream.readline(READ_BUFFER_BYTES)
                position += len(piece)
                if not piece or piece.endswith(b"\n") or position >= chunk.end:
                    break
        yield from enumerate(_lines_until(stream, chunk, position, max_line_bytes), start=1)


def _lines_until(stream: BinaryIO, chunk: Chunk, position: int, max_line_bytes: int) -> Iterator[bytes | None]:
    """Yield the lines that begin before the chunk's end; the last of them may reach far beyond it."""
    is_first = chunk.start == 0
    lines = stream.read(max(0, chunk.end - position)).split(b"\n")
    unfinished = lines.pop()  # empty where the chunk ends with a line
    for content in lines:
        yield None if len(content) >= max_line_bytes else without_margin(content, 1 if is_first else 2)
        is_first = False
    if unfinished:
        rest = next(numbered_lines(stream, max(0, max_line_bytes - len(unfinished))), b"")
        if rest is None or len(unfinished) + len(rest) > max_line_bytes:
            yield None
        else:
            yield without_margin(unfinished + rest, 1 if is_first else 2)


def _blocks(source: Source, *, chunk_bytes: int, max_line_bytes: int, watch: Watch | None) -> Iterator[Chunk]:
    with open_stream(source.path, watch) as stream:
        lines: list[bytes | None] = []
        start = position = 0
        for number, content in enumerate(numbered_lines(stream, max_line_bytes), start=1):
            lines.append(None if content is None else without_margin(content, number))
            position += max_line_bytes if content is None else len(content)
            if position - start >= chunk_bytes:
                yield Chunk(source.number, source.path, start, position, lines)
                lines, start = [], position
        if lines:
            yield Chunk(source.number, source.path, start, position, lines)
