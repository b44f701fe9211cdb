"""The page of `dpo eval`: figures with intervals, plots, the most wrongly judged pairs, answers before and after."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

from markupsafe import Markup

from schemas.atomic import atomic_writer
from schemas.errors import InputError
from schemas.terminal import counted, path_text, printable
from views.conversation import as_text
from views.evaluation.advice import advice
from views.evaluation.figures import evaluation_plots
from views.evaluation.tables import ability_rows, answer_rows, metric_rows, model_rows, part_tables, told
from views.figures import drawn
from views.json_file import json_object
from views.page import render
from views.text import visible
from views.word_diff import word_diff

RESULT_FILE, SHOWN_FILE, SAMPLES_FILE = "eval.json", "most_wrong.jsonl", "samples.jsonl"
KIND, FORMAT = "dpo_eval", 1
MOST_SAMPLES = 40
MOST_LOOKED_AT = 5_000
"""Answers that are read to find some that differ."""
SHOWN_PROMPT, SHOWN_ANSWER = 400, 900  # characters before the fold


@dataclass(frozen=True)
class Shown:
    """Two texts to one prompt as the page shows them."""

    head: str
    about: str
    prompt: Markup
    left: Markup
    right: Markup
    left_told: str
    right_told: str
    note: str


def write_evaluation_page(folder: Path, output: Path) -> None:
    """Write the page of an evaluation's folder.

    Raises:
        InputError: the folder has none, or one of another version.
        DpoError: the page can't be written.
    """
    page = evaluation_page(folder)
    with atomic_writer(output) as stream:
        stream.write(page.encode("utf-8", "replace"))


def evaluation_page(folder: Path) -> str:
    """Make the page."""
    result = _result(folder / RESULT_FILE)
    has_reference = result["reference"] is not None
    key = "accuracy" if has_reference else "accuracy_per_token"
    return render(
        "evaluation.html",
        title="What the policy prefers",
        style=(files("views") / "styles" / "evaluation.css").read_text(encoding="utf-8"),
        share=told(result["metrics"][key], "share", short=True),
        verdict=_verdict(result, key),
        cards=_cards(result),
        notes=advice(result),
        plots=drawn(evaluation_plots(result)),
        metrics=metric_rows(result),
        parts=part_tables(result),
        wrong=[_wrong(row, has_reference=has_reference) for row in _rows(folder / SHOWN_FILE)],
        has_reference=has_reference,
        samples=list(islice(_samples(folder / SAMPLES_FILE), MOST_SAMPLES)),
        generation=result["generation"],
        answers=answer_rows(result),
        abilities=ability_rows(result),
        models=model_rows(result),
    )


def _result(path: Path) -> dict[str, Any]:
    result = json_object(path, "an evaluation")
    if result.get("kind") != KIND or result.get("format") != FORMAT:
        raise InputError(f"{path_text(path)}: got another kind or version, expected what this dpo eval writes")
    return result


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Read the lines of a file, which an evaluation without it need not have."""
    if not path.exists():
        return
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{path_text(path)}:{number}: is no JSON; make the evaluation again") from error


def _verdict(result: Mapping[str, Any], key: str) -> str:
    data, interval = result["data"], result["metrics"][key]
    of = f"of {counted(data['num_pairs'], 'pair')} ({counted(data['num_prompts'], 'prompt')})"
    what = (
        f"{of} are right: the policy moved towards the chosen response, away from the rejected one."
        if key == "accuracy"
        else f"{of} are right: the policy finds the chosen response the more probable one by token."
    )
    if interval["low"] is None:
        return what
    return f"{what} 95 % interval {told(interval, 'share', ends=True)}."


def _cards(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    metrics, cards = result["metrics"], []
    names = (
        ("accuracy", "right against the reference", "share"),
        ("accuracy_sum", "right by log-probs", "share"),
        ("accuracy_per_token", "right by log-probs per token", "share"),
        ("margin", "margin", "signed"),
        ("chosen_log_ratio", "chosen against reference, nats", "signed"),
        ("rejected_log_ratio", "rejected against reference, nats", "signed"),
        ("both_fell", "both have fallen", "share"),
    )
    for name, label, form in names:
        if name in metrics:
            cards.append((label, told(metrics[name], form, short=True), told(metrics[name], form, ends=True)))
    if result["calibration"] is not None:
        error, over = (result["calibration"][name] for name in ("expected_calibration_error", "overconfidence"))
        points = f"{100 * abs(over):.1f}"
        note = f"on the whole {points} points too {'sure' if over > 0 else 'unsure'}" if points != "0.0" else ""
        cards.append(("calibration error", f"{error:.1%}", note))
    return cards


def _wrong(row: Mapping[str, Any], *, has_reference: bool) -> Shown:
    number = row["margin"] if has_reference else row["difference_per_token"]
    chosen, rejected = as_text(row["chosen"], "assistant"), as_text(row["rejected"], "assistant")
    marked = word_diff(rejected, chosen, shown=SHOWN_ANSWER, names="responses")
    about = [printable(row["environment"])] if row["environment"] else []
    return Shown(
        head=f"{'margin' if has_reference else 'difference per token'} {number:+.3g}",
        about=" · ".join([*about, printable(row["source"])]),
        prompt=visible(as_text(row["prompt"], "user"), shown=SHOWN_PROMPT),
        left=marked.before,
        right=marked.after,
        left_told=_response_told(row, "rejected"),
        right_told=_response_told(row, "chosen"),
        note=marked.note,
    )


def _response_told(row: Mapping[str, Any], side: str) -> str:
    reward = row[f"{side}_reward"]
    rewarded = "" if reward is None else f", reward {reward:g}"
    return f"{counted(row[f'{side}_tokens'], 'token')}{rewarded}"


def _samples(path: Path) -> Iterator[Shown]:
    """Give answers that differ."""
    for row in islice(_rows(path), MOST_LOOKED_AT):
        if row["before"] == row["after"]:
            continue
        marked = word_diff(row["before"], row["after"], shown=SHOWN_ANSWER, names="answers")
        prompt = row["prompt"]
        yield Shown(
            head="",
            about=f"seed {row['seed']}",
            prompt=visible(prompt if isinstance(prompt, str) else as_text(prompt, "user"), shown=SHOWN_PROMPT),
            left=marked.before,
            right=marked.after,
            left_told="cut by the limit" if row["before_truncated"] else "",
            right_told="cut by the limit" if row["after_truncated"] else "",
            note=marked.note,
        )
