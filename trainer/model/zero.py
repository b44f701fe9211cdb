"""DeepSpeed's ZeRO: each process keeps a part of the optimizer's state and of the gradients (stage 2), and of every
weight too (stage 3).

Weights stay in float32, and bfloat16 is autocast's, as everywhere else: DeepSpeed's own bfloat16 would round the
model's buffers too, rotations among them. Nothing of DeepSpeed's own checkpoints is written or read: they are pickles.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from trainer.model.head import plain_head
from trainer.model.scorer import ResponseScorer

STATE_KEYS = ("exp_avg", "exp_avg_sq")
STEP = "step"
"""What AdamW keeps: two moments for each weight, and how often it has stepped."""


def zero_stage(accelerator: Accelerator) -> int:
    """Give ZeRO's stage; 0 where DeepSpeed has no part in the run."""
    if accelerator.distributed_type is not DistributedType.DEEPSPEED:
        return 0
    plugin: Any = accelerator.deepspeed_plugin
    return int(plugin.zero_stage)


class EngineOptimizer:
    """Stands where a step has its optimizer: the engine has stepped, and cleared the gradients, when it clipped."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def step(self) -> None:
        """Do nothing."""

    def zero_grad(self) -> None:
        """Do nothing."""


def put_in_parts(scorer: ResponseScorer, accelerator: Accelerator, *, precision: str, max_grad_norm: float) -> None:
    """Put the weights on the device; where the stage says so, in parts, one by one, so that it never has all."""
    import deepspeed

    device = accelerator.device.type
    scorer.autocast = partial(torch.autocast, device, dtype=torch.bfloat16, enabled=precision == "bfloat16")
    if zero_stage(accelerator) == 3:
        deepspeed.zero.Init(module=scorer, config_dict_or_path=_config(accelerator, max_grad_norm))
    else:
        scorer.to(accelerator.device)


def start_engine(
    scorer: ResponseScorer, optimizer: torch.optim.Optimizer, accelerator: Accelerator, *, max_grad_norm: float
) -> tuple[Any, EngineOptimizer]:
    """Give DeepSpeed's engine around the scorer, and what stands for the optimizer."""
    import deepspeed

    config = _config(accelerator, max_grad_norm)
    engine, *_ = deepspeed.initialize(model=scorer, optimizer=optimizer, config=config)
    if zero_stage(accelerator) == 3:  # the scorer computes with it past the head's own forward, which would gather it
        head = plain_head(scorer.base)
        for weight in (head.weight, head.bias):
            if weight is not None:
                deepspeed.zero.register_external_parameter(scorer, weight)
    return engine, EngineOptimizer(optimizer)


def _config(accelerator: Accelerator, max_grad_norm: float) -> dict[str, Any]:
    """Take ZeRO's own settings from Accelerate's; what a step is made of is ours."""
    plugin: Any = accelerator.deepspeed_plugin
    return {
        "zero_optimization": _without_auto(plugin.deepspeed_config["zero_optimization"]),
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,  # the end of each step is told
        "gradient_clipping": max_grad_norm,
        "steps_per_print": float("inf"),
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


def _without_auto(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what Accelerate would have filled in."""
    return {
        key: _without_auto(value) if isinstance(value, Mapping) else value
        for key, value in settings.items()
        if value not in ("auto", None)
    }


def gathered_weights(module: nn.Module, *, keeps: bool) -> dict[str, Tensor]:
    """Gather the weights of a module one by one, on all processes; give them, on the CPU, where wanted.

    Weights that are one are one tensor under two names, as in a module that is whole.
    """
    import deepspeed

    known: dict[int, Tensor] = {}
    weights: dict[str, Tensor] = {}
    for name, value in module.state_dict(keep_vars=True).items():
        if id(value) not in known:
            with deepspeed.zero.GatheredParameters([value], enabled=hasattr(value, "ds_id")):
                known[id(value)] = value.detach().cpu().clone() if keeps else value.detach().new_empty(0)
        weights[name] = known[id(value)]
    return weights if keeps else {}


def full_state(engine: Any) -> dict[str, Tensor]:
    """Gather trained weights and the optimizer's state, on all processes: `weights.<name>`, `optimizer.<name>.<key>`.

    Each tensor is whole, in float32, on the CPU. Before the first step there is no state of the optimizer.
    """
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    steps = [state[STEP] for state in _flat_states(engine) if STEP in state]
    state: dict[str, Tensor] = {}
    for name, weight in engine.module.named_parameters():
        if not weight.requires_grad:
            continue
        state[f"weights.{name}"] = safe_get_full_fp32_param(weight).detach().cpu().clone()
        if not steps:
            continue
        for key in STATE_KEYS:
            state[f"optimizer.{name}.{key}"] = safe_get_full_optimizer_state(weight, key).detach().cpu().clone()
        state[f"optimizer.{name}.{STEP}"] = torch.as_tensor(steps[0]).detach().float().cpu().clone()
    return state


def load_full_state(engine: Any, state: Mapping[str, Tensor]) -> None:
    """Take up what `full_state` gave, on all processes, each its parts; on another number of processes too."""
    import deepspeed
    from deepspeed.utils import safe_set_full_fp32_param as set_weight
    from deepspeed.utils import safe_set_full_optimizer_state as set_moments
    from deepspeed.utils import safe_set_local_fp32_param as set_part
    from deepspeed.utils import safe_set_local_optimizer_state as set_part_of_moments

    device = engine.device
    step = next((value for name, value in state.items() if name.endswith(f".{STEP}")), None)
    if step is not None:
        _make_states(engine, float(step))
    for name, weight in engine.module.named_parameters():
        if not weight.requires_grad:
            continue
        values = {key: state[f"optimizer.{name}.{key}"].to(device) for key in (STATE_KEYS if step is not None else ())}
        whole = state[f"weights.{name}"].to(device)
        if hasattr(weight, "ds_tensor"):  # of stage 3, whose ways to set a whole weight pass by that parts are padded
            set_part(weight, _part(weight, whole))
            with deepspeed.zero.GatheredParameters([weight], modifier_rank=0):  # what the model computes with
                weight.data.copy_(whole)
            for key, value in values.items():
                set_part_of_moments(weight, _part(weight, value), key)
        else:
            set_weight(weight, whole)
            for key, value in values.items():
                set_moments(weight, value, key)
    _write_back(engine)


def _flat_states(engine: Any) -> list[dict[str, Any]]:
    """Give the optimizer's state of each flat part."""
    return list(engine.optimizer.optimizer.state.values())


def _part(weight: Any, value: Tensor) -> Tensor:
    """Cut out this process' part: stage 3 cuts a flat weight into equal parts, the last ones with padding."""
    length = int(weight.ds_tensor.ds_numel)
    group = weight.ds_process_group
    padded = nn.functional.pad(value.flatten(), (0, length * torch.distributed.get_world_size(group) - value.numel()))
    return padded.narrow(0, length * torch.distributed.get_rank(group), length)


def _make_states(engine: Any, step: float) -> None:
    """Let the optimizer have moments and a step before it has stepped."""
    optimizer = engine.optimizer
    parts = getattr(optimizer, "fp32_partitioned_groups_flat", None)  # stage 3
    for part in optimizer.single_partition_of_fp32_groups if parts is None else parts:
        found = optimizer.optimizer.state[part]
        for key in STATE_KEYS:
            found.setdefault(key, torch.zeros_like(part))
        found[STEP] = torch.tensor(step)
    link = getattr(optimizer, "_lazy_init_hp_params_optimizer_state", None)  # stage 2, else at the first step
    if link is not None:
        link()


def _write_back(engine: Any) -> None:
    """Bring the weights that the model computes with to what was set, where they are kept beside the optimizer's."""
    update = getattr(engine.optimizer, "update_lp_params", None)
    if update is not None:
        update()
