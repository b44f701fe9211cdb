"""The metric that checkpoints are compared by is looked for before the first step, not missed after the last."""

import difflib
from collections.abc import Iterable, Sequence

from schemas.errors import UsageError
from trainer.config.records import MetricName
from trainer.data.plan import PairRef, Step, every_pair
from trainer.model.packing import Packer
from trainer.run.evaluation import pair_metrics
from trainer.run.training import Training
from trainer.run.validation import ValidationSet

SAMPLE_PAIRS = 32
"""Pairs whose metrics are computed to learn their names: what they measure differs with the loss."""

STEP_METRICS = (
    "grad_norm",
    "lr",
    "step_seconds",
    "pairs_per_second",
    "tokens_per_second",
    "dedup_factor",
    "sharing_factor",
    "consumed_samples",
    "memory_gb",
)
"""What a step tells beside the metrics of its pairs, and everywhere."""


def refuse_unknown_metric(
    metric: MetricName | None, training: Training, sets: Sequence[ValidationSet], steps: Sequence[Step]
) -> None:
    """Compute the metrics of some pairs, and hold the wanted one to them.

    Raises:
        UsageError: there is none of that name.
    """
    if metric is None or metric.name == "loss":
        return
    if metric.is_validation:
        (one,) = (each for each in sets if each.name == metric.dataset)
        names = {*pair_metrics(training, one.packer, one.reference, _some(one.pairs, one.packer))}
    else:
        packer = training.packer
        pairs = _some([*(pair for step in steps[:1] for pair in step.pairs), *every_pair(packer.groups)], packer)
        names = {*pair_metrics(training, packer, training.reference, pairs), *STEP_METRICS}
    if metric.name not in names:
        raise UsageError(f"checkpointing.metric_name={metric}: no such metric; {_offer(metric.name, names)}")


def _some(pairs: Sequence[PairRef], packer: Packer) -> list[PairRef]:
    """Take the first pairs, and the first of each environment, because each may have a metric."""
    by_environment: dict[str, PairRef] = {}
    for pair in pairs:
        by_environment.setdefault(packer.groups[pair.group].pairs[pair.pair].environment, pair)
    return list(dict.fromkeys([*pairs[:SAMPLE_PAIRS], *by_environment.values()]))


def _offer(wanted: str, names: Iterable[str]) -> str:
    """Name the nearest, or all there are."""
    near = difflib.get_close_matches(wanted, [*names], n=1)
    return (f"did you mean {near[0]}? " if near else "") + f"there are {', '.join(sorted(names))}"
