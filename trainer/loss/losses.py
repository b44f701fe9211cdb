"""The preference losses, as pure functions of tensors; docs/losses.md says when to take which.

Legend: `B` pairs; `w` the chosen response, `l` the rejected one. All losses are (B,), for each pair by itself, but for
the two that sort pairs.

    ratio   = log policy(y | x) - log reference(y | x)
    reward  = beta * ratio                      of a response: DPO's implicit reward
    logits  = beta * (ratio_w - ratio_l)        of a pair
    gap     = the pair's difference of given rewards, chosen - rejected

Most losses are one of two kernels: a cross-entropy with a label between 0 and 1, or a square. Sigmoids and their logs
are taken by `logsigmoid`, so that values and gradients stay finite however far apart policy and reference are.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

SMALLEST_NLL = torch.finfo(torch.float32).eps
"""What the odds of a response take its negative log-likelihood to be at least: at 0 they would be infinite."""


class PairValues(NamedTuple):
    """One value for each side of each pair."""

    chosen: Tensor  # (B,)
    rejected: Tensor  # (B,)

    @property
    def difference(self) -> Tensor:
        """Give chosen - rejected: (B,)."""
        return self.chosen - self.rejected

    def times(self, factor: float) -> "PairValues":
        """Multiply both sides."""
        return PairValues(factor * self.chosen, factor * self.rejected)


def cross_entropy(logits: Tensor, label: Tensor | float) -> Tensor:
    """Give -p log sigmoid(logits) - (1 - p) log sigmoid(-logits) for the label p: a kernel."""
    return sigmoid_loss(logits) + (1 - label) * logits


def squared(logits: Tensor, target: Tensor | float) -> Tensor:
    """Give (logits - target)^2: a kernel."""
    return (logits - target).square()


def reverse_kl(logits: Tensor, *, log_p: Tensor | float, log_q: Tensor | float) -> Tensor:
    """Give KL(b || p) of b = sigmoid(logits) from the label p, q = 1 - p, by their logs."""
    log_b, log_not_b = logsigmoid(logits), logsigmoid(-logits)
    return log_b.exp() * (log_b - log_p) + log_not_b.exp() * (log_not_b - log_q)


def sigmoid_loss(logits: Tensor) -> Tensor:
    """Give -log sigmoid(logits).

    DPO: Rafailov et al. 2023 (arXiv 2305.18290), equation 7. With length-averaged ratios it is `sigmoid_norm`: the
    length-normalised DPO of Lambert et al. 2024 (Tulu 3, arXiv 2411.15124).
    """
    return -logsigmoid(logits)


def cdpo_loss(logits: Tensor, *, label_smoothing: float) -> Tensor:
    """Give -(1 - e) log sigmoid(logits) - e log sigmoid(-logits).

    Conservative DPO: Mitchell 2023, "A note on DPO with noisy preferences & relationship to IPO".
    """
    return cross_entropy(logits, 1 - label_smoothing)


def robust_loss(logits: Tensor, *, label_smoothing: float) -> Tensor:
    """Give [-(1 - e) log sigmoid(logits) + e log sigmoid(-logits)] / (1 - 2e).

    Robust DPO: Chowdhury et al. 2024 (arXiv 2403.00409); without bias where labels are flipped with the
    probability e. It is the cross-entropy with the label (1 - e) / (1 - 2e), which lies above 1.
    """
    return cross_entropy(logits, (1 - label_smoothing) / (1 - 2 * label_smoothing))


def hinge_loss(logits: Tensor) -> Tensor:
    """Give max(0, 1 - logits).

    SLiC-HF: Zhao et al. 2023 (arXiv 2305.10425), with DPO's logits as in RSO: Liu et al. 2023 (arXiv 2309.06657).
    """
    return torch.relu(1 - logits)


def ipo_loss(margins: Tensor, *, beta: float) -> Tensor:
    """Give (ratio_w / |w| - ratio_l / |l| - 1 / (2 beta))^2, of margins without beta.

    IPO: Azar et al. 2023 (arXiv 2310.12036), equation 17; averaged over tokens, as its authors computed it.
    """
    return squared(margins, 1 / (2 * beta))


def exo_loss(logits: Tensor, *, label_smoothing: float) -> Tensor:
    """Give KL(b || 1 - e) of b = sigmoid(logits).

    EXO of pairs: Ji et al. 2024 (arXiv 2402.00856), equation 16; the paper takes e = 0.001.
    """
    return reverse_kl(logits, log_p=math.log1p(-label_smoothing), log_q=math.log(label_smoothing))


def nca_loss(rewards: PairValues) -> Tensor:
    """Give -log sigmoid(reward_w) - 1/2 log sigmoid(-reward_w) - 1/2 log sigmoid(-reward_l).

    NCA of pairs: Chen et al. 2024 (arXiv 2402.05369).
    """
    either = logsigmoid(-rewards.chosen) + logsigmoid(-rewards.rejected)
    return -logsigmoid(rewards.chosen) - 0.5 * either


def bco_loss(rewards: PairValues) -> Tensor:
    """Give -log sigmoid(reward_w) - log sigmoid(-reward_l).

    BCO: Jung et al. 2024 (arXiv 2404.04656), without its running shift of the rewards, as in TRL's `bco_pair`.
    """
    return -logsigmoid(rewards.chosen) - logsigmoid(-rewards.rejected)


def sppo_loss(ratios: PairValues, *, beta: float) -> Tensor:
    """Give (ratio_w - 1 / (2 beta))^2 + (ratio_l + 1 / (2 beta))^2.

    SPPO: Wu et al. 2024 (arXiv 2405.00675), equation 4.7 with the probabilities 1 and 0 of winning.
    """
    return squared(ratios.chosen, 0.5 / beta) + squared(ratios.rejected, -0.5 / beta)


def apo_zero_loss(rewards: PairValues) -> Tensor:
    """Give 1 - sigmoid(reward_w) + sigmoid(reward_l).

    APO-zero: D'Oosterlinck et al. 2024 (arXiv 2408.06266), equation 7.
    """
    return torch.sigmoid(-rewards.chosen) + torch.sigmoid(rewards.rejected)


def apo_down_loss(rewards: PairValues) -> Tensor:
    """Give sigmoid(reward_w) + 1 - sigmoid(reward_w - reward_l).

    APO-down: D'Oosterlinck et al. 2024 (arXiv 2408.06266), equation 8.
    """
    return torch.sigmoid(rewards.chosen) + torch.sigmoid(-rewards.difference)


def aot_loss(better: Tensor, worse: Tensor, *, beta: float, label_smoothing: float, weights: Tensor) -> Tensor:
    """Give the cross-entropy of beta * (better - worse), both sorted first; pairs are compared with one another.

    AOT: Melnyk et al. 2024 (arXiv 2406.05882). Paired: `better` is log policy(w) - log policy(l), `worse`
    the reference's; unpaired: the ratios of chosen and of rejected responses. A pair counts `weights` times: of equal
    weights the first goes with the first, and so on; of others each goes with the part of the other side that lies
    at the same quantiles. The loss of a pair is that of its `better`.
    """
    (upper, lower), shares = _by_quantile(better, worse, weights)
    losses = cross_entropy(beta * (better[upper] - worse[lower]), 1 - label_smoothing)
    sums = torch.zeros_like(better).index_add(0, upper, losses * shares.to(losses))
    return sums / weights.to(sums).clamp(min=torch.finfo(sums.dtype).tiny)


def _by_quantile(one: Tensor, other: Tensor, weights: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Couple two weighted samples in order: places in both, and the weight that each couple has in common."""
    orders = [torch.sort(values.detach(), stable=True).indices for values in (one, other)]
    ends = [weights[order].double().cumsum(0) for order in orders]
    borders = torch.cat(ends).sort().values  # (2B,)
    starts = torch.cat([borders.new_zeros(1), borders[:-1]])
    middles = (starts + borders) / 2
    last = len(weights) - 1
    places = [order[torch.searchsorted(end, middles).clamp(max=last)] for order, end in zip(orders, ends, strict=True)]
    return (places[0], places[1]), borders - starts


def discopop_loss(logits: Tensor, *, temperature: float) -> Tensor:
    """Give -log sigmoid(logits) (1 - m) + exp(-logits) m with m = sigmoid(logits / temperature).

    DiscoPOP: Lu et al. 2024 (arXiv 2406.08414), equation 5.
    """
    logistic = -logsigmoid(logits) * torch.sigmoid(-logits / temperature)
    return logistic + torch.exp(logsigmoid(logits / temperature) - logits)


def simpo_loss(average_logps: PairValues, *, beta: float, gamma: float) -> Tensor:
    """Give -log sigmoid(beta * (log policy(w) / |w| - log policy(l) / |l|) - gamma).

    SimPO: Meng et al. 2024 (arXiv 2405.14734), equation 6; no reference goes in.
    """
    return sigmoid_loss(beta * average_logps.difference - gamma)


def orpo_loss(average_logps: PairValues, *, beta: float) -> Tensor:
    """Give -log policy(w) / |w| - beta * log sigmoid(log odds_w - log odds_l), odds = p / (1 - p).

    ORPO: Hong et al. 2024 (arXiv 2403.07691), equations 6 and 7, p the mean probability of a response's tokens and
    lambda our beta; no reference goes in. The likelihood of the chosen response is part of it.
    """
    log_odds = PairValues(_log_odds(average_logps.chosen), _log_odds(average_logps.rejected))
    return beta * sigmoid_loss(log_odds.difference) - average_logps.chosen


def _log_odds(logps: Tensor) -> Tensor:
    """Give log(p / (1 - p)), exactly near p = 1 and near p = 0."""
    logps = logps.clamp(max=-SMALLEST_NLL)
    return logps - torch.log(-torch.expm1(logps))


def dpop_loss(logits: Tensor, *, chosen_ratios: Tensor, beta: float, penalty: float) -> Tensor:
    """Give -log sigmoid(logits - beta * lambda * max(0, -ratio_w)).

    DPO-Positive: Pal et al. 2024 (Smaug, arXiv 2402.13228), equation 3; the paper takes lambda = 50.
    """
    return sigmoid_loss(logits - beta * penalty * torch.relu(-chosen_ratios))


def odpo_loss(logits: Tensor, *, offsets: Tensor) -> Tensor:
    """Give -log sigmoid(logits - offset), the offset a function of the gap.

    ODPO: Amini et al. 2024 (arXiv 2402.10571).
    """
    return sigmoid_loss(logits - offsets)


def odpo_offsets(gaps: Tensor, *, scale: float, is_log: bool) -> Tensor:
    """Give alpha * log(1 + gap), or alpha * gap; of a gap below 0 the same with the other sign.

    The paper's log(gap) is below 0 for gaps below 1 and infinite at 0, so that here 1 is added.
    """
    return scale * (gaps.sign() * gaps.abs().log1p() if is_log else gaps)


def mmpo_loss(logits: Tensor, *, scaled_gaps: Tensor) -> Tensor:
    """Give -p log sigmoid(logits) - (1 - p) log sigmoid(-logits) with p = sigmoid(gamma * gap).

    MMPO: Kim et al. 2024 (arXiv 2410.03145).
    """
    return cross_entropy(logits, torch.sigmoid(scaled_gaps))


def reward_kl_loss(logits: Tensor, *, scaled_gaps: Tensor) -> Tensor:
    """Give KL(a || b) of a = sigmoid(eta * gap) from b = sigmoid(logits).

    RPO-bwd-kl, reward-aware preference optimisation: Nemotron-4 340B (arXiv 2406.11704); Sun et al. 2025
    (arXiv 2502.00203). It is `mmpo` less the entropy of a, which has no gradient.
    """
    label = torch.sigmoid(scaled_gaps)
    return cross_entropy(logits, label) - cross_entropy(scaled_gaps, label)


def reward_fwd_kl_loss(logits: Tensor, *, scaled_gaps: Tensor) -> Tensor:
    """Give KL(b || a) of b = sigmoid(logits) from a = sigmoid(eta * gap).

    RPO-fwd-kl: Sun et al. 2025 (arXiv 2502.00203); NeMo-Aligner's `rpo_fwd_kl`.
    """
    return reverse_kl(logits, log_p=logsigmoid(scaled_gaps), log_q=logsigmoid(-scaled_gaps))


def reward_sq_loss(logits: Tensor, *, scaled_gaps: Tensor) -> Tensor:
    """Give (logits - eta * gap)^2.

    RPO-sq: Sun et al. 2025 (arXiv 2502.00203); NeMo-Aligner's `rpo_sq`. With eta * gap = 1/2 it is beta^2 `ipo`.
    """
    return squared(logits, scaled_gaps)


def accuracy(ratios: PairValues) -> Tensor:
    """Say whether the chosen response has the larger log-ratio; a tie counts as wrong: (B,)."""
    return (ratios.chosen > ratios.rejected).to(torch.float32)
