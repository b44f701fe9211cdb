"""cluster.accelerate_config: a packaged profile or a file of Accelerate's, and what of such a file can't be had here.

Whatever is read is YAML (or JSON, which is YAML) by the rules of trainer/config/yaml_file.py, and never more than plain
values. What Accelerate itself refuses is found in profiles.py, for it takes Accelerate to know.
"""

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from schemas.errors import InputError, UsageError
from schemas.terminal import excerpt, path_text, printable
from trainer.config.cluster import PROFILES
from trainer.config.sections import TrainConfig
from trainer.config.yaml_file import YamlFile, read_yaml

FSDP, DEEPSPEED = "FSDP", "DEEPSPEED"
SHARDING = ("distributed_type", "fsdp_config", "deepspeed_config", "parallelism_config")
WHOLE_ROWS = "each process computes whole rows of responses, with masks and output weights as wide as these"
KINDS = ("NO", "MULTI_CPU", "MULTI_GPU", "MULTI_XPU", "MULTI_NPU", "MULTI_HPU", "MULTI_MLU", FSDP, DEEPSPEED)
PARALLEL = {"tp": "tensor", "cp": "context", "sp": "sequence", "pp": "pipeline", "ep": "expert"}

Problem = tuple[str, str]
"""A dotted key of a file, and what is wrong with it."""


@dataclass(frozen=True)
class Profile:
    """How the processes share the model, as a packaged profile or a file of Accelerate's says it."""

    name: str  # as it is shown
    tree: Mapping[str, Any]
    is_packaged: bool

    @property
    def kind(self) -> str:
        """Give Accelerate's word for it: FSDP, DEEPSPEED, or one for whole models."""
        return str(self.tree["distributed_type"])


def read_profile(config: TrainConfig) -> Profile | None:
    """Read what cluster.accelerate_config names; None where it names nothing.

    Raises:
        InputError: there is no such file, or it can't be read.
        UsageError: it is none of Accelerate's, or asks for what can't be had; each thing is named with its line.
    """
    name = config.cluster.accelerate_config
    if name is None:
        if config.cluster.cpu_offload:
            raise UsageError("cluster.cpu_offload=true: needs cluster.accelerate_config=fsdp2, hsdp, zero2 or zero3")
        return None
    is_packaged = name in PROFILES
    if is_packaged:
        with as_file(files("trainer.launch") / "profiles" / f"{name}.yaml") as path:
            file = read_yaml(path)
    else:
        file = _read_file(Path(name).expanduser())
    shown = name if is_packaged else path_text(Path(name))
    problems = list(_problems(file.tree, config))
    if problems:
        if is_packaged:
            lines = [f"cluster.accelerate_config={name}: {text}" for _, text in problems]
        else:
            lines = [f"{file.places.get(key, shown)}: {printable(key)}: {text}" for key, text in problems]
        raise UsageError(lines[0] if len(lines) == 1 else "\n  ".join([f"{shown} can't be used:", *lines]))
    return Profile(shown, file.tree, is_packaged)


def _read_file(path: Path) -> YamlFile:
    """Read a file of Accelerate's, or say which name was probably meant."""
    text = str(path)
    if not path.exists() and path.name == text and path.suffix not in (".yaml", ".yml", ".json"):
        meant = difflib.get_close_matches(text.lower(), PROFILES, n=1)
        hint = f"; did you mean {meant[0]}?" if meant else ""
        raise UsageError(
            f"cluster.accelerate_config={excerpt(text)}: expected {', '.join(PROFILES)}, or a file that "
            f"`accelerate config` wrote{hint}"
        )
    try:
        file = read_yaml(path)
    except InputError as error:
        raise InputError(f"cluster.accelerate_config: {error}") from error
    if "distributed_type" not in file.tree:
        what = "is empty" if not file.tree else "has no distributed_type"
        raise UsageError(f"{path_text(path)}: {what}; expected a file that `accelerate config` wrote")
    return file


def _problems(tree: Mapping[str, Any], config: TrainConfig) -> Iterator[Problem]:
    """Yield what of a file can't be had, and why."""
    for key in ("fsdp_config", "deepspeed_config", "parallelism_config", "fp8_config", "dynamo_config"):
        if not isinstance(tree.get(key) or {}, dict):
            yield key, f"got {excerpt(tree[key])}, expected a mapping"
            return
    yield from _kind_problems(tree, config)
    yield from _precision_problems(tree, config)
    yield from _parallel_problems(tree)
    if tree.get("distributed_type") == FSDP:
        yield from _fsdp_problems(tree.get("fsdp_config") or {})
    if tree.get("distributed_type") == DEEPSPEED:
        yield from _deepspeed_problems(tree.get("deepspeed_config") or {}, config)
    elif config.cluster.cpu_offload and tree.get("distributed_type") != FSDP:
        yield (
            "distributed_type",
            "cluster.cpu_offload=true needs fsdp2, hsdp, zero2, zero3, or such a file",
        )


def _kind_problems(tree: Mapping[str, Any], config: TrainConfig) -> Iterator[Problem]:
    environment = tree.get("compute_environment", "LOCAL_MACHINE")
    if environment != "LOCAL_MACHINE":
        yield (
            "compute_environment",
            f"{excerpt(environment)} is not supported; dpo train starts on the machine it is on",
        )
    kind = tree.get("distributed_type")
    if kind == "XLA" or any(tree.get(key) for key in ("tpu_name", "tpu_use_cluster")):
        yield "distributed_type", "TPUs are not supported"
    elif kind == "MEGATRON_LM":
        yield "distributed_type", f"Megatron-LM splits layers and rows, and {WHOLE_ROWS}; use FSDP with fsdp_version: 2"
    elif kind not in KINDS:
        yield "distributed_type", f"got {excerpt(kind)}, expected one of {', '.join(KINDS)}"
    if tree.get("use_cpu") and config.cluster.gpus_per_node != "none":
        yield "use_cpu", "the CPU is asked for with --gpus none (cluster.gpus_per_node=none)"
    if str(tree.get("gpu_ids") or "all") != "all":
        yield "gpu_ids", "GPUs are chosen with the variable CUDA_VISIBLE_DEVICES, before dpo train; take the line out"
    dynamo = tree.get("dynamo_backend") or (tree.get("dynamo_config") or {}).get("dynamo_backend") or "NO"
    if str(dynamo).upper() != "NO":
        yield "dynamo_config", "the rows of a step differ in length, and each would be compiled anew; take it out"


def _precision_problems(tree: Mapping[str, Any], config: TrainConfig) -> Iterator[Problem]:
    """Hold a file to policy.precision, which decides; Accelerate's usual "no" says nothing."""
    precision = tree.get("mixed_precision") or ("fp16" if tree.get("fp16") else "no")
    if precision == "bf16" and config.policy.precision == "float32":
        yield "mixed_precision", "bf16 here, and policy.precision=float32; say the same in both"
    elif precision not in ("no", "bf16", False):
        yield "mixed_precision", f"{excerpt(precision)} is not supported; the precision is policy.precision's: bfloat16"
    if tree.get("fp8_config"):
        yield "fp8_config", "fp8 is not supported; the precision is policy.precision's: bfloat16"


def _parallel_problems(tree: Mapping[str, Any]) -> Iterator[Problem]:
    """Refuse what would split a row; copies and shards of the whole model are what there is."""
    sizes = tree.get("parallelism_config") or {}
    for key, size in sizes.items():
        short = key.removeprefix("parallelism_config_").removesuffix("_size")
        if short in PARALLEL and size not in (1, None):
            yield f"parallelism_config.{key}", f"{PARALLEL[short]} parallelism is not supported: {WHOLE_ROWS}"
        elif short in ("dp_replicate", "dp_shard") and not (isinstance(size, int) and size >= 1):
            yield f"parallelism_config.{key}", f"got {excerpt(size)}, expected a whole number of processes"
    if sizes and tree.get("distributed_type") != FSDP:
        yield "parallelism_config", "needs distributed_type: FSDP"


def _fsdp_problems(fsdp: Mapping[str, Any]) -> Iterator[Problem]:
    version = _of(fsdp, "fsdp_version")
    if str(version) != "2":
        got = "FSDP version 1" if version is None else f"FSDP version {excerpt(version)}"
        yield "fsdp_config", f"{got} is not supported; bring the file to version 2: accelerate to-fsdp2"
    for name in ("fsdp_activation_checkpointing", "fsdp_activation_checkpointing_offload"):
        if _is_true(_of(fsdp, name)):
            yield f"fsdp_config.{name}", "that is policy.gradient_checkpointing's to say; take the line out"
    for name in ("fsdp_offload_params", "fsdp_reshard_after_forward"):
        value = _of(fsdp, name)
        if value is not None and str(value).lower() not in ("true", "false"):
            yield f"fsdp_config.{name}", f"got {excerpt(value)}, expected true or false"


def _deepspeed_problems(deepspeed: Mapping[str, Any], config: TrainConfig) -> Iterator[Problem]:
    stage = deepspeed.get("zero_stage")
    if stage not in (None, 0, 1, 2, 3):
        yield "deepspeed_config.zero_stage", f"got {excerpt(stage)}, expected 0, 1, 2 or 3"
    yield from _ours_not_the_engines(deepspeed, "deepspeed_config.")
    for name in ("offload_optimizer_device", "offload_param_device"):
        if str(deepspeed.get(name)).lower() == "nvme":
            yield f"deepspeed_config.{name}", "Accelerate passes no path for nvme; say it in a deepspeed_config_file"
    if deepspeed.get("deepspeed_config_file") is None:
        return
    key = "deepspeed_config.deepspeed_config_file"
    path = Path(str(deepspeed["deepspeed_config_file"])).expanduser()
    if config.cluster.cpu_offload:
        yield key, "cluster.cpu_offload=true has no place beside a file of DeepSpeed's; say it in there"
    try:
        engine = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        yield key, f"{path_text(path)}: {error.strerror or error} (from the folder that dpo train runs in)"
    except ValueError as error:
        yield key, f"{path_text(path)}: no JSON: {printable(str(error))}"
    else:
        if not isinstance(engine, dict):
            yield key, f"{path_text(path)}: expected an object"
            return
        yield from ((key, f"{path_text(path)}: {name}: {text}") for name, text in _ours_not_the_engines(engine, ""))
        for name in ("optimizer", "scheduler"):
            if name in engine:
                yield key, f"{path_text(path)}: {name}: is policy.{name}'s to say; take it out"
        if isinstance(engine.get("fp16"), dict) and engine["fp16"].get("enabled") not in (False, None):
            yield key, f"{path_text(path)}: fp16: is not supported; the precision is policy.precision's: bfloat16"


def _ours_not_the_engines(settings: Mapping[str, Any], prefix: str) -> Iterator[Problem]:
    """Refuse what DeepSpeed's engine would do beside the training loop, which does it too."""
    if str(settings.get("gradient_accumulation_steps", 1)) not in ("1", "auto"):
        yield f"{prefix}gradient_accumulation_steps", "the rows of a step come from policy.*; expected 1"
    if settings.get("gradient_clipping") not in (None, "auto", 0, 0.0):
        yield f"{prefix}gradient_clipping", "gradients are clipped by policy.max_grad_norm; take the line out"


def _of(fsdp: Mapping[str, Any], name: str) -> Any:
    """Read a value of FSDP's, which Accelerate takes without its prefix too."""
    return fsdp.get(name, fsdp.get(name.removeprefix("fsdp_")))


def _is_true(value: Any) -> bool:
    return str(value).lower() in ("true", "1", "yes", "on", "y", "t")
