"""The policy with its adapters merged in, computed beside the model, which goes on training unchanged; saving it."""

import copy
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from trainer.model.lora import ADAPTER, base_name, save_adapter
from trainer.model.quantized import dequantized, quantization_of
from trainer.model.scorer import is_lora

QUANTIZATION_KEYS = ("quantization_config", "_pre_quantization_dtype")
LEAVES = ("weight", "bias")
"""What of a quantised layer is a weight; the rest says how it is to be read."""

ADAPTER_FOLDER = "adapter"
"""In a policy's folder, where the adapters lie that are merged in."""


def save_weights(
    model: Any, folder: Path, weights: Mapping[str, Tensor], *, save: Literal["merged", "adapter", "both"]
) -> None:
    """Write weights and configuration of a policy: as a plain model, the adapters alone, or those beside that.

    `weights` is the state dict of the model. Nothing of the model changes, so it can go on training.
    """
    if not is_lora(model):
        model.save_pretrained(folder, state_dict=dict(weights))
        return
    if save == "adapter":
        save_adapter(model, folder, weights)
        return
    plain_model(model).save_pretrained(folder, state_dict=merged_state_dict(model, weights))
    if save == "both":
        save_adapter(model, folder / ADAPTER_FOLDER, weights)


@torch.no_grad()
def merged_state_dict(model: Any, weights: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Give the weights of the policy as a model without adapters has them: W + scaling * B A, quantised W made whole.

    `weights` is the model's state dict where it was gathered from several processes. Nothing of the model is touched,
    and what has no adapter is not copied; merged weights lie on the CPU.
    """
    weights = model.state_dict() if weights is None else weights
    modules = dict(model.named_modules())
    quantized = {name for name, module in modules.items() if quantization_of(module)}
    merged: dict[str, Tensor] = {}
    for name, weight in weights.items():
        owner, _, leaf = name.rpartition(".")
        is_state = not quantized.isdisjoint(_parents(name)) and (owner not in quantized or leaf not in LEAVES)
        if ".lora_" in name or is_state:
            continue
        if owner in quantized and leaf == "weight":
            weight = dequantized(modules[owner], _below(owner, weights)).cpu()
        while owner.endswith(".base_layer"):  # several where an adapter is on each of an expert's matrices
            owner = owner.removesuffix(".base_layer")
            if leaf == getattr(modules[owner], "parameter_name", "weight"):
                weight = _with_adapter(weight, modules[owner], _below(owner, weights))
        merged[base_name(name)] = weight
    return merged


def plain_model(model: Any) -> Any:
    """Give the model whose `save_pretrained(folder, state_dict=...)` writes merged weights.

    With adapters it is one of the same configuration without weights: the modules and the quantisation of the trained
    one are not what the written folder describes.
    """
    if not is_lora(model):
        return model
    base = model.get_base_model()
    config = copy.deepcopy(base.config)
    for key in QUANTIZATION_KEYS:
        if hasattr(config, key):
            delattr(config, key)
    with torch.device("meta"):
        auto: Any = AutoModelForCausalLM
        plain = auto.from_config(config, dtype=torch.float32, trust_remote_code=False)
    plain.generation_config = base.generation_config
    return plain


def _with_adapter(weight: Tensor, layer: Any, adapter: Mapping[str, Tensor]) -> Tensor:
    """Add what an adapter does, as peft computes it; a copy of the layer has the gathered weights for its own."""
    layer = copy.copy(layer)
    layer._modules = dict(layer._modules)
    for name in ("lora_A", "lora_B"):
        matrix = nn.Linear(1, 1, bias=False, device="meta")
        matrix.weight = nn.Parameter(adapter[f"{name}.{ADAPTER}.weight"], requires_grad=False)
        layer._modules[name] = nn.ModuleDict({ADAPTER: matrix})
    delta: Tensor = layer.get_delta_weight(ADAPTER)
    return (weight.to(delta.device) + delta).cpu()


def _below(owner: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    start = f"{owner}."
    return {name.removeprefix(start): weight for name, weight in weights.items() if name.startswith(start)}


def _parents(name: str) -> set[str]:
    return {*accumulate(name.split(".")[:-1], lambda parent, part: f"{parent}.{part}")}
