"""report.html of several runs: their numbers side by side, what is set differently, their curves in one another's."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from schemas.terminal import counted, path_text
from views.figures import drawn
from views.page import render
from views.run.configuration import NO_DEFAULT, differences
from views.run.folder import RunRead
from views.run.history import RECENT
from views.run.numbers import STEP_METRICS, about_data, lately, memory, sets_of, speed
from views.run.page import Cells, code, run_style, write_page_and_plots
from views.run.plots import plots_of_several
from views.run.state import duration, planned_steps, state_of
from views.text import marked, number, percent

WORDS = {
    "loss": "loss",
    "accuracy": "accuracy",
    "margin_mean": "margin",
    "rewards_chosen_mean": "log-ratio, chosen",
    "rewards_rejected_mean": "log-ratio, rejected",
    "logps_chosen_mean": "log-prob, chosen",
    "logps_rejected_mean": "log-prob, rejected",
    "kl": "KL",
    "grad_norm": "gradient's norm",
}


OF_LOSS = ("loss.", "dpo.reference_policy_kl_penalty", "dpo.preference_", "dpo.sft_", "dpo.weighting")
"""Beginnings of the settings by which a loss is on another scale."""


def write_runs_page(runs: Mapping[str, RunRead], output: Path, *, plots_folder: Path | None) -> None:
    """Write the page that compares runs, and its plots as SVG and PNG where a folder is named.

    Raises:
        DpoError: it can't be written.
    """
    figures = drawn(plots_of_several(runs), with_files=plots_folder is not None)
    names = [marked(name) for name in runs]
    settings = {name: run.settings for name, run in runs.items()}
    text = render(
        "runs.html",
        title=f"{counted(len(runs), 'run')} side by side",
        style=run_style(),
        subtitle=", ".join(path_text(run.folder) for run in runs.values()),
        heads=[("", "text"), *((name, "number") for name in names)],
        numbers=[[title, *cells] for title, cells in _numbers(list(runs.values()))],
        numbers_note=f"Metrics of training are means of the last {RECENT} steps, those of a set are its latest.",
        text_heads=[("setting", "text"), *((name, "text") for name in names)],
        differing=[
            [code(key), *(NO_DEFAULT if value is None else marked(value) for value in values)]
            for key, values in differences(settings)
        ],
        notes=[note for note in (_data_note(runs), _loss_note(runs)) if note],
        drawn=figures,
        seen=list(_seen(runs)),
    )
    write_page_and_plots(text, output, figures, plots_folder)


def _numbers(runs: Sequence[RunRead]) -> Iterator[tuple[str | Markup, Cells]]:
    yield "state", [state_of(run).how for run in runs]
    yield "steps", [_of(run.history.step, planned_steps(run)) for run in runs]
    found = [lately(run) for run in runs]
    for name in STEP_METRICS:
        if any(name in each for each in found):
            show = percent if name == "accuracy" else number
            yield WORDS[name], [show(each.get(name)) for each in found]
    yield from _sets(runs)
    yield "time", [duration(seconds) if math.isfinite(seconds := run.history.elapsed_seconds) else "" for run in runs]
    yield "pairs a second", [number(speed(run)) for run in runs]
    yield "memory, GB", [number(memory(run)) for run in runs]


def _sets(runs: Sequence[RunRead]) -> Iterator[tuple[Markup, Cells]]:
    found = [{each.name: each for each in sets_of(run)} for run in runs]
    for name in dict.fromkeys(name for each in found for name in each):
        of_set = [each.get(name) for each in found]
        title = Markup("{} on {}").format
        yield title("loss", marked(name)), ["" if each is None else number(each.last["loss"], 4) for each in of_set]
        yield title("best loss", marked(name)), ["" if each is None else number(each.best_loss, 4) for each in of_set]
        yield (
            title("accuracy", marked(name)),
            ["" if each is None else percent(each.last["accuracy"]) for each in of_set],
        )
        margins = ["" if each is None else number(each.last["margin_mean"]) for each in of_set]
        yield title("margin", marked(name)), list(margins)


def _data_note(runs: Mapping[str, RunRead]) -> str:
    """Say whether the runs have seen the same pairs: the names of files don't tell."""
    digests = [tuple(str(each.get("digest")) for each in about_data(run)[:1]) for run in runs.values()]
    if not all(digests):
        return ""
    if len(set(digests)) == 1:
        return "All were trained on the same tokens in the same pairs."
    return "They were not trained on the same pairs (the digests of their tokens differ), so losses can't be compared."


def _loss_note(runs: Mapping[str, RunRead]) -> str:
    told = differences({name: run.settings for name, run in runs.items()})
    if not any(key.startswith(OF_LOSS) for key, _ in told):
        return ""
    return "Losses and margins of another loss or beta are on another scale; accuracies can be compared."


def _seen(runs: Mapping[str, RunRead]) -> Iterator[Cells]:
    for name, run in runs.items():
        for each in run.verdicts or ():
            when = f"{each.first:,}" if each.count == 1 else f"{each.first:,} to {each.last:,}, {each.count:,} times"
            yield [marked(name), marked(each.kind.replace("_", " ")), f"step {when}", marked(each.seen)]


def _of(step: int, planned: int | None) -> str:
    return f"{step:,}" if planned in (None, step) else f"{step:,} of {planned:,}"
