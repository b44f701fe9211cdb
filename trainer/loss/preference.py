"""Which formula a name of `loss.name` stands for, and what of a pair goes into it.

Legend: `B` pairs.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from trainer.config.loss import LENGTH_AVERAGED_LOSSES, LossName, LossSection
from trainer.loss import losses
from trainer.loss.losses import PairValues
from trainer.loss.modifiers import divergence_score, length_penalty

DISCOPOP_TURNS = (1 - math.log(2)) / 3
"""Below this temperature discopop rises at a margin of 0: its slope is there -3/4 + (1 - ln 2) / (4 temperature)."""


@dataclass(frozen=True)
class PairInputs:
    """What a loss may know of some pairs; LD-DPO's weights of tokens are in there already."""

    ratios: PairValues  # log(policy / reference), summed over tokens
    logps: PairValues  # log policy, summed over tokens
    lengths: PairValues  # trained tokens, at least 1
    weights: Tensor  # (B,), how much each pair counts
    gaps: Tensor | None  # (B,), differences of rewards, normalised, where a loss needs them


def preference_loss(name: LossName, pairs: PairInputs, options: LossSection, *, beta: float, average: bool) -> Tensor:
    """Compute one loss of pairs: (B,); `average` divides log-ratios by the number of tokens in any case."""
    average = average or name in LENGTH_AVERAGED_LOSSES
    ratios, smoothing = averaged(pairs.ratios, pairs.lengths, average=average), options.label_smoothing
    match name:
        case "nca":
            return losses.nca_loss(ratios.times(beta))
        case "bco":
            return losses.bco_loss(ratios.times(beta))
        case "sppo":
            return losses.sppo_loss(ratios, beta=beta)
        case "apo_zero":
            return losses.apo_zero_loss(ratios.times(beta))
        case "apo_down":
            return losses.apo_down_loss(ratios.times(beta))
        case "aot" | "aot_unpaired":
            return _aot(name, pairs, ratios, beta=beta, smoothing=smoothing, average=average)
        case "simpo":
            logps = averaged(pairs.logps, pairs.lengths, average=True)
            return losses.simpo_loss(logps, beta=beta, gamma=options.simpo_gamma)
        case "orpo":
            return losses.orpo_loss(averaged(pairs.logps, pairs.lengths, average=True), beta=beta)
    logits = _logits(pairs, options, beta=beta, average=average)
    match name:
        case "sigmoid" | "sigmoid_norm":
            return losses.sigmoid_loss(logits)
        case "cdpo":
            return losses.cdpo_loss(logits, label_smoothing=smoothing)
        case "robust":
            return losses.robust_loss(logits, label_smoothing=smoothing)
        case "hinge":
            return losses.hinge_loss(logits)
        case "ipo":
            return losses.ipo_loss(logits / beta, beta=beta)
        case "exo":
            return losses.exo_loss(logits, label_smoothing=smoothing)
        case "discopop":
            return losses.discopop_loss(logits, temperature=options.discopop_temperature)
        case "dpop":
            penalty = options.dpop_lambda
            return losses.dpop_loss(logits, chosen_ratios=ratios.chosen, beta=beta, penalty=penalty)
    return _reward_aware(name, logits, pairs.gaps, options)


def loss_notes(options: LossSection) -> Iterator[str]:
    """Say what a user of these losses should know before the first step."""
    temperature = options.discopop_temperature
    if "discopop" in options.weights and temperature < DISCOPOP_TURNS:
        yield (
            f"warning: loss.discopop_temperature={temperature:g}: discopop rises at a margin of 0 below "
            f"{DISCOPOP_TURNS:.2f}, so the first steps of a policy that is its own reference lower the margins; take "
            "0.2 or more"
        )


def averaged(values: PairValues, lengths: PairValues, *, average: bool) -> PairValues:
    """Divide sums by their number of tokens, where that is wanted."""
    if not average:
        return values
    return PairValues(values.chosen / lengths.chosen, values.rejected / lengths.rejected)


def _logits(pairs: PairInputs, options: LossSection, *, beta: float, average: bool) -> Tensor:
    """Give beta * the margin of the pairs, by the divergence and with the length penalty."""
    scores = PairValues(
        *(divergence_score(side, divergence=options.f_divergence, alpha=options.f_alpha) for side in pairs.ratios)
    )
    logits = beta * averaged(scores, pairs.lengths, average=average).difference
    if options.length_penalty:
        logits = logits + length_penalty(pairs.lengths, penalty=options.length_penalty)
    return logits


def _aot(
    name: LossName, pairs: PairInputs, ratios: PairValues, *, beta: float, smoothing: float, average: bool
) -> Tensor:
    if name == "aot_unpaired":
        better, worse = ratios
    else:
        better = averaged(pairs.logps, pairs.lengths, average=average).difference.double()
        worse = (better - ratios.difference.double()).detach()  # the reference's; in float64 nothing is lost
    loss = losses.aot_loss(better, worse, beta=beta, label_smoothing=smoothing, weights=pairs.weights)
    return loss.to(ratios.chosen.dtype)


def _reward_aware(name: LossName, logits: Tensor, gaps: Tensor | None, options: LossSection) -> Tensor:
    assert gaps is not None, f"{name} without rewards"
    scale = options.reward.scale
    match name:
        case "odpo":
            offsets = losses.odpo_offsets(gaps, scale=scale, is_log=options.reward.offset == "log")
            return losses.odpo_loss(logits, offsets=offsets)
        case "mmpo":
            return losses.mmpo_loss(logits, scaled_gaps=scale * gaps)
        case "reward_kl":
            return losses.reward_kl_loss(logits, scaled_gaps=scale * gaps)
        case "reward_fwd_kl":
            return losses.reward_fwd_kl_loss(logits, scaled_gaps=scale * gaps)
        case "reward_sq":
            return losses.reward_sq_loss(logits, scaled_gaps=scale * gaps)
    raise AssertionError(name)
