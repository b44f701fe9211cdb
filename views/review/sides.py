"""An item as its page shows it: the prompt, and the responses on the sides where a reviewer sees them.

Nothing of it tells which response is the chosen one: what comes from the file is its texts alone, and all that is
named left or right, or A or B, is named by the side on which it stands.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from markupsafe import Markup

from schemas.preference import Message
from views.conversation import said, tools_text
from views.review.answer import CRITERIA, Answer, Verdict
from views.review.item import Item
from views.review.order import shown_first
from views.text import marked, visible
from views.word_diff import word_diff

SHOWN_CHARACTERS = 6_000
SHOWN_OF_PROMPT = 2_500
MOST_CHARACTERS = 300_000
MARKS = (1, 2, 3, 4, 5)
LETTERS = "AB"
NOTHING_SAID = Markup('<p class="quiet">(empty)</p>')
OWN_WORDS, END_OF_OWN_WORDS = Markup('<span class="own">'), Markup("</span>")


@dataclass(frozen=True)
class Turn:
    """A message on a page."""

    role: Markup  # empty where it goes without saying
    text: Markup


@dataclass(frozen=True)
class Side:
    """A response where it stands: first A, then B; a single one has no letter."""

    letter: str
    turns: Sequence[Turn]
    ratings: Mapping[str, int | None]  # criterion -> what was given before


def first_of(item: Item, *, seed: int, reviewer: str) -> int:
    """Say which response of an item stands left, or alone."""
    return 0 if len(item.responses) == 1 else shown_first(seed, item.key, reviewer)


def item_values(item: Item, *, first: int, given: Answer | None) -> dict[str, Any]:
    """Give what an item's page shows of it; `first` is the response that stands left."""
    places = (first, 1 - first) if len(item.responses) == 2 else (0,)
    texts, note = _turns([item.responses[place] for place in places])
    sides = [
        Side(
            letter=LETTERS[position] if len(places) == 2 else "",
            turns=texts[position],
            ratings={criterion: _rating(given, criterion, place) for criterion in CRITERIA},
        )
        for position, place in enumerate(places)
    ]
    return {
        "prompt": [_turn(message, of=item.prompt, usual_role="user", shown=SHOWN_OF_PROMPT) for message in item.prompt],
        "tools": visible(tools_text(item.tools), most=MOST_CHARACTERS) if item.tools else "",
        "num_tools": len(item.tools),
        "place": marked(item.place),
        "sides": sides,
        "difference_note": note,
        "given": "" if given is None else side_verdict(given.verdict, first),
        "note": "" if given is None else given.note,
    }


def side_verdict(verdict: Verdict, first: int) -> str:
    """Say a verdict by sides, as the form does: left, right or the verdict's own name."""
    if verdict in (Verdict.FIRST, Verdict.SECOND):
        return "left" if (verdict is Verdict.FIRST) == (first == 0) else "right"
    return verdict.value


def verdict_of(side: str, first: int) -> Verdict:
    """Read a verdict that was given by sides.

    Raises:
        ValueError: there is no such verdict.
    """
    if side in ("left", "right"):
        return Verdict.FIRST if (side == "left") == (first == 0) else Verdict.SECOND
    verdict = Verdict(side)
    if verdict in (Verdict.FIRST, Verdict.SECOND):  # which would be the order of the file
        raise ValueError(side)
    return verdict


def _turns(responses: Sequence[Sequence[Message]]) -> tuple[list[list[Turn]], str]:
    """Make the messages of each response; of two, with the words marked that the other one has not."""
    if len(responses) == 1:
        return [[_turn(message, of=responses[0]) for message in responses[0]]], ""
    turns: list[list[Turn]] = [[], []]
    notes = []
    for pair in zip_longest(*responses):
        texts: tuple[Markup | None, Markup | None] = (None, None)
        if None not in pair and pair[0]["role"] == pair[1]["role"]:
            one, other = map(said, pair)
            compared = word_diff(one, other, shown=SHOWN_CHARACTERS, most=MOST_CHARACTERS, names="responses")
            texts = _alike(compared.before), _alike(compared.after)
            notes.append(compared.note)
        for own, message, response, text in zip(turns, pair, responses, texts, strict=True):
            if message is not None:
                own.append(_turn(message, of=response, text=text))
    return turns, notes[0] if len(notes) == 1 else ""


def _alike(text: Markup) -> Markup:
    """Mark own words of both sides in one way: none of the two is the earlier one. Foreign text has no tags."""
    for tag, name in (("del", "drop"), ("ins", "add")):
        text = text.replace(Markup(f'<{tag} class="{name}">'), OWN_WORDS).replace(Markup(f"</{tag}>"), END_OF_OWN_WORDS)
    return text


def _turn(
    message: Message,
    *,
    of: Sequence[Message],
    usual_role: str = "assistant",
    shown: int = SHOWN_CHARACTERS,
    text: Markup | None = None,
) -> Turn:
    """Make what is shown of a message; a role that goes without saying, of a single one, is not said."""
    role = Markup() if len(of) == 1 and message["role"] == usual_role else marked(message["role"])
    content = said(message)
    if not content:
        return Turn(role, NOTHING_SAID)
    return Turn(role, visible(content, shown=shown, most=MOST_CHARACTERS) if text is None else text)


def _rating(given: Answer | None, criterion: str, place: int) -> int | None:
    marks = given.ratings.get(criterion, ()) if given else ()
    return marks[place] if place < len(marks) else None
