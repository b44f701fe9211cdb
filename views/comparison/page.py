"""The page of `dpo compare`: figures, plots, and the tasks that lost and gained most with both texts."""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pipeline.attrition import MEANING, Reason
from pipeline.comparison.compare import BUCKETS, Comparison, Environment, Measure, SideCounts
from pipeline.comparison.notes import collecting_command, meaning_here, notes_of, verdict_of
from pipeline.comparison.show import POINTS, points, whole
from pipeline.comparison.texts import Answer, Example
from schemas.bootstrap import Interval
from schemas.terminal import counted, printable
from views.comparison.plots import comparison_plots
from views.figures import drawn
from views.page import render
from views.text import visible
from views.word_diff import word_diff

Row = list[str]
NO_TEXT = Markup('<p class="quiet">no text</p>')
MOST_REWARDS = 16  # of a task, told one by one
SHOWN_PROMPT, SHOWN_ANSWER = 400, 900  # characters before the fold


@dataclass(frozen=True)
class Shown:
    """An example as the page shows it."""

    change: str
    kind: str  # of its colour
    agent: str
    prompt: list[tuple[str, Markup]]
    before: Markup
    after: Markup
    note: str
    before_told: str
    after_told: str
    before_rewards: str
    after_rewards: str


def comparison_page(comparison: Comparison) -> str:
    """Make the page."""
    overall = comparison.overall
    return render(
        "comparison.html",
        title="Before and after",
        style=(files("views") / "styles" / "comparison.css").read_text(encoding="utf-8"),
        verdict=verdict_of(comparison),
        before=_places(comparison.before),
        after=_places(comparison.after),
        kind={"better": "good", "worse": "bad"}.get(comparison.verdict, "plain"),
        change=_signed(overall.reward.change.mean),
        interval=_interval(overall.reward.change),
        cards=_cards(comparison),
        notes=notes_of(comparison),
        plots=drawn(comparison_plots(comparison)),
        environments=_environments(comparison),
        ks=_ks(comparison),
        lengths=_lengths(overall),
        transitions=[
            [f"{before} before", *(f"{comparison.transitions[before][after]:,}" for after in BUCKETS)]
            for before in BUCKETS
        ],
        buckets=[f"{after} after" for after in BUCKETS],
        threshold=f"{comparison.threshold:g}",
        regressions=[_shown(example) for example in comparison.regressions],
        improvements=[_shown(example) for example in comparison.improvements],
        num_worse=overall.worse,
        num_improved=overall.improved,
        sides=[_side("before", comparison.before), _side("after", comparison.after)],
        uncounted=_uncounted(comparison),
        command=printable(collecting_command(comparison)),
    )


def _places(side: SideCounts) -> str:
    names = [printable(Path(place).name) for place in side.places]
    return names[0] if len(names) == 1 else f"{names[0]} and {counted(len(names) - 1, 'more file')}"


def _cards(comparison: Comparison) -> list[tuple[str, str, str]]:
    overall = comparison.overall
    reward, first, chars, cut = overall.reward, overall.pass_at_1, overall.num_chars, overall.truncated
    return [
        ("mean reward", _arrow(f"{reward.before:.3f}", f"{reward.after:.3f}"), f"change {_change(reward)}"),
        ("pass@1", _arrow(f"{first.before:.1%}", f"{first.after:.1%}"), f"change {_change(first, percent=True)}"),
        ("tasks improved", f"{overall.improved:,}", f"of {counted(comparison.tasks, 'task')} on both sides"),
        ("tasks worse", f"{overall.worse:,}", f"{overall.same:,} the same"),
        ("characters in an answer", _arrow(f"{chars.before:,.0f}", f"{chars.after:,.0f}"), "mean"),
        ("cut by a limit", _arrow(f"{cut.before:.1%}", f"{cut.after:.1%}"), "of the answers"),
    ]


def _arrow(before: str, after: str) -> str:
    return f"{before} → {after}"


def _environments(comparison: Comparison) -> list[Row]:
    return [
        [
            name_of(environment),
            f"{environment.tasks:,}",
            f"{environment.reward.before:.3f}",
            f"{environment.reward.after:.3f}",
            _change(environment.reward),
            _arrow(f"{environment.pass_at_1.before:.1%}", f"{environment.pass_at_1.after:.1%}"),
            f"{environment.improved:,} / {environment.worse:,} / {environment.same:,}",
            _arrow(f"{environment.truncated.before:.1%}", f"{environment.truncated.after:.1%}"),
        ]
        for environment in comparison.environments
    ]


def name_of(environment: Environment) -> str:
    """Name the agent of an environment."""
    return printable(environment.agent) if environment.agent is not None else "(no agent named)"


def _ks(comparison: Comparison) -> list[Row]:
    return [
        [
            f"pass@{each.k}",
            f"{each.before:.1%}",
            f"{each.after:.1%}",
            points(each.after - each.before),
            _interval(each.change, percent=True),
            f"{each.tasks:,}",
        ]
        for each in comparison.pass_at_k
        if each.change is not None
    ]


def _lengths(overall: Environment) -> list[Row]:
    chars, cut = overall.num_chars, overall.truncated
    return [
        [
            "characters",
            f"{chars.before:,.0f}",
            f"{chars.after:,.0f}",
            f"{chars.change.mean:+,.0f}",
            _whole(chars.change),
        ],
        [
            "cut by a limit",
            f"{cut.before:.1%}",
            f"{cut.after:.1%}",
            points(cut.change.mean),
            _interval(cut.change, percent=True),
        ],
    ]


def _whole(interval: Interval) -> str:
    return f"{whole(interval.low)} to {whole(interval.high)}"


def _change(measure: Measure, *, percent: bool = False) -> str:
    told = points(measure.change.mean) if percent else _signed(measure.change.mean)
    return f"{told} ({_interval(measure.change, percent=percent)})"


def _signed(value: float) -> str:
    return f"{value:+.3f}"


def _interval(interval: Interval, *, percent: bool = False) -> str:
    low, high = (points(end) if percent else _signed(end) for end in (interval.low, interval.high))
    return f"{low.removesuffix(POINTS)} to {high}"


def _shown(example: Example) -> Shown:
    marked = word_diff(example.before.text, example.after.text, shown=SHOWN_ANSWER, names="answers")
    return Shown(
        change=_signed(example.change),
        kind="bad" if example.change < 0 else "good",
        agent=printable(example.agent) if example.agent is not None else "",
        prompt=[(printable(role), visible(text, shown=SHOWN_PROMPT)) for role, text in example.prompt],
        before=marked.before if example.before.text else NO_TEXT,
        after=marked.after if example.after.text else NO_TEXT,
        note=marked.note,
        before_told=_told(example.before),
        after_told=_told(example.after),
        before_rewards=_rewards(example.before_rewards),
        after_rewards=_rewards(example.after_rewards),
    )


def _told(answer: Answer) -> str:
    return f"reward {answer.reward:g}{', cut by a limit' if answer.is_truncated else ''}"


def _rewards(rewards: tuple[float, ...]) -> str:
    told = " ".join(f"{reward:g}" for reward in rewards[:MOST_REWARDS])
    return told if len(rewards) <= MOST_REWARDS else f"{told} … ({len(rewards):,} in all)"


def _side(name: str, side: SideCounts) -> Row:
    asked = [
        f"{option.replace('_', ' ')} {', '.join(f'{value:g}' for value in values)}"
        for option in ("temperature", "top_p", "max_output_tokens")
        if (values := getattr(side.sampling, option))
    ]
    sizes = ", ".join(f"{count:,} with {size}" for size, count in side.rollouts_per_task.items())
    return [
        name,
        ", ".join(map(printable, side.places)),
        ", ".join(map(printable, side.sampling.model)) or "not told",
        f"{side.rows:,}",
        f"{side.counted:,}",
        f"{side.tasks:,}",
        f"{side.only_here:,}",
        sizes,
        "; ".join(asked) or "not told",
    ]


def _uncounted(comparison: Comparison) -> list[Any]:
    reasons = [reason.value for reason in Reason if _either(comparison, reason)]
    return [
        [
            reason,
            f"{comparison.before.uncounted.get(reason, 0):,}",
            f"{comparison.after.uncounted.get(reason, 0):,}",
            meaning_here(reason) or MEANING[Reason(reason)],
        ]
        for reason in reasons
    ]


def _either(comparison: Comparison, reason: Reason) -> bool:
    return reason.value in comparison.before.uncounted or reason.value in comparison.after.uncounted
