"""LoRA: the base is the reference, the merged policy is the adapters' policy, and the frozen weights stay."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from schemas.errors import DpoError, UsageError
from schemas.preference import write_rows
from tests.architectures import build
from tests.pairwise import CPU, all_pairs, random_group
from tests.tiny_models import save_tiny_policy
from trainer.config.policy import LoraSection
from trainer.config.settings import resolve
from trainer.data.plan import ResponseRef
from trainer.model.attention import choose_attention
from trainer.model.batch import token_rows
from trainer.model.lora import adapters_off, add_lora, check_adapters_off, load_adapter
from trainer.model.merged import merged_state_dict, save_weights
from trainer.model.packing import Layout, Packer
from trainer.model.quantized import load_kwargs
from trainer.model.reference_cache import weights_digest
from trainer.model.scorer import ResponseScorer
from trainer.run.loop import train

GROUPS = [random_group(7, (5, 9, 3), all_pairs(3))]
REFS = [ResponseRef(0, number) for number in range(3)]


def rows():
    (row,) = Packer(GROUPS, Layout.TREE, 1000).rows(REFS)
    return token_rows(row, GROUPS, Layout.TREE)


def adapted(rank: int = 4) -> ResponseScorer:
    torch.manual_seed(0)
    model = add_lora(build("qwen3"), LoraSection(rank=rank))
    return ResponseScorer(model, choose_attention(model.get_base_model(), "auto", CPU)).train()


def stirred(scorer: ResponseScorer) -> ResponseScorer:
    """Give the adapters values as if they had been trained."""
    torch.manual_seed(1)
    for name, parameter in scorer.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    return scorer


def test_untrained_adapters_change_nothing_and_trained_ones_can_be_turned_off() -> None:
    base = build("qwen3")
    plain = ResponseScorer(base, choose_attention(base, "auto", CPU))(rows()).detach()
    scorer = adapted()
    assert torch.equal(scorer(rows()), plain)
    check_adapters_off(scorer, rows())
    stirred(scorer)
    assert (scorer(rows()) - plain).abs().max() > 0.01
    with adapters_off(scorer):
        assert torch.equal(scorer(rows()), plain)


def test_a_policy_that_is_not_its_base_at_the_start_is_refused() -> None:
    with pytest.raises(DpoError, match="with its adapters off the model's log-probs are not those of the base"):
        check_adapters_off(stirred(adapted()), rows())


def test_only_adapters_learn() -> None:
    scorer = adapted()
    names = {name for name, parameter in scorer.named_parameters() if parameter.requires_grad}
    assert names
    assert all(".lora_" in name for name in names)
    assert not any("lm_head" in name for name in names)


def test_adapters_do_not_change_the_name_of_the_cached_reference() -> None:
    assert weights_digest(stirred(adapted()).model) == weights_digest(build("qwen3"))


def scale(options: LoraSection) -> float:
    """Give what the adapters' output is multiplied by."""
    model = add_lora(build("qwen3"), options)
    return model.base_model.model.model.layers[0].mlp.up_proj.scaling["default"]


def test_alpha_and_rank_decide_how_much_adapters_count() -> None:
    assert scale(LoraSection(rank=4)) == 2  # twice the rank, over the rank
    assert scale(LoraSection(rank=4, alpha=3)) == 0.75
    assert scale(LoraSection(rank=4, alpha=3, rank_stabilized=True)) == 1.5  # 3 / sqrt(4)


def layers_with_adapters(name: str = "qwen3", **options: Any) -> set[str]:
    model = add_lora(build(name), LoraSection(rank=2, **options))
    return {each.split(".lora_")[0].rpartition("model.")[2] for each in model.state_dict() if ".lora_" in each}


def test_adapters_go_where_they_are_wanted() -> None:
    attention = {f"layers.{layer}.self_attn.{name}_proj" for layer in (0, 1) for name in "qkvo"}
    mlp = {f"layers.{layer}.mlp.{name}_proj" for layer in (0, 1) for name in ("gate", "up", "down")}
    assert layers_with_adapters() == attention | mlp
    queries = {"layers.0.self_attn.q_proj", "layers.1.self_attn.q_proj"}
    assert layers_with_adapters(target_modules=("q_proj", "layers.0.mlp.up_proj")) == queries | {"layers.0.mlp.up_proj"}
    assert layers_with_adapters(exclude_modules=("q_proj", "up_proj")) == {
        name for name in attention | mlp if not name.endswith(("q_proj", "up_proj"))
    }


def test_mamba_s_kernels_pass_an_adapter_by_so_its_output_has_none() -> None:
    names = {name.rpartition(".")[2] for name in layers_with_adapters("falcon_h1")}
    assert "out_proj" not in names
    assert {"in_proj", "q_proj"} <= names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"target_modules": ("q_porj",)},
            r"policy.lora.target_modules: 'q_porj' is no linear layer that can have adapters; there are q_proj,",
        ),
        ({"target_modules": ("lm_head",)}, "'lm_head' is no linear layer that can have adapters"),
        ({"target_modules": ("embed_tokens",)}, "'embed_tokens' is no linear layer that can have adapters"),
        ({"exclude_modules": ("mlp",)}, "policy.lora.exclude_modules: 'mlp' is no linear layer"),
        ({"target_modules": ("q_proj",), "exclude_modules": ("q_proj",)}, "no layer is left for an adapter"),
    ],
)
def test_names_that_match_nothing_are_refused(options: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        add_lora(build("qwen3"), LoraSection(rank=2, **options))


@pytest.mark.parametrize("setting", ["alpha=8", "rank_stabilized=true", 'target_modules=["q_proj"]', "save=adapter"])
def test_what_is_about_adapters_needs_adapters(setting: str) -> None:
    with pytest.raises(UsageError, match="needs adapters; switch them on with rank=16"):
        resolve([f"policy.lora.{setting}"], train_data_path=Path("x"))


def clones(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in weights.items()}


def assert_equal(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


@pytest.mark.parametrize("name", ["llama_tied", "qwen3_moe", "gpt2", "falcon_h1"])
def test_merged_weights_are_those_that_peft_merges_and_the_model_stays_as_it_is(name: str, tmp_path: Path) -> None:
    model = add_lora(build(name), LoraSection(rank=4, rank_stabilized=True))
    torch.manual_seed(1)
    for each, parameter in model.named_parameters():
        if "lora_B" in each:
            parameter.data.normal_(std=0.1)
    before = clones(model.state_dict())
    merged = clones(merged_state_dict(model))
    save_weights(model, tmp_path / "ours", model.state_dict(), save="merged")
    assert_equal(model.state_dict(), before)
    theirs = model.merge_and_unload()
    assert_equal(merged, theirs.state_dict())
    theirs.save_pretrained(tmp_path / "theirs")
    assert_equal(load_file(tmp_path / "ours/model.safetensors"), load_file(tmp_path / "theirs/model.safetensors"))
    assert (tmp_path / "ours/config.json").read_text() == (tmp_path / "theirs/config.json").read_text()


def test_gathered_weights_are_merged_not_the_model_s_own() -> None:
    model = stirred(adapted()).model
    gathered = clones(model.state_dict())
    expected = clones(merged_state_dict(model))
    for parameter in model.parameters():
        parameter.data.zero_()  # as the shard of another process
    assert_equal(merged_state_dict(model, gathered), expected)


def test_merging_gives_the_same_log_probs(tmp_path: Path) -> None:
    scorer = stirred(adapted())
    before = scorer(rows()).detach()
    save_weights(scorer.model, tmp_path, scorer.model.state_dict(), save="merged")
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    after = ResponseScorer(model, choose_attention(model, "auto", CPU))(rows())
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*deprecated:FutureWarning")
def test_adapters_alone_load_with_peft_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build("qwen3").save_pretrained(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    base = AutoModelForCausalLM.from_pretrained("base", dtype=torch.float32)
    scorer = ResponseScorer(add_lora(base, LoraSection(rank=4)), choose_attention(base, "auto", CPU)).train()
    before = stirred(scorer)(rows()).detach()
    save_weights(scorer.model, tmp_path / "policy", scorer.model.state_dict(), save="adapter")
    assert {path.name for path in (tmp_path / "policy").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    model = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "policy", dtype=torch.float32)
    after = ResponseScorer(model, choose_attention(model.get_base_model(), "auto", CPU))(rows())
    assert torch.equal(after, before)
    assert scorer.model.peft_config["default"].base_model_name_or_path == "base"  # the trained model stays as it is


def test_both_is_the_merged_model_with_the_adapters_beside(tmp_path: Path) -> None:
    model = stirred(adapted()).model
    save_weights(model, tmp_path, model.state_dict(), save="both")
    plain, loading = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, output_loading_info=True)
    assert not any(loading.values())
    assert_equal(plain.state_dict(), merged_state_dict(model))
    restored = load_adapter(build("qwen3"), tmp_path / "adapter")
    assert_equal(restored.state_dict(), model.state_dict())


@pytest.mark.parametrize("mode", ["cached", "online"])
def test_a_run_with_adapters(tmp_path: Path, mode: str) -> None:
    chosen, rejected = ("yes", "yes!"), ("no", "never")
    pairs = [{"prompt": "Q", "chosen": good, "rejected": bad} for good in chosen for bad in rejected]
    write_rows(tmp_path / "pairs.jsonl", pairs)
    policy = save_tiny_policy(tmp_path / "policy")
    settings = ["policy.lora.rank=2", "policy.optimizer.lr=1e-2", "dpo.max_num_epochs=5", f"reference={mode}"]
    config = resolve(
        settings, train_data_path=tmp_path / "pairs.jsonl", model_name=str(policy), output_dir=tmp_path / "run"
    )
    result = train(config)
    assert result is not None
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["train/preference_loss"] == pytest.approx(0.693147, abs=1e-5)
    assert lines[-1]["train/preference_loss"] < 0.69
    start = load_file(policy / "model.safetensors")
    found = load_file(result.policy_dir / "model.safetensors")
    assert start.keys() == found.keys()  # merged: it loads without peft
    changed = {name for name in start if not torch.equal(start[name], found[name])}
    assert changed
    assert all("_proj" in name for name in changed)
    AutoModelForCausalLM.from_pretrained(result.policy_dir)


@pytest.mark.parametrize(
    ("kept", "quantization"), [("adapter", "none"), ("both", "none"), ("both", "nf4"), ("both", "int8")]
)
def test_a_run_leaves_what_was_asked_for(tmp_path: Path, kept: str, quantization: str) -> None:
    write_rows(tmp_path / "pairs.jsonl", [{"prompt": "Q", "chosen": "yes", "rejected": "no"}])
    policy = save_tiny_policy(tmp_path / "policy")
    settings = ["policy.lora.rank=2", "policy.optimizer.lr=1e-2", "dpo.max_num_epochs=3"]
    settings += [f"policy.lora.save={kept}", f"policy.lora.quantization={quantization}"]
    config = resolve(
        settings, train_data_path=tmp_path / "pairs.jsonl", model_name=str(policy), output_dir=tmp_path / "run"
    )
    result = train(config)
    assert result is not None
    names = {path.name for path in result.policy_dir.iterdir()}
    assert ("model.safetensors" in names, "adapter_config.json" in names, "adapter" in names) == (
        (False, True, False) if kept == "adapter" else (True, False, True)
    )
    kwargs = load_kwargs(config.policy.lora, "float32")
    base = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32, **kwargs)
    adapters = result.policy_dir if kept == "adapter" else result.policy_dir / "adapter"
    model = load_adapter(base, adapters)
    assert any(weight.any() for name, weight in model.state_dict().items() if "lora_B" in name)
    if kept == "both":
        plain = AutoModelForCausalLM.from_pretrained(result.policy_dir, dtype=torch.float32)
        assert_equal(plain.state_dict(), merged_state_dict(model))
