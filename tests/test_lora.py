"""LoRA: the base is the reference, the merged policy is the adapters' policy, and the frozen weights stay."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from schemas.errors import DpoError
from schemas.preference import write_rows
from tests.architectures import build
from tests.pairwise import CPU, all_pairs, random_group
from tests.tiny_models import save_tiny_policy
from trainer.config.sections import LoraSection
from trainer.config.settings import resolve
from trainer.data.plan import ResponseRef
from trainer.model.attention import choose_attention
from trainer.model.batch import token_rows
from trainer.model.lora import adapters_off, add_lora, check_adapters_off, merged
from trainer.model.packing import Layout, Packer
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


def test_merging_gives_the_same_log_probs() -> None:
    scorer = stirred(adapted())
    with torch.no_grad():
        before = scorer(rows())
        model = merged(scorer.model)
        after = ResponseScorer(model, choose_attention(model, "auto", CPU))(rows())
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)


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
