"""Writing files that are there whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from schemas.errors import DpoError
from schemas.terminal import path_text


@contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """Open a file beside `path` for writing and move it to `path` when the block ends without an error.

    Missing folders are made. A symbolic link is followed, so that it stays a link. What is no regular file
    (a pipe, a device such as /dev/null) is written to directly, because a move would destroy it.

    Raises:
        DpoError: the file can't be written; nothing of it is left behind.
    """
    try:
        if path.is_dir():
            raise DpoError(f"{path_text(path)}: is a directory; name the file to write")
        if path.exists() and not path.is_file():
            with path.open("wb") as stream:
                yield stream
        else:
            target = _target(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            with _moved_into_place(target) as stream:
                yield stream
    except OSError as error:
        raise DpoError(f"{path_text(path)}: can't be written: {error.strerror or error}") from error


def refuse_unwritable(path: Path) -> None:
    """Tell before the work that its result could not be written.

    Raises:
        DpoError: the path is a directory, or lies where no file can be made.
    """
    ancestor = _target(path).parent
    while not ancestor.exists():
        ancestor = ancestor.parent
    if path.is_dir():
        raise DpoError(f"{path_text(path)}: is a directory; name the file to write")
    if path.exists() and not path.is_file():
        return
    if not ancestor.is_dir() or not os.access(ancestor, os.W_OK):
        raise DpoError(
            f"{path_text(path)}: can't be written: {path_text(ancestor)} is no folder that can be written to"
        )


def _target(path: Path) -> Path:
    """Follow symbolic links, so that a link stays one and what it names is written."""
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise DpoError(f"{path_text(path)}: can't be written: a symbolic link that leads in a circle")
    return target


@contextmanager
def _moved_into_place(target: Path) -> Iterator[BinaryIO]:
    unfinished = target.with_name(f".{secrets.token_hex(8)}.unfinished")  # short: a long name may have no room for more
    try:
        with unfinished.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
