"""What pairs are compared by: bytes that are equal for equal conversations, and keys of 64 bits made of them.

A message of the one role that its part usually has is told by its text alone, so that rows with texts and rows with
messages can be compared, and most keys are made fast.
"""

import hashlib
import unicodedata
from collections.abc import Sequence
from typing import Any

import msgspec

from pipeline.identify import cluster_of, comparable
from schemas.preference import Message

KEY_BYTES = 8
"""Of a key: two of 10^8 different rows have the same one with a probability of 0.03 %."""
KEY_MASK = (1 << 8 * KEY_BYTES) - 1
SEPARATOR = b"\xff"  # no text in UTF-8 has such a byte
FIRST_WORDS = 3

_encode_sorted = msgspec.json.Encoder(order="deterministic").encode


def key_of(content: bytes) -> int:
    """Hash to 64 bits, the same on all processes and machines."""
    return int.from_bytes(hashlib.sha1(content, usedforsecurity=False).digest()[:KEY_BYTES])  # faster than BLAKE2


def text_bytes(text: str) -> bytes:
    """Give what a text is compared by: white space around it doesn't matter."""
    return text.strip().encode()


def messages_bytes(messages: Sequence[Message], usual_role: str, tools: Sequence[dict[str, Any]] = ()) -> bytes:
    """Give what conversations are compared by: who says what, what is called, which tools are on offer."""
    if len(messages) == 1 and messages[0]["role"] == usual_role and not tools and not messages[0].get("tool_calls"):
        return text_bytes(messages[0]["content"])
    parts = [b""]
    for message in messages:
        parts += [message["role"].encode(), text_bytes(message["content"]), _encode_sorted(calls_of(message))]
    parts.append(_encode_sorted(tools))
    return SEPARATOR.join(parts)


def pair_key(prompt_key: int, chosen: bytes, rejected: bytes) -> int:
    """Give a key of 63 bits that the sides' order does not change, and behind it one bit for that order."""
    is_first = chosen < rejected
    first, second = (chosen, rejected) if is_first else (rejected, chosen)
    told = b"".join((prompt_key.to_bytes(KEY_BYTES), len(first).to_bytes(KEY_BYTES), first, second))
    return key_of(told) & ~1 | is_first


def folded_key(messages: Sequence[Message]) -> int:
    """Give what prompts of different sets are compared by: case and punctuation make no difference."""
    return cluster_of(messages) & KEY_MASK


def is_same_text(text: str, other: str) -> bool:
    """Say whether two texts are the same, white space and Unicode's forms aside."""
    first, second = text.strip(), other.strip()
    if not (first and second) or first == second:
        return first == second
    for place in (0, -1):  # of a letter of ASCII, Unicode's forms make no other one
        if first[place] != second[place] and first[place].isascii() and second[place].isascii():
            return False
    return _beginning(first) == _beginning(second) and comparable(first) == comparable(second)


def calls_of(message: Message) -> list[object]:
    """Give what is called with what; ids are drawn anew each time."""
    return [call.get("function") for call in message.get("tool_calls") or ()]


def _beginning(text: str) -> list[str]:
    return [unicodedata.normalize("NFC", word[:64])[:16] for word in text.split(None, FIRST_WORDS)[:FIRST_WORDS]]
