"""Folders that are there whole or not at all: written beside, synced, then named."""

import itertools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from schemas.errors import DpoError
from schemas.terminal import path_text, reason


@contextmanager
def whole_folder(path: Path, *, remedy: str = "") -> Iterator[Path]:
    """Give a folder to write into, which gets its name when all of it is on the disk; else nothing is left of it.

    Where only the name is taken, the folder is kept under another one: hours of training may be in it.

    Args:
        path: The folder's name.
        remedy: What to do where it can't be written.

    Raises:
        DpoError: it can't be written.
    """
    unfinished = unfinished_folder(path)
    try:
        shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed here
        unfinished.mkdir(parents=True)
        yield unfinished
        sync_tree(unfinished)
        name_folder(unfinished, path)
    except DpoError:
        raise
    except Exception as error:  # safetensors and tokenizers raise their own for a full disk
        raise DpoError(f"{path_text(path)}: can't be written: {reason(error)}{remedy}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def unfinished_folder(path: Path) -> Path:
    """Say where a folder is written before it gets its name."""
    return path.with_name(f".{path.name}.unfinished")


def remove_folder(path: Path) -> None:
    """Remove a folder under another name first, for half of it must not look like the whole."""
    removed = path.with_name(f".{path.name}.removed")
    shutil.rmtree(removed, ignore_errors=True)  # of a run that was killed here
    try:
        path.replace(removed)
    except FileNotFoundError:  # someone has moved it away, which is no reason to end a run
        return
    if removed.is_symlink():  # what it leads to is not ours
        removed.unlink()
    else:
        shutil.rmtree(removed, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed run has left in a folder of files and folders that it was writing or removing."""
    for path in [*folder.glob(".*.unfinished"), *folder.glob(".*.removed")]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def sync_tree(folder: Path) -> None:
    """Bring every file to the disk, and let others read it as the user's files are."""
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o666 & ~mask)  # safetensors makes its files private
            sync_file(path)
        else:
            sync_folder(path)
    sync_folder(folder)


def sync_file(path: Path) -> None:
    """Bring a file's content to the disk."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def name_folder(unfinished: Path, path: Path) -> None:
    """Give a written folder its name; where that is taken, another one, because hours of training may be in it.

    Raises:
        DpoError: the name is taken.
    """
    try:
        unfinished.replace(path)
    except OSError as error:
        numbered = (path.with_name(f"{path.name}.{number}") for number in itertools.count(2))
        spare = next(each for each in numbered if not each.exists())
        unfinished.replace(spare)
        raise DpoError(
            f"{path_text(path)}: the name is taken ({error.strerror or error}); all of it is in {path_text(spare)}"
        ) from error
    sync_folder(path.parent)
