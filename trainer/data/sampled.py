"""Responses as the engine sampled them: token ids that come with the rows, used as they are.

What was sampled need not be what its text gives when it is tokenised again, and no chat template has a say in it. But
ids are numbers: those of another tokenizer would train the policy on noise. So each response's are decoded, and the
text of the row must be in there.
"""

from array import array
from collections.abc import Iterator, Sequence
from typing import Any

from schemas.errors import UsageError
from schemas.preference import SampledTokens, is_policys
from schemas.terminal import excerpt
from trainer.data.encode import EncodedGroup, EncodedResponse, mask_up_to_last, ones
from trainer.data.groups import PreferenceGroup, Response
from trainer.data.render import Rewrite, source_of

END_OF_THOUGHT = "</think>"
REMEDY = "tokenise the texts instead with data.token_ids=ignore, or train the model that was sampled"


def is_sampled(group: PreferenceGroup) -> bool:
    """Tell whether the prompt and every response of a group have their sampled tokens."""
    return group.prompt_token_ids is not None and all(response.sampled for response in group.responses)


def sampled_groups(groups: Sequence[PreferenceGroup], tokenizer: Any) -> list[EncodedGroup]:
    """Take the sampled tokens of groups that have them, once they are known to be this tokenizer's.

    Raises:
        UsageError: they are another tokenizer's.
    """
    if not groups:
        return []
    for group, response, sampled in _responses(groups):
        _refuse_unknown_ids(group, response, sampled, num_tokens=len(tokenizer))
    _refuse_other_texts(groups, tokenizer)
    encoded = []
    for group in groups:
        assert group.prompt_token_ids is not None
        tokens: list[EncodedResponse | Rewrite] = [_as_trained(sampled) for _, _, sampled in _responses([group])]
        encoded.append(EncodedGroup(group.prompt_token_ids, tokens))
    return encoded


def _responses(groups: Sequence[PreferenceGroup]) -> Iterator[tuple[PreferenceGroup, Response, SampledTokens]]:
    for group in groups:
        for response in group.responses:
            assert response.sampled is not None
            yield group, response, response.sampled


def _as_trained(sampled: SampledTokens) -> EncodedResponse:
    if sampled.loss_mask is None:
        return sampled.ids, ones(len(sampled.ids))
    return mask_up_to_last(sampled.ids, sampled.loss_mask)


def _refuse_unknown_ids(group: PreferenceGroup, response: Response, sampled: SampledTokens, *, num_tokens: int) -> None:
    largest = max(max(ids, default=0) for ids in (group.prompt_token_ids or array("i"), sampled.ids))
    if largest >= num_tokens:
        raise UsageError(
            f"{source_of(group, response)}: has the token id {largest}, but the tokenizer has {num_tokens} tokens; "
            f"{REMEDY}"
        )


def _refuse_other_texts(groups: Sequence[PreferenceGroup], tokenizer: Any) -> None:
    """Decode all responses in one call and look for the text of the last turn in each.

    A special token inside of a response is in its text or not, as the engine was told; and a thought that the prompt's
    last tokens open is not among the response's.
    """
    ids = [sampled.ids.tolist() for _, _, sampled in _responses(groups)]
    decoded = tokenizer.batch_decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    for (group, response, sampled), text in zip(_responses(groups), decoded, strict=True):
        wanted = _squeezed(_final_text(response))
        if wanted in _squeezed(text):
            continue
        bare = tokenizer.decode(sampled.ids.tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if wanted not in _squeezed(bare):
            raise UsageError(
                f"{source_of(group, response)}: the token ids of a response decode to {excerpt(text)}, which does not "
                f"hold its text {excerpt(_final_text(response))}; {REMEDY}"
            )


def _final_text(response: Response) -> str:
    """Give the last text that the policy wrote, without its thoughts."""
    written = [message["content"] for message in response.messages if is_policys(message)]
    return written[-1].rpartition(END_OF_THOUGHT)[2] if written else ""


def _squeezed(text: str) -> str:
    """Leave out white space, which was trimmed from texts, and the sign for half a character, which was cut."""
    return "".join(text.split()).replace("\ufffd", "")
