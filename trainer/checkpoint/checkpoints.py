"""`checkpointing.*`: policies that are saved during a run, and the best of them.

    checkpoints/
    ├── step_50/
    │   ├── policy/              loads with from_pretrained, as the run's own
    │   ├── training_info.json   where the run stood, NeMo RL's keys
    │   └── train_config.json
    └── best.json                which policy is the best by the metric, and where it is

A checkpoint is there whole or not at all, and old ones go only after the new one is there.
"""

import json
import math
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from schemas.atomic import atomic_writer
from schemas.errors import DpoError, UsageError
from schemas.terminal import path_text
from trainer.checkpoint.retention import Standing, best_of, kept
from trainer.config.preflight import refuse_unwritable_folder
from trainer.config.records import MetricName
from trainer.config.sections import POLICY_FOLDER, TrainConfig
from trainer.run.schedule import compared_metric
from trainer.save.run_folder import whole_folder, write_config

CHECKPOINT_FOLDER = "checkpoints"
INFO_FILE = "training_info.json"
BEST_FILE = "best.json"


@dataclass(frozen=True)
class BestPolicy:
    """The best policy of a run."""

    step: int
    metric: str
    value: float
    path: str


class Checkpoints:
    """The checkpoints of a run; on the main process alone."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.options = config.checkpointing
        self.folder = self.options.checkpoint_dir or config.output_dir / CHECKPOINT_FOLDER
        self.metric: MetricName | None = compared_metric(config)
        self.saved: list[Standing] = []

    def policy_dir(self, step: int) -> Path:
        """Say where the policy of a step's checkpoint is."""
        return self._folder_of(step) / POLICY_FOLDER

    def refuse_unfit_folder(self) -> None:
        """Keep the checkpoints of two runs apart, and try whether a folder can be made where one was named.

        Raises:
            UsageError: the folder holds something.
            DpoError: it can't be made.
        """
        if self.options.checkpoint_dir is None or not self.options.enabled:
            return
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise UsageError(
                f"checkpointing.checkpoint_dir={path_text(self.folder)}: exists and is not empty; name a new folder"
            )
        refuse_unwritable_folder(self.folder)

    def save(
        self, step: int, metrics: Mapping[str, float], info: Mapping[str, object], write: Callable[[Path], None]
    ) -> None:
        """Save a checkpoint, whose policy `write` puts into a folder; then let go those that needn't stay.

        Raises:
            DpoError: it can't be written.
        """
        standing = Standing(step, self.value_of(metrics))
        known = {} if standing.value is None or self.metric is None else {str(self.metric): standing.value}
        try:
            with whole_folder(self._folder_of(step)) as folder:
                (folder / POLICY_FOLDER).mkdir()
                write(folder / POLICY_FOLDER)
                write_config(self.config, folder)
                (folder / INFO_FILE).write_text(json.dumps({**info, **known}, indent=2) + "\n", encoding="utf-8")
        except DpoError as error:
            raise DpoError(
                f"{error}; make room, keep fewer with checkpointing.keep_top_k (now {self.options.keep_top_k}), or "
                "save none on the way with checkpointing.enabled=false"
            ) from error
        self.saved.append(standing)
        self._prune()
        self._write_best(self.best())

    def best(self, last: Standing | None = None) -> BestPolicy | None:
        """Give the best policy: of the checkpoints, and the last step's where the run has come to its end."""
        found = best_of([*self.saved, *([last] if last else [])], higher_is_better=self.options.higher_is_better)
        if found is None or found.value is None or self.metric is None:
            return None
        path = self.config.output_dir / POLICY_FOLDER if found is last else self.policy_dir(found.step)
        return BestPolicy(found.step, str(self.metric), found.value, str(path))

    def finish(self, step: int, metrics: Mapping[str, float]) -> BestPolicy | None:
        """Compare the last step's policy with those on the way."""
        best = self.best(Standing(step, self.value_of(metrics)))
        if self.saved:
            self._write_best(best)
        return best

    def value_of(self, metrics: Mapping[str, float]) -> float | None:
        """Look the metric up among a step's; None where it isn't there or no number."""
        value = None if self.metric is None else metrics.get(self.metric.key)
        return value if value is not None and math.isfinite(value) else None

    def _folder_of(self, step: int) -> Path:
        return self.folder / f"step_{step}"

    def _prune(self) -> None:
        steps = kept(self.saved, keep_top_k=self.options.keep_top_k, higher_is_better=self.options.higher_is_better)
        for each in self.saved:
            if each.step not in steps:
                folder = self._folder_of(each.step)
                removed = folder.with_name(f".{folder.name}.removed")  # half a checkpoint must not look like one
                with suppress(FileNotFoundError):  # someone has moved it away, which is no reason to end a run
                    folder.replace(removed)
                shutil.rmtree(removed, ignore_errors=True)
        self.saved = [each for each in self.saved if each.step in steps]

    def _write_best(self, best: BestPolicy | None) -> None:
        if best is None:
            return
        # relative, so that a run that is moved keeps its best
        found = asdict(best) | {"path": os.path.relpath(best.path, self.folder)}
        with atomic_writer(self.folder / BEST_FILE) as stream:
            stream.write((json.dumps(found, indent=2) + "\n").encode())


def free_bytes(folder: Path) -> int:
    """Give the room on the disk where a folder is or will be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def most_policies(num_checkpoints: int, keep_top_k: int | None) -> int:
    """Count the policies that lie on the disk at once at most: those that stay, the newest, and one being written."""
    return num_checkpoints + 1 if keep_top_k is None else min(num_checkpoints + 1, keep_top_k + 2)
