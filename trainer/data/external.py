"""Data set classes of the user's own, as NeMo RL has them: `module.Class` with formatted_ds (or dataset) and task_spec.

The class is imported and made with those of our options that it takes; its rows are then read as all rows are.
"""

import importlib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from schemas.errors import DpoError, InputError, UsageError
from schemas.tables import without_nulls
from schemas.terminal import printable
from trainer.config.data import DatasetSection, TrainDatasetSection
from trainer.data.prompts import PromptTexts, checked_frame

ON_PATH = "its folder must be on PYTHONPATH"
NOT_HANDED_OVER = {"dataset_name", "system_prompt_file", "prompt_file", "weight"}


def external_rows(dataset: DatasetSection) -> tuple[Iterator[tuple[int, object]], PromptTexts]:
    """Give the numbered rows of such a class, and the texts that its task_spec has for prompts.

    Raises:
        UsageError: there is no such class, or its texts are none.
        InputError: it can't be made, or has no such set.
    """
    name = f"dataset_name={dataset.dataset_name}"
    made = _make(_class_of(dataset), dataset)
    split = dataset.split or ("train" if isinstance(dataset, TrainDatasetSection) else "validation")
    with _not_ours(name, "has no rows that can be read"):
        rows, texts = rows_of_object(made, split=split, name=name)
    return _read(rows, name), texts


def rows_of_object(made: Any, *, split: str, name: str) -> tuple[Iterator[tuple[int, object]], PromptTexts]:
    """Give the numbered rows of an object of such a class, and the texts for prompts; `name` is for messages.

    Raises:
        InputError: it has no such set.
        UsageError: a text of its task_spec is none, or has no place for the question.
    """
    spec = getattr(made, "task_spec", None)
    system, frame = (getattr(spec, key, None) or None for key in ("system_prompt", "prompt"))
    if not (isinstance(system, str | None) and isinstance(frame, str | None)):
        raise UsageError(f"{name}: prompt and system_prompt of its task_spec are texts or None")
    if frame is not None:
        checked_frame(frame, f"{name}: prompt of its task_spec")
    return numbered(_set_of(made, split, name)), PromptTexts(system, frame)


def numbered(rows: Iterable[Any]) -> Iterator[tuple[int, object]]:
    """Number the rows that a program has at hand."""
    return enumerate(map(_plain, rows), start=1)


def refuse_missing_module(dataset: DatasetSection) -> None:
    """Look for the package of the class, without importing it.

    Raises:
        UsageError: it is not there.
    """
    package = (dataset.dataset_name or "").partition(".")[0]
    if find_spec(package) is None:
        raise UsageError(f"dataset_name={dataset.dataset_name}: there is no module {package}; {ON_PATH}")


def _class_of(dataset: DatasetSection) -> Any:
    module, _, name = (dataset.dataset_name or "").rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # the module is not ours
        on_path = f"; {ON_PATH}" if isinstance(error, ImportError | AttributeError) else ""
        raise UsageError(f"dataset_name={dataset.dataset_name}: can't be imported: {_shown(error)}{on_path}") from error


@contextmanager
def _not_ours(name: str, what: str) -> Iterator[None]:
    """Name the class in what its code raises."""
    try:
        yield
    except DpoError:
        raise
    except Exception as error:
        raise InputError(f"{name}: {what}: {_shown(error)}") from error


def _read(rows: Iterator[tuple[int, object]], name: str) -> Iterator[tuple[int, object]]:
    with _not_ours(name, "stopped in the middle of its rows"):
        yield from rows


def _shown(error: Exception) -> str:
    kind = "" if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: "
    return f"{kind}{printable(str(error))}"


def _make(made_of: Any, dataset: DatasetSection) -> Any:
    options = {
        key: None if value is None else str(value) if key == "data_path" else value
        for key, value in dataset.model_dump(exclude=NOT_HANDED_OVER).items()
    }
    with _not_ours(f"dataset_name={dataset.dataset_name}", "can't be made"):
        taken = inspect.signature(made_of).parameters.values()
        takes_all = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in taken)
        names = {each.name for each in taken if each.kind is not inspect.Parameter.VAR_POSITIONAL}
        return made_of(
            **{key: value for key, value in options.items() if value is not None and (takes_all or key in names)}
        )


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
    if not isinstance(found, Iterable):
        raise InputError(f"{name}: formatted_ds is {type(found).__name__}, expected rows, or sets of rows by name")
    rows: Iterable[Any] = found
    return rows


def _plain(row: Any) -> object:
    return without_nulls(dict(row)) if isinstance(row, Mapping) else row
