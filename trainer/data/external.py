"""Data set classes of the user's own, as NeMo RL has them: `module.Class` with formatted_ds (or dataset) and task_spec.

The class is imported and made with those of our options that it takes; its rows are then read as all rows are.
"""

import importlib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from schemas.errors import InputError, UsageError
from schemas.tables import without_nulls
from schemas.terminal import printable
from trainer.config.data import DatasetSection, TrainDatasetSection
from trainer.data.prompts import PromptTexts

NOT_HANDED_OVER = {"dataset_name", "system_prompt_file", "prompt_file", "weight"}


def external_rows(dataset: DatasetSection) -> tuple[Iterator[tuple[int, object]], PromptTexts]:
    """Give the numbered rows of such a class, and the texts that its task_spec has for prompts.

    Raises:
        UsageError: there is no such class.
        InputError: it can't be made, or has no such set.
    """
    made = _make(_class_of(dataset), dataset)
    split = dataset.split or ("train" if isinstance(dataset, TrainDatasetSection) else "validation")
    return rows_of_object(made, split=split, name=f"dataset_name={dataset.dataset_name}")


def rows_of_object(made: Any, *, split: str, name: str) -> tuple[Iterator[tuple[int, object]], PromptTexts]:
    """Give the numbered rows of an object of such a class, and the texts for prompts; `name` is for messages.

    Raises:
        InputError: it has no such set.
    """
    spec = getattr(made, "task_spec", None)
    texts = PromptTexts(getattr(spec, "system_prompt", None), getattr(spec, "prompt", None))
    return numbered(_set_of(made, split, name)), texts


def numbered(rows: Iterable[Any]) -> Iterator[tuple[int, object]]:
    """Number the rows that a program has at hand."""
    return enumerate(map(_plain, rows), start=1)


def _class_of(dataset: DatasetSection) -> Any:
    module, _, name = (dataset.dataset_name or "").rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"dataset_name={dataset.dataset_name}: can't be imported: {printable(str(error))}; its folder must be on "
            "PYTHONPATH"
        ) from error


def _make(made_of: Any, dataset: DatasetSection) -> Any:
    options = {
        key: None if value is None else str(value) if key == "data_path" else value
        for key, value in dataset.model_dump(exclude=NOT_HANDED_OVER).items()
    }
    try:
        taken = inspect.signature(made_of).parameters.values()
        takes_all = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in taken)
        names = {each.name for each in taken if each.kind is not inspect.Parameter.VAR_POSITIONAL}
        return made_of(
            **{key: value for key, value in options.items() if value is not None and (takes_all or key in names)}
        )
    except Exception as error:  # the class is not ours
        raise InputError(
            f"dataset_name={dataset.dataset_name}: can't be made: {type(error).__name__}: {printable(str(error))}"
        ) from error


def _set_of(made: Any, split: str, name: str) -> Iterable[Any]:
    found = getattr(made, "formatted_ds", None)
    found = getattr(made, "dataset", None) if found is None else found
    if isinstance(found, Mapping):
        if found.get(split) is None:
            there = ", ".join(key for key, value in found.items() if value is not None)
            raise InputError(f"{name}: has no set {split}; it has {there or 'none'}")
        found = found[split]
    if found is None:
        raise InputError(f"{name}: has neither formatted_ds nor dataset")
    rows: Iterable[Any] = found
    return rows


def _plain(row: Any) -> object:
    return without_nulls(dict(row)) if isinstance(row, Mapping) else row
