"""The preference group: one prompt, its distinct responses, the pairs among them.

Rollouts come many to a prompt, so one response stands in many pairs. The group names each response once; what is
computed for it (tokens, reference and policy log-probs) is computed once, however many pairs it is in. The pairs are
taken as a stream, and of a response that a file repeats only the first copy stays in memory.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from schemas.preference import Message, PackedIds, PreferencePair, SampledTokens


@dataclass(frozen=True, slots=True)
class Response:
    """What the policy answered; where it was cut by a limit, the policy did not end it."""

    messages: tuple[Message, ...]
    truncated: bool
    sampled: SampledTokens | None = None


@dataclass(frozen=True, slots=True)
class GroupPair:
    """A preference between two responses of one group."""

    chosen: int  # position in the group's responses
    rejected: int
    source: str  # file:line of the pair
    chosen_reward: float | None = None
    rejected_reward: float | None = None
    environment: str = ""  # where the rewards were given; "" where the row does not say
    dataset: int = 0  # which of the sets of a mixture
    number: int = 0  # its place among all pairs, in the order in which they were read


@dataclass(frozen=True, slots=True)
class PreferenceGroup:
    """One prompt, its distinct responses, the pairs among them, in the order of the file."""

    prompt: tuple[Message, ...]
    responses: tuple[Response, ...]
    pairs: tuple[GroupPair, ...]
    tools: tuple[dict[str, Any], ...] = ()
    prompt_token_ids: PackedIds | None = None


@dataclass(slots=True)
class _Gathering:
    """A group to which pairs are still added."""

    prompt: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...]
    prompt_token_ids: PackedIds | None
    positions: dict[bytes, int] = field(default_factory=dict)  # of responses, by digest
    responses: list[Response] = field(default_factory=list)
    pairs: list[GroupPair] = field(default_factory=list)

    def position(self, response: Response) -> int:
        """Give the response's position, a new one where it was not met before."""
        position = self.positions.setdefault(_response_digest(response), len(self.responses))
        if position == len(self.responses):
            self.responses.append(response)
        return position


def group_pairs(pairs: Iterable[PreferencePair]) -> list[PreferenceGroup]:
    """Gather pairs of equal prompts and tools, naming each distinct response once."""
    groups: dict[bytes, _Gathering] = {}
    for number, pair in enumerate(pairs):
        digest = _digest(_canonical(pair.prompt), _canonical(pair.tools), _packed(pair.prompt_token_ids))
        group = groups.get(digest)
        if group is None:
            group = groups[digest] = _Gathering(pair.prompt, pair.tools, pair.prompt_token_ids)
        chosen = group.position(Response(pair.chosen, pair.chosen_truncated, pair.chosen_sampled))
        rejected = group.position(Response(pair.rejected, pair.rejected_truncated, pair.rejected_sampled))
        group.pairs.append(
            GroupPair(
                chosen,
                rejected,
                pair.source,
                chosen_reward=pair.chosen_reward,
                rejected_reward=pair.rejected_reward,
                environment=pair.environment,
                dataset=pair.dataset,
                number=number,
            )
        )
    return [
        PreferenceGroup(
            prompt=group.prompt,
            responses=tuple(group.responses),
            pairs=tuple(group.pairs),
            tools=group.tools,
            prompt_token_ids=group.prompt_token_ids,
        )
        for group in groups.values()
    ]


def _response_digest(response: Response) -> bytes:
    sampled = response.sampled
    return _digest(
        _canonical(response.messages),
        b"cut" if response.truncated else b"whole",
        _packed(sampled.ids if sampled else None),
        _packed(sampled.loss_mask if sampled else None),
    )


def _canonical(value: object) -> bytes:
    """Write in one way what is equal; the order of keys tells nothing."""
    return json.dumps(value, sort_keys=True).encode()


def _packed(ids: PackedIds | None) -> bytes:
    return b"none" if ids is None else b"ids:" + ids.tobytes()


def _digest(*parts: bytes) -> bytes:
    """Digest the parts with their lengths, so that nothing can move from one to the next."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(b"%d:" % len(part))
        digest.update(part)
    return digest.digest()
