"""Which policy is measured, against which reference, with which of the settings that it was trained with.

A folder tells all of that by its train_config.json; nothing here imports torch.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from schemas.errors import InputError, UsageError
from schemas.terminal import path_text, printable
from trainer.config.preflight import refuse_missing_folder
from trainer.config.sections import POLICY_FOLDER, TrainConfig

CONFIG_FILE = "train_config.json"
MODEL_FILES = ("config.json", "adapter_config.json")
NO_REFERENCE = "none"


@dataclass(frozen=True)
class Judged:
    """A policy and what it is compared with."""

    policy: str  # folder or hub name
    reference: str | None = None
    run: Path | None = None  # the run that the policy is from, where it lies in one
    settings: Mapping[str, Any] = field(default_factory=dict)  # what it was trained with, as sections
    trained_on: tuple[Path, ...] = ()  # files of pairs
    reference_overrides: Mapping[str, Any] = field(default_factory=dict)  # keys of the reference's configuration
    notes: tuple[str, ...] = ()  # what the numbers hang on beside the two models


def find_judged(model: str, reference: str | None) -> Judged:
    """Find the policy that is meant, and its reference: the named one, or the one that it was trained against.

    Args:
        model: Folder of a policy, of a run, of a checkpoint, or a hub name.
        reference: Folder or hub name; `none` for no reference; None for the one of the training.

    Raises:
        InputError: a folder is none of these, or is not there.
        UsageError: a name is empty.
    """
    if "" in (model, reference):
        raise UsageError("a model's name is empty, as where a variable of the shell is not set")
    policy = _policy(model)
    _refuse_missing(policy, "MODEL")
    trained = _trained(Path(policy))
    run = Path(model) if policy != model else None
    settings = {} if trained is None else _settings(trained)
    trained_on = () if trained is None else _trained_on(trained)
    if reference is not None:
        named = None if reference == NO_REFERENCE else _policy(reference)
        if named is not None:
            _refuse_missing(named, "--reference")
        return Judged(policy, named, run, settings, trained_on)
    if trained is None:
        return Judged(policy, None, run)
    start = trained.reference.model_name or trained.policy.model_name
    try:
        refuse_missing_folder(start)
    except InputError:
        raise InputError(
            f"model {printable(policy)} was trained against {printable(start)}, which is not there; name the "
            "reference with --reference, or --reference none to measure without one"
        ) from None
    overrides = {} if trained.reference.model_name else dict(trained.policy.hf_config_overrides)
    return Judged(policy, start, run, settings, trained_on, overrides, tuple(_notes(trained)))


def _notes(trained: TrainConfig) -> Iterator[str]:
    quantization = trained.policy.lora.quantization
    if quantization != "none":
        yield (
            f"the policy was trained on a copy of its reference in {quantization}; the reference here is the whole "
            "model, so what rounding to that changed is in these differences too"
        )


def _policy(model: str) -> str:
    """Give the policy of a run or of a checkpoint; of all else the name itself."""
    inside = Path(model) / POLICY_FOLDER
    if not os.path.isdir(model) or _has_model(Path(model)):  # noqa: PTH112 (never raises)
        return model
    if _has_model(inside):
        return str(inside)
    if (Path(model) / CONFIG_FILE).is_file():
        raise InputError(
            f"{path_text(Path(model))}: a run without a policy, so it has not ended; name one of its "
            "checkpoints, such as RUN/checkpoints/step_100, or go on with dpo train --resume auto"
        )
    raise InputError(f"{path_text(Path(model))}: neither a policy (config.json) nor a run with one ({POLICY_FOLDER}/)")


def _has_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in MODEL_FILES)


def _refuse_missing(name: str, option: str) -> None:
    try:
        refuse_missing_folder(name)
    except InputError as error:
        told = str(error).partition("; name a local folder")[0]
        raise InputError(f"{option}: {told}") from None


def _trained(policy: Path) -> TrainConfig | None:
    """Read how a policy was trained; None of one that is not ours, or of another version."""
    for folder in (policy, policy.parent) if policy.is_dir() else ():
        try:
            return TrainConfig.model_validate_json((folder / CONFIG_FILE).read_bytes())
        except (OSError, ValidationError):
            continue
    return None


def _trained_on(trained: TrainConfig) -> tuple[Path, ...]:
    paths = [each.data_path for each in trained.data.train if each.data_path is not None]
    return tuple(Path(os.path.realpath(path)) for path in paths)


def _settings(trained: TrainConfig) -> dict[str, Any]:
    """Take over what decides which tokens are scored, and beta; the tokenizer in the folder has its template."""
    tokenizer: dict[str, Any] = {"chat_template_kwargs": dict(trained.policy.tokenizer.chat_template_kwargs)}
    if trained.policy.tokenizer.is_plain:
        tokenizer["chat_template"] = None
    return {
        "dpo": {"reference_policy_kl_penalty": trained.dpo.reference_policy_kl_penalty},
        "policy": {"max_total_sequence_length": trained.policy.max_total_sequence_length, "tokenizer": tokenizer},
        "data": {"loss_mask": trained.data.loss_mask, "token_ids": trained.data.token_ids},
    }
