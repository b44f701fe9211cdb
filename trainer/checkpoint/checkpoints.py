"""`checkpointing.*`: what is saved during a run, and the best policies of it.

    checkpoints/
    ├── step_50/
    │   ├── policy/               loads with from_pretrained, as the run's own
    │   ├── state/                weights and the optimizer's state: safetensors of each process
    │   ├── training_state.json   where the run stood
    │   ├── training_info.json    the same in NeMo RL's keys
    │   ├── train_config.json
    │   └── manifest.json         the digest of each file; versions, and what the run was about
    └── best.json                 which policy is the best by the metric, and where it is

A checkpoint is there whole or not at all, and old ones go only after the new one is there. The newest have a state to
go on from; of the others the policy stays.
"""

import itertools
import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from schemas.atomic import atomic_writer
from schemas.errors import UsageError
from schemas.terminal import path_text
from trainer.checkpoint.manifest import NotWholeError
from trainer.checkpoint.places import STATE_FOLDER, checkpoints_of, is_run, steps_in
from trainer.checkpoint.record import Record, read_record
from trainer.checkpoint.retention import Standing, best_of, kept, resumable
from trainer.config.preflight import refuse_unwritable_folder
from trainer.config.records import CheckpointingSection, MetricName
from trainer.config.sections import POLICY_FOLDER, TrainConfig
from trainer.run.schedule import compared_metric
from trainer.save.whole_folder import remove_folder, remove_leftovers

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
        self.folder = checkpoints_of(config)
        self.metric: MetricName | None = compared_metric(config)
        self.saved: list[Standing] = []

    @property
    def metric_text(self) -> str | None:
        """Give the metric's whole name."""
        return None if self.metric is None else str(self.metric)

    def policy_dir(self, step: int) -> Path:
        """Say where the policy of a step's checkpoint is."""
        return self.folder_of(step) / POLICY_FOLDER

    def folder_of(self, step: int) -> Path:
        """Say where a step's checkpoint is."""
        return self.folder / f"step_{step}"

    def refuse_unfit_folder(self) -> None:
        """Keep the checkpoints of two runs apart, and try whether a folder can be made where one was named.

        Raises:
            UsageError: the folder holds something, and the run doesn't go on from there.
            DpoError: it can't be made.
        """
        if self.options.checkpoint_dir is None or not self.options.enabled:
            return
        is_used = self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir()))
        if is_used and self.options.resume != "auto" and not is_run(self.config.output_dir):
            raise UsageError(
                f"checkpointing.checkpoint_dir={path_text(self.folder)}: exists and is not empty; name a new folder, "
                "or go on from there with --resume auto"
            )
        refuse_unwritable_folder(self.folder)

    def take_up(self, record: Record) -> list[str]:
        """Know the checkpoints of the run that is gone on with, and finish what its end has interrupted.

        Those of later steps, damaged ones or those of a run that is gone back from, are set aside under another name,
        for the next resume must not take them for the newest. What was set aside is told.
        """
        steps = steps_in(self.folder)
        for folder in (self.folder, *map(self.folder_of, steps)):
            remove_leftovers(folder)
        notes = [self._set_aside(step) for step in reversed(steps) if step > record.state.step]
        there = [each for each in record.standings if self.folder_of(each.step).is_dir()]
        self.saved = there if record.metric == self.metric_text else [self._compared_anew(each.step) for each in there]
        if self.saved:
            self._prune()
            self._write_best(self.best())
        return notes

    def _compared_anew(self, step: int) -> Standing:
        """Look in a checkpoint for the metric, which another one was until now."""
        try:
            return self.standing_of(step, read_record(self.folder_of(step)).state.comparable)
        except (NotWholeError, OSError):
            return Standing(step, None)

    def _set_aside(self, step: int) -> str:
        folder = self.folder_of(step)
        names = itertools.chain([""], map("_{}".format, itertools.count(2)))
        places = (folder.with_name(f"{folder.name}.set_aside{name}") for name in names)
        aside = next(place for place in places if not place.exists())
        folder.replace(aside)
        return f"resume: {folder.name} is set aside as {path_text(aside)}"

    def standing_of(self, step: int, metrics: Mapping[str, float]) -> Standing:
        """Say how a step's policy compares."""
        return Standing(step, self.value_of(metrics))

    def add(self, standing: Standing) -> None:
        """Count a checkpoint that is there in; then let go those that needn't stay."""
        self.saved = [*(each for each in self.saved if each.step != standing.step), standing]
        self._prune()
        self._write_best(self.best())

    def compare(self, standing: Standing) -> None:
        """Take up how a checkpoint compares that was saved before it could be validated."""
        if any(each.step == standing.step for each in self.saved):
            self.saved = [standing if each.step == standing.step else each for each in self.saved]
            self._write_best(self.best())

    def best(self, last: Standing | None = None) -> BestPolicy | None:
        """Give the best policy: of the checkpoints, and the last step's where the run has come to its end."""
        others = [each for each in self.saved if last is None or each.step != last.step]
        found = best_of([*others, *([last] if last else [])], higher_is_better=self.options.higher_is_better)
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

    def _prune(self) -> None:
        options = self.options
        steps = kept(self.saved, keep_top_k=options.keep_top_k, higher_is_better=options.higher_is_better)
        for each in self.saved:
            if each.step not in steps:
                remove_folder(self.folder_of(each.step))
        self.saved = [each for each in self.saved if each.step in steps]
        with_state = resumable(self.saved, keep_states=options.keep_states)
        for each in self.saved:
            if each.step not in with_state:
                remove_folder(self.folder_of(each.step) / STATE_FOLDER)

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


def most_bytes(num_checkpoints: int, options: CheckpointingSection, *, policy: int, state: int) -> int:
    """Give the most that checkpoints and the run's policy take on the disk at once: those that stay, the newest, and
    one being written. `policy` and `state` are the bytes of one."""
    newest = options.keep_states
    states = num_checkpoints if newest is None else min(num_checkpoints, newest + 1)
    return most_policies(num_checkpoints, options.keep_top_k) * policy + states * state


def most_policies(num_checkpoints: int, keep_top_k: int | None) -> int:
    """Count the policies that lie on the disk at once at most: those that stay, the newest, and one being written."""
    return num_checkpoints + 1 if keep_top_k is None else min(num_checkpoints + 1, keep_top_k + 2)
