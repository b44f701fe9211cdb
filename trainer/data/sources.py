"""Where the pairs of a data set come from: a file or URL, a folder, the hub, a class; nothing here imports torch."""

import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from schemas.errors import InputError, UsageError
from schemas.forms import PairKeys, named_form
from schemas.preference import PreferencePair, pairs_of_rows
from schemas.rows import DATA_SUFFIXES, NumberedRow, read_rows
from schemas.streams import STDIN, as_url, open_stream, place_text
from schemas.tables import is_saved_set, saved_splits
from schemas.terminal import counted, path_text
from trainer.config.data import HUB_SETS, IN_MEMORY, DatasetSection
from trainer.data.external import external_rows, refuse_missing_module
from trainer.data.hub import DEFAULT_SPLIT, hub_rows, shown_hub
from trainer.data.prompts import NO_TEXTS, Kept, PromptTexts, read_prompt_texts, with_texts

HELPSTEER3_SUBSET = "preference"
_HUB_NAME = re.compile(r"^[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*$")


class Origin(StrEnum):
    """What a data set is read from."""

    FILE = "a file"
    SAVED = "a folder saved with save_to_disk"
    HUB = "the hub, or a folder of its layout"
    CLASS = "a class"


@dataclass
class Account:
    """What was met while pairs were read, beside the pairs."""

    ties: int = 0
    kept: Counter[Kept] = field(default_factory=Counter)

    def count_tie(self) -> None:
        """Count a row in which neither response is the better one."""
        self.ties += 1

    def notes(self) -> tuple[str, ...]:
        """Tell it to people."""
        return tuple(f"{counted(count, 'pair')} {kept}" for kept, count in self.kept.items())


def check_dataset(dataset: DatasetSection) -> None:
    """Look at the files of a data set before anything heavy loads.

    Raises:
        InputError: there is no such file or folder.
        UsageError: a file is asked for a split.
    """
    if dataset.data_path == IN_MEMORY:
        return
    origin, path = origin_of(dataset), dataset.data_path
    if origin is Origin.CLASS:
        refuse_missing_module(dataset)
    elif origin is Origin.SAVED:
        _saved_folder(dataset)
    elif origin is Origin.FILE and path is not None and not _is_pipe(path):  # whose writer would be gone
        with open_stream(path):
            pass


def origin_of(dataset: DatasetSection) -> Origin:
    """Tell what a data set is read from.

    Raises:
        InputError: there is no such file, and it is no name of the hub either.
        UsageError: a file is asked for a split.
    """
    path = dataset.data_path
    if dataset.is_class:
        return Origin.CLASS
    if path is None:
        return Origin.HUB
    if path != STDIN and not as_url(path):
        if os.path.isdir(path):  # noqa: PTH112 (never raises)
            return Origin.SAVED if is_saved_set(path) or saved_splits(path) else Origin.HUB
        if not os.path.exists(path):  # noqa: PTH110 (never raises)
            return Origin.HUB if is_hub_name(path) else Origin.FILE
    if dataset.subset is not None or dataset.split not in (None, DEFAULT_SPLIT):
        raise UsageError(
            f"{place_text(path)}: is a file, and has no {'split' if dataset.subset is None else 'subset'}; subset and "
            "split are for data sets of the hub and for folders"
        )
    return Origin.FILE


def num_bytes(dataset: DatasetSection) -> int | None:
    """Give the size of a data set that is one file; None for others."""
    path = dataset.data_path
    is_file = path is not None and not dataset.is_class and os.path.isfile(path)  # noqa: PTH113 (never raises)
    return path.stat().st_size if path is not None and is_file else None


def iter_dataset(
    dataset: DatasetSection, *, number: int, account: Account, advance: Callable[[int], None]
) -> Iterator[PreferencePair]:
    """Yield the pairs of a data set; `number` is the set's among those of a mixture.

    Raises:
        InputError: it can't be read, or holds what are no pairs.
        UsageError: a text for prompts can't be read.
        DpoError: it has no pairs.
    """
    path, subset, split = dataset.data_path, dataset.subset, dataset.split
    origin, own = origin_of(dataset), NO_TEXTS
    if origin is Origin.CLASS:
        rows, own = external_rows(dataset)
        shown = str(dataset.dataset_name)
    elif origin is Origin.HUB:
        name = HUB_SETS[dataset.dataset_name or ""] if path is None else str(path)
        subset = HELPSTEER3_SUBSET if subset is None and dataset.dataset_name == "HelpSteer3" else subset
        rows, shown = hub_rows(name, subset, split), shown_hub(name, subset, split)
    else:
        assert path is not None
        place = _saved_folder(dataset) if origin is Origin.SAVED else path
        rows, shown = read_rows(place, advance), path_text(place)
    is_file = origin in (Origin.FILE, Origin.SAVED)
    yield from pairs_of_set(dataset, rows, shown=shown, number=number, account=account, own=own, is_file=is_file)


def pairs_of_set(
    dataset: DatasetSection,
    rows: Iterable[NumberedRow],
    *,
    shown: str,
    account: Account,
    number: int = 0,
    own: PromptTexts = NO_TEXTS,
    is_file: bool = False,
) -> Iterator[PreferencePair]:
    """Yield the pairs of a set's rows; `own` are the texts for prompts that the set brings.

    Raises:
        InputError: the rows hold what are no pairs.
        UsageError: a text for prompts can't be read.
        DpoError: there are no pairs.
    """
    texts = read_prompt_texts(dataset)
    texts = PromptTexts(texts.system or own.system, texts.frame or own.frame)
    keys = PairKeys(dataset.prompt_key, dataset.chosen_key, dataset.rejected_key)
    pairs = pairs_of_rows(
        rows,
        shown=shown,
        form=named_form(dataset.dataset_name or "", keys),
        keys=keys,
        dataset=number,
        is_file=is_file,
        count_tie=account.count_tie,
    )
    if texts == NO_TEXTS:
        yield from pairs
    else:
        yield from (with_texts(pair, texts, account.kept) for pair in pairs)


def _saved_folder(dataset: DatasetSection) -> Path:
    """Give the folder of the wanted split."""
    path, split = dataset.data_path, dataset.split or DEFAULT_SPLIT
    assert path is not None
    if dataset.subset is not None:
        raise UsageError(f"{path_text(path)}: is a folder saved with save_to_disk, which has no subsets")
    if is_saved_set(path):
        if dataset.split not in (None, DEFAULT_SPLIT):
            raise InputError(f"{path_text(path)}: is one saved data set without splits; leave split={split} out")
        return path
    if split not in saved_splits(path):
        there = ", ".join(saved_splits(path))
        raise InputError(f"{path_text(path)}: has no split {split}; it has {there}, name one with split=")
    return path / split


def is_hub_name(path: Path) -> bool:
    """Tell org/name from a path that is not there: it has one slash and no suffix of a file of data."""
    return _HUB_NAME.match(str(path)) is not None and path.suffix.lower() not in DATA_SUFFIXES


def _is_pipe(path: Path) -> bool:
    if path == STDIN:
        return True
    try:
        mode = path.stat().st_mode
    except OSError:  # what is wrong with it is told where it is opened
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))
