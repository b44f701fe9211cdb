"""The plots of a run, and of several in each other's."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from views.plots import LinePlot, Plot, Series
from views.run.folder import RunRead
from views.run.history import VALIDATION
from views.run.numbers import LN_2

FEW = 60
"""Values that are marked one by one."""
NO_MARGIN = 1e-3
"""A mean margin that is rounding."""


MARGIN = "margin: beta \N{MULTIPLICATION SIGN} (chosen \N{MINUS SIGN} rejected)"


@dataclass(frozen=True)
class Shown:
    """A metric of the steps as a plot, alone or with others."""

    name: str
    metrics: Mapping[str, str]  # by their names in metrics.jsonl; what they are called beside one another
    y_label: str
    caption: str
    level: float | None = None
    scale: float = 1.0


STEPS = (
    Shown(
        "loss",
        {"train/loss": "training"},
        "loss",
        "What is minimised, over the pairs of each step. DPO begins at ln 2 = 0.693 (the dashed line), where policy "
        "and reference are the same.",
        level=LN_2,
    ),
    Shown(
        "margin",
        {"train/margin_mean": "margin"},
        MARGIN,
        "How much more the policy prefers the chosen response than the reference does. It should rise and level off; "
        "one that explodes while accuracy stands still is a bad sign.",
        level=0.0,
    ),
    Shown(
        "accuracy",
        {"train/accuracy": "training"},
        "accuracy: share of pairs",
        "Pairs whose chosen response has gained more than the rejected one. One half (the dashed line) is chance.",
        level=0.5,
    ),
    Shown(
        "rewards",
        {"train/rewards_chosen_mean": "chosen", "train/rewards_rejected_mean": "rejected"},
        "log-ratio to the reference, nats a response",
        "Log-prob under the policy less that under the reference. Healthy: the rejected ones fall. If the chosen ones "
        "fall as well, probability goes to responses that nobody has looked at.",
        level=0.0,
    ),
    Shown(
        "logps",
        {"train/logps_chosen_mean": "chosen", "train/logps_rejected_mean": "rejected"},
        "log-prob, nats a response",
        "Log-probs of both sides under the policy. They differ from step to step with the length of the responses.",
    ),
    Shown(
        "both_fell",
        {"train/chosen_fell": "chosen fell", "train/both_fell": "both fell"},
        "less probable than before, share of pairs",
        "Pairs whose chosen response, or both, have become less probable than under the reference.",
    ),
    Shown(
        "kl",
        {"train/kl": "KL"},
        "KL, nats a response",
        "How far the policy is from the reference. What goes on growing forgets what the reference could do.",
    ),
    Shown(
        "gradient",
        {"train/grad_norm": "norm"},
        "gradient's norm, before clipping",
        "Spikes come from unusual batches or from a learning rate at the edge.",
    ),
    Shown(
        "learning_rate",
        {"train/lr": "rate"},
        "learning rate, millionths (1e-6)",
        "The schedule, as it was followed.",
        scale=1e6,
    ),
    Shown(
        "throughput",
        {"train/pairs_per_second": "pairs"},
        "pairs a second",
        "How fast steps are, of all processes. Steps with longer responses take more time.",
    ),
    Shown(
        "tokens",
        {"train/tokens_per_second": "tokens"},
        "tokens a second",
        "Tokens as they are computed, each prompt once in a row.",
    ),
    Shown(
        "memory",
        {"train/memory_gb": "memory"},
        "memory, GB (10^9 bytes)",
        "The most memory that the main process has had so far. It should level off in the first steps.",
    ),
)

SETS = (
    Shown(
        "loss",
        {"loss": ""},
        "loss",
        "Loss on pairs that are not trained on. Where it turns up again, the pairs of "
        "training are being learnt by heart.",
        level=LN_2,
    ),
    Shown(
        "accuracy",
        {"accuracy": ""},
        "accuracy: share of pairs",
        "Pairs, not trained on, whose chosen response has gained more than the rejected one.",
    ),
    Shown("margin", {"margin_mean": ""}, MARGIN, "Margin on pairs that are not trained on."),
)


def plots_of(run: RunRead) -> list[Plot]:
    """Declare the plots of one run; what it does not measure has none."""
    sets = run.history.sets()
    found: list[Plot] = []
    for each in STEPS:
        lines = [(name, label) for name, label in each.metrics.items()]
        if each.name == "loss":
            lines += [(f"{VALIDATION}{name}/loss", name) for name in sets]
        series = _drawn((run, name, label) for name, label in lines)
        if series:
            found.append(_line(each, each.name, series))
    for each in SETS:
        (metric,) = each.metrics
        series = _drawn((run, f"{VALIDATION}{name}/{metric}", name) for name in sets)
        if series:
            found.append(_line(each, f"validation_{each.name}", series, prefix="Validation. "))
    return found


def plots_of_several(runs: Mapping[str, RunRead]) -> list[Plot]:
    """Declare the plots of several runs, each with a line for every run; sets that only one has are left out."""
    found: list[Plot] = []
    for each in STEPS:
        for metric, label in each.metrics.items():
            series = _drawn((run, metric, title) for title, run in runs.items())
            is_one_of_two = len(each.metrics) > 1
            name = f"{each.name}_{label.replace(' ', '_')}" if is_one_of_two else each.name
            if series:
                found.append(_line(each, name, series, prefix=f"{label.capitalize()}. " if is_one_of_two else ""))
    counts = Counter(dataset for run in runs.values() for dataset in run.history.sets())
    shared = [dataset for dataset, count in counts.items() if count > 1]
    for number, dataset in enumerate(shared, start=1):  # a set's name may be none that a file can have
        for each in SETS:
            (metric,) = each.metrics
            series = _drawn((run, f"{VALIDATION}{dataset}/{metric}", title) for title, run in runs.items())
            if series:
                found.append(_line(each, f"validation_{number}_{each.name}", series, prefix=f"Set {dataset}. "))
    return found


def _drawn(lines: Iterable[tuple[RunRead, str, str]]) -> list[Series]:
    """Take metrics of runs, each with what it is called, as far as there are numbers."""
    return [_series(run, metric, label) for run, metric, label in lines if run.history.has(metric)]


def _series(run: RunRead, metric: str, label: str) -> Series:
    """Take a metric; of accuracies not the first, where the policy is the reference and rounding decides."""
    series = run.history.column(metric).series(label)
    place, _, name = metric.rpartition("/")
    margins = run.history.column(f"{place}/margin_mean").points
    if name == "accuracy" and len(series.x) > 1 and abs(next(margins, (0, 1.0))[1]) < NO_MARGIN:
        return Series(label, series.x[1:], series.y[1:])
    return series


def _line(each: Shown, name: str, series: Sequence[Series], *, prefix: str = "") -> LinePlot:
    if each.scale != 1.0:
        series = [Series(one.name, one.x, [each.scale * value for value in one.y]) for one in series]
    return LinePlot(
        name=name,
        caption=prefix + each.caption,
        x_label="step",
        y_label=each.y_label,
        series=series,
        points=name.startswith("validation") and all(len(one.x) <= FEW for one in series),
        level=each.level,
    )
