"""What `dpo eval` is asked for, checked before torch is loaded."""

import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from schemas.errors import InputError, UsageError
from schemas.terminal import path_text
from trainer.config.keys import SETS, option_keys
from trainer.config.preflight import refuse_unwritable_folder, refuse_used_folder
from trainer.config.sections import TrainConfig
from trainer.config.settings import check, has_data
from trainer.config.told import tell
from trainer.data.sources import check_dataset
from trainer.evaluation.policies import Judged
from trainer.imports.inheritance import merge

EVALS_FOLDER = Path("evals")
READ = (
    f"{SETS}.",
    "data.loss_mask",
    "data.token_ids",
    "dpo.reference_policy_kl_penalty",
    "policy.tokenizer.",
    "policy.max_total_sequence_length",
    "policy.precision",
    "policy.attention",
    "policy.self_check",
    "policy.tokens_per_microbatch",
    "policy.train_micro_batch_size",
    "reference.cache_dir",
    "cluster.gpus_per_node",
)
"""Settings of a training, or sections of them, that an evaluation reads too."""
Engine = Literal["auto", "transformers", "vllm"]


@dataclass(frozen=True)
class Generation:
    """Which prompts both policies answer, and how."""

    prompts: tuple[Path, ...]
    samples_per_prompt: int = 1
    temperature: float = 1.0  # 0 takes the most probable token
    top_p: float = 1.0
    max_new_tokens: int = 512
    batch_size: int = 32  # answers that are generated at once
    seed: int = 0
    engine: Engine = "auto"


@dataclass(frozen=True)
class Abilities:
    """Which tasks of the harness both models do."""

    tasks: tuple[str, ...]
    limit: int | None = None  # documents of each task
    num_fewshot: int | None = None  # None: what each task says
    include: Path | None = None  # folder of tasks of one's own
    chat_template: bool = False
    batch_size: int = 8
    seed: int = 0


@dataclass(frozen=True)
class Request:
    """All that an evaluation is asked for."""

    judged: Judged
    config: TrainConfig  # how pairs are read and log-probs computed
    output: Path
    generation: Generation | None = None
    abilities: Abilities | None = None
    num_shown: int = 25  # pairs with their texts, the most wrongly judged ones


def make_request(
    judged: Judged,
    pairs: Sequence[Path],
    overrides: Sequence[str] = (),
    *,
    beta: float | None = None,
    max_length: int | None = None,
    output: Path | None = None,
    generation: Generation | None = None,
    abilities: Abilities | None = None,
) -> Request:
    """Lay what is told over what the policy was trained with, and look for every file.

    Raises:
        UsageError: a setting is wrong, there are no pairs, or the folder is in use.
        InputError: a file is not there.
        DpoError: the folder can't be made.
    """
    if judged.reference is None and generation is not None:
        raise UsageError("--generate compares the policy with a reference, and there is none; name it with --reference")
    if judged.reference is None and abilities is not None:
        raise UsageError("--lm-eval compares the policy with a reference, and there is none; name it with --reference")
    options: dict[str, object] = {"policy.model_name": judged.policy}
    options |= {"reference.mode": "none"} if judged.reference is None else {"reference.model_name": judged.reference}
    options |= {} if beta is None else {"dpo.reference_policy_kl_penalty": beta}
    options |= {} if max_length is None else {"policy.max_total_sequence_length": max_length}
    told = tell(overrides, pairs=pairs, config_file=None, options=options)
    if not has_data(told.tree):
        raise UsageError("no pairs to measure on: name files of preference pairs behind the model")
    told.problems += [f"{key}: changes nothing in an evaluation; leave it out" for key in _unread(overrides)]
    told.tree = merge(judged.settings, told.tree)
    config = check(told)
    for dataset in config.data.train:
        check_dataset(dataset)
    for path in () if generation is None else generation.prompts:
        if not os.path.isfile(path):  # noqa: PTH113 (never raises)
            raise InputError(f"{path_text(path)}: no such file of prompts")
    if abilities is not None and abilities.include is not None and not abilities.include.is_dir():
        raise InputError(f"{path_text(abilities.include)}: no such folder of tasks")
    folder = output or EVALS_FOLDER / time.strftime("%Y-%m-%d_%H-%M-%S")
    refuse_used_folder(folder)
    refuse_unwritable_folder(folder)
    return Request(judged, config, folder, generation, abilities)


def _unread(overrides: Sequence[str]) -> list[str]:
    """Name the settings that an evaluation does not read; what is no setting at all is told elsewhere."""
    keys = [re.sub(r"\.\d+\.", ".", each.partition("=")[0].lstrip("+~")) for each in overrides]
    return [key for key in keys if key in option_keys() and (key.endswith(".weight") or not key.startswith(READ))]
