"""From preference groups to token ids, each prompt and each distinct response once.

A response is what the policy wrote behind the generation prompt, up to and including its end of turn; what a template
writes behind that (ChatML's line feed) is left out, and a response that was cut by a limit has no end of turn.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from schemas.errors import DpoError, UsageError
from schemas.preference import Message
from trainer.groups import GroupPair, PreferenceGroup

TokenIds = tuple[int, ...]


class PairDrop(StrEnum):
    """Why a pair is not trained on."""

    TOO_LONG = "too_long"
    EMPTY = "empty"
    IDENTICAL = "identical"


@dataclass(frozen=True, slots=True)
class TokenizedGroup:
    """A preference group as token ids; only responses that stand in a pair are here."""

    prompt: TokenIds
    responses: tuple[TokenIds, ...]
    pairs: tuple[GroupPair, ...]


@dataclass(frozen=True)
class TokenizedPairs:
    """All groups that can be trained on, and the account of the pairs that can't."""

    groups: list[TokenizedGroup]
    dropped: Counter[PairDrop]

    @property
    def num_pairs(self) -> int:
        """Count the pairs that are left."""
        return sum(len(group.pairs) for group in self.groups)


def tokenize_groups(
    groups: Sequence[PreferenceGroup],
    tokenizer: Any,
    *,
    max_tokens: int,
    end_ids: frozenset[int],
    advance: Callable[[int], None] = lambda amount: None,
) -> TokenizedPairs:
    """Tokenise every group; drop the pairs that have a response too long or empty, or the same response twice.

    `end_ids` are the tokens that end a turn.

    Raises:
        UsageError: the tokenizer has no chat template, or one that rewrites the prompt.
        DpoError: no pair is left.
    """
    if not tokenizer.chat_template:
        raise UsageError(
            f"the tokenizer of {tokenizer.name_or_path} has no chat template; use an instruct model, or save the "
            "tokenizer with a chat_template"
        )
    kept: list[TokenizedGroup] = []
    dropped: Counter[PairDrop] = Counter()
    for group in groups:
        tokenized = _tokenize(group, tokenizer, end_ids)
        usable = _usable_pairs(tokenized, max_tokens, dropped)
        if usable:
            kept.append(_with_pairs(tokenized, usable))
        advance(1)
    if not kept:
        counts = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
        raise DpoError(
            f"no pair is left to train on ({counts}); policy.max_total_sequence_length is {max_tokens} tokens"
        )
    return TokenizedPairs(kept, dropped)


def end_of_turn_ids(tokenizer: Any, generation_config: Any) -> frozenset[int]:
    """Gather the tokens that end a turn: the tokenizer's, and all at which generation stops (Gemma has two)."""
    ids = generation_config.eos_token_id if generation_config is not None else None
    stops = ids if isinstance(ids, list) else [ids]
    return frozenset(token for token in [tokenizer.eos_token_id, *stops] if token is not None)


def _tokenize(group: PreferenceGroup, tokenizer: Any, end_ids: frozenset[int]) -> TokenizedGroup:
    source = group.pairs[0].source
    prompt = _render(tokenizer, group.prompt, source, add_generation_prompt=True)
    wholes = [
        _render(tokenizer, group.prompt + response.messages, source, add_generation_prompt=False)
        for response in group.responses
    ]
    if not all(whole.startswith(prompt) for whole in wholes):
        raise UsageError(
            f"{source}: the chat template of {tokenizer.name_or_path} renders the prompt differently once the response "
            "follows, so their border is unknown; use another chat template"
        )
    prompt_ids, *whole_ids = tokenizer([prompt, *wholes], add_special_tokens=False)["input_ids"]
    responses = []
    for response, whole, ids in zip(group.responses, wholes, whole_ids, strict=True):
        response_ids = _behind_prompt(ids, prompt_ids)
        if response_ids is None:  # a token reaches across the border, which no sampled response can
            response_ids = tokenizer(whole.removeprefix(prompt), add_special_tokens=False)["input_ids"]
        responses.append(_ended(response_ids, end_ids, truncated=response.truncated))
    return TokenizedGroup(tuple(prompt_ids), tuple(responses), group.pairs)


def _behind_prompt(whole: list[int], prompt: list[int]) -> list[int] | None:
    """Cut the prompt off, where the tokens of the whole begin with the prompt's.

    Tokenised alone, a response would begin with a space that was never there under tokenizers that put one before
    every text (SentencePiece).
    """
    return whole[len(prompt) :] if whole[: len(prompt)] == prompt else None


def _render(tokenizer: Any, messages: tuple[Message, ...], source: str, *, add_generation_prompt: bool) -> str:
    try:
        text: str = tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=add_generation_prompt, tokenize=False
        )
    except Exception as error:  # a template may raise whatever it likes
        roles = ", ".join(message["role"] for message in messages)
        raise UsageError(
            f"{source}: the chat template of {tokenizer.name_or_path} refuses a conversation of {roles}: {error}"
        ) from error
    return text


def _ended(ids: Sequence[int], end_ids: frozenset[int], *, truncated: bool) -> TokenIds:
    """Cut what stands behind the last end of turn, and that itself where the policy did not write it."""
    for position in range(len(ids) - 1, -1, -1):
        if ids[position] in end_ids:
            return tuple(ids[: position + (not truncated)])
    return tuple(ids)


def _usable_pairs(group: TokenizedGroup, max_tokens: int, dropped: Counter[PairDrop]) -> tuple[GroupPair, ...]:
    usable = []
    for pair in group.pairs:
        chosen, rejected = group.responses[pair.chosen], group.responses[pair.rejected]
        if len(group.prompt) + max(len(chosen), len(rejected)) > max_tokens:
            dropped[PairDrop.TOO_LONG] += 1
        elif not (chosen and rejected):
            dropped[PairDrop.EMPTY] += 1
        elif chosen == rejected:
            dropped[PairDrop.IDENTICAL] += 1
        else:
            usable.append(pair)
    return tuple(usable)


def _with_pairs(group: TokenizedGroup, pairs: Sequence[GroupPair]) -> TokenizedGroup:
    """Keep these pairs and the responses that they name."""
    used = sorted({position for pair in pairs for position in (pair.chosen, pair.rejected)})
    new = {old: position for position, old in enumerate(used)}
    return TokenizedGroup(
        prompt=group.prompt,
        responses=tuple(group.responses[position] for position in used),
        pairs=tuple(GroupPair(new[pair.chosen], new[pair.rejected], pair.source) for pair in pairs),
    )
