"""Opening what a user names as input: a file, `-` for stdin, a URL; plain, gzip or zstd, told by the first bytes."""

import gzip
import io
import os
import re
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from schemas.errors import InputError, UsageError
from schemas.terminal import path_text, printable

STDIN = Path("-")
READ_BUFFER_BYTES = 1 << 20
GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGICS = (b"\x28\xb5\x2f\xfd", *(bytes([low]) + b"\x2a\x4d\x18" for low in range(0x50, 0x60)))  # skippable frames
ZIP_MAGIC = b"PK\x03\x04"
MAGIC_BYTES = 4

_URL = re.compile(r"^(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]+):/")


def as_url(place: Path) -> str | None:
    """Give the URL that a command line argument is, if it is one; pathlib has made one slash of the two."""
    text = os.fspath(place)
    match = _URL.match(text)
    if match is None:
        return None
    rest = text[match.end() :].lstrip("/")
    return f"{match['scheme']}:///{rest}" if match["scheme"] == "file" else f"{match['scheme']}://{rest}"


@contextmanager
def open_stream(place: Path) -> Iterator[BinaryIO]:
    """Open an input for reading, decompressed.

    Raises:
        InputError: there is no such input, it can't be read, or it is packed in a way that is not known.
        UsageError: it is a URL, and the package that opens those is missing.
    """
    try:
        with _open_raw(place) as raw, _unpacked(raw, place) as stream:
            yield stream
    except FileNotFoundError:
        raise InputError(f"{path_text(place)}: no such file") from None
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path_text(place)}: can't be read: {printable(str(reason))}") from error


def is_plain_file(place: Path) -> bool:
    """Tell whether the input is a regular file that is not compressed, so that it can be read in parts."""
    if place == STDIN or as_url(place) or not place.is_file():
        return False
    try:
        with place.open("rb") as stream:
            first = stream.read(MAGIC_BYTES)
    except OSError as error:
        raise InputError(f"{path_text(place)}: can't be read: {error.strerror or error}") from error
    return not first.startswith((GZIP_MAGIC, ZIP_MAGIC, *ZSTD_MAGICS))


@contextmanager
def _open_raw(place: Path) -> Iterator[BinaryIO]:
    if place == STDIN:
        yield sys.stdin.buffer
        return
    if url := as_url(place):
        with _open_url(url) as stream:
            yield stream
        return
    if place.is_dir():
        raise InputError(f"{path_text(place)}: is a directory; name a file in it")
    with place.open("rb", buffering=READ_BUFFER_BYTES) as stream:
        yield stream


@contextmanager
def _open_url(url: str) -> Iterator[BinaryIO]:
    try:
        import fsspec
    except ModuleNotFoundError as error:
        raise UsageError(
            f"{printable(url)}: URLs need the extra remote: pip install 'dpo[remote]' in the clone"
        ) from error
    try:
        with fsspec.open(url, "rb") as stream:
            yield cast(BinaryIO, stream)
    except (ImportError, ValueError) as error:  # a protocol that is not known, or whose package is missing
        raise UsageError(f"{printable(url)}: can't be opened: {printable(str(error))}") from error


@contextmanager
def _unpacked(raw: BinaryIO, place: Path) -> Iterator[BinaryIO]:
    buffered = raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(cast(io.RawIOBase, raw))
    first = buffered.peek(MAGIC_BYTES)[:MAGIC_BYTES]
    if first.startswith(GZIP_MAGIC):
        with gzip.open(buffered) as unpacked:
            yield cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, unpacked), READ_BUFFER_BYTES))
    elif first.startswith(ZSTD_MAGICS):
        import pyarrow as pa

        with pa.CompressedInputStream(pa.PythonFile(buffered), "zstd") as unpacked:
            yield cast(BinaryIO, io.BufferedReader(unpacked, READ_BUFFER_BYTES))
    elif first.startswith(ZIP_MAGIC):
        raise InputError(f"{path_text(place)}: is a zip archive; unpack it first")
    else:
        yield cast(BinaryIO, buffered)
