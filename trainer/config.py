"""Every option of `dpo train`, declared once: name, type with bound, default, meaning.

The names are NeMo RL's where NeMo RL has the option. Sizes of batches are counted in preference pairs. This module
imports no torch, so that a wrong configuration is told before anything heavy loads.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

DecayRate = Annotated[float, Field(ge=0.0, lt=1.0)]
LearningRate = Annotated[float, Field(gt=0.0, le=1.0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class DpoSection(Section):
    """The loss and the length of the run."""

    max_num_epochs: PositiveInt = 1
    """Passes over the pairs."""
    max_num_steps: PositiveInt | None = None
    """Stop after so many optimizer steps, where that comes before the epochs end."""
    seed: Seed = 42
    """Decides the order of the pairs; nothing else is random."""
    reference_policy_kl_penalty: PositiveFloat = 0.05
    """Beta: how strongly the policy is held to the reference."""
    preference_loss_weight: NonNegativeFloat = 1.0
    """Weight of the preference term."""
    sft_loss_weight: NonNegativeFloat = 0.0
    """Weight of the negative log-likelihood of the chosen response."""
    preference_average_log_probs: bool = False
    """Divide each response's log-ratio by its number of tokens in the preference term."""
    sft_average_log_probs: bool = False
    """Divide the chosen response's negative log-likelihood by its number of tokens in the SFT term."""

    @model_validator(mode="after")
    def _has_a_term(self) -> Self:
        if self.preference_loss_weight == self.sft_loss_weight == 0:
            raise ValueError("preference_loss_weight and sft_loss_weight are both 0, so there is nothing to learn")
        return self


class OptimizerSection(Section):
    """AdamW."""

    lr: LearningRate = 5e-6
    """Highest learning rate."""
    weight_decay: NonNegativeFloat = 0.1
    """Decoupled weight decay, on all parameters."""
    betas: tuple[DecayRate, DecayRate] = (0.9, 0.98)
    """Decay rates of the two moments."""
    eps: PositiveFloat = 1e-5
    """Added to the root of the second moment."""


class SchedulerSection(Section):
    """The learning rate over the run, as `transformers.get_scheduler` makes it."""

    name: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    """Shape after the warm-up: linear, cosine or constant_with_warmup."""
    warmup_ratio: Share = 0.1
    """Share of the steps in which the rate rises from 0."""


class PolicySection(Section):
    """The model, how it is fed and how it is updated."""

    model_name: str = "Qwen/Qwen2.5-1.5B-Instruct"
    """Folder or hub name of the start policy; it is the reference too."""
    train_global_batch_size: PositiveInt = 128
    """Pairs of one optimizer step, over all processes."""
    train_micro_batch_size: PositiveInt = 2
    """Pairs that one process computes at once."""
    max_total_sequence_length: PositiveInt = 1024
    """Most tokens of prompt and response together; pairs with a longer one are dropped and counted."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the forward pass; weights stay in float32. auto: bfloat16 where the GPU has it, else float32."""
    max_grad_norm: PositiveFloat | None = 1.0
    """Clip the gradient's norm to this."""
    optimizer: OptimizerSection = OptimizerSection()
    scheduler: SchedulerSection = SchedulerSection()


class TrainDataSection(Section):
    """The preference pairs to train on."""

    data_path: Path
    """File of BinaryPreference or Preference rows."""


class DataSection(Section):
    """Where the data is."""

    train: TrainDataSection


class TrainConfig(Section):
    """Everything that a run depends on; saved with it as train_config.json."""

    data: DataSection
    dpo: DpoSection = DpoSection()
    policy: PolicySection = PolicySection()
    output_dir: Path
    """New folder for the run: train_config.json, metrics.jsonl, policy/."""
