"""From the Responses API's items, as NeMo Gym records them, to chat messages.

Adjacent reasoning, messages and tool calls are one assistant turn, as in Gym's own converter; tool results and other
people's turns lie between. What can't be said in chat messages is refused by a named reason, never bent into text.
"""

import itertools
import json
import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from pipeline.attrition import Reason, RowDropped
from pipeline.reasoning import join_reasoning, split_reasoning, without_reasoning
from pipeline.record import Item, Params, Part, decode_items
from schemas.preference import Message

TEXT_PARTS = {"input_text", "output_text", "text", "summary_text", "reasoning_text"}
MEDIA_PARTS = {
    "input_image",
    "image",
    "image_url",
    "input_audio",
    "audio",
    "input_file",
    "file",
    "video",
    "input_video",
}
MEDIA_ITEMS = {"image_generation_call", "computer_call", "computer_call_output"}
ROLES = {"system", "developer", "user", "assistant", "tool"}


class Turn(NamedTuple):
    """One message, and what it was made of."""

    message: Message
    reasoning: str = ""
    num_texts: int = 0  # how many messages with text were joined in it


def prompt_turns(params: Params, *, keep_reasoning: bool) -> list[Turn]:
    """Give the prompt: `instructions` as a leading system message, then all of `input`. It may be empty.

    Raises:
        RowDropped: the prompt holds media or what is not known.
    """
    if isinstance(params.metadata, dict) and params.metadata.get("audio_url"):
        raise RowDropped(Reason.MEDIA, "audio in the prompt's metadata")
    turns = []
    if isinstance(params.instructions, str) and params.instructions:
        turns.append(Turn(Message(role="system", content=params.instructions)))
    if isinstance(params.input, str):
        return [*turns, Turn(Message(role="user", content=params.input))]
    if not isinstance(params.input, list):
        kind = "missing" if params.input is None else type(params.input).__name__
        raise RowDropped(Reason.PROMPT_UNSUPPORTED, f"input is {kind}, not text or a list")
    turns += _turns(params.input, Reason.PROMPT_UNSUPPORTED, keep_reasoning=keep_reasoning)
    _refuse_orphans(turns, Reason.PROMPT_UNSUPPORTED)
    return turns


def response_turns(items: list[Any], *, keep_reasoning: bool, open_calls: frozenset[str] = frozenset()) -> list[Turn]:
    """Give a trajectory's turns; of a list of snapshots (aviary) the last, which holds the whole.

    Raises:
        RowDropped: the trajectory holds media, refusals, results of calls that were never made, or what is not known.
    """
    turns = list(_turns(last_snapshot(items), Reason.RESPONSE_UNSUPPORTED, keep_reasoning=keep_reasoning))
    _refuse_orphans(turns, Reason.RESPONSE_UNSUPPORTED, open_calls)
    return turns


def last_snapshot(items: list[Any]) -> list[Any]:
    """Give the items of a trajectory, also where each step has a list of all of them so far."""
    if items and all(isinstance(item, list) for item in items):
        return decode_items(items[-1])
    return items


def chat_tools(tools: object) -> list[dict[str, Any]]:
    """Give the tools that are offered in the shape that chat templates take."""
    if not tools:
        return []
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise RowDropped(Reason.PROMPT_UNSUPPORTED, "tools are no list of objects")
    return [_chat_tool(tool) for tool in tools]


def asks_twice(prompt: Iterable[Message]) -> bool:
    """Tell whether user turns follow one another."""
    roles = [message["role"] for message in prompt]
    return any(pair == ("user", "user") for pair in itertools.pairwise(roles))


def _turns(items: list[Any], unsupported: Reason, *, keep_reasoning: bool) -> Iterator[Turn]:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    for item in items:
        if not isinstance(item, Item):
            raise RowDropped(unsupported, f"an item that is {type(item).__name__}")
        kind = item.type if item.type is not None else "message"
        role = item.role if item.role is not None else "assistant" if unsupported is Reason.RESPONSE_UNSUPPORTED else ""
        if kind == "message" and role == "assistant":
            texts.append(text_of(item.content, unsupported))
            calls += _inline_calls(item.tool_calls, unsupported)
        elif kind == "function_call":
            calls.append(_call(item.call_id, item.name, item.arguments, unsupported))
        elif kind == "reasoning":
            thoughts.append(text_of(item.summary, unsupported) or text_of(item.content, unsupported))
        else:
            other = _other_turn(item, kind, role, unsupported)
            if texts or thoughts or calls:
                yield _assistant_turn(texts, thoughts, calls, keep_reasoning=keep_reasoning)
                texts, thoughts, calls = [], [], []
            yield Turn(other)
    if texts or thoughts or calls:
        yield _assistant_turn(texts, thoughts, calls, keep_reasoning=keep_reasoning)


def _assistant_turn(
    texts: list[str], thoughts: list[str], calls: list[dict[str, Any]], *, keep_reasoning: bool
) -> Turn:
    separate = "\n".join(filter(None, thoughts))
    if len(texts) == 1:
        reasoning, answer = split_reasoning(texts[0], separate=separate)
    else:
        parts = [split_reasoning(text, separate="" if place else separate) for place, text in enumerate(texts or [""])]
        reasoning = "\n".join(filter(None, (each for each, _ in parts)))
        answer = "".join(each for _, each in parts)
    message = Message(role="assistant", content=join_reasoning(reasoning, answer) if keep_reasoning else answer)
    if not keep_reasoning:
        message["content"] = answer = without_reasoning(answer)
    if calls:
        message["tool_calls"] = calls
    is_answer = bool(answer.strip())
    return Turn(message, reasoning, sum(1 for text in texts if text) if is_answer else 0)


def _other_turn(item: Item, kind: object, role: object, unsupported: Reason) -> Message:
    """Make the message of what is not the policy's."""
    if kind == "function_call_output":
        return _tool_result(item.call_id, text_of(item.output, unsupported), unsupported)
    if kind == "message" and role == "tool":
        return _tool_result(item.tool_call_id or item.call_id, text_of(item.content, unsupported), unsupported)
    if kind == "message" and isinstance(role, str) and role in ROLES:
        return Message(role=role, content=text_of(item.content, unsupported))
    if isinstance(kind, str) and kind in MEDIA_ITEMS:
        raise RowDropped(Reason.MEDIA, f"an item of type {kind}")
    raise RowDropped(unsupported, f"an item of type {_word(kind)}, role {_word(role) or 'none'}")


def _tool_result(call_id: object, text: str, unsupported: Reason) -> Message:
    if not isinstance(call_id, str):
        raise RowDropped(unsupported, "a tool's output without the id of its call")
    return Message(role="tool", content=text, tool_call_id=call_id)


def _call(call_id: object, name: object, arguments: object, unsupported: Reason) -> dict[str, Any]:
    if not isinstance(name, str):
        raise RowDropped(unsupported, "a tool call without a name")
    call: dict[str, Any] = {"type": "function", "function": {"name": name, "arguments": _arguments(arguments)}}
    return {"id": call_id, **call} if isinstance(call_id, str) else call


def _arguments(arguments: object) -> object:
    """Read the arguments, which the Responses API has as JSON in a string; malformed ones stay as they were sampled."""
    if isinstance(arguments, str):
        try:
            decoded = json.loads(arguments, parse_float=_finite, parse_constant=_finite)
            msgspec.json.encode(decoded)  # NaN, huge numbers and half characters can't be written
        except (ValueError, OverflowError, RecursionError):
            return arguments
        return decoded if isinstance(decoded, dict) else arguments
    return arguments if arguments is not None else {}


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):  # it would be written as null
        raise ValueError(digits)
    return number


def _inline_calls(calls: object, unsupported: Reason) -> Iterator[dict[str, Any]]:
    """Read the tool calls of a message that is in chat form already."""
    if not calls:
        return
    if not isinstance(calls, list):
        raise RowDropped(unsupported, "tool_calls is no list")
    for call in calls:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise RowDropped(unsupported, "a tool call that is no object")
        yield _call(call.get("id"), function.get("name"), function.get("arguments"), unsupported)


def _chat_tool(tool: dict[str, Any]) -> dict[str, Any]:
    if isinstance(tool.get("function"), dict):
        return {"type": "function", "function": tool["function"]}
    if tool.get("type", "function") != "function":
        raise RowDropped(Reason.PROMPT_UNSUPPORTED, f"a tool of type {_word(tool.get('type'))}")
    function = {key: tool[key] for key in ("name", "description", "parameters") if tool.get(key) is not None}
    return {"type": "function", "function": function}


def _refuse_orphans(turns: list[Turn], unsupported: Reason, known: frozenset[str] = frozenset()) -> None:
    """Refuse a tool's result whose call was never made: no chat template can place it."""
    open_calls: set[object] = set(known)  # of the prompt
    for turn in turns:
        open_calls |= {call.get("id") for call in turn.message.get("tool_calls", ())}
        if turn.message["role"] == "tool" and turn.message["tool_call_id"] not in open_calls:
            raise RowDropped(unsupported, "a tool's output without its call")


def text_of(content: object, unsupported: Reason) -> str:
    """Join all parts of a content; a part is a piece of one text, so nothing comes between."""
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    if not isinstance(content, list):
        raise RowDropped(unsupported, f"content is {type(content).__name__}")
    if len(content) == 1:
        return _part_text(content[0], unsupported)
    return "".join([_part_text(part, unsupported) for part in content])


def _part_text(part: object, unsupported: Reason) -> str:
    if isinstance(part, Part):
        kind = part.type
        if isinstance(part.text, str) and isinstance(kind, str) and kind in TEXT_PARTS:
            return part.text
        if isinstance(kind, str) and kind in MEDIA_PARTS:
            raise RowDropped(Reason.MEDIA, f"a content part of type {kind}")
        raise RowDropped(unsupported, f"a content part of type {_word(kind) or 'none'}")
    raise RowDropped(unsupported, f"a content part that is {type(part).__name__}")


def _word(value: object) -> str:
    """Name a type or role, which anything may stand for in a foreign file."""
    return value if isinstance(value, str) else "" if value is None else f"({type(value).__name__})"
