"""One optimizer step: micro-batches forward and backward, one reduction of the metrics, checks, update."""

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from schemas.errors import DpoError
from trainer.batch import PairBatch, pair_batch, sequences_of
from trainer.config import TrainConfig
from trainer.logps import response_logps
from trainer.objective import METRICS, PairTerms, pair_terms
from trainer.plan import Step
from trainer.reference import ReferenceLogps
from trainer.tokenize import TokenizedGroup

MAX_ROWS_NAMED = 10

START_LOSS = math.log(2)
START_TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2}
"""How far the first preference loss may lie from ln 2, for a beta of at most 1; with beta above."""


@dataclass(frozen=True)
class Training:
    """What a step works with; the same objects for the whole run."""

    config: TrainConfig
    accelerator: Accelerator
    model: Any
    optimizer: Any
    scheduler: Any
    groups: list[TokenizedGroup]
    reference: ReferenceLogps


def train_step(training: Training, step: Step) -> dict[str, float]:
    """Update the policy once; return the step's metrics, the same on every process.

    Raises:
        DpoError: a loss or the gradient is not finite; the pairs behind it are named.
    """
    started = time.perf_counter()
    accelerator, policy = training.accelerator, training.config.policy
    learning_rate = training.scheduler.get_last_lr()[0]
    micro_batches = step.micro_batches(
        micro_batch_size=policy.train_micro_batch_size,
        process=accelerator.process_index,
        num_processes=accelerator.num_processes,
    )
    # Divided by the pairs of the whole step, the micro-batches of all processes sum up to the mean over its pairs, as
    # if one process had computed it at once. DDP averages gradients over processes; the factor makes a sum of it.
    scale = accelerator.num_processes / len(step.pairs)
    training.optimizer.zero_grad()
    sums = torch.zeros(len(METRICS), device=accelerator.device)
    computed: list[tuple[PairBatch, Tensor]] = []
    for number, micro_batch in enumerate(micro_batches, start=1):
        batch = pair_batch(micro_batch.pairs, training.groups)
        synced = number == len(micro_batches)  # gradients are averaged over the processes once, at the end
        with nullcontext() if synced else accelerator.no_sync(training.model):
            terms = _pair_terms(training, batch)
            accelerator.backward(terms.loss.sum() * (micro_batch.weight * scale))
        if micro_batch.weight:
            sums += terms.metric_sums()
            computed.append((batch, terms.loss.detach()))
    means = (accelerator.reduce(sums, reduction="sum") / len(step.pairs)).tolist()
    metrics = dict(zip(METRICS, means, strict=True))
    if not math.isfinite(metrics["loss"]):
        raise DpoError(_blame(accelerator, computed))
    grad_norm = float(accelerator.clip_grad_norm_(training.model.parameters(), policy.max_grad_norm or math.inf))
    if not math.isfinite(grad_norm):
        raise DpoError(
            f"the gradient's norm is {grad_norm} though the loss is {metrics['loss']:.4g}; lower "
            "policy.optimizer.lr, or use policy.precision=float32"
        )
    training.optimizer.step()
    training.scheduler.step()
    return metrics | {
        "grad_norm": grad_norm,
        "lr": learning_rate,
        "num_valid_samples": len(step.pairs),
        "step_seconds": time.perf_counter() - started,
    }


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


def _pair_terms(training: Training, batch: PairBatch) -> PairTerms:
    device = training.accelerator.device
    sequences = sequences_of(batch.responses, training.groups).to(device)
    options = training.config.dpo
    return pair_terms(
        response_logps(training.model, sequences),
        training.reference.of(batch.responses, device),
        chosen=batch.chosen.to(device, non_blocking=True),
        rejected=batch.rejected.to(device, non_blocking=True),
        beta=options.reference_policy_kl_penalty,
        preference_weight=options.preference_loss_weight,
        sft_weight=options.sft_loss_weight,
        average_preference=options.preference_average_log_probs,
        average_sft=options.sft_average_log_probs,
    )


def _blame(accelerator: Accelerator, computed: list[tuple[PairBatch, Tensor]]) -> str:
    """Name the pairs whose loss is not finite, of all processes."""
    mine = [
        source
        for batch, losses in computed
        for source, loss in zip(batch.sources, losses.tolist(), strict=True)
        if not math.isfinite(loss)
    ]
    rows = sorted(set(gather_object(mine)))
    more = f" and {len(rows) - MAX_ROWS_NAMED} more" if len(rows) > MAX_ROWS_NAMED else ""
    return (
        f"the loss is not finite for the pairs {', '.join(rows[:MAX_ROWS_NAMED])}{more}; look at these rows, lower "
        "policy.optimizer.lr, or use policy.precision=float32"
    )
