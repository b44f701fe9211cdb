"""A run in numbers: what its page shows at the top, a comparison side by side, and --json whole."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from views.run.configuration import differences, shown
from views.run.folder import RunRead
from views.run.history import RECENT, VALIDATION, latest
from views.run.state import planned_steps, resumed_at, state_of

LN_2 = math.log(2)
STEP_METRICS = (
    *("loss", "accuracy", "margin_mean", "rewards_chosen_mean", "rewards_rejected_mean"),
    *("logps_chosen_mean", "logps_rejected_mean", "kl", "grad_norm"),
)
"""Of a step, in the order in which they are told."""
SET_METRICS = ("loss", "accuracy", "margin_mean", "kl")


@dataclass(frozen=True)
class SetNumbers:
    """What the validations of a set have found."""

    name: str
    last: dict[str, float]  # of the latest validation
    first: dict[str, float]  # of the first behind a step
    best_loss: float
    best_step: int | None
    by_environment: dict[str, float]  # accuracy


def lately(run: RunRead) -> dict[str, float]:
    """Give the means of a step's metrics over the latest steps; what the run does not measure is left out."""
    found = {name: run.history.lately(name) for name in STEP_METRICS}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def sets_of(run: RunRead) -> Iterator[SetNumbers]:
    """Yield the numbers of each validation set."""
    history = run.history
    for name in history.sets():
        prefix = f"{VALIDATION}{name}/"
        losses = list(history.column(f"{prefix}loss").points)
        best = min(losses, key=lambda point: point[1], default=None)
        accuracies = f"{prefix}accuracy/"
        yield SetNumbers(
            name=name,
            last={each: latest(history.validation, f"{prefix}{each}") for each in SET_METRICS},
            first={
                each: next((value for step, value in history.column(f"{prefix}{each}").points if step), math.nan)
                for each in SET_METRICS
            },
            best_loss=math.nan if best is None else best[1],
            best_step=None if best is None else best[0],
            by_environment={
                key.removeprefix(accuracies): value
                for key, value in history.validation.items()
                if key.startswith(accuracies) and value is not None
            },
        )


def speed(run: RunRead) -> float:
    """Give the pairs that a second of a step trains on, in the mean over the steps."""
    return run.history.column("train/pairs_per_second").mean


def memory(run: RunRead) -> float:
    """Give the most memory so far, in 10^9 bytes."""
    return run.history.lately("memory_gb")


def json_of(run: RunRead) -> dict[str, Any]:
    """Give the numbers of a run as JSON types."""
    state = state_of(run)
    history = run.history
    return {
        "kind": "run",
        "folder": str(run.folder),
        "state": state.how,
        "sentence": state.sentence,
        "steps": history.step,
        "planned_steps": planned_steps(run),
        "epochs": history.epoch,
        "resumed_at": resumed_at(run),
        "seconds": _number(history.elapsed_seconds),
        "recent_steps": RECENT,
        "metrics": {name: _number(value) for name, value in lately(run).items()},
        "pairs_per_second": _number(speed(run)),
        "memory_gb": _number(memory(run)),
        "validation": {
            each.name: {
                "last": {name: _number(value) for name, value in each.last.items() if math.isfinite(value)},
                "best_loss": _number(each.best_loss),
                "best_step": each.best_step,
                "accuracy_by_environment": each.by_environment,
            }
            for each in sets_of(run)
        },
        "best": dict(run.best) or run.result.get("best"),
        "health": None
        if run.verdicts is None
        else [
            {"kind": each.kind, "seen": each.seen, "first": each.first, "last": each.last, "count": each.count}
            | {"meaning": each.meaning, "remedy": each.remedy}
            for each in run.verdicts
        ],
        "data": run.facts.get("data", []),
        "settings": {each.key: each.value for each in run.settings if each.differs},
        "prompts_answered": run.answers.num_prompts,
    }


def json_of_several(runs: dict[str, RunRead]) -> dict[str, Any]:
    """Give the numbers of several runs, and what is set otherwise in them, as JSON types."""
    told = {name: run.settings for name, run in runs.items()}
    return {
        "kind": "runs",
        "runs": {name: json_of(run) for name, run in runs.items()},
        "differences": {key: dict(zip(runs, values, strict=True)) for key, values in differences(told)},
    }


def about_data(run: RunRead) -> list[dict[str, Any]]:
    """Give what run.json says of the sets of pairs, as far as it is of the known form."""
    found = run.facts.get("data")
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def dropped_text(found: Any) -> str:
    """Show what was dropped of a set by reason."""
    if not isinstance(found, dict) or not found:
        return "none"
    return ", ".join(f"{shown(count)} {reason}" for reason, count in found.items())


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
