"""Loading the start policy and its tokenizer."""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import logging as transformers_logging

from schemas.errors import InputError, UsageError
from schemas.terminal import one_line, printable
from trainer.config.policy import TokenizerSection
from trainer.config.preflight import MODEL_REMEDY
from trainer.data.template import read_template
from trainer.model.overrides import overridden
from trainer.model.weight_files import weights_problem

# else transformers would have a service convert a model of the hub that has pickles alone, and load what that makes
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")

HUB_TIMEOUT_SECONDS = 10
OTHER_TOKENIZER_REMEDY = "leave policy.tokenizer.name out"
TOKENIZER_REMEDY = "policy.tokenizer.name is a folder or hub name that has one"
CODE_KEY = "auto_map"  # which code of its own a model or tokenizer names
CODE_REMEDY = "name one that transformers has a class for"
OVERRIDES_REMEDY = "policy.hf_config_overrides may be why, and can't change the weights' shapes; leave them out to see"
MAX_RENAMED_SHARE = 0.01
"""Of two tokenizers: how many tokens may be called otherwise; reserved ones are often given names."""

OWN_TOKENIZER = TokenizerSection()


def load_policy(
    name: str,
    *,
    tokenizer: TokenizerSection = OWN_TOKENIZER,
    overrides: Mapping[str, Any] = MappingProxyType({}),
    load_kwargs: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[Any, Any]:
    """Load model and tokenizer in float32, with every dropout off.

    `overrides` are keys of the model's configuration, `load_kwargs` are for `from_pretrained`.

    Raises:
        InputError: there is no such model, it is not whole, or what it has is code or pickles.
        UsageError: the tokenizer belongs to another model, its template can't be read, or an override is no key.
    """
    _refuse_unreachable(name)
    tokens = _load_tokenizer(name, tokenizer)
    config = _load_config(name, overrides)
    _refuse_unsafe_weights(name, config)
    with _loading(name, remedy=OVERRIDES_REMEDY if overrides else MODEL_REMEDY):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            use_safetensors=True,
            trust_remote_code=False,
            **load_kwargs,
        )
    model, loading = loaded
    if loading["missing_keys"]:
        missing = ", ".join(sorted(loading["missing_keys"])[:3])
        raise InputError(f"model {printable(name)}: weights are missing ({missing}, …); they would be random")
    if overrides and loading["unexpected_keys"]:
        without = ", ".join(sorted(loading["unexpected_keys"])[:3])
        raise UsageError(
            f"policy.hf_config_overrides: model {printable(name)} has weights that would be left out ({without}, …); "
            "its shape can't be set otherwise"
        )
    _refuse_other_tokenizer(name, model, tokens)
    disable_dropout(model)
    model.config.__dict__.pop(CODE_KEY, None)  # of code that does not go with what is saved
    tokens.init_kwargs.pop(CODE_KEY, None)
    return model, tokens


def load_tokenizer(name: str) -> Any:
    """Load a model's tokenizer alone.

    Raises:
        InputError: there is no such model.
    """
    _refuse_unreachable(name)
    with _loading(name):
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)


def load_shape(
    name: str,
    *,
    tokenizer: TokenizerSection = OWN_TOKENIZER,
    overrides: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[Any, Any]:
    """Load a model without its weights, on the meta device, and its tokenizer.

    Raises:
        InputError: there is no such model.
        UsageError: the tokenizer belongs to another model, its template can't be read, or an override is no key.
    """
    _refuse_unreachable(name)
    tokens = _load_tokenizer(name, tokenizer)
    config = _load_config(name, overrides)
    _refuse_unsafe_weights(name, config)
    with _loading(name, remedy=OVERRIDES_REMEDY if overrides else MODEL_REMEDY), torch.device("meta"):
        auto: Any = AutoModelForCausalLM
        model = auto.from_config(config, dtype=torch.float32, trust_remote_code=False)
    with suppress(OSError):  # a model need not have one
        model.generation_config = GenerationConfig.from_pretrained(name)
    _refuse_other_tokenizer(name, model, tokens)
    return model, tokens


def _load_tokenizer(name: str, section: TokenizerSection) -> Any:
    """Load the tokenizer with the template that is trained with, so that it is saved with it too."""
    template = read_template(section)
    if section.name is None:
        with _loading(name):
            tokenizer: Any = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    else:
        _refuse_unreachable(section.name, "tokenizer", TOKENIZER_REMEDY)
        with _loading(section.name, "tokenizer", TOKENIZER_REMEDY):
            tokenizer = AutoTokenizer.from_pretrained(section.name, trust_remote_code=False)
        _refuse_other_vocabulary(name, section.name, tokenizer)
    if is_empty(tokenizer):
        raise InputError(f"model {printable(name)}: has no tokenizer; {TOKENIZER_REMEDY}")
    if template is not None or section.is_plain:
        tokenizer.chat_template = template
    _refuse_unread_options(tokenizer.chat_template, section)
    return tokenizer


def is_empty(tokenizer: Any) -> bool:
    """Say whether a tokenizer is what transformers makes where there are no files of one."""
    return len(tokenizer) <= len(tokenizer.all_special_tokens)


def _refuse_unread_options(template: str | dict[str, str] | None, section: TokenizerSection) -> None:
    """Refuse what a template does not read: a mistyped option would change nothing, and nobody would know."""
    text = "\n".join(template.values()) if isinstance(template, dict) else template or ""
    unread = [name for name in section.chat_template_kwargs if not re.search(rf"\b{re.escape(name)}\b", text)]
    if unread and text:
        raise UsageError(
            f"policy.tokenizer.chat_template_kwargs: the chat template does not read {', '.join(sorted(unread))}"
        )


def _refuse_other_vocabulary(name: str, tokenizer_name: str, tokenizer: Any) -> None:
    """Compare with the tokenizer that the model brings, if it brings one: its embeddings mean that one's tokens."""
    try:
        own: Any = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError):  # there is none to compare with
        return
    if is_empty(own):
        return
    theirs = {number: token for token, number in own.get_vocab().items()}
    ours = {number: token for token, number in tokenizer.get_vocab().items()}
    both = theirs.keys() & ours.keys()
    different = sum(theirs[number] != ours[number] for number in both)
    if different > MAX_RENAMED_SHARE * len(both):
        raise UsageError(
            f"policy.tokenizer.name={printable(tokenizer_name)}: {different:,} of {len(both):,} tokens are others than "
            f"those of the tokenizer of {printable(name)}, so the model would read noise; {OTHER_TOKENIZER_REMEDY}"
        )


def _load_config(name: str, overrides: Mapping[str, Any]) -> Any:
    """Load the model's configuration with some keys set otherwise."""
    with _loading(name):
        config: Any = AutoConfig.from_pretrained(name, trust_remote_code=False)
    return overridden(config, overrides) if overrides else config


def _refuse_unsafe_weights(name: str, config: Any) -> None:
    with _loading(name):
        problem = weights_problem(name, config)
    if problem is not None:
        raise InputError(f"model {printable(name)}: {problem}")


@contextmanager
def _loading(name: str, what: str = "model", remedy: str = MODEL_REMEDY) -> Iterator[None]:
    """Turn what the loaders raise into one line; the hub, the file system, safetensors and remote-code checks each
    raise their own."""
    if Path(name).is_dir() or not sys.stderr.isatty():  # a download's bar is welcome, the others are noise
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise InputError(
                f"{what} {printable(name)}: brings code of its own, which is never run; {CODE_REMEDY}"
            ) from error
        raise InputError(f"{what} {printable(name)}: can't be loaded: {_first_sentence(error)}; {remedy}") from error


def _refuse_other_tokenizer(name: str, model: Any, tokenizer: Any) -> None:
    num_embeddings = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > num_embeddings:
        raise UsageError(
            f"model {printable(name)}: the tokenizer of {printable(tokenizer.name_or_path)} has {len(tokenizer)} "
            f"tokens, the model {num_embeddings}: they don't belong together"
        )


def disable_dropout(model: nn.Module) -> None:
    """Turn off every dropout, and the noise of routers: policy and reference must differ by their weights alone."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for attribute, value in vars(module).items():
            if ("dropout" in attribute or "jitter" in attribute) and isinstance(value, float):
                setattr(module, attribute, 0.0)


def _refuse_unreachable(name: str, what: str = "model", remedy: str = MODEL_REMEDY) -> None:
    """Ask the hub once whether it has the model or tokenizer, before the loader asks it many times."""
    if os.path.isdir(name):  # noqa: PTH112 (never raises)
        return
    try:
        if try_to_load_from_cache(name, "config.json"):
            return
        HfApi().model_info(name, timeout=HUB_TIMEOUT_SECONDS)
    except (RepositoryNotFoundError, GatedRepoError) as error:
        raise InputError(
            f"{what} {printable(name)}: the hub has no such {what}, or not for you (hf auth login); {remedy}"
        ) from error
    except Exception as error:  # each layer below the hub's client raises its own
        raise InputError(
            f"{what} {printable(name)}: no such folder, and the hub can't be asked: {_first_sentence(error)}; {remedy}"
        ) from error


def _first_sentence(error: Exception) -> str:
    return re.split(r"(?<=[a-z\)'])\. ", one_line(error), maxsplit=1)[0].rstrip(".")
