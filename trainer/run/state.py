"""Where a run stands after some of its steps: what has been counted, and the latest metrics."""

import math
import resource
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import torch
from pydantic import TypeAdapter

from trainer.data.plan import Step
from trainer.save.run_folder import finite

MOMENT_BYTES = {"adamw": 8, "adamw_8bit": 2, "sgd": 0}
"""Of each trained weight."""


@dataclass(frozen=True)
class RunState:
    """What is known between two steps; metrics are under their keys in metrics.jsonl."""

    step: int = 0  # steps that are done
    epoch: int = 0  # of the last step, counted from 0
    step_in_epoch: int = 0
    consumed_samples: int = 0  # pairs
    total_valid_tokens: int = 0  # trained tokens of both sides of each pair
    metrics: Mapping[str, float] = field(default_factory=dict)  # of the last step
    validation: Mapping[str, float] = field(default_factory=dict)  # the latest
    validated_at: int = -1  # the step after which that was
    sampled_at: int = -1  # the step after which prompts were last answered

    def after(self, step: Step, num_tokens: int) -> "RunState":
        """Count a step; its metrics come with `with_metrics`."""
        return replace(
            self,
            step=self.step + 1,
            epoch=step.epoch,
            step_in_epoch=self.step_in_epoch + 1 if step.epoch == self.epoch else 1,
            consumed_samples=self.consumed_samples + len(step.pairs),
            total_valid_tokens=self.total_valid_tokens + num_tokens,
        )

    def with_metrics(self, metrics: Mapping[str, float]) -> "RunState":
        """Take a step's metrics."""
        return replace(self, metrics=metrics)

    def with_validation(self, metrics: Mapping[str, float]) -> "RunState":
        """Take a validation's metrics."""
        return replace(self, validation=metrics, validated_at=self.step)

    def with_samples(self) -> "RunState":
        """Note that prompts were answered by the policy as it is."""
        return replace(self, sampled_at=self.step)

    @property
    def is_validated(self) -> bool:
        """Say whether the latest validation is of the policy as it is."""
        return self.validated_at == self.step

    @property
    def comparable(self) -> dict[str, float]:
        """Give the metrics that are of the policy as it is."""
        return {**self.metrics, **(self.validation if self.is_validated else {})}

    def as_dict(self) -> dict[str, Any]:
        """Give the state as JSON types; what is no number is null."""
        return asdict(self) | {"metrics": finite(self.metrics), "validation": finite(self.validation)}

    @classmethod
    def of_dict(cls, values: Mapping[str, Any]) -> "RunState":
        """Take up what `as_dict` gave.

        Raises:
            ValueError: it is something else.
        """
        if {*values} != {each.name for each in fields(cls)}:
            raise ValueError("other keys")
        numbers = {
            name: {key: math.nan if value is None else value for key, value in values[name].items()}
            for name in ("metrics", "validation")
        }
        return TypeAdapter(cls).validate_python({**values, **numbers})

    def training_info(self) -> dict[str, object]:
        """Give NeMo RL's training_info.json: counts, and the latest validation's metrics, with _ before their names."""
        latest = {
            name.replace("/", "_", 1): value
            for name, value in finite(self.validation).items()
            if name.startswith("validation-")
        }
        if latest:
            latest["validated_at_step"] = self.validated_at
        return {
            "epoch": self.epoch,
            "step": self.step_in_epoch,
            "total_steps": self.step,
            "consumed_samples": self.consumed_samples,
            "total_valid_tokens": self.total_valid_tokens,
            **latest,
        }


def peak_memory_gb(device: torch.device) -> float:
    """Give the most memory that this process has had, of its GPU or, on a CPU, of the machine, in GB (10^9 bytes)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9


def policy_bytes(model: Any) -> int:
    """Give the size of a saved policy, in float32."""
    return 4 * int(model.num_parameters())  # which counts quantised weights as what they stand for


def state_bytes(model: Any, optimizer: str) -> int:
    """Give the size of what a resume needs of a model: what is trained, in float32, and the optimizer's moments."""
    trained = sum(int(each.numel()) for each in model.parameters() if each.requires_grad)
    return (4 + MOMENT_BYTES[optimizer]) * trained
