"""One optimizer step: rows forward and backward, one reduction of the metrics, checks, update."""

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from schemas.errors import DpoError
from trainer.config.sections import TrainConfig
from trainer.data.plan import PairRef, ResponseRef, Step, pair_weights, sides
from trainer.loss.objective import METRICS, PairTerms, pair_terms
from trainer.model.batch import PairBatch, TokenRows, pair_batch, token_rows
from trainer.model.logps import ResponseLogps, response_logps
from trainer.model.packing import Packer, Row, share
from trainer.model.reference import Reference
from trainer.run.throughput import FlopCounter, work_of

MAX_ROWS_NAMED = 10

START_LOSS = math.log(2)
START_TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2}
"""How far the first preference loss may lie from ln 2, for a beta of at most 1; with beta above."""


@dataclass(frozen=True)
class Training:
    """What a step works with; the same objects for the whole run."""

    config: TrainConfig
    accelerator: Accelerator
    scorer: Any  # a ResponseScorer, as Accelerate wrapped it
    optimizer: Any
    scheduler: Any
    packer: Packer
    pads_to: int
    reference: Reference
    flops: FlopCounter
    notes: tuple[str, ...] = ()  # what the set-up found worth telling


@dataclass(frozen=True)
class StepRows:
    """The rows of a step and of this process, and which pairs are whole in a row."""

    all_rows: list[Row]
    mine: list[Row]
    inside: dict[Row, list[PairRef]]  # the pairs whose two responses lie in the row
    across: list[PairRef]  # the pairs whose responses lie in two rows
    weights: dict[PairRef, float]

    def beside(self, number: int, num_processes: int) -> list[Row]:
        """Give the rows that all processes compute while this one computes its row of that number.

        A forward pass may be a collective (DDP exchanges buffers, FSDP weights), so all of them do it or none.
        """
        return self.all_rows[number * num_processes : (number + 1) * num_processes]

    @property
    def total_weight(self) -> float:
        """Sum the weights of all pairs of the step, over all processes."""
        return sum(self.weights.values())


def step_rows(step: Step, training: Training) -> StepRows:
    """Pack a step's responses for all processes, and find each pair's row."""
    groups, accelerator = training.packer.groups, training.accelerator
    num_processes = accelerator.num_processes
    rows = training.packer.rows(step.responses(groups), num_processes=num_processes)
    row_of = {ref: row for row in rows if not row.is_filler for ref in row.refs()}
    inside: dict[Row, list[PairRef]] = {}
    across: list[PairRef] = []
    for pair in step.pairs:
        chosen, rejected = sides(pair, groups)
        if row_of[chosen] is row_of[rejected]:
            inside.setdefault(row_of[chosen], []).append(pair)
        else:
            across.append(pair)
    weights = pair_weights(step.pairs, groups, training.config.dpo.weighting)
    return StepRows(
        rows,
        share(rows, process=accelerator.process_index, num_processes=num_processes),
        inside,
        across,
        dict(zip(step.pairs, weights, strict=True)),
    )


class Tally:
    """Sums of metrics over the pairs that this process has computed, and their losses by name."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(len(METRICS), device=device)
        self.losses: list[tuple[PairBatch, Tensor]] = []

    def add(self, batch: PairBatch, terms: PairTerms) -> None:
        """Add the pairs of a row."""
        self.sums += terms.metric_sums(batch.weights)
        self.losses.append((batch, terms.loss.detach()))


def train_step(training: Training, step: Step) -> dict[str, float]:
    """Update the policy once; return the step's metrics, the same on every process.

    Raises:
        DpoError: a loss or the gradient is not finite; the pairs behind it are named.
    """
    started = time.perf_counter()
    accelerator = training.accelerator
    learning_rate = training.scheduler.get_last_lr()[0]
    rows = step_rows(step, training)
    # Divided by the weight of the whole step, the rows of all processes sum up to the mean over its pairs, as if one
    # process had computed it at once. DDP averages gradients over processes; the factor makes a sum of it.
    scale = accelerator.num_processes / rows.total_weight
    tally = Tally(accelerator.device)
    training.optimizer.zero_grad()
    slopes = _slopes_across_rows(training, rows, tally) if rows.across else {}
    for number, row in enumerate(rows.mine, start=1):
        is_last = number == len(rows.mine)  # gradients are averaged over the processes once, at the end
        with nullcontext() if is_last else accelerator.no_sync(training.scorer):
            loss = _row_loss(training, row, rows, slopes, tally)
            accelerator.backward(loss * (0.0 if row.is_filler else scale))
    max_norm = training.config.policy.max_grad_norm or math.inf
    grad_norm = accelerator.clip_grad_norm_(training.scorer.parameters(), max_norm)
    # the one place in a step where the processes and the device are waited for
    sums = accelerator.reduce(tally.sums, reduction="sum") / rows.total_weight
    *means, norm = torch.cat([sums, grad_norm.detach().reshape(1).to(sums)]).tolist()
    metrics = dict(zip(METRICS, means, strict=True))
    _refuse_not_finite(accelerator, metrics["loss"], norm, tally)
    training.optimizer.step()
    training.scheduler.step()
    seconds = time.perf_counter() - started
    return (
        metrics
        | {"grad_norm": norm, "lr": learning_rate, "num_valid_samples": len(step.pairs), "step_seconds": seconds}
        | _speed(training, step, rows, seconds)
    )


def check_start(preference_loss: float, *, beta: float, precision: str) -> None:
    """Hold the first preference loss to ln 2: policy and reference are still the same.

    Raises:
        DpoError: it is something else, so the log-probs of one of them are wrong.
    """
    tolerance = START_TOLERANCE[precision] * max(1.0, beta)
    if not abs(preference_loss - START_LOSS) <= tolerance:  # so that NaN fails too
        raise DpoError(
            f"the preference loss of step 1 is {preference_loss:.8f}, expected ln 2 = {START_LOSS:.8f} within "
            f"{tolerance:g} ({precision}): the policy's log-probs differ from the reference's though their weights "
            "are equal. Does the model have dropout, noise or state of its own between calls? "
            "policy.precision=float32 tells whether it is rounding"
        )


def _row_loss(training: Training, row: Row, rows: StepRows, slopes: dict[ResponseRef, Tensor], tally: Tally) -> Tensor:
    """Compute a row and give what its gradient is taken of: its pairs' losses, and for responses whose pairs reach
    into other rows their log-probs times the loss's slope there."""
    batch = _rows_of(training, row)
    policy = response_logps(training.scorer, batch)
    loss = policy.tokens.sum() * 0.0  # so that a filler has a gradient too
    pairs = rows.inside.get(row, [])
    if pairs and not row.is_filler:
        terms, paired = _terms(training, pairs, rows, batch.responses, policy, training.reference.of(batch))
        loss = loss + (terms.loss * paired.weights).sum()
        tally.add(paired, terms)
    for ref, logps in zip(batch.responses, policy.per_response, strict=True):
        if ref in slopes:
            loss = loss + (logps * slopes[ref]).sum()
    return loss


def _slopes_across_rows(training: Training, rows: StepRows, tally: Tally) -> dict[ResponseRef, Tensor]:
    """Give the derivative of the loss by each token's log-prob, for the pairs whose responses lie in two rows.

    A first pass without gradient computes the log-probs of these responses, all processes exchange them, and each has
    the whole loss of these pairs as a function of a few numbers. The second pass, row by row, then needs these slopes
    alone: the chain rule, with nothing lost and no activations of two rows kept together.
    """
    groups, accelerator = training.packer.groups, training.accelerator
    refs = list(dict.fromkeys(ref for pair in rows.across for ref in sides(pair, groups)))
    wanted = {*refs}
    found: dict[ResponseRef, tuple[Tensor, Tensor]] = {}
    with torch.no_grad():
        for number, row in enumerate(rows.mine):
            if all(wanted.isdisjoint(one.refs()) for one in rows.beside(number, accelerator.num_processes)):
                continue
            batch = _rows_of(training, row)
            policy, reference = response_logps(training.scorer, batch), training.reference.of(batch)
            if not row.is_filler:
                members = zip(policy.per_response, reference.per_response, strict=True)
                found |= {ref: both for ref, both in zip(batch.responses, members, strict=True) if ref in wanted}
    lengths = tuple(int(sum(groups[ref.group].responses[ref.response].loss_mask)) for ref in refs)
    both = torch.zeros(2, sum(lengths), device=accelerator.device)
    for ref, place in zip(refs, torch.split(both, list(lengths), dim=1), strict=True):
        if ref in found:  # the others are another process' share
            place.copy_(torch.stack(found[ref]))
    both = accelerator.reduce(both, reduction="sum")
    policy_tokens = both[0].clone().requires_grad_()
    policy, reference = ResponseLogps(policy_tokens, lengths), ResponseLogps(both[1], lengths)
    terms, paired = _terms(training, rows.across, rows, refs, policy, reference)
    (slopes,) = torch.autograd.grad((terms.loss * paired.weights).sum(), policy_tokens)
    if accelerator.is_main_process:  # each process has computed these pairs, and they count once
        tally.add(paired, terms)
    return dict(zip(refs, torch.split(slopes, list(lengths)), strict=True))


def _rows_of(training: Training, row: Row) -> TokenRows:
    packer = training.packer
    rows = token_rows(row, packer.groups, packer.layout, pads_to=training.pads_to)
    return rows.to(training.accelerator.device)


def _terms(
    training: Training,
    pairs: Sequence[PairRef],
    rows: StepRows,
    responses: Sequence[ResponseRef],
    policy: ResponseLogps,
    reference: ResponseLogps,
) -> tuple[PairTerms, PairBatch]:
    """Compute the terms of some pairs among these responses."""
    batch = pair_batch(pairs, training.packer.groups, responses, [rows.weights[pair] for pair in pairs])
    batch = batch.to(training.accelerator.device)
    options = training.config.dpo
    terms = pair_terms(
        policy,
        reference,
        chosen=batch.chosen,
        rejected=batch.rejected,
        beta=options.reference_policy_kl_penalty,
        preference_weight=options.preference_loss_weight,
        sft_weight=options.sft_loss_weight,
        average_preference=options.preference_average_log_probs,
        average_sft=options.sft_average_log_probs,
    )
    return terms, batch


def _refuse_not_finite(accelerator: Accelerator, loss: float, grad_norm: float, tally: Tally) -> None:
    if not math.isfinite(loss):
        raise DpoError(_blame(accelerator, tally))
    if not math.isfinite(grad_norm):
        raise DpoError(
            f"the gradient's norm is {grad_norm} though the loss is {loss:.4g}; lower policy.optimizer.lr, or use "
            "policy.precision=float32"
        )


def _blame(accelerator: Accelerator, tally: Tally) -> str:
    """Name the pairs whose loss is not finite, of all processes."""
    mine = [
        source
        for batch, losses in tally.losses
        for source, loss in zip(batch.sources, losses.tolist(), strict=True)
        if not math.isfinite(loss)
    ]
    rows = sorted(set(gather_object(mine)))
    more = f" and {len(rows) - MAX_ROWS_NAMED} more" if len(rows) > MAX_ROWS_NAMED else ""
    return (
        f"the loss is not finite for the pairs {', '.join(rows[:MAX_ROWS_NAMED])}{more}; look at these rows, lower "
        "policy.optimizer.lr, or use policy.precision=float32"
    )


def _speed(training: Training, step: Step, rows: StepRows, seconds: float) -> dict[str, float]:
    """Say how fast the step was, over all processes, and what grouping saved."""
    work = work_of(step.pairs, rows.all_rows, training.packer)
    speed = {
        "pairs_per_second": len(step.pairs) / seconds,
        "tokens_per_second": work.tokens / seconds,
        "dedup_factor": work.dedup_factor,
        "sharing_factor": work.sharing_factor,
    }
    mfu = training.flops.mfu(work, seconds, training.accelerator.num_processes)
    return speed if mfu is None else speed | {"mfu": mfu}
