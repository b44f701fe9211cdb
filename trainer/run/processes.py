"""The processes of a run: how they come together, whether they see the same, and what it means when one is lost."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import (
    DeepSpeedPlugin,
    DistributedType,
    FullyShardedDataParallelPlugin,
    InitProcessGroupKwargs,
    ParallelismConfig,
    gather_object,
)
from torch.distributed import DistError
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from schemas.errors import DpoError, UsageError
from trainer.config.sections import TrainConfig
from trainer.launch.processes import place_of
from trainer.launch.profiles import accelerate_environment

LOST_MESSAGES = (
    "connection closed by peer",
    "connection reset by peer",
    "timed out waiting",
    "application timeout",  # of a collective after the one that has timed out
    "connectfullmesh failed",  # lost while the processes come together
    "broken pipe",
)
"""What gloo says, in small letters, where another process does not answer; it has no error class for it."""

ROWS_ARE_OURS = {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1"}
"""Accelerate would divide each row's loss by the number that it was told; a step knows its rows itself."""

ALONE = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "-1"}
"""Accelerate would wait for others where a pod says of which node it is, and nothing has started processes."""

ON_CPU = ("ACCELERATE_USE_PARALLELISM_CONFIG", "ACCELERATE_USE_DEEPSPEED")
"""Variables that make Accelerate fail where processes run on the CPU; what they ask for is done here."""


def connect(config: TrainConfig) -> Accelerator:
    """Start Accelerate in the configuration's precision, sharing the model as its profile or the launcher says.

    Raises:
        UsageError: the model would be shared in a way that isn't supported.
        DpoError: Accelerate does not see the launcher's processes.
    """
    place = place_of()
    launched = 1 if place is None else place.world_size
    wanted = accelerate_environment(config, num_processes=launched) | ROWS_ARE_OURS | (ALONE if place is None else {})
    has_devices = torch.accelerator.is_available() and config.cluster.gpus_per_node != "none"
    with _environment(wanted):
        sizes = _parallelism()
        is_zero = os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"
        hidden = {} if has_devices else dict.fromkeys(ON_CPU, "false")
        with _environment(hidden):
            accelerator = Accelerator(
                mixed_precision="bf16" if config.policy.precision == "bfloat16" else "no",
                cpu=not has_devices,  # else Accelerate passes over the launcher's processes on a CPU
                kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(minutes=config.cluster.timeout_minutes))],
            )
        if accelerator.num_processes != launched:
            raise DpoError(
                f"the launcher started {launched} processes, and Accelerate found {accelerator.num_processes}"
            )
        if accelerator.distributed_type is DistributedType.MULTI_CPU:
            _share_on_cpu(accelerator, sizes, is_zero=is_zero)
    # transformers would load weights on the first process alone, and leave the others with what was in their memory
    os.environ.pop("FSDP_CPU_RAM_EFFICIENT_LOADING", None)
    unset_hf_deepspeed_config()  # type: ignore[no-untyped-call]  # else it would cut weights into parts while it loads them
    _refuse_unknown_ways(accelerator)
    return accelerator


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables that Accelerate reads, and put back what was there: a program may train more than once."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _parallelism() -> ParallelismConfig | None:
    """Read replicas and shards from the environment; None where Accelerate was told of none."""
    if os.environ.get("ACCELERATE_USE_PARALLELISM_CONFIG", "false").lower() != "true":
        return None
    sizes = ParallelismConfig()
    if sizes.non_data_parallel_size > 1:
        raise UsageError(
            "tensor, context and sequence parallelism are not supported: each process computes whole rows; use "
            "dp_replicate_size and dp_shard_size alone"
        )
    return sizes


def _share_on_cpu(accelerator: Accelerator, sizes: ParallelismConfig | None, *, is_zero: bool) -> None:
    """Switch FSDP or DeepSpeed on for processes without a GPU, which Accelerate 1.15 does not, though both run."""
    if is_zero:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        plugin = DeepSpeedPlugin()
        plugin.select(_from_accelerator_state=True)
        accelerator.state.deepspeed_plugins = plugin
        kind = DistributedType.DEEPSPEED
    elif os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
        kind = DistributedType.FSDP
    else:
        return
    accelerator.state.distributed_type = kind
    PartialState().distributed_type = kind  # the other state is made anew from this one
    if sizes is not None:
        accelerator.state.parallelism_config = sizes
        accelerator.state.device_mesh = sizes.get_device_mesh("cpu")
        sizes._validate_accelerator(accelerator)


def _refuse_unknown_ways(accelerator: Accelerator) -> None:
    plugin: Any = getattr(accelerator.state, "fsdp_plugin", None)
    if accelerator.distributed_type is DistributedType.FSDP and plugin.fsdp_version != 2:
        raise UsageError("FSDP 1 is not supported; use FSDP 2: fsdp_version: 2 in Accelerate's file, or FSDP_VERSION=2")


def refuse_different(accelerator: Accelerator, seen: Mapping[str, object]) -> None:
    """Hold what the processes have read to what the main one has read; each reads pairs and model by itself.

    `seen` is a digest, a number or a text for each thing, by the name that a user knows.

    Raises:
        DpoError: a process has something else.
    """
    if accelerator.num_processes == 1:
        return
    everybody: list[Mapping[str, object]] = gather_object([dict(seen)])
    for number, other in enumerate(everybody):
        for name, value in everybody[0].items():
            if other[name] != value:
                error = DpoError(
                    f"process {number} of {len(everybody)} has other {name} than process 0; all must read the same "
                    "files: compare what lies under the paths on each node"
                )
                error.is_told_elsewhere = not accelerator.is_main_process
                raise error


@contextmanager
def lost_process() -> Iterator[None]:
    """Turn what a collective raises where another process has died, or stands still, into a line for the user.

    Raises:
        DpoError: another process is lost.
    """
    try:
        yield
    except (DistError, RuntimeError) as error:
        if not _is_loss(error):
            raise
        raise DpoError(
            "another process has ended or does not answer (cluster.timeout_minutes says how long it is waited for); "
            "its own message says why"
        ) from error


def _is_loss(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, DistError) or any(message in text for message in LOST_MESSAGES)
