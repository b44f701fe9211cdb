"""What sharing the model among processes saves of the memory of each, and what it costs."""

from dataclasses import replace
from typing import Any

from trainer.config.sections import TrainConfig
from trainer.cost.memory import FLOAT, LOWER, MemoryEstimate
from trainer.model.scorer import decoder_layers, is_lora

UNITS_AT_ONCE = 2
"""Layers that are whole at one time: the one that computes, and the one that is gathered meanwhile."""


def num_shares(config: TrainConfig, num_processes: int) -> tuple[int, int]:
    """Say into how many parts the weights are cut, and into how many their gradients and the optimizer's state.

    What a file of Accelerate's says is not read, so for it the estimate is that of processes that share nothing.
    """
    match config.cluster.accelerate_config:
        case "fsdp2" | "zero3":
            return num_processes, num_processes
        case "hsdp":  # each node has a copy
            return (max(1, num_processes // config.cluster.num_nodes),) * 2
        case "zero2":
            return 1, num_processes
        case _:
            return 1, 1


def shared_memory(estimate: MemoryEstimate, model: Any, config: TrainConfig, num_processes: int) -> MemoryEstimate:
    """Turn the estimate for a device that has all of the model into that for one of several that share it.

    With weights in parts a device still has two layers whole, and all that is in no layer (embedding and head); with
    gradients in parts, one layer's before they are shared out. `cluster.cpu_offload` is not counted.
    """
    weight_shares, gradient_shares = num_shares(config, num_processes)
    base = model.get_base_model() if is_lora(model) else model
    layers = [sum(int(each.numel()) for each in layer.parameters()) for layer in decoder_layers(base)]
    outside = sum(int(each.numel()) for each in model.parameters()) - sum(layers)
    trained = max(
        sum(int(each.numel()) for each in layer.parameters() if each.requires_grad) for layer in decoder_layers(base)
    )
    if weight_shares > 1:
        is_fsdp = config.cluster.accelerate_config != "zero3"
        gathered = LOWER if is_fsdp and config.policy.precision == "bfloat16" else FLOAT
        whole = outside * FLOAT + UNITS_AT_ONCE * max(layers) * gathered
        estimate = replace(
            estimate,
            weights=estimate.weights // weight_shares + whole,
            copies=0 if is_fsdp else estimate.copies,  # FSDP gathers the copies themselves
            reference=estimate.reference // weight_shares,
        )
    if gradient_shares > 1:
        estimate = replace(
            estimate,
            gradients=estimate.gradients // gradient_shares + trained * FLOAT,
            optimizer=estimate.optimizer // gradient_shares,
        )
    return estimate
