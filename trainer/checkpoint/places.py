"""Where checkpoints lie, as far as it can be told without loading anything."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

from trainer.config.sections import POLICY_FOLDER, TrainConfig

CHECKPOINT_FOLDER = "checkpoints"
STATE_FOLDER = "state"
MANIFEST_FILE = "manifest.json"
RESULT_FILE = "result.json"
CONFIG_FILE = "train_config.json"
_STEP = re.compile(r"step_(0|[1-9][0-9]*)")
_MODEL_FILES = ("config.json", "adapter_config.json")  # one of which each policy has


def checkpoints_of(config: TrainConfig) -> Path:
    """Say where a run's checkpoints go."""
    return config.checkpointing.checkpoint_dir or config.output_dir / CHECKPOINT_FOLDER


def steps_in(folder: Path) -> list[int]:
    """Name the steps of which a folder has checkpoints, whole or not, the newest first."""
    try:
        names = [path.name for path in folder.iterdir() if path.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted((int(match[1]) for name in names if (match := _STEP.fullmatch(name))), reverse=True)


def is_checkpoint(folder: Path) -> bool:
    """Say whether a folder is one checkpoint, whole or not."""
    return (folder / MANIFEST_FILE).exists() or (folder / STATE_FOLDER).is_dir()


def is_run(folder: Path) -> bool:
    """Say whether a folder is that of a run; policies and checkpoints have a configuration in them, too."""
    is_policy = any((folder / name).exists() for name in _MODEL_FILES)
    return (folder / CONFIG_FILE).is_file() and not is_policy and not is_checkpoint(folder)


def is_of_run(source: Path, config: TrainConfig) -> bool:
    """Say whether a checkpoint, a folder of checkpoints or a run's folder is of the run in the configuration's."""
    folder = os.path.realpath(checkpoints_of(config))
    own = [os.path.realpath(config.output_dir), folder]
    return is_run(config.output_dir) and (os.path.realpath(source) in own or os.path.realpath(source.parent) == folder)


def folders_of(source: Path) -> Iterator[Path]:
    """Name the folders in which the checkpoints of a run may be, where it is told by its own or that of these."""
    yield source / CHECKPOINT_FOLDER
    yield source
    try:
        elsewhere = json.loads((source / CONFIG_FILE).read_text(encoding="utf-8"))["checkpointing"]["checkpoint_dir"]
        yield Path(elsewhere)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return


def run_of(folder: Path) -> Path | None:
    """Give the folder of the run whose folder, folder of checkpoints or checkpoint this is; None where none is told."""
    here = folder.absolute()
    return next((each for each in (here, here.parent, here.parent.parent) if is_run(each)), None)


def is_finished(config: TrainConfig) -> bool:
    """Say whether the run that is to be gone on with has come to its end."""
    run = config.output_dir
    is_there = (run / POLICY_FOLDER).is_dir() and (run / RESULT_FILE).is_file()
    return config.checkpointing.resume == "auto" and is_there
