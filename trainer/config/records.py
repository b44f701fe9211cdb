"""`checkpointing.*`, `logger.*`, `hub.*`: what a run leaves behind, and whom it tells."""

import re
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from schemas.terminal import excerpt
from trainer.config.base import Section
from trainer.config.data import DEFAULT_SET

_METRIC = re.compile(r"(?:(?P<side>val|train):)?(?P<set>validation-)?(?P<name>[\w./ \-]+)")


class MetricName(NamedTuple):
    """A metric by which checkpoints are compared."""

    is_validation: bool
    dataset: str  # of a validation metric; "" for one of training
    name: str  # loss, accuracy, ...

    def __str__(self) -> str:
        return f"val:validation-{self.dataset}_{self.name}" if self.is_validation else f"train:{self.name}"

    @property
    def key(self) -> str:
        """Give its key in metrics.jsonl."""
        return f"validation-{self.dataset}/{self.name}" if self.is_validation else f"train/{self.name}"


def metric_of(text: str, datasets: Iterable[str] = ()) -> MetricName:
    """Read a metric's name: train:loss, val:loss (of the only set, or of `default`), val:validation-NAME_loss.

    It may do without val:. Names of sets may have _ in them, as those of metrics, so the sets that there are decide
    where one ends.

    Raises:
        ValueError: it is none.
    """
    match = _METRIC.fullmatch(text)
    if match is None or (match["side"] == "train" and match["set"]):
        raise ValueError(f"{text!r} is no metric; such as val:loss, val:validation-NAME_accuracy or train:loss")
    if match["side"] == "train":
        return MetricName(False, "", match["name"])
    if not match["set"]:
        names = list(datasets)
        return MetricName(True, names[0] if len(names) == 1 else DEFAULT_SET, match["name"])
    for known in sorted(datasets, key=len, reverse=True):
        if match["name"].startswith((f"{known}_", f"{known}/")):
            return MetricName(True, known, match["name"][len(known) + 1 :])
    dataset, _, name = match["name"].replace("/", "_").partition("_")
    return MetricName(True, dataset, name)


class CheckpointingSection(Section):
    """Policies that are saved during the run."""

    enabled: bool = True
    """Save the policy during the run too; at its end it is saved in any case."""
    checkpoint_dir: Path | None = None
    """Folder of the checkpoints, step_N each; null: checkpoints/ in the run's folder."""
    save_period: PositiveInt = 50
    """Save after so many steps each time."""
    metric_name: str | None = None
    """What the best are kept by, such as val:validation-NAME_accuracy or train:loss; null: val:loss if it can be."""
    higher_is_better: bool = False
    """Whether a higher value of the metric is the better one."""
    keep_top_k: PositiveInt | None = 3
    """How many to keep, the newest in any case; null: all."""
    keep_states: PositiveInt | None = 2
    """Of how many of the newest to keep the optimizer's state, which a resume needs; null: of all."""
    resume: Literal["auto", "never"] | Path = "never"
    """auto: go on from the newest whole checkpoint in output_dir; a checkpoint or run folder: from there; never."""
    resume_anyway: bool = False
    """Resume though data, model, reference or loss are not those of the checkpoint."""
    checkpoint_must_save_by: Annotated[str, Field(pattern=r"^[0-9]{1,6}:[0-9]{1,2}:[0-9]{1,2}:[0-9]{1,2}$")] | None = (
        None
    )
    """Days:hours:minutes:seconds from the start by which a checkpoint must be there; the run then ends."""

    @property
    def must_save_by(self) -> timedelta | None:
        """Give the time limit."""
        if self.checkpoint_must_save_by is None:
            return None
        days, hours, minutes, seconds = map(int, self.checkpoint_must_save_by.split(":"))
        return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)

    def metric_among(self, datasets: Iterable[str]) -> MetricName | None:
        """Give the metric that the best are kept by, where one is named; `datasets` are the validation sets."""
        return None if self.metric_name is None else metric_of(self.metric_name, datasets)

    @field_validator("resume", mode="before")
    @classmethod
    def _is_a_word_or_a_folder(cls, value: Any) -> Any:
        """Say in one line what it may be, instead of one line for each."""
        if not isinstance(value, str | Path):
            shown = "null" if value is None else excerpt(value)
            raise ValueError(f"got {shown}, expected auto, never, or a folder, in quotes where it is a number")
        return value

    @model_validator(mode="after")
    def _is_on(self) -> Self:
        if self.metric_name is not None:
            metric_of(self.metric_name)
        if self.checkpoint_must_save_by is not None and not self.enabled:
            raise ValueError("checkpoint_must_save_by needs enabled=true")
        if self.resume_anyway and self.resume == "never":
            raise ValueError("resume_anyway needs resume=auto, or a folder to resume from")
        return self


class ProjectSection(Section):
    """Where a run shows up in a tracker."""

    project: str = "dpo"
    """Project that the run belongs to."""
    name: str | None = None
    """Name of the run; null: that of the run's folder."""


class MlflowSection(Section):
    """Where a run shows up in MLflow."""

    experiment_name: str = "dpo"
    """Experiment that the run belongs to."""
    run_name: str | None = None
    """Name of the run; null: that of the run's folder."""
    tracking_uri: str | None = None
    """Server or data base; null: MLFLOW_TRACKING_URI, else mlflow.db in the log folder."""


TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio", "swanlab")


class LoggerSection(Section):
    """Who is told the metrics; metrics.jsonl is always written."""

    log_dir: Path | None = None
    """Folder of the trackers' files; null: logs/ in the run's folder."""
    tensorboard_enabled: bool = False
    """Write TensorBoard's event files."""
    wandb_enabled: bool = False
    """Tell Weights & Biases; WANDB_API_KEY or wandb login."""
    mlflow_enabled: bool = False
    """Tell MLflow."""
    trackio_enabled: bool = False
    """Tell Trackio."""
    swanlab_enabled: bool = False
    """Tell SwanLab; SWANLAB_API_KEY or swanlab login."""
    wandb: ProjectSection = ProjectSection()
    mlflow: MlflowSection = MlflowSection()
    trackio: ProjectSection = ProjectSection()
    swanlab: ProjectSection = ProjectSection()
    num_val_samples_to_print: NonNegativeInt = 0
    """Prompts that the policy answers at each validation, shown and written to samples.jsonl."""
    sample_period: PositiveInt | None = None
    """Answer them after so many steps each time instead of at each validation."""
    sample_max_new_tokens: PositiveInt = 128
    """Most tokens of such an answer."""
    report_enabled: bool = True
    """Write report.html into the run's folder after each validation and at the end."""

    @property
    def trackers(self) -> tuple[str, ...]:
        """Name the trackers that are switched on, each as its package is called."""
        return tuple(name for name in TRACKERS if getattr(self, f"{name}_enabled"))


class HubSection(Section):
    """Publishing the policy; nothing is published unless repo_id is set."""

    repo_id: str | None = None
    """Repository of the hub that the policy and its card are pushed to at the end, such as me/my-policy."""
    private: bool = True
    """Whether the repository is private, where it is made."""
