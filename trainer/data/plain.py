"""Preference groups as plain text, without a chat template: for base models.

The messages of a prompt stand one behind the other as they are, with nothing between them, and behind them those of a
response; what is to stand between must be in the texts. Where the tokenizer puts a BOS before a text, one stands at the
start. An EOS stands at the end of a response that ended, and none behind one that was cut by a limit.

The loss mask `nemo_rl` is that of a template: the final message, with an EOS in any case.
"""

from typing import Any

from schemas.errors import UsageError
from schemas.preference import Message, is_policys
from trainer.data.groups import PreferenceGroup, Response
from trainer.data.render import LossMask, RenderedGroup, RenderedResponse, Turn, source_of


def render_plain(group: PreferenceGroup, tokenizer: Any, *, loss_mask: LossMask) -> RenderedGroup:
    """Put the texts of a prompt and its responses together.

    Raises:
        UsageError: there are tools or calls, which plain text has no place for.
    """
    _refuse_tools(group)
    bos = [] if tokenizer.bos_token is None else [tokenizer.bos_token_id]
    adds_bos = tokenizer("")["input_ids"][:1] == bos
    prompt = "".join(message["content"] for message in group.prompt)
    if adds_bos and bos:
        prompt = prompt.removeprefix(tokenizer.bos_token)
    responses = tuple(_response(prompt, response, tokenizer.eos_token or "", loss_mask) for response in group.responses)
    return RenderedGroup(prompt, responses, first_ids=tuple(bos) if adds_bos else ())


def _response(prompt: str, response: Response, eos: str, loss_mask: LossMask) -> RenderedResponse:
    """Put the messages behind the prompt and name what is trained on; the EOS is a part of the last turn."""
    whole, turns, last = prompt, [], len(response.messages) - 1
    for place, message in enumerate(response.messages):
        start = len(whole)
        whole += message["content"]
        if place == last and _ends(message, response, loss_mask):
            whole = whole.removesuffix(eos) + eos
        if place == last if loss_mask == "nemo_rl" else is_policys(message):
            turns.append(Turn(start, len(whole), num_ends=0))
    return RenderedResponse(whole, tuple(turns))


def _ends(message: Message, response: Response, loss_mask: LossMask) -> bool:
    """Say whether an EOS stands behind the last message."""
    return loss_mask == "nemo_rl" or (is_policys(message) and not response.truncated)


def _refuse_tools(group: PreferenceGroup) -> None:
    for response in group.responses:
        if group.tools or any(message.get("tool_calls") for message in (*group.prompt, *response.messages)):
            raise UsageError(
                f"{source_of(group, response)}: has tools or calls, which plain text has no place for; name a chat "
                "template with policy.tokenizer.chat_template="
            )
