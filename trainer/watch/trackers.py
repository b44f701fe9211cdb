"""TensorBoard, Weights & Biases, MLflow, Trackio and SwanLab, through Accelerate's interface to them.

They are guests of a run: metrics.jsonl has all that they are told, so a tracker that fails is told of once, switched
off, and the run goes on. They get the names that stand in metrics.jsonl, and the configuration without secrets.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from textwrap import indent
from types import TracebackType
from typing import Any, NamedTuple, Self

from accelerate.tracking import MLflowTracker, SwanLabTracker, TensorBoardTracker, TrackioTracker, WandBTracker

from schemas.secrets import without_secrets
from trainer.config.records import LoggerSection
from trainer.config.sections import TrainConfig
from trainer.save.run_folder import LOGS_FOLDER, TRACKERS_FILE
from trainer.watch.samples import Sample

MAX_ERROR = 300
"""Most characters of a tracker's error that are shown; servers answer with whole pages."""


class _Place(NamedTuple):
    """Where a run's trackers write, and what they call it."""

    folder: Path
    run_name: str
    known_id: str | None  # what the service called the run before it was resumed
    resumed_at: int  # steps that were done then


class Trackers:
    """Tells the trackers that are on; on all processes but the main one there are none."""

    def __init__(self, running: dict[str, Any], *, say: Callable[[str], None] = lambda text: None) -> None:
        self.running = running
        self.say = say

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Tell the metrics of a step, under the names that they have in metrics.jsonl."""
        values = {name: value for name, value in metrics.items() if name != "step"}
        self._each(lambda name, tracker: tracker.log(values, step=step))

    def log_samples(self, samples: Sequence[Sample], step: int) -> None:
        """Show answers where there is a place for text: TensorBoard's texts, W&B's tables."""
        if samples:
            self._each(lambda name, tracker: _log_samples(name, tracker, samples, step))

    def close(self, *, succeeded: bool) -> None:
        """End the run in each tracker, as finished or as failed."""
        self._each(lambda name, tracker: _finish(name, tracker, succeeded=succeeded))
        self.running.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(succeeded=kind is None)

    def _each(self, call: Callable[[str, Any], None]) -> None:
        for name, tracker in list(self.running.items()):
            if not _guarded(name, lambda name=name, tracker=tracker: call(name, tracker), self.say):  # type: ignore[misc]
                del self.running[name]


def start_trackers(
    config: TrainConfig,
    run_dir: Path,
    *,
    is_main: bool,
    resumed_at: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> Trackers:
    """Start the trackers that the configuration switches on; say so where one can't be, and go on without it.

    A run that goes on after `resumed_at` steps is the same run in each tracker that can take one up again.
    """
    running: dict[str, Any] = {}
    if not is_main or not config.logger.trackers:
        return Trackers(running, say=say)
    folder = config.logger.log_dir or run_dir / LOGS_FOLDER
    ids = _read_ids(run_dir) if resumed_at else {}
    values = flat_config(config)
    for name in config.logger.trackers:
        place = _Place(folder, run_dir.absolute().name, ids.get(name), resumed_at)

        def start(name: str = name, place: _Place = place) -> None:
            folder.mkdir(parents=True, exist_ok=True)
            tracker = _make(name, config.logger, place)
            tracker.start()
            if not (name == "mlflow" and place.known_id):  # which refuses a value that has changed
                tracker.store_init_configuration(values)
            running[name] = tracker

        _guarded(name, start, say)
    _write_ids(run_dir, {name: run_id for name, tracker in running.items() if (run_id := _id_of(name, tracker))})
    return Trackers(running, say=say)


def flat_config(config: TrainConfig) -> dict[str, str | int | float | bool]:
    """Give each option under its dotted name, as on the command line; secrets in URLs are hidden."""
    return dict(_flat(config.model_dump(mode="json"), ""))


def _flat(value: Any, key: str) -> Iterable[tuple[str, str | int | float | bool]]:
    if isinstance(value, list) and value and isinstance(value[0], dict):  # the sets of a mixture
        value = {str(number): each for number, each in enumerate(value)}
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, bool | int | float):
        yield key, value
    else:
        yield key, without_secrets(value if isinstance(value, str) else json.dumps(value))


def _make(name: str, options: LoggerSection, place: _Place) -> Any:
    """Make a tracker that is not started yet; what Accelerate calls the run's name is the project's with most."""
    folder, run_name, known_id, resumed_at = place
    match name:
        case "tensorboard":
            # what was logged behind the checkpoint from which a run is resumed is not shown
            purge = {"purge_step": resumed_at + 1} if resumed_at else {}
            return TensorBoardTracker(run_name, folder / "tensorboard", **purge)
        case "wandb":
            again = {"id": known_id, "resume": "allow"} if known_id else {}
            return WandBTracker(options.wandb.project, name=options.wandb.name or run_name, dir=str(folder), **again)
        case "mlflow":
            return _mlflow(options, place)
        case "trackio":
            again = {"resume": "allow"} if resumed_at else {}
            return TrackioTracker(options.trackio.project, name=options.trackio.name or run_name, **again)
        case _:
            again = {"id": known_id, "resume": "allow"} if known_id else {}
            names = {"name": options.swanlab.name or run_name, "log_dir": str(folder / "swanlab")}
            return SwanLabTracker(options.swanlab.project, **names, **again)


def _mlflow(options: LoggerSection, place: _Place) -> Any:
    """Name a data base where no server is: MLflow's folder of files takes no / in the name of a metric."""
    import mlflow

    chosen = options.mlflow.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(chosen or f"sqlite:///{(place.folder / 'mlflow.db').absolute()}")
    return MLflowTracker(
        options.mlflow.experiment_name,
        # else artifacts of a local data base would go to mlruns/ in the working folder
        logging_dir=None if chosen else (place.folder / "mlflow").absolute().as_uri(),
        run_id=place.known_id,
        run_name=options.mlflow.run_name or place.run_name,
    )


def _log_samples(name: str, tracker: Any, samples: Sequence[Sample], step: int) -> None:
    if name == "tensorboard":
        for number, sample in enumerate(samples, start=1):
            tracker.tracker.add_text(f"samples-{sample.set}/{number}", _markdown(sample), global_step=step)
        tracker.tracker.flush()
    elif name == "wandb":
        rows = [list(sample.as_dict().values()) for sample in samples]
        tracker.log_table("samples", columns=list(samples[0].as_dict()), data=rows, step=step)


def _markdown(sample: Sample) -> str:
    """Write each text as a block of code, where neither Markdown nor HTML in it means anything."""
    parts = {key: str(text) for key, text in sample.as_dict().items() if key not in ("step", "set")}
    return "\n\n".join(f"**{key}**\n\n{indent(text, '    ', lambda line: True)}" for key, text in parts.items())


def _finish(name: str, tracker: Any, *, succeeded: bool) -> None:
    """End a run; Accelerate's own way, where the run did not fail or the tracker knows no failure."""
    if name == "trackio":
        import trackio

        trackio.finish()  # the run's own would be called again, and print on stdout, when Python ends
    elif succeeded or name == "tensorboard":
        tracker.finish()
    elif name == "wandb":
        tracker.tracker.finish(exit_code=1)
    elif name == "mlflow":
        import mlflow

        mlflow.end_run("FAILED")
    else:
        tracker.tracker.finish(state="crashed", error="the run failed")


def _guarded(name: str, call: Callable[[], None], say: Callable[[str], None]) -> bool:
    """Call a tracker; say whether it went well, and on stderr why not. What it prints goes to stderr too."""
    try:
        with redirect_stdout(sys.stderr):
            call()
    except Exception as error:  # each service raises its own, and none of them is worth a run
        text = " ".join(without_secrets(f"{type(error).__name__}: {error}").split())
        short = text if len(text) <= MAX_ERROR else text[: MAX_ERROR - 1] + "…"
        say(f"warning: {name}: {short}; it is told nothing more, and metrics.jsonl goes on")
        return False
    return True


def _id_of(name: str, tracker: Any) -> str | None:
    match name:
        case "wandb" | "swanlab":
            return str(tracker.tracker.id)
        case "mlflow":
            return str(tracker.tracker.info.run_id)
        case _:
            return None


def _read_ids(run_dir: Path) -> dict[str, str]:
    try:
        return dict(json.loads((run_dir / TRACKERS_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # then the run is a new one there
        return {}


def _write_ids(run_dir: Path, ids: dict[str, str]) -> None:
    if ids:
        (run_dir / TRACKERS_FILE).write_text(json.dumps(ids) + "\n", encoding="utf-8")
