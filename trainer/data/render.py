"""From preference groups to texts by the tokenizer's chat template, and where in a text the policy wrote.

What the policy sampled at each turn, behind what it saw then, must be what is trained on. So a turn is found by
rendering the conversation up to it with the generation prompt, which is what the policy saw, and up to its end; both
must be beginnings of the whole. Some templates rewrite history: Qwen3's drops the thoughts of turns before the last
question, and puts an empty thought into a last turn that has none. Such a response is refused and counted, for the
policy never wrote what would be trained on.

The loss mask `nemo_rl` is NeMo RL's, to compare with: of each response the final message, from where the rendering of
all messages before it ends without a generation prompt to the end of the whole. So the header of the assistant's turn,
its text (an empty thought included, where the template writes one), its end of turn and what the template writes behind
that are all trained on, truncated or not; the earlier turns of the response are not. The prompt of the group is then
its rendering without a generation prompt. Two things are left as they are in a rendering, where NeMo RL changes them:
it adds the tokenizer's BOS and EOS where the template wrote none, and it renders without tools.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from schemas.errors import UsageError
from schemas.preference import Message, is_policys
from schemas.terminal import one_line, printable
from trainer.data.groups import PreferenceGroup, Response
from trainer.data.limits import (
    MAX_GROWTH_BYTES,
    MAX_SECONDS,
    OutOfTime,
    TimeLimit,
    bounded_memory,
    has_powers,
    is_far_longer,
)

LossMask = Literal["policy", "nemo_rl"]

OPEN_THOUGHT = "<think>"
OTHER_TEMPLATE = "name another with policy.tokenizer.chat_template=FILE.jinja"


class Rewrite(StrEnum):
    """How a template keeps a response from being what the policy wrote."""

    HISTORY = "template_rewrites_history"  # a turn is rendered differently once others follow
    RESPONSE = "template_rewrites_response"  # a turn's text is not in its rendering, or has thoughts put before it


class Turn(NamedTuple):
    """Where the policy wrote, in characters of the whole text."""

    start: int
    end: int
    num_ends: int  # end-of-turn marks that the template wrote behind the text; the policy wrote the first
    is_cut: bool = False  # it did not write that either


@dataclass(frozen=True, slots=True)
class RenderedResponse:
    """A prompt with one of its responses as text, and the policy's turns in there."""

    whole: str
    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class RenderedGroup:
    """The prompt's text, with which each whole begins."""

    prompt: str
    responses: tuple[RenderedResponse | Rewrite, ...]
    first_ids: tuple[int, ...] = ()  # tokens that stand before the prompt's


@dataclass(frozen=True, slots=True)
class _Conversation:
    """A prompt with one of its responses, to be rendered up to any message."""

    tokenizer: Any
    group: PreferenceGroup
    response: Response
    options: Mapping[str, Any]
    limit: TimeLimit

    @property
    def messages(self) -> tuple[Message, ...]:
        """All messages, those of the prompt first."""
        return (*self.group.prompt, *self.response.messages)

    def render(self, num_messages: int | None = None, *, opened: bool = False) -> str:
        """Render in transformers' sandbox; `opened` writes the header behind which the policy writes."""
        messages = self.messages[:num_messages]
        tools = list(self.group.tools) or None
        apply = partial(
            self.tokenizer.apply_chat_template,
            list(messages),
            tools=tools,
            add_generation_prompt=opened,
            tokenize=False,
            **self.options,
        )
        try:
            text: str = self.limit.call(apply)
        except OutOfTime:
            raise self._refused(messages, f"takes more than {MAX_SECONDS:g} s for") from None
        except MemoryError:
            raise self._refused(messages, f"takes more than {MAX_GROWTH_BYTES / 1e9:.1f} GB for") from None
        except Exception as error:  # a template may raise whatever it likes
            raise self._refused(messages, "refuses", f": {one_line(error)}") from error
        if is_far_longer(text, (messages, tools)):
            raise self._refused(messages, f"writes {len(text):,} characters, many times their length, for")
        return text

    def _refused(self, messages: Sequence[Message], what: str, reason: str = f"; {OTHER_TEMPLATE}") -> UsageError:
        roles = printable(", ".join(message["role"] for message in messages))
        return UsageError(f"{self.source}: {template_of(self.tokenizer)} {what} a conversation of {roles}{reason}")

    @property
    def source(self) -> str:
        """Name the first row that the response stands in."""
        return source_of(self.group, self.response)

    def border_unknown(self) -> UsageError:
        """Make the error of a template under which no response can be told from its prompt."""
        return UsageError(
            f"{self.source}: {template_of(self.tokenizer)} renders the prompt differently once "
            "the response follows, so their border is unknown; use another chat template, or rows with the sampled "
            "token ids (dpo collect-pairs --token-ids)"
        )


def render_groups(
    groups: Sequence[PreferenceGroup],
    tokenizer: Any,
    *,
    end_marks: tuple[str, ...],
    loss_mask: LossMask,
    limit: TimeLimit,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> list[RenderedGroup]:
    """Render prompts and their responses; `end_marks` are the texts of the tokens that end a turn.

    `limit` is on each rendering, `options` are the template's own.

    Raises:
        UsageError: the tokenizer has no chat template, or one that refuses a conversation, rewrites the prompt, or
            takes too much time or memory.
    """
    if not groups:
        return []
    if not tokenizer.chat_template:
        raise UsageError(
            f"the tokenizer of {printable(tokenizer.name_or_path)} has no chat template; use an instruct model, name a "
            "template with policy.tokenizer.chat_template=FILE.jinja, or train on plain text with "
            "policy.tokenizer.chat_template=null"
        )
    named = tokenizer.chat_template
    if any(map(has_powers, named.values() if isinstance(named, dict) else [named])):
        raise UsageError(
            f"{template_of(tokenizer)} computes powers (**), which no conversation needs and which may take for ever; "
            f"{OTHER_TEMPLATE}"
        )
    with bounded_memory():
        return [_render_group(group, tokenizer, end_marks, loss_mask, limit, options) for group in groups]


def template_of(tokenizer: Any) -> str:
    """Name a chat template in messages."""
    return f"the chat template of {printable(tokenizer.name_or_path)}"


def _render_group(
    group: PreferenceGroup,
    tokenizer: Any,
    end_marks: tuple[str, ...],
    loss_mask: LossMask,
    limit: TimeLimit,
    options: Mapping[str, Any],
) -> RenderedGroup:
    conversations = [_Conversation(tokenizer, group, response, options, limit) for response in group.responses]
    # Where a response does not begin with the assistant, the header of its first turn is a part of the response.
    is_opened = loss_mask == "policy" and all(each.messages[0]["role"] == "assistant" for each in group.responses)
    prompt = conversations[0].render(len(group.prompt), opened=is_opened)
    if loss_mask == "nemo_rl":
        responses = [_final_message(conversation, prompt) for conversation in conversations]
    else:
        opened = prompt if is_opened else conversations[0].render(len(group.prompt), opened=True)
        responses = [_policys_turns(conversation, opened, end_marks) for conversation in conversations]
    return RenderedGroup(prompt, tuple(_behind(prompt, response) for response in responses))


def source_of(group: PreferenceGroup, response: Response) -> str:
    """Name the first row that a response stands in."""
    position = next(place for place, each in enumerate(group.responses) if each is response)
    return next(pair.source for pair in group.pairs if position in (pair.chosen, pair.rejected))


def _behind(prompt: str, response: RenderedResponse | Rewrite) -> RenderedResponse | Rewrite:
    is_behind = isinstance(response, Rewrite) or response.whole.startswith(prompt)
    return response if is_behind else Rewrite.HISTORY


def _policys_turns(
    conversation: _Conversation, opened_prompt: str, end_marks: tuple[str, ...]
) -> RenderedResponse | Rewrite:
    """Find what the policy wrote: each of its turns behind the header, up to what the template writes behind it."""
    messages, whole = conversation.messages, conversation.render()
    first, last = len(conversation.group.prompt), len(messages) - 1
    turns = []
    for place in range(first, len(messages)):
        if not is_policys(messages[place]):
            continue
        before = opened_prompt if place == first else conversation.render(place, opened=True)
        after = whole if place == last else conversation.render(place + 1)
        if place == first and not after.startswith(before):
            raise conversation.border_unknown()
        if not (after.startswith(before) and whole.startswith(after)):
            return Rewrite.HISTORY
        num_ends = _count_ends(messages[place], after, len(before), end_marks)
        if num_ends is None:
            return Rewrite.RESPONSE
        is_cut = conversation.response.truncated and place == last
        turns.append(Turn(len(before), len(after), num_ends, is_cut))
    return RenderedResponse(whole, tuple(turns))


def _final_message(conversation: _Conversation, prompt: str) -> RenderedResponse | Rewrite:
    """Find what NeMo RL trains on."""
    whole, is_alone = conversation.render(), len(conversation.response.messages) == 1
    before = prompt if is_alone else conversation.render(-1)
    if whole.startswith(before):
        return RenderedResponse(whole, (Turn(len(before), len(whole), num_ends=0),))
    if is_alone:
        raise conversation.border_unknown()
    return Rewrite.HISTORY


def _count_ends(message: Message, text: str, start: int, end_marks: tuple[str, ...]) -> int | None:
    """Count the marks behind the message in a text that ends with it; None where the message is not in there.

    A text may itself hold such a mark, and a template may write a second one behind the turn's (Phi-3's ends the whole
    conversation with one). Calls stand behind the message's text in ways of their own, so there the last mark counts.
    """
    content = message["content"].strip()
    head = text[:start].rstrip()
    if content.startswith(OPEN_THOUGHT) and head.endswith(OPEN_THOUGHT):  # the header opens the thought
        start = len(head) - len(OPEN_THOUGHT)
    place = text.find(content, start)
    if place < 0 or (content.startswith(OPEN_THOUGHT) and text[start:place].strip()):
        written, wanted = _squeezed(text[start:]), _squeezed(content)
        is_there = written.startswith(wanted) if content.startswith(OPEN_THOUGHT) else wanted in written
        return 1 if is_there else None
    if message.get("tool_calls"):
        return 1
    tail = text[place + len(content) :]
    return sum(tail.count(mark) for mark in end_marks)


def _squeezed(text: str) -> str:
    """Leave out all white space, which templates trim and add."""
    return "".join(text.split())
