"""What several people say of an item, made into one verdict, or into a named reason why there is none."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from views.review.answer import Answer, Verdict
from views.review.item import Item

VOTES = (Verdict.FIRST, Verdict.SECOND, Verdict.TIE, Verdict.BOTH_BAD)
PREFERENCES = (Verdict.FIRST, Verdict.SECOND)
"""The verdicts that name a better response."""


class Consensus(StrEnum):
    """When what several people say counts."""

    MAJORITY = "majority"  # more than half of those who voted say it
    UNANIMOUS = "unanimous"  # all who voted say it
    ANY = "any"  # somebody prefers one, and nobody the other


class LeftOut(StrEnum):
    """Why an item gives no pair. An item is counted once, under the first of these that holds."""

    SINGLE_RESPONSE = "single_response"
    UNREVIEWED = "unreviewed"
    SKIPPED = "skipped"
    UNDECIDED = "undecided"
    TIE = "tie"
    BOTH_BAD = "both_bad"
    EMPTY_RESPONSE = "empty_response"
    SAME_RESPONSES = "same_responses"
    REPEATED = "repeated"
    CONTRADICTING = "contradicting"


MEANING = {
    LeftOut.SINGLE_RESPONSE: "there is one response, which was rated, and none to compare it with",
    LeftOut.UNREVIEWED: "nobody has answered",
    LeftOut.SKIPPED: "all who answered skipped it",
    LeftOut.UNDECIDED: "those who voted do not agree enough for --consensus",
    LeftOut.TIE: "people say that both responses are as good",
    LeftOut.BOTH_BAD: "people say that both responses are bad",
    LeftOut.EMPTY_RESPONSE: "a response has no text and calls nothing",
    LeftOut.SAME_RESPONSES: "both responses say the same, white space aside",
    LeftOut.REPEATED: "another item has the same two responses to the same prompt",
    LeftOut.CONTRADICTING: "another item has the same two responses to the same prompt, and people say otherwise of it",
}


@dataclass(frozen=True)
class Decision:
    """What people say of an item."""

    item: Item
    answers: tuple[Answer, ...]  # of all who voted, by their names
    verdict: Verdict | None  # one of VOTES; None: there is none
    reason: LeftOut | None  # why there is no better response

    @property
    def votes(self) -> dict[str, int]:
        """Count those who said each of VOTES."""
        counts = Counter(answer.verdict for answer in self.answers)
        return {vote.value: counts[vote] for vote in VOTES}

    @property
    def agreement(self) -> float:
        """Give the share of the votes that say the same as the verdict."""
        return sum(answer.verdict == self.verdict for answer in self.answers) / len(self.answers)

    @property
    def chosen(self) -> int:
        """Give the place of the better response; only where there is no reason against it."""
        return int(self.verdict is Verdict.SECOND)


def decisions(items: Sequence[Item], answers: Iterable[Answer], consensus: Consensus) -> list[Decision]:
    """Decide on each item, in their order."""
    of_item: dict[str, list[Answer]] = {}
    for answer in sorted(answers, key=lambda answer: answer.reviewer):
        of_item.setdefault(answer.item, []).append(answer)
    return [decide(item, of_item.get(item.key, []), consensus) for item in items]


def decide(item: Item, answers: Sequence[Answer], consensus: Consensus) -> Decision:
    """Decide on one item by what each person says of it."""
    voting = tuple(answer for answer in answers if answer.verdict in VOTES)
    if len(item.responses) < 2:
        return Decision(item, voting, None, LeftOut.SINGLE_RESPONSE)
    if not voting:
        return Decision(item, voting, None, LeftOut.SKIPPED if answers else LeftOut.UNREVIEWED)
    verdict = _verdict(Counter(answer.verdict for answer in voting), consensus)
    reasons = {None: LeftOut.UNDECIDED, Verdict.TIE: LeftOut.TIE, Verdict.BOTH_BAD: LeftOut.BOTH_BAD}
    return Decision(item, voting, verdict, reasons.get(verdict))


def _verdict(votes: Counter[Verdict], consensus: Consensus) -> Verdict | None:
    if consensus is Consensus.ANY:
        preferred = [vote for vote in PREFERENCES if votes[vote]]
        if preferred:
            return preferred[0] if len(preferred) == 1 else None
        consensus = Consensus.MAJORITY  # of those who prefer neither
    verdict, count = votes.most_common(1)[0]
    needed = votes.total() if consensus is Consensus.UNANIMOUS else votes.total() // 2 + 1
    return verdict if count >= needed else None
