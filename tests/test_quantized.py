"""QLoRA on a CPU: 4 and 8 bits by bitsandbytes, the quantised base as reference, merging into whole weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from tests.pairwise import CPU, all_pairs, random_group
from trainer.config.policy import LoraSection
from trainer.config.settings import resolve
from trainer.cost.memory import estimate_memory
from trainer.data.plan import ResponseRef
from trainer.model.attention import choose_attention
from trainer.model.batch import token_rows
from trainer.model.lora import adapters_off, add_lora, check_adapters_off
from trainer.model.merged import merged_state_dict, save_weights
from trainer.model.packing import Layout, Packer
from trainer.model.quantized import dequantized, load_kwargs, quantization_of
from trainer.model.reference_cache import weights_digest
from trainer.model.scorer import ResponseScorer

KINDS = ("nf4", "int8")
SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}
TOKENS = {"vocab_size": 64, "bos_token_id": 0, "eos_token_id": 1}
GROUPS = [random_group(7, (5, 9, 3), all_pairs(3))]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: Any) -> Path:
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES, **TOKENS, num_hidden_layers=2, initializer_range=0.1)
    folder = tmp_path_factory.mktemp("llama")
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def rows():
    (row,) = Packer(GROUPS, Layout.TREE, 1000).rows([ResponseRef(0, number) for number in range(3)])
    return token_rows(row, GROUPS, Layout.TREE)


def scorer_of(model: Any) -> ResponseScorer:
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    return ResponseScorer(model, choose_attention(base, "auto", CPU)).train()


def adapted(folder: Path, kind: Any) -> ResponseScorer:
    options = LoraSection(rank=4, quantization=kind)
    kwargs = load_kwargs(options, "float32")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **kwargs)
    torch.manual_seed(1)
    return scorer_of(add_lora(model, options))


def train_steps(scorer: ResponseScorer, number: int = 3) -> list[float]:
    """Raise the log-probs of all responses."""
    optimizer = torch.optim.AdamW([one for one in scorer.parameters() if one.requires_grad], lr=1e-2)
    losses = []
    for _ in range(number):
        loss = -scorer(rows()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_nothing_is_quantised_unless_it_is_asked_for() -> None:
    assert load_kwargs(LoraSection(rank=4), "float32") == {}


def test_products_are_taken_in_the_run_s_precision() -> None:
    options = LoraSection(rank=4, quantization="nf4")
    types = [
        load_kwargs(options, each)["quantization_config"].bnb_4bit_compute_dtype for each in ("bfloat16", "float32")
    ]
    assert types == [torch.bfloat16, torch.float32]


@pytest.mark.parametrize("kind", KINDS)
def test_all_matrices_but_the_head_are_quantised(llama: Path, kind: str) -> None:
    base = adapted(llama, kind).base
    frozen = {name: module for name, module in base.named_modules() if name.endswith("base_layer")}
    assert len(frozen) == 14
    assert {quantization_of(module) for module in frozen.values()} == {kind}
    assert type(base.lm_head) is nn.Linear
    assert base.lm_head.weight.dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_learn_and_the_quantised_base_stays_the_reference(llama: Path, kind: str) -> None:
    scorer = adapted(llama, kind)
    check_adapters_off(scorer, rows())
    start = scorer(rows()).detach()
    digest = weights_digest(scorer.model)
    losses = train_steps(scorer)
    assert losses[-1] < losses[0] - 0.1
    with adapters_off(scorer):
        assert torch.equal(scorer(rows()), start)
    assert weights_digest(scorer.model) == digest


@pytest.mark.parametrize("kind", KINDS)
def test_the_cached_reference_hangs_on_the_quantised_weights_and_their_scales(llama: Path, kind: str) -> None:
    model = adapted(llama, kind).model
    digests = {weights_digest(model), weights_digest(adapted(llama, "int8" if kind == "nf4" else "nf4").model)}
    base = model.get_base_model().model.layers[0].mlp.up_proj.base_layer
    scale = base.weight.quant_state.absmax if kind == "nf4" else base.weight.SCB
    scale[0] += 1
    digests.add(weights_digest(model))
    assert len(digests) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_whole_weights_are_those_that_the_quantised_layers_compute_with(llama: Path, kind: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(
        llama, dtype=torch.float32, **load_kwargs(LoraSection(rank=1, quantization=kind), "float32")
    ).train()
    layer = model.model.layers[0].mlp.up_proj
    weight = dequantized(layer, layer.state_dict())
    assert weight.dtype == torch.float32
    torch.testing.assert_close(layer(torch.eye(64)).T, weight, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_merged_policy_computes_as_the_trained_one(llama: Path, tmp_path: Path, kind: str) -> None:
    scorer = adapted(llama, kind)
    train_steps(scorer)
    before = scorer(rows()).detach()
    state = {name: value.clone() for name, value in scorer.model.state_dict().items()}
    save_weights(scorer.model, tmp_path, scorer.model.state_dict(), save="both")
    assert all(torch.equal(value, state[name]) for name, value in scorer.model.state_dict().items())
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    assert load_file(tmp_path / "model.safetensors").keys() == load_file(llama / "model.safetensors").keys()
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    torch.testing.assert_close(scorer_of(plain)(rows()), before, rtol=0, atol=1e-5)
    assert {*load_file(tmp_path / "adapter" / "adapter_model.safetensors")} == {
        f"base_model.model.model.layers.{layer}.{part}.lora_{side}.weight"
        for layer in (0, 1)
        for part in [
            *(f"self_attn.{one}_proj" for one in "qkvo"),
            *(f"mlp.{one}_proj" for one in ("gate", "up", "down")),
        ]
        for side in "AB"
    }


def test_merging_makes_whole_what_has_no_adapter_too(llama: Path) -> None:
    options = LoraSection(rank=4, quantization="nf4", target_modules=("q_proj",))
    kwargs = load_kwargs(options, "float32")
    model = add_lora(AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32, **kwargs), options)
    merged, start = merged_state_dict(model), load_file(llama / "model.safetensors")
    assert merged.keys() == start.keys()
    assert {name for name in start if torch.equal(merged[name], start[name])} == {
        name for name in start if "_proj" not in name
    }  # quantisation rounds all matrices, and leaves vectors, embeddings and head alone
    assert all((merged[name] - start[name]).abs().max() < 0.1 for name in start)


@pytest.mark.parametrize("kind", KINDS)
def test_the_memory_estimate_counts_the_quantised_weights(llama: Path, kind: str) -> None:
    settings = ["policy.lora.rank=4", "policy.precision=float32", f"policy.lora.quantization={kind}"]
    config = resolve(settings, train_data_path=Path("x"), model_name="m", output_dir=Path("y"))
    with torch.device("meta"):
        shape = LlamaForCausalLM(LlamaConfig(**SIZES, **TOKENS, num_hidden_layers=2))
        shape = add_lora(shape, config.policy.lora)
    state = adapted(llama, kind).model.state_dict()
    scales = ("quant_map", "bitsandbytes__nf4", "weight_format")  # tables of fixed size, nothing beside real weights
    held = sum(value.nbytes for name, value in state.items() if not name.endswith(scales))
    estimate = estimate_memory(shape, config, choose_attention(shape, "auto", CPU))
    assert estimate.weights == pytest.approx(held, rel=0.01)
    bfloat16 = config.model_copy(update={"policy": config.policy.model_copy(update={"precision": "bfloat16"})})
    adapters = sum(value.numel() for name, value in state.items() if ".lora_" in name)
    assert estimate_memory(shape, bfloat16, choose_attention(shape, "auto", CPU)).copies == 2 * adapters
