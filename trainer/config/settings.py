"""From a YAML file and the command line to a `TrainConfig`: later wins, every error at once.

The order is: declared defaults, the file, options and pairs of the command line, `dotted.key=value` settings.
"""

import copy
import difflib
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from schemas.errors import UsageError
from schemas.terminal import excerpt
from trainer.checkpoint.places import run_of
from trainer.config.keys import field_of, nearest_key
from trainer.config.sections import TrainConfig
from trainer.config.told import Told, tell
from trainer.imports.renames import LOSS_NAMES, OTHER_LOSSES, RENAMED

RUNS_FOLDER = Path("runs")
NO_DATA = "no pairs to train on: name a file of pairs, such as dpo_train.jsonl, or set data.train.data_path="
IMPORT = "dpo config import FILE turns a YAML of NeMo RL or an older tutorial into one for dpo"
TEXT_WANTED = ("string_type", "path_type")
EXPECTED = {
    "dict_type": "Input should be a mapping, such as {a: 1}",
    "missing": "Input has too few values",
    "tuple_type": "Input should be a list, such as [a, b]",
}
"""What pydantic says in Python's words."""
PLACEHOLDER = "-"  # stands where pairs are missing, so that all else can be checked


def resolve(
    overrides: Sequence[str] = (),
    *,
    train_data_path: Path | Sequence[Path] = (),
    config_file: Path | None = None,
    model_name: str | None = None,
    output_dir: Path | None = None,
    self_check: bool | None = None,
    options: Mapping[str, object] | None = None,
) -> TrainConfig:
    """Make the configuration of a run.

    Args:
        overrides: `key=value`, `+key=value`, `++key=value`, and `~key` for the default.
        train_data_path: Pairs to train on; several are a mixture. They take the place of those of the file.
        options: More settings, by dotted key; one that an override sets too is refused.

    Raises:
        UsageError: unknown keys, wrong values, or a setting given both ways; all of them are named.
        InputError: the file can't be read.
    """
    named = {"policy.model_name": model_name, "output_dir": output_dir, "policy.self_check": self_check}
    given = {key: value for key, value in named.items() if value is not None} | dict(options or {})
    paths = [train_data_path] if isinstance(train_data_path, Path) else list(train_data_path)
    told = tell(overrides, pairs=paths, config_file=config_file, options=given)
    return check(told)


def check(told: Told, *, needs_data: bool = True) -> TrainConfig:
    """Check what was told against the declarations; without data where that is what is asked.

    Raises:
        UsageError: something is wrong; all of it is named.
    """
    problems = list(told.problems)
    tree = dict(told.tree)
    if not has_data(tree):
        problems += [NO_DATA] if needs_data and not told.has_old_pairs else []
        tree["data"] = with_placeholder(tree.get("data"))
    problems += _take_resumed_folder(tree)
    if tree.get("output_dir") is None:
        tree["output_dir"] = str(RUNS_FOLDER / time.strftime("%Y-%m-%d_%H-%M-%S"))
    config, errors = _validated(tree)
    problems += [_explain(details, told) for details in errors]
    if problems or config is None:
        problems += [f"({IMPORT})"] if told.has_old_file else []
        raise UsageError(problems[0] if len(problems) == 1 else "wrong settings:\n  " + "\n  ".join(problems))
    return config


def _take_resumed_folder(tree: dict[str, Any]) -> list[str]:
    """Where no folder is named for the run, take that of the checkpoint it goes on from; say so where none can be."""
    checkpointing = tree.get("checkpointing")
    resume = checkpointing.get("resume", "never") if isinstance(checkpointing, Mapping) else "never"
    if tree.get("output_dir") is not None or not isinstance(resume, str | Path) or resume in ("never", ""):
        return []
    if resume == "auto":
        return ["checkpointing.resume=auto needs the run's folder: name it with -o (output_dir)"]
    run = run_of(Path(resume).expanduser())
    if run is not None:
        tree["output_dir"] = str(run)
        return []
    if not Path(resume).expanduser().exists():
        return []  # which is told when it is looked for
    return [f"checkpointing.resume={excerpt(str(resume))} lies in no run's folder: name one for this run with -o"]


def _validated(tree: dict[str, Any]) -> tuple[TrainConfig | None, list[Any]]:
    """Check a tree; one with unknown keys without them too, else what can't be together would be told later."""
    try:
        return TrainConfig.model_validate(tree), []
    except ValidationError as error:
        errors: list[Any] = [*error.errors()]
    unknown = [details["loc"] for details in errors if details["type"] == "extra_forbidden"]
    if unknown:
        rest = copy.deepcopy(tree)
        for place in unknown:
            _take_out(rest, place)
        known = [(details["loc"], details["type"]) for details in errors]
        errors += [details for details in _validated(rest)[1] if (details["loc"], details["type"]) not in known]
    return None, errors


def _take_out(tree: Any, place: Sequence[int | str]) -> None:
    *above, last = place
    for part in above:
        if not (isinstance(tree, dict) and isinstance(part, int)):  # a single set is no list in the file
            tree = tree[part]
    del tree[last]


def has_data(tree: Mapping[str, Any]) -> bool:
    """Say whether anything is told about the pairs to train on."""
    data = tree.get("data")
    if not isinstance(data, dict):
        return data is not None
    train = data.get("train")
    if isinstance(train, dict):
        return train.get("data_path") is not None or train.get("dataset_name") is not None
    return train is not None


def with_placeholder(data: Any) -> dict[str, Any]:
    """Put a path where the pairs are missing."""
    data = data or {}
    return {**data, "train": {**(data.get("train") or {}), "data_path": PLACEHOLDER}}


def _explain(details: Any, told: Told) -> str:
    key = ".".join(str(part) for part in details["loc"] if part != "[key]")
    if key not in told.places and not told.has_several_sets:
        key = key.replace("data.train.0", "data.train", 1)
    where = f"{told.places[key]}: " if key in told.places else ""
    if details["type"] == "extra_forbidden":
        if field_of(key) is not None:
            sections = ": {".join(key.split("."))
            return f"{where}{key}: is one key with dots in it; write sections, {sections}: …{'}' * key.count('.')}"
        nearest = nearest_key(key, RENAMED)
        return f"{where}{key}: no such setting" + (f"; did you mean {nearest}?" if nearest else "")
    if details["type"] == "value_error":  # of several keys together
        return f"{where}{key}: {details['ctx']['error']}" if key else f"{details['ctx']['error']}"
    if details["type"] in ("model_type", "model_attributes_type"):
        return f"{where}{key}={excerpt(details['input'])}: is a section; set one of its keys, {key}.KEY"
    if details["type"] == "missing":  # of a list with a place for each of its values
        key = key.rpartition(".")[0]
        where = f"{told.places[key]}: " if key in told.places else ""
    return f"{where}{key}={excerpt(details['input'])}: {_expected(details)}"


def _expected(details: Any) -> str:
    """Say what a value should be, and what was probably meant."""
    kind, value, message = details["type"], details["input"], str(details["msg"])
    if kind in TEXT_WANTED and isinstance(value, (int, float)):
        return f"{message}; put it in quotes"
    if kind == "literal_error":
        if str(value).lower() in OTHER_LOSSES:
            return f"is {OTHER_LOSSES[str(value).lower()]}"
        known = re.findall(r"'(.*?)'", details["ctx"]["expected"])
        meant = _meant(str(value).lower(), known)
        return f"{message}; did you mean {meant}?" if meant else message
    return EXPECTED.get(kind, message)


def _meant(value: str, known: Sequence[str]) -> str | None:
    """Find the word that was probably meant: by the name that others have for a loss, by its letters."""
    if LOSS_NAMES.get(value) in known:
        return LOSS_NAMES[value]
    return next(iter(difflib.get_close_matches(value, known, n=1)), None)
