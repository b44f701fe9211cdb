"""What a run has to find again where it goes on, and what may have changed meanwhile."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from schemas.errors import UsageError
from schemas.terminal import excerpt, path_text
from trainer.config.secrets import config_without_secrets
from trainer.config.sections import TrainConfig

LOSS_KEYS = (
    "loss.",
    "dpo.reference_policy_kl_penalty",
    "dpo.preference_loss_weight",
    "dpo.sft_loss_weight",
    "dpo.preference_average_log_probs",
    "dpo.sft_average_log_probs",
    "dpo.weighting",
)
"""Settings that say what is minimised."""

FREE_KEYS = (
    "output_dir",
    "checkpointing.",
    "logger.",
    "hub.",
    "cluster.",
    "reference.",  # compared by its weights
    "dpo.val_",
    "data.train",  # compared by what is read
    "data.validation",
    "data.val_",
    "policy.model_name",  # compared by its weights
    "policy.self_check",
)
"""Settings that may differ without a word: they change nothing of the training, or are compared in another way."""

FREE_WHEN_FINISHED = (
    *("output_dir", "checkpointing.", "logger.", "hub.", "cluster."),
    *("dpo.val_", "data.val", "policy.self_check"),
)
"""Settings that may be other ones than those of a finished run, whose policy is all that is asked for."""

MEANINGS = {
    "data": "the pairs are not those of the checkpoint; name the files that it was trained on, with the same "
    "tokenizer, chat template and policy.max_total_sequence_length",
    "model": "the start policy is not that of the checkpoint, so the reference would be another; name the model that "
    "the run was started from, not one that it has saved",
    "reference": "the reference is not that of the checkpoint (reference.*)",
    "loss": "the loss is not that of the checkpoint",
}


def identity_of(config: TrainConfig, *, data: str, model: str, reference: str | None) -> dict[str, str]:
    """Give the digests of data, model, reference and loss; `reference` is None where it is the start policy."""
    loss = {key: value for key, value in flat(config.model_dump(mode="json")).items() if key.startswith(LOSS_KEYS)}
    return {
        "data": _digest([data, [each.weight for each in config.data.train]]),
        "model": model,
        "reference": "none" if config.reference_mode == "none" else reference or model,
        "loss": _digest(loss),
    }


def refuse_others(saved: Mapping[str, str], ours: Mapping[str, str], changes: Mapping[str, tuple[Any, Any]]) -> None:
    """Hold what a run is about to what the checkpoint was about.

    Raises:
        UsageError: data, model, reference or loss are other ones; all that are other are named.
    """
    problems = [
        MEANINGS[name] + _changed(changes, LOSS_KEYS if name == "loss" else ())
        for name in MEANINGS
        if saved.get(name) != ours[name]
    ]
    if problems:
        raise UsageError("\n  ".join(["can't resume:", *problems, "--resume-anyway goes on all the same"]))


def changes_since(saved: Mapping[str, Any], config: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Give the settings that differ from those of the checkpoint: what they were, and what they are."""
    before, now = flat(saved), flat(config_without_secrets(config))
    return {
        key: (before.get(key), now.get(key))
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not key.startswith(FREE_KEYS)
    }


def change_notes(changes: Mapping[str, tuple[Any, Any]]) -> Iterator[str]:
    """Say what was set otherwise when the checkpoint was saved."""
    for key, (before, now) in changes.items():
        yield f"resume: {key}={_shown(now)}, was {_shown(before)} until the checkpoint"


def _changed(changes: Mapping[str, tuple[Any, Any]], keys: tuple[str, ...]) -> str:
    named = [
        f"{key}={_shown(now)}, was {_shown(before)}"
        for key, (before, now) in changes.items()
        if keys and key.startswith(keys)
    ]
    return f": {', '.join(named)}" if named else ""


def refuse_another_finished(saved: Mapping[str, Any], config: TrainConfig) -> None:
    """Hold what is asked for to what a finished run was told: its policy must not pass for that of another one.

    Raises:
        UsageError: another training is asked for; what differs is named.
    """
    before, now = flat(saved), flat(config_without_secrets(config))
    before["policy.precision"] = now["policy.precision"] = None  # auto is another one on each machine
    changes = {
        key: (before[key], now[key])
        for key in sorted(before.keys() & now.keys())  # a newer version has more settings
        if before[key] != now[key] and not key.startswith(FREE_WHEN_FINISHED)
    }
    if changes and not config.checkpointing.resume_anyway:
        run = path_text(config.output_dir)
        raise UsageError(
            f"{run}: the run is finished, and was another{_changed(changes, ('',))}; name a new folder with -o, where "
            f"--resume {run}/checkpoints/step_N goes on from one of its steps"
        )


def _shown(value: Any) -> str:
    return "null" if value is None else excerpt(value)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def flat(value: Any, key: str = "") -> dict[str, Any]:
    """Give each value of a tree under its dotted key; lists are values."""
    if not isinstance(value, Mapping) or not value:
        return {key: value} if key else {}
    found: dict[str, Any] = {}
    for name, inner in value.items():
        found |= flat(inner, f"{key}.{name}" if key else str(name))
    return found
