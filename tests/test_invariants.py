"""Command lines that mean the same training give the same training, step by step.

Each test trains a tiny random policy by `dpo train` and holds another command line's metrics and weights to it. What
does not touch the computation must give the same bits. What cuts or computes it otherwise may round otherwise: then
each step must be near (`NEAR`), and the differences of all steps must lie around zero. Rounding goes both ways; a wrong
divisor or mask, however little it changes, pushes all steps one way.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from typer.testing import CliRunner

import cli
from schemas.preference import write_rows
from tests.tiny_models import save_tiny_policy
from tests.training_runs import lines_of, weights_of

ROWS = [
    {
        "prompt": f"Question {prompt}?" + " please" * (prompt % 3),
        "chosen": "yes " * (chosen + 1) + str(prompt),
        "rejected": "no" + ", never" * rejected + "!" * prompt,
    }
    for prompt in range(6)
    for chosen in range(2)
    for rejected in range(3)
]
"""36 pairs of 30 responses; a prompt takes 39 to 53 tokens, a response 6 to 23."""

NUM_STEPS = 12

# With plain SGD a weight moves by its gradient, so that rounding stays rounding. Adam divides by the gradient's size:
# where that is nothing but rounding, its sign decides over a whole step.
USUAL: dict[str, Any] = {
    "policy.train_global_batch_size": 6,
    "policy.max_total_sequence_length": 80,
    "policy.train_micro_batch_size": 4,  # rows of 640 tokens: the pairs of a step are in one
    "policy.optimizer.name": "sgd",
    "policy.optimizer.lr": 0.02,
    "policy.optimizer.weight_decay": 0.0,
    "policy.scheduler.warmup_ratio": 0.0,
    "dpo.max_num_epochs": 2,
    "dpo.reference_policy_kl_penalty": 0.3,
    "reference.cache_dir": None,  # else a run would find the log-probs of another one's rows
}

ONE_RESPONSE_A_ROW = "policy.tokens_per_microbatch=80"

NEAR = {
    "train/loss": 2e-6,
    "train/grad_norm": 1e-4,
    "train/logps_chosen_mean": 4e-5,
    "train/logps_rejected_mean": 4e-5,
    "train/rewards_chosen_mean": 3e-5,
    "train/rewards_rejected_mean": 3e-5,
    "train/margin_mean": 3e-5,
    "train/kl": 3e-5,
}
"""How far a step may be off. A log-prob here is up to 100 nats, and float32 has one number in 7.6e-6 there; a reward is
beta = 0.3 of two of them, the gradient's norm is up to 27. All that was seen is within a fifth of each."""

ONE_SIDED = 0.1
"""How much of that the mean over the steps may be. Of twelve that go both ways it is 0.3 of what one is off."""

NEAR_WEIGHTS = 1e-6
"""They are up to 0.8 and move by up to 1e-2; each step rounds them by up to 6e-8."""

OF_THE_CLOCK = ("train/step_seconds", "train/pairs_per_second", "train/tokens_per_second", "train/memory_gb", "timing/")
"""Beginnings of the metrics that are no part of what is trained."""


@dataclass(frozen=True)
class Outcome:
    """What a run has left."""

    folder: Path

    @property
    def steps(self) -> list[dict[str, float]]:
        """Give the metrics of the steps, without those of the clock."""
        lines = (line for line in lines_of(self.folder) if "train/loss" in line)
        return [{name: line[name] for name in line if not name.startswith(OF_THE_CLOCK)} for line in lines]

    @property
    def weights(self) -> dict[str, Tensor]:
        """Read the policy."""
        return weights_of(self.folder / "policy")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Put pairs and a policy into a folder."""
    folder = tmp_path_factory.mktemp("invariants")
    write_rows(folder / "pairs.jsonl", ROWS)
    save_tiny_policy(folder / "policy")
    return folder


@pytest.fixture(scope="module")
def usual(folder: Path) -> Outcome:
    """Train as most of the tests compare with."""
    outcome = trained(folder, "usual")
    losses = [step["train/loss"] for step in outcome.steps]
    assert len(losses) == NUM_STEPS
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert max(losses[-3:]) < 0.2  # so there is much that could differ
    return outcome


def trained(folder: Path, name: str, *settings: str, pairs: Sequence[str] = ("pairs.jsonl",)) -> Outcome:
    """Run `dpo train` with the usual settings and others, the last of each counts."""
    wanted = USUAL | dict(setting.split("=", 1) for setting in settings)
    model = ("--model", str(folder / "policy"))
    return command(folder, name, *map(str, (folder / each for each in pairs)), *model, *assignments(wanted))


def assignments(settings: dict[str, Any]) -> Iterator[str]:
    """Write settings as arguments."""
    return (f"{key}={'null' if value is None else value}" for key, value in settings.items())


def command(folder: Path, name: str, *arguments: str) -> Outcome:
    """Run `dpo train`, through its parser, into a folder of its own."""
    result = CliRunner().invoke(cli.app, ["train", *arguments, "-o", str(folder / name)])
    assert result.exit_code == 0, result.output
    return Outcome(folder / name)


def assert_same(found: Outcome, expected: Outcome) -> None:
    """Hold two runs to the same bits."""
    assert found.steps == expected.steps
    ours, theirs = found.weights, expected.weights
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def assert_near(found: Outcome, expected: Outcome) -> None:
    """Hold two runs to one another but for rounding, which goes both ways."""
    ours, theirs = found.steps, expected.steps
    assert len(ours) == len(theirs)
    for name, most in NEAR.items():
        off = [one[name] - other[name] for one, other in zip(ours, theirs, strict=True)]
        assert max(map(abs, off)) <= most, (name, off)
        assert abs(sum(off) / len(off)) <= ONE_SIDED * most, (name, off)
    weights = found.weights
    assert max(float((weights[name] - value).abs().max()) for name, value in expected.weights.items()) <= NEAR_WEIGHTS


@pytest.mark.parametrize(
    "settings",
    [
        ("policy.self_check=false",),
        ("policy.tokens_per_microbatch=640",),  # 2 x 4 x 80, as the usual pairs of a row come to
        ("policy.train_micro_batch_size=400",),
    ],
)
def test_what_computes_nothing_else_changes_no_bit(folder: Path, usual: Outcome, settings: tuple[str, ...]) -> None:
    assert_same(trained(folder, f"same {settings[0]}", *settings), usual)


def test_the_reference_from_disk_is_the_computed_one(folder: Path, usual: Outcome) -> None:
    cache = f"reference.cache_dir={folder / 'cache'}"
    assert_same(trained(folder, "computed", cache), usual)
    (file,) = (folder / "cache").glob("*/*.parquet")
    written = file.stat().st_mtime_ns
    assert_same(trained(folder, "from disk", cache), usual)
    assert file.stat().st_mtime_ns == written


def test_settings_are_the_same_wherever_they_stand(folder: Path, usual: Outcome) -> None:
    """In a file, as key=value, as short options, and overridden."""
    settings = {
        **USUAL,
        "policy.model_name": str(folder / "policy"),
        "data.train.data_path": str(folder / "pairs.jsonl"),
    }
    sections: dict[str, Any] = {}
    for key, value in settings.items():
        *parents, last = key.split(".")
        section = sections
        for parent in parents:
            section = section.setdefault(parent, {})
        section[last] = value
    (folder / "run.yaml").write_text(yaml.safe_dump(sections))
    assert_same(command(folder, "file", "--config", str(folder / "run.yaml")), usual)
    short = {
        "policy.train_global_batch_size": "--batch-size",
        "policy.max_total_sequence_length": "--max-length",
        "policy.optimizer.lr": "--lr",
        "dpo.max_num_epochs": "--epochs",
        "dpo.reference_policy_kl_penalty": "--beta",
        "policy.model_name": "--model",
    }
    options = [text for key, option in short.items() for text in (option, str(settings[key]))]
    others = {key: value for key, value in USUAL.items() if key not in short}
    pairs = str(folder / "pairs.jsonl")
    assert_same(command(folder, "short", *options, pairs, *assignments(others), "--loss", "sigmoid"), usual)
    (folder / "other.yaml").write_text("{dpo: {max_num_epochs: 9, seed: 42}, policy: {optimizer: {lr: 0.7}}}")
    model = ("--model", str(folder / "policy"))
    config = ("-c", str(folder / "other.yaml"))
    assert_same(command(folder, "over", *config, pairs, *model, *assignments(USUAL)), usual)


def test_looking_on_changes_nothing(folder: Path, usual: Outcome) -> None:
    """Validations, checkpoints, a time limit and answered prompts lie between the steps, and leave them as they are."""
    write_rows(folder / "held_out.jsonl", [{"prompt": "Other?", "chosen": "yes", "rejected": "no, no"}] * 3)
    watched = trained(
        folder,
        "watched",
        f"data.validation.data_path={folder / 'held_out.jsonl'}",
        "dpo.val_period=3",
        "checkpointing.save_period=2",
        "checkpointing.checkpoint_must_save_by=1:00:00:00",
        "logger.num_val_samples_to_print=1",
        "logger.sample_max_new_tokens=4",
    )
    assert sum("validation-default/loss" in line for line in lines_of(watched.folder)) >= 5
    assert len([*(watched.folder / "checkpoints").glob("step_*")]) >= 3
    assert_same(watched, usual)
    assert_same(trained(folder, "unsaved", "checkpointing.enabled=false"), usual)


@pytest.mark.parametrize(
    "settings",
    [
        (ONE_RESPONSE_A_ROW,),
        ("policy.train_micro_batch_size=1",),
        ("policy.gradient_checkpointing=true", "policy.tokens_per_microbatch=200"),
        ("reference=online", "policy.tokens_per_microbatch=200"),
        ("policy.attention=dense",),
        ("policy.attention=segments", "reference=online"),
        ("policy.attention=rows",),
        ("policy.attention=rows", ONE_RESPONSE_A_ROW),
    ],
)
def test_how_a_step_is_cut_and_computed_changes_nothing_but_rounding(
    folder: Path, usual: Outcome, settings: tuple[str, ...]
) -> None:
    name = "near " + " ".join(setting.rpartition(".")[2] for setting in settings)
    assert_near(trained(folder, name, *settings), usual)


def test_in_a_step_of_all_pairs_their_order_changes_nothing_but_rounding(folder: Path) -> None:
    """Another seed, order, file or mixture of files cuts an epoch into other steps, where it is more than one."""
    all_pairs = ("policy.train_global_batch_size=36", f"dpo.max_num_epochs={NUM_STEPS}")
    expected = trained(folder, "all", *all_pairs)
    assert len(expected.steps) == NUM_STEPS
    assert_near(trained(folder, "spread", *all_pairs, "data.order=pairs", "dpo.seed=7", ONE_RESPONSE_A_ROW), expected)
    write_rows(folder / "late.jsonl", ROWS[:3:-1])
    write_rows(folder / "early.jsonl", ROWS[:4])
    pairs = ("late.jsonl", "early.jsonl")
    assert_near(trained(folder, "mixture", *all_pairs, "data.shuffle=false", pairs=pairs), expected)


def test_adapters_that_learn_nothing_are_the_base(folder: Path) -> None:
    """A rate so small that no weight moves: each step is the first one, and what is saved is the start policy."""
    settings = ("policy.lora.rank=4", "policy.optimizer.lr=1e-30", "dpo.max_num_epochs=1")
    start = weights_of(folder / "policy")
    for name, *others in (("cached",), ("online", "reference=online"), ("cut", ONE_RESPONSE_A_ROW)):
        outcome = trained(folder, f"adapters {name}", *settings, *others)
        for step in outcome.steps:
            assert step["train/loss"] == pytest.approx(math.log(2), abs=NEAR["train/loss"])
            assert step["train/margin_mean"] == pytest.approx(0, abs=NEAR["train/margin_mean"])
            assert step["train/grad_norm"] > 0.1  # they are trained, only very slowly
        weights = outcome.weights
        assert weights.keys() == start.keys()
        assert all(torch.equal(weights[key], value) for key, value in start.items())


def test_how_a_step_of_adapters_is_cut_changes_nothing_but_rounding(folder: Path) -> None:
    settings = ("policy.lora.rank=4", "policy.optimizer.lr=0.05")
    expected = trained(folder, "lora", *settings)
    assert expected.steps[-1]["train/margin_mean"] > 0.5
    others = (ONE_RESPONSE_A_ROW, "policy.gradient_checkpointing=true", "reference=online")
    assert_near(trained(folder, "lora, cut", *settings, *others), expected)


def test_saved_adapters_on_their_base_are_the_merged_policy(folder: Path) -> None:
    """policy.lora.save changes what is written, not what is trained."""
    settings = ("policy.lora.rank=4", "policy.optimizer.lr=0.05", "dpo.max_num_epochs=1")
    merged = trained(folder, "merged", *settings)
    apart = trained(folder, "apart", *settings, "policy.lora.save=adapter")
    assert apart.steps == merged.steps
    result = CliRunner().invoke(cli.app, ["export", str(apart.folder), "-o", str(folder / "exported")])
    assert result.exit_code == 0, result.output
    found = weights_of(folder / "exported")
    assert found.keys() == merged.weights.keys()
    assert all(torch.equal(found[key], value) for key, value in merged.weights.items())


def test_what_is_something_else_is_found_out(folder: Path, usual: Outcome) -> None:
    """The comparison fails where a command line means another training, however little another."""
    for setting in ("dpo.reference_policy_kl_penalty=0.3001", "policy.optimizer.lr=0.02001", "data.loss_mask=nemo_rl"):
        other = trained(folder, f"other {setting}", setting)
        with pytest.raises(AssertionError):
            assert_near(other, usual)
