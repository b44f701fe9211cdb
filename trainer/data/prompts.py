"""Texts that a data set has put around its prompts: a system message before them, a frame for the first question."""

import string
from collections import Counter
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from schemas.errors import UsageError
from schemas.preference import Message, PreferencePair
from schemas.terminal import counted, path_text
from trainer.config.data import DatasetSection

SYSTEM_ROLES = ("system", "developer")
PLACEHOLDER = "{}"


class Kept(StrEnum):
    """What was not done to a pair though the files ask for it, or was lost by it; the value tells it to people."""

    OWN_SYSTEM = "keep the system message of their row; system_prompt_file is for prompts that have none"
    NO_QUESTION = "have no message of the user that prompt_file could be put around"
    TOKEN_IDS = "are tokenised anew: their sampled token ids are those of another prompt"


@dataclass(frozen=True)
class PromptTexts:
    """What is put before and around the prompts of a set; None: nothing."""

    system: str | None = None
    frame: str | None = None  # with {} in it


NO_TEXTS = PromptTexts()


def read_prompt_texts(dataset: DatasetSection) -> PromptTexts:
    """Read system_prompt_file and prompt_file.

    Raises:
        UsageError: a file can't be read, or has no {}.
    """
    return PromptTexts(read_system_prompt(dataset), read_frame(dataset))


def read_system_prompt(dataset: DatasetSection) -> str | None:
    """Read system_prompt_file.

    Raises:
        UsageError: it can't be read, or is empty.
    """
    path = dataset.system_prompt_file
    text = None if path is None else _read(path, "system_prompt_file")
    if path is not None and not text:
        raise UsageError(f"system_prompt_file={path_text(path)}: is empty")
    return text


def read_frame(dataset: DatasetSection) -> str | None:
    """Read prompt_file.

    Raises:
        UsageError: it can't be read, or has not one {}.
    """
    path = dataset.prompt_file
    return None if path is None else checked_frame(_read(path, "prompt_file"), f"prompt_file={path_text(path)}")


def checked_frame(frame: str, name: str) -> str:
    """Give a frame that has a place for the first message of the user; without one, that would be gone.

    Raises:
        UsageError: it has none, or several.
    """
    if (times := _num_places(frame)) != 1:
        raise UsageError(
            f"{name}: has {{}} {counted(times, 'time')}, expected once: there the first message of the user is put"
        )
    return frame


def with_texts(pair: PreferencePair, texts: PromptTexts, kept: Counter[Kept]) -> PreferencePair:
    """Put the texts to the pair's prompt; count what stays as it is."""
    prompt = list(pair.prompt)
    if texts.frame is not None:
        place = next((place for place, message in enumerate(prompt) if message["role"] == "user"), None)
        if place is None:
            kept[Kept.NO_QUESTION] += 1
        else:
            prompt[place] = _framed(prompt[place], texts.frame)
    if texts.system is not None:
        if any(message["role"] in SYSTEM_ROLES for message in prompt):
            kept[Kept.OWN_SYSTEM] += 1
        else:
            prompt.insert(0, Message(role="system", content=texts.system))
    if prompt == list(pair.prompt):
        return pair
    if pair.prompt_token_ids is not None:
        kept[Kept.TOKEN_IDS] += 1
    return replace(pair, prompt=tuple(prompt), prompt_token_ids=None, chosen_sampled=None, rejected_sampled=None)


def _framed(message: Message, frame: str) -> Message:
    content = message["content"]
    text = frame.format(content) if _is_format(frame) else frame.replace(PLACEHOLDER, content)
    return Message(**(message | {"content": text}))


def _num_places(frame: str) -> int:
    return len(_fields(frame)) if _is_format(frame) else frame.count(PLACEHOLDER)


def _is_format(frame: str) -> bool:
    """Tell whether the text is a format of Python's with {} alone, in which {{ stands for a brace, as NeMo RL's are.

    Text with other braces in it, such as JSON, is none; there {} is replaced and all else stays.
    """
    try:
        return set(_fields(frame)) <= {("", "", None)}
    except ValueError:
        return False


def _fields(frame: str) -> list[tuple[str, str | None, str | None]]:
    parts = string.Formatter().parse(frame)
    return [(name, spec, conversion) for _, name, spec, conversion in parts if name is not None]


def _read(path: Path, option: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # a mark of the byte order is no text
    except UnicodeDecodeError:
        raise UsageError(f"{option}={path_text(path)}: is no UTF-8 text") from None
    except OSError as error:
        raise UsageError(f"{option}={path_text(path)}: can't be read: {error.strerror or error}") from None
