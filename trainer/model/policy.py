"""Loading the start policy and its tokenizer."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import logging as transformers_logging

from schemas.errors import InputError, UsageError
from trainer.config.preflight import MODEL_REMEDY

HUB_TIMEOUT_SECONDS = 10


def load_policy(name: str) -> tuple[Any, Any]:
    """Load model and tokenizer in float32, with every dropout off.

    Raises:
        InputError: there is no such model, or it is not whole.
        UsageError: the tokenizer belongs to another model.
    """
    _refuse_unreachable(name)
    with _loading(name):
        tokenizer: Any = AutoTokenizer.from_pretrained(name)
        loaded: Any = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32, output_loading_info=True)
    model, loading = loaded
    if loading["missing_keys"]:
        missing = ", ".join(sorted(loading["missing_keys"])[:3])
        raise InputError(f"model {name}: weights are missing ({missing}, …); they would be random")
    _refuse_other_tokenizer(name, model, tokenizer)
    disable_dropout(model)
    return model, tokenizer


def load_tokenizer(name: str) -> Any:
    """Load a model's tokenizer alone.

    Raises:
        InputError: there is no such model.
    """
    _refuse_unreachable(name)
    with _loading(name):
        return AutoTokenizer.from_pretrained(name)


def load_shape(name: str) -> tuple[Any, Any]:
    """Load a model without its weights, on the meta device, and its tokenizer.

    Raises:
        InputError: there is no such model.
        UsageError: the tokenizer belongs to another model.
    """
    _refuse_unreachable(name)
    with _loading(name), torch.device("meta"):
        tokenizer: Any = AutoTokenizer.from_pretrained(name)
        auto: Any = AutoModelForCausalLM
        model = auto.from_config(AutoConfig.from_pretrained(name), dtype=torch.float32)
    with suppress(OSError):  # a model need not have one
        model.generation_config = GenerationConfig.from_pretrained(name)
    _refuse_other_tokenizer(name, model, tokenizer)
    return model, tokenizer


@contextmanager
def _loading(name: str) -> Iterator[None]:
    """Turn what the loaders raise into one line; the hub, the file system, safetensors and remote-code checks each
    raise their own."""
    if Path(name).is_dir() or not sys.stderr.isatty():  # a download's bar is welcome, the others are noise
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    except Exception as error:
        raise InputError(f"model {name}: can't be loaded: {_first_sentence(error)}; {MODEL_REMEDY}") from error


def _refuse_other_tokenizer(name: str, model: Any, tokenizer: Any) -> None:
    num_embeddings = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > num_embeddings:
        raise UsageError(
            f"model {name}: its tokenizer has {len(tokenizer)} tokens, the model {num_embeddings}: they don't belong "
            "together"
        )


def disable_dropout(model: nn.Module) -> None:
    """Turn off every dropout, and the noise of routers: policy and reference must differ by their weights alone."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for attribute, value in vars(module).items():
            if ("dropout" in attribute or "jitter" in attribute) and isinstance(value, float):
                setattr(module, attribute, 0.0)


def _refuse_unreachable(name: str) -> None:
    """Ask the hub once whether it has the model, before the loader asks it many times."""
    if Path(name).is_dir():
        return
    try:
        if try_to_load_from_cache(name, "config.json"):
            return
        HfApi().model_info(name, timeout=HUB_TIMEOUT_SECONDS)
    except (RepositoryNotFoundError, GatedRepoError) as error:
        raise InputError(
            f"model {name}: the hub has no such model, or not for you (hf auth login); {MODEL_REMEDY}"
        ) from error
    except Exception as error:  # each layer below the hub's client raises its own
        raise InputError(
            f"model {name}: no such folder, and the hub can't be asked: {_first_sentence(error)}; {MODEL_REMEDY}"
        ) from error


def _first_sentence(error: Exception) -> str:
    text = re.sub(r"\s+", " ", str(error)).strip() or type(error).__name__
    return re.split(r"(?<=[a-z\)'])\. ", text, maxsplit=1)[0].rstrip(".")
