"""Twenty steps with each loss on the samples lower that loss on pairs that are looked at before and after."""

import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState

from pipeline.collect import collect_pairs
from pipeline.settings import Settings
from tests.test_losses import ALL_LOSSES
from trainer.config.loss import MAY_BE_SMOOTHED, REFERENCE_FREE_LOSSES, REWARD_LOSSES, LossName
from trainer.config.sections import TrainConfig
from trainer.config.settings import resolve
from trainer.data.plan import PairRef
from trainer.data.tokenize import TokenizedPairs
from trainer.model.policy import load_policy
from trainer.model.reference import CachedReference, NoReference
from trainer.run.evaluation import pair_metrics
from trainer.run.setup import set_up
from trainer.run.start import load_groups, plan, start_accelerator, tokenize
from trainer.run.step import check_first_step, train_step
from trainer.run.training import Training

SAMPLES = Path(__file__).parents[1] / "data" / "samples"

SETTINGS = (
    "dpo.reference_policy_kl_penalty=0.1",
    "dpo.max_num_steps=20",
    "policy.train_global_batch_size=4",
    "policy.tokens_per_microbatch=1024",
    "policy.max_total_sequence_length=256",
    "policy.optimizer.lr=1e-4",
    "policy.optimizer.weight_decay=0",
    "policy.scheduler.name=constant_with_warmup",
    "policy.self_check=false",
    "reference.cache_dir=null",
)

LOWERS_WITHOUT_A_MARGIN = {"apo_down", "discopop"}
"""apo_down lowers the chosen response too; discopop falls on both sides of a margin of 0 (docs/losses.md)."""


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    collect_pairs([SAMPLES / "rollouts.jsonl"], output, Settings())
    rows = output.read_text().splitlines()[:80]
    output.write_text("\n".join(rows) + "\n")
    return output


def config_of(pairs: Path, *settings: str) -> TrainConfig:
    given = dict(setting.split("=", 1) for setting in (*SETTINGS, *settings))
    overrides = [f"{key}={value}" for key, value in given.items()]
    return resolve(overrides, train_data_path=pairs, model_name=str(SAMPLES / "policy"), output_dir=Path("run"))


@cache
def tokenized(pairs: Path) -> TokenizedPairs:
    config = config_of(pairs)
    model, tokenizer = load_policy(config.policy.model_name)
    return tokenize(config, load_groups(config.data.train, shown=False), model, tokenizer, shown=False)


def set_up_on(pairs: Path, *settings: str, say: Any = lambda text: None) -> tuple[Training, TokenizedPairs]:
    accelerator, config = start_accelerator(config_of(pairs, *settings))
    model, _ = load_policy(config.policy.model_name)
    data = tokenized(pairs)
    return set_up(config, accelerator, model, data, plan(config, data), say=say), data


@pytest.mark.parametrize("name", ALL_LOSSES)
def test_twenty_steps_lower_the_loss(name: LossName, pairs: Path) -> None:
    smoothing = "loss.label_smoothing=0.1" if name in MAY_BE_SMOOTHED else "loss.label_smoothing=0"
    told: list[str] = []
    training, data = set_up_on(pairs, f"loss.name={name}", smoothing, say=told.append)
    fixed = [PairRef(group, pair) for group in range(4) for pair in range(len(data.groups[group].pairs))]
    before = pair_metrics(training, training.packer, training.reference, fixed)
    steps = plan(training.config, data)
    found = [train_step(training, step) for step in steps]
    assert len(found) == 20
    after = pair_metrics(training, training.packer, training.reference, fixed)
    assert all(map(math.isfinite, [value for metrics in (*found, after) for value in metrics.values()]))
    if name not in REFERENCE_FREE_LOSSES:
        assert abs(before["margin_mean"]) < 1e-6
        check_first_step(training.config, found[0])
    assert after["preference_loss"] < before["preference_loss"] - 1e-3
    if name not in LOWERS_WITHOUT_A_MARGIN:
        assert after["margin_mean"] > before["margin_mean"] + 1e-3
    is_free = isinstance(training.reference, NoReference)
    assert is_free == (name in REFERENCE_FREE_LOSSES)
    assert is_free or isinstance(training.reference, CachedReference)
    assert ("kl" in after) != is_free
    assert any("same difference of rewards" in line for line in told) == (name in REWARD_LOSSES)
