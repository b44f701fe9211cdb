"""From preference groups to token ids, each prompt and each distinct response once.

Prompt and response are tokenised apart and put together as ids: that is how the policy met them when it sampled, and
no token can merge across the border. The response ends with its end-of-turn token; what a template adds behind it
(ChatML's line feed) was not written by the policy and is left out.
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
    advance: Callable[[int], None] = lambda amount: None,
) -> TokenizedPairs:
    """Tokenise every group; drop the pairs that have a response too long, or the same response twice.

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
        tokenized = _tokenize(group, tokenizer)
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


def _tokenize(group: PreferenceGroup, tokenizer: Any) -> TokenizedGroup:
    prompt = _render(tokenizer, group.prompt, add_generation_prompt=True)
    texts = [prompt]
    for response in group.responses:
        whole = _render(tokenizer, group.prompt + response, add_generation_prompt=False)
        if not whole.startswith(prompt):
            raise UsageError(
                f"{group.pairs[0].source}: the chat template of {tokenizer.name_or_path} renders the prompt "
                "differently once the response follows, so their border is unknown; use another chat template"
            )
        texts.append(whole.removeprefix(prompt))
    prompt_ids, *response_ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    responses = tuple(_until_end_of_turn(ids, tokenizer.eos_token_id) for ids in response_ids)
    return TokenizedGroup(tuple(prompt_ids), responses, group.pairs)


def _render(tokenizer: Any, messages: tuple[Message, ...], *, add_generation_prompt: bool) -> str:
    try:
        text: str = tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=add_generation_prompt, tokenize=False
        )
    except Exception as error:  # a template may raise whatever it likes
        roles = ", ".join(message["role"] for message in messages)
        raise UsageError(
            f"the chat template of {tokenizer.name_or_path} refuses a conversation of {roles}: {error}"
        ) from error
    return text


def _until_end_of_turn(ids: Sequence[int], eos_token_id: int | None) -> TokenIds:
    """Cut what a template writes behind the last end-of-turn token."""
    for position in range(len(ids) - 1, -1, -1):
        if ids[position] == eos_token_id:
            return tuple(ids[: position + 1])
    return tuple(ids)


def _usable_pairs(group: TokenizedGroup, max_tokens: int, dropped: Counter[PairDrop]) -> tuple[GroupPair, ...]:
    usable = []
    for pair in group.pairs:
        chosen, rejected = group.responses[pair.chosen], group.responses[pair.rejected]
        if len(group.prompt) + max(len(chosen), len(rejected)) > max_tokens:
            dropped[PairDrop.TOO_LONG] += 1
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
