"""The losses, as pure functions of the log-probs of responses.

Legend: `S` distinct responses, `B` pairs. A pair is given as two positions among the responses, so one response's
log-prob, computed once, takes part in every pair that it stands in, and its gradient is the sum over them.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from trainer.model.logps import ResponseLogps


class PairValues(NamedTuple):
    """One value for each side of each pair."""

    chosen: Tensor  # (B,)
    rejected: Tensor  # (B,)


def of_pairs(values: Tensor, *, chosen: Tensor, rejected: Tensor) -> PairValues:
    """Take the values of the two responses of each pair: (S,) -> 2 x (B,)."""
    return PairValues(values[chosen], values[rejected])


def log_ratios(policy: ResponseLogps, reference: ResponseLogps, *, average: bool = False) -> Tensor:
    """Give log(policy / reference) of each response: (S,), summed over its tokens or their average.

    The differences of the tokens are summed, not the log-probs: each sum may be thousands of nats, their difference
    some tenths, and in float32 the digits of the difference would be lost. Times beta, it is the implicit reward of
    DPO (Rafailov et al. 2023, equation 5, but for the partition function, which cancels in a pair).
    """
    ratios = ResponseLogps(policy.tokens - reference.tokens, policy.lengths)
    return ratios.sums / ratios.num_tokens if average else ratios.sums


def sigmoid_loss(ratios: PairValues, *, beta: float) -> Tensor:
    """Give -log sigmoid(beta * (ratio of chosen - ratio of rejected)): (B,).

    Rafailov et al. 2023, "Direct Preference Optimization", equation 7.
    """
    return -logsigmoid(beta * (ratios.chosen - ratios.rejected))


def sft_loss(policy: ResponseLogps, *, chosen: Tensor, average: bool = False) -> Tensor:
    """Give the chosen response's negative log-likelihood, summed over its tokens or their average: (B,)."""
    nll = -policy.sums / policy.num_tokens if average else -policy.sums
    return nll[chosen]


def accuracy(ratios: PairValues) -> Tensor:
    """Say whether the chosen response has the larger log-ratio; a tie counts as wrong: (B,)."""
    return (ratios.chosen > ratios.rejected).to(torch.float32)
