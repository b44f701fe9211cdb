"""The losses, as pure functions of the log-probs of responses.

Legend: `S` distinct responses, `B` pairs. A pair is given as two positions among the responses, so one response's
log-prob, computed once, takes part in every pair that it stands in, and its gradient is the sum over them.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


class PairValues(NamedTuple):
    """One value for each side of each pair."""

    chosen: Tensor  # (B,)
    rejected: Tensor  # (B,)


def of_pairs(values: Tensor, *, chosen: Tensor, rejected: Tensor) -> PairValues:
    """Take the values of the two responses of each pair: (S,) -> 2 x (B,)."""
    return PairValues(values[chosen], values[rejected])


def log_ratios(*, policy_logps: Tensor, reference_logps: Tensor, num_tokens: Tensor | None = None) -> Tensor:
    """Give log(policy / reference) of each response: (S,); for each token where their number is given.

    Times beta, it is the implicit reward of DPO (Rafailov et al. 2023, equation 5, but for the partition function,
    which cancels in a pair).
    """
    ratios = policy_logps - reference_logps
    return ratios if num_tokens is None else ratios / num_tokens


def sigmoid_loss(ratios: PairValues, *, beta: float) -> Tensor:
    """Give -log sigmoid(beta * (ratio of chosen - ratio of rejected)): (B,).

    Rafailov et al. 2023, "Direct Preference Optimization", equation 7.
    """
    return -logsigmoid(beta * (ratios.chosen - ratios.rejected))


def sft_loss(*, policy_logps: Tensor, chosen: Tensor, num_tokens: Tensor | None = None) -> Tensor:
    """Give the negative log-likelihood of the chosen response of each pair: (B,); for each token where their number
    is given.
    """
    nll = -policy_logps if num_tokens is None else -policy_logps / num_tokens
    return nll[chosen]


def accuracy(ratios: PairValues) -> Tensor:
    """Say whether the chosen response has the larger log-ratio; a tie counts as wrong: (B,)."""
    return (ratios.chosen > ratios.rejected).to(torch.float32)
