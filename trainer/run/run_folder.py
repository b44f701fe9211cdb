"""The folder of a run: train_config.json, metrics.jsonl and, at the end, policy/."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from schemas.errors import DpoError, UsageError
from schemas.terminal import path_text
from trainer.config.sections import TrainConfig

CONFIG_FILE = "train_config.json"
METRICS_FILE = "metrics.jsonl"
POLICY_FOLDER = "policy"


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
            _write_config(config, self.path)
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
                    self.path.rmdir()
            raise

    def log(self, metrics: dict[str, float]) -> None:
        """Append a line to metrics.jsonl."""
        if self.writes:
            with (self.path / METRICS_FILE).open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(metrics) + "\n")

    def save_policy(self, model: Any, tokenizer: Any, state_dict: dict[str, Any], config: TrainConfig) -> None:
        """Write the folder that `from_pretrained` loads, with the run's configuration; whole or not at all.

        Raises:
            DpoError: it can't be written.
        """
        unfinished = self.policy_dir.with_name(f".{POLICY_FOLDER}.unfinished")
        try:
            model.save_pretrained(unfinished, state_dict=state_dict)
            tokenizer.save_pretrained(unfinished)
            _write_config(config, unfinished)
            _sync(unfinished)
            unfinished.replace(self.policy_dir)
        except Exception as error:  # safetensors and tokenizers raise their own for a full disk
            raise DpoError(f"{path_text(self.policy_dir)}: can't be written: {error}") from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Bring every file to the disk before the folder gets its name, and let others read it as the user's files are."""
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.iterdir():
        path.chmod(0o666 & ~mask)  # safetensors makes its files private
        with path.open("rb") as stream:
            os.fsync(stream.fileno())


def _write_config(config: TrainConfig, folder: Path) -> None:
    """Write the configuration; the file must be new, so that of two runs one keeps the folder."""
    with (folder / CONFIG_FILE).open("x", encoding="utf-8") as stream:
        stream.write(config.model_dump_json(indent=2) + "\n")
