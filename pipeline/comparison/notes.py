"""What stands against believing a comparison, in plain words, and the commands that collect the files."""

import shlex
from collections.abc import Iterator

from pipeline.attrition import MEANING, Reason
from pipeline.comparison.compare import FEW_TASKS, Comparison, SideCounts
from schemas.terminal import counted

Note = tuple[str, str]
"""What is seen, and what to do."""

MUCH_UNCOUNTED = 0.01  # difference of the two shares of rows that could not be counted
MEANING_HERE = {
    Reason.RESPONSE_EMPTY: "no text in the response, and no prompt that tells its task (or it came from a pipe)",
    Reason.RESPONSE_UNSUPPORTED: "a response of unknown items, and no prompt that tells its task (or from a pipe)",
}


def notes_of(comparison: Comparison) -> list[Note]:
    """Give the notes, the gravest first."""
    kinds = (_on_agents, _on_tasks, _on_sampling, _on_rows, _on_lengths)
    return [note for kind in kinds for note in kind(comparison)]


def _on_agents(comparison: Comparison) -> Iterator[Note]:
    """Name the agents that lost, which a gain elsewhere may hide."""
    if len(comparison.environments) < 2:
        return
    for environment in comparison.environments:
        change = environment.reward.change
        if change.high < 0 and environment.tasks > 1:
            yield (
                f"{environment.agent or 'the tasks without an agent'} got worse: mean reward {change.mean:+.3f}, "
                f"95 % interval {change.low:+.3f} to {change.high:+.3f}",
                "train with pairs of it too, or with fewer of the others (dpo collect-pairs --max-pairs-per-agent)",
            )


def _on_tasks(comparison: Comparison) -> Iterator[Note]:
    sides = (("BEFORE", comparison.before), ("AFTER", comparison.after))
    if comparison.tasks < FEW_TASKS:
        yield (
            f"{counted(comparison.tasks, 'task')} are few: the interval is narrower than it should be"
            if comparison.tasks > 1
            else "one task tells nothing of others: its interval has no width",
            f"compare on {FEW_TASKS} tasks at least, better on some hundred",
        )
    for name, side in sides:
        if side.only_here:
            other = "AFTER" if name == "BEFORE" else "BEFORE"
            yield (
                f"{side.only_here:,} of {counted(side.tasks, 'task')} in {name} without a rollout that counts in "
                f"{other}: in no figure",
                f"collect {other} with the same --input, and see below whether rollouts failed",
            )
    if comparison.uneven_tasks:
        told = "; ".join(f"{name} {_per_task(side)}" for name, side in sides)
        yield (
            f"{counted(comparison.uneven_tasks, 'task')} with more rollouts on one side ({told})",
            "means stay fair, each task counts once; pass@k is of the tasks that have k rollouts on both sides",
        )


def _on_sampling(comparison: Comparison) -> Iterator[Note]:
    before, after = comparison.before.sampling, comparison.after.sampling
    for name in before.differences(after):
        first, second = (_values(getattr(sampling, name)) for sampling in (before, after))
        yield (
            f"{name} differs: {first} before, {second} after (in the files' first rows)",
            "the difference in reward may be that of sampling, not of the policy: collect both in the same way",
        )


def _on_rows(comparison: Comparison) -> Iterator[Note]:
    sides = (("BEFORE", comparison.before), ("AFTER", comparison.after))
    shares = [sum(side.uncounted.values()) / side.rows for _, side in sides]
    for name, side in sides:
        if side.uncounted:
            told = ", ".join(f"{count:,} {reason}" for reason, count in side.uncounted.items())
            yield f"{name}: {counted(sum(side.uncounted.values()), 'row')} of {side.rows:,} not counted ({told})", ""
        if side.missing:
            yield (
                f"{name}: {counted(side.missing, 'rollout')} are missing, by the materialized inputs beside it",
                "gym eval run with --resume collects what is missing",
            )
    if abs(shares[0] - shares[1]) > MUCH_UNCOUNTED:
        yield (
            f"{shares[0]:.1%} of the rows before and {shares[1]:.1%} after have no reward that measures anything",
            "if the policy makes its runs fail, it looks better than it is: look at those rows "
            "(dpo collect-pairs --dry-run --verbose shows one for each reason)",
        )


def _on_lengths(comparison: Comparison) -> Iterator[Note]:
    chars, reward = comparison.overall.num_chars, comparison.overall.reward
    if chars.change.is_clear and chars.before > 0 and abs(chars.change.mean) > chars.before / 4:
        more = "longer" if chars.change.mean > 0 else "shorter"
        yield (
            f"answers are {more}: {chars.before:,.0f} characters before, {chars.after:,.0f} after",
            "read some: the policy may have learnt a length (docs/monitoring.md, length_decides)"
            if reward.verdict != "better"
            else "",
        )
    cut = comparison.overall.truncated
    if cut.change.low > 0:
        yield (
            f"more answers are cut by a limit: {cut.before:.1%} before, {cut.after:.1%} after",
            "they count with the reward they got; the policy may have forgotten how to end",
        )


def meaning_here(reason: str) -> str:
    """Say why rows of a reason are not counted."""
    return MEANING_HERE.get(Reason(reason), MEANING[Reason(reason)])


def _per_task(side: SideCounts) -> str:
    sizes = sorted(side.rollouts_per_task)
    return f"{sizes[0]} each" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]} each"


def _values(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values) or "not told"


def verdict_of(comparison: Comparison) -> str:
    """Say in one sentence what the interval of the mean reward says."""
    change = comparison.overall.reward.change
    match comparison.verdict:
        case "better":
            return "AFTER is better: the whole interval is above zero."
        case "worse":
            return "AFTER is worse: the whole interval is below zero."
    if change.low == change.high == 0:
        return "No difference: every task has the same mean reward on both sides."
    if comparison.tasks == 1:
        return "No verdict: one task tells nothing of others."
    return "No clear difference: the interval holds zero."


def collecting_command(comparison: Comparison) -> str:
    """Give the command that collects a file like BEFORE from another policy: asked for as its first rows were.

    Where there are several agents, the rows of the tasks name theirs.
    """
    side = comparison.before
    agents = [environment.agent for environment in comparison.environments]
    name = f" --agent {shlex.quote(agents[0]) if agents[0] else 'AGENT'}" if len(agents) == 1 else ""
    repeats = max(side.rollouts_per_task, key=lambda size: (side.rollouts_per_task[size], size))
    options = "".join(
        f" --{option.replace('_', '-')} {values[0]:g}"
        for option in ("temperature", "top_p", "max_output_tokens")
        if len(values := getattr(side.sampling, option)) == 1
    )
    return f"gym eval run --no-serve{name} --input TASKS.jsonl --output after.jsonl --num-repeats {repeats}{options}"
