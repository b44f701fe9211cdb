"""FSDP2: each process keeps a part of every weight, of its gradient and of the optimizer's state.

A decoder layer is put together on all processes just before it computes, and taken apart behind it; its gradients are
summed up and shared out as soon as they are there. What lies outside of the layers (embedding, last norm, head) is one
unit, the root's, which is whole for the length of a pass.

The units are cut here and not by `Accelerator.prepare`, for three reasons. Its precision makes the model's output
bfloat16, and log-probs are float32. It knows one model, and a run may have a reference beside the policy. And it finds
a sharded weight by the address of its memory, which weights too small to reach every process share.
"""

from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor

from trainer.model.lora import LINEAR
from trainer.model.scorer import ResponseScorer, decoder_layers

ENTRIES = ("plain_logps", "generate")
"""Methods of a scorer that compute with its weights, beside its forward."""


def is_sharded(accelerator: Accelerator) -> bool:
    """Say whether FSDP2 shares the model."""
    return bool(accelerator.is_fsdp2)


def has_replicas(accelerator: Accelerator) -> bool:
    """Say whether there are several groups of processes of which each has all the weights (HSDP)."""
    parallelism = accelerator.parallelism_config
    return parallelism is not None and bool(parallelism.dp_replicate_enabled)


def shard(scorer: ResponseScorer, accelerator: Accelerator) -> None:
    """Cut a scorer's weights into parts, one for each process, and put them on the device, unit by unit.

    A device never holds more than its part of the weights and one whole unit. The matrices of a layer are gathered in
    the precision that they compute in, all else in float32; gradients are always summed up in float32.
    """
    mesh = _mesh(accelerator)
    plugin: Any = accelerator.state.fsdp_plugin
    usual: dict[str, Any] = {"mesh": mesh, "offload_policy": _offload_policy(plugin, accelerator.device)}
    for layer in decoder_layers(scorer.base):
        policy = _precision(layer, accelerator)
        fully_shard(layer, reshard_after_forward=bool(plugin.reshard_after_forward), mp_policy=policy, **usual)
    fully_shard(scorer, **usual)
    for name in ENTRIES:
        register_fsdp_forward_method(scorer, name)
        setattr(scorer, name, _taking_apart(scorer, getattr(scorer, name)))
    scorer.register_forward_hook(_taken_apart)
    scorer.autocast = accelerator.autocast


def full_weights(module: nn.Module, *, keeps: bool) -> dict[str, Tensor]:
    """Gather the weights of a sharded module one by one, on all processes; give them, on the CPU, where wanted.

    Weights that are one (a head that is the embedding) are one tensor under two names, as in a module that is whole.
    """
    reshard(module)
    known: dict[int, Tensor] = {}
    weights: dict[str, Tensor] = {}
    for name, value in module.state_dict(keep_vars=True).items():
        if id(value) not in known:
            whole = _whole(value.detach())
            known[id(value)] = whole.cpu() if keeps else whole.new_empty(0)
        weights[name] = known[id(value)]
    return weights if keeps else {}


def reshard(module: nn.Module) -> None:
    """Take apart what the last pass has left whole."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def _whole(value: Tensor) -> Tensor:
    """Gather a tensor; what is offloaded to the CPU is gathered on the device, part by part."""
    if not isinstance(value, DTensor):
        return value
    on_device: Any = value.to(value.device_mesh.device_type)
    whole: Tensor = on_device.full_tensor()
    return whole


def _taking_apart(module: Any, method: Callable[..., Any]) -> Callable[..., Any]:
    """Let a method that computes without gradient take the root's weights apart behind it."""

    def called(*args: Any, **options: Any) -> Any:
        output = method(*args, **options)
        module.reshard()
        return output

    return called


def _taken_apart(module: Any, inputs: Any, output: Any) -> None:
    """Take the root's weights apart behind a pass without gradient: FSDP keeps them whole for a backward pass."""
    if not torch.is_grad_enabled():
        module.reshard()


def _mesh(accelerator: Accelerator) -> DeviceMesh:
    """Give the processes as FSDP sees them: in a line, or replicas (rows) of groups that share a model (columns)."""
    mesh: DeviceMesh | None = accelerator.torch_device_mesh
    parallelism = accelerator.parallelism_config
    if mesh is None or parallelism is None:
        return init_device_mesh(accelerator.device.type, (accelerator.num_processes,), mesh_dim_names=("dp_shard",))
    return mesh[tuple(parallelism.fsdp_dim_names)]


def _offload_policy(plugin: Any, device: torch.device) -> OffloadPolicy:
    """Say where shards lie while they aren't used; Accelerate knows it from its configuration."""
    if not isinstance(plugin.cpu_offload, CPUOffloadPolicy) or device.type == "cpu":  # there they are anyway
        return OffloadPolicy()
    return CPUOffloadPolicy()


def _precision(layer: nn.Module, accelerator: Accelerator) -> MixedPrecisionPolicy:
    """Gather a layer's weights in bfloat16 where autocast would bring each of them to it.

    That halves what is sent, and what a whole layer takes. The layer's input stays as it is, so the residual stream is
    float32, as it is on one device. What is no matrix of a linear layer (experts in one tensor, convolutions) computes
    in float32 under autocast, so a layer with such weights is gathered in float32.
    """
    if accelerator.mixed_precision != "bf16" or not _has_matrices_alone(layer):
        return MixedPrecisionPolicy(cast_forward_inputs=False)
    return MixedPrecisionPolicy(
        param_dtype=torch.bfloat16, reduce_dtype=torch.float32, output_dtype=None, cast_forward_inputs=False
    )


def _has_matrices_alone(layer: nn.Module) -> bool:
    """Say whether all weights but vectors belong to linear layers."""
    linear = {id(module.weight) for module in layer.modules() if isinstance(module, LINEAR)}
    return all(weight.dim() < 2 or id(weight) in linear for weight in layer.parameters())
