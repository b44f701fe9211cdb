"""What updates the weights: the optimizer and the learning rate over the run."""

import warnings
from typing import Any

import torch
from transformers import get_scheduler

from schemas.errors import UsageError
from trainer.config.policy import OptimizerSection, SchedulerSection


def make_optimizer(parameters: Any, options: OptimizerSection, device: torch.device) -> torch.optim.Optimizer:
    """Make AdamW, fused on a GPU, or bitsandbytes' with 8-bit moments.

    Raises:
        UsageError: bitsandbytes is not installed.
    """
    usual: dict[str, Any] = {
        "lr": options.lr,
        "betas": options.betas,
        "eps": options.eps,
        "weight_decay": options.weight_decay,
    }
    if options.name == "adamw":
        return torch.optim.AdamW(parameters, fused=device.type == "cuda", **usual)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise UsageError(
            "policy.optimizer.name=adamw_8bit needs bitsandbytes: pip install bitsandbytes, or use adamw"
        ) from error
    optimizer: torch.optim.Optimizer = AdamW8bit(parameters, **usual)
    return optimizer


def make_scheduler(optimizer: torch.optim.Optimizer, options: SchedulerSection, *, num_steps: int) -> Any:
    """Make the learning rate's schedule, one place ahead: at place 0 the rate is 0, and a step would do nothing."""
    scheduler = get_scheduler(
        options.name,
        optimizer,
        num_warmup_steps=round(options.warmup_ratio * num_steps),
        num_training_steps=num_steps + 1,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*before.*optimizer.step.*")
        scheduler.step()
    return scheduler
