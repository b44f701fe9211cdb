"""A review as it is served: a store, how its items are shown, and where everyone stands in it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from views.review.order import items_in_order
from views.review.session import Keys
from views.review.store import Standing, Store

KEPT_ORDERS = 64
"""Reviewers whose order of items is not worked out anew for each page."""


@dataclass(frozen=True)
class Review:
    """What is served, and to whom."""

    store: Store
    port: int
    rates: bool = True  # two responses may be rated; a single one must be
    reviewer: str = ""  # who answers, where that is not asked
    export: str = ""  # the command that comes next
    keys: Keys = field(default_factory=Keys)
    fault: Callable[[BaseException], None] = lambda error: None  # is told what failed

    @property
    def total(self) -> int:
        """Count the items."""
        return len(self.store.keys)

    def order(self, reviewer: str) -> tuple[str, ...]:
        """Give the keys of the items as a reviewer meets them."""
        settings = self.store.settings
        return _order(self.store.keys, settings.order, settings.seed, reviewer)

    def number(self, reviewer: str, key: str) -> int:
        """Say which item this is for a reviewer, counted from 1."""
        return self.numbers(reviewer)[key]

    def numbers(self, reviewer: str) -> Mapping[str, int]:
        """Give which item each is for a reviewer, counted from 1."""
        return {key: number for number, key in enumerate(self.order(reviewer), start=1)}

    def open_after(self, reviewer: str, number: int) -> int | None:
        """Give the next item without an answer, from the first one again after the last; None where there is none."""
        standing, order = self.store.standing(reviewer), self.order(reviewer)
        places = (*range(number, len(order)), *range(number))
        return next((place + 1 for place in places if order[place] not in standing), None)

    def undo_signature(self, reviewer: str, event: object) -> str:
        """Sign the form that takes an answer back."""
        return self.keys.signature("undo", reviewer, event)


def last_event(standing: Mapping[str, Standing]) -> int:
    """Give the number of the last of the answers that stand; 0 where there is none."""
    return max((each.number for each in standing.values()), default=0)


@lru_cache(KEPT_ORDERS)
def _order(keys: tuple[str, ...], order: str, seed: int, reviewer: str) -> tuple[str, ...]:
    return tuple(items_in_order(keys, order=order, seed=seed, reviewer=reviewer))
