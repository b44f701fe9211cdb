"""The rule on the order of messages: what chat templates refuse, or read otherwise than it was meant.

Two turns of one role in a row are none of it: some templates refuse them, most don't, and environments ask so. Nor is
a conversation that the assistant begins.
"""

from collections.abc import Iterator
from typing import NamedTuple

from pipeline.gate.finding import Problem
from pipeline.gate.pair.pointers import SIDES, Part, message_pointer
from pipeline.gate.pair.view import PairView
from pipeline.gate.rules import Rule
from pipeline.gate.settings import GateSettings
from schemas.preference import Message

LEADING = ("system", "developer")
USUAL_PROMPTS, USUAL_SIDES = (("user",), ("system", "user")), ("assistant", "assistant")
"""Roles with which nothing is wrong, if each side is one message."""
NAMES = {
    "system": "a system message",
    "developer": "a developer message",
    "user": "a user's message",
    "assistant": "an assistant's message",
    "tool": "a tool's result",
}
CALL_SIGNS = ("{", "<", "(")
"""One of them is in each call that stands in a text, as many data sets have them: JSON, tags or Python."""


class _Turn(NamedTuple):
    """What of the messages so far decides on the next one."""

    role: str = ""
    may_have_called: bool = False  # so that a tool's result can follow
    has_called: bool = False  # so that one must


class _Flaw(NamedTuple):
    """What is wrong with a message."""

    at: int
    got: str
    expected: str


def role_order(view: PairView, settings: GateSettings) -> Iterator[Problem]:
    """Find the first message of each part that stands where it can't."""
    prompt, chosen, rejected = view.pair.prompt, view.pair.chosen, view.pair.rejected
    sides = chosen[0]["role"], rejected[0]["role"]
    is_usual = len(prompt) <= 2 and len(chosen) == len(rejected) == 1 and sides == USUAL_SIDES
    if is_usual and tuple([message["role"] for message in prompt]) in USUAL_PROMPTS:
        return
    last, flaw = _walk(prompt, _Turn())
    flaw = flaw or _flaw_of_end(last, len(prompt) - 1, sides)
    yield from _problems(view, Part.PROMPT, flaw)
    for side, messages in zip(SIDES, (chosen, rejected), strict=True):
        yield from _problems(view, side, _flaw_of_side(messages, last))


def _problems(view: PairView, part: Part, flaw: _Flaw | None) -> Iterator[Problem]:
    if flaw is not None:
        pointer = message_pointer(view, part, flaw.at, "role")
        yield Problem(Rule.ROLE_ORDER, pointer, flaw.got, flaw.expected)


def _flaw_of_end(last: _Turn, index: int, first_of_sides: tuple[str, str]) -> _Flaw | None:
    """Look at a prompt's last message, behind which the assistant is to speak."""
    if "assistant" not in first_of_sides:
        return None
    if last.role in LEADING:
        return _Flaw(index, f"{NAMES[last.role]} at the end of the prompt", "a user's message")
    if last.has_called:
        return _Flaw(index, "a call at the end of the prompt", "its result before the assistant goes on")
    if last.role == "assistant":
        expected = "the beginning of an answer in both responses, since templates end each message"
        return _Flaw(index, "an assistant's message at the end of the prompt", expected)
    return None


def _flaw_of_side(messages: tuple[Message, ...], last: _Turn) -> _Flaw | None:
    first = messages[0]["role"]
    if first != "assistant" and not (first == "tool" and last.may_have_called):
        return _Flaw(0, f"{NAMES[first]} at the beginning of a response", NAMES["assistant"])
    before = last._replace(has_called=last.has_called and first == "tool")  # else it was told of the prompt
    end, flaw = _walk(messages, before)
    if flaw is None and end.role != "assistant":
        expected = "an assistant's message, since NeMo RL trains on the last one"
        return _Flaw(len(messages) - 1, f"{NAMES[end.role]} at the end of a response", expected)
    return flaw


def _walk(messages: tuple[Message, ...], turn: _Turn) -> tuple[_Turn, _Flaw | None]:
    """Go through messages, `turn` being what stands before; give the last turn and the first flaw."""
    first_flaw = None
    for index, message in enumerate(messages):
        role = message["role"]
        if first_flaw is None and (told := _misplaced(role, turn)):
            first_flaw = _Flaw(index, *told)
        if role == "assistant":
            has_called = bool(message.get("tool_calls"))
            turn = _Turn(role, has_called or any(sign in message["content"] for sign in CALL_SIGNS), has_called)
        else:
            turn = _Turn(role, role == "tool")
    return turn, first_flaw


def _misplaced(role: str, before: _Turn) -> tuple[str, str] | None:
    if role in LEADING and before.role not in ("", *LEADING):
        return f"{NAMES[role]} after {NAMES[before.role]}", "system and developer messages first"
    if role == "tool" and not before.may_have_called:
        return NAMES["tool"] + (f" after {NAMES[before.role]}" if before.role else " at first"), "a call before it"
    if before.has_called and role != "tool":
        return f"{NAMES[role]} after a call", "the call's result"
    return None
