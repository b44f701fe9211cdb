"""Data sets that the `datasets` library reads: of the hub by name, and folders with the same layout.

The library is imported when one is asked for. It minds HF_HOME, HF_DATASETS_CACHE, HF_HUB_OFFLINE and the hub's log-in
by itself.
"""

import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from schemas.errors import InputError
from schemas.tables import without_nulls
from schemas.terminal import one_line, printable

HUB_TIMEOUT_SECONDS = 10
DEFAULT_SPLIT = "train"
REMEDY = (
    "name a file, a folder or org/name of a data set on the hub; a gated one needs hf auth login, and with "
    "HF_HUB_OFFLINE=1 only what was loaded before is there"
)


def hub_rows(name: str, subset: str | None, split: str | None) -> Iterator[tuple[int, object]]:
    """Yield the rows of a data set of the hub, or of a folder of its layout, with their places counted from 1.

    Raises:
        InputError: there is no such data set, subset or split, or it can't be read.
    """
    yield from enumerate(map(without_nulls, _load(name, subset, split or DEFAULT_SPLIT)), start=1)


def shown_hub(name: str, subset: str | None, split: str | None) -> str:
    """Say what such a data set is called in messages."""
    parts = "/".join(part for part in (subset, split or DEFAULT_SPLIT) if part)
    return printable(f"{name}[{parts}]")


def _load(name: str, subset: str | None, split: str) -> Iterable[Any]:
    import datasets

    datasets.logging.set_verbosity(logging.CRITICAL)  # what matters is raised
    if not sys.stderr.isatty() or os.environ.get("RANK", "0") != "0":
        datasets.disable_progress_bars()
    if not (Path(name).is_dir() or datasets.config.HF_HUB_OFFLINE):
        _refuse_unreachable(name)
    try:
        loaded: Iterable[Any] = datasets.load_dataset(name, name=subset, split=split)
    except Exception as error:  # each layer of the library and of the hub's client raises its own
        raise InputError(f"data set {printable(name)}: {_reason(error)}") from error
    return loaded


def _refuse_unreachable(name: str) -> None:
    """Ask the hub once whether it has the data set, before the library asks it again and again."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    try:
        HfApi().dataset_info(name, timeout=HUB_TIMEOUT_SECONDS)
    except (GatedRepoError, RepositoryNotFoundError) as error:
        raise InputError(
            f"data set {printable(name)}: no such folder, and the hub has no such data set, or not for you; {REMEDY}"
        ) from error
    except Exception as error:  # each layer below the hub's client raises its own
        reason = one_line(error).rstrip(".")
        raise InputError(
            f"data set {printable(name)}: no such folder, and the hub can't be asked: {reason}; {REMEDY}"
        ) from error


def _reason(error: Exception) -> str:
    """Say in one line what is wrong and what to do."""
    cause = error.__cause__ if type(error).__name__ == "DatasetGenerationError" and error.__cause__ else error
    text = one_line(cause)
    if match := re.match(r"Unknown split \"(.*?)\"\. Should be one of (\[.*?\])", text):
        return f"has no split {match[1]}; it has {match[2].strip('[]')}, name one with split="
    if match := re.search(r"BuilderConfig '(.*?)' not found\. Available: (\[.*?\])", text):
        return f"has no subset {match[1]}; it has {match[2].strip('[]')}, name one with subset="
    if match := re.match(r"Config name is missing\..*?(\[.*?\])", text):
        return f"has several subsets, {match[1].strip('[]')}; name one with subset="
    return f"can't be loaded: {text.rstrip('.')}; {REMEDY}"
