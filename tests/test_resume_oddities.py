"""Going on with a run from what no run has left by itself: foreign, moved, renamed and lost checkpoints and logs."""

import fcntl
import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from schemas.errors import InputError, StoppedError, UsageError
from tests.tiny_models import byte_tokenizer, tiny_qwen3
from tests.torture import outcome
from tests.training_runs import USUAL, filled, held_out, lines_of, run
from trainer.api import DPOTrainer
from trainer.checkpoint.manifest import FORMAT, read_manifest, write_manifest
from trainer.checkpoint.resume import find_resume_point
from trainer.config.preflight import preflight
from trainer.config.sections import TrainConfig
from trainer.config.settings import resolve
from trainer.run import loop
from trainer.run.loop import train
from trainer.run.signals import Signals

AUTO = "checkpointing.resume=auto"
USUAL_SAVES = ("checkpointing.save_period=2", "checkpointing.keep_states=null")
STOP_AT_ONCE = "checkpointing.checkpoint_must_save_by=0:0:0:0"
NOT_STOPPED = "checkpointing.checkpoint_must_save_by=1:0:0:0"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of seven steps with checkpoints of the steps 2, 4 and 6, and one with its checkpoints elsewhere."""
    folder = filled(tmp_path_factory.mktemp("oddities"))
    run(folder, "whole", held_out(folder), *USUAL_SAVES)
    run(folder, "apart", held_out(folder), *USUAL_SAVES, f"checkpointing.checkpoint_dir={folder / 'elsewhere'}")
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """The same as if both had been killed behind step 4."""
    copied = shutil.copytree(made, tmp_path / "made")
    shutil.copytree(copied / "whole", copied / "run")
    for name in ("run", "apart"):
        shutil.rmtree(copied / name / "policy")
        (copied / name / "result.json").unlink()
    shutil.rmtree(copied / "run/checkpoints/step_6")
    shutil.rmtree(copied / "elsewhere/step_6")
    config = copied / "apart" / "train_config.json"
    config.write_text(config.read_text().replace(str(made), str(copied)))
    return copied


def configured(folder: Path, name: str, *overrides: str) -> TrainConfig:
    return resolve(
        [*USUAL, "dpo.max_num_steps=7", held_out(folder), *USUAL_SAVES, *overrides],
        train_data_path=folder / "pairs.jsonl",
        model_name=str(folder / "policy"),
        output_dir=folder / name,
    )


def command(folder: Path, name: str, *overrides: str) -> Any:
    """Do what `dpo train` does."""
    config = configured(folder, name, *overrides)
    preflight(config)
    return train(config)


def told_otherwise(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Change training_state.json, and seal the checkpoint as if that had been written."""

    def changed(checkpoint: Path) -> None:
        path = checkpoint / "training_state.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
        seal(checkpoint)

    return changed


def seal(checkpoint: Path) -> None:
    known = read_manifest(checkpoint)
    (checkpoint / "manifest.json").unlink()
    write_manifest(checkpoint, step=known.step, num_processes=1, config_json="", identity=known.identity)


def written(name: str, content: str) -> Callable[[Path], None]:
    """Put other content into a file, and seal the checkpoint."""
    return lambda checkpoint: ((checkpoint / name).write_text(content), seal(checkpoint))[0] and None


def manifest(**changes: Any) -> Callable[[Path], None]:
    """Change a manifest, with a digest of its own that is right; `files` are added to those that there are."""

    def changed(checkpoint: Path) -> None:
        path = checkpoint / "manifest.json"
        content = json.loads(path.read_text())
        if isinstance(changes.get("files"), dict):
            changes["files"] = content["files"] | changes["files"]
        content |= changes
        rest = {key: value for key, value in content.items() if key != "sha256"}
        digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
        path.write_text(json.dumps(rest | {"sha256": digest}, indent=2) + "\n")

    return changed


def a_pipe(name: str) -> Callable[[Path], None]:
    return lambda checkpoint: ((checkpoint / name).unlink(), os.mkfifo(checkpoint / name))[1]


STRANGE = "training_state.json has not what this version of dpo writes there"
SECRET = {"bytes": 6, "sha256": "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"}  # of "secret"
CASES: dict[str, tuple[Callable[[Path], None], str]] = {
    "no step": (told_otherwise(lambda told: told["state"].pop("step")), STRANGE),
    "a step in words": (told_otherwise(lambda told: told["state"].update(step="four")), STRANGE),
    "another key": (told_otherwise(lambda told: told["state"].update(more=1)), STRANGE),
    "metrics in a list": (told_otherwise(lambda told: told["state"].update(metrics=[1])), STRANGE),
    "no standings": (told_otherwise(lambda told: told.pop("standings")), STRANGE),
    "a length below 0": (told_otherwise(lambda told: told.update(log_bytes={"metrics.jsonl": -1})), STRANGE),
    "numbers in a list": (told_otherwise(lambda told: told.update(numbers=[1])), STRANGE),
    "another step": (told_otherwise(lambda told: told["state"].update(step=5)), "is of step 5, and its manifest of"),
    "no JSON": (written("training_state.json", "[" * 100_000), STRANGE),
    "no configuration": (written("train_config.json", "[1]"), "train_config.json has not what this version"),
    "no record": (
        lambda checkpoint: ((checkpoint / "training_state.json").unlink(), seal(checkpoint))[1],
        "training_state.json is none of its files",
    ),
    "another format": (manifest(format=FORMAT + 1), "and this version of dpo reads"),
    "another key of the manifest": (manifest(more=1), "manifest.json is damaged"),
    "files in a list": (manifest(files=["a"]), "manifest.json is damaged"),
    "a file without digest": (manifest(files={"train_config.json": {}}), "manifest.json is damaged"),
    "versions in a list": (manifest(versions=[]), "manifest.json is damaged"),
    "a number in words": (manifest(num_processes="one"), "manifest.json is damaged"),
    "a file outside": (manifest(files={"../../../secret": SECRET}), r"names \.\./\.\./\.\./secret, which is no file"),
    "an absolute path": (manifest(files={"/etc/hostname": SECRET}), "names /etc/hostname, which is no file"),
    "a pipe for a manifest": (a_pipe("manifest.json"), "manifest.json is no file"),
    "a pipe for a file": (a_pipe("train_config.json"), "train_config.json is missing"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_that_no_run_has_written_is_named(folder: Path, case: str) -> None:
    """A manifest is no signature: whoever changes a checkpoint can make one that fits."""
    (folder / "secret").write_text("secret")
    change, problem = CASES[case]
    checkpoint = folder / "run/checkpoints/step_4"
    change(checkpoint)
    with pytest.raises(InputError, match=problem):
        find_resume_point(configured(folder, "new", f"checkpointing.resume={checkpoint}"))
    point = find_resume_point(configured(folder, "run", AUTO))
    assert point is not None
    assert point.step == 2


def test_weights_may_lie_transposed_in_memory(folder: Path) -> None:
    def trained(name: str, **settings: object) -> None:
        model = tiny_qwen3()
        layer = model.model.layers[0].mlp.up_proj
        layer.weight = torch.nn.Parameter(layer.weight.detach().t().contiguous().t())
        usual = dict(each.split("=") for each in (*USUAL, "dpo.max_num_steps=3")) | settings
        pairs, tokenizer = folder / "pairs.jsonl", byte_tokenizer()
        DPOTrainer(model, pairs, config=usual, tokenizer=tokenizer, output_dir=folder / name).train()

    trained("first")
    resume = {"checkpointing.resume": "auto"}
    trained("second", **resume, **dict([STOP_AT_ONCE.split("=")]))
    trained("second", **resume)
    assert outcome(folder / "first") == outcome(folder / "second")


def test_folders_with_other_names_are_no_checkpoints(folder: Path) -> None:
    for name in ("step_007", "step_-1", "step_5.bak", "step_"):
        (folder / "run/checkpoints" / name).mkdir()
    command(folder, "run", AUTO)
    assert outcome(folder / "run") == outcome(folder / "whole")


def test_a_renamed_checkpoint_is_of_the_step_that_it_was(folder: Path) -> None:
    checkpoints = folder / "run/checkpoints"
    shutil.copytree(checkpoints / "step_4", checkpoints / "step_8")
    command(folder, "run", AUTO)
    assert outcome(folder / "run") == outcome(folder / "whole")
    names = {"best.json", "step_2", "step_4", "step_6", "step_8.set_aside"}
    assert {path.name for path in checkpoints.iterdir()} == names


@pytest.mark.parametrize(("before", "now"), [("adamw", "adamw_8bit"), ("adamw_8bit", "adamw"), ("adamw", "sgd")])
def test_another_optimizer_begins_anew(folder: Path, before: str, now: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(folder, "other", f"policy.optimizer.name={before}", STOP_AT_ONCE)
    assert command(folder, "other", f"policy.optimizer.name={now}", AUTO, NOT_STOPPED).finished
    assert f"resume: policy.optimizer.name='{now}', was '{before}' until the checkpoint" in capsys.readouterr().err


def test_another_metric_is_looked_up_in_the_checkpoints_that_there_are(folder: Path) -> None:
    """Losses are 0.6, 0.54 and 0.48, margins 0.19, 0.34 and 0.48: a loss taken for a margin would be the best."""
    metric = ("checkpointing.metric_name=val:margin_mean", "checkpointing.higher_is_better=true")
    result = command(folder, "run", *metric, AUTO, "dpo.val_at_end=false")
    margins = {line["step"]: line.get("validation-default/margin_mean") for line in lines_of(folder / "run")}
    assert (result.best.step, result.best.value) == (6, margins[6])
    assert margins[6] > margins[4] > margins[2]


@pytest.mark.parametrize("name", ["policy", "checkpoints/step_6", "checkpoints/step_6/policy"])
def test_policies_and_checkpoints_are_no_runs(folder: Path, name: str) -> None:
    """They have a train_config.json too, which a run that begins there would remove."""
    before = sorted(folder.rglob("*"))
    with pytest.raises(UsageError, match="exists and is not empty"):
        command(folder, f"whole/{name}", AUTO)
    assert sorted(folder.rglob("*")) == before


def test_a_run_with_its_checkpoints_elsewhere(folder: Path) -> None:
    elsewhere = folder / "elsewhere"
    apart = f"checkpointing.checkpoint_dir={elsewhere}"
    with pytest.raises(UsageError, match="elsewhere: exists and is not empty"):  # it would set aside the other's
        command(folder, "branch", apart, f"checkpointing.resume={elsewhere / 'step_2'}")
    assert command(folder, "branch", f"checkpointing.resume={folder / 'apart'}").finished
    assert outcome(folder / "branch") == outcome(folder / "whole")
    assert {path.name for path in elsewhere.iterdir()} == {"best.json", "step_2", "step_4"}
    command(folder, "apart", apart, f"checkpointing.resume={elsewhere / 'step_2'}")
    assert outcome(folder / "apart") == outcome(folder / "whole")
    assert {path.name for path in elsewhere.iterdir()} == {
        "best.json",
        "step_2",
        "step_4",
        "step_4.set_aside",
        "step_6",
    }


def test_lost_checkpoints_are_no_reason_to_begin(folder: Path) -> None:
    """As where a disk is not there; what the run has told is kept."""
    (folder / "elsewhere").rename(folder / "not there")
    before = (folder / "apart/metrics.jsonl").read_bytes()
    with pytest.raises(InputError, match=r"elsewhere: has no checkpoint, though the run in .*apart has done 7 steps"):
        command(folder, "apart", AUTO, f"checkpointing.checkpoint_dir={folder / 'elsewhere'}")
    assert (folder / "apart/metrics.jsonl").read_bytes() == before


def test_a_run_that_begins_again_says_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(folder / "run/checkpoints")
    metrics = folder / "run/metrics.jsonl"
    metrics.write_text("".join(f"{line}\n" for line in metrics.read_text().splitlines()[:3]))  # down to step 2
    command(folder, "run", AUTO)
    assert "run has no checkpoint yet, so the run begins again" in capsys.readouterr().err
    assert outcome(folder / "run") == outcome(folder / "whole")


def test_another_path_to_the_run_is_the_run(folder: Path) -> None:
    (folder / "link").symlink_to(folder / "run")
    command(folder, "link", f"checkpointing.resume={folder / 'run/../run/checkpoints/step_2'}")
    assert outcome(folder / "run") == outcome(folder / "whole")


def test_a_folder_that_another_run_has_is_not_even_looked_at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found before the other one ends may be gone, or not the newest, behind its end."""
    other = os.open(folder / "run", os.O_RDONLY)
    try:
        fcntl.flock(other, fcntl.LOCK_EX)
        (folder / "run/checkpoints/step_4/manifest.json").unlink()
        (folder / "run/checkpoints/step_2/manifest.json").unlink()
        with pytest.raises(UsageError, match="another run is writing there"):
            command(folder, "run", AUTO)
    finally:
        os.close(other)
    monkeypatch.setattr(loop, "is_finished", lambda config: False)  # as it was a moment ago
    with pytest.raises(UsageError, match="whole: another run has just finished there"):
        command(folder, "whole", AUTO)


@pytest.mark.parametrize("content", ["{", "[]", '{"best": 5, "metrics": {}, "validation": {}}'])
def test_a_damaged_result_is_told(folder: Path, content: str) -> None:
    (folder / "whole/result.json").write_text(content)
    with pytest.raises(InputError, match="can't be read as a run's result; the run is finished, and its policy is in"):
        command(folder, "whole", AUTO)


def test_strange_lines_among_the_metrics_are_passed_over(folder: Path) -> None:
    metrics = folder / "run/metrics.jsonl"
    size = metrics.stat().st_size
    strange = b'null\n5\n[]\n{}\n{"step": "x"}\n{"step": 1, "train/loss": "y"}\n{"step": 1, "to\n\xff\xfe\n'
    metrics.write_bytes(strange + b" " * size)
    assert command(folder, "run", AUTO).finished


def test_the_last_step_is_named_as_the_policy_of_the_run(folder: Path) -> None:
    """Stopped behind the last step, before its validation, the run has a checkpoint of that step too."""
    path = f"checkpointing.resume={folder / 'run/checkpoints/step_4'}"
    stopped = command(folder, "run", path, STOP_AT_ONCE, "dpo.max_num_steps=5")
    assert (stopped.finished, stopped.steps) == (False, 5)
    result = command(folder, "run", AUTO, NOT_STOPPED, "dpo.max_num_steps=5")
    assert (result.finished, result.best.step) == (True, 5)
    assert result.best.path == str(folder / "run/policy")


def test_a_signal_in_the_first_validation_is_told_where_the_time_is_up_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "ROWS_BETWEEN_LOOKS", 1)
    signals = Signals()
    signals.caught = signal.SIGTERM
    with pytest.raises(StoppedError, match="before the first step, by SIGTERM"):
        train(configured(folder, "new", AUTO, STOP_AT_ONCE), signals=signals)
    assert not (folder / "new").exists()


@pytest.mark.parametrize("value", ["null", "false", "5", "[a]"])
def test_what_can_be_no_source_is_told_in_a_line(folder: Path, value: str) -> None:
    with pytest.raises(UsageError, match=r"^checkpointing\.resume: got \S+, expected auto, never, or a folder"):
        configured(folder, "new", f"checkpointing.resume={value}")
    with pytest.raises(UsageError, match=r"^checkpointing\.resume: is empty; leave it out for the default$"):
        resolve(["checkpointing.resume="], train_data_path=folder / "pairs.jsonl")
