"""Whether the policy is as sure as it may be: how often pairs of a confidence are judged rightly.

Under the Bradley-Terry model, sigmoid(margin) is the probability that the chosen response is the better one. In the
data the chosen one always is, so that number alone can't be compared with anything. What can is the confidence in
whichever response the policy prefers, sigmoid(|margin|), with how often that is the chosen one.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.evaluation.intervals import intervals_by_prompt
from trainer.evaluation.measures import told
from trainer.evaluation.pair_scores import Numbers

NUM_BINS = 10


def calibration(margins: Numbers, prompts: NDArray[np.int64]) -> dict[str, Any]:
    """Compare confidences with shares of right pairs, in bins of about as many pairs each.

    The expected calibration error is the mean over pairs of how far their bin's mean confidence lies from its share of
    right pairs. Equal confidences stand in one bin, so that the order of the pairs changes nothing.
    """
    confidence = 1 / (1 + np.exp(-np.abs(margins)))
    right = (np.sign(margins) + 1) / 2
    bins: list[dict[str, Any]] = []
    error = 0.0
    for places in _bins(confidence):
        share = intervals_by_prompt(right[places, None], prompts[places])[0]
        sure = confidence[places]
        error += len(places) / len(margins) * abs(float(sure.mean()) - share.mean)
        bins.append(
            {
                "num_pairs": len(places),
                "low": float(sure.min()),
                "high": float(sure.max()),
                "confidence": float(sure.mean()),
                "accuracy": told(share),
            }
        )
    return {
        "expected_calibration_error": error,
        "confidence": float(confidence.mean()),
        "overconfidence": float(confidence.mean() - right.mean()),
        "bins": bins,
    }


def _bins(confidence: Numbers) -> list[NDArray[np.int64]]:
    """Cut the pairs, sorted by confidence, into bins; a cut falls behind the last pair of a confidence."""
    order = np.argsort(confidence, kind="stable")
    ordered = confidence[order]
    wanted = ordered[np.linspace(0, len(ordered), NUM_BINS + 1).astype(np.int64)[1:-1] - 1]
    cuts = np.unique(np.searchsorted(ordered, wanted, side="right"))
    return [part for part in np.split(order, cuts) if len(part)]
