"""Loads a policy and samples answers from it: the part that `make_samples.py` and `collect.py` share.

Not a script. Answers are drawn at temperature 1.0 from the whole distribution (no top-k, no top-p), so that
the mean reward measures the policy itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

MAX_OUTPUT_TOKENS = 32
BATCH_SIZE = 256

Chat = list[dict[str, str]]


@dataclass(frozen=True)
class Policy:
    """A causal language model and its tokenizer."""

    model: Any
    tokenizer: Any


@dataclass(frozen=True)
class Answer:
    """One sampled answer. `output_tokens` counts the end token too, as an inference server does."""

    text: str
    input_tokens: int
    output_tokens: int
    truncated: bool


def load_policy(path: Path) -> Policy:
    """Load a saved policy in float32 on the CPU."""
    # Loading takes no time here, and stderr should hold only what a user has to read.
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, local_files_only=True)
    model.train(False)
    return Policy(model, AutoTokenizer.from_pretrained(path, local_files_only=True))


def render(tokenizer: Any, chat: Chat) -> str:
    """The prompt text up to where the assistant begins to write."""
    return str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))


def sample_answers(policy: Policy, chats: Sequence[Chat], samples: int, seed: int) -> list[list[Answer]]:
    """`samples` answers to each chat. Every batch is seeded, so two policies meet the same random numbers."""
    prompts = [render(policy.tokenizer, chat) for chat in chats]
    order = sorted(range(len(prompts) * samples), key=lambda slot: len(prompts[slot // samples]))
    answers: dict[int, Answer] = {}
    for start in range(0, len(order), BATCH_SIZE):
        slots = order[start : start + BATCH_SIZE]
        torch.manual_seed(seed * 1_000_003 + start)
        batch = _sample_batch(policy, [prompts[slot // samples] for slot in slots])
        answers.update(zip(slots, batch, strict=True))
    return [[answers[index * samples + k] for k in range(samples)] for index in range(len(prompts))]


def _sample_batch(policy: Policy, prompts: list[str]) -> list[Answer]:
    # Left padding puts the last prompt token of every row next to its first sampled token.
    encoded = policy.tokenizer(
        prompts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt"
    )
    with torch.inference_mode():
        output = policy.model.generate(
            input_ids=encoded["input_ids"],
            attention_mask=encoded["attention_mask"],
            max_new_tokens=MAX_OUTPUT_TOKENS,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            eos_token_id=policy.tokenizer.eos_token_id,
            pad_token_id=policy.tokenizer.pad_token_id,
        )
    rows = output[:, encoded["input_ids"].shape[1] :].tolist()
    lengths = encoded["attention_mask"].sum(dim=1).tolist()
    return [_to_answer(policy.tokenizer, row, length) for row, length in zip(rows, lengths, strict=True)]


def _to_answer(tokenizer: Any, tokens: list[int], input_tokens: int) -> Answer:
    truncated = tokenizer.eos_token_id not in tokens
    body = tokens if truncated else tokens[: tokens.index(tokenizer.eos_token_id)]
    text = str(tokenizer.decode(body, skip_special_tokens=True))
    return Answer(text, input_tokens, len(body) + (0 if truncated else 1), truncated)
