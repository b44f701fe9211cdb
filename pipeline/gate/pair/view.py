"""A preference pair as the rules look at it: its texts, each made once, and the keys that it is compared by."""

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from pipeline.identify import cluster_of, comparable
from schemas.forms import BINARY, Form
from schemas.preference import Message, PreferencePair

KEY_BYTES = 8
"""Of a key: two of 10^8 different rows have the same one with a probability of 0.03 %."""
KEY_MASK = (1 << 8 * KEY_BYTES) - 1
SEPARATOR = "\0"
FIRST_WORDS = 3

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
    prompt_key: int  # equal for equal conversations, white space around texts aside
    chosen_key: int
    rejected_key: int
    text: str  # all three, one after another
    form: Form = BINARY  # of the row

    @property
    def pair_key(self) -> int:
        """Give a key of 63 bits that the sides' order does not change, and behind it one bit for that order."""
        first, second = sorted((self.chosen_key, self.rejected_key))
        told = b"".join(key.to_bytes(KEY_BYTES) for key in (self.prompt_key, first, second))
        return key_of(told) & ~1 | (self.chosen_key < self.rejected_key)

    @property
    def says_one_thing(self) -> bool:
        """Say whether both sides say the same, white space and Unicode's forms aside."""
        if self.chosen_key == self.rejected_key:
            return True
        if _beginning(self.chosen) != _beginning(self.rejected):
            return False  # as in most pairs, whose texts need not be folded
        return _folded(self.pair.chosen) == _folded(self.pair.rejected)


def view_of(row: dict[str, Any], pair: PreferencePair, num_bytes: int, form: Form = BINARY) -> PairView:
    """Make the view of a pair; `row` is what the file has, in the form that is named."""
    texts = text_of(pair.prompt), text_of(pair.chosen), text_of(pair.rejected)
    return PairView(
        row,
        pair,
        num_bytes,
        *texts,
        messages_key(pair.prompt, pair.tools),
        messages_key(pair.chosen),
        messages_key(pair.rejected),
        "\n".join(texts),
        form,
    )


def text_of(messages: tuple[Message, ...]) -> str:
    """Give what is said in messages, one text after another."""
    return messages[0]["content"] if len(messages) == 1 else "\n".join(message["content"] for message in messages)


def messages_key(messages: tuple[Message, ...], tools: tuple[dict[str, Any], ...] = ()) -> int:
    """Give what conversations are compared by: who says what, what is called, which tools are on offer."""
    if len(messages) == 1 and len(messages[0]) == 2 and not tools:
        return key_of(f"{messages[0]['role']}{SEPARATOR}{messages[0]['content'].strip()}".encode())
    parts = []
    for message in messages:
        parts += [message["role"], message["content"].strip()]
        if message.get("tool_calls"):
            parts.append(_encode_sorted(_calls(message)).decode())
    if tools:
        parts.append(_encode_sorted(tools).decode())
    return key_of(SEPARATOR.join(parts).encode())


def folded_key(messages: Sequence[Message]) -> int:
    """Give what prompts of different sets are compared by: case and punctuation make no difference."""
    return cluster_of(messages) & KEY_MASK


def key_of(content: bytes) -> int:
    """Hash to 64 bits, the same on all processes and machines."""
    return int.from_bytes(hashlib.sha1(content, usedforsecurity=False).digest()[:KEY_BYTES])  # faster than BLAKE2


def _beginning(text: str) -> list[str]:
    return [unicodedata.normalize("NFC", word[:64])[:16] for word in text.split(None, FIRST_WORDS)[:FIRST_WORDS]]


def _folded(messages: tuple[Message, ...]) -> list[object]:
    return [(each["role"], comparable(each["content"]), _calls(each)) for each in messages]


def _calls(message: Message) -> list[object]:
    """Give what is called with what; ids are drawn anew each time."""
    return [call.get("function") for call in message.get("tool_calls") or ()]
