"""Old values to ours, where more than the name of a key has changed."""

from collections.abc import Callable
from typing import Any

from trainer.config.loss import LossName
from trainer.imports.renames import LOSS_NAMES, OTHER_LOSSES

LOSSES: tuple[str, ...] = LossName.__args__  # type: ignore[attr-defined]
PRECISIONS = {"bf16": "bfloat16", "bf16-mixed": "bfloat16", "fp32": "float32", "32": "float32"}
DIVERGENCES = {"js_divergence": "js", "alpha_divergence": "alpha"}


class Unneeded(Exception):
    """The value is the default here, or says nothing."""


class Unknown(Exception):
    """There is no such value here."""


def _only_true(ours: str, otherwise: str) -> Callable[[Any], Any]:
    def convert(value: Any) -> str:
        if value is True:
            return ours
        raise Unneeded(otherwise)

    return convert


def _loss(value: Any) -> str:
    names = value if isinstance(value, list) else [value]
    if len(names) != 1:
        raise Unknown("several losses with their weights are loss.mix")
    if names[0] == "rpo":
        raise Unknown(OTHER_LOSSES["rpo"])
    name = LOSS_NAMES.get(str(names[0]), str(names[0]))
    if name not in LOSSES:
        raise Unknown(f"there is no such loss; there are {', '.join(LOSSES)}")
    return name


def _precision(value: Any) -> str:
    said = str(value).removeprefix("torch.")
    name = PRECISIONS.get(said, said)
    if name not in ("auto", "float32", "bfloat16"):
        raise Unknown("there are float32 and bfloat16")
    return name


def _not_below_zero(value: Any) -> Any:
    return max(value, 0) if isinstance(value, int) else value


def _no_limit(value: Any) -> Any:
    return None if isinstance(value, int) and value <= 0 else value


def _metric(value: Any) -> Any:
    """Read v0.3's val_loss and TRL's eval_loss as NeMo RL's val:loss."""
    if isinstance(value, str):
        side, _, name = value.partition(":") if ":" in value else ("", "", value)
        for old, new in (("val_", "val"), ("eval_", "val"), ("train_", "train")):
            if name.startswith(old):
                return f"{new}:{name.removeprefix(old)}"
        return value if side or name.startswith("validation-") else f"val:{name}"
    return value


def _modules(value: Any) -> Any:
    if value in ("all-linear", [], None):
        raise Unneeded("every linear layer but the head is the default")
    return [value] if isinstance(value, str) else value


def _attention(value: Any) -> Any:
    raise Unneeded("the best back end that serves is taken")


CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "attn_implementation": _attention,
    "bf16": _only_true("bfloat16", "policy.precision=auto is the default"),
    "checkpointing.keep_top_k": _no_limit,
    "checkpointing.metric_name": _metric,
    "dpo.max_num_steps": _no_limit,
    "dpo.val_batches": _not_below_zero,
    "dpo.val_period": _not_below_zero,
    "f_divergence_type": lambda value: DIVERGENCES.get(str(value), value),
    "load_in_4bit": _only_true("nf4", "it was off"),
    "load_in_8bit": _only_true("int8", "it was off"),
    "loss.name": _loss,
    "policy.lora.exclude_modules": lambda value: [value] if isinstance(value, str) else value,
    "policy.lora.target_modules": _modules,
    "policy.precision": _precision,
    "precompute_ref_log_probs": _only_true("cached", "the log-probs are the same; cached is the default"),
    "reference_free": _only_true("none", "there is a reference unless reference.mode=none"),
    "training.reference_free": _only_true("none", "there is a reference unless reference.mode=none"),
}
"""By old key, else by ours."""


def converted(old: str, new: str, value: Any) -> Any:
    """Give the value that an old key has under our name.

    Raises:
        Unneeded: it says nothing here.
        Unknown: there is no such value here.
    """
    convert = CONVERSIONS.get(old) or CONVERSIONS.get(new)
    return value if convert is None else convert(value)
