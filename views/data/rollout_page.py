"""The page of a report on rollouts."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from markupsafe import Markup

from pipeline.inspection import Inspection
from schemas.streams import place_text
from schemas.terminal import counted
from views.data.advice import rollout_advice
from views.data.flow import flow_of, flow_words, left_out_pairs
from views.data.options import DataOptions
from views.data.pair_figures import PairFigures
from views.data.rollout_data import RolloutData
from views.data.rollout_examples import Answer, TaskExample
from views.data.rollout_plots import plots_of_their_pairs, rollout_plots
from views.figures import drawn
from views.page import render
from views.text import count, marked, number, percent, visible, with_options
from views.word_diff import word_diff

PROMPT_CHARACTERS = 700
SHOWN_CHARACTERS = 1_000
MOST_CHARACTERS = 10_000


@dataclass(frozen=True)
class TaskShown:
    """A task as the page has it: the best and the worst answer compared, then the others."""

    example: TaskExample
    prompt: Markup
    tools: Markup | None
    best: Markup
    worst: Markup | None
    note: str
    others: tuple[tuple[Answer, Markup], ...]


def rollout_page(data: RolloutData, options: DataOptions) -> str:
    """Make the page."""
    inspection, attrition, figures = data.inspection, data.attrition, data.figures
    return render(
        "data_rollouts.html",
        title=options.title or f"Rollouts: {_named(inspection)}",
        style=data_style(),
        summary=_summary(data),
        cards=_cards(data),
        inputs=[place_text(source.path) for source in inspection.inputs.sources],
        left_out=[(place_text(path), kind) for path, kind in inspection.inputs.left_out],
        advice=marked_advice(rollout_advice(inspection, attrition, figures)),
        stages=flow_of(attrition) if attrition.rows else [],
        flow_words=flow_words(attrition),
        left_out_pairs=left_out_pairs(attrition),
        places={str(reason): place for reason, place in data.examples.items()},
        attrition=attrition,
        plots=drawn(rollout_plots(data)),
        pair_plots=drawn(plots_of_their_pairs(data, seed=options.seed)),
        environments=_environment_rows(data),
        strategies=_strategies(inspection),
        figures=figures,
        pair_words=_pair_words(figures),
        tasks=[_shown(task) for task in data.tasks],
        inspection=inspection,
        threshold=data.settings.threshold,
        form=data.settings.format.value,
    )


def marked_advice(advice: Sequence[tuple[str, str]]) -> list[tuple[Markup, Markup]]:
    """Make names in advice harmless to look at; agents name themselves."""
    return [(with_options(seen), with_options(remedy)) for seen, remedy in advice]


def data_style() -> str:
    """Give the style of the pages on data."""
    return (files("views") / "styles" / "data.css").read_text(encoding="utf-8")


def _named(inspection: Inspection) -> str:
    paths = [source.path.name for source in inspection.inputs.sources]
    return paths[0] if len(paths) == 1 else f"{len(paths):,} files"


def _summary(data: RolloutData) -> str:
    inspection = data.inspection
    if not inspection.rows:
        return "The input has no rows."
    if not inspection.rollouts:
        return f"{counted(inspection.rows, 'row')}, and none of them is a usable rollout; the reasons are below."
    if not data.figures.pairs:
        return (
            f"{counted(inspection.rollouts, 'usable rollout')} of {counted(inspection.tasks, 'task')}, and no pairs in "
            "them; the reasons are below."
        )
    return (
        f"{counted(inspection.rollouts, 'usable rollout')} of {counted(inspection.tasks, 'task')}; rewards differ in "
        f"{inspection.varied_tasks:,} of them. dpo collect-pairs would make {counted(data.figures.pairs, 'pair')}."
    )


def _pair_words(figures: PairFigures) -> str:
    pairs, prompts = counted(figures.pairs, "pair"), counted(figures.prompts, "prompt")
    return (
        f"{pairs} of {counted(figures.responses, 'response')} to {prompts}. The chosen response is the longer one in "
        f"{percent(figures.chosen_longer_share)} of those whose sides differ in length."
    )


def _cards(data: RolloutData) -> list[tuple[str, str, str]]:
    inspection, figures = data.inspection, data.figures
    rows, tasks = inspection.rows or 1, inspection.tasks or 1
    return [
        ("Rows", count(inspection.rows), ""),
        ("Usable rollouts", count(inspection.rollouts), f"{percent(inspection.rollouts / rows)} of the rows"),
        ("Tasks", count(inspection.tasks), f"{count(inspection.varied_tasks)} with different rewards"),
        (
            "Sometimes pass",
            count(inspection.sometimes_pass),
            f"{percent(inspection.sometimes_pass / tasks)} of the tasks",
        ),
        ("Pairs", count(figures.pairs), f"of {counted(figures.prompts, 'prompt')}"),
        ("Chosen longer", percent(figures.chosen_longer_share), "of pairs of different lengths"),
        ("Truncated", count(inspection.truncated), f"{percent(inspection.truncated / rows)} of the rows"),
        ("Environments", count(len(data.environments)), ""),
    ]


def _environment_rows(data: RolloutData) -> list[list[str | Markup]]:
    pairs = {each.name: each for each in data.figures.environments}
    rows = []
    for each in data.environments:
        of_pairs, told = pairs.get(each.name), each.inspected
        rows.append(
            [
                marked(each.name),
                count(told.rollouts),
                count(told.tasks),
                number(told.mean_reward),
                number(told.reward_deviation),
                f"{number(told.min_reward)} to {number(told.max_reward)}",
                count(each.always_pass),
                count(each.sometimes_pass),
                count(each.never_pass),
                count(of_pairs.pairs if of_pairs else 0),
                percent(of_pairs.chosen_longer_share if of_pairs else None),
                percent(told.truncated_share),
                count(told.failed_rows),
            ]
        )
    return rows


def _strategies(inspection: Inspection) -> dict[str, Any]:
    margins = list(next(iter(inspection.pairs.values()))) if inspection.pairs else []
    heads = ["any" if margin == "0" else f"from {margin}" for margin in margins]
    rows = [[name, *map(count, counts.values())] for name, counts in inspection.pairs.items()]
    return {"heads": [("Strategy", "text"), *((head, "number") for head in heads)], "rows": rows}


def _shown(task: TaskExample) -> TaskShown:
    best, *rest = task.answers
    limits = {"shown": SHOWN_CHARACTERS, "most": MOST_CHARACTERS}
    note, worst, others = "", None, rest
    if rest:
        *others, last = rest
        diff = word_diff(last.text, best.text, names="answers", **limits)
        first, worst, note = diff.after, diff.before, diff.note
    else:
        first = visible(best.text, **limits)
    return TaskShown(
        task,
        visible(task.prompt, shown=PROMPT_CHARACTERS, most=MOST_CHARACTERS),
        visible(task.tools, shown=MOST_CHARACTERS, most=MOST_CHARACTERS) if task.tools else None,
        first,
        worst,
        note,
        tuple((answer, visible(answer.text, **limits)) for answer in others),
    )
