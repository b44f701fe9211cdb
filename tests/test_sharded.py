"""FSDP2 on CPU processes against one process: the same pairs in the same steps give the same weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from schemas.preference import write_rows
from tests.tiny_models import save_tiny_policy
from tests.training_runs import STEPS_OF_EIGHT

# Groups of five responses behind one prompt; in rows of 36 tokens most pairs reach from one row into another.
SETTINGS = (
    "policy.train_global_batch_size=8",
    "policy.max_total_sequence_length=36",
    "reference.cache_dir=null",
    "policy.optimizer.name=sgd",  # whose steps are as small as their gradients' differences
    "policy.optimizer.lr=0.05",
    "policy.max_grad_norm=0.5",  # below the gradient's norm in each step
)
SPLIT = "policy.tokens_per_microbatch=36"
WATCHED = ("train/loss", "train/grad_norm", "train/margin_mean", "validation-default/loss")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_rows(tmp_path / "pairs.jsonl", STEPS_OF_EIGHT)
    write_rows(
        tmp_path / "held_out.jsonl", [{"prompt": f"Other {n}", "chosen": "yes", "rejected": "n"} for n in (1, 2)]
    )
    return tmp_path


def train(dpo: Any, folder: Path, output: str, *settings: str, num_processes: int) -> Path:
    """Train with `warm_dpo`, whose processes find one another as those of a launcher do."""
    told = ("train", "pairs.jsonl", "--model", "policy", "-o", output, *SETTINGS, *settings)
    result = dpo(*told, cwd=folder, num_processes=num_processes)
    assert result.returncode == 0, result.stderr
    return folder / output


def lines_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


FULL = (
    "data.validation.data_path=held_out.jsonl",
    "dpo.val_period=2",
    "checkpointing.save_period=2",
    "logger.num_val_samples_to_print=2",
    "logger.sample_max_new_tokens=6",
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_processes", "profile", "settings", "tied"),
    [
        (2, "fsdp2", FULL, True),
        (4, "hsdp", ("policy.attention=rows", "reference=online", "policy.gradient_checkpointing=true"), False),
        (4, "fsdp2", ("policy.lora.rank=2",), True),  # so few rows that a process has no part of some matrices
    ],
)
def test_shards_change_nothing_but_rounding(
    warm_dpo: Any, folder: Path, num_processes: int, profile: str, settings: tuple[str, ...], tied: bool
) -> None:
    save_tiny_policy(folder / "policy", tie_word_embeddings=tied)
    alone = train(warm_dpo, folder, "alone", *settings, num_processes=1)
    if profile == "hsdp":  # two copies of the model, as on two nodes of two processes
        profile = str(folder / "copies.yaml")
        Path(profile).write_text(HYBRID)
    cluster = ("cluster.gpus_per_node=none", f"cluster.accelerate_config={profile}")
    shared = train(warm_dpo, folder, "shared", *settings, *cluster, SPLIT, num_processes=num_processes)
    expected, found = (load_file(run / "policy" / "model.safetensors") for run in (alone, shared))
    start = load_file(folder / "policy" / "model.safetensors")
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6)
    assert max((expected[name] - start[name]).abs().max() for name in start if name in expected) > 1e-4
    for one, two in zip(lines_of(alone), lines_of(shared), strict=True):
        for name in {*WATCHED} & one.keys():
            assert one[name] == pytest.approx(two[name], rel=1e-4, abs=1e-5), name
    if settings is FULL:
        assert (alone / "samples.jsonl").read_text() == (shared / "samples.jsonl").read_text()
        assert (alone / "samples.jsonl").read_text().count("\n") >= 2


HYBRID = """
distributed_type: FSDP
fsdp_config:
  fsdp_version: 2
  fsdp_reshard_after_forward: true
  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP
  fsdp_state_dict_type: SHARDED_STATE_DICT
parallelism_config:
  parallelism_config_dp_replicate_size: 2
  parallelism_config_dp_shard_size: 2
"""
