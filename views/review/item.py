"""What is judged: a prompt and one or two responses to it, known by their content."""

from dataclasses import dataclass
from typing import Any

from schemas.preference import Message


@dataclass(frozen=True)
class Item:
    """A prompt and its responses, in the order of the file; which of them people see first is another matter."""

    key: str  # digest of prompt, tools and responses: the same item has the same key in any file
    place: str  # file and line, such as dpo_train.jsonl:12
    prompt: tuple[Message, ...]
    tools: tuple[dict[str, Any], ...]
    responses: tuple[tuple[Message, ...], ...]  # two, or one where there is nothing to compare with
    names: tuple[str, ...]  # what each response is: chosen and rejected, before and after, response
    row: dict[str, Any]  # as it was read
