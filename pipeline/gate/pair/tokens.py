"""How long prompt and response are in tokens of the user's tokenizer; no torch, no transformers.

What a chat template adds is not counted, nor are tools and their calls, so the number is a lower bound of what a
trainer sees. Rows that hold the tokens of the engine are counted by these.
"""

import json
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.gate.finding import Problem
from pipeline.gate.pair.pointers import Part, part_pointer
from pipeline.gate.pair.token_bounds import Growth, growth_of
from pipeline.gate.pair.view import PairView
from pipeline.gate.rules import Rule
from pipeline.gate.settings import GateSettings
from schemas.errors import UsageError
from schemas.extras import install_command
from schemas.preference import Message
from schemas.terminal import counted, one_line, path_text, reason

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FILE_NAME = "tokenizer.json"
MAX_BYTES = 512 << 20
OPTION = "--tokenizer"
REMEMBERED_TEXTS = 64
"""Pairs of one prompt stand together, so its tokens are counted once."""


class TokenCounter:
    """Counts the tokens of texts, and tells quickly how many there can be at most."""

    def __init__(self, tokenizer: "Tokenizer", growth: Growth) -> None:
        """Take a tokenizer, and how many tokens its texts can have."""
        self._tokenizer = tokenizer
        self.bound = growth.bound
        self.count_prompt = lru_cache(REMEMBERED_TEXTS)(self.count)

    def count(self, text: str) -> int:
        """Count the tokens of a text, special ones that a template would add aside."""
        return len(self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0])


def token_counter(settings: GateSettings) -> TokenCounter | None:
    """Load the tokenizer that the settings name, if any.

    Raises:
        UsageError: it can't be used, or the package tokenizers is missing.
    """
    path = settings.tokenizer
    if path is None or settings.max_tokens is None or not settings.finds(Rule.TOO_LONG):
        return None
    shown = f"{OPTION} {path_text(path)}"
    content = _read(path, shown)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the gate's processes are its parallelism
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError:
        raise UsageError(
            f"{OPTION} needs the package tokenizers, which comes with the extra tokenizer: "
            f"{install_command('tokenizer')}"
        ) from None
    try:
        tokenizer = Tokenizer.from_str(content)
        growth = growth_of(json.loads(content))
    except Exception as error:  # the package has no class of its own
        raise UsageError(f"{shown}: no {FILE_NAME}: {one_line(error)}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return TokenCounter(tokenizer, growth)


def _read(path: Path, shown: str) -> str:
    file = path / FILE_NAME if path.is_dir() else path
    try:
        if file.stat().st_size > MAX_BYTES:
            raise UsageError(f"{shown}: more than {MAX_BYTES >> 20} MiB, which is no {FILE_NAME}")
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        expected = f"{FILE_NAME}, or a folder that has one"
        hub = "; names of the hub are not looked up, so fetch it first" if len(path.parts) <= 2 else ""
        raise UsageError(f"{shown}: no such file: expected {expected}{hub}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{shown}: no {FILE_NAME}: not UTF-8; a tokenizer.model is not read") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{shown}: can't be read: {reason(error)}") from None


def too_long(view: PairView, settings: GateSettings, counter: TokenCounter) -> Iterator[Problem]:
    """Find a pair whose prompt and longer response have more than `max_tokens`."""
    most, pair = settings.max_tokens, view.pair
    if most is None:
        return
    prompt_ids = None if pair.prompt_token_ids is None else len(pair.prompt_token_ids)
    sides = ((Part.CHOSEN, pair.chosen, pair.chosen_sampled), (Part.REJECTED, pair.rejected, pair.rejected_sampled))
    bounds = [_bound(counter, messages) if sampled is None else len(sampled.ids) for _, messages, sampled in sides]
    prompt_bound = _bound(counter, pair.prompt) if prompt_ids is None else prompt_ids
    if prompt_bound + max(bounds) <= most:
        return
    prompt = sum(counter.count_prompt(each["content"]) for each in pair.prompt) if prompt_ids is None else prompt_ids
    longest, longer = 0, Part.CHOSEN
    for (side, messages, sampled), bound in zip(sides, bounds, strict=True):
        if prompt + bound > most:
            response = sum(counter.count(each["content"]) for each in messages) if sampled is None else len(sampled.ids)
            if response > longest:
                longest, longer = response, side
    if prompt + longest > most:
        got = f"{counted(prompt + longest, 'token')} (prompt {prompt:,}, {longer} {longest:,})"
        yield Problem(Rule.TOO_LONG, part_pointer(view, longer), got, f"at most {most:,}")


def _bound(counter: TokenCounter, messages: tuple[Message, ...]) -> float:
    return sum(counter.bound(each["content"]) for each in messages)
