"""Validation during training: when, on what, under which names, and that the training does not notice."""

import json
import math
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from schemas.errors import DpoError, UsageError
from schemas.preference import write_rows
from tests.tiny_models import byte_tokenizer, save_tiny_policy
from tests.training_runs import HELD_OUT, ROWS, USUAL, are_equal, filled, held_out, lines_of, run
from trainer.config.settings import resolve
from trainer.cost.out_of_memory import remedies
from trainer.run.given import NOTHING
from trainer.run.prepare import prepare
from trainer.run.signals import Signals

LN_2 = math.log(2)
NO_CACHE = "reference.cache_dir=null"
"""So that no run finds what another one has computed."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return filled(tmp_path)


def validations(run_folder: Path, name: str = "default") -> dict[int, float]:
    return {line["step"]: line[key] for line in lines_of(run_folder) if (key := f"validation-{name}/loss") in line}


def test_when_it_is_validated(folder: Path) -> None:
    """Seven steps, validated behind every third, before the first and behind the last; each time once."""
    result = run(folder, "run", held_out(folder), "dpo.val_period=3")
    lines = lines_of(folder / "run")
    steps = [(line["step"], "train/loss" in line) for line in lines]
    assert steps == [
        (0, False),
        *((1, True), (2, True), (3, True), (3, False)),
        *((4, True), (5, True), (6, True), (6, False)),
        *((7, True), (7, False)),
    ]
    assert all(("validation-default/loss" in line) is not ("train/loss" in line) for line in lines)
    found = validations(folder / "run")
    assert found[0] == pytest.approx(LN_2, abs=1e-6)  # the policy is its own reference
    assert found[0] > found[3] > found[6] > found[7]  # all are questions that are answered yes
    assert result.validation["validation-default/loss"] == found[7]


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        (("dpo.val_period=7",), [0, 7]),  # due, and the last: once
        (("dpo.val_period=0",), [0, 7]),
        (("dpo.val_period=0", "dpo.val_at_start=false"), [7]),
        (("dpo.val_period=5", "dpo.val_at_end=false", "dpo.val_at_start=false"), [5]),
        (("dpo.val_period=0", "dpo.val_at_end=false", "dpo.val_at_start=false"), []),
    ],
)
def test_each_switch_of_the_schedule(folder: Path, overrides: tuple[str, ...], steps: list[int]) -> None:
    run(folder, "run", held_out(folder), *overrides)
    assert list(validations(folder / "run")) == steps


def test_the_names_are_nemo_rls(folder: Path) -> None:
    run(folder, "run", f"data.val_data_paths.my_set={folder / 'held_out.jsonl'}", num_steps=1)
    (line,) = (line for line in lines_of(folder / "run") if line["step"] == 1 and "train/loss" not in line)
    nemo = (
        *("loss", "sft_loss", "preference_loss", "accuracy", "rewards_chosen_mean", "rewards_rejected_mean"),
        *("num_valid_samples", "global_valid_seqs", "global_valid_toks"),
    )
    assert line.keys() >= {f"validation-my_set/{name}" for name in nemo}
    one_set, all_sets = "timing/validation-my_set/total_validation_time", "timing/validation/total_validation_time"
    assert 0 < line[one_set] == line[all_sets]
    assert line["validation-my_set/num_valid_samples"] == 9


def test_elapsed_time_has_all_that_a_run_does(folder: Path) -> None:
    result = run(folder, "run", held_out(folder), "checkpointing.save_period=1", "dpo.val_period=1", num_steps=3)
    lines = lines_of(folder / "run")
    elapsed = [line["timing/elapsed_seconds"] for line in lines]
    assert elapsed == sorted(elapsed)
    assert elapsed[-1] < result.seconds
    known = ("timing/train/total_step_time", "timing/validation/total_validation_time")
    assert elapsed[-1] > sum(line[name] for line in lines for name in known if name in line)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("reference=online",),
        ("reference=none",),
        ("dpo.weighting=prompt", "dpo.sft_loss_weight=0.5", "dpo.val_micro_batch_size=1"),
        ("policy.attention=rows", "policy.tokens_per_microbatch=100", "policy.max_total_sequence_length=50"),
        ("policy.max_total_sequence_length=42", "policy.tokens_per_microbatch=42"),  # pairs reach across rows
        ("policy.lora.rank=2",),
    ],
    ids=" ".join,
)
def test_a_validation_has_the_numbers_of_training(folder: Path, overrides: tuple[str, ...]) -> None:
    """All training pairs are one step and are the validation set too: what is validated behind a step is what the
    next step sees before its update."""
    everything = ("policy.train_global_batch_size=24", "dpo.val_period=1", NO_CACHE)
    run(folder, "run", f"data.validation.data_path={folder / 'pairs.jsonl'}", *everything, *overrides, num_steps=3)
    lines = lines_of(folder / "run")
    trained = {line["step"]: line for line in lines if "train/loss" in line}
    for line in lines:
        if "train/loss" in line or line["step"] == 3:
            continue
        for name in ("loss", "preference_loss", "sft_loss", "margin_mean", "logps_chosen_mean", "global_valid_toks"):
            following = trained[line["step"] + 1][f"train/{name}"]
            assert line[f"validation-default/{name}"] == pytest.approx(following, rel=1e-5, abs=1e-5), name


@pytest.mark.parametrize(
    ("val_batches", "size", "pairs", "prompts"),
    [(0, 4, 9, 3), (1, 2, 2, 2), (1, 4, 4, 3), (2, 4, 8, 3), (3, 4, 9, 3), (9, 32, 9, 3)],
)
def test_how_many_pairs_are_validated(
    folder: Path,
    val_batches: int,
    size: int,
    pairs: int,
    prompts: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Of three prompts with three pairs each; a pair of every prompt comes first."""
    limits = (f"dpo.val_batches={val_batches}", f"dpo.val_global_batch_size={size}")
    result = run(folder, "run", held_out(folder), *limits, num_steps=1)
    assert result.validation["validation-default/num_valid_samples"] == pairs
    assert f"validation default: {pairs} pairs to {prompts} prompts\n" in capsys.readouterr().err


def test_rows_of_a_validation_have_a_size_of_their_own(folder: Path) -> None:
    settings = [*USUAL, held_out(folder), "policy.max_total_sequence_length=50"]
    for given, tokens in ((), 2 * 4 * 50), (("dpo.val_micro_batch_size=1",), 2 * 1 * 50):
        config = resolve(
            [*settings, *given],
            train_data_path=folder / "pairs.jsonl",
            model_name=str(folder / "policy"),
            output_dir=folder / f"run {tokens}",
        )
        prepared = prepare(config, NOTHING, Signals())
        assert [each.packer.max_tokens for each in prepared.validation] == [tokens]
        assert prepared.training.packer.max_tokens == 400


@pytest.mark.parametrize("overrides", [(), ("reference=online",), ("policy.lora.rank=2",)], ids=" ".join)
def test_training_is_the_same_to_the_last_bit(folder: Path, overrides: tuple[str, ...]) -> None:
    run(folder, "without", NO_CACHE, *overrides)
    rows = [*HELD_OUT, *ROWS[:5]]  # some are trained on too
    write_rows(folder / "held_out.jsonl", rows)
    more = (held_out(folder), f"data.val_data_paths.other={folder / 'pairs.jsonl'}", "dpo.val_period=1")
    run(folder, "with", NO_CACHE, *overrides, *more)
    assert are_equal(folder / "without" / "policy", folder / "with" / "policy")
    losses = [
        [line["train/loss"] for line in lines_of(folder / name) if "train/loss" in line] for name in ("without", "with")
    ]
    assert losses[0] == losses[1]


def test_a_reference_of_its_own_is_the_validations_too(folder: Path) -> None:
    other = save_tiny_policy(folder / "other", seed=9)
    found = []
    for mode in ("cached", "online"):
        overrides = (held_out(folder), f"reference.model_name={other}", f"reference={mode}", NO_CACHE)
        run(folder, mode, *overrides, num_steps=1)
        found.append(validations(folder / mode))
    assert found[0][0] != pytest.approx(LN_2, abs=1e-3)
    assert found[0] == pytest.approx(found[1], abs=1e-5)


def test_several_sets(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(
        folder / "wrong.jsonl", [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in HELD_OUT]
    )
    run(folder, "run", held_out(folder), f"data.val_data_paths.wrong={folder / 'wrong.jsonl'}")
    right, wrong = validations(folder / "run"), validations(folder / "run", "wrong")
    assert right[7] < LN_2 < wrong[7]
    errors = capsys.readouterr().err
    assert "2 validations of 2 sets\n" in errors
    assert "step    7/7  validation wrong: loss " in errors


def test_prompts_that_are_trained_on_too_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(folder, "clean", held_out(folder), num_steps=1)
    assert "trained on too" not in capsys.readouterr().err
    write_rows(folder / "held_out.jsonl", [*HELD_OUT, *ROWS[:9]])  # six pairs of one prompt, three of the next
    run(folder, "run", held_out(folder), num_steps=1)
    assert "validation default: 2 of its 5 prompts are trained on too; " in capsys.readouterr().err


def test_a_set_without_a_usable_pair_is_named(folder: Path) -> None:
    write_rows(folder / "long.jsonl", [{"prompt": "Q", "chosen": "x" * 2000, "rejected": "y"}])
    with pytest.raises(DpoError, match=r"^validation set long: no pair is left .*1 too_long"):
        run(folder, "run", held_out(folder), f"data.val_data_paths.long={folder / 'long.jsonl'}")
    assert not (folder / "run").exists()


def test_what_is_no_number_is_null(folder: Path) -> None:
    """The embedding of ~ is NaN, and only a response that is validated on has it: the training goes on."""
    save_tiny_policy(folder / "policy", tie_word_embeddings=False)
    weights = load_file(folder / "policy" / "model.safetensors")
    weights["model.embed_tokens.weight"][byte_tokenizer()("~")["input_ids"][0]] = math.nan
    save_file(weights, folder / "policy" / "model.safetensors", metadata={"format": "pt"})
    write_rows(folder / "held_out.jsonl", [{"prompt": "Q", "chosen": "yes", "rejected": "~no"}])
    result = run(folder, "run", held_out(folder), "dpo.val_period=3", "checkpointing.save_period=3")
    assert list(validations(folder / "run").items()) == [(0, None), (3, None), (6, None), (7, None)]
    assert "NaN" not in (folder / "run" / "metrics.jsonl").read_text()
    assert "NaN" not in (folder / "run" / "checkpoints" / "step_3" / "training_info.json").read_text()
    assert (result.finished, result.best) == (True, None)
    assert json.loads(json.dumps(result.as_dict(), allow_nan=False))["validation"]["validation-default/loss"] is None


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (
            "val:accuracyy",
            r"val:validation-default_accuracyy: no such metric; did you mean accuracy\? there are accuracy, ",
        ),
        ("train:los", r"train:los: no such metric; did you mean loss\? there are accuracy, "),
        ("train:grad", "there are .*grad_norm"),
    ],
)
def test_an_unknown_metric_is_refused_before_the_first_step(folder: Path, metric: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run(folder, "run", held_out(folder), f"checkpointing.metric_name={metric}")
    assert not (folder / "run").exists()


@pytest.mark.parametrize("metric", ["val:accuracy/late", "train:accuracy/late", "train:accuracy/early"])
def test_an_environment_that_comes_late_in_the_file_can_be_named(folder: Path, metric: str) -> None:
    rows = [{"prompt": f"Q{n}", "chosen": "yes", "rejected": "no", "agent": "early"} for n in range(40)]
    late = [{"prompt": "Last", "chosen": "yes", "rejected": "no", "agent": "late"}]
    for name in ("pairs", "held_out"):
        write_rows(folder / f"{name}.jsonl", [*rows, *late])
    run(folder, "run", held_out(folder), f"checkpointing.metric_name={metric}", "data.shuffle=false", num_steps=1)


def test_every_metric_of_a_step_can_be_named(folder: Path) -> None:
    """What is held to be known is what metrics.jsonl has."""
    run(folder, "run", num_steps=2)
    names = {name.removeprefix("train/") for name in lines_of(folder / "run")[-1] if name.startswith("train/")}
    for name in sorted(names):
        settings = [*USUAL, f"checkpointing.metric_name=train:{name}"]
        config = resolve(
            settings,
            train_data_path=folder / "pairs.jsonl",
            model_name=str(folder / "policy"),
            output_dir=folder / f"of {name.replace('/', ' ')}",
        )
        prepare(config, NOTHING, Signals())


def test_what_helps_where_a_validation_runs_out_of_memory() -> None:
    config = resolve(["dpo.val_micro_batch_size=6", "policy.max_total_sequence_length=100"], train_data_path=Path("x"))
    first, *_ = remedies(config, "validation", has_gpu=False)
    assert first == "dpo.val_micro_batch_size=3 (now rows of 1200 tokens)"
    config = resolve(["dpo.val_micro_batch_size=1", "policy.max_total_sequence_length=100"], train_data_path=Path("x"))
    (only,) = remedies(config, "validation", has_gpu=False)
    assert only.startswith("a lower policy.max_total_sequence_length (now 100;")
