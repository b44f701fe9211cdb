"""From the Responses API's items, as NeMo Gym records them, to chat messages.

What BinaryPreference can't hold (tool use, images, other people's turns inside a response) is refused by a named
reason, never bent into text. Reasoning items are left out of prompt and response alike.
"""

import itertools
from typing import Any

from pipeline.attrition import Reason, RowDropped
from schemas.preference import Message

TEXT_PARTS = {"input_text", "output_text", "text"}
TOOL_ITEMS = {
    "function_call",
    "function_call_output",
    "custom_tool_call",
    "custom_tool_call_output",
    "mcp_call",
}


def prompt_messages(params: dict[str, Any]) -> tuple[Message, ...]:
    """Give the prompt as messages: `instructions` as a leading system message, then all of `input`.

    Raises:
        RowDropped: the prompt is empty, offers tools, or holds what text can't.
    """
    if params.get("tools"):
        raise RowDropped(Reason.TOOL_USE, "the prompt offers tools")
    if _mapping(params.get("metadata")).get("audio_url"):
        raise RowDropped(Reason.PROMPT_UNSUPPORTED, "audio")
    instructions, given = params.get("instructions"), params.get("input")
    messages: list[Message] = []
    if isinstance(instructions, str) and instructions:
        messages.append(Message(role="system", content=instructions))
    if isinstance(given, str):
        messages.append(Message(role="user", content=given))
    elif isinstance(given, list):
        messages += [message for item in given if (message := _prompt_message(item)) is not None]
    else:
        raise RowDropped(Reason.PROMPT_UNSUPPORTED, f"input is {type(given).__name__}, not text or a list")
    if not any(message["content"].strip() for message in messages if message["role"] != "system"):
        raise RowDropped(Reason.PROMPT_EMPTY)
    return tuple(messages)


def response_text(items: list[Any], *, prompt: tuple[Message, ...] = ()) -> str:
    """Join the texts of the assistant's messages: one turn, as Gym's own converter has it.

    Raises:
        RowDropped: the response is empty, uses tools, or holds what text can't.
    """
    texts = [_response_part(item) for item in items]
    text = "".join(texts)
    if _asks_twice(prompt) and sum(map(bool, texts)) > 1:
        raise RowDropped(Reason.RESPONSE_UNSUPPORTED, "several answers to several user turns, in no known order")
    if not text.strip():
        raise RowDropped(Reason.RESPONSE_EMPTY)
    return text


def _asks_twice(prompt: tuple[Message, ...]) -> bool:
    """Tell whether user turns follow one another: the answers then lie between them, not behind."""
    roles = [message["role"] for message in prompt]
    return any(pair == ("user", "user") for pair in itertools.pairwise(roles))


def _prompt_message(item: object) -> Message | None:
    if not isinstance(item, dict):
        raise RowDropped(Reason.PROMPT_UNSUPPORTED, f"an input item that is {type(item).__name__}")
    kind, role = _word(item.get("type"), "message"), _word(item.get("role"), "none")
    if kind == "reasoning":
        return None
    if kind in TOOL_ITEMS or role == "tool" or item.get("tool_calls"):
        raise RowDropped(Reason.TOOL_USE, "the prompt holds tool calls")
    if kind != "message" or role not in {"system", "developer", "user", "assistant"}:
        raise RowDropped(Reason.PROMPT_UNSUPPORTED, f"an input item of type {kind}, role {role}")
    return Message(role=role, content=_text(item.get("content"), Reason.PROMPT_UNSUPPORTED))


def _response_part(item: object) -> str:
    if not isinstance(item, dict):
        raise RowDropped(Reason.RESPONSE_UNSUPPORTED, f"an output item that is {type(item).__name__}")
    kind, role = _word(item.get("type"), "message"), _word(item.get("role"), "assistant")
    if kind == "reasoning":
        return ""
    if kind in TOOL_ITEMS:
        raise RowDropped(Reason.TOOL_USE, "the response calls tools")
    if kind != "message" or role != "assistant":
        raise RowDropped(Reason.RESPONSE_UNSUPPORTED, f"an output item of type {kind}, role {role}")
    return _text(item.get("content"), Reason.RESPONSE_UNSUPPORTED)


def _text(content: object, reason: Reason) -> str:
    """Join all parts of a content; a part is a piece of one text, so nothing comes between."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RowDropped(reason, f"content is {type(content).__name__}")
    texts = []
    for part in content:
        kind = _word(part.get("type"), "none") if isinstance(part, dict) else type(part).__name__
        if kind not in TEXT_PARTS or not isinstance(part.get("text"), str):
            raise RowDropped(reason, f"a content part of type {kind}")
        texts.append(part["text"])
    return "".join(texts)


def _word(value: object, default: str) -> str:
    """Read a type or role, which anything may stand for in a foreign file."""
    if value is None:
        return default
    return value if isinstance(value, str) else f"({type(value).__name__})"


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
