"""What changes the log-probs before a loss, or the loss after: divergences, lengths, weights.

Legend: `B` pairs, `S` responses, `N` their trained tokens, `K` values of each token.
"""

import math
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from trainer.config.loss import Divergence
from trainer.loss.losses import PairValues
from trainer.model.batch import moved
from trainer.model.logps import ResponseLogps

LARGEST_EXPONENT = 40.0
"""Of a divergence' derivative, so that it and its square stay finite in float32."""


def divergence_score(ratios: Tensor, *, divergence: Divergence, alpha: float) -> Tensor:
    """Give f'(u), u = policy / reference, of log-ratios: what takes their place in a margin.

    f-DPO: Wang et al. 2023 (arXiv 2309.16240). reverse_kl: log u; forward_kl: 1 - 1/u; js: log(2u / (1 + u));
    alpha: (u^(alpha - 1) - 1) / (alpha - 1), which is forward_kl at 0 and reverse_kl at 1.
    """
    match divergence:
        case "reverse_kl":
            return ratios
        case "js":
            return math.log(2) + logsigmoid(ratios)
        case "forward_kl":
            alpha = 0.0
    power = alpha - 1
    if abs(power) < 1e-6:
        return ratios
    return torch.expm1((power * ratios).clamp(max=LARGEST_EXPONENT)) / power


def shared_length_sums(
    tokens: Tensor, lengths: Sequence[int], *, chosen: Tensor, rejected: Tensor, alpha: float
) -> list[PairValues]:
    """Sum the tokens of both sides of pairs, those beyond the other side's length times alpha: (K, N) -> K x 2 x (B,).

    LD-DPO: Liu et al. 2024 (arXiv 2409.06411). A response has another sum in each pair, so sums up to
    each of its tokens are taken once, in float64, and a pair reads two of them.
    """
    parts = torch.split(tokens, list(lengths), dim=1)
    zero = tokens.new_zeros((len(tokens), 1), dtype=torch.float64)
    sums = torch.cat([part for each in parts for part in (zero, each.double().cumsum(dim=1))], dim=1)  # (K, N + S)
    counts = moved(torch.tensor(lengths), tokens.device)
    starts = moved(torch.tensor([0, *accumulate(length + 1 for length in lengths)][:-1]), tokens.device)
    shared = torch.minimum(counts[chosen], counts[rejected])

    def side(places: Tensor) -> Tensor:
        common = sums[:, starts[places] + shared]
        whole = sums[:, starts[places] + counts[places]]
        return (common + alpha * (whole - common)).to(tokens.dtype)  # (K, B)

    return [PairValues(*both) for both in zip(side(chosen), side(rejected), strict=True)]


def length_penalty(lengths: PairValues, *, penalty: float) -> Tensor:
    """Give what is added to the logits: penalty * (|w| - |l|): (B,).

    R-DPO: Park et al. 2024 (arXiv 2403.19159): a longer chosen response has earned its margin in part.
    """
    return penalty * lengths.difference


@torch.no_grad()
def wpo_weights(policy: ResponseLogps, *, chosen: Tensor, rejected: Tensor) -> Tensor:
    """Give how probable both sides of each pair are under the policy, without gradient: (B,).

    WPO: Zhou et al. 2024 (arXiv 2406.11827), equation 2 with sampled alignment: for each side exp of the mean over its
    tokens of log p(token) - log sum_v p(v)^2, and the product of both sides.
    """
    assert policy.log_squares is not None
    aligned = (policy.tokens - policy.log_squares)[None]
    means = policy.response_sums(aligned)[0] / policy.num_tokens
    return torch.exp(means[chosen] + means[rejected])
