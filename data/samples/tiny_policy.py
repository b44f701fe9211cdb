"""Builds the sample policy: a byte-level tokenizer, a small Qwen3 model, and its supervised training.

Not a script; `make_samples.py` calls it. A share of the demonstrations holds typical mistakes, so the policy
knows how to sort and yet answers rightly only about half of the time when sampled. DPO then sharpens it.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from sampling import Policy, render
from sort_task import ANSWER_RULES, SYSTEM_MESSAGES, USER_TEMPLATES, SortTask, task_stream
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = 128
MAX_LENGTH = 2048
# Longer than any finished answer, and than what is sampled: only a ramble reaches it, and so never ends.
MAX_ANSWER_TOKENS = 36

POOL_SIZE = 20_000
STEPS = 420
BATCH_SIZE = 96
PEAK_LR = 3e-3
WARMUP_STEPS = 50
LOG_EVERY = 60

# Shares of the demonstrations; the rest is right.
MISTAKE_SHARE = 0.41
RAMBLE_SHARE = 0.01

OPENINGS = ("", "Sorted: ", "The answer is ", "In order: ")
CLOSINGS = (" I hope this helps.", " Ask me for more.")
REFUSALS = ("hard to say.", "I do not know.")

# Qwen's ChatML, with tools and tool answers, without think blocks and without a default system message.
CHAT_TEMPLATE = r"""
{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\n\n' }}{%- endif %}
    {{- '# Tools\n\nYou may call these functions:\n<tools>' }}
    {%- for tool in tools %}{{- '\n' }}{{- tool | tojson }}{%- endfor %}
    {{- '\n</tools>\n\nFor each call, return a JSON object in tags:\n<tool_call>\n' }}
    {{- '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- set content = message.content if message.content is string else '' %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}
    {%- elif message.role == 'assistant' %}
        {{- '<|im_start|>assistant\n' + content }}
        {%- for call in message.tool_calls or [] %}
            {%- set function = call.function if call.function else call %}
            {%- if content or not loop.first %}{{- '\n' }}{%- endif %}
            {{- '<tool_call>\n{"name": "' + function.name + '", "arguments": ' }}
            {%- if function.arguments is string %}{{- function.arguments }}
            {%- else %}{{- function.arguments | tojson }}{%- endif %}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == 'tool' %}
        {%- if loop.first or loop.previtem.role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\n<tool_response>\n' + content + '\n</tool_response>' }}
        {%- if loop.last or loop.nextitem.role != 'tool' %}{{- '<|im_end|>\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}
""".strip()


@dataclass(frozen=True)
class Example:
    """One demonstration as token ids; the loss is on the answer only."""

    prompt: list[int]
    answer: list[int]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A BPE over all 256 bytes, with a few merges for the words of the task; digits always stay single."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=len(SPECIAL_TOKENS) + 256 + MERGES,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_task_words(), trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=CHAT_TEMPLATE,
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )


def _task_words() -> list[str]:
    questions = [
        template.replace("{d}", "").replace("{o}", direction)
        for template, *directions in USER_TEMPLATES
        for direction in directions
    ]
    # The roles come in as separate lines, as they stand in the rendered chat.
    return [
        *questions,
        *SYSTEM_MESSAGES,
        *ANSWER_RULES,
        *OPENINGS,
        *CLOSINGS,
        *REFUSALS,
        "system\n",
        "user\n",
        "assistant\n",
    ]


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen3ForCausalLM:
    """A freshly initialised Qwen3 of under half a million parameters."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=24,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    return Qwen3ForCausalLM(config)


def demonstrate(task: SortTask, rng: random.Random) -> str:
    """A demonstration, right or with a typical mistake. The opening words never tell which."""
    opening = rng.choice(OPENINGS)
    answer = task.expected_answer
    draw = rng.random()
    if draw < RAMBLE_SHARE:
        return opening + " ".join(answer * MAX_ANSWER_TOKENS)
    if draw < RAMBLE_SHARE + MISTAKE_SHARE:
        return opening + spoil(answer, rng)
    return f"{opening}\\boxed{{{answer}}}"


def spoil(answer: str, rng: random.Random) -> str:
    """What the verifier turns down: more text after the box, or no answer at all.

    Mistakes in the digits come by themselves, as the policy is small and its training short.
    """
    if rng.random() < 0.5:
        return f"\\boxed{{{answer}}}{rng.choice(CLOSINGS)}"
    return rng.choice(REFUSALS)


def make_examples(tokenizer: PreTrainedTokenizerFast, seed: int, reserved: frozenset[str]) -> list[Example]:
    """The pool of demonstrations, none on a digit list of the training or held-out prompts."""
    rng = random.Random(f"{seed}-demonstrations")
    stream = task_stream(f"{seed}-pool", reserved)
    tasks = [next(stream) for _ in range(POOL_SIZE)]
    prompts = tokenizer([render(tokenizer, task.chat()) for task in tasks], add_special_tokens=False)
    answers = tokenizer([demonstrate(task, rng) + "<|im_end|>" for task in tasks], add_special_tokens=False)
    pairs = zip(prompts["input_ids"], answers["input_ids"], strict=True)
    return [Example(prompt, answer[:MAX_ANSWER_TOKENS]) for prompt, answer in pairs]


def train_policy(seed: int, reserved: frozenset[str]) -> Policy:
    """Plain supervised learning (AdamW, linear warm-up, cosine decay) on the demonstrations."""
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, seed)
    examples = make_examples(tokenizer, seed, reserved)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, betas=(0.9, 0.98), weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, _lr_factor)
    model.train()
    for step, batch in enumerate(_batches(examples, random.Random(f"{seed}-batches")), start=1):
        ids, mask, labels = _collate(batch, int(tokenizer.pad_token_id))
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
        if step % LOG_EVERY == 0:
            print(f"supervised step {step}/{STEPS}  loss {loss.item():.3f}", file=sys.stderr, flush=True)
    return Policy(model.train(False), tokenizer)


def _lr_factor(step: int) -> float:
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    return 0.5 * (1 + math.cos(math.pi * (step - WARMUP_STEPS) / max(1, STEPS - WARMUP_STEPS)))


def _batches(examples: list[Example], rng: random.Random) -> Iterator[list[Example]]:
    """`STEPS` batches; the pool is shuffled anew whenever it is used up."""
    queue: list[Example] = []
    for _ in range(STEPS):
        if len(queue) < BATCH_SIZE:
            queue = rng.sample(examples, len(examples))
        yield queue[:BATCH_SIZE]
        del queue[:BATCH_SIZE]


def _collate(batch: list[Example], pad: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    width = max(len(example.prompt) + len(example.answer) for example in batch)
    ids = torch.full((len(batch), width), pad)
    mask = torch.zeros((len(batch), width), dtype=torch.long)
    labels = torch.full((len(batch), width), -100)
    for row, example in enumerate(batch):
        start, end = len(example.prompt), len(example.prompt) + len(example.answer)
        ids[row, :end] = torch.tensor(example.prompt + example.answer)
        mask[row, :end] = 1
        labels[row, start:end] = torch.tensor(example.answer)
    return ids, mask, labels
