"""What a run begins with: Accelerate in the wanted precision, and the pairs as tokenised groups."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed

from schemas.errors import UsageError
from schemas.streams import place_text
from schemas.terminal import counted, printable, progress
from trainer.config.data import DatasetSection, TrainDatasetSection
from trainer.config.sections import TrainConfig
from trainer.data.groups import PreferenceGroup, group_pairs
from trainer.data.plan import Step, plan_steps
from trainer.data.sources import Account, check_dataset, iter_dataset, num_bytes
from trainer.data.template import style_of
from trainer.data.tokenize import PairDrop, TokenizedPairs, end_of_turn_ids, tokenize_groups
from trainer.model.policy import load_tokenizer
from trainer.run.processes import connect


def start_accelerator(config: TrainConfig) -> tuple[Accelerator, TrainConfig]:
    """Start Accelerate in the wanted precision; name the precision in the configuration where it was auto.

    Raises:
        UsageError: the model would be shared in a way that isn't supported.
        DpoError: Accelerate does not see the launcher's processes.
    """
    config = with_precision(config)
    accelerator = connect(config)
    set_seed(config.dpo.seed)
    return accelerator, config


def with_precision(config: TrainConfig) -> TrainConfig:
    """Say which precision `auto` is where the run computes."""
    precision = config.policy.precision
    if precision == "auto":
        is_on_gpu = torch.cuda.is_available() and config.cluster.gpus_per_node != "none"
        has_bfloat16 = is_on_gpu and torch.cuda.is_bf16_supported()
        precision = "bfloat16" if has_bfloat16 else "float32"
    policy = config.policy.model_copy(update={"precision": precision})
    return config.model_copy(update={"policy": policy})


@dataclass(frozen=True)
class LoadedGroups:
    """The pairs of some data sets, gathered by prompt, and what was met while they were read."""

    sets: tuple[DatasetSection, ...]
    groups: list[PreferenceGroup]
    dropped: Counter[PairDrop]
    notes: tuple[str, ...]


def load_groups(datasets: Sequence[DatasetSection], *, shown: bool) -> LoadedGroups:
    """Read the pairs of some data sets and gather them by prompt.

    Raises:
        InputError: a set can't be read, or holds what are no pairs.
        UsageError: a set's options don't fit it.
        DpoError: it has no pairs.
    """
    for each in datasets:
        check_dataset(each)
    sizes = [size for each in datasets if (size := num_bytes(each)) is not None]
    total = sum(sizes) if len(sizes) == len(datasets) else None
    account = Account()
    with progress("reading", total=total, unit="bytes", shown=shown) as advance:
        groups = group_pairs(
            pair
            for number, each in enumerate(datasets)
            for pair in iter_dataset(each, number=number, account=account, advance=advance)
        )
    return LoadedGroups(tuple(datasets), groups, +Counter({PairDrop.TIE: account.ties}), account.notes())


def tokenize(config: TrainConfig, loaded: LoadedGroups, model: Any, tokenizer: Any, *, shown: bool) -> TokenizedPairs:
    """Tokenise the groups as the configuration says.

    Raises:
        UsageError: the tokenizer's chat template can't serve, or a response is too long for the model.
        DpoError: no pair is left.
    """
    refuse_other_reference(config, tokenizer)
    end_ids = end_of_turn_ids(tokenizer, model.generation_config)
    style = style_of(config.policy.tokenizer)
    with progress("tokenising", total=len(loaded.groups), unit="prompts", shown=shown) as advance:
        data = tokenize_groups(
            loaded.groups,
            tokenizer,
            max_tokens=config.policy.max_total_sequence_length,
            end_ids=end_ids,
            loss_mask=config.data.loss_mask,
            use_token_ids=config.data.token_ids == "use",
            style=style,
            advance=advance,
        )
    refuse_too_long(model.config, data.longest)
    notes = (*_mixture_notes(loaded.sets, data), *loaded.notes, *_bos_notes(data, tokenizer))
    return replace(data, dropped=data.dropped + loaded.dropped, notes=notes)


def _mixture_notes(sets: Sequence[DatasetSection], data: TokenizedPairs) -> Iterator[str]:
    """Say what each of several sets contributes to an epoch."""
    sizes = Counter(pair.dataset for group in data.groups for pair in group.pairs)
    for number, each in enumerate(sets if len(sets) > 1 else ()):
        weight = each.weight if isinstance(each, TrainDatasetSection) else 1.0
        name = each.dataset_name if each.data_path is None else place_text(each.data_path)
        yield f"{name}: {counted(sizes[number], 'pair')}, {round(weight * sizes[number]):,} of them in an epoch"


def _bos_notes(data: TokenizedPairs, tokenizer: Any) -> list[str]:
    """Say so where a template writes no BOS for a tokenizer that puts one before each text."""
    bos = tokenizer.bos_token_id
    if bos is None or tokenizer("")["input_ids"][:1] != [bos]:
        return []
    without = sum(group.prompt[0] != bos for group in data.groups)
    if not without:
        return []
    return [
        f"{counted(without, 'prompt')} without BOS: the chat template writes no {tokenizer.bos_token}, though the "
        "tokenizer puts one before a text; who serves the policy with this template leaves it out too"
    ]


def plan(config: TrainConfig, data: TokenizedPairs, *, steps_done: int = 0, consumed_samples: int = 0) -> list[Step]:
    """Plan the steps of the whole run, or of what is left of it.

    Raises:
        UsageError: a set's weight leaves none of its pairs.
    """
    weights = [each.weight for each in config.data.train]
    _refuse_unused_sets(weights, data)
    return plan_steps(
        data.groups,
        seed=config.dpo.seed,
        global_batch_size=config.policy.train_global_batch_size,
        num_epochs=config.dpo.max_num_epochs,
        max_steps=config.dpo.max_num_steps,
        order=config.data.order,
        weights=weights,
        shuffle=config.data.shuffle,
        steps_done=steps_done,
        consumed_samples=consumed_samples,
    )


def steps_in_epoch(config: TrainConfig, data: TokenizedPairs) -> int:
    """Count the steps of an epoch."""
    sizes = Counter(pair.dataset for group in data.groups for pair in group.pairs)
    sets = config.data.train
    pairs = [each.weight * (sizes[number] if len(sets) > 1 else data.num_pairs) for number, each in enumerate(sets)]
    return -(-sum(map(round, pairs)) // config.policy.train_global_batch_size)


def _refuse_unused_sets(weights: Sequence[float], data: TokenizedPairs) -> None:
    sizes = Counter(pair.dataset for group in data.groups for pair in group.pairs)
    for number, weight in enumerate(weights):
        if sizes[number] and not round(weight * sizes[number]):
            key = f"data.train.{number}.weight" if len(weights) > 1 else "data.train.weight"
            raise UsageError(
                f"{key}={weight:g}: of {counted(sizes[number], 'pair')} none is left; give at least "
                f"{1 / sizes[number]:.2g}, or leave the set out"
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
            f"model {printable(config.name_or_path)}: a response with its prompt has {longest} tokens, and the model's "
            f"places {'change' if rotations else 'end'} at {limit}; lower policy.max_total_sequence_length to {limit}, "
            "longer pairs are then dropped and counted"
        )
