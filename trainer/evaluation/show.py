"""The table that `dpo eval` prints for people."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.table import Table

from schemas.terminal import bare_excerpt, counted, stderr_console

MOST_PARTS = 8
LINES = (
    ("accuracy", "accuracy against the reference", "share"),
    ("accuracy_sum", "accuracy by log-probs alone", "share"),
    ("accuracy_sum_gain", "  more than the reference's", "change"),
    ("accuracy_per_token", "accuracy by log-probs per token", "share"),
    ("accuracy_per_token_gain", "  more than the reference's", "change"),
    ("margin", "margin (beta x log-ratios)", "number"),
    ("loss", "DPO loss", "plain"),
    ("chosen_log_ratio", "chosen against reference, nats", "number"),
    ("rejected_log_ratio", "rejected against reference, nats", "number"),
    ("chosen_fell", "chosen has fallen", "share"),
    ("both_fell", "both have fallen", "share"),
    ("kl", "divergence, nats a response", "plain"),
)
ANSWERS = (
    ("tokens_before", "tokens of an answer before", "tokens"),
    ("tokens_after", "tokens of an answer after", "tokens"),
    ("truncated_before", "cut by the limit before", "share"),
    ("truncated_after", "cut by the limit after", "share"),
    ("same_text", "the same text", "share"),
)
FORMS: Mapping[str, Callable[[float], str]] = {
    "share": lambda value: f"{value:.1%}",
    "change": lambda value: f"{100 * value:+.1f}",
    "plain": lambda value: f"{value:.3g}",
    "tokens": lambda value: f"{value:,.1f}",
    "number": lambda value: f"{value:+.3f}",
}


def show(result: Mapping[str, Any]) -> None:
    """Print the numbers with their intervals on stderr."""
    console = stderr_console()
    data = result["data"]
    console.print(f"\n{counted(data['num_pairs'], 'pair')} of {counted(data['num_prompts'], 'prompt')}")
    console.print(_table(LINES, result["metrics"]))
    if result["calibration"] is not None:
        error, over = (result["calibration"][name] for name in ("expected_calibration_error", "overconfidence"))
        told = f"{100 * abs(over):.1f}"
        word = "neither too sure nor too unsure" if told == "0.0" else f"{told} too {'sure' if over > 0 else 'unsure'}"
        console.print(f"calibration: off by {100 * error:.1f} points, on the whole {word}")
    parts = result.get("by_environment", [])[:MOST_PARTS]
    if parts:
        name = "accuracy" if "accuracy" in parts[0]["metrics"] else "accuracy_sum"
        rows = [(name, bare_excerpt(part["name"]), "share") for part in parts]
        console.print(
            _rows([(label, kind, part["metrics"][key]) for (key, label, kind), part in zip(rows, parts, strict=True)])
        )
    if result["generation"] is not None:
        answers = counted(result["generation"]["num_answers"], "answer")
        console.print(f"{answers} to {counted(result['generation']['num_prompts'], 'prompt')}, before and after")
        console.print(_table(ANSWERS, result["generation"]["metrics"]))
    for one in (result["abilities"] or {}).get("results", []):
        low, high = one["difference"]["low"], one["difference"]["high"]
        interval = "" if low is None else f"  [{low:+.3f}, {high:+.3f}]"
        label = f"{bare_excerpt(one['task'])} {bare_excerpt(one['metric'])}"
        console.print(f"{label}: {one['before']:.3f} → {one['after']:.3f}  {one['difference']['mean']:+.3f}{interval}")


def _table(lines: Sequence[tuple[str, str, str]], metrics: Mapping[str, Any]) -> Table:
    return _rows([(label, kind, metrics[name]) for name, label, kind in lines if name in metrics])


def _rows(rows: Sequence[tuple[str, str, Mapping[str, float | None]]]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    for justify in ("left", "right", "left"):
        table.add_column(justify=justify)
    for label, kind, told in rows:
        mean, low, high = (told[name] for name in ("mean", "low", "high"))
        if mean is None:
            continue
        form = FORMS[kind]
        table.add_row(label, form(mean), "" if low is None or high is None else f"[{form(low)}, {form(high)}]")
    return table
