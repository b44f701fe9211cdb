"""What `dpo review --agreement` and `--export` tell people."""

import math

from rich.console import Console
from rich.table import Table

from schemas.bootstrap import Interval
from schemas.terminal import counted, path_text, printable, stderr_console, stdout_console
from views.review.consensus import MEANING, LeftOut
from views.review.exports import FOREIGN, Exported, ExportFormat
from views.review.summary import Summary

RELIABLE, TENTATIVE = 0.8, 0.667
"""Of alpha: Krippendorff, Content Analysis (2004), p. 241."""
NOTHING = "\N{EN DASH}"


def show_summary(summary: Summary) -> None:
    """Print what people said, on stdout."""
    console = stdout_console()
    console.print(
        f"{counted(summary.items, 'item')}, {summary.reviewed:,} reviewed; {counted(summary.answers, 'answer')} "
        f"of {counted(len(summary.reviewers), 'reviewer')}",
        soft_wrap=True,
    )
    if any(summary.votes.values()):
        votes = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in summary.votes.items())
        console.print(f"votes: {votes}", soft_wrap=True)
        console.print(f"prefer the {summary.name} one, where they prefer one: {_share(summary.preferred)}")
        console.print(f"prefer the left one: {_share(summary.left)}{_position_note(summary.left)}", soft_wrap=True)
        _show_agreement(summary, console)
    if summary.reviewers:
        console.print(_reviewers_table(summary))
    if summary.pairs:
        console.print(_pairs_table(summary))
    if summary.ratings:
        console.print(_ratings_table(summary))
    if summary.environments:
        console.print(_environments_table(summary))


def show_exported(exported: Exported, form: ExportFormat) -> None:
    """Print the account of an export, on stderr."""
    console = stderr_console()
    digits = len(f"-{exported.items:,}")
    console.print(f"{exported.items:>{digits},}  items")
    reasons = [reason for reason in LeftOut if exported.left_out[reason]]
    width = max(map(len, reasons), default=0)
    for reason in reasons:
        console.print(f"{-exported.left_out[reason]:>{digits},}  {reason:<{width}}  {MEANING[reason]}", soft_wrap=True)
    noun = {ExportFormat.LABELS: "label", **dict.fromkeys(FOREIGN, "item")}.get(form, "pair")
    turned = f", {exported.turned:,} the other way round than in the file" if noun == "pair" else ""
    places = " and ".join(path_text(path) for path in exported.paths)
    console.print(f"wrote {counted(exported.written, noun)} to {places}{turned}", soft_wrap=True)
    if exported.is_trl:
        console.print("the rows are messages on both sides, as TRL has them: texts can't hold tool calls and turns")


def _show_agreement(summary: Summary, console: Console) -> None:
    if not summary.shared:
        console.print("nobody judged what another judged, so nothing is known of agreement")
        return
    console.print(
        f"{counted(summary.shared, 'item')} with several votes: {summary.percent:.1%} of the pairs of votes agree, "
        f"Krippendorff's alpha {_number(summary.alpha)}{_alpha_note(summary.alpha.mean)}",
        soft_wrap=True,
    )


def _alpha_note(alpha: float) -> str:
    if math.isnan(alpha):
        return " (all votes are the same, so chance can't be told)"
    if alpha >= RELIABLE:
        return ""
    return f" (below {RELIABLE} conclusions are tentative, below {TENTATIVE} none should be drawn)"


def _position_note(left: Interval) -> str:
    if left.low > 0.5 or left.high < 0.5:
        side = "left" if left.mean > 0.5 else "right"
        return f": more than chance says, so where a response stands pulls people to the {side}"
    return ""


def _reviewers_table(summary: Summary) -> Table:
    table = _table("reviewers", "answers", f"prefer {summary.name}", "prefer left", "seconds an item", "in all")
    for each in summary.reviewers:
        table.add_row(
            printable(each.name),
            f"{each.answers:,}",
            _share(each.preferred),
            _share(each.left),
            f"{each.median_seconds:.0f}",
            f"{each.total_seconds / 60:,.0f} min",
        )
    return table


def _pairs_table(summary: Summary) -> Table:
    table = _table("two reviewers", "items", "agree", "Cohen's kappa")
    for each in summary.pairs:
        kappa = NOTHING if math.isnan(each.kappa) else f"{each.kappa:.3f}"
        table.add_row(printable(" and ".join(each.names)), f"{each.items:,}", f"{each.percent:.1%}", kappa)
    return table


def _ratings_table(summary: Summary) -> Table:
    names = list(dict.fromkeys(name for rating in summary.ratings for name in rating.means))
    differs = len(names) == 2
    table = _table("ratings, 1 to 5", "ratings", *names, *(["difference"] if differs else []), "alpha (ordinal)")
    for each in summary.ratings:
        means = [f"{each.means[name].mean:.2f}" if name in each.means else NOTHING for name in names]
        difference = [_number(each.difference, digits=2, sign="+")] if differs else []
        table.add_row(each.criterion, f"{each.ratings:,}", *means, *difference, _number(each.alpha))
    return table


def _environments_table(summary: Summary) -> Table:
    table = _table("environments", "items", f"prefer {summary.name}", "alpha")
    for each in summary.environments:
        alpha = NOTHING if math.isnan(each.alpha) else f"{each.alpha:.3f}"
        table.add_row(printable(each.name) or "(none named)", f"{each.items:,}", _share(each.preferred), alpha)
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(box=None, pad_edge=False, title_justify="left")
    table.add_column(title)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _share(interval: Interval) -> str:
    if math.isnan(interval.mean):
        return NOTHING
    ends = "" if math.isnan(interval.low) else f" ({interval.low:.0%} to {interval.high:.0%})"
    return f"{interval.mean:.0%}{ends}"


def _number(interval: Interval, *, digits: int = 3, sign: str = "") -> str:
    if math.isnan(interval.mean):
        return NOTHING
    if math.isnan(interval.low):
        return f"{interval.mean:{sign}.{digits}f}"
    return f"{interval.mean:{sign}.{digits}f} ({interval.low:{sign}.{digits}f} to {interval.high:{sign}.{digits}f})"
