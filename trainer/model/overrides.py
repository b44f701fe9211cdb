"""Keys of a model's configuration set otherwise: `policy.hf_config_overrides`."""

import difflib
from collections.abc import Mapping
from typing import Any

from schemas.errors import UsageError
from schemas.terminal import excerpt, printable

OPTION = "policy.hf_config_overrides"
ROTATIONS, OLD_ROTATIONS, THETA = "rope_parameters", "rope_scaling", "rope_theta"
NOT_TAKEN = {
    "_name_or_path": "policy.model_name says it",
    "architectures": "the class of the model is that of its folder",
    "dtype": "policy.precision says it; weights stay in float32",
    "model_type": "the class of the model is that of its folder",
    "transformers_version": "it is written where the policy is saved",
}
"""Keys that would change nothing, or what is saved alone."""


def overridden(config: Any, overrides: Mapping[str, Any]) -> Any:
    """Give the configuration with some keys set otherwise; a key that holds keys is changed in those that are given.

    Older names of the rotations' keys, `rope_theta` and `rope_scaling`, are understood.

    Raises:
        UsageError: the model's configuration has no such key, or does not take the value.
    """
    before = config.to_dict()
    _refuse_without_effect(overrides)
    values = _merged(before, _with_new_names(before, overrides), "")
    try:
        changed = type(config).from_dict(values)
    except Exception as error:  # each model has checks of its own
        raise UsageError(f"{OPTION}: the model does not take them: {printable(str(error))}") from error
    changed._name_or_path = config.name_or_path
    return changed


def _refuse_without_effect(overrides: Mapping[str, Any]) -> None:
    for key, value in overrides.items():
        if key in NOT_TAKEN:
            raise UsageError(f"{OPTION}: {key} can't be set otherwise: {NOT_TAKEN[key]}")
        if "dropout" in key and value:
            raise UsageError(f"{OPTION}: {key}={excerpt(value)}: the policy is trained without dropout, always")


def _with_new_names(before: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    new = dict(overrides)
    rotations = before.get(ROTATIONS)
    if not isinstance(rotations, dict) or THETA not in rotations:
        return new
    changes: dict[str, Any] = {}
    scaling = new.pop(OLD_ROTATIONS, {})
    if scaling is None:
        scaling = {"rope_type": "default"}
    if not isinstance(scaling, dict):
        raise UsageError(f"{OPTION}: {OLD_ROTATIONS}={excerpt(scaling)}: expected a mapping, or null for none")
    changes |= {"rope_type" if key == "type" else key: value for key, value in scaling.items()}
    if THETA in new:
        changes[THETA] = new.pop(THETA)
    return new | {ROTATIONS: changes | new.get(ROTATIONS, {})} if changes else new


def _merged(before: dict[str, Any], overrides: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    values = dict(before)
    for key, value in overrides.items():
        own = before.get(key)
        if key not in before and prefix != f"{ROTATIONS}.":  # each kind of rotation has keys of its own
            near = difflib.get_close_matches(key, before, n=1)
            hint = f"; did you mean {prefix}{near[0]}?" if near else ""
            raise UsageError(f"{OPTION}: the model's configuration has no key {prefix}{printable(key)}{hint}")
        is_nested = isinstance(own, dict) and isinstance(value, dict)
        values[key] = _merged(own, value, f"{prefix}{key}.") if is_nested and own is not None else value
    return values
