"""LoRA: small matrices beside the frozen weights are trained, and the policy without them is the reference.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models".
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from schemas.errors import DpoError
from trainer.config.policy import LoraSection
from trainer.model.batch import TokenRows
from trainer.model.scorer import ResponseScorer, is_lora


def add_lora(model: Any, options: LoraSection) -> Any:
    """Freeze a model and put adapters beside every linear layer but the head; untrained, they do nothing."""
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha or 2 * options.rank,
        lora_dropout=0.0,  # the reference has none either
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*deprecated")  # peft 0.21 still asks
        return get_peft_model(model, config)


@contextmanager
def adapters_off(scorer: ResponseScorer) -> Iterator[None]:
    """Compute with the frozen weights alone; a model without adapters computes as ever."""
    if not is_lora(scorer.model):
        yield
        return
    with scorer.model.disable_adapter():
        yield


@torch.no_grad()
def check_adapters_off(scorer: ResponseScorer, rows: TokenRows) -> None:
    """Hold the policy without its adapters to the base: before training both are the same.

    Raises:
        DpoError: they aren't, so what is taken for the reference would be another model.
    """
    with_adapters = scorer(rows)
    with adapters_off(scorer):
        without = scorer(rows)
    if not torch.equal(with_adapters, without):
        raise DpoError(
            "LoRA: with its adapters off the model's log-probs are not those of the base (up to "
            f"{float((with_adapters - without).abs().max()):.2g} nats apart), so they can't be the reference's"
        )


def merged(model: Any) -> Any:
    """Add the adapters to the frozen weights, for a policy that loads without peft."""
    return model.merge_and_unload()


def base_name(name: str) -> str:
    """Give a weight the name that it has without adapters."""
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")
