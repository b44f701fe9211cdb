"""Warnings of a run's health: each is told by numbers that show it, is silent where it should be, and is documented."""

import json
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import AcceleratorState

from trainer.config.keys import option_keys
from trainer.config.sections import TrainConfig
from trainer.run.loop import train
from trainer.watch.health import ADVICE, Health, Kind, start_health
from trainer.watch.symptoms import EASY_STEPS

ROOT = Path(__file__).parents[1]
MONITORING = (ROOT / "docs" / "monitoring.md").read_text()

Series = dict[str, Callable[[int], float]]


def healthy(**changes: Callable[[int], float]) -> Series:
    """Make the metrics of a run that learns as it should, each a function of the step; some may be told otherwise.

    Log-probs are of responses of some 200 nats, as those of 150 tokens are.
    """
    usual: Series = {
        "loss": lambda step: 0.69 * math.exp(-step / 300),
        "preference_loss": lambda step: math.log(2) * math.exp(-(step - 1) / 300),
        "accuracy": lambda step: 0.5 + 0.25 * (1 - math.exp(-step / 40)),
        "rewards_chosen_mean": lambda step: 0.01 * step,
        "rewards_rejected_mean": lambda step: -0.05 * step,
        "margin_mean": lambda step: 0.006 * step,
        "logps_chosen_mean": lambda step: -200.0 + 0.01 * step,
        "logps_rejected_mean": lambda step: -210.0 - 0.05 * step,
        "grad_norm": lambda step: 2.0 + step % 5,
        "kl": lambda step: 0.05 * step,
        "chosen_fell": lambda step: 0.4,
        "both_fell": lambda step: 0.35,
        "reward_length_correlation": lambda step: 0.3 if step % 2 else -0.2,
    }
    return usual | changes


def shaped(num_steps: int, steps_in_epoch: int, **settings: object) -> Health:
    config = TrainConfig.model_validate({"data": {"train": "x.jsonl"}, "output_dir": "o", **settings})
    return start_health(config, num_steps=num_steps, steps_in_epoch=steps_in_epoch)


def watched(
    series: Series, num_steps: int = 200, *, steps_in_epoch: int = 100, **settings: object
) -> list[tuple[int, str]]:
    """Let a run go by; give the warnings with the steps at which they came."""
    health = shaped(num_steps, steps_in_epoch, **settings)
    return [
        (step, warning)
        for step in range(1, num_steps + 1)
        for warning in health.observe(step, {name: value(step) for name, value in series.items()})
    ]


def kinds(warnings: Iterable[tuple[int, str]]) -> list[Kind]:
    return [Kind(re.findall(r"^warning (\w+),", text)[0]) for _, text in warnings]


def test_a_healthy_run_says_nothing() -> None:
    assert watched(healthy(), 400) == []


def test_metrics_may_be_missing() -> None:
    few = {name: healthy()[name] for name in ("loss", "accuracy", "margin_mean")}
    assert watched(few) == []
    assert watched({}) == []


def test_pairs_that_are_told_apart_at_once() -> None:
    # the first step is of a policy that equals its reference, so nothing is larger
    easy = watched(healthy(accuracy=lambda step: float(step > 1)))
    assert kinds(easy) == [Kind.EASY_PAIRS]
    assert easy[0][0] == EASY_STEPS[1] == 11
    assert "accuracy 1.000 over the steps 2 to 11" in easy[0][1]
    # one batch in ten with a pair in four the other way round: easy, but there is something to learn
    assert watched(healthy(accuracy=lambda step: 0.75 if step == 5 else 1.0)) == []


def test_pairs_seen_before_are_no_wonder() -> None:
    """In a second epoch the policy may know them; an epoch of seven steps is judged at its end."""
    knows = healthy(accuracy=lambda step: 0.6 if step <= 7 else 1.0)
    assert watched(knows, steps_in_epoch=7) == []
    easy = watched(healthy(accuracy=lambda step: float(step > 1)), steps_in_epoch=7)
    assert [step for step, _ in easy] == [7]
    assert watched(healthy(accuracy=lambda step: float(step > 1)), steps_in_epoch=3) == []


def test_a_loss_that_stays_where_it_began() -> None:
    still = healthy(preference_loss=lambda step: 0.6931 + 0.0005 * (step % 3 - 1))
    warnings = watched(still)
    assert kinds(warnings) == [Kind.NOT_LEARNING, Kind.NOT_LEARNING]
    assert [step for step, _ in warnings] == [40, 140]  # after 20 steps of warm-up and a tenth of 200; once in 100
    assert "the preference loss is 0.6931 after 40 steps" in warnings[0][1]
    assert watched(healthy(preference_loss=lambda step: 0.6931 - 0.0002 * step)) == []
    # SimPO's starts elsewhere, and what stays there may be learning
    assert watched(healthy(preference_loss=lambda step: 0.95)) == []


def test_the_warm_up_is_waited_for() -> None:
    still = healthy(preference_loss=lambda step: 0.6931)
    warnings = watched(still, policy={"scheduler": {"warmup_steps": 100}})
    assert [step for step, _ in warnings] == [120]
    assert watched(still, 19) == []


def test_both_sides_fall() -> None:
    def falling(share: float, nats: float) -> Series:
        return healthy(
            both_fell=lambda step: share,
            rewards_chosen_mean=lambda step: nats * step,
            logps_chosen_mean=lambda step: -200 + nats * step,
        )

    warnings = watched(falling(0.95, -0.5))
    assert set(kinds(warnings)) == {Kind.BOTH_SIDES_FALL}
    # more than a tenth of 200 nats, as the median of ten steps: at step 45 it is 40.5 steps of half a nat
    assert warnings[0][0] == 45
    assert "lost probability in 95% of the pairs; the chosen ones have -220.2 nats, and had -200.0" in warnings[0][1]
    assert "dpo.sft_loss_weight" in warnings[0][1]
    assert watched(falling(0.95, -0.05)) == []  # ten nats in 200 steps
    assert watched(falling(0.85, -0.5)) == []


def test_both_sides_fall_in_nats_a_token() -> None:
    averages = {"dpo": {"preference_average_log_probs": True}}
    falling = healthy(both_fell=lambda step: 0.95, rewards_chosen_mean=lambda step: -0.001 * step)
    warnings = watched(falling, **averages)
    assert warnings[0][0] == 105  # the median is that of step 100.5
    assert "0.10 nats a token" in warnings[0][1]
    assert watched(falling, 100, **averages) == []


def test_length_decides() -> None:
    warnings = watched(healthy(reward_length_correlation=lambda step: -0.85), 60)
    assert kinds(warnings) == [Kind.LENGTH_DECIDES]
    assert warnings[0][0] == 50
    assert "(r = -0.85): shorter wins" in warnings[0][1]
    assert watched(healthy(reward_length_correlation=lambda step: 0.75)) == []
    assert watched(healthy(reward_length_correlation=lambda step: 0.9 if step % 3 else -0.9)) == []  # no one way


def test_margins_that_grow_without_accuracy() -> None:
    def exploding(factor: float, accuracy: float) -> Series:
        return healthy(margin_mean=lambda step: 0.1 * factor**step, accuracy=lambda step: accuracy)

    warnings = watched(exploding(1.04, 0.7), 110)
    assert kinds(warnings) == [Kind.PREFERENCE_COLLAPSE]
    # 0.1 x 1.04^75.5 is 1.93, and a step later above 2; forty steps before it was a fifth
    assert warnings[0][0] == 81
    assert "accuracy from 0.70 to 0.70" in warnings[0][1]
    assert watched(exploding(1.02, 0.7), 250) == []  # doubles in 40 steps
    assert watched(exploding(1.04, 0.97), 110) == []  # nearly all are right


def test_gradient_spikes() -> None:
    spiking = healthy(grad_norm=lambda step: 45.0 if step in (60, 70, 175) else 4.0)
    warnings = watched(spiking)
    assert [(step, kind) for (step, _), kind in zip(warnings, kinds(warnings), strict=True)] == [
        (60, Kind.GRADIENT_SPIKE),
        (175, Kind.GRADIENT_SPIKE),  # that at 70 is within a hundred steps
    ]
    assert "the gradient's norm is 45, 11 times its median" in warnings[0][1]
    assert watched(healthy(grad_norm=lambda step: 35.0 if step == 60 else 4.0)) == []
    assert watched(healthy(grad_norm=lambda step: 45.0 if step == 5 else 4.0)) == []  # too little to compare with
    assert watched(healthy(grad_norm=lambda step: 0.9 if step == 60 else 0.01)) == []  # below what is clipped


def test_gradients_that_are_clipped_to_a_fraction() -> None:
    large = healthy(grad_norm=lambda step: 25.0)
    warnings = watched(large, 60)
    assert kinds(warnings) == [Kind.GRADIENT_CLIPPED]
    assert warnings[0][0] == 50
    assert "100% of the last 50 gradients were clipped, from a norm of 25 to 1" in warnings[0][1]
    assert watched(large, policy={"max_grad_norm": None}) == []
    assert watched(large, policy={"max_grad_norm": 5.0}) == []
    assert watched(healthy(grad_norm=lambda step: 25.0 if step % 10 else 0.5)) == []  # one in ten is not


def test_far_from_the_reference() -> None:
    warnings = watched(healthy(kl=lambda step: float(step)), 150)
    assert kinds(warnings) == [Kind.FAR_FROM_REFERENCE]
    assert "nats a response from the reference; its responses take 207" in warnings[0][1]
    assert warnings[0][0] == 109  # 104.5 is more than half of 207
    assert watched(healthy(kl=lambda step: 80.0)) == []
    short = {"logps_chosen_mean": lambda step: -20.0, "logps_rejected_mean": lambda step: -20.0}
    assert watched(healthy(kl=lambda step: 15.0, **short)) == []


def validated(rows: list[dict[str, float]], *, train_loss: Callable[[int], float], every: int = 10) -> list[str]:
    """Validate a healthy run after each ten steps; give the warnings that the validations made."""
    series = healthy(loss=train_loss)
    health = shaped(1000, 1000)
    warnings: list[str] = []
    for number, row in enumerate(rows):
        for step in range(number * every + 1, (number + 1) * every + 1):
            assert health.observe(step, {name: value(step) for name, value in series.items()}) == []
        metrics = {f"validation-default/{name}": value for name, value in row.items()}
        warnings += health.observe_validation((number + 1) * every, metrics | {"timing/validation/total": 1.0})
    return warnings


def test_overfitting() -> None:
    def losses(*values: float) -> list[dict[str, float]]:
        return [{"loss": value} for value in values]

    def falling(step: int) -> float:
        return 0.7 - 0.001 * step

    (warning,) = validated(losses(0.65, 0.60, 0.61, 0.63, 0.62), train_loss=falling)
    assert warning.startswith(
        "warning overfitting, step 50: the loss on default was 0.6000 at best and is 0.6200, above it for 3 "
        "validations, while in training it fell from 0.6845 to 0.6545"  # medians of the ten steps before: 15.5 and 45.5
    )
    assert "checkpointing.metric_name=val:loss" in warning
    assert validated(losses(0.65, 0.60, 0.61, 0.599, 0.61, 0.62), train_loss=falling) == []
    assert validated(losses(0.600, 0.601, 0.604, 0.605), train_loss=falling) == []  # less than a percent
    assert validated(losses(0.60, 0.61, 0.62, 0.63), train_loss=lambda step: 0.6 + 0.001 * step) == []


def test_preference_collapse_in_validation() -> None:
    def rows(*pairs: tuple[float, float]) -> list[dict[str, float]]:
        return [{"accuracy": accuracy, "margin_mean": margin} for accuracy, margin in pairs]

    def flat(step: int) -> float:
        return 0.6

    (warning,) = validated(rows((0.70, 0.1), (0.74, 0.5), (0.68, 1.5)), train_loss=flat)
    assert "accuracy on default fell from 0.74 to 0.68 while the margin grew to 1.50" in warning
    assert validated(rows((0.70, 0.1), (0.74, 0.5), (0.70, 1.5)), train_loss=flat) == []
    assert validated(rows((0.70, 0.1), (0.74, 0.5), (0.68, 0.4)), train_loss=flat) == []


def test_a_validation_without_a_number_is_passed_over() -> None:
    """A loss of a validation may be no finite number, and the training goes on: the others are compared as ever."""

    def rows(first: float, last: float) -> list[dict[str, float]]:
        losses = [first, 0.60, 0.61, math.nan, 0.62, last]
        accuracies = [first, 0.90, 0.91, math.nan, 0.92, last + 0.07]
        return [
            {"loss": loss, "accuracy": accuracy, "margin_mean": 0.1 * number}
            for number, (loss, accuracy) in enumerate(zip(losses, accuracies, strict=True))
        ]

    warnings = validated(rows(math.nan, 0.63), train_loss=lambda step: 0.7 - 0.001 * step)
    assert [re.findall(r"^warning (\w+), step 60", text) for text in warnings] == [
        ["preference_collapse"],
        ["overfitting"],
    ]
    assert validated(rows(0.65, math.nan), train_loss=lambda step: 0.7 - 0.001 * step) == []


def test_each_validation_set_is_looked_at_by_itself() -> None:
    health = shaped(100, 100)
    for step, (math_accuracy, code_accuracy) in enumerate([(0.7, 0.7), (0.75, 0.6)]):
        metrics = {
            "validation-math/accuracy": math_accuracy,
            "validation-math/margin_mean": float(step),
            "validation-code/accuracy": code_accuracy,
            "validation-code/margin_mean": float(step),
        }
        warnings = health.observe_validation(step, metrics)
    assert len(warnings) == 1
    assert "accuracy on code fell" in warnings[0]


def test_what_is_said_at_the_end() -> None:
    health = shaped(200, 200)
    for step in range(1, 201):
        health.observe(step, {"grad_norm": 45.0 if step in (60, 70) else 4.0, "preference_loss": 0.6931})
    first, second = health.verdicts()
    assert first.startswith("not_learning: the preference loss is 0.6931 after 200 steps")
    assert "(161 times, at steps 40 to 200)" in first
    assert second.startswith(
        "gradient_spike: the gradient's norm is 45, 11 times its median (2 times, at steps 60 to 70"
    )
    assert shaped(10, 10).verdicts() == []


def test_a_resumed_run_remembers() -> None:
    series = healthy(preference_loss=lambda step: 0.6931, grad_norm=lambda step: 45.0 if step == 150 else 4.0)
    whole, resumed = shaped(200, 100), shaped(200, 100)
    told: list[str] = []
    for step in range(1, 201):
        metrics = {name: value(step) for name, value in series.items()}
        warnings = whole.observe(step, metrics)
        told += warnings if step > 100 else []
        line = {"step": step, "epoch": 1} | {f"train/{name}": value for name, value in metrics.items()}
        if step <= 100:
            resumed.recall(line)
    again = [
        warning
        for step in range(101, 201)
        for warning in resumed.observe(step, {name: value(step) for name, value in series.items()})
    ]
    assert again == told
    assert len(again) == 2
    assert resumed.verdicts() == whole.verdicts()


def test_validations_are_recalled_too() -> None:
    health = shaped(100, 100)
    for step, accuracy in enumerate([0.6, 0.9, 0.7]):
        line = {"step": step, "validation-x/accuracy": accuracy, "validation-x/margin_mean": float(step)}
        health.recall(line)
    assert [verdict.split(":")[0] for verdict in health.verdicts()] == ["preference_collapse"]


def test_lines_with_null_are_recalled() -> None:
    health = shaped(100, 100)
    for step in range(1, 61):
        health.recall({"step": step, "train/grad_norm": None, "train/margin_mean": None, "train/kl": None})
        health.recall({"step": step, "validation-x/accuracy": None, "validation-x/loss": None})
    assert health.verdicts() == []


def test_every_warning_has_advice_and_is_documented() -> None:
    assert set(ADVICE) == set(Kind)
    table = MONITORING.split("## Warnings", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \| (.+?) \|$", table, flags=re.MULTILINE)
    assert {kind: (meaning, remedy) for kind, _, meaning, remedy in rows} == {
        kind.value: (advice.meaning, advice.remedy) for kind, advice in ADVICE.items()
    }


def test_advice_names_options_that_there_are() -> None:
    keys = set(option_keys())
    named = {
        name
        for advice in ADVICE.values()
        for name in re.findall(r"\b(?:dpo|loss|policy|checkpointing|data)\.[\w.]*\w", advice.remedy)
    }
    assert len(named) > 10
    assert named <= keys


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "expected"), [(6e-5, []), (1e-7, ["not_learning"])])
def test_a_real_run(tmp_path: Path, dpo: Callable[..., Any], rate: float, expected: list[str]) -> None:
    """The run of `make demo`, of one epoch, learns and is told nothing; at another rate it does not learn."""
    samples = ROOT / "data" / "samples"
    assert dpo("collect-pairs", samples / "rollouts.jsonl", "-o", "pairs.jsonl").returncode == 0
    sizes = {"train_global_batch_size": 32, "train_micro_batch_size": 32, "self_check": False}
    train(
        TrainConfig.model_validate(
            {
                "data": {"train": str(tmp_path / "pairs.jsonl")},
                "dpo": {"reference_policy_kl_penalty": 0.1},
                "policy": {"model_name": str(samples / "policy"), "optimizer": {"lr": rate}, **sizes},
                "checkpointing": {"enabled": False},
                "output_dir": tmp_path / "run",
            }
        )
    )
    AcceleratorState._reset_state(reset_partial_state=True)
    health = shaped(42, 42)
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        health.recall(json.loads(line))
    assert [verdict.partition(":")[0] for verdict in health.verdicts()] == expected
