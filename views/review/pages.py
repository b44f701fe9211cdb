"""The pages, as HTML: an item, where someone stands, who it is, and a message."""

import statistics
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from schemas.terminal import counted
from views.page import environment, style_sheet
from views.review.answer import CRITERIA, Answer, Verdict
from views.review.review import Review, last_event
from views.review.session import Session
from views.review.sides import MARKS, first_of, item_values, side_verdict
from views.review.store import Standing
from views.text import marked

TOLD = {
    "left": "A is better",
    "right": "B is better",
    "tie": "tie",
    "both_bad": "both bad",
    "skip": "skipped",
    "rated": "rated",
}
HELP = (
    (("1", "a"), "A, the left one, is better"),
    (("2", "b"), "B, the right one, is better"),
    (("3", "t"), "tie"),
    (("4", "x"), "both bad"),
    (("s",), "skip"),
    (("u",), "undo the last answer"),
    (("n",), "write a note; Esc leaves it"),
    (("d",), "mark the words that differ"),
    (("r",), "rate: 1 to 5 for each row, then on to the next; Esc leaves"),
    (("j",), "jump to an item"),
    (("[", "]"), "previous and next item"),
    (("?",), "show this"),
)


@dataclass(frozen=True)
class Progress:
    """How far a reviewer is."""

    done: int
    total: int
    median_seconds: float | None

    @property
    def left(self) -> int:
        """Items without an answer."""
        return self.total - self.done


def item_page(review: Review, session: Session, number: int, *, notice: str = "") -> str:
    """Make the page of an item, with what its reviewer has answered to it before; `number` counts from 1."""
    store, reviewer = review.store, session.reviewer
    key = review.order(reviewer)[number - 1]
    item, standing = store.item(key), store.standing(reviewer)
    stands = standing.get(key)
    given = store.answer(stands.number) if stands else store.latest(reviewer, key)
    progress = progress_of(standing, review.total)
    first = first_of(item, seed=store.settings.seed, reviewer=reviewer)
    after, shown = store.revision(reviewer, key), int(time.time() * 1000)
    is_single = len(item.responses) == 1
    return _render(
        "review_item.html",
        title=f"Item {number:,} of {progress.total:,}",
        number=number,
        reviewer=reviewer,
        progress=progress,
        pace=duration(progress.median_seconds or 0.0),
        differences=session.shows_differences,
        notice=notice,
        told=_told(given, stands=stands is not None, first=first),
        stands=stands is not None,
        rates=review.rates or is_single,
        must_rate=is_single,
        criteria=CRITERIA,
        marks=MARKS,
        after=after,
        shown=shown,
        signature=review.keys.signature("answer", reviewer, key, after, shown),
        undo=_undo_form(review, reviewer, standing),
        help=HELP,
        **item_values(item, first=first, given=given),
    )


def done_page(review: Review, reviewer: str) -> str:
    """Make the page that sums up what was answered."""
    standing, total = review.store.standing(reviewer), review.total
    progress = progress_of(standing, total)
    is_done = not progress.left
    amount = "all" if is_done else f"{progress.done:,} of"
    numbers = review.numbers(reviewer)
    skipped = [numbers[key] for key, given in standing.items() if given.verdict is Verdict.SKIP]
    everyone = [(name, progress_of(review.store.standing(name), total)) for name in review.store.reviewers()]
    return _render(
        "review_done.html",
        title="All done" if is_done else "How far you are",
        lead=f"{reviewer}, you have answered {amount} {counted(total, 'item')}.",
        progress=progress,
        cards=summary_of(standing),
        skipped=sorted(skipped),
        everyone=[
            (name, f"{each.done:,}", f"{each.left:,}", duration(each.median_seconds or 0.0)) for name, each in everyone
        ],
        undo=_undo_form(review, reviewer, standing),
        export=marked(review.export),
    )


def name_page(review: Review, problem: str = "") -> str:
    """Make the page that asks who reviews."""
    return _render(
        "review_reviewer.html",
        title="Who reviews?",
        num_items=review.total,
        reviewers=list(review.store.reviewers().items()),
        problem=problem,
        signature=review.keys.signature("reviewer"),
    )


def message_page(title: str, text: str, *, go_to: str = "", go_back: bool = False) -> str:
    """Make a page of one sentence; it goes on by itself to the address `go_to`, or has a link back."""
    return _render("review_message.html", title=title, text=text, go_to=go_to, go_back=go_back)


@cache
def style() -> str:
    """Give the style of all pages of the server."""
    return style_sheet() + (files("views") / "styles" / "review.css").read_text(encoding="utf-8")


@cache
def script() -> str:
    """Give the script of the keys."""
    return (files("views") / "review" / "keys.js").read_text(encoding="utf-8")


def progress_of(standing: Mapping[str, Standing], total: int) -> Progress:
    """Say how far the one is whose standing answers these are."""
    seconds = [given.seconds for given in standing.values()]
    return Progress(len(standing), total, statistics.median(seconds) if seconds else None)


def summary_of(standing: Mapping[str, Standing]) -> list[tuple[str, str, str]]:
    """Tell at the end what was answered, as cards: label, figure, note; nothing of what the file says of it."""
    counts = Counter(side_verdict(given.verdict, given.shown_first) for given in standing.values())
    compared = counts["left"] + counts["right"]
    seconds = [given.seconds for given in standing.values()]
    cards = []
    if compared or not counts["rated"]:
        sides = f"A, on the left: {counts['left']:,}; B, on the right: {counts['right']:,}" if compared else ""
        cards = [
            ("One is better", f"{compared:,}", sides),
            ("Tie", f"{counts['tie']:,}", ""),
            ("Both bad", f"{counts['both_bad']:,}", ""),
        ]
    if counts["rated"]:
        cards.append(("Rated", f"{counts['rated']:,}", ""))
    cards.append(("Skipped", f"{counts['skip']:,}", ""))
    if seconds:
        cards.append(("Time", duration(sum(seconds)), f"median {duration(statistics.median(seconds))} an item"))
    return cards


def duration(seconds: float) -> str:
    """Show a time as people say it."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _undo_form(review: Review, reviewer: str, standing: Mapping[str, Standing]) -> dict[str, object] | None:
    number = last_event(standing)
    return {"number": number, "signature": review.undo_signature(reviewer, number)} if number else None


def _told(given: Answer | None, *, stands: bool, first: int) -> str:
    """Say what was answered to this item before."""
    if given is None:
        return ""
    verdict = TOLD[side_verdict(given.verdict, first)]
    return f"Your answer: {verdict}." if stands else f"Undone: {verdict}."


def _render(template: str, /, *, title: str, **values: Any) -> str:
    return environment().get_template(template).render(title=title, **values) + "\n"
