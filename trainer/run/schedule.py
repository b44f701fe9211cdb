"""After which steps a run validates and saves: a pure function of the configuration and the number of steps."""

from dataclasses import dataclass

from trainer.config.records import MetricName
from trainer.config.sections import TrainConfig


@dataclass(frozen=True)
class Schedule:
    """Which steps have a validation or a checkpoint behind them; step 0 is before the first."""

    num_steps: int
    val_period: int = 0  # 0: not in between
    val_at_start: bool = False
    val_at_end: bool = False
    save_period: int = 0  # 0: no checkpoints
    validates_to_save: bool = False  # checkpoints are compared by a validation metric

    def validates(self, step: int) -> bool:
        """Say whether there is a validation after a step; one alone, whatever it is for."""
        if step == 0:
            return self.val_at_start
        if step == self.num_steps and self.val_at_end:
            return True
        return _is_due(step, self.val_period) or (self.validates_to_save and self.saves(step))

    def saves(self, step: int) -> bool:
        """Say whether there is a checkpoint after a step; the last step has none, for its policy is the run's."""
        return 0 < step < self.num_steps and _is_due(step, self.save_period)

    @property
    def num_validations(self) -> int:
        """Count the validations of the run."""
        return sum(map(self.validates, range(self.num_steps + 1)))

    @property
    def num_checkpoints(self) -> int:
        """Count the checkpoints of the run, also those that do not stay."""
        return sum(map(self.saves, range(self.num_steps + 1)))


def schedule_of(config: TrainConfig, num_steps: int) -> Schedule:
    """Read the schedule off the configuration; without validation sets nothing is validated."""
    options, saving = config.dpo, config.checkpointing
    has_sets = bool(config.data.validation_sets)
    metric = compared_metric(config)
    return Schedule(
        num_steps,
        val_period=options.val_period if has_sets else 0,
        val_at_start=options.val_at_start and has_sets,
        val_at_end=options.val_at_end and has_sets,
        save_period=saving.save_period if saving.enabled else 0,
        validates_to_save=metric is not None and metric.is_validation,
    )


def compared_metric(config: TrainConfig) -> MetricName | None:
    """Give the metric that checkpoints are compared by, the loss where none is named; None without validation sets."""
    if not config.checkpointing.enabled:
        return None
    names = list(config.data.validation_sets)  # default is the first where it is there
    if config.checkpointing.metric_name is not None:
        return config.checkpointing.metric_among(names)
    return MetricName(is_validation=True, dataset=names[0], name="loss") if names else None


def _is_due(step: int, period: int) -> bool:
    return period > 0 and step > 0 and step % period == 0
