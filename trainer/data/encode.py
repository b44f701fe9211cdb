"""From rendered texts to token ids, and a loss mask on what the policy wrote.

All texts of a few groups are tokenised in one call. A whole text is tokenised from the last special token of its prompt
on: tokenizers split there before all else, so the tokens are those of the whole, and a long prompt is tokenised once
and not with each of its responses. A response that follows a piece of its prompt also gets no space that was never
sampled, which tokenizers of SentencePiece's kind put before every text.

No token may reach across a border between what the policy wrote and what it did not: where one does, the pieces are
tokenised apart, as they were when the policy sampled.
"""

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple

from schemas.preference import PackedIds
from trainer.data.render import RenderedGroup, RenderedResponse, Rewrite, Turn

EncodedResponse = tuple[PackedIds, PackedIds]
"""Token ids behind the prompt, and the loss mask."""


class EncodedGroup(NamedTuple):
    """The prompt's token ids and the responses that could be rendered."""

    prompt: PackedIds
    responses: list[EncodedResponse | Rewrite]


@dataclass(frozen=True, slots=True)
class _Anchor:
    """The prompt's end from its last special token on: with it the texts of the responses begin."""

    start: int  # in characters of the prompt
    ids: list[int]
    prompt_chars: int


def encode_groups(groups: Sequence[RenderedGroup], tokenizer: Any, end_ids: frozenset[int]) -> list[EncodedGroup]:
    """Tokenise prompts and responses; `end_ids` are the tokens that end a turn."""
    if not groups:
        return []
    prompts = tokenizer([group.prompt for group in groups], add_special_tokens=False, verbose=False)
    special = _splitting_tokens(tokenizer)
    anchors = [_anchor(group.prompt, place, prompts, special) for place, group in enumerate(groups)]
    jobs = [
        (response, anchor)
        for group, anchor in zip(groups, anchors, strict=True)
        for response in group.responses
        if isinstance(response, RenderedResponse)
    ]
    encoded = iter(_encode_responses(jobs, tokenizer, end_ids))
    return [
        EncodedGroup(
            array("i", [*group.first_ids, *ids]),
            [response if isinstance(response, Rewrite) else next(encoded) for response in group.responses],
        )
        for group, ids in zip(groups, prompts["input_ids"], strict=True)
    ]


def mask_up_to_last(ids: Sequence[int], mask: Sequence[int]) -> EncodedResponse:
    """Leave out what stands behind the last trained token: it changes nothing that is trained on."""
    end = len(mask)
    while end and not mask[end - 1]:
        end -= 1
    kept = array("i", mask[:end])
    return array("i", ids[:end]), kept if 0 in kept else ones(end)


@lru_cache(maxsize=4096)
def ones(length: int) -> PackedIds:
    """Give the mask of a response that the policy wrote alone; responses of one length share it."""
    return array("i", [1]) * length


def _anchor(prompt: str, place: int, prompts: Any, special: dict[int, str]) -> _Anchor:
    ids = prompts["input_ids"][place]
    position = next((position for position in range(len(ids) - 1, -1, -1) if ids[position] in special), None)
    chars = None if position is None else prompts.token_to_chars(place, position)
    if chars is not None and prompt.startswith(special[ids[position]], chars.start):
        return _Anchor(chars.start, ids[position:], len(prompt))
    return _Anchor(0, ids, len(prompt))


def _splitting_tokens(tokenizer: Any) -> dict[int, str]:
    """Gather the tokens at which texts are split whatever stands around them; only fast tokenizers tell where."""
    if not tokenizer.is_fast:
        return {}
    return {
        number: token.content
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.special and not (token.lstrip or token.rstrip or token.single_word or token.normalized)
    }


def _encode_responses(
    jobs: list[tuple[RenderedResponse, _Anchor]], tokenizer: Any, end_ids: frozenset[int]
) -> list[EncodedResponse]:
    """Tokenise in two calls: offsets, which cost much, only where there are borders inside of a response."""
    ids_of: dict[int, list[int]] = {}
    offsets_of: dict[int, list[tuple[int, int]]] = {}
    for inner in (False, True):
        places = [place for place, (response, anchor) in enumerate(jobs) if bool(_borders(response, anchor)) is inner]
        if not places:
            continue
        texts = [jobs[place][0].whole[jobs[place][1].start :] for place in places]
        with_offsets = inner and tokenizer.is_fast
        batch = tokenizer(texts, add_special_tokens=False, verbose=False, return_offsets_mapping=with_offsets)
        ids_of.update(zip(places, batch["input_ids"], strict=True))
        if with_offsets:
            offsets_of.update(zip(places, batch["offset_mapping"], strict=True))
    return [
        _encode_response(response, anchor, tokenizer, end_ids, ids_of[place], offsets_of.get(place))
        for place, (response, anchor) in enumerate(jobs)
    ]


def _borders(response: RenderedResponse, anchor: _Anchor) -> list[int]:
    """Give the borders inside of a response, where a token of one side may not reach over to the other."""
    edges = {edge for turn in response.turns for edge in (turn.start, turn.end)}
    return sorted(edges - {anchor.prompt_chars, len(response.whole)})


def _encode_response(
    response: RenderedResponse,
    anchor: _Anchor,
    tokenizer: Any,
    end_ids: frozenset[int],
    ids: list[int],
    offsets: list[tuple[int, int]] | None,
) -> EncodedResponse:
    borders = _borders(response, anchor)
    num_anchor = len(anchor.ids)
    positions: list[int] | None = None
    if ids[:num_anchor] == anchor.ids:
        if offsets is not None:
            positions = _positions(offsets, [border - anchor.start for border in borders])
        else:
            positions = _positions_by_prefix(response.whole[anchor.start :], ids, borders, anchor, tokenizer)
    if positions is None:
        edges = [anchor.prompt_chars, *borders, len(response.whole)]
        pieces = [response.whole[start:end] for start, end in pairwise(edges)]
        ids, positions = _pieces_apart(pieces, tokenizer)
        num_anchor = 0
    body = ids[num_anchor:]
    place_of = dict(zip(borders, (position - num_anchor for position in positions), strict=True))
    place_of |= {anchor.prompt_chars: 0, len(response.whole): len(body)}
    mask = array("i", [0]) * len(body)
    for turn in response.turns:
        start = place_of[turn.start]
        stop = _written_up_to(body, start, place_of[turn.end], turn, end_ids)
        mask[start:stop] = ones(stop - start)
    return mask_up_to_last(body, mask)


def _positions(offsets: list[tuple[int, int]], borders: list[int]) -> list[int] | None:
    """Give the token that begins at each border; None where a border is not known to lie between two tokens.

    Some tokenizers leave a token's leading space out of its offsets, so that the token seems to begin behind a border
    over which it reaches. The token before the border then does not end there.
    """
    ends = [end for _, end in offsets]
    positions = [bisect_right(ends, border) for border in borders]
    is_clean = all(
        position > 0 and ends[position - 1] == border and (position == len(offsets) or offsets[position][0] >= border)
        for position, border in zip(positions, borders, strict=True)
    )
    return positions if is_clean else None


def _positions_by_prefix(
    text: str, ids: list[int], borders: list[int], anchor: _Anchor, tokenizer: Any
) -> list[int] | None:
    """Do the same without offsets: tokenise up to each border, and see whether the whole begins with that."""
    positions = []
    for border in borders:
        prefix = tokenizer(text[: border - anchor.start], add_special_tokens=False, verbose=False)["input_ids"]
        if ids[: len(prefix)] != prefix:
            return None
        positions.append(len(prefix))
    return positions


def _pieces_apart(pieces: list[str], tokenizer: Any) -> tuple[list[int], list[int]]:
    """Tokenise each piece by itself; give all ids and where each piece but the first begins."""
    parts = tokenizer(pieces, add_special_tokens=False, verbose=False)["input_ids"]
    ids: list[int] = []
    positions = []
    for part in parts:
        positions.append(len(ids))
        ids += part
    return ids, positions[1:]


def _written_up_to(ids: list[int], start: int, stop: int, turn: Turn, end_ids: frozenset[int]) -> int:
    """Find the end of what the policy wrote: its end of turn included, or not where it was cut."""
    num_ends = 0
    for position in range(stop - 1, start - 1, -1):
        if num_ends == turn.num_ends:
            break
        if ids[position] in end_ids:
            num_ends += 1
            stop = position + (not turn.is_cut)
    return stop
