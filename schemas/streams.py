"""Opening what a user names as input: a file, `-` for stdin, a URL; plain, gzip or zstd, told by the first bytes."""

import gzip
import io
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from schemas.errors import InputError, UsageError
from schemas.extras import install_command
from schemas.secrets import without_logins
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


def local_path(place: Path) -> Path | None:
    """Give the path of a file:// URL; None for anything else."""
    url = as_url(place)
    return Path(url.removeprefix("file://")) if url and url.startswith("file://") else None


def place_text(place: Path) -> str:
    """Show an input on one line, URLs with both slashes and without a password."""
    url = as_url(place)
    return path_text(place) if url is None else printable(without_logins(url))


Watch = Callable[[memoryview], object]


@contextmanager
def open_stream(place: Path, watch: Watch | None = None) -> Iterator[BinaryIO]:
    """Open an input for reading, decompressed; `watch` sees all that is read of it, as it is stored.

    Raises:
        InputError: there is no such input, it can't be read, or it is packed in a way that is not known.
        UsageError: it is a URL, and the package that opens those is missing.
    """
    try:
        with _open_raw(place) as raw, _unpacked(_watched(raw, watch) if watch else raw, place) as stream:
            yield stream
    except FileNotFoundError:
        raise InputError(f"{place_text(place)}: no such file") from None
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{place_text(place)}: can't be read: {printable(str(reason))}") from error


def is_plain_file(place: Path) -> bool:
    """Tell whether the input is a regular file that is not compressed, so that it can be read in parts."""
    if place == STDIN or as_url(place):
        return False
    try:
        if not place.is_file():
            return False
        with place.open("rb") as stream:
            first = stream.read(MAGIC_BYTES)
    except OSError as error:
        raise InputError(f"{place_text(place)}: can't be read: {error.strerror or error}") from error
    return not first.startswith((GZIP_MAGIC, ZIP_MAGIC, *ZSTD_MAGICS))


def expand_url(url: str) -> list[Path]:
    """Give the URLs that a pattern such as s3://bucket/*.jsonl matches, sorted.

    Raises:
        InputError: none, or they can't be listed.
        UsageError: the package that opens such URLs is missing.
    """
    with _url_errors(url):
        import fsspec

        system, pattern = fsspec.core.url_to_fs(url)
        found = sorted(system.glob(pattern))
        if not found:
            raise InputError(f"{printable(url)}: no file matches")
        return [Path(system.unstrip_protocol(path)) for path in found]


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
        raise InputError(f"{place_text(place)}: is a directory; name a file in it")
    with place.open("rb", buffering=READ_BUFFER_BYTES) as stream:
        yield stream


@contextmanager
def _open_url(url: str) -> Iterator[BinaryIO]:
    with _url_errors(url):
        import fsspec

        opened = fsspec.open(url, "rb")
    with opened as stream:
        yield cast(BinaryIO, stream)


@contextmanager
def _url_errors(url: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "fsspec":
            raise UsageError(f"{printable(url)}: can't be opened: {printable(str(error))}") from error
        raise UsageError(f"{printable(url)}: URLs need the extra remote: {install_command('remote')}") from error
    except (ImportError, ValueError) as error:  # a protocol that is not known, or whose package is missing
        raise UsageError(f"{printable(url)}: can't be opened: {printable(str(error))}") from error


class _Watched(io.RawIOBase):
    """A reader that shows all that is read."""

    def __init__(self, raw: BinaryIO, watch: Watch) -> None:
        self._raw = raw
        self._watch = watch

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._raw.read(len(buffer))
        buffer[: len(content)] = content
        self._watch(memoryview(content))
        return len(content)


def _watched(raw: BinaryIO, watch: Watch) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(_Watched(raw, watch), READ_BUFFER_BYTES))


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
        raise InputError(f"{place_text(place)}: is a zip archive; unpack it first")
    else:
        yield cast(BinaryIO, buffered)
