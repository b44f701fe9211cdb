"""What `collect-pairs` and `inspect` tell people, on stderr."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipeline.attrition import MEANING, Attrition, LabelUse, Reason
from pipeline.collect import Collection
from pipeline.inspection import Environment, Inspection
from pipeline.intake import Missing
from pipeline.settings import Format, Settings
from pipeline.sources import COPY, Inputs
from schemas.streams import place_text
from schemas.terminal import counted, path_text, printable, stderr_console, stdout_console

HINTS = {
    Reason.NOT_JSON: "rollouts are JSONL, as gym eval run writes it",
    Reason.NOT_A_ROLLOUT: "rollouts are JSONL, as gym eval run writes it",
    Reason.SINGLE_ROLLOUT: "collect several rollouts of each task: gym eval run ... --num-repeats 8",
    Reason.EQUAL_REWARDS: "dpo inspect says what to collect instead",
    Reason.BELOW_MARGIN: "lower --min-margin",
    Reason.TOOL_USE: "try --format preference or trl",
    Reason.SEVERAL_TURNS: "try --format preference or trl",
}
MAX_NAMES = 3  # of files that are left out for one reason
BARS = " ▁▂▃▄▅▆▇█"


def show_collection(collection: Collection, settings: Settings, *, verbose: bool) -> None:
    """Print the account: from rows to pairs, with a reason for each row that is in none."""
    attrition, console = collection.attrition, stderr_console()
    _show_inputs(collection.inputs, collection.missing, console)
    digits = len(f"-{attrition.rows:,}")
    dropped = [reason for reason in Reason if attrition.dropped[reason]]
    width = max(map(len, dropped), default=0)
    console.print(f"{attrition.rows:>{digits},}  rows read")
    for reason in dropped:
        line = f"{-attrition.dropped[reason]:>{digits},}  {reason:<{width}}  {MEANING[reason]}"
        console.print(line, soft_wrap=True)
        if verbose and (example := collection.examples.get(reason)):
            console.print(printable(f"{'':>{digits}}  {'':<{width}}  for example {example}"), soft_wrap=True)
    console.print(f"{attrition.paired_rollouts:>{digits},}  rows in pairs")
    console.print(_steps(attrition), soft_wrap=True)
    for reason, count in ((reason, attrition.left_out[reason]) for reason in Reason if attrition.left_out[reason]):
        console.print(f"{counted(count, 'possible pair')} left out: {reason}", soft_wrap=True)
    if attrition.several_messages and settings.format is not Format.BINARY:
        console.print(
            f"{counted(attrition.several_messages, 'pair')} with responses of several messages, written whole; "
            "NeMo RL trains only a completion's last message",
            soft_wrap=True,
        )

    if attrition.with_token_ids is not None:
        total = counted(attrition.pairs, "pair")
        console.print(f"{attrition.with_token_ids:,} of {total} with the policy's token ids", soft_wrap=True)
    if attrition.labels is not None:
        for line in _labels_told(attrition.labels):
            console.print(line, soft_wrap=True)


def show_outputs(collection: Collection, *, rejects: Path | None, dry_run: bool) -> None:
    """Name the files that were written."""
    console = stderr_console()
    if dry_run:
        console.print("nothing was written (--dry-run)")
    for out in collection.outputs:
        console.print(f"wrote {counted(out.num_pairs, 'pair')} to {path_text(out.path)}", soft_wrap=True)
    for path in collection.stale:
        console.print(
            f"warning: {path_text(path)} is of an earlier run; its prompts may be among those written now: remove it",
            soft_wrap=True,
        )
    if rejects is not None:
        num_rejects = collection.attrition.dropped.total()
        console.print(f"wrote {counted(num_rejects, 'rejected row')} to {path_text(rejects)}", soft_wrap=True)


def why_no_pairs(collection: Collection, settings: Settings) -> str:
    """Say in one line what stands against pairs."""
    attrition = collection.attrition
    if not collection.inputs.sources:
        return "no pairs: none of the files holds rollouts"
    if not attrition.rows:
        return "no pairs: the input has no rows"
    reason, count = attrition.dropped.most_common(1)[0]
    met = collection.examples.get(reason, "").partition(": ")[2] or MEANING[reason]
    hint = HINTS.get(reason, "dpo inspect shows more")
    return (
        f"no pairs, nothing written (least margin {settings.min_margin}): {count:,} of {attrition.rows:,} rows are "
        f"{reason} ({met}); {hint}"
    )


def show_inspection(inspection: Inspection) -> None:
    """Print what a collection of rollouts is good for: the report on stdout, what was not read on stderr."""
    _show_inputs(inspection.inputs, inspection.missing, stderr_console())
    console = stdout_console()
    console.print(
        f"{counted(inspection.rows, 'row')}, {counted(inspection.rollouts, 'usable rollout')} "
        f"of {counted(inspection.tasks, 'task')}",
        soft_wrap=True,
    )
    for reason in (reason for reason in Reason if inspection.dropped[reason]):
        console.print(f"  {counted(inspection.dropped[reason], 'row')} {reason}: {MEANING[reason]}", soft_wrap=True)
    if not inspection.tasks:
        return
    per_task = ", ".join(f"{size} x {count:,}" for size, count in inspection.rollouts_per_task.items())
    console.print(f"rollouts per task: {per_task}", soft_wrap=True)
    console.print(
        f"at a reward of {inspection.threshold:g}: always pass {inspection.always_pass:,}, sometimes "
        f"{inspection.sometimes_pass:,}, never {inspection.never_pass:,}; rewards differ in "
        f"{counted(inspection.varied_tasks, 'task')}",
        soft_wrap=True,
    )
    for environment in inspection.environments:
        _show_environment(environment, console)
    console.print(_pairs_table(inspection))
    for line in inspection.advice:
        console.print(printable(line), soft_wrap=True)


def _labels_told(labels: LabelUse) -> Iterator[str]:
    yield (
        f"{counted(labels.read, 'label')} of people, {labels.matched:,} on pairs here: "
        f"{counted(labels.confirmed, 'pair')} as the rewards have it, {labels.turned:,} turned, "
        f"{labels.decided:,} of equal rewards decided"
    )
    if labels.unmatched:
        yield (
            f"{counted(labels.unmatched, 'label')} on no two usable rollouts of one prompt: of other rollouts, or of "
            "texts that other options make (--reasoning)"
        )
    if labels.repeated or labels.contradicting:
        yield (
            f"{counted(labels.repeated, 'label')} said again, {labels.contradicting:,} that contradict one another "
            "and are not used"
        )


def _show_inputs(inputs: Inputs, missing: Iterable[Missing], console: Console) -> None:
    by_kind: dict[str, list[str]] = {}
    for path, kind in inputs.left_out:
        by_kind.setdefault(kind, []).append(place_text(path))
    for kind, names in by_kind.items():
        told = kind if kind.startswith(COPY) else f"{kind}, no rollouts"
        for name in names[:MAX_NAMES]:
            console.print(f"left out {name}: {told}", soft_wrap=True)
        if len(names) > MAX_NAMES:
            console.print(f"left out {counted(len(names) - MAX_NAMES, 'more file')}: {told}", soft_wrap=True)
    for path, expected, absent in missing:
        if absent:
            console.print(
                f"{place_text(path)}: {absent:,} of {counted(expected, 'rollout')} are missing, "
                "by the materialized inputs beside it",
                soft_wrap=True,
            )


def _steps(attrition: Attrition) -> str:
    steps = (
        (attrition.rows, "row"),
        (attrition.parsed, "rollout"),
        (attrition.eligible, "usable one"),
        (attrition.groups, "prompt"),
    )
    told = " → ".join(counted(number, noun) for number, noun in steps)
    return (
        f"{told}, {attrition.varied_groups:,} with different rewards, {attrition.paired_groups:,} with pairs "
        f"→ {counted(attrition.pairs, 'pair')}"
    )


def _show_environment(environment: Environment, console: Console) -> None:
    most = max(environment.histogram)
    bars = "".join(BARS[-(-count * (len(BARS) - 1) // most)] for count in environment.histogram)
    name = printable(environment.agent) if environment.agent is not None else "(no agent named)"
    console.print(
        f"{name}: {counted(environment.rollouts, 'rollout')} of {counted(environment.tasks, 'task')}", soft_wrap=True
    )
    console.print(
        f"  reward {environment.min_reward:g} |{bars}| {environment.max_reward:g}, mean {environment.mean_reward:.3g}, "
        f"standard deviation {environment.reward_deviation:.3g}",
        soft_wrap=True,
    )
    levels = ", ".join(
        (f"{level.low:.3g}" if level.low == level.high else f"{level.low:.3g} to {level.high:.3g}")
        + f": {level.median_chars:,.0f}"
        for level in environment.length_by_reward
    )
    console.print(f"  median characters by reward: {levels}", soft_wrap=True)
    if environment.truncated_share or environment.failed_rows:
        console.print(
            f"  cut by a limit {environment.truncated_share:.1%}; "
            f"{counted(environment.failed_rows, 'row')} failed, masked, unverified or empty",
            soft_wrap=True,
        )


def _pairs_table(inspection: Inspection) -> Table:
    margins = next(iter(inspection.pairs.values()))
    table = Table(title="pairs by strategy and least margin", title_justify="left", box=None, pad_edge=False)
    table.add_column("strategy")
    for margin in margins:
        table.add_column("any" if margin == "0" else margin, justify="right")
    for strategy, counts in inspection.pairs.items():
        table.add_row(strategy, *(f"{count:,}" for count in counts.values()))
    return table
