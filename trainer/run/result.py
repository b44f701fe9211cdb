"""What a run has to say at its end."""

from dataclasses import asdict, dataclass
from pathlib import Path

from schemas.terminal import path_text
from trainer.checkpoint.checkpoints import BestPolicy
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
    finished: bool  # False: checkpointing.checkpoint_must_save_by left no time for another step

    @property
    def shortfall(self) -> str:
        """Say why the run is not complete, and what there is of it."""
        return (
            f"stopped after step {self.steps} of {self.planned_steps}: checkpointing.checkpoint_must_save_by leaves no "
            f"time for another step; the policy so far is in {path_text(self.policy_dir)}"
        )

    def as_dict(self) -> dict[str, object]:
        """Give the result as JSON types."""
        numbers = {"metrics": finite(self.metrics), "validation": finite(self.validation)}
        return {**asdict(self), **numbers, "policy_dir": str(self.policy_dir)}
