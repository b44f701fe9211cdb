"""A preference pair as the rules look at it: its texts, each made once, and the keys that it is compared by."""

from dataclasses import dataclass
from typing import Any

from pipeline.gate.pair import keys
from pipeline.gate.pair.keys import calls_of, is_same_text, key_of, messages_bytes
from schemas.forms import BINARY, Form
from schemas.preference import Message, PreferencePair


@dataclass(slots=True)
class PairView:
    """One pair, and what several rules need of it."""

    row: dict[str, Any]  # as the file has it
    pair: PreferencePair
    prompt: str  # contents of the messages, one after another
    chosen: str
    rejected: str
    prompt_key: int  # equal for equal conversations, white space around texts aside
    chosen_bytes: bytes  # likewise, what the sides are compared by
    rejected_bytes: bytes
    text: str  # all three, one after another
    form: Form = BINARY  # of the row

    @property
    def pair_key(self) -> int:
        """Give a key of 63 bits that the sides' order does not change, and behind it one bit for that order."""
        return keys.pair_key(self.prompt_key, self.chosen_bytes, self.rejected_bytes)

    @property
    def says_one_thing(self) -> bool:
        """Say whether both sides say the same, white space and Unicode's forms aside."""
        chosen, rejected = self.pair.chosen, self.pair.rejected
        return self.chosen_bytes == self.rejected_bytes or (
            len(chosen) == len(rejected) and all(map(_is_same, chosen, rejected))
        )


def view_of(row: dict[str, Any], pair: PreferencePair, form: Form = BINARY) -> PairView:
    """Make the view of a pair; `row` is what the file has, in the form that is named."""
    texts = text_of(pair.prompt), text_of(pair.chosen), text_of(pair.rejected)
    return PairView(
        row,
        pair,
        *texts,
        key_of(messages_bytes(pair.prompt, "user", pair.tools)),
        messages_bytes(pair.chosen, "assistant"),
        messages_bytes(pair.rejected, "assistant"),
        "\n".join(texts),
        form,
    )


def text_of(messages: tuple[Message, ...]) -> str:
    """Give what is said in messages, one text after another."""
    return messages[0]["content"] if len(messages) == 1 else "\n".join(message["content"] for message in messages)


def _is_same(message: Message, other: Message) -> bool:
    return (
        message["role"] == other["role"]
        and is_same_text(message["content"], other["content"])
        and calls_of(message) == calls_of(other)
    )
