"""The metrics of pairs: means over pairs with intervals by prompt; docs/evaluation.md says what each one tells."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.bootstrap import MOST_DRAWN, NORMAL_QUANTILE, Interval, bootstrap_mean
from trainer.evaluation.intervals import draws, intervals_by_prompt, prompt_sums
from trainer.evaluation.pair_scores import Numbers, PairScores, ReferenceScores
from trainer.loss.metrics import FALL

MIN_FOR_CORRELATION = 3
Told = dict[str, float | None]


def measure(scores: PairScores, places: NDArray[np.int64] | None = None) -> dict[str, Told]:
    """Give each metric of all pairs, or of those at some places, with its interval."""
    columns = values_of(scores)
    table = np.stack(list(columns.values()), axis=1)  # (P, M)
    prompts = scores.prompt
    if places is not None:
        table, prompts = table[places], prompts[places]
    found = intervals_by_prompt(table, prompts)
    return {name: told(interval) for name, interval in zip(columns, found, strict=True)}


def values_of(scores: PairScores) -> dict[str, Numbers]:
    """Give what each metric is the mean of: (P,) each."""
    reference = scores.reference
    of_sums = _right(scores.chosen_logps - scores.rejected_logps)
    per_token = _right(scores.difference_per_token)
    own = {
        "accuracy_sum": of_sums,
        "accuracy_per_token": per_token,
        "chosen_logps_per_token": scores.chosen_logps / scores.chosen_tokens,
        "rejected_logps_per_token": scores.rejected_logps / scores.rejected_tokens,
    }
    return own if reference is None else _against(scores, reference) | own | _gains(scores, reference, own)


def _against(scores: PairScores, reference: ReferenceScores) -> dict[str, Numbers]:
    """Give what compares the policy with the reference."""
    chosen, rejected, margin = reference.chosen_log_ratio, reference.rejected_log_ratio, scores.margin
    fell, rejected_fell = chosen < -FALL, rejected < -FALL
    return {
        "accuracy": _right(margin),
        "margin": margin,
        "loss": np.logaddexp(0.0, -margin),
        "chosen_log_ratio": chosen,
        "rejected_log_ratio": rejected,
        "chosen_log_ratio_per_token": chosen / scores.chosen_tokens,
        "rejected_log_ratio_per_token": rejected / scores.rejected_tokens,
        "chosen_fell": fell.astype(np.float64),
        "rejected_fell": rejected_fell.astype(np.float64),
        "both_fell": (fell & rejected_fell).astype(np.float64),
        "kl": reference.kl,
    }


def _gains(scores: PairScores, reference: ReferenceScores, own: Mapping[str, Numbers]) -> dict[str, Numbers]:
    """Give what the reference gets by itself, and how much more the policy gets on the same pairs."""
    theirs = {
        "accuracy_sum": _right(reference.chosen_logps - reference.rejected_logps),
        "accuracy_per_token": _right(
            reference.chosen_logps / scores.chosen_tokens - reference.rejected_logps / scores.rejected_tokens
        ),
    }
    return {f"reference_{name}": values for name, values in theirs.items()} | {
        f"{name}_gain": own[name] - values for name, values in theirs.items()
    }


def by_prompt(scores: PairScores) -> dict[str, Told]:
    """Give the accuracies with each prompt counted once, however many pairs it has."""
    columns = {name: values for name, values in values_of(scores).items() if name.startswith("accuracy")}
    sums, counts = prompt_sums(np.stack(list(columns.values()), axis=1), scores.prompt)
    means = sums / counts[:, None]
    found = {}
    for place, name in enumerate(columns):
        interval = bootstrap_mean(means[:, place].tolist())
        found[name] = told(interval if len(counts) > 1 else Interval(interval.mean, math.nan, math.nan))
    return found


def reward_correlation(scores: PairScores) -> dict[str, Any] | None:
    """Say whether pairs whose rewards lie further apart have larger margins; None where that can't be told.

    Without a reference, the difference of the log-probs by token stands for the margin.
    """
    gaps = scores.chosen_reward / 2 - scores.rejected_reward / 2  # whose difference may be beyond what a float holds
    known = ~np.isnan(gaps)
    margins = scores.difference_per_token if scores.reference is None else scores.margin
    x, y, prompts = _scaled(gaps[known]), _scaled(margins[known]), scores.prompt[known]
    if len(x) < MIN_FOR_CORRELATION or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return {
        "num_pairs": len(x),
        "pearson": told(_correlation(x, y, prompts)),
        "spearman": told(_correlation(_ranks(x), _ranks(y), prompts)),
    }


def told(interval: Interval) -> Told:
    """Give an interval as JSON types, null where there is no number."""
    ends = {"mean": interval.mean, "low": interval.low, "high": interval.high}
    return {name: value if math.isfinite(value) else None for name, value in ends.items()}


def _right(differences: Numbers) -> Numbers:
    """Give 1 where the chosen response is ahead, 0 where it is behind, and one half where neither is."""
    return (np.sign(differences) + 1) / 2


def _scaled(values: Numbers) -> Numbers:
    """Bring values to at most 1, for the squares of large ones are beyond what a float holds."""
    largest = float(np.abs(values).max(initial=0.0))
    return values / largest if largest > 0 else values


def _correlation(x: Numbers, y: Numbers, prompts: NDArray[np.int64]) -> Interval:
    """Give Pearson's correlation, with prompts drawn; it is made of means, so the draws of those serve."""
    x, y = x - x.mean(), y - y.mean()  # of large numbers the squares would round away
    sums, counts = prompt_sums(np.stack([x, y, x * x, x * y, y * y], axis=1), prompts)
    whole = float(_from_means((sums.sum(axis=0) / counts.sum())[None])[0])
    if len(counts) == 1:
        return Interval(whole, math.nan, math.nan)
    if len(counts) > MOST_DRAWN:
        half = NORMAL_QUANTILE * _deviation(x / x.std(), y / y.std(), prompts, whole)
        return Interval(whole, whole - half, whole + half)
    times = draws(len(counts), 0)
    found = _from_means((times @ sums) / (times @ counts)[:, None])
    found = found[np.isfinite(found)]  # a draw may have one value alone
    low, high = np.quantile(found, [0.025, 0.975]) if len(found) else (math.nan, math.nan)
    return Interval(whole, float(low), float(high))


def _deviation(x: Numbers, y: Numbers, prompts: NDArray[np.int64], correlation: float) -> float:
    """Give the deviation of a correlation of standardised values by what each prompt's pairs add to it."""
    influence = x * y - correlation / 2 * (x * x + y * y)
    sums, counts = prompt_sums(influence[:, None], prompts)
    num = len(counts)
    return float(np.sqrt(num / (num - 1) * (sums**2).sum()) / counts.sum())


def _from_means(means: Numbers) -> Numbers:
    x, y, xx, xy, yy = means.T
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Numbers = (xy - x * y) / np.sqrt((xx - x * x) * (yy - y * y))
    return found


def _ranks(values: Numbers) -> Numbers:
    """Give each value's place in the order; equal values share the mean of theirs."""
    _, numbers, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: Numbers = ((ends - counts + 1 + ends) / 2)[numbers]
    return ranks
