"""The tables of an evaluation's page, as texts."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from schemas.terminal import printable
from views.text import NOTHING

Told = Mapping[str, float | None]
Row = list[str]

METRICS = (
    ("accuracy", "share", "chosen has the larger log-ratio to the reference; ties count half"),
    ("accuracy_sum", "share", "chosen is the more probable one, as a whole"),
    ("reference_accuracy_sum", "share", "the same of the reference"),
    ("accuracy_sum_gain", "change", "how much more the policy gets, in points"),
    ("accuracy_per_token", "share", "chosen is the more probable one, by token"),
    ("reference_accuracy_per_token", "share", "the same of the reference"),
    ("accuracy_per_token_gain", "change", "how much more the policy gets, in points"),
    ("margin", "signed", "beta x (log-ratio of chosen - log-ratio of rejected)"),
    ("loss", "plain", "DPO loss, -log sigmoid(margin); ln 2 = 0.693 where nothing has changed"),
    ("chosen_log_ratio", "signed", "log policy - log reference of the chosen response, in nats"),
    ("rejected_log_ratio", "signed", "the same of the rejected one"),
    ("chosen_log_ratio_per_token", "signed", "by token"),
    ("rejected_log_ratio_per_token", "signed", "by token"),
    ("chosen_fell", "share", "chosen has become less probable"),
    ("rejected_fell", "share", "rejected has become less probable"),
    ("both_fell", "share", "both have become less probable"),
    ("kl", "plain", "divergence from the reference on these responses, nats a response"),
    ("chosen_logps_per_token", "signed", "log-prob of chosen by token, in nats"),
    ("rejected_logps_per_token", "signed", "log-prob of rejected by token, in nats"),
)
"""Name, form and meaning, in the order of the page."""
PARTS = (
    ("by_environment", "By environment"),
    ("by_file", "By file"),
    ("by_length", "By length of the longer response"),
    ("by_longer_side", "By which response is longer"),
)
ANSWERS = (
    ("tokens_before", "tokens", "tokens before"),
    ("tokens_after", "tokens", "tokens after"),
    ("tokens_difference", "change_of_tokens", "change of tokens"),
    ("truncated_before", "share", "cut by the limit before"),
    ("truncated_after", "share", "cut by the limit after"),
    ("same_text", "share", "the same text"),
)


class PartTable(NamedTuple):
    """A kind of part of the pairs."""

    title: str
    heads: list[tuple[str, str]]
    rows: list[Row]


def told(interval: Told, form: str, *, short: bool = False, ends: bool = False) -> str:
    """Write a mean with its interval; `short` leaves that out, `ends` writes it alone."""
    mean, low, high = interval["mean"], interval["low"], interval["high"]
    between = "" if low is None or high is None else f"{_number(low, form)} to {_number(high, form)}"
    if ends:
        return between
    shown = NOTHING if mean is None else _number(mean, form)
    return shown if short or not between else f"{shown} ({between})"


def metric_rows(result: Mapping[str, Any]) -> list[Row]:
    """Give name, mean, interval and meaning of each metric."""
    metrics = result["metrics"]
    rows = [
        [name.replace("_", " "), told(metrics[name], form, short=True), told(metrics[name], form, ends=True), meaning]
        for name, form, meaning in METRICS
        if name in metrics
    ]
    by_prompt = result["by_prompt"].get("accuracy")
    if by_prompt is not None:
        rows.insert(
            1,
            [
                "accuracy by prompt",
                told(by_prompt, "share", short=True),
                told(by_prompt, "share", ends=True),
                "the same, with each prompt counted once, however many pairs it has",
            ],
        )
    if result["rewards"] is not None:
        rows += [
            [
                f"reward correlation ({name.capitalize()})",
                told(result["rewards"][name], "signed", short=True),
                told(result["rewards"][name], "signed", ends=True),
                "whether pairs whose rewards lie further apart have larger margins",
            ]
            for name in ("pearson", "spearman")
        ]
    return rows


def part_tables(result: Mapping[str, Any]) -> list[PartTable]:
    """Give a table of each kind of part."""
    columns = [
        (name, form, label)
        for name, form, label in (
            ("accuracy", "share", "accuracy"),
            ("accuracy_per_token", "share", "per token"),
            ("margin", "signed", "margin"),
            ("chosen_log_ratio", "signed", "chosen, nats"),
            ("both_fell", "share", "both fell"),
        )
        if name in result["metrics"]
    ]
    heads = [("", "path"), ("pairs", "number"), ("prompts", "number"), *((label, "number") for _, _, label in columns)]
    return [
        PartTable(
            title,
            heads,
            [
                [
                    printable(part["name"]),
                    f"{part['num_pairs']:,}",
                    f"{part['num_prompts']:,}",
                    *(
                        told(part["metrics"][name], form, short=place > 0)
                        for place, (name, form, _) in enumerate(columns)
                    ),
                ]
                for part in result[kind]
            ],
        )
        for kind, title in PARTS
        if kind in result
    ]


def answer_rows(result: Mapping[str, Any]) -> list[Row]:
    """Give what the answers come to."""
    metrics = {} if result["generation"] is None else result["generation"]["metrics"]
    return [
        [label, told(metrics[name], form, short=True), told(metrics[name], form, ends=True)]
        for name, form, label in ANSWERS
        if name in metrics
    ]


def ability_rows(result: Mapping[str, Any]) -> list[Row]:
    """Give each metric of the harness' tasks."""
    found: Sequence[Mapping[str, Any]] = [] if result["abilities"] is None else result["abilities"]["results"]
    return [
        [
            printable(one["task"]),
            printable(one["metric"] if one["filter"] == "none" else f"{one['metric']}, {one['filter']}"),
            f"{one['num_documents']:,}" if one["num_documents"] else NOTHING,
            f"{one['before']:.3f}",
            f"{one['after']:.3f}",
            told(one["difference"], "signed"),
        ]
        for one in found
    ]


def model_rows(result: Mapping[str, Any]) -> list[Row]:
    """Give models, files, settings and versions."""
    rows = []
    for name in ("policy", "reference"):
        model = result[name]
        rows.append(
            [name, "none" if model is None else f"{printable(model['name'])}  ({model['weights_digest'][:12]})"]
        )
    rows += [["pairs", f"{printable(each['path'])}: {each['num_pairs']:,}"] for each in result["data"]["files"]]
    rows += [["left out", f"{count:,} pairs: {reason}"] for reason, count in result["data"]["dropped"].items()]
    settings = {name: value for name, value in result["settings"].items() if value is not None}
    rows += [[name.replace("_", " "), _setting(value)] for name, value in settings.items()]
    if result["generation"] is not None:
        generation = result["generation"]["settings"]
        names = ("engine", "temperature", "top_p", "max_new_tokens", "samples_per_prompt", "batch_size", "seed")
        rows.append(["answers", ", ".join(f"{name} {_setting(generation[name])}" for name in names)])
        rows.append(["prompts", ", ".join(printable(PurePath(path).name) for path in generation["prompts"])])
    rows.append(["versions", ", ".join(f"{name} {printable(known)}" for name, known in result["versions"].items())])
    return rows


def _setting(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else printable(str(value))


def _number(value: float, form: str) -> str:
    match form:
        case "share":
            return f"{value:.1%}"
        case "change":
            return f"{100 * value:+.1f}"
        case "tokens":
            return f"{value:,.1f}"
        case "change_of_tokens":
            return f"{value:+,.1f}"
        case "signed":
            return f"{value:+.3f}" if abs(value) < 1000 else f"{value:+,.0f}"
        case _:
            return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
