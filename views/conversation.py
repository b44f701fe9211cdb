"""Conversations as one text, so that two of them can be laid side by side and compared word by word."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from schemas.preference import Message


def as_text(messages: Sequence[Message], usual_role: str) -> str:
    """Give what is said; who says it only where that is not one message of the usual role."""
    if len(messages) == 1 and messages[0]["role"] == usual_role and not messages[0].get("tool_calls"):
        return messages[0]["content"]
    return "\n\n".join(_message(message) for message in messages)


def tools_text(tools: Sequence[Mapping[str, Any]]) -> str:
    """Give the tools on offer, one after another."""
    return "\n\n".join(_json(tool, indent=2) for tool in tools)


def said(message: Message) -> str:
    """Give what one message says, and the tools that it calls."""
    parts = [message.get("content") or "", *(_call(call) for call in message.get("tool_calls") or ())]
    return "\n".join(part for part in parts if part)


def _message(message: Message) -> str:
    return "\n".join(part for part in (f"[{message['role']}]", said(message)) if part)


def _call(call: Mapping[str, Any]) -> str:
    function = call.get("function")
    if not isinstance(function, Mapping):
        return f"→ {_json(call)}"
    arguments = function.get("arguments")
    told = arguments if isinstance(arguments, str) else _json(arguments)
    return f"→ {function.get('name')}({told})"


def _json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent, default=str)
