"""From preference groups to token ids, each prompt and each distinct response once.

A response is everything behind the prompt up to the last token that the policy wrote; its loss mask marks what the
policy wrote in there: each of its turns behind the header, up to and including the end of turn. What a template writes
behind an end of turn (ChatML's line feed), later headers, tool results and other people's turns are not trained on, and
a turn that was cut by a limit has no end. Rows that carry the sampled token ids are not tokenised again.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from schemas.errors import DpoError, UsageError
from trainer.data.encode import EncodedGroup, EncodedResponse, encode_groups
from trainer.data.groups import GroupPair, PreferenceGroup
from trainer.data.limits import TimeLimit
from trainer.data.plain import render_plain
from trainer.data.render import LossMask, Rewrite, render_groups
from trainer.data.sampled import is_sampled, sampled_groups
from trainer.data.template import CHAT, Style

RESPONSES_PER_CALL = 256
"""How many responses a call of the tokenizer takes, so that its threads have enough to do."""

TokenIds = Sequence[int]


class PairDrop(StrEnum):
    """Why a pair is not trained on."""

    TOO_LONG = "too_long"
    EMPTY = "empty"  # nothing in a response was written by the policy
    IDENTICAL = "identical"
    TIE = "tie"  # neither response is the better one, as the data set says; found when it is read
    TEMPLATE_REWRITES_HISTORY = Rewrite.HISTORY.value
    TEMPLATE_REWRITES_RESPONSE = Rewrite.RESPONSE.value


@dataclass(frozen=True, slots=True)
class TokenizedResponse:
    """What stands behind the prompt, and which of it is the policy's."""

    ids: TokenIds
    loss_mask: TokenIds  # as long as ids; 1 where the policy wrote the token and a loss may count it


@dataclass(frozen=True, slots=True)
class TokenizedGroup:
    """A preference group as token ids; only responses that stand in a pair are here."""

    prompt: TokenIds
    responses: tuple[TokenizedResponse, ...]
    pairs: tuple[GroupPair, ...]


@dataclass(frozen=True)
class TokenizedPairs:
    """All groups that can be trained on, and the account of the pairs that can't."""

    groups: list[TokenizedGroup]
    dropped: Counter[PairDrop]
    longest_dropped: int = 0  # tokens of the longest response, with its prompt, of the pairs that were too long
    notes: tuple[str, ...] = ()  # what else there is to tell of the data

    @property
    def num_pairs(self) -> int:
        """Count the pairs that are left."""
        return sum(len(group.pairs) for group in self.groups)

    @property
    def longest(self) -> int:
        """Give the most tokens that a response has with its prompt."""
        return max(len(group.prompt) + max(len(each.ids) for each in group.responses) for group in self.groups)


def tokenize_groups(
    groups: Sequence[PreferenceGroup],
    tokenizer: Any,
    *,
    max_tokens: int,
    end_ids: frozenset[int],
    loss_mask: LossMask = "policy",
    use_token_ids: bool = True,
    style: Style = CHAT,
    advance: Callable[[int], None] = lambda amount: None,
) -> TokenizedPairs:
    """Tokenise every group; drop and count the pairs that can't be trained on.

    `end_ids` are the tokens that end a turn; `style` says how a conversation becomes text. `loss_mask="nemo_rl"` is
    explained in trainer/data/render.py; sampled token ids have the assistant's header in the prompt, so they do not
    serve it.

    Raises:
        UsageError: the tokenizer has no chat template, or one that refuses a conversation or rewrites the prompt; or
            the token ids of a row are another tokenizer's.
        DpoError: no pair is left.
    """
    kept: list[TokenizedGroup] = []
    dropped: Counter[PairDrop] = Counter()
    too_long: list[int] = []
    uses_sampled = use_token_ids and loss_mask == "policy"
    with TimeLimit() as limit:
        for chunk in _chunks(groups):
            sampled = [uses_sampled and is_sampled(group) for group in chunk]
            known = iter(sampled_groups([g for g, is_known in zip(chunk, sampled, strict=True) if is_known], tokenizer))
            others = [group for group, is_known in zip(chunk, sampled, strict=True) if not is_known]
            made = iter(_tokenize(others, tokenizer, end_ids, loss_mask, style, limit))
            for group, is_known in zip(chunk, sampled, strict=True):
                usable = _usable(group, next(known if is_known else made), max_tokens, dropped, too_long)
                if usable.pairs:
                    kept.append(usable)
                advance(1)
    if not kept:
        counts = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
        needed = f"; those too long have {min(too_long):,} to {max(too_long):,}" if too_long else ""
        raise DpoError(
            f"no pair is left to train on ({counts}); policy.max_total_sequence_length is {max_tokens} tokens{needed}"
        )
    return TokenizedPairs(kept, dropped, max(too_long, default=0))


def end_of_turn_ids(tokenizer: Any, generation_config: Any) -> frozenset[int]:
    """Gather the tokens that end a turn: the tokenizer's, and all at which generation stops (Gemma has two)."""
    ids = generation_config.eos_token_id if generation_config is not None else None
    stops = ids if isinstance(ids, list) else [ids]
    return frozenset(token for token in [tokenizer.eos_token_id, *stops] if token is not None)


def _chunks(groups: Sequence[PreferenceGroup]) -> Iterator[list[PreferenceGroup]]:
    chunk: list[PreferenceGroup] = []
    num_responses = 0
    for group in groups:
        chunk.append(group)
        num_responses += len(group.responses)
        if num_responses >= RESPONSES_PER_CALL:
            yield chunk
            chunk, num_responses = [], 0
    if chunk:
        yield chunk


def _tokenize(
    groups: Sequence[PreferenceGroup],
    tokenizer: Any,
    end_ids: frozenset[int],
    loss_mask: LossMask,
    style: Style,
    limit: TimeLimit,
) -> list[EncodedGroup]:
    if style.is_plain:
        plain = [render_plain(group, tokenizer, loss_mask=loss_mask) for group in groups]
        return encode_groups(plain, tokenizer, end_ids)
    end_marks = tuple(tokenizer.decode([number], skip_special_tokens=False) for number in sorted(end_ids))
    rendered = render_groups(
        groups, tokenizer, end_marks=end_marks, loss_mask=loss_mask, limit=limit, options=style.options
    )
    return encode_groups(rendered, tokenizer, end_ids)


def _usable(
    group: PreferenceGroup, encoded: EncodedGroup, max_tokens: int, dropped: Counter[PairDrop], too_long: list[int]
) -> TokenizedGroup:
    """Keep the pairs that can be trained on and the responses that they name; equal responses become one.

    What is dropped is counted, and of pairs that are too long the tokens are listed.
    """
    if not encoded.prompt:
        raise UsageError(
            f"{group.pairs[0].source}: the chat template renders the prompt to nothing, so nothing is there from which "
            "a response's first token could be predicted; drop the row, or use a chat template with a header"
        )
    first_of = _first_of_equals(encoded.responses)
    usable = []
    for pair in group.pairs:
        chosen, rejected = first_of[pair.chosen], first_of[pair.rejected]
        drop = _drop(len(encoded.prompt), encoded.responses[chosen], encoded.responses[rejected], max_tokens)
        if drop is None:
            usable.append(replace(pair, chosen=chosen, rejected=rejected))
        else:
            dropped[drop] += 1
            if drop is PairDrop.TOO_LONG:
                sides = (encoded.responses[chosen], encoded.responses[rejected])
                too_long.append(len(encoded.prompt) + max(len(side[0]) for side in sides))
    used = sorted({position for pair in usable for position in (pair.chosen, pair.rejected)})
    new = {old: position for position, old in enumerate(used)}
    return TokenizedGroup(
        prompt=encoded.prompt,
        responses=tuple(TokenizedResponse(*encoded.responses[position]) for position in used),
        pairs=tuple(replace(pair, chosen=new[pair.chosen], rejected=new[pair.rejected]) for pair in usable),
    )


def _first_of_equals(responses: Sequence[EncodedResponse | Rewrite]) -> list[int]:
    """Give for each response the first that has the same tokens and mask: texts may differ in what no token shows."""
    first: dict[object, int] = {}
    return [
        first.setdefault(
            position if isinstance(response, Rewrite) else tuple(part.tobytes() for part in response), position
        )
        for position, response in enumerate(responses)
    ]


def _drop(
    num_prompt: int, chosen: EncodedResponse | Rewrite, rejected: EncodedResponse | Rewrite, max_tokens: int
) -> PairDrop | None:
    """Say why a pair can't be trained on, if it can't."""
    if isinstance(chosen, Rewrite):
        return PairDrop(chosen.value)
    if isinstance(rejected, Rewrite):
        return PairDrop(rejected.value)
    chosen_ids, rejected_ids = chosen[0], rejected[0]
    if num_prompt + max(len(chosen_ids), len(rejected_ids)) > max_tokens:
        return PairDrop.TOO_LONG
    if not (chosen_ids and rejected_ids):
        return PairDrop.EMPTY
    return PairDrop.IDENTICAL if chosen_ids == rejected_ids else None
