"""What `dpo report` was given: data, runs or an evaluation, and where the page goes."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from schemas.errors import DpoError, InputError, UsageError
from schemas.terminal import path_text, reason
from views.json_file import json_object
from views.run.folder import is_run

PAGE_FILE = "report.html"
PLOTS_FOLDER = "plots"
EVALUATION_FILE = "eval.json"
OURS = b'<meta name="generator" content="dpo">'
LOOKED_AT = 1_000
"""Bytes at the beginning of a file in which a page says by whom it was made."""


class Kind(StrEnum):
    """What a page can be about."""

    DATA = "data"
    RUN = "run"
    RUNS = "runs"
    EVALUATION = "evaluation"


WORDS = {Kind.DATA: "rollouts or pairs", Kind.RUN: "a run", Kind.EVALUATION: "an evaluation"}


@dataclass(frozen=True)
class Asked:
    """What is to be shown, and where."""

    kind: Kind
    places: tuple[Path, ...]
    page: Path

    @property
    def named(self) -> str:
        """Say in words what the places are."""
        (first, *others) = self.places
        return f"{path_text(first)} is {WORDS[Kind.RUN if others else self.kind]}"

    @property
    def plots_folder(self) -> Path | None:
        """Say where the plots of a page go by default: beside that in the run's own folder."""
        is_own = self.kind is Kind.RUN and self.page.absolute() == (self.places[0] / PAGE_FILE).absolute()
        return self.places[0] / PLOTS_FOLDER if is_own else None


def asked_for(places: Sequence[Path], output: Path | None) -> Asked:
    """Say what the places are.

    Raises:
        UsageError: they are of several kinds, or the folder of something else.
    """
    kinds = {place: _kind(place) for place in places}
    found = list(dict.fromkeys(kinds.values()))
    if len(found) > 1:
        named = ", ".join(f"{path_text(place)} is {WORDS[kind]}" for place, kind in kinds.items())
        raise UsageError(f"a page is about one kind of thing: {named}; make a page of each")
    (kind,) = found
    if kind is Kind.EVALUATION and len(places) > 1:
        raise UsageError(f"{len(places)} evaluations; a page shows one of them")
    if kind is Kind.RUN and len(places) > 1:
        kind = Kind.RUNS
    is_own = kind in (Kind.RUN, Kind.EVALUATION)
    return Asked(kind, tuple(places), output or (places[0] / PAGE_FILE if is_own else Path(PAGE_FILE)))


def read_evaluation(folder: Path) -> dict[str, Any]:
    """Read the numbers of an evaluation.

    Raises:
        InputError: they can't be read.
    """
    return json_object(folder / EVALUATION_FILE, "an evaluation")


def refuse_foreign(page: Path) -> None:
    """Keep what is no page of ours from being replaced, such as a file of pairs behind a mistyped -o.

    Raises:
        UsageError: something else is there.
        DpoError: it can't be looked at.
    """
    if not page.is_file():  # a pipe or a device is written to; of a folder it is told when it comes to that
        return
    try:
        with page.open("rb") as stream:
            start = stream.read(LOOKED_AT)
    except OSError as error:
        raise DpoError(f"{path_text(page)}: can't be read: {reason(error)}") from error
    if start and OURS not in start:
        raise UsageError(f"{path_text(page)}: is there, and is no page of dpo; name another file with -o")


def _kind(place: Path) -> Kind:
    """Say what a place is; what is no folder of ours is data, which its reader judges."""
    if not place.is_dir():
        return Kind.DATA
    if is_run(place):
        return Kind.RUN
    if (place / EVALUATION_FILE).is_file():
        return Kind.EVALUATION
    if (place / "config.json").is_file() or (place / "adapter_config.json").is_file():
        near = next((each for each in place.absolute().parents if is_run(each)), None)
        hint = f"; its run is {path_text(near)}" if near is not None else ""
        raise UsageError(f"{path_text(place)}: is the folder of a model, of which there is nothing to show{hint}")
    if (place / "manifest.json").is_file() and (place / "policy").is_dir():
        raise UsageError(f"{path_text(place)}: is a checkpoint; name the folder of its run")
    if not any(place.iterdir()):
        raise InputError(f"{path_text(place)}: the folder is empty")
    return Kind.DATA
