"""A process's file of ready pieces of JSON, appended to while scanning and read by offset while writing."""

import os
import secrets
from pathlib import Path


class Spool:
    """A file that only grows."""

    def __init__(self, path: Path, *, is_kept: bool = True) -> None:
        """Open a file that is new; or none, where only the sizes are wanted."""
        self.name = path.name
        self._stream = path.open("xb", buffering=0) if is_kept else None
        self._pieces: list[bytes] = []
        self._size = 0

    @classmethod
    def create(cls, folder: Path, *, is_kept: bool) -> "Spool":
        """Make a spool of a name that no other has."""
        return cls(folder / f"spool-{os.getpid()}-{secrets.token_hex(4)}", is_kept=is_kept)

    def append(self, *pieces: bytes) -> int:
        """Take in some pieces that follow each other; give the place of the first."""
        offset = self._size
        if self._stream is not None:
            self._pieces += pieces
        self._size += sum(map(len, pieces))
        return offset

    def flush(self) -> None:
        """Write what was taken in."""
        if self._stream is None:
            return
        content = memoryview(b"".join(self._pieces))
        self._pieces.clear()
        while content:
            content = content[self._stream.write(content) :]


class SpoolReader:
    """Reads spools of all processes by offset."""

    def __init__(self, folder: Path) -> None:
        """Open nothing yet."""
        self._folder = folder
        self._descriptors: dict[str, int] = {}

    def read(self, name: str, offset: int, num_bytes: int) -> bytes:
        """Read one piece."""
        descriptor = self._descriptors.get(name)
        if descriptor is None:
            descriptor = self._descriptors[name] = os.open(self._folder / name, os.O_RDONLY)
        return os.pread(descriptor, num_bytes, offset)

    def close(self) -> None:
        """Close all spools."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])
