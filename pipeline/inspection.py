"""`dpo inspect`: what a collection of rollouts is good for, before anything is paired."""

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.attrition import Reason, named
from pipeline.intake import Intake, Machinery, Missing, intake
from pipeline.settings import Margin, Settings, Strategy
from pipeline.sources import Inputs, find_inputs
from schemas.errors import DpoError
from schemas.streams import place_text
from schemas.terminal import counted, progress

if TYPE_CHECKING:  # Polars starts threads when it is imported; the worker processes are forked before
    import polars as pl

    from pipeline.table import Rollouts

NUM_BINS = 10
MAX_REWARD_LEVELS = 5
MARGINS = (0.0, 0.1, 0.25, 0.5, 1.0)
COUNTED_STRATEGIES = (
    Strategy.ALL,
    Strategy.BEST_WORST,
    Strategy.BEST_LOWER_TAIL,
    Strategy.CORRECT_WRONG,
    Strategy.LENGTH_MATCHED,
)
FEW_VARIED = 0.3  # below this share of tasks whose rewards differ, more of the same rollouts helps little
FAILURES = (Reason.FAILED, Reason.MASKED, Reason.VERIFICATION_SKIPPED, Reason.RESPONSE_EMPTY)


@dataclass(frozen=True)
class RewardLevel:
    """The rollouts whose rewards lie in a range, bounds included."""

    low: float
    high: float
    rollouts: int
    median_chars: float


@dataclass(frozen=True)
class Environment:
    """What the rollouts of one agent look like."""

    agent: str | None
    rollouts: int
    tasks: int
    mean_reward: float
    reward_deviation: float
    min_reward: float
    max_reward: float
    histogram: tuple[int, ...]  # of equal bins from the least reward to the greatest
    truncated_share: float
    failed_rows: int
    length_by_reward: tuple[RewardLevel, ...]


@dataclass(frozen=True)
class Inspection:
    """What `dpo inspect` tells."""

    inputs: Inputs
    missing: list[Missing]
    rows: int
    dropped: Counter[Reason]
    rollouts: int  # usable ones
    truncated: int  # cut by a limit, whether they are used or not
    tasks: int
    rollouts_per_task: dict[int, int]  # number of rollouts -> number of tasks
    threshold: float
    always_pass: int
    sometimes_pass: int
    never_pass: int
    varied_tasks: int  # tasks whose rewards differ: those that can give pairs
    environments: tuple[Environment, ...]
    pairs: dict[str, dict[str, int]]  # strategy -> margin -> number of pairs
    advice: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Give the inspection as JSON types."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {
            **plain,
            "inputs": [place_text(source.path) for source in self.inputs.sources],
            "left_out": [{"path": place_text(path), "kind": kind} for path, kind in self.inputs.left_out],
            "missing": {place_text(path): missing for path, _, missing in self.missing},
            "dropped": named(self.dropped),
            "environments": [asdict(environment) for environment in self.environments],
            "advice": list(self.advice),
        }


def inspect_rollouts(places: Sequence[Path], settings: Settings, machinery: Machinery | None = None) -> Inspection:
    """Read rollouts and describe them.

    Raises:
        InputError: an input can't be read.
        DpoError: a process died.
    """
    inputs = find_inputs(places)
    if not inputs.sources:
        told = "; ".join(f"{place_text(path)}: {kind}" for path, kind in inputs.left_out)
        raise DpoError(f"none of the files holds rollouts: {told}")
    with intake(inputs, settings, machinery or Machinery(), keep_texts=False) as taken:
        from pipeline.table import rollouts_of

        return inspected(inputs, taken, rollouts_of(taken.gathered, settings), settings)


def inspected(inputs: Inputs, taken: Intake, rollouts: "Rollouts", settings: Settings) -> Inspection:
    """Describe rollouts that are read already."""
    import polars as pl

    from pipeline.scan import IS_TRUNCATED

    gathered = taken.gathered
    by_agent = gathered.dropped_by_agent
    frame = rollouts.ranked.with_columns(is_truncated=pl.col("flags").cast(pl.Int64) & IS_TRUNCATED != 0)
    duplicates = Counter(
        {Reason(reason): count for reason, count in rollouts.duplicates["reason"].value_counts().rows()}
    )
    is_pass = pl.col("reward") >= settings.threshold
    tasks = (
        frame.lazy()
        .group_by("group")
        .agg(
            pl.len(),
            passes=is_pass.sum(),
            varies=pl.col("reward").min() != pl.col("reward").max(),
            agent=pl.col("agent").first(),
        )
        .collect()
    )
    always, never = (
        tasks.filter(condition).height for condition in (pl.col("passes") == pl.col("len"), pl.col("passes") == 0)
    )
    environments = tuple(
        _environment(rollouts.agents[agent], part, by_agent)
        for (agent,), part in frame.partition_by("agent", as_dict=True).items()
    )
    return Inspection(
        inputs=inputs,
        missing=taken.missing,
        rows=gathered.num_rows,
        dropped=gathered.dropped + duplicates,
        rollouts=len(frame),
        truncated=gathered.dropped[Reason.TRUNCATED] + int(frame["is_truncated"].sum()),
        tasks=len(tasks),
        rollouts_per_task=dict(sorted(tasks["len"].value_counts().rows())),
        threshold=settings.threshold,
        always_pass=always,
        sometimes_pass=len(tasks) - always - never,
        never_pass=never,
        varied_tasks=int(tasks["varies"].sum()),
        environments=tuple(sorted(environments, key=lambda environment: environment.agent or "")),
        pairs=_pair_counts(rollouts.ranked, settings),
        advice=tuple(_advice(tasks, rollouts.agents)),
    )


def _environment(agent: str | None, part: "pl.DataFrame", dropped: Counter[tuple[str | None, Reason]]) -> Environment:
    from pipeline.pair import reward_deviations

    (_, mean, deviation), *_ = reward_deviations(part).rows()
    cut = dropped[agent, Reason.TRUNCATED]
    low, high = float(part["reward"].min()), float(part["reward"].max())  # type: ignore[arg-type]
    return Environment(
        agent=agent,
        rollouts=len(part),
        tasks=part["group"].n_unique(),
        mean_reward=mean,
        reward_deviation=deviation,
        min_reward=low,
        max_reward=high,
        histogram=_histogram(part["reward"], low, high),
        truncated_share=(cut + int(part["is_truncated"].sum())) / (cut + len(part)),
        failed_rows=sum(dropped[agent, reason] for reason in FAILURES),
        length_by_reward=_length_by_reward(part),
    )


def _histogram(rewards: "pl.Series", low: float, high: float) -> tuple[int, ...]:
    width = high / 2 - low / 2  # halves, since the whole may be beyond the floats
    if width == 0:
        return (len(rewards),)
    bins = (int((reward / 2 - low / 2) / width * NUM_BINS) for reward in rewards.to_list())
    counts = Counter(min(number, NUM_BINS - 1) for number in bins)
    return tuple(counts[number] for number in range(NUM_BINS))


def _length_by_reward(part: "pl.DataFrame") -> tuple[RewardLevel, ...]:
    """Cut the rollouts into at most five levels of reward; rollouts of one reward stay together."""
    import polars as pl

    rank = pl.col("reward").rank("max") * MAX_REWARD_LEVELS / pl.len()
    levels = pl.col("reward").rank("dense") if part["reward"].n_unique() <= MAX_REWARD_LEVELS else rank.ceil()
    rows = (
        part.lazy()
        .group_by(level=levels)
        .agg(
            pl.col("reward").min().alias("low"),
            pl.col("reward").max().alias("high"),
            pl.len(),
            pl.col("num_chars").median(),
        )
        .sort("low")
        .select("low", "high", "len", "num_chars")
        .collect()
        .rows()
    )
    return tuple(RewardLevel(*row) for row in rows)


def _pair_counts(frame: "pl.DataFrame", settings: Settings) -> dict[str, dict[str, int]]:
    """Count the pairs that each strategy would give at each margin."""
    from pipeline.pairing import pair_rollouts

    counts: dict[str, dict[str, int]] = {}
    with progress("counting pairs", total=len(COUNTED_STRATEGIES) * len(MARGINS), unit="trials") as advance:
        for strategy in COUNTED_STRATEGIES:
            counts[strategy.value] = {}
            for margin in MARGINS:
                trial = replace(settings, strategy=strategy, min_margin=Margin(margin), num_pairs=None)
                counts[strategy.value][f"{margin:g}"] = len(pair_rollouts(frame, trial).pairs)
                advance(1)
    return counts


def _advice(tasks: "pl.DataFrame", agents: Sequence[str | None]) -> list[str]:
    """Say what to do where too few tasks have rewards that differ: only those give pairs."""
    if not len(tasks):
        return []
    share = tasks["varies"].sum() / len(tasks)
    if share >= FEW_VARIED:
        return []
    rollouts = int(tasks["len"].median())  # type: ignore[arg-type]
    repeats = 8 if rollouts < 4 else 2 * rollouts
    agent_number = tasks["agent"].mode().sort()[0]
    agent = agents[agent_number] or "AGENT"
    varied, total = tasks["varies"].sum(), counted(len(tasks), "task")
    advice = [f"rewards differ in {varied:,} of {total}, and only those give pairs"]
    solved = tasks.filter(tasks["passes"] == tasks["len"]).height / len(tasks)
    unsolved = tasks.filter(tasks["passes"] == 0).height / len(tasks)
    if rollouts < 4:
        advice.append(f"with {counted(rollouts, 'rollout')} of a task few can differ; collect more of each")
    if solved > 0.5 and rollouts > 1:
        advice.append("most tasks are always solved: take harder ones, or a higher temperature")
    if unsolved > 0.5 and rollouts > 1:
        advice.append("most tasks are never solved: take easier ones, a better policy, or more rollouts of each")
    advice.append(
        f"gym eval run --no-serve --agent {shlex.quote(agent)} --input TASKS.jsonl --output rollouts.jsonl "
        f"--num-repeats {repeats} --temperature 1.0"
    )
    return advice
