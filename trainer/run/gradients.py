"""Gradients of a step's rows, summed up over the rows and averaged over the processes; their norm."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from trainer.model.sharded import has_replicas, is_sharded
from trainer.model.zero import zero_stage
from trainer.run.training import Training


@contextmanager
def row_of_step(training: Training, *, is_last: bool) -> Iterator[None]:
    """Compute a row forward and backward; behind the last one the gradients are the averages over all processes.

    Whole gradients are averaged once, with the last row. Sharded ones are with each row: kept whole until the last one,
    they would take as much of each device as the weights of the whole model. Replicas of the shards are averaged once.
    """
    accelerator, scorer = training.accelerator, training.scorer
    if zero_stage(accelerator):
        scorer.set_gradient_accumulation_boundary(is_last)
        yield
    elif is_sharded(accelerator):
        if has_replicas(accelerator):
            scorer.set_requires_all_reduce(is_last)
        yield
    elif is_last:
        yield
    else:
        with accelerator.no_sync(scorer):
            yield


def backward(training: Training, loss: Tensor) -> None:
    """Add the gradient of a row's loss."""
    if zero_stage(training.accelerator):
        training.scorer.backward(loss)
    else:
        training.accelerator.backward(loss)


def clipped_norm(training: Training) -> Tensor:
    """Clip the gradients to `policy.max_grad_norm` and give their norm before that, over all weights: ().

    DeepSpeed tells the norm of a step that it has made, so with it this is the step.
    """
    max_norm = training.config.policy.max_grad_norm or math.inf
    if zero_stage(training.accelerator):
        training.scorer.step()
        return torch.as_tensor(training.scorer.get_global_grad_norm())
    norm: Any = training.accelerator.clip_grad_norm_(training.scorer.parameters(), max_norm)
    whole: Tensor = norm.full_tensor() if isinstance(norm, DTensor) else norm
    return whole
