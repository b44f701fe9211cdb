"""What updates the weights: the optimizer and the learning rate over the run."""

import warnings
from typing import Any

import torch
from transformers import get_scheduler

from schemas.errors import UsageError
from trainer.config.policy import OptimizerSection, SchedulerSection


def make_optimizer(parameters: Any, options: OptimizerSection, device: torch.device) -> torch.optim.Optimizer:
    """Make AdamW, fused on a GPU, bitsandbytes' with 8-bit moments, or plain SGD.

    Raises:
        UsageError: bitsandbytes is not installed.
    """
    usual: dict[str, Any] = {"lr": options.lr, "weight_decay": options.weight_decay}
    moments: dict[str, Any] = {"betas": options.betas, "eps": options.eps}
    match options.name:
        case "adamw":
            return torch.optim.AdamW(parameters, fused=device.type == "cuda", **usual, **moments)
        case "sgd":  # without momentum its L2 penalty is decoupled weight decay: both are w <- (1 - lr * decay) w
            return torch.optim.SGD(parameters, **usual)
        case "adamw_8bit":
            optimizer: torch.optim.Optimizer = _adamw_8bit()(parameters, **usual, **moments)
            return optimizer


def _adamw_8bit() -> Any:
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise UsageError(
            "policy.optimizer.name=adamw_8bit needs bitsandbytes: pip install bitsandbytes, or use adamw"
        ) from error
    return AdamW8bit


def make_scheduler(
    optimizer: torch.optim.Optimizer, options: SchedulerSection, *, num_steps: int, steps_done: int = 0
) -> Any:
    """Make the learning rate's schedule, one place ahead: at place 0 the rate is 0, and a step would do nothing.

    `num_steps` are those of the whole run, of which `steps_done` are behind it.
    """
    warmup = round(options.warmup_ratio * num_steps) if options.warmup_steps is None else options.warmup_steps
    ends_above_0 = {"min_lr_rate": options.min_lr_ratio} if options.min_lr_ratio else None
    scheduler = get_scheduler(
        "cosine_with_min_lr" if ends_above_0 else options.name,
        optimizer,
        num_warmup_steps=warmup,
        num_training_steps=num_steps + 1,
        scheduler_specific_kwargs=ends_above_0,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*before.*optimizer.step.*")
        for _ in range(1 + steps_done):
            scheduler.step()
    return scheduler
