"""What `dpo review` does with a review instead of going on with it: tell of agreement, export."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import typer

from schemas.errors import InputError, UsageError
from schemas.streams import STDIN, as_url, place_text
from schemas.terminal import path_text
from views.review.answer import Answer
from views.review.begin import SUFFIX, default_store
from views.review.consensus import Consensus
from views.review.exports import FOREIGN, ExportFormat, export_review
from views.review.item import Item
from views.review.layout import is_sqlite, is_store
from views.review.source import iter_items
from views.review.store import read_answers, read_items
from views.review.summary import summarise
from views.review.told import show_exported, show_summary


@dataclass(frozen=True)
class Outcome:
    """What is wanted of a review."""

    agreement: bool
    export: Path | None
    form: str
    consensus: str
    notes: bool = True
    as_json: bool = False


def tell_outcome(place: Path, wanted: Outcome, *, store_path: Path | None) -> None:
    """Show how far people agree, or export what they said, or both.

    Raises:
        InputError: the review or its file can't be read.
        UsageError: there is no review, and what is wanted needs one.
        DpoError: there is nothing to export, or it can't be written.
    """
    form = ExportFormat(wanted.form)
    if wanted.export is not None:
        _refuse_sources(wanted.export, place, store_path)
    items, answers = _read(place, store_path, is_enough=form in FOREIGN and not wanted.agreement)
    told: dict[str, object] = {}
    if wanted.agreement:
        summary = summarise(items, answers)
        told = summary.as_dict()
        if not wanted.as_json:
            show_summary(summary)
    if wanted.export is not None:
        exported = export_review(
            items, answers, wanted.export, form, consensus=Consensus(wanted.consensus), notes=wanted.notes
        )
        told = {**told, "export": exported.as_dict()} if told else exported.as_dict()
        if not wanted.as_json:
            show_exported(exported, form)
    if wanted.as_json:
        typer.echo(json.dumps(told))


def _refuse_sources(export: Path, place: Path, store_path: Path | None) -> None:
    """Refuse to write over pairs or answers, whichever of the two was named."""
    sources = [place, Path(str(place).removesuffix(SUFFIX)), *([] if store_path is None else [store_path])]
    if export.resolve() in {each.resolve() for each in sources}:
        raise UsageError(f"{path_text(export)}: is what is exported from; name another file for --export")


def _read(place: Path, store_path: Path | None, *, is_enough: bool) -> tuple[list[Item], list[Answer]]:
    """Read the review that a place is or has; where the items alone are enough, there need be none."""
    if is_sqlite(place) or store_path is not None:
        path = store_path or place
        return read_items(path), read_answers(path)
    beside = None if place == STDIN or as_url(place) else default_store(place)
    if beside is not None and is_store(beside):
        return read_items(beside), read_answers(beside)
    if is_enough:
        return list(iter_items(place, Counter())), []
    shown = place_text(place)
    if beside is not None and not place.exists():
        raise InputError(f"{shown}: no such file")
    missing = "" if beside is None else f": there is no {path_text(beside)}"
    raise UsageError(f"{shown}: has not been reviewed{missing}; begin with: dpo review {shown}")
