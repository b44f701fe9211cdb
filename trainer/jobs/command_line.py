"""The line of `dpo train` that a job runs: what was given, and what a job needs beside it."""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from schemas.errors import UsageError
from schemas.streams import STDIN
from schemas.terminal import excerpt
from trainer.config.sections import TrainConfig
from trainer.config.settings import check
from trainer.config.told import tell
from trainer.jobs.job import USUAL_GPUS, fault_of
from trainer.launch.profile_file import read_profile

SHORT = {
    "--model": "policy.model_name",
    "--validation": "data.validation.data_path",
    "--loss": "loss.name",
    "--beta": "dpo.reference_policy_kl_penalty",
    "--lr": "policy.optimizer.lr",
    "--epochs": "dpo.max_num_epochs",
    "--max-steps": "dpo.max_num_steps",
    "--batch-size": "policy.train_global_batch_size",
    "--max-length": "policy.max_total_sequence_length",
    "--push-to-hub": "hub.repo_id",
    "--accelerate-config": "cluster.accelerate_config",
    "--output": "output_dir",
}
"""The options of dpo train that stand for a setting."""

NODES, GPUS, RESUME = "cluster.num_nodes", "cluster.gpus_per_node", "checkpointing.resume"


def resolved_line(
    arguments: Sequence[str],
    *,
    pairs: Sequence[Path],
    overrides: Sequence[str],
    config_file: Path | None,
    options: Mapping[str, object],
    num_nodes: int | None,
    gpus_per_node: str | None,
    output_folder: str,
) -> tuple[tuple[str, ...], TrainConfig]:
    """Check a configuration as dpo train does, and give the line that has dpo train run it in a job.

    Args:
        arguments: Pairs and settings, in the order in which they were given.
        options: By their names in `SHORT`.
        output_folder: Where the folder of the run goes, if nothing is said of it.

    Raises:
        UsageError: the configuration is wrong, or can't stand in a job file.
        InputError: the file of settings, or of Accelerate's, can't be read.
    """
    _refuse_own_resume(overrides)
    asked = {name: value for name, value in ((NODES, num_nodes), (GPUS, gpus_per_node)) if value is not None}
    given = {SHORT[option]: value for option, value in options.items()}
    told = tell(overrides, pairs=pairs, config_file=config_file, options={**given, **asked, RESUME: "auto"})
    section = told.tree.setdefault("cluster", {})
    if isinstance(section, dict) and section.get("gpus_per_node") is None:  # of anything else check tells
        asked[GPUS] = section["gpus_per_node"] = USUAL_GPUS
    if told.tree.get("output_dir") is None:  # each start has to find the folder of the first
        folder = f"{output_folder}/{time.strftime('%Y-%m-%d_%H-%M-%S')}"
        options = {**options, "--output": folder}
        told.tree["output_dir"] = folder
    config = check(told)
    _refuse_wrong_profile(config)
    if any(each.data_path == STDIN for each in config.data.train):
        raise UsageError("-: a job has no stdin to read pairs from; name a file")
    settings = [f"{key}={value}" for key, value in asked.items()]
    flags = [f"{option}={value}" for option, value in options.items()]
    flags = [*([f"--config={config_file}"] if config_file is not None else []), *flags, "--resume=auto"]
    named = [*arguments, *settings]
    has_dash = any(argument.startswith("-") for argument in arguments)
    line = ("dpo", "train", *([*flags, "--", *named] if has_dash else [*named, *flags]))
    for argument in line:
        if (fault := fault_of(argument)) is not None:
            raise UsageError(f"{excerpt(argument)}: {fault}")
    return line, config


def _refuse_wrong_profile(config: TrainConfig) -> None:
    """Look at how the processes are to share the model; a file of Accelerate's need not be on this machine."""
    name = config.cluster.accelerate_config
    is_file = name is not None and (os.sep in name or Path(name).suffix != "")
    if name is None or not is_file or Path(name).expanduser().exists():
        read_profile(config)


def _refuse_own_resume(overrides: Sequence[str]) -> None:
    """A job that is started again goes on from its own folder; from another one it would start anew each time."""
    if any(override.lstrip("+~").partition("=")[0] == RESUME for override in overrides):
        raise UsageError(
            f"{RESUME}: leave it out; each start of a job has --resume auto, with which it goes on from its own run's "
            "folder"
        )
