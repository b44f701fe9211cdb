"""`dpo config import`: configurations of NeMo RL in all its generations, of tutorials and of TRL, as one for dpo.

Every key of the old one is carried, renamed, left out because the run is the same without it, or lost, and told of.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from schemas.errors import UsageError
from schemas.terminal import excerpt
from trainer.config.base import one_or_more
from trainer.config.data import DEFAULT_SET, TrainDatasetSection
from trainer.config.keys import NAMED_SETS, SETS, field_of, may_be_null, option_keys, section_keys, split_key
from trainer.config.records import TRACKERS, metric_of
from trainer.config.sections import TrainConfig
from trainer.config.settings import has_data, with_placeholder
from trainer.config.show import plain_yaml
from trainer.config.values import value_of
from trainer.imports.blocks import carry_backend, carry_data, carry_optimizer, carry_scheduler
from trainer.imports.carry import Carry, Note, Outcome, flatten
from trainer.imports.conversions import Unknown, Unneeded, converted
from trainer.imports.inheritance import interpolate, merge, read_inherited
from trainer.imports.refused import refusal_of
from trainer.imports.renames import LENGTH, REMARKS, RENAMED
from trainer.imports.trl import carry_trl

METRIC = "checkpointing.metric_name"
TOKENIZER = "policy.tokenizer.name"


@dataclass(frozen=True)
class Imported:
    """A configuration in our words, and what became of each old key."""

    settings: dict[str, Any]  # by dotted key
    notes: tuple[Note, ...]

    @property
    def lost(self) -> list[Note]:
        """List the keys that the run would need to be the same."""
        return [note for note in self.notes if note.outcome is Outcome.LOST]

    @property
    def summary(self) -> str:
        """Count what became of the keys."""
        counts = Counter(note.outcome for note in self.notes)
        return ", ".join(f"{counts[outcome]} {outcome.value}" for outcome in Outcome)

    @property
    def tree(self) -> dict[str, Any]:
        """Give the settings as sections, in the order of the declarations."""
        order = {key: number for number, key in enumerate([SETS, *option_keys()])}
        tree: dict[str, Any] = {}
        for key in sorted(self.settings, key=lambda key: order.get(key, len(order))):
            here = tree
            *above, last = split_key(key)
            for part in above:
                here = here.setdefault(part, {})
            here[last] = self.settings[key]
        return tree


def import_config(path: Path | None, overrides: Sequence[str] = ()) -> Imported:
    """Turn an old configuration, with settings of its command line, into ours.

    Raises:
        InputError: the file or a parent of it can't be read.
        UsageError: it is no YAML, or a setting is none.
    """
    tree = {} if path is None else read_inherited(path)
    for override in overrides:
        key, equals, text = override.lstrip("+").partition("=")
        if not equals:
            raise UsageError(f"{excerpt(override)}: not of the form key=value")
        inner: Any = value_of(text, field_of(key))
        for part in reversed(key.split(".")):
            inner = {part: inner}
        tree = merge(tree, inner)
    return import_tree(tree)


def import_tree(tree: Mapping[str, Any]) -> Imported:
    """Turn an old configuration that is read already, or a program's, into ours."""
    tree, unresolved = interpolate(_with_long_forms(tree))
    carry = Carry(flatten(tree))
    for key, reason in unresolved.items():
        carry.notes.append(Note(Outcome.LOST, key, remark=reason))
    return _carried(carry)


def _with_long_forms(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Write out what our own files may say in short: a path for a data set, a mode for the reference."""
    long = dict(tree)
    if isinstance(mode := long.get("reference"), str):
        long["reference"] = {"mode": mode}
    if isinstance(data := long.get("data"), dict) and isinstance(data.get("train"), (str, list)):
        sets = one_or_more(data["train"])
        long["data"] = data | {"train": sets if isinstance(data["train"], list) else sets[0]}
    return long


def imported_yaml(imported: Imported) -> str:
    """Write the settings as a file for --config."""
    return "# Made by `dpo config import`; keys that are not here have their defaults.\n" + plain_yaml(imported.tree)


def _carried(carry: Carry) -> Imported:
    _carry_several_sets(carry)
    carry_data(carry)
    carry_backend(carry)
    carry_optimizer(carry)
    carry_scheduler(carry)
    _carry_lengths(carry)
    carry_trl(carry)
    _carry_trackers(carry)
    for old in list(carry.pending):
        _carry_one(carry, old, carry.take(old))
    _settle(carry)
    _leave_out_impossible(carry)
    return Imported(carry.settings, tuple(carry.notes))


def _carry_one(carry: Carry, old: str, value: Any) -> None:
    """Carry a key by its name, by the table of old names, or say why it can't be."""
    declared = field_of(old)
    new = old if declared is not None else RENAMED.get(old)
    if new is None or new in section_keys() - {"data.validation"}:
        _leave_out(carry, old, value)
        return
    target = field_of(new)
    if value == "":
        carry.drop(old, "it was empty")
        return
    try:
        ours = converted(old, new, value)
    except Unneeded as reason:
        carry.drop(old, str(reason))
        return
    except Unknown as reason:
        carry.lose(old, value, str(reason))
        return
    if ours is None and target is not None and not may_be_null(target):
        carry.drop(old, "null is the default")
    else:
        carry.put(old, new, ours, REMARKS.get(old, ""))


def _leave_out(carry: Carry, old: str, value: Any) -> None:
    found = refusal_of(old)
    if value == {}:
        return
    if found is None:
        carry.lose(old, value, "no such setting")
    elif found[1].is_harmless:
        carry.drop(old, found[1].reason)
    else:
        carry.lose(old, value, found[1].reason)


def _carry_several_sets(carry: Carry) -> None:
    """Carry data.train where it is a list, each set with what data.default says."""
    sets = carry.pending.get(SETS)
    if not isinstance(sets, list):
        return
    carry.take(SETS)
    default = {
        key.removeprefix("data.default."): carry.pending[key]
        for key in carry.pending
        if key.startswith("data.default.")
    }
    known = TrainDatasetSection.model_fields
    merged = [{**default, **each} for each in sets if isinstance(each, dict)]
    ours = [{key: value for key, value in each.items() if key in known and value is not None} for each in merged]
    carry.put(SETS, SETS, ours)
    for key in sorted({key for each in merged for key in each} - set(known)):
        _leave_out(carry, f"{SETS}.{key}", [each.get(key) for each in merged])


def _carry_lengths(carry: Carry) -> None:
    """Of several limits of length the smallest decides what is dropped."""
    keys = [LENGTH, "data.max_input_seq_length", "data.max_seq_length", "model.max_length", "max_length"]
    told = {key: value for key in keys if (value := carry.take(key)) is not None}
    numbers = [value for value in told.values() if type(value) is int]
    for old, value in told.items():
        if type(value) is not int:
            carry.lose(old, value, "no number")
        elif value == min(numbers):
            carry.put(old, LENGTH, value)
        else:
            carry.drop(old, f"it was {value}, and the smaller limit holds")


def _carry_trackers(carry: Carry) -> None:
    if "logger.log_dir" in carry.pending and (own := carry.take("logger.tensorboard.log_dir")) is not None:
        carry.drop("logger.tensorboard.log_dir", f"it was {own}; all trackers write below logger.log_dir")
    names = carry.take("report_to")
    for name in names if isinstance(names, list) else [] if names is None else [names]:
        if name in TRACKERS:
            carry.put("report_to", f"logger.{name}_enabled", True)
        elif name == "none":
            carry.drop("report_to", "no tracker is the default")
        else:
            carry.lose("report_to", name, f"there are {', '.join(TRACKERS)}")


def _settle(carry: Carry) -> None:
    """Set what follows from several keys together."""
    settings = carry.settings
    if settings.get(TOKENIZER) is not None and settings[TOKENIZER] == settings.get("policy.model_name"):
        del settings[TOKENIZER]
        carry.notes = [note for note in carry.notes if note.new != TOKENIZER]
        carry.drop(TOKENIZER, "the policy's is the default")
    if settings.get("loss.label_smoothing") == 0:
        del settings["loss.label_smoothing"]
    elif (
        "loss.label_smoothing" in settings
        and "loss.mix" not in settings
        and settings.get("loss.name", "sigmoid") == "sigmoid"
    ):
        settings["loss.name"] = "cdpo"
        carry.notes.append(Note(Outcome.RENAMED, "loss_type", "loss.name", "sigmoid with smoothed labels is cdpo"))
    if any(note.old == "rpo_alpha" for note in carry.notes):
        settings["dpo.sft_average_log_probs"] = True
    if isinstance(settings.get(METRIC), str):
        _settle_metric(carry)


def _settle_metric(carry: Carry) -> None:
    """Leave out a metric of a validation set that is not there."""
    sets = [key.split(".")[2] for key in carry.settings if key.startswith(f"{NAMED_SETS}.")]
    has_default = any(key.startswith("data.validation") and value for key, value in carry.settings.items())
    sets += [DEFAULT_SET] if has_default else []
    try:
        metric = metric_of(carry.settings[METRIC], sets)
    except ValueError:
        return  # told with what else is impossible
    if metric.is_validation and metric.dataset not in sets:
        old = next((note.old for note in carry.notes if note.new == METRIC), METRIC)
        carry.notes = [note for note in carry.notes if note.new != METRIC]
        carry.lose(old, carry.settings.pop(METRIC), "there is no such validation set")


def _leave_out_impossible(carry: Carry) -> None:
    """Leave out the values that our bounds refuse, until the rest can be."""
    while errors := _errors(carry.settings):
        impossible = {key: message for error in errors for key, message in _culprits(error, carry.settings).items()}
        if not impossible:
            raise UsageError("; ".join(str(error["msg"]) for error in errors))
        for key, message in impossible.items():
            value = carry.settings.pop(key)
            old = next((note.old for note in carry.notes if note.new == key), key)
            carry.notes = [note for note in carry.notes if note.new != key]
            carry.notes.append(Note(Outcome.LOST, old, remark=f"{message} (it was {excerpt(value)})"))


def _errors(settings: Mapping[str, Any]) -> Sequence[Any]:
    tree = Imported(dict(settings), ()).tree
    if not has_data(tree):
        tree["data"] = with_placeholder(tree.get("data"))
    try:
        TrainConfig.model_validate({**tree, "output_dir": "."})
    except ValidationError as error:
        return error.errors()
    return []


def _culprits(error: Any, settings: Mapping[str, Any]) -> dict[str, str]:
    """Name the settings that an error speaks of: by its place, or by the names in what it says."""
    place = ".".join(str(part) for part in error["loc"] if part != "[key]").replace(f"{SETS}.0", SETS)
    message = str(error.get("ctx", {}).get("error", error["msg"]))
    by_place = [key for key in settings if place == key or place.startswith(f"{key}.")]
    by_name = [key for key in settings if key.startswith(place) and f"{key.rpartition('.')[2]}=" in message]
    inside = [key for key in settings if place and key.startswith(f"{place}.")]
    return dict.fromkeys(by_place or by_name or inside, message)
