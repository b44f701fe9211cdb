"""The plots of an evaluation."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from views.plots import BarPlot, HistogramPlot, LinePlot, Plot, Series

MOST_BARS = 16


def evaluation_plots(result: Mapping[str, Any]) -> list[Plot]:
    """Declare the plots that the numbers allow."""
    return [*_calibration(result["calibration"]), *_histograms(result["histograms"]), *_parts(result)]


def _calibration(calibration: Mapping[str, Any] | None) -> Iterator[Plot]:
    if calibration is None:
        return
    bins = calibration["bins"]
    yield LinePlot(
        name="calibration",
        caption="How often pairs of a confidence are judged rightly, in bins of about as many pairs. Below the line of "
        "what would be calibrated the policy is too sure, above it too unsure.",
        x_label="confidence, sigmoid(|margin|)",
        y_label="share of right pairs",
        series=[
            Series("policy", [one["confidence"] for one in bins], [one["accuracy"]["mean"] for one in bins]),
            Series("calibrated", [0.5, 1.0], [0.5, 1.0]),
        ],
        points=True,
    )


def _histograms(histograms: Mapping[str, Any]) -> Iterator[Plot]:
    captions = {
        "margin": ("margin", "Pairs by margin. Left of 0 the policy prefers the rejected response."),
        "log_ratio": (
            "log policy - log reference, nats",
            "Both sides against the reference. Where both hills lie left of 0, the policy writes neither any more.",
        ),
        "difference_per_token": (
            "log-prob of chosen - of rejected, nats a token",
            "Pairs by how much more probable the chosen response is. Left of 0 the rejected one is.",
        ),
    }
    for name, counted in histograms.items():
        label, caption = captions[name]
        yield HistogramPlot(
            name=f"histogram-{name.replace('_', '-')}",
            caption=caption,
            x_label=label,
            edges=counted["edges"],
            counts=counted["counts"],
        )


def _parts(result: Mapping[str, Any]) -> Iterator[Plot]:
    key = "accuracy" if "accuracy" in result["metrics"] else "accuracy_per_token"
    captions = {
        "by_environment": "Accuracy by environment; lines are 95 % intervals over prompts.",
        "by_file": "Accuracy by file; lines are 95 % intervals over prompts.",
        "by_length": "Accuracy by tokens of the longer response.",
        "by_longer_side": "Accuracy by which response is longer. Where these differ much, length is part of what was "
        "learnt.",
    }
    for kind, caption in captions.items():
        parts: Sequence[Mapping[str, Any]] = result.get(kind, ())[:MOST_BARS]
        if parts:
            told = [part["metrics"][key] for part in parts]
            yield BarPlot(
                name=kind.replace("_", "-"),
                caption=caption,
                x_label="share of right pairs",
                labels=[part["name"] for part in parts],
                values={"accuracy": [each["mean"] for each in told]},
                intervals={"accuracy": [_ends(each) for each in told]},
            )


def _ends(told: Mapping[str, float | None]) -> tuple[float, float]:
    mean, low, high = told["mean"] or 0.0, told["low"], told["high"]
    return (mean, mean) if low is None or high is None else (low, high)
