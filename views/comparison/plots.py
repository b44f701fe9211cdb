"""The plots of `dpo compare`."""

from pipeline.comparison.compare import Comparison, Environment
from views.plots import BarPlot, LinePlot, Plot, ScatterPlot, Series

MOST_BARS = 12
STEP = 0.6180339887498949
"""Fractions of its multiples are spread evenly (the golden ratio), so points that coincide come to lie side by side."""
SPREAD = 0.015  # of the range


def comparison_plots(comparison: Comparison) -> list[Plot]:
    """Declare them."""
    plots: list[Plot] = [_scatter(comparison), _bars(comparison)]
    if len(comparison.pass_at_k) > 1:
        plots.append(_pass_at_k(comparison))
    return plots


def _scatter(comparison: Comparison) -> ScatterPlot:
    values = [value for _, *pair in comparison.points for value in pair]
    spread = SPREAD * (max(values) - min(values))
    x = [before + spread * _spread(number) for number, (_, before, _) in enumerate(comparison.points)]
    y = [after + spread * _spread(number * 7 + 3) for number, (_, _, after) in enumerate(comparison.points)]
    return ScatterPlot(
        name="tasks",
        caption="Each point is a task; above the line it got better. Points are moved a little, so that none hides "
        "another.",
        x_label="mean reward before",
        y_label="mean reward after",
        series=[Series("tasks", x, y)],
        diagonal=True,
    )


def _spread(number: int) -> float:
    return 2 * (number * STEP % 1) - 1


def _bars(comparison: Comparison) -> BarPlot:
    shown = _largest(comparison, MOST_BARS)
    left_out = len(comparison.environments) - len(shown)
    rows: list[Environment] = [comparison.overall, *shown] if len(shown) > 1 else shown
    told = f" The {left_out} with the fewest tasks are in the table only." if left_out else ""
    return BarPlot(
        name="environments",
        caption=f"Mean reward before and after, with 95 % intervals over tasks.{told}",
        x_label="mean reward",
        labels=["all tasks" if row is comparison.overall else _name(row) for row in rows],
        values={
            "before": [row.reward_before.mean for row in rows],
            "after": [row.reward_after.mean for row in rows],
        },
        intervals={
            "before": [(row.reward_before.low, row.reward_before.high) for row in rows],
            "after": [(row.reward_after.low, row.reward_after.high) for row in rows],
        },
    )


def _pass_at_k(comparison: Comparison) -> LinePlot:
    ks = [float(each.k) for each in comparison.pass_at_k]
    return LinePlot(
        name="pass_at_k",
        caption="Share of tasks that at least one of k answers passes. Where only the left end rises, the policy got "
        "surer of what it could do already.",
        x_label="k",
        y_label="pass@k",
        series=[
            Series("before", ks, [each.before for each in comparison.pass_at_k]),
            Series("after", ks, [each.after for each in comparison.pass_at_k]),
        ],
        points=len(ks) <= 16,
    )


def _largest(comparison: Comparison, most: int) -> list[Environment]:
    """Give the environments with the most tasks, in the order of their names."""
    largest = sorted(comparison.environments, key=lambda environment: -environment.tasks)[:most]
    return [environment for environment in comparison.environments if environment in largest]


def _name(environment: Environment) -> str:
    return environment.agent if environment.agent is not None else "(no agent named)"
