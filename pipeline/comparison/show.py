"""What `dpo compare` tells people: the comparison on stdout, what was not read on stderr."""

from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from pipeline.comparison.compare import Comparison, Environment, Measure, PassAtK, SideCounts
from pipeline.comparison.notes import collecting_command, meaning_here, notes_of, verdict_of
from pipeline.comparison.texts import Answer, Example
from schemas.bootstrap import Interval
from schemas.terminal import bare_excerpt, counted, printable, stderr_console, stdout_console

SHOWN_EXAMPLES = 3
MAX_ENVIRONMENTS = 30
POINTS = " pp"
"""Percentage points, behind a difference of two shares."""


def show_comparison(comparison: Comparison) -> None:
    """Print it."""
    told = stderr_console()
    for name, side in (("BEFORE", comparison.before), ("AFTER", comparison.after)):
        _show_side(name, side, told)
    console = stdout_console()
    console.print(_heading(comparison), soft_wrap=True)
    console.print(_figures(comparison))
    if len(comparison.environments) > 1:
        console.print(_environments(comparison))
    lost = "lost most: the best answer before, the worst after"
    _show_examples(lost, comparison.regressions, comparison.overall.worse, console)
    gained = "gained most: the worst answer before, the best after"
    _show_examples(gained, comparison.improvements, comparison.overall.improved, console)
    console.print()
    console.print("such a file of another policy: serve it (docs/comparing.md), then", soft_wrap=True)
    console.print(printable(collecting_command(comparison)), soft_wrap=True)
    console.print()
    for seen, remedy in notes_of(comparison):
        console.print(printable(f"note: {seen}{f'; {remedy}' if remedy else ''}"), soft_wrap=True)
    console.print(verdict_of(comparison))


def _show_side(name: str, side: SideCounts, console: Console) -> None:
    for path, kind in side.left_out.items():
        console.print(printable(f"{name}: left out {path}: {kind}"), soft_wrap=True)
    for reason, count in side.uncounted.items():
        console.print(f"{name}: {counted(count, 'row')} not counted, {reason}: {meaning_here(reason)}", soft_wrap=True)


def _heading(comparison: Comparison) -> str:
    overall = comparison.overall
    rollouts = " and ".join(f"{side.counted:,}" for side in (comparison.before, comparison.after))
    return (
        f"{counted(comparison.tasks, 'task')} on both sides, {rollouts} rollouts: "
        f"{overall.improved:,} improved, {overall.worse:,} worse, {overall.same:,} the same"
    )


def _figures(comparison: Comparison) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for head in ("", "before", "after", "change", "95 % interval"):
        table.add_column(head, justify="left" if head in ("", "95 % interval") else "right")
    overall = comparison.overall
    table.add_row("mean reward", *_cells(overall.reward, "{:.3f}".format, "{:+.3f}".format))
    for each in _told_ks(comparison.pass_at_k):
        of = "" if each.tasks == comparison.tasks else f" ({each.tasks:,} tasks)"
        change = points(each.after - each.before)
        interval = _interval(each.change, points) if each.change else ""
        table.add_row(f"pass@{each.k}{of}", f"{each.before:.1%}", f"{each.after:.1%}", change, interval)
    table.add_row("characters", *_cells(overall.num_chars, "{:,.0f}".format, whole))
    table.add_row("cut by a limit", *_cells(overall.truncated, "{:.1%}".format, points))
    return table


def _told_ks(all_ks: tuple[PassAtK, ...]) -> list[PassAtK]:
    return [each for each in all_ks if each.change is not None]


def _cells(
    measure: Measure, plain: Callable[[float], str], signed: Callable[[float], str]
) -> tuple[str, str, str, str]:
    told = signed(measure.change.mean)
    return plain(measure.before), plain(measure.after), told, _interval(measure.change, signed)


def points(share: float) -> str:
    """Show a difference of two shares."""
    return f"{share * 100:+.1f}{POINTS}"


def whole(value: float) -> str:
    """Show a difference of counts."""
    return f"{round(value):+,d}"


def _interval(interval: Interval, signed: Callable[[float], str]) -> str:
    return f"[{signed(interval.low).removesuffix(POINTS)}, {signed(interval.high).removesuffix(POINTS)}]"


def _environments(comparison: Comparison) -> Table:
    table = Table(title="\nmean reward by agent", title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for head in ("agent", "tasks", "before", "after", "change", "95 % interval", "improved", "worse"):
        table.add_column(head, justify="left" if head in ("agent", "95 % interval") else "right")
    for environment in comparison.environments[:MAX_ENVIRONMENTS]:
        table.add_row(
            name_of(environment),
            f"{environment.tasks:,}",
            *_cells(environment.reward, "{:.3f}".format, "{:+.3f}".format),
            f"{environment.improved:,}",
            f"{environment.worse:,}",
        )
    if len(comparison.environments) > MAX_ENVIRONMENTS:
        table.add_row(f"… and {counted(len(comparison.environments) - MAX_ENVIRONMENTS, 'more agent')}")
    return table


def name_of(environment: Environment) -> str:
    """Name the agent of an environment."""
    return bare_excerpt(environment.agent) if environment.agent is not None else "(no agent named)"


def _show_examples(what: str, examples: tuple[Example, ...], total: int, console: Console) -> None:
    if not examples:
        return
    shown = examples[:SHOWN_EXAMPLES]
    console.print(f"\n{what} ({len(shown)} of {counted(total, 'task')})", soft_wrap=True)
    for example in shown:
        asked = example.prompt[-1][1] if example.prompt else ""
        console.print(
            f"{example.change:+.3f}  {bare_excerpt(_flat(asked)) or '(no text in the prompt)'}", soft_wrap=True
        )
        for when, answer in (("before", example.before), ("after", example.after)):
            console.print(f"   {when:<6} {answer.reward:g}  {_shown(answer)}", soft_wrap=True)


def _shown(answer: Answer) -> str:
    cut = "  (cut by a limit)" if answer.is_truncated else ""
    return (bare_excerpt(_flat(answer.text)) or "(no text)") + cut


def _flat(text: str) -> str:
    return " ".join(text[:2000].split())
