"""What to do when the memory does not suffice: one line with the settings to change, the most useful first."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from schemas.errors import DpoError
from trainer.config.sections import TrainConfig
from trainer.run.validation import val_row_tokens

Phase = Literal["reference", "training", "validation"]

MEANING: dict[Phase, str] = {
    "reference": "before the first step (self-check, reference log-probs)",
    "training": "in training",
    "validation": "in validation",
}

SIGNS = ("out of memory", "can't allocate memory", "not enough memory", "bad_alloc", "ALLOC_FAILED")
"""What the messages of torch's allocators, of the C++ library and of cuBLAS have in them; only some have a type."""

AMOUNT = re.compile(r"[Tt]ried to allocate ([\d.]+) (\w+)")


@contextmanager
def explain_out_of_memory(config: TrainConfig, phase: Phase) -> Iterator[None]:
    """Turn an allocator's error into one that says which settings to change.

    Raises:
        DpoError: the memory of the device or of the machine did not suffice.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        has_gpu = isinstance(error, torch.OutOfMemoryError) or "CUDA" in str(error)
        what = f"out of {'GPU memory' if has_gpu else 'memory'} {MEANING[phase]}{_tried(str(error))}"
        raise DpoError(
            f"{what}; what helps, the most useful first: {'; '.join(remedies(config, phase, has_gpu=has_gpu))}; "
            "dpo train --dry-run estimates the need"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether it is an allocator that failed."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(sign in str(error) for sign in SIGNS)


def _tried(message: str) -> str:
    """Say how much was asked for, where the message says so; a CPU's says it in bytes."""
    amount = AMOUNT.search(message)
    if amount is None:
        return ""
    number, unit = amount.groups()
    size = f"{int(number) / 1e6:,.1f} MB" if unit == "bytes" else f"{number} {unit}"
    return f", trying to allocate {size}"


def remedies(config: TrainConfig, phase: Phase, *, has_gpu: bool) -> Iterator[str]:
    """Yield the settings that would take less memory, with the values that they have."""
    policy = config.policy
    longest = policy.max_total_sequence_length
    tokens = val_row_tokens(config) if phase == "validation" else policy.row_tokens
    if phase == "validation":
        yield from _validation_remedies(tokens, longest)
    elif tokens > longest:
        origin = "" if policy.tokens_per_microbatch else f" by train_micro_batch_size={policy.train_micro_batch_size}"
        yield (
            f"policy.tokens_per_microbatch={max(tokens // 2, longest)} (now {tokens}{origin}; at least "
            f"max_total_sequence_length={longest})"
        )
    if phase == "training":
        yield from _training_remedies(config, has_gpu=has_gpu)
    if config.reference_mode == "online" and not (policy.lora.rank and config.reference.model_name is None):
        yield "reference=cached (now online: a second model)"
    has_room_once = "" if tokens > longest else f", which tokens_per_microbatch={tokens} has room for once"
    yield (
        f"a lower policy.max_total_sequence_length (now {longest}{has_room_once}; longer pairs are dropped and counted)"
    )


def _validation_remedies(tokens: int, longest: int) -> Iterator[str]:
    """Yield what makes the rows of a validation shorter; of the smallest size they hold two responses."""
    if tokens > 2 * longest:
        yield f"dpo.val_micro_batch_size={max(tokens // (4 * longest), 1)} (now rows of {tokens} tokens)"


def _training_remedies(config: TrainConfig, *, has_gpu: bool) -> Iterator[str]:
    """Yield what makes the backward pass and the update cheaper."""
    if not config.policy.gradient_checkpointing:
        yield "policy.gradient_checkpointing=true (now false)"
    if has_gpu and config.policy.precision == "float32":
        yield "policy.precision=bfloat16 (now float32)"
    if has_gpu and config.policy.optimizer.name == "adamw":
        yield "policy.optimizer.name=adamw_8bit (now adamw)"
    if has_gpu and not config.policy.lora.rank:
        yield "policy.lora.rank=16 (now 0: all weights are trained)"
    if has_gpu and config.policy.lora.rank and config.policy.lora.quantization == "none":
        yield "policy.lora.quantization=nf4 (now none: the frozen weights are in float32)"
