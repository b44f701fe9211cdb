"""TRL's settings that mean something only together: the batch, losses with weights, publishing, validation."""

from typing import Any

from schemas.terminal import bare_excerpt, excerpt
from trainer.imports.carry import Carry
from trainer.imports.conversions import Unknown, converted
from trainer.imports.refused import REFUSED
from trainer.imports.renames import BATCH, RENAMED

TIMES, SIZE = "gradient_accumulation_steps", "per_device_train_batch_size"
USUAL_SIZE = 8
"""TRL's per_device_train_batch_size where none is given."""
DTYPES = ("dtype", "torch_dtype", "model_init_kwargs.dtype", "model_init_kwargs.torch_dtype")
SFT = "sft"
SFT_REMARK = "with dpo.sft_average_log_probs=true: over each response, where TRL's is over all tokens of a batch"


def carry_trl(carry: Carry) -> None:
    """Carry what one key of TRL's does not say alone."""
    _carry_batch(carry)
    _carry_losses(carry)
    _carry_publishing(carry)
    _carry_validation(carry)
    if carry.pending.get("bf16") is True:
        for old in DTYPES:
            if (value := carry.take(old)) is not None:
                carry.drop(
                    old, f"it was {bare_excerpt(str(value))}; weights stay in float32, and bf16=true says the rest"
                )


def _carry_batch(carry: Carry) -> None:
    """Multiply TRL's two sizes to the pairs of a step; without the second it is 1 there."""
    times = carry.take(TIMES)
    size = carry.pending.get(SIZE)
    if times is None and (size is None or any(RENAMED.get(key, key) == BATCH for key in carry.pending)):
        return
    old = SIZE if times is None else TIMES
    size, count = USUAL_SIZE if size is None else size, 1 if times is None else times
    if not (type(size) is int and type(count) is int):
        carry.lose(old, size if times is None else times, f"{excerpt(size)} x {excerpt(count)} is no number")
        return
    usual = f" (1 without {TIMES})" if times is None else ""
    remark = (
        f"{size * count} pairs a step, {size} x {count}{usual}, per process in TRL; multiply by the number of yours"
    )
    carry.put(old, BATCH, size * count, remark)


def _carry_losses(carry: Carry) -> None:
    """Carry several losses, or one with a weight, as loss.mix; TRL's sft is a term of its own here."""
    old = next((key for key in carry.pending if RENAMED.get(key, key) == "loss.name"), "loss_weights")
    told = carry.pending.get(old) if old != "loss_weights" else None
    weights = carry.take("loss_weights")
    names = told if isinstance(told, list) else ["sigmoid" if told is None else told]
    if weights is None and len(names) < 2 and names != [SFT]:
        return
    carry.take(old)
    weights = [1.0] * len(names) if weights is None else weights
    try:
        mix = _weighted(names, weights)
    except Unknown as reason:
        carry.lose(old, told or weights, str(reason))
        return
    sft = mix.pop(SFT, 0.0)
    remark = ""
    if carry.pending.get("label_smoothing") and "sigmoid" in mix:
        mix = {("cdpo" if name == "sigmoid" else name): weight for name, weight in mix.items()}
        remark = "sigmoid with smoothed labels is cdpo"
    if list(mix.values()) == [1.0]:
        carry.put(old, "loss.name", next(iter(mix)), remark)
    elif mix:
        carry.put(old, "loss.mix", mix, remark)
    else:
        carry.put(old, "dpo.preference_loss_weight", 0.0)
    if sft:
        carry.put(old, "dpo.sft_loss_weight", sft, SFT_REMARK)
        carry.settings["dpo.sft_average_log_probs"] = True


def _weighted(names: list[Any], weights: Any) -> dict[str, float]:
    """Add up the weights of each loss in our words; one of weight 0 is left out."""
    if not isinstance(weights, list) or len(weights) != len(names):
        raise Unknown(f"loss_weights={excerpt(weights)} is not a weight for each of {len(names)} losses")
    mix: dict[str, float] = {}
    for name, weight in zip(names, weights, strict=True):
        if type(weight) not in (int, float) or weight < 0:
            raise Unknown(f"loss_weights={excerpt(weights)}: weights are numbers of 0 and above")
        ours = SFT if name == SFT else converted("loss_type", "loss.name", name)
        if weight:
            mix[ours] = mix.get(ours, 0.0) + weight
    if not mix:
        raise Unknown("all of its losses have the weight 0")
    return mix


def _carry_publishing(carry: Carry) -> None:
    """Publish only what TRL would have published: a name alone does nothing there."""
    is_said = "push_to_hub" in carry.pending
    pushes = carry.take("push_to_hub")
    name = carry.take("hub_model_id")
    own = carry.pending.get("hub.repo_id")
    if pushes is True and (name or own):
        carry.drop("push_to_hub", "hub.repo_id says it")
        if name:
            carry.put("hub_model_id", "hub.repo_id", name)
        return
    if name:
        carry.drop("hub_model_id", f"push_to_hub was off; hub.repo_id={bare_excerpt(str(name))} would publish")
    if is_said and own:
        carry.lose("hub.repo_id", carry.take("hub.repo_id"), "push_to_hub is not true beside it")
    if is_said:
        carry.lose("push_to_hub", pushes, REFUSED["push_to_hub"].reason if pushes is True else "neither true nor false")


def _carry_validation(carry: Carry) -> None:
    """Switch validation off where TRL's was; its steps and epochs are validation by steps."""
    for old in ("eval_strategy", "evaluation_strategy"):
        if carry.pending.get(old) in ("no", False):
            carry.take(old)
            for key, value in (("dpo.val_period", 0), ("dpo.val_at_start", False), ("dpo.val_at_end", False)):
                carry.put(old, key, value)
            if "eval_steps" in carry.pending:
                carry.take("eval_steps")
                carry.drop("eval_steps", f"validation is off, as {old} says")
