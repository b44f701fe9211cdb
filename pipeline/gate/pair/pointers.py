"""Where in a row, as its file has it, stands what a rule has found in the pair that was made of it."""

from enum import StrEnum

from pipeline.gate.pair.view import PairView
from schemas.forms import DEFAULT_KEYS, HELPSTEER3
from schemas.preference import Message
from schemas.terminal import bare_excerpt


class Part(StrEnum):
    """A part of a pair."""

    PROMPT = "prompt"
    CHOSEN = "chosen"
    REJECTED = "rejected"


SIDES = (Part.CHOSEN, Part.REJECTED)


def messages_of(view: PairView, part: Part) -> tuple[Message, ...]:
    """Give the messages of a part."""
    messages: tuple[Message, ...] = getattr(view.pair, part)
    return messages


def message_pointer(view: PairView, part: Part, index: int, key: str = "content") -> str:
    """Give the JSON pointer to a key of a message; to the text, where the row has one in place of messages.

    Rows whose sides are whole conversations have the prompt in there.
    """
    path, messages = _path(view, part), messages_of(view, part)
    value = _at(view.row, path)
    if part is Part.PROMPT and not (isinstance(value, list) or (isinstance(value, str) and len(messages) == 1)):
        path = _path(view, Part.CHOSEN)
        value = _at(view.row, path)
    elif isinstance(value, list) and part is not Part.PROMPT:
        index += len(value) - len(messages)
    return _pointer(*path, *((index, key) if isinstance(value, list) else ()))


def part_pointer(view: PairView, part: Part) -> str:
    """Give the JSON pointer to a part as a whole."""
    return _pointer(*_path(view, part))


def told_pointer(view: PairView, side: Part, key: str) -> str:
    """Give the JSON pointer to what a row tells of a side beside its text: the reward, or whether it was cut."""
    if view.form.is_ranked:
        return _pointer("completions", _place(view, side), key)
    return _pointer(f"{side}_{key}")


def _path(view: PairView, part: Part) -> tuple[str | int, ...]:
    if view.form.is_ranked:
        return ("context",) if part is Part.PROMPT else ("completions", _place(view, part), "completion")
    if view.form is HELPSTEER3 and part is not Part.PROMPT:
        return ("response1" if (view.row["overall_preference"] < 0) is (part is Part.CHOSEN) else "response2",)
    return (view.form.keys[DEFAULT_KEYS.index(part)],)


def _place(view: PairView, side: Part) -> int:
    first, second = (completion["rank"] for completion in view.row["completions"])
    return int((first > second) is (side is Part.CHOSEN))


def _at(row: object, path: tuple[str | int, ...]) -> object:
    for step in path:
        if isinstance(row, dict):
            row = row.get(step)
        elif isinstance(row, list) and isinstance(step, int):
            row = row[step]
    return row


def _pointer(*path: str | int) -> str:
    return "".join("/" + bare_excerpt(str(step).replace("~", "~0").replace("/", "~1")) for step in path)
