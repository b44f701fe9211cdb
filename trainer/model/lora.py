"""LoRA: small matrices beside the frozen weights are trained, and the policy without them is the reference.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models".
"""

import copy
import difflib
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from schemas.errors import DpoError, InputError, UsageError
from schemas.terminal import excerpt, path_text
from trainer.config.policy import LoraSection
from trainer.model.batch import TokenRows
from trainer.model.scorer import ResponseScorer, is_lora

ADAPTER = "default"
"""What peft calls the adapter; the files that it reads don't name it."""

LINEAR = (nn.Linear, Conv1D)

MAMBA_TYPES = ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h")
MAMBA_LAYERS = ("out_proj",)
"""Layers whose weight the Mamba kernels read themselves, past an adapter."""


def add_lora(model: Any, options: LoraSection) -> Any:
    """Freeze a model and put adapters beside its linear layers, all but the head; untrained, they do nothing.

    Raises:
        UsageError: a named layer is not there, is the head, or none is left.
    """
    passed_by = MAMBA_LAYERS if model.config.model_type in MAMBA_TYPES else ()
    _refuse_unknown_layers(model, options, passed_by)
    config = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha or 2 * options.rank,
        lora_dropout=0.0,  # the reference has none either
        use_rslora=options.rank_stabilized,
        target_modules=list(options.target_modules) or "all-linear",
        exclude_modules=[*options.exclude_modules, *passed_by] or None,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        task_type="CAUSAL_LM",
    )
    with _peft_s_warnings_hidden():
        return get_peft_model(model, config, adapter_name=ADAPTER)


def load_adapter(model: Any, folder: Path) -> Any:
    """Put saved adapters on a base, to be computed with or merged.

    Raises:
        InputError: they are no safetensors; peft would read a pickle in their place.
    """
    if not (folder / SAFETENSORS_WEIGHTS_NAME).is_file():
        raise InputError(f"{path_text(folder)}: has no {SAFETENSORS_WEIGHTS_NAME}; adapters in other files aren't read")
    with _peft_s_warnings_hidden():
        return PeftModel.from_pretrained(model, folder, adapter_name=ADAPTER)


@contextmanager
def _peft_s_warnings_hidden() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*deprecated")  # peft 0.21 still asks
        warnings.filterwarnings("ignore", message="The following (rank|alpha)_pattern keys")  # its own, for experts
        yield


def _refuse_unknown_layers(model: Any, options: LoraSection, passed_by: tuple[str, ...]) -> None:
    """Hold the names of layers to those that the model has, before peft takes or leaves them in silence."""
    head = model.get_output_embeddings()
    layers = [name for name, module in model.named_modules() if isinstance(module, LINEAR) and module is not head]
    layers = [layer for layer in layers if not _has_name(layer, passed_by)]
    for option in ("target_modules", "exclude_modules"):
        for wanted in getattr(options, option):
            if not any(_has_name(layer, (wanted,)) for layer in layers):
                raise UsageError(f"policy.lora.{option}: {_not_there(wanted, layers)}")
    targets = options.target_modules
    if all(_has_name(layer, options.exclude_modules) for layer in layers if not targets or _has_name(layer, targets)):
        raise UsageError("policy.lora: no layer is left for an adapter; name fewer in policy.lora.exclude_modules")


def _has_name(layer: str, names: tuple[str, ...]) -> bool:
    """Say whether a layer has one of the names, as peft reads them: the whole path, or its last parts."""
    return any(layer == name or layer.endswith(f".{name}") for name in names)


def _not_there(wanted: str, layers: list[str]) -> str:
    kinds = sorted({layer.rpartition(".")[2] for layer in layers})
    near = difflib.get_close_matches(wanted, kinds, n=3, cutoff=0.5) or kinds
    return f"{excerpt(wanted)} is no linear layer that can have adapters; there are {', '.join(near)}"


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


def save_adapter(model: Any, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """Write the adapters alone, as peft loads them; `weights` is the model's state dict, where it was gathered.

    A base in a local folder is named by its whole path, so that the adapters load from anywhere on this machine.
    """
    weights = model.state_dict() if weights is None else weights
    config = copy.deepcopy(model.peft_config[ADAPTER])
    config.inference_mode = True
    base = config.base_model_name_or_path
    if base and Path(base).is_dir():
        config.base_model_name_or_path = str(Path(base).resolve())
    config.save_pretrained(folder)
    content = {
        name.replace(f".{ADAPTER}.", "."): weight.detach().cpu().contiguous()
        for name, weight in weights.items()
        if ".lora_" in name
    }
    save_file(content, folder / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})


def base_name(name: str) -> str:
    """Give a weight the name that it has without adapters."""
    return re.sub(r"(\.base_layer)+\.", ".", name.removeprefix("base_model.model."))  # experts have several
