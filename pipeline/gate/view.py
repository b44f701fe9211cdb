"""A preference pair as the rules look at it: its texts, each made once, and the keys that it is compared by."""

import hashlib
import unicodedata
from dataclasses import dataclass
from typing import Any

import msgspec

from schemas.preference import Message, PreferencePair

KEY_BYTES = 8
"""Of a key: two of 10^8 different rows have the same one with a probability of 0.03 %."""
SEPARATOR = "\0"

_encode_sorted = msgspec.json.Encoder(order="deterministic").encode


@dataclass(slots=True)
class PairView:
    """One pair, and what several rules need of it."""

    row: dict[str, Any]  # as the file has it
    pair: PreferencePair
    num_bytes: int  # of the row, as it is stored
    prompt: str  # contents of the messages, one after another
    chosen: str
    rejected: str
    prompt_key: int  # equal for equal conversations, white space and Unicode's forms aside
    chosen_key: int
    rejected_key: int

    @property
    def pair_key(self) -> int:
        """Give a key of 63 bits that the sides' order does not change, and behind it one bit for that order."""
        first, second = sorted((self.chosen_key, self.rejected_key))
        told = b"".join(key.to_bytes(KEY_BYTES) for key in (self.prompt_key, first, second))
        return key_of(told) & ~1 | (self.chosen_key < self.rejected_key)


def view_of(row: dict[str, Any], pair: PreferencePair, num_bytes: int) -> PairView:
    """Make the view of a pair; `row` is what the file has."""
    return PairView(
        row,
        pair,
        num_bytes,
        text_of(pair.prompt),
        text_of(pair.chosen),
        text_of(pair.rejected),
        messages_key(pair.prompt, pair.tools),
        messages_key(pair.chosen),
        messages_key(pair.rejected),
    )


def text_of(messages: tuple[Message, ...]) -> str:
    """Give what is said in messages, one text after another."""
    return messages[0]["content"] if len(messages) == 1 else "\n".join(message["content"] for message in messages)


def messages_key(messages: tuple[Message, ...], tools: tuple[dict[str, Any], ...] = ()) -> int:
    """Give what conversations are compared by: who says what, what is called, which tools are on offer."""
    parts = []
    for message in messages:
        parts += [message["role"], comparable(message["content"])]
        if calls := message.get("tool_calls"):
            parts.append(_encode_sorted([call.get("function") for call in calls]).decode())
    if tools:
        parts.append(_encode_sorted(tools).decode())
    return key_of(SEPARATOR.join(parts).encode("utf-8", "surrogatepass"))


def comparable(text: str) -> str:
    """Give a text without what doesn't matter: how much white space there is, and which of Unicode's forms it has."""
    text = " ".join(text.split())
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def key_of(content: bytes) -> int:
    """Hash to 64 bits, the same on all processes and machines."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=KEY_BYTES).digest())
