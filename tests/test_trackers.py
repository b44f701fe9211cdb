"""Trackers are told what metrics.jsonl is told; they never cost a run, and see no secret."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from accelerate import PartialState
from accelerate.state import AcceleratorState
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from schemas.preference import write_rows
from tests.tiny_models import save_tiny_policy
from tests.tracker_services import stand_in
from trainer.config.sections import TrainConfig
from trainer.run.loop import train
from trainer.watch.samples import Sample
from trainer.watch.trackers import Trackers, start_trackers

LINE = {"step": 1.0, "epoch": 1.0, "train/loss": 0.5, "validation-default/loss": 0.25, "timing/train/total": 2.0}
NAMES = {"epoch", "train/loss", "validation-default/loss", "timing/train/total"}
SAMPLE = Sample(3, "default", "What is <b>2 + 2</b>?\n", "4\n\nfour", "4", "5")

SERVICES = ("wandb", "mlflow", "trackio", "swanlab")


@pytest.fixture(autouse=True)
def _accelerate(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Accelerate's trackers ask which process they are in."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    PartialState(cpu=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def config_of(tmp_path: Path, *names: str, **logger: Any) -> TrainConfig:
    settings = {f"{name}_enabled": True for name in names} | logger
    return TrainConfig.model_validate(
        {"data": {"train": {"data_path": "x.jsonl"}}, "output_dir": str(tmp_path / "first"), "logger": settings}
    )


def started(tmp_path: Path, *names: str, said: list[str] | None = None, resumed_at: int = 0, **logger: Any) -> Trackers:
    run_dir = tmp_path / "first"
    run_dir.mkdir(exist_ok=True)
    config = config_of(tmp_path, *names, **logger)
    say = (said if said is not None else []).append
    return start_trackers(config, run_dir, is_main=True, resumed_at=resumed_at, say=say)


def events(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def test_tensorboard_for_real(tmp_path: Path) -> None:
    with started(tmp_path, "tensorboard") as trackers:
        trackers.log(LINE, 1)
        trackers.log(LINE | {"train/loss": 0.375}, 2)
        trackers.log_samples([SAMPLE], 3)
    found = events(tmp_path / "first" / "logs" / "tensorboard" / "first")
    assert set(found.Tags()["scalars"]) == NAMES
    assert [(event.step, event.value) for event in found.Scalars("train/loss")] == [(1, 0.5), (2, 0.375)]
    (text,) = found.Tensors("samples-default/1/text_summary")
    assert text.step == 3
    shown = text.tensor_proto.string_val[0].decode()
    assert "**response**\n\n    4\n    \n    four\n\n**chosen**\n\n    4" in shown
    assert "    What is <b>2 + 2</b>?" in shown  # as code, which is shown as it is


def test_the_configuration_is_there_too(tmp_path: Path) -> None:
    with started(tmp_path, "tensorboard"):
        pass
    (settings,) = (tmp_path / "first" / "logs" / "tensorboard").glob("first/*/hparams.yml")
    text = settings.read_text()
    assert "policy.optimizer.lr: 5.0e-06" in text
    assert "logger.tensorboard_enabled: true" in text


def test_a_resumed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    with started(tmp_path, "tensorboard") as trackers:
        for step in range(1, 6):
            trackers.log({"train/loss": 1.0}, step)
    with started(tmp_path, "tensorboard", resumed_at=3) as trackers:  # from the checkpoint of step 3
        for step in range(4, 7):
            trackers.log({"train/loss": 2.0}, step)
    found = events(tmp_path / "first" / "logs" / "tensorboard" / "first").Scalars("train/loss")
    assert [(event.step, event.value) for event in found] == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2)]


def test_another_folder(tmp_path: Path) -> None:
    with started(tmp_path, "tensorboard", log_dir=str(tmp_path / "all")) as trackers:
        trackers.log(LINE, 1)
    assert list((tmp_path / "all" / "tensorboard" / "first").glob("events.*"))
    assert not (tmp_path / "first" / "logs").exists()


def test_none_are_started_where_none_are_wanted(tmp_path: Path) -> None:
    with started(tmp_path) as trackers:
        trackers.log(LINE, 1)
        trackers.log_samples([SAMPLE], 1)
    assert list((tmp_path / "first").iterdir()) == []


def test_other_processes_tell_nobody(tmp_path: Path) -> None:
    trackers = start_trackers(config_of(tmp_path, "tensorboard"), tmp_path, is_main=False)
    trackers.log(LINE, 1)
    trackers.close(succeeded=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    service = stand_in(name, monkeypatch)
    with started(tmp_path, name) as trackers:
        trackers.log(LINE, 1)
        trackers.log({"validation-math/accuracy": 0.75}, 2)
    assert service.logged == [
        ({key: value for key, value in LINE.items() if key != "step"}, 1),
        ({"validation-math/accuracy": 0.75}, 2),
    ]
    assert service.config["policy.optimizer.lr"] == 5e-6
    assert service.config["dpo.max_num_steps"] == "null"
    output = capsys.readouterr()
    assert output.out == ""  # stdout has the policy's folder and nothing else
    assert f"{name} was told of step 1" in output.err


def test_where_a_run_shows_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    services = {name: stand_in(name, monkeypatch) for name in SERVICES}
    logs = tmp_path / "first" / "logs"
    started(tmp_path, *SERVICES).close(succeeded=True)
    assert services["wandb"].init == {"project": "dpo", "name": "first", "dir": str(logs)}
    assert services["trackio"].init == {"project": "dpo", "name": "first"}
    assert services["swanlab"].init == {"project": "dpo", "name": "first", "log_dir": str(logs / "swanlab")}
    assert services["mlflow"].init == {
        "uri": f"sqlite:///{logs}/mlflow.db",
        "experiment": "dpo",
        "artifacts": (logs / "mlflow").as_uri(),
        "run_id": None,
        "experiment_id": "7",
        "run_name": "first",
    }


def test_a_run_may_be_called_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    services = {name: stand_in(name, monkeypatch) for name in SERVICES}
    named = {"project": "p", "name": "n"}
    sections = {"wandb": named, "trackio": named, "swanlab": named}
    mlflow = {"experiment_name": "e", "run_name": "r", "tracking_uri": "http://server:5000"}
    started(tmp_path, *SERVICES, **sections, mlflow=mlflow).close(succeeded=True)
    for name in sections:
        assert services[name].init["project"] == "p"
        assert services[name].init["name"] == "n"
    found = services["mlflow"].init
    assert (found["uri"], found["experiment"], found["run_name"]) == ("http://server:5000", "e", "r")
    assert found["artifacts"] is None  # the server knows where


def test_mlflows_own_variable_names_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = stand_in("mlflow", monkeypatch)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://other:5000")
    started(tmp_path, "mlflow").close(succeeded=True)
    assert service.init["uri"] == "http://other:5000"


def test_a_resumed_run_is_the_same_run_of_a_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    services = {name: stand_in(name, monkeypatch) for name in SERVICES}
    started(tmp_path, *SERVICES).close(succeeded=False)
    ids = json.loads((tmp_path / "first" / "trackers.json").read_text())
    assert ids == {"wandb": "abc123", "mlflow": "abc123", "swanlab": "abc123"}
    started(tmp_path, *SERVICES, resumed_at=50).close(succeeded=True)
    assert services["wandb"].init["id"] == services["swanlab"].init["id"] == "abc123"
    assert {services[name].init["resume"] for name in ("wandb", "trackio", "swanlab")} == {"allow"}
    assert services["mlflow"].init["run_id"] == "abc123"


def test_how_a_run_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    services = {name: stand_in(name, monkeypatch) for name in SERVICES}
    with started(tmp_path, *SERVICES):
        pass
    assert [services[name].ended for name in SERVICES] == [[{}], ["FINISHED"], [{}], [{}]]
    with pytest.raises(KeyboardInterrupt), started(tmp_path, *SERVICES):
        raise KeyboardInterrupt
    assert services["wandb"].ended[1] == {"exit_code": 1}
    assert services["mlflow"].ended[1] == "FAILED"
    assert services["swanlab"].ended[1]["state"] == "crashed"


def test_tables_of_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    services = {name: stand_in(name, monkeypatch) for name in SERVICES}
    with started(tmp_path, *SERVICES) as trackers:
        trackers.log_samples([SAMPLE], 3)
        trackers.log_samples([], 4)
    ((values, step),) = services["wandb"].logged
    assert step == 3
    assert values["samples"].columns == ["step", "set", "prompt", "response", "chosen", "rejected"]
    assert values["samples"].data == [[3, "default", "What is <b>2 + 2</b>?\n", "4\n\nfour", "4", "5"]]
    assert [services[name].logged for name in ("mlflow", "trackio", "swanlab")] == [[], [], []]


@pytest.mark.parametrize("call", ["init", "log", "finish"])
def test_a_tracker_that_fails_costs_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    service = stand_in("wandb", monkeypatch)
    service.fails = call
    said: list[str] = []
    with started(tmp_path, "wandb", "tensorboard", said=said) as trackers:
        for step in (1, 2, 3):
            trackers.log(LINE, step)
    (warning,) = said  # once
    assert warning == (
        f"warning: wandb: ConnectionError: wandb.{call}: no route to https://***@host/x?***; it is told nothing more, "
        "and metrics.jsonl goes on"
    )
    assert len(service.logged) == (3 if call == "finish" else 0)
    assert len(events(tmp_path / "first" / "logs" / "tensorboard" / "first").Scalars("train/loss")) == 3


def test_a_log_folder_that_can_t_be_made_costs_no_run(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    said: list[str] = []
    with started(tmp_path, "tensorboard", said=said, log_dir=str(tmp_path / "taken")) as trackers:
        trackers.log(LINE, 1)
    assert len(said) == 1
    assert said[0].startswith("warning: tensorboard: FileExistsError:")


def test_long_errors_are_cut(tmp_path: Path) -> None:
    class Talkative:
        def log(self, values: dict[str, float], step: int) -> None:
            raise ValueError("page of a proxy\n" * 1000)

    said: list[str] = []
    trackers = Trackers({"wandb": Talkative()}, say=said.append)
    trackers.log(LINE, 1)
    trackers.log(LINE, 2)
    (warning,) = said
    assert len(warning) < 400
    assert "\n" not in warning


def test_a_run_tells_its_tracker_what_it_writes(tmp_path: Path) -> None:
    rows = [{"prompt": f"Question {number}?", "chosen": "yes", "rejected": "no, never"} for number in range(6)]
    write_rows(tmp_path / "pairs.jsonl", rows)
    pairs = str(tmp_path / "pairs.jsonl")
    train(
        TrainConfig.model_validate(
            {
                "data": {"train": pairs, "validation": pairs},
                "dpo": {"val_period": 2},
                "policy": {"model_name": str(save_tiny_policy(tmp_path / "policy")), "train_global_batch_size": 2},
                "reference": {"cache_dir": None},
                "checkpointing": {"enabled": False},
                "logger": {"tensorboard_enabled": True, "num_val_samples_to_print": 2, "sample_max_new_tokens": 4},
                "output_dir": str(tmp_path / "run"),
            }
        )
    )
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    found = events(tmp_path / "run" / "logs" / "tensorboard" / "run")
    assert set(found.Tags()["scalars"]) == {name for line in lines for name in line} - {"step"}
    for name in ("train/loss", "train/grad_norm", "validation-default/accuracy"):
        written = [(line["step"], line[name]) for line in lines if name in line]
        assert [event.step for event in found.Scalars(name)] == [step for step, _ in written]
        told = [event.value for event in found.Scalars(name)]
        assert told == pytest.approx([value for _, value in written])  # TensorBoard keeps float32
    samples = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert [each["step"] for each in samples] == [0, 0, 2, 2, 3, 3]  # at each validation, before the first step too
    assert [event.step for event in found.Tensors("samples-default/2/text_summary")] == [0, 2, 3]
