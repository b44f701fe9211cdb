"""What the speed of a run is held against: peaks by the device's name, operations by the model's shape."""

from typing import Any

import pytest
from transformers import AutoModelForCausalLM, Gemma4TextConfig, MambaConfig

from tests.architectures import HYBRID, SHARING, WIDTHS, build
from tests.pairwise import CPU, config_of
from trainer.cost.memory import estimate_memory
from trainer.cost.throughput import flop_counter, peak_of
from trainer.model.attention import choose_attention


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40", 181e12),  # begins as an L4 does
        ("NVIDIA L40S", 362e12),
        ("NVIDIA RTX A1000", None),  # as an A100 does
        ("NVIDIA A10G", None),
    ],
)
def test_peaks_are_found_by_whole_words(name: str, expected: float | None) -> None:
    assert peak_of(name) == expected


ODD: dict[str, Any] = {
    # no attention at all
    "mamba": (MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, state_size=8), 0),
    # queries of 4 x 8 in one layer, of 4 x 16 in the other
    "gemma4": (
        Gemma4TextConfig(
            **WIDTHS,
            head_dim=8,
            global_head_dim=16,
            layer_types=["sliding_attention", "full_attention"],
            hidden_size_per_layer_input=0,
            num_kv_shared_layers=0,
        ),
        32 + 64,
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_models_whose_layers_are_not_alike_are_counted(name: str) -> None:
    config, expected = ODD[name]
    model = AutoModelForCausalLM.from_config(config)
    assert flop_counter(model, CPU).attention_per_visible == expected
    assert estimate_memory(model, config_of(), choose_attention(model, "auto", CPU)).activations > 0


@pytest.mark.parametrize("name", SHARING | HYBRID)
def test_every_model_that_trains_is_counted_and_estimated(name: str) -> None:
    model = build(name)
    assert flop_counter(model, CPU).weights_per_token > 0
    estimate = estimate_memory(model, config_of(), choose_attention(model, "auto", CPU))
    assert min(estimate.weights, estimate.activations) > 0
