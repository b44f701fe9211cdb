"""Conversations as plain text, for tools of others that show texts and know nothing of tool calls."""

import json
from collections.abc import Sequence

from schemas.preference import Message


def readable(messages: Sequence[Message]) -> str:
    """Give what was said; who said it only where there is more than one message."""
    if len(messages) == 1:
        return spoken(messages[0])
    return "\n\n".join(f"[{message['role']}]\n{spoken(message)}" for message in messages)


def spoken(message: Message) -> str:
    """Give the text of a message, with its calls as JSON below."""
    calls = [json.dumps(call.get("function"), ensure_ascii=False) for call in message.get("tool_calls") or ()]
    return "\n".join(part for part in (message["content"], *calls) if part)
