"""The metrics of pairs: sums over the pairs that a process has computed, and what a step makes of everybody's sums.

Legend: `B` pairs, `E` environments.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.loss.losses import PairValues, accuracy

METRICS = (
    "loss",
    "preference_loss",
    "sft_loss",
    "accuracy",
    "rewards_chosen_mean",
    "rewards_rejected_mean",
    "margin_mean",
    "logps_chosen_mean",
    "logps_rejected_mean",
    "kl",
    "chosen_fell",
    "both_fell",
    "length_gap_mean",
    "logits_chosen_mean",
    "logits_rejected_mean",
    "reward_length_correlation",
)
"""Means over pairs, weighted as in the loss. Rewards are log-ratios without beta, as in NeMo RL; the margin has beta,
as TRL's. docs/training.md says what each is."""

WITH_REFERENCE = frozenset({"kl", "chosen_fell", "both_fell"})
"""Metrics that compare the policy with the reference, and are left out without one."""

NUM_MEANS = METRICS.index("both_fell") + 1
"""So many of the metrics are sums over pairs divided by their weight; the others come from the sums behind them."""

NUM_SUMS = NUM_MEANS + 7
"""Those of: lengths of both sides, mean logits times length of both sides, and three products for the correlation."""

FALL = 1e-4
"""By so many nats at least a log-ratio has fallen; below, it may be rounding."""

MAX_ENVIRONMENTS = 32
OTHER_ENVIRONMENT = MAX_ENVIRONMENTS
"""Number of all environments that have no metric of their own."""

LARGEST_RATIO = 20.0
"""Of a token, in `kl`: so that one token's exponential does not hide all the others."""


@dataclass(frozen=True)
class PairTerms:
    """The terms of some pairs, each (B,)."""

    loss: Tensor
    preference: Tensor
    sft: Tensor
    ratios: PairValues  # log(policy / reference) of each side
    logps: PairValues  # log policy of each side
    kls: PairValues  # sum over the tokens of each side of exp(r) - 1 - r, r the token's log-ratio
    logits: PairValues  # sum over the tokens of each side of the mean logit
    lengths: PairValues  # trained tokens of each side
    beta: float

    @torch.no_grad()
    def metric_sums(self, weights: Tensor, environments: Tensor | None = None) -> Tensor:
        """Sum over the pairs what the metrics are made of: (NUM_SUMS,) or (NUM_SUMS + 33,), float64.

        `weights` (B,) say how much each pair counts, as in the loss.
        """
        sides = torch.stack([*self.ratios, *self.lengths]).double()
        ratios, lengths = PairValues(*sides[:2]), PairValues(*sides[2:])
        is_right = accuracy(self.ratios)
        has_fallen = ratios.chosen < -FALL
        values = (
            self.loss,
            self.preference,
            self.sft,
            is_right,
            *self.ratios,
            self.beta * self.ratios.difference,
            *self.logps,
            (self.kls.chosen + self.kls.rejected) / 2,
            has_fallen,
            has_fallen & (ratios.rejected < -FALL),
            *self.lengths,
            *self.logits,
        )
        products = (
            ratios.chosen.square() + ratios.rejected.square(),
            ratios.chosen * lengths.chosen + ratios.rejected * lengths.rejected,
            lengths.chosen.square() + lengths.rejected.square(),
        )
        found = torch.cat(
            [torch.stack([value.to(self.loss.dtype) for value in values]).double(), torch.stack(products)]
        )
        sums = (found * weights).sum(dim=1)
        if environments is None:
            return sums
        by_environment = sums.new_zeros(MAX_ENVIRONMENTS + 1)
        return torch.cat([sums, by_environment.index_add(0, environments, is_right.double() * weights.double())])


def metrics_of(
    sums: Sequence[float], *, weight: float, environments: dict[str, float], has_reference: bool
) -> dict[str, float]:
    """Turn the sums over all pairs into metrics.

    `weight` is that of all pairs, `environments` that of each environment's pairs in the order of their numbers.
    """
    means = {name: value / weight for name, value in zip(METRICS[:NUM_MEANS], sums[:NUM_MEANS], strict=True)}
    chosen_tokens, rejected_tokens, chosen_logits, rejected_logits, *products = sums[NUM_MEANS:NUM_SUMS]
    means["length_gap_mean"] = (chosen_tokens - rejected_tokens) / weight
    means["logits_chosen_mean"] = chosen_logits / chosen_tokens if chosen_tokens else 0.0
    means["logits_rejected_mean"] = rejected_logits / rejected_tokens if rejected_tokens else 0.0
    means["reward_length_correlation"] = _correlation(
        mean_x=(means["rewards_chosen_mean"] + means["rewards_rejected_mean"]) / 2,
        mean_y=(chosen_tokens + rejected_tokens) / (2 * weight),
        mean_products=[product / (2 * weight) for product in products],
    )
    metrics = {name: value for name, value in means.items() if has_reference or name not in WITH_REFERENCE}
    right = sums[NUM_SUMS:]
    shares = {name: number / total for (name, total), number in zip(environments.items(), right, strict=False) if total}
    return metrics | {f"accuracy/{name}": share for name, share in shares.items()}


def _correlation(*, mean_x: float, mean_y: float, mean_products: Sequence[float]) -> float:
    """Give Pearson's correlation from means of x, y, xx, xy and yy; 0 where x or y hardly varies."""
    xx, xy, yy = mean_products
    spread_x, spread_y = xx - mean_x**2, yy - mean_y**2
    if not (spread_x > max(FALL**2, 1e-12 * xx) and spread_y > 1e-12 * yy):
        return 0.0
    return (xy - mean_x * mean_y) / math.sqrt(spread_x * spread_y)
