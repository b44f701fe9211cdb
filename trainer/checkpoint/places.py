"""Where checkpoints lie, as far as it can be told without loading anything."""

import re
from pathlib import Path

from trainer.config.sections import POLICY_FOLDER, TrainConfig

CHECKPOINT_FOLDER = "checkpoints"
STATE_FOLDER = "state"
MANIFEST_FILE = "manifest.json"
RESULT_FILE = "result.json"
CONFIG_FILE = "train_config.json"
_STEP = re.compile(r"step_([0-9]+)")


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


def run_of(folder: Path) -> Path | None:
    """Give the folder of the run whose folder, folder of checkpoints or checkpoint this is; None where none is told."""
    here = folder.absolute()
    for each in (here, here.parent, here.parent.parent):
        if (each / CONFIG_FILE).is_file() and not is_checkpoint(each):
            return each
    return None


def is_finished(config: TrainConfig) -> bool:
    """Say whether the run that is to be gone on with has come to its end."""
    run = config.output_dir
    is_there = (run / POLICY_FOLDER).is_dir() and (run / RESULT_FILE).is_file()
    return config.checkpointing.resume == "auto" and is_there
