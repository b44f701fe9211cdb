"""Going on with a run: to the last bit what it would have been, from a whole checkpoint or not at all."""

import fcntl
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import DpoError, InputError, UsageError
from schemas.preference import write_rows
from tests.tiny_models import save_tiny_policy
from tests.torture import outcome
from tests.training_runs import ROWS, are_equal, filled, held_out, lines_of, run
from trainer.checkpoint.manifest import NotWholeError, check_files, read_manifest
from trainer.config.preflight import preflight
from trainer.config.sections import TrainConfig
from trainer.config.settings import resolve
from trainer.run.loop import train

AUTO = "checkpointing.resume=auto"
EVERY_SECOND = "checkpointing.save_period=2"
ALL_STATES = "checkpointing.keep_states=null"
STOP_AT_ONCE = "checkpointing.checkpoint_must_save_by=0:0:0:0"
NOT_STOPPED = "checkpointing.checkpoint_must_save_by=1:0:0:0"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return filled(tmp_path)


@pytest.fixture
def stopped(folder: Path) -> Path:
    """A run of seven steps that ended behind its fourth, as if it had been killed; checkpoints are of steps 2 and 4."""
    run(folder, "whole", held_out(folder), EVERY_SECOND, ALL_STATES)
    shutil.copytree(folder / "whole", folder / "run")
    for name in ("policy", "checkpoints/step_6"):
        shutil.rmtree(folder / "run" / name)
    (folder / "run" / "result.json").unlink()
    return folder


def go_on(folder: Path, *overrides: str, num_steps: int = 7) -> Any:
    return run(folder, "run", held_out(folder), EVERY_SECOND, ALL_STATES, AUTO, *overrides, num_steps=num_steps)


VARIANTS: tuple[tuple[str, ...], ...] = (
    (),
    ("policy.lora.rank=2",),
    ("policy.optimizer.name=sgd", "data.order=pairs", "policy.scheduler.name=linear"),
    ("reference=online", "policy.gradient_checkpointing=true", "policy.scheduler.warmup_ratio=0.5"),
    ("reference.cache_dir=null", "dpo.weighting=prompt", "logger.num_val_samples_to_print=1"),
)


@pytest.mark.parametrize("overrides", VARIANTS, ids=" ".join)
def test_a_run_that_is_stopped_in_each_step_ends_as_one_that_is_not(folder: Path, overrides: tuple[str, ...]) -> None:
    """Each start does one step, and has to end; the validations and the answers to prompts come later, but come."""
    usual = (held_out(folder), "dpo.val_period=3", *overrides)
    expected = run(folder, "whole", *usual)
    for steps in range(1, 7):
        found = run(folder, "run", *usual, AUTO, STOP_AT_ONCE)
        assert (found.finished, found.steps, found.planned_steps) == (False, steps, 7)
    found = run(folder, "run", *usual, AUTO, NOT_STOPPED)
    assert (found.finished, found.steps) == (True, 7)
    assert outcome(folder / "run") == outcome(folder / "whole")
    assert found.metrics.keys() == expected.metrics.keys()
    assert found.validation["validation-default/loss"] == expected.validation["validation-default/loss"]
    samples = [folder / name / "samples.jsonl" for name in ("run", "whole")]
    assert [path.exists() and path.read_text() for path in samples] == [
        samples[1].exists() and samples[1].read_text()
    ] * 2


def test_a_killed_run_goes_on(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seconds = lines_of(stopped / "run")[-1]["timing/elapsed_seconds"]
    result = go_on(stopped)
    assert "resume: after step 4, from" in capsys.readouterr().err
    assert (result.finished, result.steps, result.planned_steps) == (True, 7, 7)
    assert outcome(stopped / "run") == outcome(stopped / "whole")
    assert lines_of(stopped / "run")[-1]["timing/elapsed_seconds"] > seconds / 2
    best = [json.loads((stopped / name / "checkpoints" / "best.json").read_text()) for name in ("run", "whole")]
    assert best[0] == best[1]
    assert {path.name for path in (stopped / "run" / "checkpoints").iterdir()} == {
        path.name for path in (stopped / "whole" / "checkpoints").iterdir()
    }


def test_a_finished_run_is_only_told_of(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = run(folder, "run", held_out(folder))
    before = {path: path.stat().st_mtime_ns for path in (folder / "run").rglob("*")}
    capsys.readouterr()
    again = run(folder, "run", held_out(folder), AUTO)
    assert again == first
    assert "resume: the run is finished; the policy is in" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in (folder / "run").rglob("*")} == before


def test_a_finished_run_does_not_pass_for_another(folder: Path) -> None:
    run(folder, "run", held_out(folder))
    with pytest.raises(
        UsageError, match=r"is finished, and was another: dpo\.reference_policy_kl_penalty=0\.2, was 0\.05;"
    ):
        run(folder, "run", held_out(folder), AUTO, "dpo.reference_policy_kl_penalty=0.2")
    with pytest.raises(UsageError, match=r"dpo\.max_num_steps=9, was 7"):
        run(folder, "run", AUTO, num_steps=9)
    others = (AUTO, "checkpointing.resume_anyway=true", "dpo.reference_policy_kl_penalty=0.2")
    assert run(folder, "run", held_out(folder), *others).finished


def test_a_mistyped_word_is_taken_for_one(folder: Path) -> None:
    with pytest.raises(InputError, match=r"^checkpointing\.resume=atuo: no such folder; did you mean auto\?$"):
        preflight(configured(folder, "checkpointing.resume=atuo", f"output_dir={folder / 'run'}"))


def test_a_checkpoint_that_was_asked_for_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(folder, "run", STOP_AT_ONCE)
    assert f"saved, as asked: {folder / 'run/checkpoints/step_1'}\n" in capsys.readouterr().err


def configured(folder: Path, *settings: str) -> TrainConfig:
    return resolve(settings, train_data_path=folder / "pairs.jsonl", model_name=str(folder / "policy"))


def test_a_first_start_and_a_start_before_the_first_checkpoint_begin(folder: Path) -> None:
    run(folder, "whole", held_out(folder))
    (folder / "run").mkdir()
    (folder / "run" / "train_config.json").write_text("{}")  # of a run that was killed in its first step
    (folder / "run" / "metrics.jsonl").write_text('{"step": 0, "torn')
    run(folder, "run", held_out(folder), AUTO)
    assert outcome(folder / "run") == outcome(folder / "whole")


def test_another_folder_may_go_on_from_a_checkpoint(stopped: Path) -> None:
    before = {path: path.read_bytes() for path in (stopped / "run").rglob("*") if path.is_file()}
    resume = f"checkpointing.resume={stopped / 'run' / 'checkpoints' / 'step_2'}"
    run(stopped, "branch", held_out(stopped), EVERY_SECOND, resume)
    assert outcome(stopped / "branch") == outcome(stopped / "whole")
    assert {path: path.read_bytes() for path in (stopped / "run").rglob("*") if path.is_file()} == before


def test_going_back_sets_later_checkpoints_aside(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Else the next resume would take those of the steps that were gone back behind."""
    run(stopped, "run", held_out(stopped), EVERY_SECOND, f"checkpointing.resume={stopped / 'run/checkpoints/step_2'}")
    assert "resume: step_4 is set aside as" in capsys.readouterr().err
    assert outcome(stopped / "run") == outcome(stopped / "whole")
    assert (stopped / "run/checkpoints/step_4.set_aside/state").is_dir()


def damage_cases() -> dict[str, Callable[[Path], object]]:
    """Ways to damage a file: cut at each eighth, removed, a byte turned."""

    def cut(path: Path, eighth: int) -> None:
        os.truncate(path, path.stat().st_size * eighth // 8)

    def turn(path: Path, share: float) -> None:
        content = bytearray(path.read_bytes())
        content[int(len(content) * share)] ^= 0x20
        path.write_bytes(content)

    cases: dict[str, Callable[[Path], object]] = {f"cut at {n}/8": lambda path, n=n: cut(path, n) for n in range(8)}  # type: ignore[misc]
    cases["removed"] = Path.unlink
    for share in (0.0, 0.37, 0.999):
        cases[f"a byte turned at {share:.0%}"] = lambda path, share=share: turn(path, share)  # type: ignore[misc]
    return cases


def is_whole(checkpoint: Path) -> bool:
    try:
        check_files(checkpoint, read_manifest(checkpoint))
    except NotWholeError:
        return False
    return True


def test_no_damaged_file_of_a_checkpoint_is_missed(stopped: Path, tmp_path: Path) -> None:
    checkpoint = stopped / "run" / "checkpoints" / "step_4"
    assert is_whole(checkpoint)
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    assert len(files) > 8
    for path in files:
        content = path.read_bytes()
        for name, damage in damage_cases().items():
            damage(path)
            assert not is_whole(checkpoint), f"{path.name} {name}"
            path.write_bytes(content)
    assert is_whole(checkpoint)


@pytest.mark.parametrize("name", ["manifest.json", "training_state.json", "state", "policy/model.safetensors"])
def test_a_damaged_checkpoint_is_passed_over_with_a_word(
    stopped: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = stopped / "run" / "checkpoints" / "step_4" / name
    path = next(path.iterdir()) if path.is_dir() else path
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    go_on(stopped)
    errors = capsys.readouterr().err
    assert f"resume: passed over step_4: {path.relative_to(stopped / 'run/checkpoints/step_4')} is damaged" in errors
    assert "resume: after step 2, from" in errors
    assert "resume: step_4 is set aside as" in errors
    assert outcome(stopped / "run") == outcome(stopped / "whole")


def test_without_a_whole_checkpoint_nothing_begins(stopped: Path) -> None:
    checkpoints = stopped / "run" / "checkpoints"
    (checkpoints / "step_4" / "manifest.json").unlink()
    shutil.rmtree(checkpoints / "step_2" / "state")  # as a newer checkpoint does
    before = sorted(path for path in (stopped / "run").rglob("*"))
    with pytest.raises(InputError) as error:
        go_on(stopped)
    lines = str(error.value).splitlines()
    assert lines[0].endswith("no checkpoint is whole, so there is nothing to resume from:")
    assert lines[1:3] == [
        "  step_4: manifest.json can't be read: No such file or directory",
        "  step_2: its state was let go (checkpointing.keep_states); its policy is there",
    ]
    assert sorted(path for path in (stopped / "run").rglob("*")) == before


def test_a_foreign_file_among_the_tensors_is_not_loaded(stopped: Path) -> None:
    state = stopped / "run" / "checkpoints" / "step_4" / "state"
    shutil.copy(next(state.iterdir()), state / "shard-00002-model-00001-of-00001.safetensors")
    with pytest.raises(InputError, match=r"state/shard-00002.* is none of its files"):
        run(stopped, "new", held_out(stopped), f"checkpointing.resume={state.parent}")


def test_a_resume_needs_its_source(folder: Path) -> None:
    def start(settings: tuple[str, ...]) -> None:
        config = resolve(settings, train_data_path=folder / "pairs.jsonl", model_name=str(folder / "policy"))
        preflight(config)
        train(config)

    def refused(*settings: str) -> str:
        with pytest.raises(DpoError) as error:
            start(settings)
        return f"{error.value.exit_code} {error.value}"

    nothing = folder / "nothing"
    assert refused(AUTO) == "2 checkpointing.resume=auto needs the run's folder: name it with -o (output_dir)"
    assert refused(f"checkpointing.resume={nothing}") == f"3 checkpointing.resume={nothing}: no such folder"
    nothing.mkdir()
    assert refused(f"checkpointing.resume={nothing}", f"output_dir={folder / 'new'}") == (
        f"2 checkpointing.resume={nothing}: is neither a checkpoint (step_N) nor the folder of a run with any"
    )
    assert refused(f"checkpointing.resume={nothing}").endswith("lies in no run's folder: name one for this run with -o")
    assert not (folder / "new").exists()
    assert refused("checkpointing.resume_anyway=true").startswith("2 checkpointing: resume_anyway needs resume=auto")
    (folder / "other").mkdir()
    (folder / "other" / "thesis.txt").touch()
    assert refused(AUTO, f"output_dir={folder / 'other'}").startswith(f"2 {folder / 'other'}: exists and is not empty")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (["dpo.reference_policy_kl_penalty=0.1"], "the loss is not that of the checkpoint: dpo.reference_policy_kl_"),
        (["loss.name=ipo"], "the loss is not that of the checkpoint: loss.name='ipo', was 'sigmoid'"),
        (["policy.max_total_sequence_length=40"], "the pairs are not those of the checkpoint"),
        (["data.train.weight=0.5"], "the pairs are not those of the checkpoint"),
        (["reference.model_name={other}"], "the reference is not that of the checkpoint"),
        (["policy.model_name={other}"], "the start policy is not that of the checkpoint"),
        (["data.train.data_path={few}"], "the pairs are not those of the checkpoint"),
    ],
)
def test_another_run_is_refused(stopped: Path, settings: list[str], problem: str) -> None:
    save_tiny_policy(stopped / "other", seed=5)
    write_rows(stopped / "few.jsonl", ROWS[1:])
    before = (stopped / "run" / "metrics.jsonl").read_bytes()
    told = [each.format(other=stopped / "other", few=stopped / "few.jsonl") for each in settings]
    options: dict[str, Any] = {}
    if "data.train.data_path" not in settings[0]:
        options["train_data_path"] = stopped / "pairs.jsonl"
    if "policy.model_name" not in settings[0]:
        options["model_name"] = str(stopped / "policy")
    usual = ["policy.train_global_batch_size=8", "dpo.max_num_steps=7", "dpo.max_num_epochs=9", AUTO]
    with pytest.raises(UsageError, match="--resume-anyway goes on all the same") as error:
        train(resolve([*usual, *told], output_dir=stopped / "run", **options))
    assert problem in str(error.value)
    assert (stopped / "run" / "metrics.jsonl").read_bytes() == before


def test_another_loss_and_a_longer_run_may_be_wanted(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = go_on(stopped, "loss.name=ipo", "checkpointing.resume_anyway=true", num_steps=9)
    assert (result.steps, result.planned_steps) == (9, 9)
    errors = capsys.readouterr().err
    assert "resume: loss.name='ipo', was 'sigmoid' until the checkpoint" in errors
    assert "resume: dpo.max_num_steps=9, was 7 until the checkpoint" in errors
    assert "resume: another loss than the checkpoint's, as --resume-anyway allows" in errors
    lines = [line["step"] for line in lines_of(stopped / "run") if "train/loss" in line]
    assert lines == list(range(1, 10))


def test_other_adapters_can_not_be_gone_on_with(folder: Path) -> None:
    run(folder, "run", "policy.lora.rank=2", STOP_AT_ONCE)
    for other in (["policy.lora.rank=4"], []):
        with pytest.raises(UsageError, match=r"policy\.lora\.\* must be those of the checkpoint"):
            run(folder, "run", AUTO, NOT_STOPPED, *other)


def test_a_smaller_batch_goes_on_behind_the_same_pairs(folder: Path) -> None:
    """24 pairs to an epoch; after two steps of 8, steps of 4 take the last eight in two."""
    run(folder, "run", EVERY_SECOND, num_steps=3)
    shutil.rmtree(folder / "run" / "policy")
    result = run(folder, "run", AUTO, "policy.train_global_batch_size=4", "dpo.max_num_epochs=1", num_steps=9)
    assert (result.steps, result.planned_steps) == (4, 4)
    assert [line["train/consumed_samples"] for line in lines_of(folder / "run")] == [8, 16, 20, 24]


def test_two_runs_do_not_share_a_folder(folder: Path) -> None:
    run(folder, "run", EVERY_SECOND)
    shutil.rmtree(folder / "run" / "policy")
    other = os.open(folder / "run", os.O_RDONLY)
    try:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="another run is writing there"):
            run(folder, "run", AUTO, EVERY_SECOND)
    finally:
        os.close(other)
    run(folder, "run", AUTO, EVERY_SECOND)
    assert (folder / "run" / "policy").is_dir()


def test_lines_that_were_lost_are_told(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (stopped / "run" / "metrics.jsonl").write_text("")
    go_on(stopped)
    assert "metrics.jsonl has 0 bytes, and had " in capsys.readouterr().err
    assert are_equal(stopped / "run" / "policy", stopped / "whole" / "policy")
