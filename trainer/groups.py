"""The preference group: one prompt, its distinct responses, the pairs among them.

Rollouts come many to a prompt, so one response stands in many pairs. The group names each response once; what is
computed for it (tokens, reference and policy log-probs) is computed once, however many pairs it is in.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from schemas.preference import Message, PreferencePair


@dataclass(frozen=True, slots=True)
class Response:
    """What the policy answered; where it was cut by a limit, the policy did not end it."""

    messages: tuple[Message, ...]
    truncated: bool


@dataclass(frozen=True, slots=True)
class GroupPair:
    """A preference between two responses of one group."""

    chosen: int  # position in the group's responses
    rejected: int
    source: str  # file:line of the pair


@dataclass(frozen=True, slots=True)
class PreferenceGroup:
    """One prompt, its distinct responses, the pairs among them, in the order of the file."""

    prompt: tuple[Message, ...]
    responses: tuple[Response, ...]
    pairs: tuple[GroupPair, ...]


def group_pairs(pairs: Sequence[PreferencePair]) -> list[PreferenceGroup]:
    """Gather pairs of equal prompts, naming each distinct response once."""
    by_prompt: dict[str, list[PreferencePair]] = {}
    for pair in pairs:
        by_prompt.setdefault(_identity(pair.prompt), []).append(pair)
    return [_group(members) for members in by_prompt.values()]


def _group(pairs: Sequence[PreferencePair]) -> PreferenceGroup:
    positions: dict[tuple[str, bool], int] = {}
    responses: list[Response] = []

    def position(messages: tuple[Message, ...], truncated: bool) -> int:
        key = (_identity(messages), truncated)
        if key not in positions:
            positions[key] = len(responses)
            responses.append(Response(messages, truncated))
        return positions[key]

    members = tuple(
        GroupPair(
            position(pair.chosen, pair.chosen_truncated), position(pair.rejected, pair.rejected_truncated), pair.source
        )
        for pair in pairs
    )
    return PreferenceGroup(pairs[0].prompt, tuple(responses), members)


def _identity(messages: tuple[Message, ...]) -> str:
    return json.dumps(messages, sort_keys=True)
