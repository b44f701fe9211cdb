"""Items that people decided, as rows of pairs: BinaryPreference, rows for TRL, or Preference, and as labels.

Columns of the row that was reviewed go along with the response that they are of. Its rewards stay what they are called
only where they say the same as people; where they do not, a loss that uses them would teach the opposite of the choice,
so they are null and stand under `verifier_*_reward`, as `dpo collect-pairs --labels` writes them.
"""

import json
import sys
from collections.abc import Mapping
from typing import Any

from pipeline.labels import REVIEW_COLUMNS, Label, Preference, Review, prompt_digest, response_digest
from schemas.preference import Message
from views.review.answer import Answer, Verdict
from views.review.consensus import PREFERENCES, Decision
from views.review.item import Item

SIDES = ("chosen", "rejected")
TEXTS = frozenset(
    {"prompt", "context", "completions", "chosen", "rejected", "chosen_response", "rejected_response", "response1"}
    | {"response2", "overall_preference", "before", "after", "response", "tools", "margin"}
)
"""Keys of reviewed rows whose place something else takes."""
OF_REVIEW = frozenset({*REVIEW_COLUMNS, "review_agreement", "review_answers"})

Row = dict[str, Any]
Messages = tuple[Message, ...]


def needs_messages(item: Item) -> bool:
    """Tell whether texts alone can't hold the item: tools are on offer or called, or a response has several turns."""
    return bool(item.tools) or not all(_is_text(response) for response in item.responses)


def binary_row(decision: Decision, *, as_messages: bool, notes: bool) -> Row:
    """Give a pair with chosen and rejected, as texts or, for TRL, as messages."""
    item, order = decision.item, _order(decision)
    sides, common = _facts(item)
    row: Row = {"prompt": _prompt(item.prompt, as_messages=as_messages)}
    row |= {
        side: [*item.responses[place]] if as_messages else item.responses[place][0]["content"]
        for side, place in zip(SIDES, order, strict=True)
    }
    if item.tools:
        row["tools"] = json.dumps(item.tools, ensure_ascii=False)  # TRL decodes them itself
    rewards, told = _rewards(decision, sides)
    for side, place in zip(SIDES, order, strict=True):
        row |= {f"{side}_{name}": value for name, value in {**sides[place], **rewards[place]}.items()}
    return {**row, **told, **_turned(common, decision), **_review(decision, notes=notes)}


def ranked_row(decision: Decision, *, notes: bool) -> Row:
    """Give a pair as a context with two ranked completions."""
    item, order = decision.item, _order(decision)
    sides, common = _facts(item)
    rewards, told = _rewards(decision, sides)
    completions = [
        {"rank": rank, "completion": [*item.responses[place]], **sides[place], **rewards[place]}
        for rank, place in enumerate(order)
    ]
    row: Row = {"context": [*item.prompt], "completions": completions}
    if item.tools:
        row["tools"] = [*item.tools]
    return {**row, **told, **_turned(common, decision), **_review(decision, notes=notes)}


def label_row(decision: Decision) -> Row:
    """Give what people say, for `dpo collect-pairs --labels`; the decision has a verdict."""
    item = decision.item
    first, second = (response_digest(response).hex() for response in item.responses)
    reviewers = tuple(answer.reviewer for answer in decision.answers)
    asked = prompt_digest(item.prompt, item.tools).hex()
    label = Label(asked, first, second, Preference(str(decision.verdict)), reviewers, decision.votes)
    return {**label.as_row(), "agreement": decision.agreement, "group": item.row.get("group"), "place": item.place}


def rewards_of(item: Item) -> tuple[float | None, ...]:
    """Give what the verifier gave each response, where the row says it; also of a row that was reviewed before."""
    sides, _ = _facts(item)
    told = [
        (side.get("reward"), item.row.get(f"verifier_{name}_reward"))
        for side, name in zip(sides, item.names, strict=True)
    ]
    return tuple(next((value for value in each if _is_number(value)), None) for each in told)


def _is_number(value: object) -> bool:
    """Tell what can be compared: samples have no schema, so a reward of theirs may be anything."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _order(decision: Decision) -> tuple[int, int]:
    return (1, 0) if decision.chosen else (0, 1)


def _facts(item: Item) -> tuple[list[Row], Row]:
    """Give what the row says of each response beside its text, and what it says of both."""
    row = {key: value for key, value in item.row.items() if key not in TEXTS and key not in OF_REVIEW}
    completions = item.row.get("completions")
    if isinstance(completions, list):
        ordered = sorted(completions, key=lambda completion: completion["rank"])
        sides = [{key: value for key, value in each.items() if key not in ("rank", "completion")} for each in ordered]
        return sides, row
    prefixes = [f"{name}_" for name in item.names]
    sides = [
        {key.removeprefix(prefix): value for key, value in row.items() if key.startswith(prefix)} for prefix in prefixes
    ]
    if item.names != SIDES:
        sides = [{**side, "name": name} for side, name in zip(sides, item.names, strict=True)]
    return sides, {key: value for key, value in row.items() if not key.startswith(tuple(prefixes))}


def _turned(common: Row, decision: Decision) -> Row:
    """Turn columns that name their side at the end, as UltraFeedback's score_chosen does, with their pair."""
    if not decision.chosen or decision.item.names != SIDES:
        return common
    turned = dict(common)
    for key in common:
        other = f"{key.removesuffix('_chosen')}_rejected"
        if key.endswith("_chosen") and other in common:
            turned[key], turned[other] = common[other], common[key]
    return turned


def _rewards(decision: Decision, sides: list[Row]) -> tuple[list[Row], Row]:
    """Give the rewards of each response as rows may tell them, and the margin between them."""
    if not any("reward" in side for side in sides):
        return [{} for _ in sides], {}
    rewards = rewards_of(decision.item)
    better, worse = (rewards[place] for place in _order(decision))
    if better is not None and worse is not None and better > worse:
        return [{"reward": reward} for reward in rewards], {"margin": better - worse}
    if better is None or worse is None:  # there is nothing that the one could contradict
        own = [side.get("reward") for side in sides]
        return [{"reward": reward if _is_number(reward) else None} for reward in own], {"margin": None}
    return [{"reward": None} for _ in rewards], {"margin": None}


def _review(decision: Decision, *, notes: bool) -> Row:
    """Say who preferred what."""
    item, order = decision.item, _order(decision)
    rewards = rewards_of(item)
    label = label_of_sides(decision)
    told = label | {f"verifier_{side}_reward": rewards[place] for side, place in zip(SIDES, order, strict=True)}
    answers = [_answer(answer, order, notes=notes) for answer in decision.answers]
    return {**told, "review_agreement": decision.agreement, "review_answers": answers}


def label_of_sides(decision: Decision) -> Row:
    """Give the columns that pairs made with labels have too, without the rewards."""
    votes = decision.votes
    names = [PREFERENCES[place].value for place in _order(decision)]
    return {
        "review": _kind(decision),
        "reviewers": [answer.reviewer for answer in decision.answers],
        "review_votes": {
            **{side: votes[name] for side, name in zip(SIDES, names, strict=True)},
            **{verdict.value: votes[verdict.value] for verdict in (Verdict.TIE, Verdict.BOTH_BAD)},
        },
    }


def _kind(decision: Decision) -> Review:
    """Say what people made of the order of the row: of its rewards, or else of what it calls chosen."""
    first, second = rewards_of(decision.item)
    if first is not None and second is not None:
        if first == second:
            return Review.DECIDED
        return Review.CONFIRMED if (second > first) == bool(decision.chosen) else Review.TURNED
    if decision.item.names != SIDES:
        return Review.DECIDED
    return Review.TURNED if decision.chosen else Review.CONFIRMED


def _answer(answer: Answer, order: tuple[int, int], *, notes: bool) -> Row:
    words: Mapping[str, str] = {PREFERENCES[place].value: side for side, place in zip(SIDES, order, strict=True)}
    ratings = {
        criterion: {side: values[place] for side, place in zip(SIDES, order, strict=True)}
        for criterion, values in answer.ratings.items()
    }
    told = {"reviewer": answer.reviewer, "verdict": words.get(answer.verdict, answer.verdict.value)}
    return {**told, "ratings": ratings, "at": answer.at, **({"note": answer.note} if notes else {})}


def _prompt(messages: Messages, *, as_messages: bool) -> str | list[Message]:
    if not as_messages and len(messages) == 1 and messages[0]["role"] == "user":
        return messages[0]["content"]
    return [*messages]


def _is_text(response: Messages) -> bool:
    return len(response) == 1 and response[0]["role"] == "assistant" and not response[0].get("tool_calls")
