"""The blocks of old configurations that are no table of names: data sets, optimizer, schedule, adapters."""

import re
from typing import Any

from trainer.imports.carry import Carry, Note, Outcome, is_off
from trainer.imports.renames import RENAMED

PLACEHOLDER = re.compile(r"^<\w[\w ]*>")
BY_KEYS = ("DPO", "dpo", "PreferenceData")
KNOWN_SETS = ("HelpSteer3", "Tulu3Preference")
TRAIN, VALIDATION, NAMED = "data.train", "data.validation", "data.val_data_paths"
FLAT_KEYS = ("subset", "prompt_key", "chosen_key", "rejected_key", "prompt_file", "system_prompt_file")
"""Keys that stood directly below data: and held for training and validation."""
FROM_ZERO = "here the rate rises from 0"
SGD = {"torch.optim.SGD", "sgd"}
ADAMW = {"torch.optim.AdamW", "adamw_torch", "adamw_torch_fused", "adam", "adamw"}
ADAMW_8BIT = {"adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit"}


def carry_data(carry: Carry) -> None:
    """Carry the data sets of all three layouts: flat, with data.train, with data.default below it."""
    default = carry.take_below("data.default")
    for key, value in default.items():
        trained = () if TRAIN in carry.settings else (TRAIN,)  # the sets of a list have it already
        for target in (*trained, VALIDATION) if _has(carry, VALIDATION) else trained:
            if f"{target}.{key}" not in carry.pending:
                carry.pending[f"{target}.{key}"] = value
    if default:
        carry.drop("data.default", "its keys are in data.train and data.validation, unless those have their own")
    elif "data.default" in carry.pending:
        carry.drop("data.default", f"it was {carry.take('data.default')}")
    _carry_flat(carry)
    _carry_named(carry)
    for target in (TRAIN, VALIDATION):
        name = carry.settings.get(f"{target}.dataset_name", carry.pending.get(f"{target}.dataset_name"))
        if name in BY_KEYS:
            carry.pending.pop(f"{target}.dataset_name", None)
            carry.settings.pop(f"{target}.dataset_name", None)
            carry.drop(f"{target}.dataset_name", f"{name} rows are told by their keys")


def _has(carry: Carry, prefix: str) -> bool:
    return any(key.startswith(f"{prefix}.") for key in carry.pending)


def _carry_flat(carry: Carry) -> None:
    name = carry.take("data.dataset_name")
    if name is not None:
        carry.put("data.dataset_name", f"{TRAIN}.dataset_name", name)
    has_path = any(key in carry.pending for key in ("data.val_data_path", "data.validation_file"))
    is_known = name in KNOWN_SETS and "data.train_data_path" not in carry.pending
    if name is not None and has_path:
        carry.put("data.dataset_name", f"{VALIDATION}.dataset_name", name)
    elif is_known and name == "HelpSteer3" and not _has(carry, VALIDATION):
        carry.put("data.dataset_name", f"{VALIDATION}.dataset_name", name, "it has a validation split of its own")
        carry.put("data.dataset_name", f"{VALIDATION}.split", "validation")
    for key in FLAT_KEYS:
        if f"data.{key}" in carry.pending:
            value = carry.take(f"data.{key}")
            for target in (TRAIN, VALIDATION) if has_path else (TRAIN,):
                _put_if_said(carry, f"data.{key}", f"{target}.{key}", value)
    for old in ("data.train_data_path", "data.train_file", "data.val_data_path", "data.validation_file"):
        if (path := carry.take(old)) is not None:
            remark = "a placeholder; name your file" if PLACEHOLDER.match(str(path)) else ""
            carry.put(old, RENAMED[old], path, remark)
    for old, target in (("data.train_split", TRAIN), ("data.val_split", VALIDATION)):
        if old in carry.pending and not (old == "data.val_split" and not has_path):
            _put_if_said(carry, old, f"{target}.split", carry.take(old))


def _put_if_said(carry: Carry, old: str, new: str, value: Any) -> None:
    """Carry a value unless it is null or stands for one in a manual."""
    if value is None:
        carry.drop(old, "null is the default")
    elif PLACEHOLDER.match(str(value)):
        carry.drop(old, f"{value} is a placeholder")
    else:
        carry.put(old, new, value)


def _carry_named(carry: Carry) -> None:
    sets = carry.take(NAMED)
    split = carry.take("data.val_split")
    is_said = split is not None and not PLACEHOLDER.match(str(split))
    if not isinstance(sets, dict):
        if sets is not None:
            carry.lose(NAMED, sets, "expected a path for each name")
        if split is not None:
            carry.drop("data.val_split", "there is no validation set that it is of")
        return
    for name, path in sets.items():
        ours = re.sub(r"[^\w.\-]", "", str(name)) or "validation"
        value = {"data_path": path, "split": split} if is_said else path
        remark = "a placeholder; name your file" if PLACEHOLDER.match(str(path)) else ""
        carry.put(f"{NAMED}.{name}", f"{NAMED}.{ours}", value, remark)
    if split is not None:
        carry.drop("data.val_split", "it is in data.val_data_paths" if is_said else f"{split} is a placeholder")
    if sets and _has(carry, VALIDATION):
        carry.take_below(VALIDATION)
        carry.drop(VALIDATION, "data.val_data_paths takes its place in NeMo RL")


def carry_optimizer(carry: Carry) -> None:
    """Carry torch's optimizers, and the names that TRL has for them."""
    for old in ("policy.optimizer.name", "optim"):
        name = carry.take(old)
        if name is None:
            continue
        known = [(SGD, "sgd"), (ADAMW, "adamw"), (ADAMW_8BIT, "adamw_8bit")]
        ours = next((ours for names, ours in known if isinstance(name, str) and name in names), None)
        if ours is None:
            carry.lose(old, name, "there are adamw, adamw_8bit and sgd")
        else:
            carry.put(old, "policy.optimizer.name", ours)
    for name in ("adam_beta1", "adam_beta2"):
        if name in carry.pending:
            betas = list(carry.settings.get("policy.optimizer.betas", (0.9, 0.98)))
            betas[name == "adam_beta2"] = carry.take(name)
            carry.settings.pop("policy.optimizer.betas", None)
            carry.put(name, "policy.optimizer.betas", betas)


def carry_scheduler(carry: Carry) -> None:
    """Carry a warm-up of torch's schedulers and what follows it."""
    for old in ("lr_scheduler_type",):
        if old in carry.pending:
            name = carry.take(old)
            carry.put(old, "policy.scheduler.name", "constant_with_warmup" if name == "constant" else name)
    value = carry.take("policy.scheduler")
    if value is None and "policy.scheduler.name" in carry.pending:
        name = str(carry.pending["policy.scheduler.name"])
        if "torch.optim" in name:
            del carry.pending["policy.scheduler.name"]
            value = [{"name": name, "kwargs": carry.take_below("policy.scheduler.kwargs")}]
    if value is None:
        return
    parts = [part for part in value if isinstance(part, dict) and "name" in part] if isinstance(value, list) else []
    milestones = [part.get("milestones") for part in value if isinstance(part, dict)]
    found = _schedule(parts, next((each for each in milestones if isinstance(each, list)), []), carry)
    if found is None:
        names = ", ".join(str(part["name"]).rpartition(".")[2] for part in parts) or str(value)
        carry.lose("policy.scheduler", names, "there are linear, cosine and constant_with_warmup after a warm-up")
        return
    remark = FROM_ZERO if found["warmup_steps"] else ""
    for key, setting in found.items():
        carry.put("policy.scheduler", f"policy.scheduler.{key}", setting, remark if key == "warmup_steps" else "")


def _schedule(parts: list[dict[str, Any]], milestones: list[int], carry: Carry) -> dict[str, Any] | None:
    """Read a sequence of torch's schedulers; None where there is none like it here."""
    kinds = [str(part["name"]).rpartition(".")[2] for part in parts]
    kwargs = [each if isinstance(each := part.get("kwargs"), dict) else {} for part in parts]
    warmup = 0
    if len(kinds) > 1 and kinds[0] == "LinearLR" and kwargs[0].get("end_factor", 1.0) == 1.0:
        warmup = milestones[0] if milestones else kwargs[0].get("total_iters", 0)
        kinds, kwargs = kinds[1:], kwargs[1:]
    match kinds:
        case ["ConstantLR"] if kwargs[0].get("factor", 1.0) == 1.0:
            return {"name": "constant_with_warmup", "warmup_steps": warmup}
        case ["LinearLR"] if kwargs[0].get("end_factor", 1.0) == 0.0 and kwargs[0].get("start_factor", 1.0) == 1.0:
            return {"name": "linear", "warmup_steps": warmup}
        case ["LinearLR"] if kwargs[0].get("end_factor", 1.0) == 1.0:
            return {"name": "constant_with_warmup", "warmup_steps": kwargs[0].get("total_iters", 5)}
        case ["CosineAnnealingLR"]:
            lr = carry.settings.get("policy.optimizer.lr") or carry.pending.get("policy.optimizer.kwargs.lr")
            lowest = kwargs[0].get("eta_min", 0.0)
            if not isinstance(lowest, (int, float)) or (lowest and not isinstance(lr, (int, float))):
                return None
            ratio = {"min_lr_ratio": round(lowest / lr, 6)} if lowest and lr else {}
            return {"name": "cosine", "warmup_steps": warmup, **ratio}
    return None


def carry_backend(carry: Carry) -> None:
    """Carry what was set of the back end that is on, and leave out the other."""
    for block, below in (("policy.megatron_cfg", "peft"), ("policy.dtensor_cfg", "lora_cfg")):
        is_on = carry.pending.get(f"{block}.enabled", block.endswith("dtensor_cfg"))
        if not is_on:
            if carry.take_below(block):
                carry.drop(block, "it was off")
            continue
        _carry_adapters(carry, f"{block}.{below}")
    if carry.pending.get("policy.megatron_cfg.enabled"):
        _carry_megatron(carry)
    if (is_used := carry.take("use_peft")) is not None:
        if is_used:
            carry.drop("use_peft", "adapters are on where policy.lora.rank is above 0")
        else:
            carry.drop("use_peft", "it was off")
            for key in [key for key in carry.pending if key.startswith("lora_")]:
                del carry.pending[key]


def _carry_adapters(carry: Carry, block: str) -> None:
    if not carry.take(f"{block}.enabled", False):
        if carry.take_below(block):
            carry.drop(block, "it was off")
        return
    carry.put(f"{block}.dim", "policy.lora.rank", carry.take(f"{block}.dim", 8))
    carry.put(f"{block}.alpha", "policy.lora.alpha", carry.take(f"{block}.alpha", 32))


def _carry_megatron(carry: Carry) -> None:
    block = "policy.megatron_cfg"
    carry.take(f"{block}.enabled")
    carry.drop(f"{block}.enabled", "dpo train starts the processes itself (--gpus)")
    if f"{block}.optimizer.lr" in carry.pending:  # the sections that this back end does not read
        carry.take_below("policy.optimizer")
        carry.take_below("policy.scheduler")
        carry.take("policy.scheduler")
    betas = [carry.take(f"{block}.optimizer.adam_beta{number}", default) for number, default in ((1, 0.9), (2, 0.98))]
    carry.put(f"{block}.optimizer.adam_beta1, adam_beta2", "policy.optimizer.betas", betas)
    style = carry.take(f"{block}.scheduler.lr_decay_style")
    if style in ("constant", "linear", "cosine"):
        ours = "constant_with_warmup" if style == "constant" else style
        carry.put(f"{block}.scheduler.lr_decay_style", "policy.scheduler.name", ours)
    elif style is not None:
        carry.lose(f"{block}.scheduler.lr_decay_style", style, "there are linear, cosine and constant_with_warmup")
    rest = {key: value for key, value in carry.pending.items() if key.startswith(f"{block}.") and key not in RENAMED}
    for key in rest:
        carry.take(key)
    names = [key.removeprefix(f"{block}.") for key, value in rest.items() if not is_off(key, value)]
    if names:
        carry.notes.append(Note(Outcome.LOST, block, remark=f"there is no such back end; its {', '.join(names)}"))
