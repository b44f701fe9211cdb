"""A process's file of ready pieces of JSON, appended to while scanning and read by offset while writing."""

import os
import secrets
from pathlib import Path

PIECES_AT_ONCE = 512  # of at most 1024 that the system takes in one call


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

    def append(self, piece: bytes) -> int:
        """Take in a piece; give its place."""
        offset = self._size
        self._size += len(piece)
        if self._stream is not None:
            self._pieces.append(piece)
            if len(self._pieces) == PIECES_AT_ONCE:
                self.flush()
        return offset

    def close(self) -> None:
        """Close the file; what was not flushed is given up."""
        if self._stream is not None:
            self._stream.close()

    def flush(self) -> None:
        """Write what was taken in."""
        if self._stream is None or not self._pieces:
            return
        num_bytes = sum(map(len, self._pieces))
        written = os.writev(self._stream.fileno(), self._pieces)
        if written < num_bytes:  # a disk nearly full, or a signal
            rest = memoryview(b"".join(self._pieces))[written:]
            while rest:
                rest = rest[self._stream.write(rest) :]
        self._pieces.clear()


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
