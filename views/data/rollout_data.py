"""Everything that a report on rollouts tells: what `dpo inspect` and `dpo collect-pairs` count, and some texts.

The figures are those of the two commands because their functions make them.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.attrition import Attrition, Reason
from pipeline.collect import account, examples_of
from pipeline.inspection import Environment, Inspection, inspected
from pipeline.intake import Machinery, intake
from pipeline.settings import Settings
from pipeline.sources import find_inputs
from schemas.errors import DpoError
from schemas.streams import place_text
from views.data.options import DataOptions

if TYPE_CHECKING:  # Polars starts threads when it is imported; the worker processes are forked before
    from pipeline.table import Rollouts
    from views.data.pair_figures import PairFigures
    from views.data.pair_table import PairTable
    from views.data.rollout_examples import TaskExample


@dataclass(frozen=True)
class EnvironmentTasks:
    """What is known of one agent's tasks, beside what `dpo inspect` tells of its rollouts."""

    name: str
    inspected: Environment
    always_pass: int
    sometimes_pass: int
    never_pass: int
    varied: int  # tasks whose rewards differ


@dataclass(frozen=True)
class RolloutData:
    """All that the page tells."""

    settings: Settings
    inspection: Inspection
    attrition: Attrition
    examples: dict[Reason, str]  # file:line of the first row of each reason, and what was met
    environments: tuple[EnvironmentTasks, ...]  # the largest first
    rewards: dict[str, list[float]]  # by agent, the smallest ones together
    table: "PairTable"  # of the pairs that dpo collect-pairs would make
    figures: "PairFigures"
    tasks: "list[TaskExample]"

    def as_dict(self) -> dict[str, Any]:
        """Give all numbers as JSON types."""
        told = [{key: value for key, value in asdict(each).items() if key != "inspected"} for each in self.environments]
        return {
            "inspection": self.inspection.as_dict(),
            "examples": {str(reason): place for reason, place in self.examples.items()},
            "passes": told,
            "pairs": self.figures.as_dict(),
        }


def read_rollouts(places: Sequence[Path], options: DataOptions) -> RolloutData:
    """Read rollouts, and pair them as `dpo collect-pairs` would; nothing is written.

    Raises:
        InputError: an input can't be read.
        DpoError: none of the files holds rollouts, or a process died.
    """
    settings = Settings(format=options.form, threshold=options.threshold)
    inputs = find_inputs(places)
    if not inputs.sources:
        told = "; ".join(f"{place_text(path)}: {kind}" for path, kind in inputs.left_out)
        raise DpoError(f"none of the files holds rollouts: {told}")
    with intake(inputs, settings, Machinery(options.num_workers), keep_texts=True) as taken:
        from pipeline.pairing import pair_rollouts
        from pipeline.table import rollouts_of
        from views.data.pair_figures import figures_of
        from views.data.pair_table import refuse_unknown, table_of_rollouts
        from views.data.rollout_examples import task_examples

        rollouts = rollouts_of(taken.gathered, settings)
        pairing = pair_rollouts(rollouts.ranked, settings)
        inspection = inspected(inputs, taken, rollouts, settings)
        table = table_of_rollouts(rollouts, pairing)
        refuse_unknown(options.environment, table.environments)
        paths = [place_text(source.path) for source in inputs.sources]
        return RolloutData(
            settings,
            inspection,
            account(taken, rollouts, pairing),
            examples_of(inputs, taken, rollouts, pairing),
            _environments(inspection, rollouts, settings),
            _rewards(rollouts),
            table,
            figures_of(table),
            task_examples(rollouts, taken.scratch, paths, options),
        )


def _environments(inspection: Inspection, rollouts: "Rollouts", settings: Settings) -> tuple[EnvironmentTasks, ...]:
    import polars as pl

    from views.data.pair_table import environment_name

    passes = pl.col("reward") >= settings.threshold
    tasks = (
        rollouts.ranked.lazy()
        .group_by("group")
        .agg(
            agent=pl.col("agent").first(),
            passes=passes.mean(),
            varies=pl.col("reward").min() != pl.col("reward").max(),
        )
        .group_by("agent")
        .agg(
            always=(pl.col("passes") == 1).sum(),
            never=(pl.col("passes") == 0).sum(),
            num_tasks=pl.len(),
            varied=pl.col("varies").sum(),
        )
        .collect()
    )
    told = {rollouts.agents[row["agent"]]: row for row in tasks.iter_rows(named=True)}
    found = []
    for environment in inspection.environments:
        row = told[environment.agent]
        sometimes = row["num_tasks"] - row["always"] - row["never"]
        name = environment_name(environment.agent)
        found.append(EnvironmentTasks(name, environment, row["always"], sometimes, row["never"], row["varied"]))
    return tuple(sorted(found, key=lambda each: (-each.inspected.rollouts, each.name)))


def _rewards(rollouts: "Rollouts") -> dict[str, list[float]]:
    from views.data.pair_plots import MOST_ENVIRONMENTS
    from views.data.pair_table import environment_name

    sizes = rollouts.ranked["agent"].value_counts(sort=True)["agent"].to_list()
    most = MOST_ENVIRONMENTS if len(sizes) <= MOST_ENVIRONMENTS else MOST_ENVIRONMENTS - 1
    found: dict[str, list[float]] = {}
    for (agent,), part in rollouts.ranked.partition_by("agent", as_dict=True).items():
        name = environment_name(rollouts.agents[int(agent)]) if agent in sizes[:most] else "others"
        found.setdefault(name, []).extend(part["reward"].to_list())
    return found
