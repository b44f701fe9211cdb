"""QLoRA: the frozen weights in 4 or 8 bits, by bitsandbytes; the head and all vectors stay in float32.

Dettmers et al. 2023, "QLoRA: Efficient Finetuning of Quantized LLMs" (nf4); Dettmers et al. 2022, "LLM.int8()".
"""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig

from schemas.errors import UsageError
from trainer.config.policy import LoraSection

KINDS = {"Params4bit": "nf4", "Int8Params": "int8"}
"""bitsandbytes' classes of weights, which can't be imported where it isn't installed."""


def load_kwargs(options: LoraSection, precision: str) -> dict[str, Any]:
    """Give what `from_pretrained` is to be told to quantise the weights; nothing where they stay whole.

    Raises:
        UsageError: bitsandbytes is not installed.
    """
    if options.quantization == "none":
        return {}
    if find_spec("bitsandbytes") is None:
        raise UsageError(
            f"policy.lora.quantization={options.quantization} needs bitsandbytes: pip install bitsandbytes, or use "
            "policy.lora.quantization=none"
        )
    if options.quantization == "int8":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}  # type: ignore[no-untyped-call]
    config = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,  # the scales are quantised too, as in the paper
        bnb_4bit_compute_dtype=torch.bfloat16 if precision == "bfloat16" else torch.float32,
    )
    return {"quantization_config": config}


def quantization_of(module: nn.Module | None) -> str | None:
    """Say in what a module's weight is held: nf4, int8; None where it is whole."""
    return KINDS.get(type(getattr(module, "weight", None)).__name__)


def dequantized(module: Any, state: Mapping[str, Tensor]) -> Tensor:
    """Give the weight that a quantised module computes with, in float32; `state` is what its state dict holds."""
    if quantization_of(module) == "int8":
        scale: Tensor = state["SCB"].float() * (1.0 / 127.0)  # bitsandbytes' own order, so that it rounds alike
        return state["weight"].float() * scale[:, None]
    from bitsandbytes.functional import dequantize_4bit

    weight: Tensor = dequantize_4bit(module.weight.data, module.weight.quant_state)
    return weight.float()
