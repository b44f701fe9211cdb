"""What a run begins with: Accelerate in the wanted precision, and the pairs as tokenised groups."""

import os
from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from schemas.errors import DpoError, UsageError
from schemas.preference import iter_pairs
from schemas.terminal import progress
from trainer.config.data import DatasetSection
from trainer.config.sections import TrainConfig
from trainer.data.groups import PreferenceGroup, group_pairs
from trainer.data.plan import Step, plan_steps
from trainer.data.tokenize import TokenizedPairs, end_of_turn_ids, tokenize_groups
from trainer.model.policy import load_tokenizer


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


def load_groups(datasets: Sequence[DatasetSection], *, shown: bool) -> list[PreferenceGroup]:
    """Read the pairs of some data sets and gather them by prompt.

    Raises:
        InputError: the file can't be read, or holds what are no pairs.
        DpoError: it has no rows.
    """
    paths = [each.data_path for each in datasets if each.data_path is not None]
    total = sum(path.stat().st_size for path in paths) if all(path.is_file() for path in paths) else None
    with progress("reading", total=total, unit="bytes", shown=shown) as advance:
        return group_pairs(chain.from_iterable(iter_pairs(path, advance) for path in paths))


def tokenize(
    config: TrainConfig, groups: list[PreferenceGroup], model: Any, tokenizer: Any, *, shown: bool
) -> TokenizedPairs:
    """Tokenise the groups as the configuration says.

    Raises:
        UsageError: the tokenizer's chat template can't serve, or a response is too long for the model.
        DpoError: no pair is left.
    """
    refuse_other_reference(config, tokenizer)
    end_ids = end_of_turn_ids(tokenizer, model.generation_config)
    with progress("tokenising", total=len(groups), unit="prompts", shown=shown) as advance:
        data = tokenize_groups(
            groups,
            tokenizer,
            max_tokens=config.policy.max_total_sequence_length,
            end_ids=end_ids,
            loss_mask=config.data.loss_mask,
            use_token_ids=config.data.token_ids == "use",
            advance=advance,
        )
    refuse_too_long(model.config, data.longest)
    return data


def plan(config: TrainConfig, data: TokenizedPairs) -> list[Step]:
    """Plan the steps of the whole run."""
    return plan_steps(
        data.groups,
        seed=config.dpo.seed,
        global_batch_size=config.policy.train_global_batch_size,
        num_epochs=config.dpo.max_num_epochs,
        max_steps=config.dpo.max_num_steps,
        order=config.data.order,
    )


def refuse_other_reference(config: TrainConfig, tokenizer: Any) -> None:
    """Hold a reference of its own to the policy's tokenizer, before anything is computed.

    The tokenizers are compared, not the models: in one family models may have embeddings of other lengths, and in two
    families of the same length.

    Raises:
        InputError: there is no such model.
        UsageError: its tokenizer is another.
    """
    name = config.reference.model_name
    if name is None:
        return
    theirs, ours = load_tokenizer(name).get_vocab(), tokenizer.get_vocab()
    if theirs != ours:
        different = len({token for token, _ in theirs.items() ^ ours.items()})
        raise UsageError(
            f"reference.model_name={name}: its tokenizer is another than the policy's ({different:,} tokens differ); "
            "a reference must share the policy's tokenizer"
        )


def refuse_too_long(config: Any, longest: int) -> None:
    """Hold the longest response with its prompt to what the model can compute beside shorter ones.

    Some rotations (dynamic, longrope) are another function once the longest sequence of a row passes a length, so what
    a response gets would hang on its neighbours; and learned places end.

    Raises:
        UsageError: it is longer.
    """
    text = config.get_text_config()
    rotations = getattr(text, "rope_parameters", None) or {}
    most = getattr(text, "max_position_embeddings", None)
    kinds = [each for each in (rotations, *rotations.values()) if isinstance(each, dict) and "rope_type" in each]
    limits = [
        each.get("original_max_position_embeddings") or most
        for each in kinds
        if each["rope_type"] in ("dynamic", "longrope")
    ]
    if not rotations:
        limits = [most]
    limit = min((each for each in limits if each), default=None)
    if limit is not None and longest > limit:
        raise UsageError(
            f"model {config.name_or_path}: a response with its prompt has {longest} tokens, and the model's places "
            f"{'change' if rotations else 'end'} at {limit}; lower policy.max_total_sequence_length to {limit}, longer "
            "pairs are then dropped and counted"
        )
