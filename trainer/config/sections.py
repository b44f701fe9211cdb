"""The whole configuration of `dpo train`. Each option is declared once: name, type with bound, default, meaning.

The names are NeMo RL's where NeMo RL has the option. Sizes of batches are counted in preference pairs. Nothing here
imports torch, so that a wrong configuration is told before anything heavy loads. The sections lie in data.py, loss.py,
policy.py and records.py.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from trainer.config.base import Section
from trainer.config.cluster import ClusterSection
from trainer.config.data import DataSection
from trainer.config.loss import DpoSection, LossSection
from trainer.config.policy import PolicySection
from trainer.config.records import CheckpointingSection, HubSection, LoggerSection

POLICY_FOLDER = "policy"
"""In the run's folder: where the trained policy goes."""
DEFAULT_CACHE = Path("~/.cache/dpo/reference")


class ReferenceSection(Section):
    """What the policy is compared with; `reference=online` is short for `reference.mode=online`."""

    mode: Literal["auto", "cached", "online", "none"] = "auto"
    """cached: log-probs once, before training; online: each step; none; auto: cached, or none if no loss needs it."""
    model_name: str | None = None
    """Folder or hub name of a reference other than the start policy."""
    cache_dir: Path | None = DEFAULT_CACHE
    """Where log-probs are kept for other runs; null: nowhere."""

    @model_validator(mode="after")
    def _has_a_model(self) -> Self:
        if self.mode == "none" and self.model_name is not None:
            raise ValueError("mode=none has no reference, so no model_name")
        return self


class TrainConfig(Section):
    """Everything that a run depends on; saved with it as train_config.json."""

    data: DataSection
    dpo: DpoSection = DpoSection()
    loss: LossSection = LossSection()
    policy: PolicySection = PolicySection()
    reference: ReferenceSection = ReferenceSection()
    checkpointing: CheckpointingSection = CheckpointingSection()
    logger: LoggerSection = LoggerSection()
    hub: HubSection = HubSection()
    cluster: ClusterSection = ClusterSection()
    output_dir: Path
    """New folder for the run: train_config.json, metrics.jsonl, policy/."""

    @property
    def reference_mode(self) -> Literal["cached", "online", "none"]:
        """Say how the reference is computed, if at all."""
        if self.reference.mode != "auto":
            return self.reference.mode
        has_one = self.loss.needs_reference or self.reference.model_name is not None
        return "cached" if has_one and self.dpo.preference_loss_weight else "none"

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        problems = [
            *self._reference_problems(),
            *self._loss_problems(),
            *self._validation_problems(),
            *self._folder_problems(),
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _reference_problems(self) -> Iterator[str]:
        if self.reference_mode != "none" or not self.dpo.preference_loss_weight:
            return
        if "dpop" in self.loss.weights:
            yield "loss.name=dpop compares with the reference, and reference.mode is none"
        if self.loss.f_divergence != "reverse_kl":
            yield f"loss.f_divergence={self.loss.f_divergence} is one from the reference, and reference.mode is none"

    def _loss_problems(self) -> Iterator[str]:
        if not self.dpo.preference_loss_weight and self.loss != LossSection():
            yield "loss.* is the preference term, and dpo.preference_loss_weight is 0"

    def _folder_problems(self) -> Iterator[str]:
        """Keep the place free where the policy goes at the end of hours of work."""
        policy = (self.output_dir / POLICY_FOLDER).absolute()
        named = {
            "checkpointing.checkpoint_dir": self.checkpointing.checkpoint_dir,
            "logger.log_dir": self.logger.log_dir,
            "reference.cache_dir": self.reference.cache_dir,
        }
        for key, folder in named.items():
            if folder is not None and folder.absolute().is_relative_to(policy):
                yield f"{key}={folder} is where the policy goes; name a folder beside it"

    def _validation_problems(self) -> Iterator[str]:
        names = list(self.data.validation_sets)
        metric = self.checkpointing.metric_among(names)
        if metric is not None and metric.is_validation:
            if not names:
                yield f"checkpointing.metric_name={metric} needs a validation set: data.validation.data_path="
            elif metric.dataset not in names:
                yield f"checkpointing.metric_name={metric}: no such validation set; there are {', '.join(names)}"
        if self.logger.sample_period is not None and not self.logger.num_val_samples_to_print:
            yield "logger.sample_period needs logger.num_val_samples_to_print above 0"
