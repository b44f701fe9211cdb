"""One optimizer step: rows forward and backward, one reduction of the metrics, checks, update."""

import math
import time
from dataclasses import replace

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from schemas.errors import DpoError
from trainer.config.sections import TrainConfig
from trainer.cost.throughput import work_of
from trainer.data.plan import ResponseRef, Step
from trainer.model.logps import response_logps
from trainer.run.gradients import backward, clipped_norm, row_of_step
from trainer.run.rows import StepRows, Tally, exchange, pair_terms, rows_of_pairs, tokens_of
from trainer.run.training import Training

MAX_ROWS_NAMED = 10

START_LOSS = math.log(2)
START_TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2}
"""How far the first preference loss may lie from ln 2, for a beta of at most 1; with beta above."""

DIFFERENT_START = (
    "the policy's log-probs differ from the reference's though their weights are equal. Does the model have dropout, "
    "noise or state of its own between calls? policy.precision=float32 tells whether it is rounding"
)


def step_rows(step: Step, training: Training) -> StepRows:
    """Pack a step's responses for all processes, and find each pair's row."""
    return rows_of_pairs(training, training.packer, training.reference, step.pairs)


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
    tally = Tally(training)
    training.optimizer.zero_grad()
    slopes = _slopes_across_rows(training, rows, tally) if rows.across else {}
    for number, row in enumerate(rows.mine):
        with row_of_step(training, is_last=number + 1 == len(rows.mine)):
            loss = _row_loss(training, number, rows, slopes, tally)
            backward(training, loss * (0.0 if row.is_filler else scale))
    grad_norm = clipped_norm(training)
    *sums, norm = tally.reduced(grad_norm)
    metrics = tally.metrics(sums, rows)
    _refuse_not_finite(accelerator, metrics["loss"], norm, tally)
    training.optimizer.step()
    training.scheduler.step()
    seconds = time.perf_counter() - started
    return (
        metrics
        | {"grad_norm": norm, "lr": learning_rate, "step_seconds": seconds}
        | _speed(training, step, rows, seconds)
    )


def check_first_step(config: TrainConfig, metrics: dict[str, float]) -> None:
    """Hold the first step of a policy that is its own reference to what that means.

    Raises:
        DpoError: the log-probs of one of them are wrong.
    """
    if not config.dpo.preference_loss_weight:
        return
    beta, precision = config.dpo.reference_policy_kl_penalty, config.policy.precision
    if config.loss.starts_at_ln_2:
        check_start(metrics["preference_loss"], beta=beta, precision=precision)
    else:
        check_start_margin(metrics["margin_mean"], beta=beta, precision=precision)


def check_start(preference_loss: float, *, beta: float, precision: str) -> None:
    """Hold the first preference loss to ln 2: policy and reference are still the same.

    Raises:
        DpoError: it is something else, so the log-probs of one of them are wrong.
    """
    tolerance = START_TOLERANCE[precision] * max(1.0, beta)
    if not abs(preference_loss - START_LOSS) <= tolerance:  # so that NaN fails too
        raise DpoError(
            f"the preference loss of step 1 is {preference_loss:.8f}, expected ln 2 = {START_LOSS:.8f} within "
            f"{tolerance:g} ({precision}): {DIFFERENT_START}"
        )


def check_start_margin(margin: float, *, beta: float, precision: str) -> None:
    """Hold the first margin to 0, where the loss is another than ln 2 to begin with.

    Raises:
        DpoError: it is something else, so the log-probs of policy or reference are wrong.
    """
    tolerance = 2 * START_TOLERANCE[precision] * max(1.0, beta)  # a margin of 2 t changes the sigmoid loss by t
    if not abs(margin) <= tolerance:  # so that NaN fails too
        raise DpoError(
            f"the margin of step 1 is {margin:.8f}, expected 0 within {tolerance:g} ({precision}): {DIFFERENT_START}"
        )


def _row_loss(
    training: Training, number: int, rows: StepRows, slopes: dict[ResponseRef, Tensor], tally: Tally
) -> Tensor:
    """Compute one of this process' rows and give what its gradient is taken of: its pairs' losses, and for responses
    whose pairs reach into other rows their log-probs times the loss's slope there."""
    row = rows.mine[number]
    batch = tokens_of(training, rows, row)
    pairs = [] if row.is_filler else rows.inside.get(row, [])
    policy = response_logps(training.scorer, batch, training.objective.measures if pairs else ())
    loss = policy.tokens.sum() * 0.0  # so that a filler has a gradient too
    # computed by all processes or by none, for a model that is cut into parts is put together by all of them
    is_compared = rows.has_pairs_beside(number, training.accelerator.num_processes)
    reference = rows.reference.of(batch) if is_compared else None
    if pairs and reference is not None:
        terms, paired = pair_terms(training, rows, pairs, batch.responses, policy=policy, reference=reference)
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
    known = exchange(training, rows)
    tokens = known.policy.tokens.clone().requires_grad_()
    terms, paired = pair_terms(
        training,
        rows,
        rows.across,
        known.responses,
        policy=replace(known.policy, tokens=tokens),
        reference=known.reference,
    )
    (slopes,) = torch.autograd.grad((terms.loss * paired.weights).sum(), tokens)
    if training.accelerator.is_main_process:  # each process has computed these pairs, and they count once
        tally.add(paired, terms)
    return dict(zip(known.responses, torch.split(slopes, list(known.policy.lengths)), strict=True))


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
