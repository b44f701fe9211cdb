"""From a loaded model and tokenised groups to everything that a step works with."""

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import nn

from schemas.errors import UsageError
from schemas.terminal import counted, progress
from trainer.config.policy import PolicySection
from trainer.config.sections import TrainConfig
from trainer.cost.throughput import flop_counter
from trainer.data.plan import ResponseRef, Step
from trainer.data.tokenize import TokenizedGroup, TokenizedPairs
from trainer.loss.objective import Objective, objective_of
from trainer.loss.preference import loss_notes
from trainer.loss.rewards import reward_notes
from trainer.model.attention import Attention, Backend, choose_attention
from trainer.model.batch import token_rows
from trainer.model.lora import adapters_off, check_adapters_off
from trainer.model.packing import Packer
from trainer.model.policy import load_policy
from trainer.model.reference import CachedReference, NoReference, OnlineReference, Reference, compute_reference
from trainer.model.reference_cache import ReferenceCache, open_cache, start_digest
from trainer.model.scorer import ResponseScorer, is_lora
from trainer.model.self_check import self_check
from trainer.model.sharded import is_sharded, shard
from trainer.model.zero import put_in_parts, start_engine, zero_stage
from trainer.run.optimizer import make_optimizer, make_scheduler
from trainer.run.rows import idle_notes
from trainer.run.training import Training

CHECKED_GROUPS, CHECKED_RESPONSES = 2, 4
"""Of the first step: what the self-check computes."""


def set_up(
    config: TrainConfig,
    accelerator: Accelerator,
    model: Any,
    data: TokenizedPairs,
    steps: list[Step],
    *,
    validation: Sequence[Sequence[TokenizedGroup]] = (),
    steps_done: int = 0,
    say: Callable[[str], None] = lambda text: None,
    identified: Callable[[str, str | None], None] = lambda model, reference: None,
) -> Training:
    """Check the way in which log-probs are computed, take the reference's, then build what updates the policy.

    Each set of `validation` has a reference of its own: computed together with the training data's, it would be in
    other rows, and these would round otherwise. What is found is told at once, by `say`, and kept as the result's
    notes. `steps` are those that are to be done, behind `steps_done`. `identified` is told the digests of the start
    policy and of a reference that is another model, before hours go into the reference's log-probs.

    Raises:
        UsageError: an option does not fit the model, or the loss the pairs.
        DpoError: the self-check fails.
    """
    policy, device = config.policy, accelerator.device
    objective = objective_of(config, data.groups, validation=[group for one in validation for group in one])
    _refuse_unshardable(config, accelerator, model)
    scorer = ResponseScorer(model, _attention(model, policy, device))
    digest = start_digest(accelerator, model)  # of whole weights, so before they are cut into parts
    frozen_copy = copy.deepcopy(scorer) if _needs_copy(config, model) else None  # what is sharded can't be copied
    _place(scorer, accelerator, policy)
    scorer.train()
    # what is shared is computed with through its wrapper alone
    prepared = _prepared(scorer, accelerator, policy) if _is_shared(accelerator) else None
    packer = Packer(data.groups, scorer.attention.layout, policy.row_tokens)
    notes: list[str] = []

    def tell(lines: Iterable[str]) -> None:
        for line in lines:
            notes.append(line)
            say(line)

    tell([_attention_note(scorer), *_length_notes(model, data), *_loss_notes(objective, data)])
    tell(idle_notes(packer, steps[:1], accelerator.num_processes))
    if policy.self_check and steps:
        tell(_checked(scorer, packer, steps[0], policy.precision, accelerator))
    sets = [data.groups, *validation]
    other = _other_model(config, accelerator)
    identified(digest, None if other is None else other.digest)
    references = _own_references(config, accelerator, scorer, sets, frozen_copy=frozen_copy, other=other)
    _save_memory_and_time(model, policy)
    wrapped, optimizer = prepared or _prepared(scorer, accelerator, policy)
    if references is None:
        with adapters_off(scorer):
            references = _cached_references(config, accelerator, scorer, wrapped, sets, digest)
    tell(_reference_notes(references[0]))
    return Training(
        config=config,
        accelerator=accelerator,
        scorer=wrapped,
        objective=objective,
        optimizer=optimizer,
        scheduler=make_scheduler(
            optimizer.optimizer, policy.scheduler, num_steps=steps_done + len(steps), steps_done=steps_done
        ),
        packer=packer,
        pads_to=scorer.attention.pads_to,
        reference=references[0],
        validation_references=tuple(references[1:]),
        flops=flop_counter(model, device),
        start_digest=digest,
        reference_digest=None if other is None else other.digest,
        notes=tuple(notes),
    )


def _refuse_unshardable(config: TrainConfig, accelerator: Accelerator, model: Any) -> None:
    """Refuse what reads or updates weights as a whole, where no process has them whole."""
    if not _is_shared(accelerator):
        return
    policy = config.policy
    if policy.lora.quantization != "none":
        raise UsageError(
            f"policy.lora.quantization={policy.lora.quantization}: bitsandbytes' weights can't be cut into parts; use "
            "cluster.accelerate_config=ddp, or policy.lora.quantization=none"
        )
    if policy.optimizer.name == "adamw_8bit":
        raise UsageError(
            "policy.optimizer.name=adamw_8bit: bitsandbytes' optimizer can't update weights that are cut into parts; "
            "use policy.optimizer.name=adamw, whose moments are cut into parts too"
        )
    if zero_stage(accelerator) == 3 and (config.reference.model_name or _needs_copy(config, model)):
        raise UsageError(
            "cluster.accelerate_config=zero3: a reference beside the policy would lie whole on each GPU; use "
            "reference=cached without reference.model_name, or cluster.accelerate_config=fsdp2"
        )


def _is_shared(accelerator: Accelerator) -> bool:
    """Say whether a process has a part of the model, or of what updates it, rather than all."""
    return is_sharded(accelerator) or zero_stage(accelerator) > 0


def _place(scorer: ResponseScorer, accelerator: Accelerator, policy: PolicySection) -> None:
    """Put the weights on the device: all of them, or this process' part."""
    if is_sharded(accelerator):
        shard(scorer, accelerator)
    elif zero_stage(accelerator):
        put_in_parts(scorer, accelerator, precision=policy.precision, max_grad_norm=policy.max_grad_norm or 0.0)
    else:
        scorer.to(accelerator.device)


def _prepared(scorer: ResponseScorer, accelerator: Accelerator, policy: PolicySection) -> tuple[Any, Any]:
    """Make the optimizer, and wrap it and the scorer for the processes."""
    optimizer = make_optimizer(scorer.parameters(), policy.optimizer, accelerator.device)
    if is_sharded(accelerator):
        return scorer, accelerator.prepare_optimizer(optimizer)
    if zero_stage(accelerator):
        return start_engine(scorer, optimizer, accelerator, max_grad_norm=policy.max_grad_norm or 0.0)
    wrapped, optimizer = accelerator.prepare(scorer, optimizer)
    return wrapped, optimizer


def _attention(model: Any, policy: PolicySection, device: torch.device) -> Attention:
    attention = choose_attention(model, policy.attention, device)
    if policy.compile and attention.backend is Backend.SEGMENTS:
        raise UsageError(
            "policy.compile=true: attention by segments has another shape in each row and would be compiled anew each "
            "time; use policy.attention=dense, or don't compile"
        )
    return attention


def _loss_notes(objective: Objective, data: TokenizedPairs) -> list[str]:
    """Say what a user of the loss should know of it, and of the rewards that it takes."""
    if not objective.has_preference:
        return []
    return [*loss_notes(objective.loss), *reward_notes(objective.loss, data.groups)]


def _checked(
    scorer: ResponseScorer, packer: Packer, first: Step, precision: str, accelerator: Accelerator
) -> list[str]:
    """Compare a row with the model's own way; in float32 too, unless the weights are gathered in the precision alone.

    The row has a few responses of the first two groups of the first step, so that it costs little of long ones too.
    """
    members: dict[int, list[ResponseRef]] = {}
    for ref in first.responses(packer.groups):
        members.setdefault(ref.group, []).append(ref)
    some = [ref for refs in list(members.values())[:CHECKED_GROUPS] for ref in refs[:CHECKED_RESPONSES]]
    row, device = packer.rows(some)[0], accelerator.device
    if is_lora(scorer.model):
        rows = token_rows(row, packer.groups, packer.layout, pads_to=scorer.attention.pads_to)
        check_adapters_off(scorer, rows.to(device))
    precisions = [precision] if _is_shared(accelerator) else ["float32", precision]
    return [
        f"self-check: packed log-probs are the model's own within {difference:.1e} nats a token ({each})"
        for each in dict.fromkeys(precisions)
        for difference in [self_check(scorer, row, packer.groups, precision=each, device=device)]
    ]


def _length_notes(model: Any, data: TokenizedPairs) -> list[str]:
    """Say so where responses are longer than what the model was made for."""
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if most is None or data.longest <= most:
        return []
    return [f"the longest response with its prompt has {data.longest:,} tokens; the model was made for {most:,}"]


def _attention_note(scorer: ResponseScorer) -> str:
    backend = scorer.attention.backend
    if backend is Backend.ROWS:
        return f"attention: {backend}; each response is computed behind a prompt of its own"
    return f"attention: {backend}; each prompt is computed once for all its responses in a row"


def _reference_notes(reference: Reference) -> list[str]:
    if not isinstance(reference, CachedReference):
        return []
    notes = []
    if reference.num_from_cache:
        total = len(reference.index.refs)
        notes.append(f"reference: {reference.num_from_cache:,} of {counted(total, 'response')} were in the cache")
    if reference.cache_problem:
        notes.append(
            f"reference: not kept for other runs: {reference.cache_problem}; name another folder with "
            "reference.cache_dir=, or none with reference.cache_dir=null"
        )
    return notes


class _OtherModel(NamedTuple):
    """A reference that is another model than the start policy."""

    scorer: ResponseScorer
    digest: str  # of its weights


def _other_model(config: TrainConfig, accelerator: Accelerator) -> _OtherModel | None:
    """Load the reference where it is another model."""
    if config.reference.model_name is None:
        return None
    model, _ = load_policy(config.reference.model_name)
    attention = choose_attention(model, config.policy.attention, accelerator.device)
    return _OtherModel(ResponseScorer(model, attention), start_digest(accelerator, model))


def _needs_copy(config: TrainConfig, model: Any) -> bool:
    """Say whether the start policy stays beside the policy; adapters that are off give it too."""
    return config.reference_mode == "online" and config.reference.model_name is None and not is_lora(model)


def _own_references(
    config: TrainConfig,
    accelerator: Accelerator,
    scorer: ResponseScorer,
    sets: Sequence[Sequence[TokenizedGroup]],
    *,
    frozen_copy: ResponseScorer | None,
    other: _OtherModel | None,
) -> Sequence[Reference] | None:
    """Make, for each set, a reference that is not simply the start policy's log-probs; None where it is."""
    if config.reference_mode == "none":
        return [NoReference()] * len(sets)
    if frozen_copy is not None:
        return [_frozen(frozen_copy, accelerator, config.policy)] * len(sets)
    if other is None:
        if config.reference_mode == "cached":
            return None
        return [OnlineReference(_InPrecision(scorer, accelerator))] * len(sets)
    reference = _frozen(other.scorer, accelerator, config.policy)
    if config.reference_mode == "online":
        return [reference] * len(sets)
    return _cached_references(config, accelerator, other.scorer, reference.scorer, sets, other.digest)


def _frozen(scorer: ResponseScorer, accelerator: Accelerator, policy: PolicySection) -> OnlineReference:
    """Keep a model from learning; it computes in the policy's precision."""
    scorer.requires_grad_(False)
    _place(scorer, accelerator, policy)
    scorer.train()  # as the policy: dropout is off in both, and some back ends compile anew for each mode
    return OnlineReference(_InPrecision(scorer, accelerator))


class _InPrecision(nn.Module):
    """Runs a model under the autocast that Accelerate gives the policy, without adapters where it has some."""

    def __init__(self, scorer: ResponseScorer, accelerator: Accelerator) -> None:
        super().__init__()
        self.scorer = scorer
        self.accelerator = accelerator

    def forward(self, *args: Any) -> Any:
        with self.accelerator.autocast(), adapters_off(self.scorer):
            return self.scorer(*args)


def _cached_references(
    config: TrainConfig,
    accelerator: Accelerator,
    scorer: ResponseScorer,
    wrapped: Any,
    sets: Sequence[Sequence[TokenizedGroup]],
    digest: str,
) -> list[CachedReference]:
    """Compute the log-probs of each set, the training data's first; `digest` is that of the weights."""
    cache = cache_of(config, accelerator, scorer, digest)
    references = []
    for groups in sets:
        packer = Packer(groups, scorer.attention.layout, config.policy.row_tokens)
        total = sum(len(group.responses) for group in groups)
        with progress("reference", total=total, unit="responses", shown=accelerator.is_main_process) as advance:
            references.append(
                compute_reference(
                    wrapped, packer, accelerator, cache=cache, pads_to=scorer.attention.pads_to, advance=advance
                )
            )
    return references


def cache_of(
    config: TrainConfig, accelerator: Accelerator, scorer: ResponseScorer, digest: str
) -> ReferenceCache | None:
    """Open the cache on disk, which the main process alone reads and writes."""
    folder = config.reference.cache_dir
    if folder is None or not accelerator.is_main_process:
        return None
    return open_cache(
        folder,
        scorer.model,
        digest=digest,
        precision=config.policy.precision,
        backend=scorer.attention.backend,
        device=accelerator.device.type,
    )


def _save_memory_and_time(model: Any, policy: PolicySection) -> None:
    if policy.gradient_checkpointing:
        # named gradient_checkpointing_enable in older transformers
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    if policy.compile:
        kinds = {*(model._no_split_modules or ())}  # the classes of decoder layers
        for layer in model.modules():
            if type(layer).__name__ in kinds:
                layer.compile()
