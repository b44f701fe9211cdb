"""What a person says of an item."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

CRITERIA = ("helpfulness", "safety", "alignment")
"""What a response may be rated on, from 1 (bad) to 5 (good)."""


class Verdict(StrEnum):
    """Which response is the better one, in the order of the file, whatever stood left on the page."""

    FIRST = "first"
    SECOND = "second"
    TIE = "tie"
    BOTH_BAD = "both_bad"
    SKIP = "skip"
    RATED = "rated"  # a single response, which has ratings alone


@dataclass(frozen=True)
class Answer:
    """The verdict of one person on one item; a later one of the same person replaces it."""

    item: str  # the item's key
    reviewer: str
    verdict: Verdict
    shown_first: int  # which of the item's responses stood left, as A
    ratings: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)  # criterion -> of each response
    note: str = ""
    seconds: float = 0.0  # that the item was looked at
    at: str = ""  # when, in UTC, ISO 8601
