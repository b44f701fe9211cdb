"""What a run begins with: Accelerate in the wanted precision, and the pairs as tokenised groups."""

import os
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from schemas.errors import DpoError
from schemas.preference import iter_pairs
from schemas.terminal import progress
from trainer.config import TrainConfig
from trainer.groups import PreferenceGroup, group_pairs
from trainer.tokenize import TokenizedPairs, end_of_turn_ids, tokenize_groups


def start_accelerator(config: TrainConfig) -> tuple[Accelerator, TrainConfig]:
    """Start Accelerate in the wanted precision; name the precision in the configuration where it was auto.

    Raises:
        DpoError: Accelerate does not see the launcher's processes.
    """
    config = with_precision(config)
    accelerator = Accelerator(
        mixed_precision="bf16" if config.policy.precision == "bfloat16" else "no",
        cpu=not torch.accelerator.is_available(),  # else Accelerate passes over the launcher's processes on a CPU
    )
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != launched:
        raise DpoError(f"the launcher started {launched} processes, and Accelerate found {accelerator.num_processes}")
    set_seed(config.dpo.seed)
    return accelerator, config


def with_precision(config: TrainConfig) -> TrainConfig:
    """Say which precision `auto` is on this machine."""
    precision = config.policy.precision
    if precision == "auto":
        has_bfloat16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        precision = "bfloat16" if has_bfloat16 else "float32"
    policy = config.policy.model_copy(update={"precision": precision})
    return config.model_copy(update={"policy": policy})


def load_groups(path: Path, *, shown: bool) -> list[PreferenceGroup]:
    """Read the pairs and gather them by prompt.

    Raises:
        InputError: the file can't be read, or holds what are no pairs.
        DpoError: it has no rows.
    """
    with progress("reading", total=path.stat().st_size, unit="bytes", shown=shown) as advance:
        return group_pairs(iter_pairs(path, advance))


def tokenize(
    config: TrainConfig, groups: list[PreferenceGroup], model: Any, tokenizer: Any, *, shown: bool
) -> TokenizedPairs:
    """Tokenise the groups as the configuration says.

    Raises:
        UsageError: the tokenizer's chat template can't serve.
        DpoError: no pair is left.
    """
    end_ids = end_of_turn_ids(tokenizer, model.generation_config)
    with progress("tokenising", total=len(groups), unit="prompts", shown=shown) as advance:
        return tokenize_groups(
            groups,
            tokenizer,
            max_tokens=config.policy.max_total_sequence_length,
            end_ids=end_ids,
            loss_mask=config.data.loss_mask,
            use_token_ids=config.data.token_ids == "use",
            advance=advance,
        )
