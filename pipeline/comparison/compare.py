"""The figures of two collections over tasks: means, pass@k, intervals.

The unit is the task, not the rollout: rollouts of one task hang together. So each figure is the mean over tasks of a
mean over rollouts, and each interval is of the tasks' own differences, drawn by whole tasks.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.attrition import MEANING, Reason, named
from pipeline.comparison.sampling import Sampling, sampling_of
from pipeline.comparison.sides import TASK, Side, Sides, two_sides
from pipeline.comparison.texts import Example, examples_of
from pipeline.intake import Machinery
from pipeline.settings import Settings
from schemas.bootstrap import Interval, bootstrap_mean
from schemas.errors import DpoError
from schemas.streams import place_text
from schemas.terminal import counted, excerpt, progress

if TYPE_CHECKING:  # Polars starts threads when it is imported; the worker processes are forked before
    import polars as pl

NUM_EXAMPLES = 10
FEW_TASKS = 20  # below it an interval of this kind is too narrow more often than it says
EACH_K = 64
"""Up to it each k is computed, above it the powers of two and the last one."""
SAME = 1e-9  # two means of the same rewards may differ by their rounding
BUCKETS = ("never", "sometimes", "always")
MEASURES = ("reward", "pass_at_1", "num_chars", "truncated")


@dataclass(frozen=True)
class Measure:
    """A figure before and after, as the mean over tasks, and the 95 % interval of its change."""

    before: float
    after: float
    change: Interval

    @property
    def verdict(self) -> str:
        """Say what the interval says: better, worse or unclear, where more is better."""
        return "unclear" if not self.change.is_clear else "better" if self.change.low > 0 else "worse"


@dataclass(frozen=True)
class PassAtK:
    """The share of tasks that at least one of k rollouts passes, over the tasks that have k on both sides."""

    k: int
    tasks: int
    before: float
    after: float
    change: Interval | None  # drawn for the powers of two and the last k


@dataclass(frozen=True)
class Environment:
    """The tasks of one agent."""

    agent: str | None
    tasks: int
    improved: int
    worse: int
    same: int
    reward: Measure
    reward_before: Interval
    reward_after: Interval
    pass_at_1: Measure
    num_chars: Measure
    truncated: Measure


@dataclass(frozen=True)
class SideCounts:
    """What was read of one side."""

    places: tuple[str, ...]
    left_out: dict[str, str]  # path -> kind, of files that hold no rollouts
    rows: int
    counted: int
    without_text: int  # counted ones that say nothing, or nothing that has a form in text
    uncounted: dict[str, int]  # reason -> rows that have no reward that measures anything
    missing: int  # rollouts that the materialized inputs promise
    tasks: int
    only_here: int  # tasks that the other side has not
    rollouts_per_task: dict[int, int]  # number of rollouts -> number of tasks
    sampling: Sampling


@dataclass(frozen=True)
class Comparison:
    """What `dpo compare` tells."""

    before: SideCounts
    after: SideCounts
    threshold: float
    tasks: int  # on both sides: what all figures are of
    uneven_tasks: int  # of them, those with more rollouts on one side
    overall: Environment
    environments: tuple[Environment, ...]
    pass_at_k: tuple[PassAtK, ...]
    transitions: dict[str, dict[str, int]]  # never, sometimes, always passed before -> after -> tasks
    points: tuple[tuple[str | None, float, float], ...]  # of each task: agent, mean reward before and after
    regressions: tuple[Example, ...]
    improvements: tuple[Example, ...]

    @property
    def verdict(self) -> str:
        """Say better, worse or unclear by the mean reward; the interval of one task has no width, and says nothing."""
        return self.overall.reward.verdict if self.tasks > 1 else "unclear"

    def as_dict(self) -> dict[str, Any]:
        """Give the comparison as JSON types."""
        plain = asdict(self)
        plain["verdict"] = self.verdict
        plain["points"] = [{"agent": agent, "before": before, "after": after} for agent, before, after in self.points]
        return plain


def compare_rollouts(
    before: Sequence[Path],
    after: Sequence[Path],
    settings: Settings,
    machinery: Machinery | None = None,
    *,
    num_examples: int = NUM_EXAMPLES,
) -> Comparison:
    """Read both sides and compare them.

    Raises:
        InputError: an input can't be read.
        UsageError: both sides are to come from stdin.
        DpoError: the two have no task in common, or a process died.
    """
    with two_sides(before, after, settings, machinery or Machinery()) as sides:
        return _compared(sides, settings, num_examples)


def _compared(sides: Sides, settings: Settings, num_examples: int) -> Comparison:
    import polars as pl

    first, second = (_tasks(side.scores, settings.threshold) for side in (sides.before, sides.after))
    both = first.join(second, on=TASK, suffix="_after", maintain_order="left").with_columns(
        change=pl.col("reward_after") - pl.col("reward")
    )
    scale = pl.max_horizontal(pl.lit(1.0), pl.col("reward").abs(), pl.col("reward_after").abs())
    both = both.with_columns(change=pl.when(pl.col("change").abs() <= SAME * scale).then(0.0).otherwise("change"))
    if not len(both):
        raise DpoError(_why_nothing_in_common(sides, first, second))
    if not all(map(math.isfinite, both["change"])):
        raise DpoError("rewards are so large that their means or differences are beyond what a float holds")
    overall, environments = _environments(both)
    order = both.sort("change", *TASK)
    return Comparison(
        before=_side_counts(sides.before, first, second),
        after=_side_counts(sides.after, second, first),
        threshold=settings.threshold,
        tasks=len(both),
        uneven_tasks=both.filter(pl.col("num") != pl.col("num_after")).height,
        overall=overall,
        environments=environments,
        pass_at_k=tuple(_pass_at_ks(both)),
        transitions=_transitions(both),
        points=tuple(both.select("agent", "reward", "reward_after").rows()),
        regressions=examples_of(sides, order.filter(pl.col("change") < 0).head(num_examples)),
        improvements=examples_of(sides, order.filter(pl.col("change") > 0).tail(num_examples).reverse()),
    )


def _tasks(scores: "pl.DataFrame", threshold: float) -> "pl.DataFrame":
    """Give each task's figures; sorted, so that nothing depends on the order of the rows."""
    import polars as pl

    return (
        scores.lazy()
        .sort(*TASK, "reward", "num_chars", "is_truncated")
        .group_by(*TASK, maintain_order=True)
        .agg(
            pl.col("agent").drop_nulls().min(),
            pl.col("reward").mean(),
            pl.col("num_chars").mean(),
            truncated=pl.col("is_truncated").mean(),
            num=pl.len().cast(pl.Int64),
            passes=(pl.col("reward") >= threshold).sum().cast(pl.Int64),
        )
        .with_columns(pass_at_1=pl.col("passes") / pl.col("num"))
        .collect()
    )


def _measure(before: Sequence[float], after: Sequence[float]) -> Measure:
    changes = [_difference(old, new) for old, new in zip(before, after, strict=True)]
    return Measure(_mean(before), _mean(after), bootstrap_mean(changes))


def _difference(before: float, after: float) -> float:
    change = after - before
    return 0.0 if abs(change) <= SAME * max(1.0, abs(before), abs(after)) else change


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _environments(both: "pl.DataFrame") -> tuple[Environment, tuple[Environment, ...]]:
    """Describe all tasks, and those of each agent."""
    parts = both.partition_by("agent", as_dict=True)
    with progress("drawing intervals", total=1 + len(parts) * (len(parts) > 1), unit="environments") as advance:
        overall = _environment(None, both)
        advance(1)
        if len(parts) == 1:
            return overall, (replace(overall, agent=both["agent"][0]),)
        environments = []
        for (agent,), part in parts.items():
            environments.append(_environment(agent, part))
            advance(1)
    return overall, tuple(sorted(environments, key=lambda environment: environment.agent or ""))


def _environment(agent: str | None, part: "pl.DataFrame") -> Environment:
    measures = {name: _measure(part[name].to_list(), part[f"{name}_after"].to_list()) for name in MEASURES}
    improved, worse = int((part["change"] > 0).sum()), int((part["change"] < 0).sum())
    return Environment(
        agent=agent,
        tasks=len(part),
        improved=improved,
        worse=worse,
        same=len(part) - improved - worse,
        reward_before=bootstrap_mean(part["reward"].to_list()),
        reward_after=bootstrap_mean(part["reward_after"].to_list()),
        **measures,
    )


def _pass_at_ks(both: "pl.DataFrame") -> Iterator[PassAtK]:
    """Give pass@k, up to the k that half of the tasks have on both sides."""
    columns = [both[name].to_list() for name in ("num", "passes", "num_after", "passes_after")]
    rows = list(zip(*columns, strict=True))
    fewest = sorted((min(num, num_after) for num, _, num_after, _ in rows), reverse=True)
    last = fewest[(len(fewest) - 1) // 2]
    for k in (k for k in range(1, last + 1) if k <= EACH_K or _is_drawn(k, last)):
        shares = [
            (pass_at(k, num=num, passes=passes), pass_at(k, num=num_after, passes=passes_after))
            for num, passes, num_after, passes_after in rows
            if min(num, num_after) >= k
        ]
        before, after = ([pair[side] for pair in shares] for side in (0, 1))
        change = _measure(before, after).change if _is_drawn(k, last) else None
        yield PassAtK(k, len(shares), _mean(before), _mean(after), change)


def _is_drawn(k: int, last: int) -> bool:
    return k == last or k & (k - 1) == 0


def _transitions(both: "pl.DataFrame") -> dict[str, dict[str, int]]:
    """Count the tasks that were never, sometimes, always passed before, by what they are after."""
    columns = [both[name].to_list() for name in ("pass_at_1", "pass_at_1_after")]
    counts = Counter((_bucket(before), _bucket(after)) for before, after in zip(*columns, strict=True))
    return {before: {after: counts[before, after] for after in BUCKETS} for before in BUCKETS}


def _bucket(share: float) -> str:
    return "never" if share == 0 else "always" if share == 1 else "sometimes"


def _side_counts(side: Side, tasks: "pl.DataFrame", others: "pl.DataFrame") -> SideCounts:
    return SideCounts(
        places=tuple(place_text(source.path) for source in side.inputs.sources),
        left_out={place_text(path): kind for path, kind in side.inputs.left_out},
        rows=side.rows,
        counted=len(side.scores),
        without_text=side.without_text,
        uncounted=named(side.uncounted),
        missing=sum(missing.missing for missing in side.missing),
        tasks=len(tasks),
        only_here=len(tasks.join(others, on=TASK, how="anti")),
        rollouts_per_task=dict(sorted(tasks["num"].value_counts().rows())),
        sampling=sampling_of([source.path for source in side.inputs.sources if source.is_plain]),
    )


def _why_nothing_in_common(sides: Sides, first: "pl.DataFrame", second: "pl.DataFrame") -> str:
    """Say what was found on each side, and what may be different."""
    for side, name in ((sides.before, "BEFORE"), (sides.after, "AFTER")):
        if not len(side.scores):
            reason, count = side.uncounted.most_common(1)[0] if side.uncounted else (Reason.NOT_A_ROLLOUT, 0)
            told = f"{count:,} are {reason}: {MEANING[reason]}" if count else "it is empty"
            return f"{name} has no rollout that counts, of {counted(side.rows, 'row')}; {told}"
    told = f"no task is on both sides: BEFORE has {counted(len(first), 'task')}, AFTER {counted(len(second), 'task')}"
    agents = [sorted(set(tasks["agent"].drop_nulls())) for tasks in (first, second)]
    if agents[0] != agents[1]:
        names = " and ".join(", ".join(map(excerpt, names[:3])) or "none" for names in agents)
        return f"{told}; their agents differ ({names}): --across-agents matches tasks whatever the agent is called"
    return f"{told}; collect AFTER with the same --input as BEFORE (gym eval run), prompts and tools unchanged"


@cache
def pass_at(k: int, *, num: int, passes: int) -> float:
    """Estimate without bias the chance that one of k rollouts passes, of a task of which `passes` of `num` did.

    Chen et al., Evaluating Large Language Models Trained on Code (2021), equation 1.
    """
    return 1.0 - math.comb(num - passes, k) / math.comb(num, k)
