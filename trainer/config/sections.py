"""Every option of `dpo train`, declared once: name, type with bound, default, meaning.

The names are NeMo RL's where NeMo RL has the option. Sizes of batches are counted in preference pairs. This module
imports no torch, so that a wrong configuration is told before anything heavy loads.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

DecayRate = Annotated[float, Field(ge=0.0, lt=1.0)]
LearningRate = Annotated[float, Field(gt=0.0, le=1.0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]

DEFAULT_CACHE = Path("~/.cache/dpo/reference")


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
    weighting: Literal["pair", "prompt"] = "pair"
    """How much a pair counts: pair: each the same; prompt: 1/M, where its prompt has M pairs."""

    @model_validator(mode="after")
    def _has_a_term(self) -> Self:
        if self.preference_loss_weight == self.sft_loss_weight == 0:
            raise ValueError("preference_loss_weight and sft_loss_weight are both 0, so there is nothing to learn")
        return self


class OptimizerSection(Section):
    """How the weights are updated."""

    name: Literal["adamw", "adamw_8bit"] = "adamw"
    """adamw (fused on a GPU), or adamw_8bit: bitsandbytes, whose moments take a quarter of the memory."""
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


class LoraSection(Section):
    """Adapters instead of full training; `policy.lora.rank=16` switches them on."""

    rank: NonNegativeInt = 0
    """Rank of the adapters; 0: no adapters, all weights are trained."""
    alpha: PositiveInt | None = None
    """The adapters' output is multiplied by alpha / rank; null: twice the rank."""


class PolicySection(Section):
    """The model, how it is fed and how it is updated."""

    model_name: str = "Qwen/Qwen2.5-1.5B-Instruct"
    """Folder or hub name of the start policy; it is the reference too."""
    train_global_batch_size: PositiveInt = 128
    """Pairs of one optimizer step, over all processes."""
    train_micro_batch_size: PositiveInt = 2
    """Pairs for which one process has room at once: 2 x this x max_total_sequence_length tokens a row."""
    tokens_per_microbatch: PositiveInt | None = None
    """Most tokens that one process computes at once; given, it wins over train_micro_batch_size."""
    max_total_sequence_length: PositiveInt = 1024
    """Most tokens of prompt and response together; pairs with a longer one are dropped and counted."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the forward pass; weights stay in float32. auto: bfloat16 where the GPU has it, else float32."""
    attention: Literal["auto", "flex", "segments", "dense", "rows"] = "auto"
    """How prompts are shared: flex (GPU), segments (CPU), dense, or rows: not at all. auto: the best that serves."""
    self_check: bool = True
    """Compute part of the first row in the plain way too, and stop where the log-probs differ."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them."""
    compile: bool = False
    """Compile each decoder layer with torch.compile; the first steps take minutes."""
    max_grad_norm: PositiveFloat | None = 1.0
    """Clip the gradient's norm to this."""
    optimizer: OptimizerSection = OptimizerSection()
    scheduler: SchedulerSection = SchedulerSection()
    lora: LoraSection = LoraSection()

    @property
    def row_tokens(self) -> int:
        """Give the most tokens of a row (micro-batch) of one process."""
        return self.tokens_per_microbatch or 2 * self.train_micro_batch_size * self.max_total_sequence_length

    @model_validator(mode="after")
    def _has_room(self) -> Self:
        if self.row_tokens < self.max_total_sequence_length:
            raise ValueError(
                f"tokens_per_microbatch={self.row_tokens} has no room for one response of "
                f"max_total_sequence_length={self.max_total_sequence_length}; raise the one or lower the other"
            )
        return self


class ReferenceSection(Section):
    """What the policy is compared with; `reference=online` is short for `reference.mode=online`."""

    mode: Literal["cached", "online", "none"] = "cached"
    """cached: log-probs once, before training; online: in each step, by a second model; none: without a reference."""
    model_name: str | None = None
    """Folder or hub name of a reference other than the start policy."""
    cache_dir: Path | None = DEFAULT_CACHE
    """Where log-probs are kept for other runs; null: nowhere."""

    @model_validator(mode="after")
    def _has_a_model(self) -> Self:
        if self.mode == "none" and self.model_name is not None:
            raise ValueError("mode=none has no reference, so no model_name")
        return self


class TrainDataSection(Section):
    """The preference pairs to train on."""

    data_path: Path
    """File of BinaryPreference or Preference rows."""


class DataSection(Section):
    """Where the data is."""

    train: TrainDataSection
    order: Literal["groups", "pairs"] = "groups"
    """groups: a prompt's pairs follow one another, so its responses are shared; pairs: all pairs are shuffled."""
    loss_mask: Literal["policy", "nemo_rl"] = "policy"
    """policy: what the policy wrote; nemo_rl: also the last turn's header and tail, as NeMo RL does."""
    token_ids: Literal["use", "ignore"] = "use"
    """Whether the sampled token ids of the rows, where they have some, are trained on as they are."""


class TrainConfig(Section):
    """Everything that a run depends on; saved with it as train_config.json."""

    data: DataSection
    dpo: DpoSection = DpoSection()
    policy: PolicySection = PolicySection()
    reference: ReferenceSection = ReferenceSection()
    output_dir: Path
    """New folder for the run: train_config.json, metrics.jsonl, policy/."""
