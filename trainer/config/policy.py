"""`policy.*`: the model, how it is fed and how it is updated."""

from typing import Any, Literal, Self

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from trainer.config.base import DecayRate, LearningRate, Section, Share

NOT_FOR_TEMPLATES = frozenset(
    {
        "self",
        "messages",
        "conversation",
        "tools",
        "chat_template",
        "add_generation_prompt",
        "continue_final_message",
        "tokenize",
        "padding",
        "truncation",
        "max_length",
        "return_tensors",
        "return_dict",
        "return_assistant_tokens_mask",
        "tokenizer_kwargs",
    }
)
"""What apply_chat_template does not hand to a template, or is ours to say."""


class TokenizerSection(Section):
    """The tokenizer and its chat template."""

    name: str | None = None
    """Folder or hub name; null: the policy's."""
    chat_template: str | None = "default"
    """default: the tokenizer's; a .jinja file; a template; null: none, prompt and response are plain text."""
    chat_template_kwargs: dict[str, Any] = {}
    """Handed to the template, such as {"enable_thinking": false}."""

    @property
    def is_plain(self) -> bool:
        """Say whether prompt and response are plain text."""
        return self.chat_template is None

    @model_validator(mode="after")
    def _has_a_template(self) -> Self:
        template = self.chat_template
        if template is None and self.chat_template_kwargs:
            raise ValueError("chat_template_kwargs are for a template, and chat_template=null is none")
        if template is not None and template != "default" and not template.endswith(".jinja") and "{" not in template:
            raise ValueError(
                f"chat_template={template}: is neither default, nor a .jinja file, nor a template (which has braces in "
                "it), nor null (plain text)"
            )
        if taken := NOT_FOR_TEMPLATES & self.chat_template_kwargs.keys():
            raise ValueError(f"chat_template_kwargs: {', '.join(sorted(taken))} can't be given to a template here")
        return self


class OptimizerSection(Section):
    """How the weights are updated."""

    name: Literal["adamw", "adamw_8bit", "sgd"] = "adamw"
    """adamw (fused on a GPU), adamw_8bit (bitsandbytes: its moments take a quarter of the memory), or plain sgd."""
    lr: LearningRate = 5e-6
    """Highest learning rate."""
    weight_decay: NonNegativeFloat = 0.1
    """Decoupled weight decay, on all parameters."""
    betas: tuple[DecayRate, DecayRate] = (0.9, 0.98)
    """Decay rates of the two moments."""
    eps: PositiveFloat = 1e-5
    """Added to the root of the second moment."""

    @model_validator(mode="after")
    def _has_moments(self) -> Self:
        usual = OptimizerSection.model_fields
        if self.name == "sgd" and (self.betas, self.eps) != (usual["betas"].default, usual["eps"].default):
            raise ValueError("name=sgd has no moments, so no betas and eps")
        return self


class SchedulerSection(Section):
    """The learning rate over the run, as `transformers.get_scheduler` makes it."""

    name: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    """Shape after the warm-up: linear, cosine or constant_with_warmup."""
    warmup_ratio: Share = 0.1
    """Share of the steps in which the rate rises from 0."""
    warmup_steps: NonNegativeInt | None = None
    """Steps in which the rate rises; given, it wins over warmup_ratio."""
    min_lr_ratio: Share = 0.0
    """Where a cosine ends, as a share of the highest rate."""

    @model_validator(mode="after")
    def _ends_somewhere(self) -> Self:
        if self.min_lr_ratio and self.name != "cosine":
            raise ValueError(f"min_lr_ratio is where name=cosine ends; name={self.name} has no such end")
        return self


class LoraSection(Section):
    """Adapters instead of full training; `policy.lora.rank=16` switches them on."""

    rank: NonNegativeInt = 0
    """Rank of the adapters; 0: no adapters, all weights are trained."""
    alpha: PositiveInt | None = None
    """The adapters' output is multiplied by alpha / rank; null: twice the rank."""
    rank_stabilized: bool = False
    """Multiply by alpha / sqrt(rank) instead (rsLoRA)."""
    target_modules: tuple[str, ...] = ()
    """Names of the layers that get adapters, such as q_proj; none: every linear layer but the head."""
    exclude_modules: tuple[str, ...] = ()
    """Names of layers that get none."""
    quantization: Literal["none", "nf4", "int8"] = "none"
    """QLoRA: hold the frozen weights in 4 (nf4) or 8 bits, by bitsandbytes."""
    save: Literal["merged", "adapter", "both"] = "merged"
    """What policy/ holds: the model with the adapters merged in, the adapters alone, or both side by side."""

    @model_validator(mode="after")
    def _has_adapters(self) -> Self:
        if self.rank:
            return self
        names = ("alpha", "rank_stabilized", "target_modules", "exclude_modules", "quantization", "save")
        given = [name for name in names if getattr(self, name) != LoraSection.model_fields[name].default]
        if given:
            need = "needs" if len(given) == 1 else "need"
            raise ValueError(f"{', '.join(given)} {need} adapters; switch them on with rank=16")
        return self


class PolicySection(Section):
    """The model, how it is fed and how it is updated."""

    model_name: str = "Qwen/Qwen2.5-1.5B-Instruct"
    """Folder or hub name of the start policy; it is the reference too."""
    tokenizer: TokenizerSection = TokenizerSection()
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
    hf_config_overrides: dict[str, Any] = {}
    """Keys of the model's own configuration to be set otherwise, such as {"rope_theta": 1000000.0}."""
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

    @property
    def tokenizer_name(self) -> str:
        """Give the folder or hub name that the tokenizer is loaded from."""
        return self.tokenizer.name or self.model_name

    @model_validator(mode="after")
    def _has_room(self) -> Self:
        if self.row_tokens < self.max_total_sequence_length:
            raise ValueError(
                f"tokens_per_microbatch={self.row_tokens} has no room for one response of "
                f"max_total_sequence_length={self.max_total_sequence_length}; raise the one or lower the other"
            )
        return self
