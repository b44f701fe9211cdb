"""Stand-ins for the Python interfaces of W&B, MLflow, Trackio and SwanLab: what Accelerate calls of them, and no more.

Each takes the arguments that the real one takes, and keeps what it was told. They serve where the packages are not
installed; docs/monitoring.md says with which versions of the real ones the trackers were run.
"""

import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


class Service:
    """What a service was told."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.init: dict[str, Any] = {}
        self.config: dict[str, Any] = {}
        self.logged: list[tuple[dict[str, Any], int | None]] = []
        self.ended: list[Any] = []
        self.fails = ""  # at which call

    def refuse(self, call: str) -> None:
        if self.fails == call:
            raise ConnectionError(f"{self.name}.{call}: no route to https://user:geheim@host/x?token=geheim")

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        self.refuse("log")
        print(f"{self.name} was told of step {step}")  # noqa: T201 - as some do
        self.logged.append((values, step))


class _Config(dict[str, Any]):
    def update(self, values: dict[str, Any], allow_val_change: bool = False) -> None:  # type: ignore[override]
        super().update(values)


class _Table:
    def __init__(self, columns: list[str], data: list[list[Any]], dataframe: None = None) -> None:
        self.columns, self.data = columns, data


def stand_in(name: str, monkeypatch: pytest.MonkeyPatch) -> Service:
    """Put a stand-in in the package's place for the time of a test; skip where the real one is installed."""
    if find_spec(name) is not None:
        pytest.skip(f"{name} is installed; the stand-in is for where it is not")
    service = Service(name)
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    contents = _mlflow(service) if name == "mlflow" else _like_wandb(service)
    for key, value in contents.items():
        setattr(module, key, value)
    monkeypatch.setitem(sys.modules, name, module)
    return service


def _like_wandb(service: Service) -> dict[str, Any]:
    config = _Config()

    def finish(**outcome: Any) -> None:
        service.refuse("finish")
        service.config = dict(config)
        service.ended.append(outcome)

    def init(project: str, **options: Any) -> Any:
        service.refuse("init")
        service.init = {"project": project, **options}
        return SimpleNamespace(id=options.get("id") or "abc123", log=service.log, finish=finish)

    return {"init": init, "config": config, "Table": _Table, "finish": finish}


def _mlflow(service: Service) -> dict[str, Any]:
    def set_tracking_uri(uri: str) -> None:
        service.init["uri"] = uri

    def create_experiment(name: str, artifact_location: str | None, tags: Any) -> str:
        service.init |= {"experiment": name, "artifacts": artifact_location}
        return "7"

    def start_run(
        run_id: str | None, experiment_id: str, run_name: str, nested: bool, tags: Any, description: Any
    ) -> Any:
        service.refuse("init")
        service.init |= {"run_id": run_id, "experiment_id": experiment_id, "run_name": run_name}
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id or "abc123"))

    def log_params(values: dict[str, Any]) -> None:
        assert len(values) <= 100
        service.config |= values

    def log_metrics(values: dict[str, float], step: int | None = None) -> None:
        service.log(values, step)

    def end_run(status: str = "FINISHED") -> None:
        service.ended.append(status)

    limits = SimpleNamespace(MAX_PARAM_VAL_LENGTH=6000, MAX_PARAMS_TAGS_PER_BATCH=100)
    return {
        "set_tracking_uri": set_tracking_uri,
        "search_experiments": lambda filter_string: [],
        "create_experiment": create_experiment,
        "start_run": start_run,
        "log_params": log_params,
        "log_metrics": log_metrics,
        "end_run": end_run,
        "utils": SimpleNamespace(validation=limits),
    }
