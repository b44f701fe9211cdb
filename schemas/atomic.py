"""Writing files that are there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from schemas.errors import DpoError


@contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """Open a file beside `path` for writing and move it to `path` when the block ends without an error.

    Missing folders are made. A symbolic link is followed, so that it stays a link. What is no regular file
    (a pipe, a device such as /dev/null) is written to directly, because a move would destroy it.

    Raises:
        DpoError: the file can't be written; nothing of it is left behind.
    """
    try:
        target = path.resolve()
        if target.is_dir():
            raise DpoError(f"{path}: is a directory; name the file to write")
        if target.exists() and not target.is_file():
            with target.open("wb") as stream:
                yield stream
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            with _moved_into_place(target) as stream:
                yield stream
    except OSError as error:
        raise DpoError(f"{path}: can't be written: {error.strerror or error}") from error


@contextmanager
def _moved_into_place(target: Path) -> Iterator[BinaryIO]:
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.unfinished")
    try:
        with unfinished.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
