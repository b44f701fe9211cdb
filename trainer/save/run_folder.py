"""The folder of a run: train_config.json, metrics.jsonl and, at the end, policy/.

Folders of policies are there whole or not at all: written beside, synced, then named.
"""

import fcntl
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from schemas.atomic import atomic_writer
from schemas.errors import DpoError, UsageError
from schemas.terminal import path_text, reason, reason_with_path
from trainer.config.secrets import config_without_secrets
from trainer.config.sections import POLICY_FOLDER, TrainConfig
from trainer.save.whole_folder import remove_leftovers, sync_file, whole_folder

CONFIG_FILE = "train_config.json"
METRICS_FILE = "metrics.jsonl"
SAMPLES_FILE = "samples.jsonl"
TRACKERS_FILE = "trackers.json"  # what the services call this run
RUN_FILE = "run.json"  # what it is trained on, and how it ended
HEALTH_FILE = "health.json"
PAGE_FILE = "report.html"
PLOTS_FOLDER = "plots"
LOGS_FOLDER = "logs"
LOG_FILES = (METRICS_FILE, SAMPLES_FILE)
LOCK_TRIES, LOCK_SECONDS = 4, 0.05
GO_ON = "; when that is mended, the same command with --resume auto goes on from the last checkpoint"

Line = dict[str, float]
"""What metrics.jsonl says of a step or of a validation."""


class RunFolder:
    """Where a run writes; on all processes but the main one it writes nothing."""

    def __init__(self, path: Path, *, writes: bool) -> None:
        self.path = path
        self.writes = writes
        self._lock: int | None = None  # a file descriptor

    @property
    def policy_dir(self) -> Path:
        """Where the trained policy goes."""
        return self.path / POLICY_FOLDER

    def create(self, config: TrainConfig) -> None:
        """Make the folder and write the configuration.

        Raises:
            UsageError: another run has taken the folder since it was looked at.
            DpoError: it can't be made.
        """
        if not self.writes:
            return
        try:
            with self.given_back():
                self._take()
                self._write_config(config)
        except OSError as error:
            raise DpoError(f"{path_text(self.path)}: can't be written: {reason(error)}") from error

    def _write_config(self, config: TrainConfig) -> None:
        try:
            write_config(config, self.path)
        except FileExistsError:
            self.close()
            raise UsageError(
                f"{path_text(self.path)}: another run has taken the folder; name a new one with -o"
            ) from None

    def start_over(self, checkpoints: Path) -> None:
        """Remove what a run has left, here and in the folder of its checkpoints, that ended before its first one."""
        if self.writes and self.path.is_dir():
            self._remove_records()
            for folder in (self.path, checkpoints):
                remove_leftovers(folder)

    def take(self) -> None:
        """Keep others from writing here, where the folder is there already.

        Raises:
            UsageError: another run is writing.
        """
        if self.writes and self.path.is_dir():
            self._take()

    def resume(self, config: TrainConfig, source: Path, log_bytes: Mapping[str, int]) -> list[str]:
        """Go on in this folder from a checkpoint of the run in `source`, which may be the same: write the
        configuration, and cut the logs to what they were; give what is to be told of that.

        Raises:
            DpoError: it can't be written to.
        """
        if not self.writes:
            return []
        try:
            self._take()
            remove_leftovers(self.path)
            with atomic_writer(self.path / CONFIG_FILE) as stream:
                stream.write(config_text(config).encode())
            return [
                note
                for name in LOG_FILES
                if (note := _cut(source / name, self.path / name, log_bytes.get(name, 0))) is not None
            ]
        except OSError as error:
            raise DpoError(f"the run can't be gone on with: {reason_with_path(error)}") from error

    @contextmanager
    def closed_on_failure(self) -> Iterator[None]:
        """Let other runs write here where the block fails; else `close` does."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let other runs write here."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _take(self) -> None:
        """Make the folder, and keep a second run from writing here meanwhile: the first may still be saving."""
        if self._lock is not None:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.path, os.O_RDONLY)
        try:
            _lock(self._lock)
        except BlockingIOError:
            self.close()
            raise UsageError(
                f"{path_text(self.path)}: another run is writing there; wait for its end, or name a new folder with -o"
            ) from None
        except OSError:  # a file system without locks
            return

    def log_bytes(self) -> dict[str, int]:
        """Give the lengths of the logs, once they are on the disk."""
        found = {}
        for name in LOG_FILES:
            path = self.path / name
            if path.exists():
                sync_file(path)
                found[name] = path.stat().st_size
        return found

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield the lines of metrics.jsonl, as far as they are whole."""
        path = self.path / METRICS_FILE
        if path.exists():
            with path.open(encoding="utf-8", errors="replace") as stream:
                yield from (line for text in stream if (line := _line(text)) is not None)

    @contextmanager
    def given_back(self) -> Iterator[None]:
        """Take the folder away again if the run can't start, so that a corrected command finds it free."""
        try:
            yield
        except BaseException:
            if self._lock is not None:
                with suppress(OSError):  # whatever else is in there stays
                    self._remove_records()
                    self.path.rmdir()
                self.close()
            raise

    def _remove_records(self) -> None:
        logs = LOG_FILES  # of a validation before the first step
        for name in (CONFIG_FILE, TRACKERS_FILE, RUN_FILE, HEALTH_FILE, PAGE_FILE, *logs):
            (self.path / name).unlink(missing_ok=True)
        _remove_plots(self.path / PLOTS_FOLDER)
        shutil.rmtree(self.path / LOGS_FOLDER, ignore_errors=True)

    def log(self, line: Mapping[str, float]) -> None:
        """Append a line to metrics.jsonl; what is no number is null there.

        Raises:
            DpoError: it can't be written.
        """
        if not self.writes:
            return
        path = self.path / METRICS_FILE
        try:
            with path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(finite(line), allow_nan=False) + "\n")
        except OSError as error:
            raise DpoError(f"{path_text(path)}: can't be written: {reason(error)}{GO_ON}") from error

    def save_policy(self, write: Callable[[Path], None]) -> None:
        """Let `write` fill the policy's folder, which is there whole or not at all.

        Raises:
            DpoError: it can't be written.
        """
        with whole_folder(self.policy_dir, remedy=GO_ON) as unfinished:
            write(unfinished)


def _lock(descriptor: int) -> None:
    """Take a lock, also where `dpo report` looks for an instant whether it is taken."""
    for _ in range(LOCK_TRIES - 1):
        with suppress(BlockingIOError):
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(LOCK_SECONDS)
    return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def finite(line: Mapping[str, float]) -> dict[str, float | None]:
    """Put null for what JSON has no number for."""
    return {name: value if math.isfinite(value) else None for name, value in line.items()}


def _remove_plots(folder: Path) -> None:
    """Remove the report's plots; whatever else is in there stays."""
    for path in (*folder.glob("*.svg"), *folder.glob("*.png")):
        path.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def _line(text: str) -> dict[str, Any] | None:
    """Read a line of metrics.jsonl; None where it is torn or no such line."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    is_ours = isinstance(line, dict) and isinstance(line.get("step"), int)
    return line if is_ours and all(isinstance(value, int | float | None) for value in line.values()) else None


def write_config(config: TrainConfig, folder: Path) -> None:
    """Write the configuration; the file must be new, so that of two runs one keeps the folder."""
    with (folder / CONFIG_FILE).open("x", encoding="utf-8") as stream:
        stream.write(config_text(config))


def config_text(config: TrainConfig) -> str:
    """Give the configuration as it is written into files, without keys and passwords."""
    return json.dumps(config_without_secrets(config), indent=2, ensure_ascii=False) + "\n"


def _cut(source: Path, target: Path, size: int) -> str | None:
    """Make a log what it was when it had so many bytes; say so where it has lost some since."""
    if source == target and source.exists() and source.stat().st_size > size:
        os.truncate(target, size)
    elif source != target and size and source.exists():
        with source.open("rb") as old, atomic_writer(target) as new:
            new.write(old.read(size))
    found = target.stat().st_size if target.exists() else 0
    if found < size:
        return f"resume: {path_text(target)} has {found:,} bytes, and had {size:,} at the checkpoint: lines are missing"
    return None
