"""How margins and log-ratios are spread, counted for the page."""

from typing import Any

import numpy as np

from trainer.evaluation.pair_scores import Numbers, PairScores

NUM_BINS = 30
CUT = 0.005
"""Share of the values at each end that stand in the outermost bins, so that a few don't squeeze all the others."""


def histograms(scores: PairScores) -> dict[str, Any]:
    """Count the pairs by margin, and by the log-ratio of each side; without a reference, by difference per token."""
    if scores.reference is None:
        return {"difference_per_token": _counted({"pairs": scores.difference_per_token})}
    return {
        "margin": _counted({"pairs": scores.margin}),
        "log_ratio": _counted(
            {"chosen": scores.reference.chosen_log_ratio, "rejected": scores.reference.rejected_log_ratio}
        ),
    }


def _counted(named: dict[str, Numbers]) -> dict[str, Any]:
    values = np.concatenate(list(named.values()))
    low, high = np.quantile(values, [CUT, 1 - CUT])
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, NUM_BINS + 1)
    counts = {name: np.histogram(np.clip(each, low, high), edges)[0].tolist() for name, each in named.items()}
    return {"edges": edges.tolist(), "counts": counts}
