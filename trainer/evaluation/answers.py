"""Answers of two policies to the same prompts with the same random numbers, and what they come to.

Each answer has a seed of its own, made of the seed of the evaluation, the prompt's place and the number of the sample.
It gives one random number for each token, by which both policies choose from their distributions; so the same
distribution gives the same token, and what differs between two answers is due to the weights.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from schemas.errors import InputError
from trainer.data.encode import encode_groups
from trainer.data.groups import GroupPair, PreferenceGroup, Response
from trainer.data.limits import TimeLimit
from trainer.data.plain import render_plain
from trainer.data.render import render_groups
from trainer.data.template import Style
from trainer.evaluation.intervals import intervals_by_prompt
from trainer.evaluation.measures import Told, told
from trainer.evaluation.prompts import Prompt
from trainer.evaluation.question import Answer, Question

SEED_BYTES = 6  # so that JSON readers that know floating-point numbers alone keep it
STAND_IN = Response(({"role": "assistant", "content": "x"},), truncated=False)


def encode_prompts(prompts: Sequence[Prompt], tokenizer: Any, style: Style, end_ids: frozenset[int]) -> list[list[int]]:
    """Tokenise prompts as a training does, up to where the policy begins to write.

    Raises:
        UsageError: the tokenizer has no chat template, or one that refuses a conversation.
        InputError: a prompt comes to nothing.
    """
    groups = [
        PreferenceGroup(one.messages, (STAND_IN,), (GroupPair(0, 0, one.source),), tools=one.tools) for one in prompts
    ]
    if style.is_plain:
        rendered = [render_plain(group, tokenizer, loss_mask="policy") for group in groups]
    else:
        marks = tuple(tokenizer.decode([number], skip_special_tokens=False) for number in sorted(end_ids))
        with TimeLimit() as limit:
            rendered = render_groups(
                groups, tokenizer, end_marks=marks, loss_mask="policy", limit=limit, options=style.options
            )
    found = [list(encoded.prompt) for encoded in encode_groups(rendered, tokenizer, end_ids)]
    for prompt, ids in zip(prompts, found, strict=True):
        if not ids:
            raise InputError(f"{prompt.source}: the prompt comes to no token, so there is nothing to answer")
    return found


def questions(ids: Sequence[Sequence[int]], *, samples_per_prompt: int, seed: int) -> list[Question]:
    """Ask each prompt so many times, each time with a seed of its own."""
    return [
        Question(place, tuple(prompt), _seed(seed, place, sample))
        for place, prompt in enumerate(ids)
        for sample in range(samples_per_prompt)
    ]


def _seed(*parts: int) -> int:
    text = "/".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=SEED_BYTES).digest())


def sample_rows(
    prompts: Sequence[Prompt], asked: Sequence[Question], before: Sequence[Answer], after: Sequence[Answer]
) -> Iterator[dict[str, Any]]:
    """Give the rows of samples.jsonl, in the order of the prompts."""
    for question, old, new in zip(asked, before, after, strict=True):
        yield {
            "prompt": list(prompts[question.prompt].messages),
            "before": old.text,
            "after": new.text,
            "seed": question.seed,
            "before_truncated": old.is_truncated,
            "after_truncated": new.is_truncated,
        }


def compared(asked: Sequence[Question], before: Sequence[Answer], after: Sequence[Answer]) -> dict[str, Told]:
    """Give means over the answers with intervals by prompt: lengths, how many were cut, how many are the same."""
    sides = {"before": before, "after": after}
    columns: dict[str, list[float]] = {}
    for side, answers in sides.items():
        columns[f"tokens_{side}"] = [float(one.num_tokens) for one in answers]
        columns[f"truncated_{side}"] = [float(one.is_truncated) for one in answers]
    columns["tokens_difference"] = [
        float(new.num_tokens - old.num_tokens) for old, new in zip(before, after, strict=True)
    ]
    columns["same_text"] = [float(old.text == new.text) for old, new in zip(before, after, strict=True)]
    values = np.array(list(columns.values()), dtype=np.float64).T
    found = intervals_by_prompt(values, np.array([one.prompt for one in asked], dtype=np.int64))
    return {name: told(interval) for name, interval in zip(columns, found, strict=True)}
