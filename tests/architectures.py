"""Small random models of many architectures, in float32 and without dropout."""

import copy
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    Cohere2Config,
    CohereConfig,
    FalconH1Config,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GptOssConfig,
    GraniteConfig,
    Lfm2Config,
    LlamaConfig,
    MistralConfig,
    NemotronHConfig,
    PhiConfig,
    Qwen2Config,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3MoeConfig,
)

from trainer.model.policy import disable_dropout

VOCABULARY = 64
WINDOW = 6
"""Shorter than most prompts and responses of the tests, so that a window that is left out shows."""

WIDTHS: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,  # large, so that log-probs depend on the input
}
SIZES = {**WIDTHS, "head_dim": 8}
TWO_KINDS = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_experts_per_tok": 2}

SHARING: dict[str, Any] = {
    "llama": LlamaConfig(**SIZES),
    "llama_tied": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**SIZES),
    "qwen2_window": Qwen2Config(**SIZES, use_sliding_window=True, **TWO_KINDS),
    "qwen3": Qwen3Config(**SIZES),
    "qwen3_moe": Qwen3MoeConfig(**SIZES, **EXPERTS, num_experts=4, moe_intermediate_size=16),
    "mistral_window": MistralConfig(**SIZES, sliding_window=WINDOW),
    "gemma2": Gemma2Config(
        **SIZES, **TWO_KINDS, attn_logit_softcapping=2.0, final_logit_softcapping=5.0, query_pre_attn_scalar=8
    ),
    "gemma3": Gemma3TextConfig(**SIZES, **TWO_KINDS, final_logit_softcapping=5.0, query_pre_attn_scalar=8),
    "gpt_oss": GptOssConfig(**SIZES, **EXPERTS, **TWO_KINDS, num_local_experts=4),
    "gpt2": GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, initializer_range=0.2),
    "phi": PhiConfig(**WIDTHS),  # its head has a bias
    "granite": GraniteConfig(**SIZES, logits_scaling=3.0, attention_multiplier=0.2, residual_multiplier=0.7),
    "cohere": CohereConfig(**WIDTHS, logit_scale=0.5),
    "cohere2": Cohere2Config(**WIDTHS, **TWO_KINDS, logit_scale=0.5),
}
"""Models that can share a prompt by a mask."""

HYBRID: dict[str, Any] = {
    "qwen3_5": Qwen3_5TextConfig(
        **SIZES,
        layer_types=["linear_attention", "full_attention"],
        linear_num_value_heads=4,
        linear_num_key_heads=2,
        linear_key_head_dim=8,
        linear_value_head_dim=8,
    ),
    "nemotron_h": NemotronHConfig(
        **{key: value for key, value in SIZES.items() if key != "num_hidden_layers"},
        layers_block_type=["mamba", "attention", "moe"],
        mamba_num_heads=4,
        mamba_head_dim=8,
        n_groups=1,
        ssm_state_size=8,
        n_routed_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        moe_shared_expert_intermediate_size=16,
    ),
    "lfm2": Lfm2Config(**WIDTHS, layer_types=["conv", "full_attention"]),
    "falcon_h1": FalconH1Config(
        **SIZES,
        lm_head_multiplier=0.7,
        mamba_d_ssm=32,
        mamba_n_heads=4,
        mamba_d_head=8,
        mamba_d_state=8,
        mamba_n_groups=1,
    ),
}
"""Models with layers that no mask reaches: each response is computed behind a prompt of its own."""


def build(name: str, *, seed: int = 0, vocabulary: int = VOCABULARY) -> Any:
    """Make a model; it computes attention in the most literal way there is."""
    torch.manual_seed(seed)
    config = copy.deepcopy((SHARING | HYBRID)[name])
    config.vocab_size = vocabulary
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").to(torch.float32)
    disable_dropout(model)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # biases start at 0 and norms at 1, where some mistakes cancel
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.train()
