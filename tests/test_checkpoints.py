"""Checkpoints: what is in one, which stay, that saving leaves the training as it is, and what ends a run early."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from schemas.errors import DpoError, UsageError
from tests.training_runs import USUAL, are_equal, filled, held_out, lines_of, run, weights_of
from trainer.checkpoint.checkpoints import BestPolicy, Checkpoints
from trainer.checkpoint.retention import Standing
from trainer.config.sections import TrainConfig
from trainer.config.settings import resolve

EVERY_SECOND = "checkpointing.save_period=2"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return filled(tmp_path)


def saved_steps(checkpoints: Path) -> set[int]:
    assert not list(checkpoints.glob(".*"))  # nothing half written, nothing half removed
    return {int(path.name.removeprefix("step_")) for path in checkpoints.iterdir() if path.name != "best.json"}


def test_what_a_checkpoint_holds(folder: Path) -> None:
    """Three steps of eight pairs make an epoch, so the fourth is the first of the second epoch."""
    run(folder, "run", held_out(folder), EVERY_SECOND)
    checkpoint = folder / "run" / "checkpoints" / "step_4"
    files = {"training_state.json", "training_info.json", "train_config.json", "manifest.json"}
    assert {path.name for path in checkpoint.iterdir()} == {"policy", "state", *files}
    assert {path.name for path in (checkpoint / "policy").iterdir()} == {
        path.name for path in (folder / "run" / "policy").iterdir()
    }
    AutoModelForCausalLM.from_pretrained(checkpoint / "policy")
    AutoTokenizer.from_pretrained(checkpoint / "policy")
    TrainConfig.model_validate_json((checkpoint / "train_config.json").read_text())
    info = json.loads((checkpoint / "training_info.json").read_text())
    lines = lines_of(folder / "run")
    trained = [line for line in lines if "train/loss" in line]
    validated = next(line for line in lines if line["step"] == 4 and "train/loss" not in line)
    counts = ("epoch", "step", "total_steps", "consumed_samples", "validated_at_step")
    assert tuple(info[name] for name in counts) == (1, 1, 4, 32, 4)
    assert info["total_valid_tokens"] == sum(line["train/global_valid_toks"] for line in trained[:4])
    assert (
        info["val:validation-default_loss"] == info["validation-default_loss"] == validated["validation-default/loss"]
    )
    assert info["validation-default_rewards_chosen_mean"] == validated["validation-default/rewards_chosen_mean"]


@pytest.mark.parametrize("overrides", [(), ("policy.lora.rank=2",)], ids=" ".join)
def test_a_checkpoint_is_the_policy_of_a_run_that_ends_there(folder: Path, overrides: tuple[str, ...]) -> None:
    run(folder, "long", EVERY_SECOND, *overrides)
    run(folder, "short", *overrides, num_steps=4)
    assert are_equal(folder / "long" / "checkpoints" / "step_4" / "policy", folder / "short" / "policy")
    assert not are_equal(folder / "long" / "checkpoints" / "step_4" / "policy", folder / "long" / "policy")
    assert weights_of(folder / "long" / "policy").keys() == weights_of(folder / "policy").keys()


@pytest.mark.parametrize("overrides", [(), ("policy.lora.rank=2",)], ids=" ".join)
def test_training_is_the_same_to_the_last_bit(folder: Path, overrides: tuple[str, ...]) -> None:
    run(folder, "with", "checkpointing.save_period=1", *overrides)
    run(folder, "without", "checkpointing.enabled=false", *overrides)
    assert not (folder / "without" / "checkpoints").exists()
    assert are_equal(folder / "with" / "policy", folder / "without" / "policy")


def test_the_best_and_the_newest_stay(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The rate of a step rises with the warm-up, so the lowest is the best of the first steps and never the newest."""
    metric = ("checkpointing.metric_name=train:lr", "policy.scheduler.warmup_ratio=1", "checkpointing.save_period=1")
    result = run(folder, "run", *metric, "checkpointing.keep_top_k=2")
    assert saved_steps(folder / "run" / "checkpoints") == {1, 2, 6}
    rate = lines_of(folder / "run")[0]["train/lr"]
    path = folder / "run" / "checkpoints" / "step_1" / "policy"
    assert result.best == BestPolicy(1, "train:lr", rate, str(path))
    best = json.loads((folder / "run" / "checkpoints" / "best.json").read_text())
    assert best == {"step": 1, "metric": "train:lr", "value": rate, "path": "step_1/policy"}
    errors = capsys.readouterr().err
    assert "6 checkpoints, every step, in " in errors
    assert "; 2 with the lowest train:lr and the newest are kept\n" in errors
    assert f"best by train:lr, {rate:.4f}: the policy of step 1, in {path}\n" in errors


def test_a_higher_value_may_be_the_better_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metric = ("checkpointing.metric_name=train:lr", "policy.scheduler.warmup_ratio=1", "checkpointing.save_period=1")
    result = run(folder, "run", *metric, "checkpointing.keep_top_k=2", "checkpointing.higher_is_better=true")
    assert saved_steps(folder / "run" / "checkpoints") == {5, 6}
    assert result.best is not None
    assert (result.best.step, result.best.path) == (7, str(folder / "run" / "policy"))  # the last takes part
    best = json.loads((folder / "run" / "checkpoints" / "best.json").read_text())
    assert (best["step"], best["path"]) == (7, "../policy")
    assert "best by train:lr, 0.0010: this policy\n" in capsys.readouterr().err


def test_of_equals_the_newer_stays(folder: Path) -> None:
    """The rate is the same in every step."""
    run(
        folder, "run", "checkpointing.metric_name=train:lr", "checkpointing.save_period=1", "checkpointing.keep_top_k=2"
    )
    assert saved_steps(folder / "run" / "checkpoints") == {5, 6}


def test_without_a_metric_the_newest_stay(folder: Path) -> None:
    result = run(folder, "run", "checkpointing.save_period=1", "checkpointing.keep_top_k=2")
    assert saved_steps(folder / "run" / "checkpoints") == {5, 6}
    assert result.best is None
    assert not (folder / "run" / "checkpoints" / "best.json").exists()
    run(folder, "all", "checkpointing.save_period=1", "checkpointing.keep_top_k=null")
    assert saved_steps(folder / "all" / "checkpoints") == {1, 2, 3, 4, 5, 6}


def test_a_checkpoint_that_is_compared_is_validated(folder: Path) -> None:
    """val_period is 25, yet each checkpoint has a validation of its own; compared by a train metric it needs none."""
    run(folder, "run", held_out(folder), EVERY_SECOND, "dpo.val_at_start=false")
    steps = [line["step"] for line in lines_of(folder / "run") if "validation-default/loss" in line]
    assert steps == [2, 4, 6, 7]
    by_train = (held_out(folder), EVERY_SECOND, "dpo.val_at_start=false", "checkpointing.metric_name=train:loss")
    run(folder, "by train", *by_train)
    steps = [line["step"] for line in lines_of(folder / "by train") if "validation-default/loss" in line]
    assert steps == [7]


def test_the_last_step_takes_part_only_where_it_is_validated(folder: Path) -> None:
    """The loss falls in each step, so the last policy is the best where it may be."""
    result = run(folder, "run", held_out(folder), EVERY_SECOND)
    assert result.best is not None
    assert result.best.step == 7
    result = run(folder, "blind", held_out(folder), EVERY_SECOND, "dpo.val_at_end=false")
    assert result.best is not None
    assert result.best.step == 6


def test_checkpoints_may_lie_elsewhere(folder: Path) -> None:
    elsewhere = f"checkpointing.checkpoint_dir={folder / 'elsewhere'}"
    run(folder, "run", elsewhere, EVERY_SECOND)
    assert saved_steps(folder / "elsewhere") == {2, 4, 6}
    assert not (folder / "run" / "checkpoints").exists()
    with pytest.raises(UsageError, match=r"elsewhere: exists and is not empty; name a new folder"):
        run(folder, "another", elsewhere, EVERY_SECOND)
    assert not (folder / "another").exists()
    with pytest.raises(DpoError, match=r"pairs\.jsonl/x: can't be written"):
        run(folder, "another", f"checkpointing.checkpoint_dir={folder / 'pairs.jsonl' / 'x'}")
    assert not (folder / "another").exists()


def test_a_short_run_has_no_checkpoints(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run(folder, "run", held_out(folder))
    assert not (folder / "run" / "checkpoints").exists()
    assert "checkpoint" not in capsys.readouterr().err
    assert result.best is not None  # the last one is all there is
    assert result.best.step == 7


def test_a_checkpoint_that_was_moved_away_ends_no_run(folder: Path) -> None:
    checkpoints = Checkpoints(resolve([], train_data_path=folder / "pairs.jsonl", output_dir=folder / "run"))

    def save(step: int) -> None:
        checkpoints.folder_of(step).mkdir(parents=True)
        checkpoints.add(Standing(step, None))

    for step in (1, 2, 3):
        save(step)
    (checkpoints.folder / "step_1").rename(folder / "kept_by_hand")
    save(4)  # which lets the first one go
    assert saved_steps(checkpoints.folder) == {2, 3, 4}
    assert not list(checkpoints.folder.glob(".*"))


def test_too_little_room_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run(folder, "roomy", EVERY_SECOND)
    assert "the disk has" not in capsys.readouterr().err
    monkeypatch.setattr("trainer.watch.report.free_bytes", lambda folder: 100_000)  # the policy takes 107,648
    run(folder, "run", EVERY_SECOND)
    assert "the disk has 0.0 GB free, checkpoints and policy may take 0.0 GB" in capsys.readouterr().err
    run(folder, "policy_alone", "checkpointing.enabled=false", num_steps=1)
    assert "the disk has 0.0 GB free, the policy may take 0.0 GB; make room" in capsys.readouterr().err


def command(folder: Path, *overrides: str) -> list[str]:
    arguments = ["train", "pairs.jsonl", "--model", "policy", "-o", "run", *USUAL, "dpo.max_num_steps=7", *overrides]
    limit = "import resource, sys, cli; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); cli.main()"
    return [sys.executable, "-c", limit, *arguments]


def test_a_full_disk_leaves_no_half_checkpoint(folder: Path) -> None:
    """Files of this process may have 20 kB: the metrics fit in, the weights don't."""
    environment = {"PYTHONPATH": str(Path(__file__).parents[1]), "PATH": "", "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(command(folder, EVERY_SECOND), cwd=folder, env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (1, ""), result.stderr
    last = result.stderr.splitlines()[-1]
    assert last.startswith("dpo: error: run/checkpoints/step_2: can't be written: ")
    assert "checkpointing.keep_top_k (now 3)" in last
    assert list((folder / "run" / "checkpoints").iterdir()) == []
    assert len(lines_of(folder / "run")) == 2


def test_a_run_whose_time_is_up_saves_and_ends(folder: Path) -> None:
    limit = "checkpointing.checkpoint_must_save_by=0:0:0:0"
    result = run(folder, "run", held_out(folder), limit, "dpo.val_at_start=false")
    assert (result.finished, result.steps, result.planned_steps) == (False, 1, 7)
    assert result.policy_dir == folder / "run" / "checkpoints" / "step_1" / "policy"
    summary = result.as_dict()
    assert (summary["finished"], summary["policy_dir"]) == (False, str(result.policy_dir))
    assert not (folder / "run" / "policy").exists()
    assert [line["step"] for line in lines_of(folder / "run")] == [1]  # validated when there is time again
    assert result.stopped_by == "checkpointing.checkpoint_must_save_by"
    run(folder, "short", num_steps=1)
    assert are_equal(result.policy_dir, folder / "short" / "policy")


def test_a_run_whose_last_step_is_done_is_complete(folder: Path) -> None:
    result = run(folder, "run", "checkpointing.checkpoint_must_save_by=0:0:0:0", num_steps=1)
    assert (result.finished, result.policy_dir) == (True, folder / "run" / "policy")


def test_a_run_that_had_to_end_says_where_its_policy_is(dpo, folder: Path) -> None:
    arguments = ("train", "pairs.jsonl", "--model", "policy", *USUAL, "dpo.max_num_steps=7")
    limit = "checkpointing.checkpoint_must_save_by=0:0:0:0"
    result = dpo(*arguments, "-o", "run", limit, cwd=folder)
    assert (result.returncode, result.stdout) == (75, "")
    assert result.stderr.splitlines()[-1] == (
        "dpo: stopped: after step 1 of 7, by checkpointing.checkpoint_must_save_by; the policy so far is in "
        "run/checkpoints/step_1/policy; the same command with --resume auto goes on"
    )
