"""What training minimises: preference and SFT term of each pair, and the metrics that go with them.

Legend: `S` distinct responses, `B` pairs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.loss.losses import PairValues, accuracy, log_ratios, of_pairs, sft_loss, sigmoid_loss
from trainer.model.logps import ResponseLogps

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
)
"""Means over pairs, weighted as in the loss. Rewards are log-ratios without beta, as in NeMo RL; the margin has beta,
as TRL's."""


@dataclass(frozen=True)
class PairTerms:
    """The terms of some pairs, each (B,)."""

    loss: Tensor
    preference: Tensor
    sft: Tensor
    ratios: PairValues  # log(policy / reference) of each side
    logps: PairValues  # log policy of each side
    beta: float

    def metric_sums(self, weights: Tensor) -> Tensor:
        """Sum each metric over the pairs, in the order of `METRICS`: (len(METRICS),), without gradient.

        `weights` (B,) say how much each pair counts, as in the loss.
        """
        margins = self.beta * (self.ratios.chosen - self.ratios.rejected)
        values = (
            self.loss,
            self.preference,
            self.sft,
            accuracy(self.ratios),
            *self.ratios,
            margins,
            *self.logps,
        )
        return torch.stack([(value.detach().float() * weights).sum() for value in values])


def pair_terms(
    policy: ResponseLogps,
    reference: ResponseLogps,
    *,
    chosen: Tensor,
    rejected: Tensor,
    beta: float,
    preference_weight: float,
    sft_weight: float,
    average_preference: bool,
    average_sft: bool,
) -> PairTerms:
    """Compute the terms of pairs from the log-probs of their responses.

    `chosen` and `rejected` (B,) are positions among the responses (S,). The SFT term is 0 where its weight is.
    """
    ratios = of_pairs(log_ratios(policy, reference, average=average_preference), chosen=chosen, rejected=rejected)
    preference = sigmoid_loss(ratios, beta=beta)
    sft = sft_loss(policy, chosen=chosen, average=average_sft) if sft_weight else torch.zeros_like(preference)
    return PairTerms(
        loss=preference_weight * preference + sft_weight * sft,
        preference=preference,
        sft=sft,
        ratios=ratios,
        logps=of_pairs(policy.sums, chosen=chosen, rejected=rejected),
        beta=beta,
    )
