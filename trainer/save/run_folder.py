"""The folder of a run: train_config.json, metrics.jsonl and, at the end, policy/.

Folders of policies are there whole or not at all: written beside, synced, then named.
"""

import itertools
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from schemas.errors import DpoError, UsageError
from schemas.terminal import path_text
from trainer.config.sections import POLICY_FOLDER, TrainConfig

CONFIG_FILE = "train_config.json"
METRICS_FILE = "metrics.jsonl"
SAMPLES_FILE = "samples.jsonl"
TRACKERS_FILE = "trackers.json"  # what the services call this run
LOGS_FOLDER = "logs"

Line = dict[str, float]
"""What metrics.jsonl says of a step or of a validation."""


class RunFolder:
    """Where a run writes; on all processes but the main one it writes nothing."""

    def __init__(self, path: Path, *, writes: bool) -> None:
        self.path = path
        self.writes = writes

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
            self.path.mkdir(parents=True, exist_ok=True)
            write_config(config, self.path)
        except FileExistsError:
            raise UsageError(
                f"{path_text(self.path)}: another run has taken the folder; name a new one with -o"
            ) from None
        except OSError as error:
            raise DpoError(f"{path_text(self.path)}: can't be written: {error.strerror or error}") from error

    @contextmanager
    def given_back(self) -> Iterator[None]:
        """Take the folder away again if the run can't start, so that a corrected command finds it free."""
        try:
            yield
        except BaseException:
            if self.writes:
                with suppress(OSError):  # whatever else is in there stays
                    (self.path / CONFIG_FILE).unlink()
                    for name in (METRICS_FILE, SAMPLES_FILE, TRACKERS_FILE):  # of a validation before the first step
                        (self.path / name).unlink(missing_ok=True)
                    shutil.rmtree(self.path / LOGS_FOLDER, ignore_errors=True)
                    self.path.rmdir()
            raise

    def log(self, line: Mapping[str, float]) -> None:
        """Append a line to metrics.jsonl; what is no number is null there."""
        if self.writes:
            with (self.path / METRICS_FILE).open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(finite(line), allow_nan=False) + "\n")

    def save_policy(self, write: Callable[[Path], None]) -> None:
        """Let `write` fill the policy's folder, which is there whole or not at all.

        Raises:
            DpoError: it can't be written.
        """
        with whole_folder(self.policy_dir) as unfinished:
            write(unfinished)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give a folder to write into, which gets its name when all of it is on the disk; else nothing is left of it.

    Where only the name is taken, the folder is kept under another one: hours of training may be in it.

    Raises:
        DpoError: it can't be written.
    """
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        _sync(unfinished)
        _name(unfinished, path)
        _sync_folder(path.parent)
    except DpoError:
        raise
    except Exception as error:  # safetensors and tokenizers raise their own for a full disk
        raise DpoError(f"{path_text(path)}: can't be written: {error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _name(unfinished: Path, path: Path) -> None:
    try:
        unfinished.replace(path)
    except OSError as error:
        numbered = (path.with_name(f"{path.name}.{number}") for number in itertools.count(2))
        spare = next(each for each in numbered if not each.exists())
        unfinished.replace(spare)
        raise DpoError(
            f"{path_text(path)}: the name is taken ({error.strerror or error}); all of it is in {path_text(spare)}"
        ) from error


def finite(line: Mapping[str, float]) -> dict[str, float | None]:
    """Put null for what JSON has no number for."""
    return {name: value if math.isfinite(value) else None for name, value in line.items()}


def write_config(config: TrainConfig, folder: Path) -> None:
    """Write the configuration; the file must be new, so that of two runs one keeps the folder."""
    with (folder / CONFIG_FILE).open("x", encoding="utf-8") as stream:
        stream.write(config.model_dump_json(indent=2) + "\n")


def _sync(folder: Path) -> None:
    """Bring every file to the disk before the folder gets its name, and let others read it as the user's files are."""
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o666 & ~mask)  # safetensors makes its files private
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
        else:
            _sync_folder(path)
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
