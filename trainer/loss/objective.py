"""What training minimises: preference and SFT term of each pair, as the configuration puts them together.

Legend: `S` distinct responses, `B` pairs, `N` trained tokens.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from trainer.config.loss import DpoSection, LossSection
from trainer.config.sections import TrainConfig
from trainer.data.plan import PairRef, ResponseRef
from trainer.data.tokenize import TokenizedGroup
from trainer.loss.losses import PairValues
from trainer.loss.metrics import LARGEST_RATIO, MAX_ENVIRONMENTS, OTHER_ENVIRONMENT, PairTerms
from trainer.loss.modifiers import shared_length_sums, wpo_weights
from trainer.loss.preference import PairInputs, averaged, preference_loss
from trainer.loss.rewards import HasPairs, RewardScale, require_rewards, reward_scale
from trainer.model.batch import PairBatch, pair_batch
from trainer.model.head import Measure
from trainer.model.logps import ResponseLogps


@dataclass(frozen=True)
class Objective:
    """The loss of pairs; made once, of the configuration and the training data."""

    dpo: DpoSection
    loss: LossSection
    has_reference: bool = True
    rewards: RewardScale | None = None  # where a loss needs them
    environments: Mapping[str, int] = field(default_factory=dict)  # numbers of those with a metric, if more than one

    @property
    def has_preference(self) -> bool:
        """Say whether the preference term counts at all."""
        return self.dpo.preference_loss_weight > 0

    @property
    def needs_whole_step(self) -> bool:
        """Say whether pairs are compared with one another, so that all of a step are computed together."""
        return self.has_preference and self.loss.needs_whole_step

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Name what the head has to measure of each token beside its log-prob."""
        needs_squares = self.has_preference and self.loss.wpo_weighting
        return (Measure.MEAN_LOGITS, Measure.LOG_SQUARES) if needs_squares else (Measure.MEAN_LOGITS,)

    @property
    def average(self) -> bool:
        """Say whether the metrics' log-ratios are per token, as they are in the loss."""
        return self.dpo.preference_average_log_probs or self.loss.averages_lengths

    def environment_number(self, name: str) -> int:
        """Give the number under which an environment's pairs are counted."""
        return self.environments.get(name, OTHER_ENVIRONMENT)

    def batch(
        self,
        pairs: Sequence[PairRef],
        groups: Sequence[TokenizedGroup],
        responses: Sequence[ResponseRef],
        weights: Sequence[float],
    ) -> PairBatch:
        """Point pairs at their responses, with what the loss and the metrics need of them.

        Raises:
            UsageError: the loss needs rewards and a pair has none.
        """
        members = [groups[pair.group].pairs[pair.pair] for pair in pairs]
        return pair_batch(
            pairs,
            groups,
            responses,
            weights,
            gaps=[self.rewards.gap(pair) for pair in members] if self.rewards else None,
            environments=[self.environment_number(pair.environment) for pair in members] if self.environments else None,
        )

    def terms(self, policy: ResponseLogps, reference: ResponseLogps, batch: PairBatch) -> PairTerms:
        """Compute the terms of pairs from the log-probs of their responses; a term is 0 where its weight is."""
        chosen, rejected = batch.chosen, batch.rejected
        sums = _sums(policy, reference)  # (4, S)
        logps, ratios, kls, logits = (PairValues(row[chosen], row[rejected]) for row in sums)
        lengths = policy.num_tokens.to(sums.dtype)
        both_lengths = PairValues(lengths[chosen], lengths[rejected])
        inputs = PairInputs(ratios, logps, both_lengths, batch.weights, batch.gaps)
        if self.loss.ld_alpha < 1:
            inputs = self._shortened(inputs, policy, reference, batch)
        preference = torch.zeros_like(logps.chosen)
        if self.has_preference:
            preference = self._preference(inputs, policy, batch)
        sft = torch.zeros_like(preference)
        if self.dpo.sft_loss_weight:
            sft = sft_loss(logps.chosen, both_lengths.chosen, average=self.dpo.sft_average_log_probs)
        return PairTerms(
            loss=self.dpo.preference_loss_weight * preference + self.dpo.sft_loss_weight * sft,
            preference=preference,
            sft=sft,
            ratios=averaged(inputs.ratios, both_lengths, average=self.average),
            logps=logps,
            kls=kls,
            logits=logits,
            lengths=both_lengths,
            beta=self.dpo.reference_policy_kl_penalty,
        )

    def _preference(self, inputs: PairInputs, policy: ResponseLogps, batch: PairBatch) -> Tensor:
        beta, average = self.dpo.reference_policy_kl_penalty, self.dpo.preference_average_log_probs
        losses = [
            weight * preference_loss(name, inputs, self.loss, beta=beta, average=average)
            for name, weight in self.loss.weights.items()
        ]
        loss = losses[0] if len(losses) == 1 else torch.stack(losses).sum(dim=0)
        if self.loss.wpo_weighting:
            loss = loss * wpo_weights(policy, chosen=batch.chosen, rejected=batch.rejected)
        return loss

    def _shortened(
        self, inputs: PairInputs, policy: ResponseLogps, reference: ResponseLogps, batch: PairBatch
    ) -> PairInputs:
        """Take LD-DPO's sums in place of the whole ones."""
        logps, ratios = shared_length_sums(
            torch.stack([policy.tokens, policy.tokens - reference.tokens]),
            policy.lengths,
            chosen=batch.chosen,
            rejected=batch.rejected,
            alpha=self.loss.ld_alpha,
        )
        return PairInputs(ratios, logps, inputs.lengths, inputs.weights, inputs.gaps)


def objective_of(config: TrainConfig, groups: Sequence[HasPairs], *, validation: Sequence[HasPairs] = ()) -> Objective:
    """Make the objective of a run; rewards are measured on the training data, environments named from both.

    Raises:
        UsageError: the loss needs rewards and a pair, of training or validation, has none.
    """
    needs_rewards = config.loss.needs_rewards and config.dpo.preference_loss_weight > 0
    objective = Objective(
        dpo=config.dpo,
        loss=config.loss,
        has_reference=config.reference_mode != "none",
        rewards=reward_scale(config.loss, groups) if needs_rewards else None,
        environments=_environments([*groups, *validation]),
    )
    if needs_rewards:
        require_rewards(config.loss, validation)
    return objective


def sft_loss(logps: Tensor, lengths: Tensor, *, average: bool = False) -> Tensor:
    """Give the negative log-likelihood of chosen responses, summed over their tokens or their average: (B,)."""
    return -logps / lengths if average else -logps


def _environments(groups: Sequence[HasPairs]) -> dict[str, int]:
    """Number the environments with the most pairs; none where there is but one."""
    counts = Counter(pair.environment for group in groups for pair in group.pairs)
    if len(counts) < 2:
        return {}
    largest = sorted(counts, key=lambda name: (-counts[name], name))[:MAX_ENVIRONMENTS]
    return {name: number for number, name in enumerate(sorted(largest))}


def _sums(policy: ResponseLogps, reference: ResponseLogps) -> Tensor:
    """Sum over each response's tokens: log-probs, log-ratios, k3 estimates of the divergence, mean logits: (4, S).

    The differences of the tokens are summed, not the log-probs: each sum may be thousands of nats, their difference
    some tenths, and in float32 the digits of the difference would be lost.

    Where a token was sampled from the reference, exp(r) - 1 - r of its log-ratio r has the divergence of policy from
    reference, KL(reference || policy), as its mean, and is never below 0 (k3 of Schulman 2020, "Approximating KL
    divergence").
    """
    ratios = policy.tokens - reference.tokens
    with torch.no_grad():
        small = ratios.clamp(max=LARGEST_RATIO)
        kls = (torch.expm1(small) - small).clamp(min=0)  # which rounding alone would pass
        logits = torch.zeros_like(kls) if policy.mean_logits is None else policy.mean_logits
    return policy.response_sums(torch.stack([policy.tokens, ratios, kls, logits.to(kls.dtype)]))
