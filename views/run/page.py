"""report.html of a run: how it stands, its curves, what was seen, answers before and after, what it was told."""

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

from schemas.atomic import atomic_writer
from schemas.errors import DpoError
from schemas.terminal import counted, path_text, printable
from views.figures import Drawn, drawn, write_figures
from views.page import render
from views.run.folder import RunRead, Verdict
from views.run.history import BUCKETS, RECENT, TRAIN
from views.run.numbers import SetNumbers, about_data, dropped_text, lately, memory, sets_of, speed
from views.run.plots import plots_of
from views.run.samples import Exchange, Sample
from views.run.state import duration, planned_steps, state_of
from views.text import marked, number, percent, visible, with_options
from views.word_diff import word_diff

Card = tuple[str, str, str]
Cells = list[str | Markup]

PROMPT_CHARACTERS = 600
DIGEST_CHARACTERS = 12
"""Of a digest in a table; run.json has all of it."""


def write_run_page(run: RunRead, output: Path, *, plots_folder: Path | None) -> None:
    """Write the page of a run, and its plots as SVG and PNG where a folder is named.

    Raises:
        DpoError: it can't be written.
    """
    figures = drawn(plots_of(run), with_files=plots_folder is not None)
    sets = list(sets_of(run))
    text = render(
        "run.html",
        title=f"Run {printable(run.name)}",
        style=run_style(),
        state=state_of(run),
        subtitle=_subtitle(run),
        cards=list(_cards(run, sets)),
        warnings=list(_warnings(run)),
        verdicts=None if run.verdicts is None else [_verdict(each) for each in run.verdicts],
        drawn=figures,
        curves_note=_curves_note(run),
        set_heads=SET_HEADS,
        sets=[_set_row(each) for each in sets],
        environment_heads=[("environment", "text"), *((marked(each.name), "number") for each in sets)],
        environments=_environments(sets),
        exchanges=[_exchange(each) for each in run.answers.exchanges],
        samples_note=_samples_note(run),
        differing=[
            [code(each.key), marked(each.shown), marked(each.shown_default), marked(each.meaning)]
            for each in run.settings
            if each.differs
        ],
        settings=[[code(each.key), marked(each.shown), marked(each.meaning)] for each in run.settings],
        data_heads=DATA_HEADS,
        data=[_data_row(each) for each in about_data(run)],
    )
    write_page_and_plots(text, output, figures, plots_folder)


def write_page_and_plots(text: str, page: Path, figures: Sequence[Drawn], plots_folder: Path | None) -> None:
    """Write a page on runs, then the files of its plots: where only these can't be written, there is a page.

    Raises:
        DpoError: one of them can't be written.
    """
    with atomic_writer(page) as stream:
        stream.write(text.encode("utf-8", "backslashreplace"))
    if plots_folder is None:
        return
    try:
        write_figures(figures, plots_folder)
    except DpoError as error:
        raise DpoError(f"{error}; the page is there without it: {path_text(page)}") from error


def run_style() -> str:
    """Give the style of pages on runs."""
    return (files("views") / "styles" / "run.css").read_text(encoding="utf-8")


def _subtitle(run: RunRead) -> str:
    model = str(run.setting("policy.model_name") or "a policy")
    loss, beta = run.setting("loss.name"), run.setting("dpo.reference_policy_kl_penalty")
    told = [printable(model), f"loss {printable(str(loss))}", f"beta {number(beta)}"]
    told.append(f"learning rate {number(run.setting('policy.optimizer.lr'))}")
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M")
    return f"{', '.join(told)} \N{MIDDLE DOT} as of {now} UTC"


def _cards(run: RunRead, sets: Sequence[SetNumbers]) -> Iterator[Card]:
    history, now = run.history, lately(run)
    planned = planned_steps(run)
    begun = next((value for _, value in history.column(f"{TRAIN}loss").points), math.nan)
    mean = f"mean of the last {min(RECENT, len(history.recent))} steps" if len(history.recent) > 1 else "of the step"
    yield "Steps", f"{history.step:,}", "" if planned is None else f"of {planned:,}, {counted(history.epoch, 'epoch')}"
    if "loss" in now:
        yield "Loss", number(now["loss"]), f"{mean}; began at {number(begun)}"
    if "accuracy" in now:
        yield "Accuracy", percent(now["accuracy"]), "of training pairs, lately"
    if "margin_mean" in now:
        yield "Margin", f"{now['margin_mean']:+.3g}", "chosen over rejected, times beta"
    for each in sets[:3]:
        best = "" if each.best_step is None else f"; best {number(each.best_loss)} at step {each.best_step:,}"
        yield f"Validation loss, {printable(each.name)}", number(each.last["loss"]), f"the latest{best}"
        yield f"Validation accuracy, {printable(each.name)}", percent(each.last["accuracy"]), _before(each)
    if "kl" in now:
        yield "KL to the reference", number(now["kl"]), "nats a response"
    if math.isfinite(history.elapsed_seconds):
        yield "Time", duration(history.elapsed_seconds), "with reading, validations, saves"
    if math.isfinite(speed(run)):
        yield "Throughput", f"{number(speed(run))} pairs/s", "mean over the steps"
    if math.isfinite(memory(run)):
        yield "Memory", f"{number(memory(run))} GB", "the most, of the main process"
    if run.best:
        step, value = run.best.get("step"), run.best.get("value")
        shown = number(float(value)) if isinstance(value, int | float) else ""
        yield "Best policy", f"step {step}", printable(f"{run.best.get('metric')} {shown}")


def _before(each: SetNumbers) -> str:
    first = each.first["accuracy"]
    return f"first {percent(first)}" if math.isfinite(first) and first != each.last["accuracy"] else ""


def _warnings(run: RunRead) -> Iterator[tuple[str, str]]:
    """Say what of the files is not as it should be."""
    history = run.history
    for name in ("loss", "grad_norm"):
        column = history.column(f"{TRAIN}{name}")
        if column.num_odd:
            yield (
                f"{name} was no finite number in {counted(column.num_odd, 'step')}, first at step {column.first_odd}.",
                "Weights may be damaged from there on: go on from a checkpoint before it, with a lower "
                "policy.optimizer.lr or policy.precision=float32.",
            )
    if history.num_unreadable:
        yield f"{counted(history.num_unreadable, 'line')} of metrics.jsonl can't be read.", ""
    if run.answers.num_unreadable:
        yield f"{counted(run.answers.num_unreadable, 'line')} of samples.jsonl can't be read.", ""


def _verdict(each: Verdict) -> dict[str, Any]:
    when = f"at step {each.first:,}"
    if each.count > 1:
        when = f"{each.count:,} times, at steps {each.first:,} to {each.last:,}"
    texts = {name: with_options(text) for name, text in vars(each).items() if isinstance(text, str)}
    title = marked(each.kind.replace("_", " ").capitalize())
    return {**texts, "title": title, "when": when}


def _curves_note(run: RunRead) -> str:
    note = "Each step is a batch of its own, so curves are rough; what counts is where they go."
    if run.history.step > 2 * BUCKETS:
        note += " Of many steps next to one another the least and the greatest value are drawn."
    return note


SET_HEADS = [
    ("set", "text"),
    ("loss", "number"),
    ("best loss", "number"),
    ("at step", "number"),
    ("accuracy", "number"),
    ("margin", "number"),
    ("KL", "number"),
]


def _set_row(each: SetNumbers) -> Cells:
    return [
        marked(each.name),
        number(each.last["loss"], 4),
        number(each.best_loss, 4),
        "" if each.best_step is None else f"{each.best_step:,}",
        percent(each.last["accuracy"]),
        number(each.last["margin_mean"]),
        number(each.last["kl"]),
    ]


def _environments(sets: Sequence[SetNumbers]) -> list[Cells]:
    names = dict.fromkeys(name for each in sets for name in each.by_environment)
    return [[marked(name), *(percent(each.by_environment.get(name)) for each in sets)] for name in names]


def _samples_note(run: RunRead) -> str:
    answers = run.answers
    note = "The first and the last answer of the run to each prompt; answers are greedy, so only the weights differ."
    if answers.num_prompts > len(answers.exchanges):
        note += f" {len(answers.exchanges)} of {answers.num_prompts:,} prompts are shown; samples.jsonl has all."
    return note


def _exchange(each: Exchange) -> dict[str, Any]:
    """Lay out a prompt and its answers; where both are alike, that is said instead of showing them twice."""
    first, last = each.first, each.last
    is_same = first.response == last.response and not each.is_one
    begun = f"After step {first.step:,}" if first.step else "Before training"
    again = f", and after step {last.step:,} the same" if is_same else ""
    shown = {
        "about": f"set {printable(first.set)}, {counted(each.num_answers, 'answer')}",
        "prompt": visible(first.prompt, shown=PROMPT_CHARACTERS),
        "first_title": begun + _as_known(first) + again,
        "first": _answer(first.response),
        "last": None,
        "chosen": _answer(last.chosen),
        "rejected": _answer(last.rejected),
    }
    if is_same or each.is_one:
        return shown
    both = word_diff(first.response, last.response)
    return {
        **shown,
        "first": both.before if first.response else shown["first"],
        "last_title": f"After step {last.step:,}{_as_known(last)}",
        "last": both.after if last.response else _answer(""),
    }


def _as_known(sample: Sample) -> str:
    """Say where an answer is one of the pair's, whatever space is around it."""
    known = {sample.rejected.strip(): ", as rejected", sample.chosen.strip(): ", as chosen"}
    return known.get(sample.response.strip(), "")


def _answer(text: str) -> Markup:
    return visible(text) if text else Markup('<p class="quiet">nothing</p>')


DATA_HEADS = [
    ("set", "text"),
    ("pairs", "number"),
    ("prompts", "number"),
    ("responses", "number"),
    ("dropped", "text"),
    ("files, with their SHA-256", "text"),
    ("digest of tokens", "text"),
]


def _data_row(each: dict[str, Any]) -> Cells:
    sources = each.get("sources")
    names = [_source(one) for one in sources if isinstance(one, dict)] if isinstance(sources, list) else []
    counts = [
        f"{each[name]:,}" if isinstance(each.get(name), int) else "" for name in ("pairs", "prompts", "responses")
    ]
    return [
        marked(str(each.get("name", ""))),
        *counts,
        marked(dropped_text(each.get("dropped"))),
        Markup("<br>").join(names),
        code(str(each.get("digest", ""))[:DIGEST_CHARACTERS]),
    ]


def _source(one: dict[str, Any]) -> Markup:
    digest = one.get("sha256")
    name = marked(str(one.get("name", "")))
    return name + Markup(" ") + code(digest[:DIGEST_CHARACTERS]) if isinstance(digest, str) else name


def code(text: str) -> Markup:
    """Show a name as one of programs."""
    return Markup("<code>{}</code>").format(marked(text))
