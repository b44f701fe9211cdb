"""Made-up preference pairs of given shapes, and random policies to train on them: what train_vs_trl.py works with."""

import json
import math
import random
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

EOS = "<eos>"
TEMPLATE = (
    "{% for message in messages %}{{ message.content }}{% if message.role == 'assistant' %}<eos>{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class Shape:
    """A kind of pair file."""

    about: str
    num_prompts: int
    prompt_tokens: int
    response_tokens: tuple[int, int]  # from, to, evenly; on a GPU log-normal between them
    num_responses: int
    pairs: str  # all, best_worst or binary
    batch_size: int  # pairs of a step
    bound: dict[str, float]  # by device


SHAPES = {
    "all_pairs": Shape("K=8, all pairs", 2, 256, (128, 256), 8, "all", 28, {"cpu": 8.0, "cuda": 8.0}),
    "best_worst": Shape("best and worst", 16, 192, (128, 256), 2, "best_worst", 8, {"cpu": 1.3, "cuda": 1.5}),
    "binary": Shape("K=8, binary rewards", 3, 256, (128, 256), 8, "binary", 16, {"cpu": 4.0, "cuda": 4.0}),
}
GPU_PROMPTS = 16  # times as many prompts on a GPU

MODELS: dict[str, dict[str, Any]] = {
    "small": {
        "hidden_size": 512,
        "intermediate_size": 1536,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "vocab_size": 8192,
    },
    "0.6b": {
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
    },
    "1.7b": {
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
    },
}
"""Shapes of Qwen3 models; the weights are random, the embedding is the head too."""


def write_inputs(folder: Path, shape: Shape, model: str, device: str) -> None:
    """Write the pair file, and the random policy with a tokenizer of one token a word."""
    words = 8000
    rng = random.Random(0)
    rows = []
    num_prompts = shape.num_prompts * (GPU_PROMPTS if device == "cuda" else 1)
    for _ in range(num_prompts):
        prompt = _words(rng, shape.prompt_tokens, words)
        responses = [_words(rng, _length(rng, shape, device) - 1, words) for _ in range(shape.num_responses)]
        rows += [
            {"prompt": prompt, "chosen": responses[chosen], "rejected": responses[rejected]}
            for chosen, rejected in _pairs(shape)
        ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _write_policy(folder / "policy", model, words)


def _words(rng: random.Random, count: int, words: int) -> str:
    return "".join(f" w{rng.randrange(words)}" for _ in range(count))


def _length(rng: random.Random, shape: Shape, device: str) -> int:
    low, high = shape.response_tokens
    if device == "cpu":
        return rng.randint(low, high)
    return round(min(4 * high, max(low / 4, rng.lognormvariate(math.log((low + high) / 2), 0.6))))


def _pairs(shape: Shape) -> list[tuple[int, int]]:
    if shape.pairs == "binary":
        half = shape.num_responses // 2
        return [(good, bad) for good in range(half) for bad in range(half, shape.num_responses)]
    return list(combinations(range(shape.num_responses), 2))


def _write_policy(folder: Path, model: str, words: int) -> None:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    vocabulary = {f"w{number}": number for number in range(words)} | {EOS: words, "<unk>": words + 1}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=EOS, pad_token=EOS)
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen3Config(**MODELS[model], tie_word_embeddings=True, eos_token_id=words, pad_token_id=words)
    Qwen3ForCausalLM(config).save_pretrained(folder)
