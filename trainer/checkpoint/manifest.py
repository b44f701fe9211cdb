"""What proves that a checkpoint is whole: manifest.json, with the digest of each file and of itself.

A checkpoint whose manifest is not there, or names other bytes than there are, is never loaded.
"""

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import TypeAdapter

from trainer.checkpoint.places import MANIFEST_FILE

FORMAT = 1
PACKAGES = ("dpo", "torch", "transformers", "accelerate")
MAX_BYTES = 1 << 26
"""Of a manifest: more is no manifest, and need not come into memory."""

HASHING_THREADS = 8
"""Files of which so many are read at once; hashlib lets other threads run."""


@dataclass(frozen=True)
class FileDigest:
    """What a file has to be."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The account of a checkpoint."""

    step: int
    num_processes: int
    versions: dict[str, str]
    config_sha256: str
    identity: dict[str, str]  # digests of what a resume must find again
    files: dict[str, FileDigest]  # by the path in the checkpoint


_MANIFEST = TypeAdapter(Manifest)


class NotWholeError(Exception):
    """A checkpoint that can't be loaded; the message says why."""


def write_manifest(
    folder: Path, *, step: int, num_processes: int, config_json: str, identity: Mapping[str, str]
) -> None:
    """Take the digest of each file of a checkpoint, and write them down; the last file that it gets."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST_FILE)
    manifest = Manifest(
        step=step,
        num_processes=num_processes,
        versions=versions(),
        config_sha256=hashlib.sha256(config_json.encode()).hexdigest(),
        identity=dict(identity),
        files=dict(zip((path.relative_to(folder).as_posix() for path in paths), _digests(paths), strict=True)),
    )
    (folder / MANIFEST_FILE).write_bytes(_encode(manifest))


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a checkpoint and nothing else of it.

    Raises:
        NotWholeError: there is none, or it isn't as it was written.
    """
    content = _content(folder / MANIFEST_FILE)
    try:
        told = json.loads(content)
        if told.get("format") != FORMAT and told.get("sha256") == _own_digest(told):
            raise NotWholeError(
                f"{MANIFEST_FILE} has format {told.get('format')}, and this version of dpo reads {FORMAT}"
            )
        manifest = _MANIFEST.validate_json(content, strict=True)
        is_whole = _encode(manifest) == content
    except (ValueError, TypeError, AttributeError, RecursionError):
        is_whole = False
    if not is_whole:
        raise NotWholeError(f"{MANIFEST_FILE} is damaged")
    if outside := [name for name in manifest.files if not _is_inside(name)]:
        raise NotWholeError(f"{MANIFEST_FILE} names {outside[0]}, which is no file of a checkpoint")
    return manifest


def check_files(folder: Path, manifest: Manifest) -> None:
    """Hold every file of a checkpoint to its manifest.

    Raises:
        NotWholeError: a file is missing, damaged, or beside those that are loaded together.
    """
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise NotWholeError(f"{name} is missing")
        if path.stat().st_size != expected.bytes:
            raise NotWholeError(f"{name} has {path.stat().st_size:,} bytes, expected {expected.bytes:,}")
    try:
        found = _digests(folder / name for name in manifest.files)
    except OSError as error:
        raise NotWholeError(f"{error.filename} can't be read: {error.strerror}") from error
    for (name, expected), one in zip(manifest.files.items(), found, strict=True):
        if one != expected:
            raise NotWholeError(f"{name} is damaged: its SHA-256 is not that of the manifest")


def versions() -> dict[str, str]:
    """Name the versions that may decide how numbers are rounded."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def _content(path: Path) -> bytes:
    """Read a file that may be anything, such as a pipe, which would be waited for, or far too long."""
    try:
        if path.exists() and not path.is_file():
            raise NotWholeError(f"{path.name} is no file")
        if path.stat().st_size > MAX_BYTES:
            raise NotWholeError(f"{path.name} has {path.stat().st_size:,} bytes, which no manifest has")
        return path.read_bytes()
    except OSError as error:
        raise NotWholeError(f"{path.name} can't be read: {error.strerror or error}") from error


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts


def _encode(manifest: Manifest) -> bytes:
    content = {"format": FORMAT, **asdict(manifest)}
    return (json.dumps({**content, "sha256": _own_digest(content)}, indent=2) + "\n").encode()


def _own_digest(content: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _digests(paths: Iterable[Path]) -> list[FileDigest]:
    with ThreadPoolExecutor(HASHING_THREADS) as pool:
        return list(pool.map(_digest, paths))


def _digest(path: Path) -> FileDigest:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return FileDigest(path.stat().st_size, digest)
