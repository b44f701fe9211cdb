"""One form for what a policy thought before it answered.

Gym's rows have it as items of their own, inline between think tags, or inline with a closing tag alone (the chat
template opened it). Left so, chosen and rejected would differ by format. Here all become one form, that which the
chat templates of Qwen and DeepSeek read (`<think>`, the thoughts, `</think>`, an empty line, the answer), or none.
"""

import re
from enum import StrEnum

OPENING, CLOSING = "<think>", "</think>"

_BLOCK = re.compile(f"{OPENING}.*?{CLOSING}", re.DOTALL)


class ReasoningPolicy(StrEnum):
    """What becomes of reasoning."""

    KEEP = "keep"
    STRIP = "strip"
    REQUIRE_BOTH = "require-both"


def split_reasoning(text: str, *, separate: str = "") -> tuple[str, str]:
    """Take the reasoning that leads a text off it; `separate` is what came as items of its own.

    Returns (reasoning, answer). An opening tag that is never closed leaves no answer: the policy ran out of tokens.
    """
    if CLOSING not in text and OPENING not in text:
        return separate.strip(), text.lstrip("\n") if separate else text
    head, closed, answer = text.partition(CLOSING)
    opened = head.lstrip().startswith(OPENING)
    if opened:
        head = head.lstrip().removeprefix(OPENING)
    is_reasoning = opened or (closed and OPENING not in head and (not separate or not head.strip()))
    if not is_reasoning:  # tags that the answer speaks of
        return separate.strip(), text.lstrip("\n") if separate else text
    thoughts = [part for part in (separate.strip(), head.strip()) if part]
    return "\n".join(thoughts), answer.lstrip("\n") if closed else ""


def join_reasoning(reasoning: str, answer: str) -> str:
    """Put reasoning before an answer in the one form."""
    return f"{OPENING}\n{reasoning}\n{CLOSING}\n\n{answer}" if reasoning else answer


def unfinished_reasoning(reasoning: str) -> str:
    """Give the text of a policy that was cut while it thought."""
    return f"{OPENING}\n{reasoning}"


def without_reasoning(text: str) -> str:
    """Take out thoughts that stand further inside a text, whole blocks only."""
    return _BLOCK.sub("", text) if OPENING in text else text
