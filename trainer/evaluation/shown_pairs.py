"""The pairs that the policy gets most wrong, with their texts, for people to read."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from trainer.data.groups import GroupPair, PreferenceGroup, Response
from trainer.evaluation.pair_scores import PairScores


def most_wrong(scores: PairScores, groups: Sequence[PreferenceGroup], most: int) -> list[dict[str, Any]]:
    """Give the pairs with the most negative margins, one of each prompt; without a reference, of differences per token.

    These are either what the policy has not learnt, or pairs whose label is wrong.
    """
    numbers = scores.difference_per_token if scores.reference is None else scores.margin
    wanted: dict[int, int] = {}  # prompt -> place
    for place in np.argsort(numbers, kind="stable").tolist():
        if numbers[place] >= 0 or len(wanted) == most:
            break
        wanted.setdefault(int(scores.prompt[place]), place)
    places = {(scores.source[place], int(scores.dataset[place])): place for place in wanted.values()}
    found = [
        (place, _row(scores, place, float(numbers[place]), group, pair))
        for group, pair in _members(groups)
        if (place := places.get((pair.source, pair.dataset))) is not None
    ]
    return [row for _, row in sorted(found, key=lambda one: numbers[one[0]])]


def _members(groups: Sequence[PreferenceGroup]) -> Iterator[tuple[PreferenceGroup, GroupPair]]:
    return ((group, pair) for group in groups for pair in group.pairs)


def _row(scores: PairScores, place: int, number: float, group: PreferenceGroup, pair: GroupPair) -> dict[str, Any]:
    return {
        "source": pair.source,
        "environment": pair.environment,
        "margin" if scores.reference is not None else "difference_per_token": number,
        "chosen_reward": pair.chosen_reward,
        "rejected_reward": pair.rejected_reward,
        "chosen_tokens": int(scores.chosen_tokens[place]),
        "rejected_tokens": int(scores.rejected_tokens[place]),
        "prompt": list(group.prompt),
        "chosen": _messages(group.responses[pair.chosen]),
        "rejected": _messages(group.responses[pair.rejected]),
    }


def _messages(response: Response) -> list[Any]:
    return list(response.messages)
