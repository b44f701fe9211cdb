"""The variables that tell Accelerate how the processes share the model, made by Accelerate's own launcher.

Accelerate reads them when a process starts (`Accelerator()`), so that a profile is the same under `dpo train`,
torchrun, srun and `accelerate launch`. What a file holds goes through Accelerate's parser whole; of what comes out of
it, only the variables that are about the model are kept, for the processes are started already.
"""

import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from schemas.errors import UsageError
from schemas.extras import install_command
from schemas.terminal import one_line
from trainer.config.sections import TrainConfig
from trainer.launch.profile_file import DEEPSPEED, FSDP, Profile, read_profile

OF_SHARING = (
    *("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_MEGATRON_LM"),
    *("ACCELERATE_USE_PARALLELISM_CONFIG", "ACCELERATE_DEEPSPEED_", "ACCELERATE_CONFIG_DS_FIELDS"),
    *("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "ACCELERATE_GRADIENT_CLIPPING", "FSDP_", "PARALLELISM_CONFIG_"),
)
"""How the names begin of what Accelerate is told about the model."""

SWITCHES = ("ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_PARALLELISM_CONFIG")
OTHERS = ("ACCELERATE_DEBUG_MODE", "ACCELERATE_CPU_AFFINITY")
"""What else a file may ask of Accelerate."""

NO_SCRIPT = "none"  # Accelerate's parser wants one
IGNORED = ("num_processes", "num_machines", "machine_rank", "main_process_ip", "main_process_port", "gpu_ids")
"""Numbers of processes and where they meet are the run's (cluster.*, or the launcher's)."""


def accelerate_environment(config: TrainConfig, *, num_processes: int) -> dict[str, str]:
    """Give the environment variables with which `Accelerator()` shares the model as cluster.accelerate_config says.

    None where it says nothing: what `accelerate launch` has set then stands. None on one process, which shares nothing.

    Args:
        num_processes: Of the whole run, on all nodes.

    Raises:
        InputError: there is no such file, or it can't be read.
        UsageError: the file can't be used, or `accelerate launch` was told something else.
    """
    profile = read_profile(config)
    if profile is None:
        return {}
    if num_processes == 1:
        if config.cluster.cpu_offload:
            raise UsageError(
                "cluster.cpu_offload=true: one process shares nothing, so nothing is put off; leave it out"
            )
        return {}
    tree = _with_settings(profile, config, num_processes)
    found = _asked_of_accelerate(tree, profile.name)
    _refuse_other_launch(found, profile)
    return found


def refuse_missing_deepspeed(config: TrainConfig) -> None:
    """Say so where a profile needs DeepSpeed, and it is not installed.

    Raises:
        UsageError: it isn't.
    """
    profile = read_profile(config)
    if profile is not None and profile.kind == DEEPSPEED and find_spec("deepspeed") is None:
        raise UsageError(
            f"cluster.accelerate_config={profile.name}: needs the package deepspeed, which comes with the extra "
            f"deepspeed: {install_command('train,deepspeed')}"
        )


def _with_settings(profile: Profile, config: TrainConfig, num_processes: int) -> dict[str, Any]:
    """Put into a profile what the run's own settings say, and the numbers of its processes."""
    tree = {key: value for key, value in profile.tree.items() if key not in IGNORED}
    tree |= {"num_processes": num_processes, "num_machines": 1, "machine_rank": 0, "gpu_ids": "all", "use_cpu": False}
    tree["mixed_precision"] = "bf16" if config.policy.precision == "bfloat16" else "no"
    if profile.kind == FSDP:
        # Accelerate's files say true, with which transformers leaves the weights empty on all processes but the first
        fsdp = {_with_prefix(key): value for key, value in (tree.get("fsdp_config") or {}).items()}
        fsdp |= {"fsdp_cpu_ram_efficient_loading": False}
        fsdp |= {"fsdp_offload_params": True} if config.cluster.cpu_offload else {}
        tree["fsdp_config"] = fsdp
        tree["parallelism_config"] = _sizes(profile, config, num_processes)
    elif profile.kind == DEEPSPEED:
        deepspeed = {**(tree.get("deepspeed_config") or {})}
        deepspeed["zero3_init_flag"] = False  # weights are loaded whole, then shared
        if config.cluster.cpu_offload:
            deepspeed["offload_optimizer_device"] = "cpu"
            deepspeed |= {"offload_param_device": "cpu"} if deepspeed.get("zero_stage") == 3 else {}
        tree["deepspeed_config"] = deepspeed
    return tree


def _with_prefix(key: str) -> str:
    return key if key.startswith("fsdp") else f"fsdp_{key}"


def _sizes(profile: Profile, config: TrainConfig, num_processes: int) -> dict[str, int]:
    """Give the numbers of copies and of shards of the model; none where there is one copy.

    Raises:
        UsageError: they don't make up the processes.
    """
    key = "parallelism_config"
    if profile.is_packaged and profile.name == "hsdp":
        nodes = _num_nodes(config, num_processes)
        if num_processes % nodes or num_processes == nodes:
            raise UsageError(
                f"cluster.accelerate_config=hsdp: shares the model among the processes of a node; {num_processes} "
                f"processes on {nodes} nodes can't; take fsdp2, which shares it among all, or ddp"
            )
        sizes = {f"{key}_dp_replicate_size": nodes, f"{key}_dp_shard_size": num_processes // nodes}
    else:
        sizes = {name: value for name, value in (profile.tree.get(key) or {}).items() if value is not None}
        copies, shards = (sizes.get(f"{key}_{name}_size", 1) for name in ("dp_replicate", "dp_shard"))
        if sizes and copies * shards not in (1, num_processes):
            raise UsageError(
                f"{profile.name}: dp_replicate_size {copies} x dp_shard_size {shards} is {copies * shards}, and the "
                f"run has {num_processes} processes"
            )
        if copies > shards == 1:
            raise UsageError(f"{profile.name}: dp_shard_size 1 leaves nothing to share; use ddp for whole copies")
    return sizes if sizes.get(f"{key}_dp_replicate_size", 1) > 1 else {}


def _num_nodes(config: TrainConfig, num_processes: int) -> int:
    """Count the nodes of a run that has started, or is to be: as configured, else by the processes of this one."""
    if config.cluster.num_nodes > 1:
        return config.cluster.num_nodes
    return max(1, num_processes // int(os.environ.get("LOCAL_WORLD_SIZE") or num_processes))


def _asked_of_accelerate(tree: Mapping[str, Any], name: str) -> dict[str, str]:
    """Let Accelerate's launcher turn a configuration into variables.

    Raises:
        UsageError: it refuses the configuration.
    """
    handlers = logging.root.handlers[:]
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    logging.root.handlers[:] = handlers  # it would format what all libraries log

    parser = launch_command_parser()
    _refuse_unknown_keys(tree, {action.dest for action in parser._actions}, name)
    with tempfile.TemporaryDirectory() as folder, _untold():
        file = Path(folder) / "accelerate.json"
        file.write_text(json.dumps(tree), encoding="utf-8")
        given = ["--config_file", str(file), "--main_process_port", "0", "--num_cpu_threads_per_process", "1"]
        given += ["--enable_cpu_affinity"] if tree.get("enable_cpu_affinity") else []  # which it passes over in a file
        try:
            asked, defaults, _ = _validate_launch_command(parser.parse_args([*given, NO_SCRIPT]))
            if asked.use_deepspeed:
                asked.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
                asked.deepspeed_multinode_launcher = "standard"
                variables = prepare_deepspeed_cmd_env(asked)[1]
            else:
                variables = prepare_multi_gpu_env(asked)
        except (ValueError, TypeError, KeyError, AttributeError) as error:  # what Accelerate has for a wrong file
            raise UsageError(f"{name}: Accelerate refuses it: {one_line(error).replace(str(file), name)}") from error
    kept = {key: value for key, value in variables.items() if key.startswith(OF_SHARING) or key in OTHERS}
    is_shared = any(kept.get(switch) == "true" for switch in SWITCHES)
    if is_shared:
        _refuse_unreadable(kept, name)
    return {key: value for key, value in kept.items() if is_shared or key in OTHERS}


def _refuse_unreadable(told: Mapping[str, str], name: str) -> None:
    """Have Accelerate read what it is told, as it will in each process; its launcher looks at few of the values.

    Raises:
        UsageError: it can't.
    """
    from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin

    plugin: Any = FullyShardedDataParallelPlugin if "ACCELERATE_USE_FSDP" in told else DeepSpeedPlugin
    before = dict(os.environ)
    with _untold():
        os.environ.update(told)
        try:
            plugin()
        except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError) as error:
            raise UsageError(f"{name}: Accelerate refuses it: {one_line(error)}") from error
        finally:
            for key in os.environ.keys() - before.keys():
                del os.environ[key]


@contextmanager
def _untold() -> Iterator[None]:
    """Take away while the block runs what a launcher has told this process, which Accelerate's would hand on."""
    told = {key: os.environ.pop(key) for key in [*os.environ] if key.startswith(OF_SHARING) or key in OTHERS}
    try:
        yield
    finally:
        os.environ.update(told)


def _refuse_unknown_keys(tree: Mapping[str, Any], known: set[str], name: str) -> None:
    """Name what Accelerate would pass over in silence: it takes any key of a section."""
    for section in ("fsdp_config", "deepspeed_config", "parallelism_config"):
        for key in tree.get(section) or {}:
            if key not in known:
                raise UsageError(f"{name}: {section}.{key}: Accelerate has no such setting")


def _refuse_other_launch(found: Mapping[str, str], profile: Profile) -> None:
    """Hold the profile to what `accelerate launch` has told this process, which would win or lose in silence.

    Raises:
        UsageError: both say something, and not the same.
    """
    for key in (*SWITCHES, *found):
        told, wanted = os.environ.get(key), found.get(key, "false")
        if key.startswith(OF_SHARING) and told is not None and told.lower() != wanted.lower():
            raise UsageError(
                f"cluster.accelerate_config={profile.name} means {key}={wanted}, and the environment has {key}={told}, "
                "as of `accelerate launch`; say it in one place"
            )
