"""An item as another tool shows it: readable texts, left and right by chance, and what is known or was said of it.

The file's chosen response comes first, which a reviewer would soon find out; so which response stands left is drawn
from the item's key, and answers are told in terms of left and right.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from views.review.answer import Answer, Verdict
from views.review.item import Item
from views.review.pair_rows import rewards_of
from views.review.readable import readable

SIDES = ("left", "right")
IS_BETTER = (Verdict.FIRST, Verdict.SECOND)


@dataclass(frozen=True)
class Sheet:
    """An item and its answers, in terms of left and right."""

    item: Item
    answers: tuple[Answer, ...]
    places: tuple[int, ...]  # which of the item's responses stands left, which right

    @property
    def prompt(self) -> str:
        """Give what was asked."""
        return readable(self.item.prompt)

    @property
    def responses(self) -> dict[str, str]:
        """Give the texts by their sides."""
        texts = [readable(self.item.responses[place]) for place in self.places]
        return dict(zip(SIDES, texts, strict=False))

    @property
    def suggestion(self) -> tuple[str, str] | None:
        """Give the side that the file prefers, and by whose judgement; None where it prefers none."""
        if self.item.names != ("chosen", "rejected"):
            return None
        first, second = rewards_of(self.item)
        if first is None or second is None:
            return self._side_of(0), "file"
        return None if first == second else (self._side_of(int(second > first)), "verifier")

    def verdict_of(self, answer: Answer) -> str:
        """Give a verdict in terms of left and right."""
        if answer.verdict in IS_BETTER:
            return self._side_of(IS_BETTER.index(answer.verdict))
        return answer.verdict.value

    def ratings_of(self, answer: Answer) -> dict[str, int]:
        """Give the ratings by criterion and side: helpfulness_left."""
        return {
            f"{criterion}_{side}": value
            for criterion, values in answer.ratings.items()
            for side, place in zip(SIDES, self.places, strict=False)
            if (value := values[place]) is not None
        }

    @property
    def about(self) -> dict[str, Any]:
        """Give what is known beside the texts: where the item is from, what each side is, and the rewards."""
        row, rewards = self.item.row, rewards_of(self.item)
        told: dict[str, Any] = {"key": self.item.key, "place": self.item.place}
        told |= {name: row[name] for name in ("agent", "group") if isinstance(row.get(name), str)}
        for side, place in zip(SIDES, self.places, strict=False):
            told[f"{side}_is"] = self.item.names[place]
            reward = rewards[place]
            if isinstance(reward, int | float) and math.isfinite(reward):
                told[f"{side}_reward"] = float(reward)
        return told

    def _side_of(self, place: int) -> str:
        return SIDES[self.places.index(place)]


def sheets_of(items: Sequence[Item], answers: Sequence[Answer]) -> list[Sheet]:
    """Make the sheets of items, with the answers to each by the reviewers' names."""
    of_item: dict[str, list[Answer]] = {}
    for answer in sorted(answers, key=lambda answer: answer.reviewer):
        of_item.setdefault(answer.item, []).append(answer)
    return [Sheet(item, tuple(of_item.get(item.key, ())), _places(item)) for item in items]


def _places(item: Item) -> tuple[int, ...]:
    places = tuple(range(len(item.responses)))
    return places[::-1] if int(item.key[-1], 16) % 2 else places
