"""What a run has to say at its end."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from schemas.atomic import atomic_writer
from schemas.errors import InputError
from schemas.terminal import path_text
from trainer.checkpoint.checkpoints import BestPolicy
from trainer.checkpoint.places import RESULT_FILE
from trainer.save.run_folder import finite


@dataclass(frozen=True)
class RunResult:
    """What a run has done, and where its policy is."""

    policy_dir: Path  # of a run that had to end before its last step: the checkpoint's
    steps: int  # that were done
    planned_steps: int
    pairs: int
    seconds: float
    metrics: dict[str, float]  # of the last step
    validation: dict[str, float]  # the last one, under its keys in metrics.jsonl
    best: BestPolicy | None  # by checkpointing.metric_name
    finished: bool  # False: the run was asked to end before its last step
    stopped_by: str = ""  # what asked it to: a signal, a file, checkpointing.checkpoint_must_save_by
    published: str | None = None  # where on the hub

    @property
    def shortfall(self) -> str:
        """Say why the run is not complete, what there is of it, and how it goes on."""
        return (
            f"after step {self.steps} of {self.planned_steps}, by {self.stopped_by}; the policy so far is in "
            f"{path_text(self.policy_dir)}; the same command with --resume auto goes on"
        )

    def as_dict(self) -> dict[str, object]:
        """Give the result as JSON types."""
        numbers = {"metrics": finite(self.metrics), "validation": finite(self.validation)}
        return {**asdict(self), **numbers, "policy_dir": str(self.policy_dir)}

    def write(self, folder: Path) -> None:
        """Keep the result in the run's folder, for who starts the run again after its end."""
        with atomic_writer(folder / RESULT_FILE) as stream:
            stream.write((json.dumps(self.as_dict(), indent=2) + "\n").encode())


def remove_result(folder: Path) -> None:
    """Take a result back: the run has not come to its end after all."""
    (folder / RESULT_FILE).unlink(missing_ok=True)


def read_result(folder: Path, policy_dir: Path) -> RunResult:
    """Read what a finished run has kept of its result; `policy_dir` is where its policy is now.

    Raises:
        InputError: it isn't what was written.
    """
    path = folder / RESULT_FILE
    try:
        told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        numbers = {name: _numbers(told[name]) for name in ("metrics", "validation")}
        return TypeAdapter(RunResult).validate_python({**told, **numbers, "policy_dir": policy_dir})
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise InputError(
            f"{path_text(path)}: can't be read as a run's result; the run is finished, and its policy is in "
            f"{path_text(policy_dir)}"
        ) from error


def _numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in values.items()}
