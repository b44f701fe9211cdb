"""When a run validates and saves, which checkpoints stay, and when the time is up: tables by hand."""

from datetime import timedelta
from pathlib import Path

import pytest

from schemas.errors import UsageError
from trainer.checkpoint.checkpoints import most_policies
from trainer.checkpoint.retention import Standing, best_of, kept
from trainer.config.records import MetricName, metric_of
from trainer.config.sections import TrainConfig
from trainer.config.settings import resolve
from trainer.run.clock import RunClock
from trainer.run.schedule import Schedule, compared_metric, schedule_of

VALIDATION = "data.validation.data_path=held_out.jsonl"


def config_of(*overrides: str) -> TrainConfig:
    return resolve(overrides, train_data_path=Path("pairs.jsonl"), output_dir=Path("run"))


@pytest.mark.parametrize(
    ("schedule", "validations", "checkpoints"),
    [
        # of 7 steps: behind which there is a validation, and behind which a checkpoint
        (Schedule(7, val_period=3, val_at_start=True, val_at_end=True), [0, 3, 6, 7], []),
        (Schedule(7, val_period=3), [3, 6], []),
        (Schedule(7, val_period=7, val_at_end=True), [7], []),
        (Schedule(7, val_period=7), [7], []),
        (Schedule(7, val_at_start=True), [0], []),
        (Schedule(7, val_period=3, save_period=2), [3, 6], [2, 4, 6]),
        (Schedule(7, val_period=3, save_period=2, validates_to_save=True), [2, 3, 4, 6], [2, 4, 6]),
        (Schedule(7, save_period=7, validates_to_save=True), [], []),  # the last step's policy is the run's
        (Schedule(7, save_period=1), [], [1, 2, 3, 4, 5, 6]),
        (Schedule(0, val_at_start=True, val_at_end=True), [0], []),
    ],
)
def test_the_steps_behind_which_something_is_done(
    schedule: Schedule, validations: list[int], checkpoints: list[int]
) -> None:
    steps = range(schedule.num_steps + 1)
    assert [step for step in steps if schedule.validates(step)] == validations
    assert [step for step in steps if schedule.saves(step)] == checkpoints
    assert (schedule.num_validations, schedule.num_checkpoints) == (len(validations), len(checkpoints))


def test_the_schedule_of_a_configuration() -> None:
    assert schedule_of(config_of(), 7) == Schedule(7, save_period=50)  # there is nothing to validate on
    usual = schedule_of(config_of(VALIDATION), 7)
    assert usual == Schedule(7, 25, val_at_start=True, val_at_end=True, save_period=50, validates_to_save=True)
    given = ("dpo.val_period=3", "dpo.val_at_start=false", "dpo.val_at_end=false", "checkpointing.enabled=false")
    assert schedule_of(config_of(VALIDATION, *given), 7) == Schedule(7, 3)
    saving = ("checkpointing.save_period=4", "checkpointing.metric_name=train:loss")
    assert schedule_of(config_of(*saving), 9) == Schedule(9, save_period=4)


@pytest.mark.parametrize(
    ("overrides", "metric"),
    [
        ((), None),
        ((VALIDATION,), "val:validation-default_loss"),
        (("data.val_data_paths.math=a.jsonl", VALIDATION), "val:validation-default_loss"),
        (("data.val_data_paths.math=a.jsonl", "data.val_data_paths.code=b.jsonl"), "val:validation-math_loss"),
        ((VALIDATION, "checkpointing.metric_name=accuracy"), "val:validation-default_accuracy"),
        ((VALIDATION, "checkpointing.metric_name=train:margin_mean"), "train:margin_mean"),
        ((VALIDATION, "checkpointing.enabled=false"), None),
    ],
)
def test_the_metric_that_checkpoints_are_compared_by(overrides: tuple[str, ...], metric: str | None) -> None:
    found = compared_metric(config_of(*overrides))
    assert (None if found is None else str(found)) == metric


@pytest.mark.parametrize(
    ("text", "metric", "key"),
    [
        ("train:loss", MetricName(False, "", "loss"), "train/loss"),
        ("val:loss", MetricName(True, "default", "loss"), "validation-default/loss"),
        ("loss", MetricName(True, "default", "loss"), "validation-default/loss"),
        ("validation-math_loss", MetricName(True, "math", "loss"), "validation-math/loss"),
        ("val:validation-math/accuracy", MetricName(True, "math", "accuracy"), "validation-math/accuracy"),
        ("val:validation-a_b_margin_mean", MetricName(True, "a_b", "margin_mean"), "validation-a_b/margin_mean"),
        ("val:validation-a_margin_mean", MetricName(True, "a", "margin_mean"), "validation-a/margin_mean"),
        ("train:accuracy/some env", MetricName(False, "", "accuracy/some env"), "train/accuracy/some env"),
        ("validation-a.b_accuracy/x", MetricName(True, "a.b", "accuracy/x"), "validation-a.b/accuracy/x"),
    ],
)
def test_names_of_metrics(text: str, metric: MetricName, key: str) -> None:
    found = metric_of(text, ["a", "a_b", "math", "a.b"])
    assert found == metric
    assert found.key == key


def test_a_bare_name_is_that_of_the_only_set() -> None:
    assert metric_of("val:loss", ["math"]) == metric_of("loss", ["math"]) == MetricName(True, "math", "loss")
    assert metric_of("val:loss", []) == MetricName(True, "default", "loss")


@pytest.mark.parametrize("name", ["train:validation-math_loss", "train:", "val:lo\nss"])
def test_what_is_no_metric_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="is no metric; such as val:loss"):
        config_of(VALIDATION, f"checkpointing.metric_name={name}")


def test_a_set_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match="needs a validation set"):
        config_of("checkpointing.metric_name=val:loss")
    with pytest.raises(UsageError, match="val:validation-code_loss: no such validation set; there are math"):
        config_of("data.val_data_paths.math=a.jsonl", "checkpointing.metric_name=val:validation-code_loss")


SAVED = [
    Standing(10, 0.5),
    Standing(20, 0.3),
    Standing(30, 0.4),
    Standing(40, 0.3),
    Standing(50, 0.6),
]


@pytest.mark.parametrize(
    ("saved", "keep_top_k", "higher_is_better", "steps"),
    [
        (SAVED, 2, False, {20, 40, 50}),  # the two lowest, and the newest
        (SAVED, 1, False, {40, 50}),  # of two with 0.3 the newer
        (SAVED, 3, False, {20, 30, 40, 50}),
        (SAVED, 9, False, {10, 20, 30, 40, 50}),
        (SAVED, None, False, {10, 20, 30, 40, 50}),
        (SAVED, 2, True, {10, 50}),
        (SAVED[:4], 1, True, {10, 40}),
        (SAVED[:1], 1, True, {10}),
        ([], 2, False, set()),
        ([Standing(10, None), Standing(20, None), Standing(30, None)], 2, False, {20, 30}),  # no metric: the newest
        ([Standing(10, 0.9), Standing(20, float("nan")), Standing(30, None)], 1, False, {10, 30}),
        ([Standing(10, float("-inf")), Standing(20, 0.5), Standing(30, 0.7)], 1, False, {20, 30}),
    ],
)
def test_the_checkpoints_that_stay(
    saved: list[Standing], keep_top_k: int | None, higher_is_better: bool, steps: set[int]
) -> None:
    assert kept(saved, keep_top_k=keep_top_k, higher_is_better=higher_is_better) == steps
    backwards = list(reversed(saved))
    assert kept(backwards, keep_top_k=keep_top_k, higher_is_better=higher_is_better) == steps


def test_the_best_checkpoint() -> None:
    assert best_of(SAVED, higher_is_better=False) == Standing(40, 0.3)
    assert best_of(SAVED, higher_is_better=True) == Standing(50, 0.6)
    assert best_of([Standing(1, None), Standing(2, float("nan"))], higher_is_better=True) is None
    assert best_of([], higher_is_better=False) is None


@pytest.mark.parametrize(
    ("num_checkpoints", "keep_top_k", "policies"),
    [(0, 3, 1), (2, 3, 3), (10, 3, 5), (10, None, 11), (4, 3, 5), (3, 3, 4), (10, 1, 3)],
)
def test_the_room_that_policies_take(num_checkpoints: int, keep_top_k: int | None, policies: int) -> None:
    """The best k, the newest, and the one that is being written: a checkpoint, or at the end the policy."""
    assert most_policies(num_checkpoints, keep_top_k) == policies
    lying = most = 0
    for number in range(num_checkpoints):  # a loss that always rises: the newest is never among the best
        most = max(most, lying + 1)
        lying = len(
            kept(
                [Standing(step, float(step)) for step in range(number + 1)],
                keep_top_k=keep_top_k,
                higher_is_better=False,
            )
        )
    assert max(most, lying + 1) == policies


def test_the_time_limit_leaves_room_for_another_step_a_validation_and_a_save() -> None:
    clock = RunClock(timedelta(seconds=1000))
    assert not clock.must_save()
    clock.expect_save_of(50_000_000_000)  # 500 s on a slow disk
    clock.took("step", 300)
    assert not clock.must_save()
    clock.took("validation", 250)
    assert clock.must_save()
    clock.took("save", 100)  # faster than assumed
    assert not clock.must_save()
    clock.took("step", 600)
    clock.took("validation", 300)
    assert clock.must_save()
    for _ in range(20):  # the slow step was the first, and the next ones are quick
        clock.took("step", 1)
    assert not clock.must_save()
    assert not RunClock(None).must_save()


def test_the_time_limit_is_read() -> None:
    assert config_of("checkpointing.checkpoint_must_save_by=1:2:03:4").checkpointing.must_save_by == timedelta(
        days=1, hours=2, minutes=3, seconds=4
    )
    for wrong in ("4h", "1:2:3", "0:0:0:-1"):
        with pytest.raises(UsageError, match="checkpoint_must_save_by"):
            config_of(f"checkpointing.checkpoint_must_save_by={wrong}")
