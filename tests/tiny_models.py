"""Small random models and a byte tokenizer, made on the spot: no network, no files but those a test asks for."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_tokenizer() -> Any:
    """Make a tokenizer whose tokens are the 256 bytes and ChatML's marks; no two bytes ever merge."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={char: number for number, char in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def tiny_qwen3(seed: int = 0, **changes: Any) -> Any:
    """Make a random Qwen3 of two layers for the byte tokenizer, in float32."""
    torch.manual_seed(seed)
    options = {
        "vocab_size": 259,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": True,
        "eos_token_id": 256,
        "pad_token_id": 257,
        "initializer_range": 0.2,  # large, so that log-probs depend on the input
    }
    model = Qwen3ForCausalLM(Qwen3Config(**(options | changes)))
    return model.to(torch.float32)


def save_tiny_policy(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """Save a random model with the byte tokenizer, loadable with from_pretrained."""
    tiny_qwen3(seed, **changes).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder
