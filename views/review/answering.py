"""What a form says, as an answer: sides become the responses of the file, and what is missing is told."""

from collections.abc import Mapping
from datetime import UTC, datetime
from unicodedata import category

from views.review.answer import CRITERIA, Answer, Verdict
from views.review.item import Item
from views.review.sides import MARKS, verdict_of

MAX_NOTE_CHARACTERS = 10_000


class IncompleteForm(ValueError):
    """A form says too little; the message says what is missing."""


def answer_of(item: Item, form: Mapping[str, str], *, reviewer: str, first: int, seconds: float) -> Answer:
    """Make an answer of a form.

    Args:
        item: What the form was shown with.
        form: Its fields.
        reviewer: Who sent it.
        first: The response that stood left.
        seconds: How long it was looked at.

    Raises:
        IncompleteForm: it has no verdict that the item can have, or lacks ratings that it must have.
    """
    is_single = len(item.responses) == 1
    try:
        verdict = verdict_of(form.get("verdict", ""), first)
    except ValueError:
        raise IncompleteForm("The verdict was missing; nothing was written.") from None
    if verdict is not Verdict.SKIP and is_single != (verdict is Verdict.RATED):
        raise IncompleteForm("There is no such verdict on this item; nothing was written.")
    ratings = _ratings(form, first, len(item.responses))
    if verdict is Verdict.RATED and len(ratings) < len(CRITERIA):
        missing = ", ".join(name for name in CRITERIA if name not in ratings)
        raise IncompleteForm(f"A rating is missing: {missing}. Nothing was written.")
    return Answer(
        item=item.key,
        reviewer=reviewer,
        verdict=verdict,
        shown_first=first,
        ratings=ratings,
        note=_tidy_note(form.get("note", "")),
        seconds=round(seconds, 3),
        at=now(),
    )


def now() -> str:
    """Give the time, in UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _tidy_note(note: str) -> str:
    """Take out what no keyboard writes, such as escape characters; marks of direction are part of some scripts."""
    lines = note.replace("\r\n", "\n")
    return "".join(char for char in lines if char in "\n\t" or category(char) != "Cc").strip()[:MAX_NOTE_CHARACTERS]


def _ratings(form: Mapping[str, str], first: int, num_responses: int) -> dict[str, tuple[int | None, ...]]:
    """Read ratings, which the form names by sides, in the order of the item's responses."""
    marks = {str(mark): mark for mark in MARKS}
    ratings = {}
    for criterion in CRITERIA:
        by_side = [marks.get(form.get(f"{criterion}_{position}", "")) for position in range(num_responses)]
        if any(mark is not None for mark in by_side):
            ratings[criterion] = tuple(reversed(by_side) if first else by_side)
    return ratings
