"""`dpo.*` and `loss.*`: what training minimises, for how long, and how often it is looked at."""

from collections.abc import Iterator
from typing import Literal, Self

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from trainer.config.base import Section, Seed, Share, Smoothing, Temperature

LossName = Literal[
    "sigmoid",
    "cdpo",
    "robust",
    "hinge",
    "ipo",
    "exo",
    "nca",
    "bco",
    "sppo",
    "apo_zero",
    "apo_down",
    "aot",
    "aot_unpaired",
    "discopop",
    "sigmoid_norm",
    "simpo",
    "orpo",
    "dpop",
    "odpo",
    "reward_kl",
    "reward_fwd_kl",
    "reward_sq",
    "mmpo",
]

Divergence = Literal["reverse_kl", "forward_kl", "js", "alpha"]

REWARD_LOSSES: frozenset[LossName] = frozenset({"odpo", "reward_kl", "reward_fwd_kl", "reward_sq", "mmpo"})
"""Losses that need the rewards of both responses."""
REFERENCE_FREE_LOSSES: frozenset[LossName] = frozenset({"simpo", "orpo"})
"""Losses that no reference goes into."""
SMOOTHED_LOSSES: frozenset[LossName] = frozenset({"cdpo", "robust", "exo"})
"""Losses that are nothing without loss.label_smoothing."""
WHOLE_STEP_LOSSES: frozenset[LossName] = frozenset({"aot", "aot_unpaired"})
"""Losses that compare pairs with one another, so that a step is no sum over its pairs."""
MAY_BE_SMOOTHED: frozenset[LossName] = SMOOTHED_LOSSES | WHOLE_STEP_LOSSES
LENGTH_AVERAGED_LOSSES: frozenset[LossName] = frozenset({"ipo", "sigmoid_norm", "simpo", "orpo"})
"""Losses that divide log-probs by the number of tokens whatever dpo.preference_average_log_probs says."""
PARAMETERS: dict[str, LossName] = {
    "simpo_gamma": "simpo",
    "dpop_lambda": "dpop",
    "discopop_temperature": "discopop",
}
"""Options that a single loss takes."""
MARGIN_LOSSES: frozenset[LossName] = REWARD_LOSSES | {
    "sigmoid",
    "cdpo",
    "robust",
    "hinge",
    "ipo",
    "exo",
    "discopop",
    "sigmoid_norm",
    "dpop",
}
"""Functions of the pair's margin alone: only there do a divergence and a length penalty have a meaning."""


class DpoSection(Section):
    """The strength and weights of the loss, the length of the run, validation."""

    max_num_epochs: PositiveInt = 1
    """Passes over the pairs."""
    max_num_steps: PositiveInt | None = None
    """Stop after so many optimizer steps, where that comes before the epochs end."""
    seed: Seed = 42
    """Decides the order of the pairs; nothing else is random."""
    reference_policy_kl_penalty: PositiveFloat = 0.05
    """Beta: how strongly the policy is held to the reference."""
    preference_loss_weight: NonNegativeFloat = 1.0
    """Weight of the preference term."""
    sft_loss_weight: NonNegativeFloat = 0.0
    """Weight of the negative log-likelihood of the chosen response."""
    preference_average_log_probs: bool = False
    """Divide each response's log-ratio by its number of tokens in the preference term."""
    sft_average_log_probs: bool = False
    """Divide the chosen response's negative log-likelihood by its number of tokens in the SFT term."""
    weighting: Literal["pair", "prompt"] = "pair"
    """How much a pair counts: pair: each the same; prompt: 1/M, where its prompt has M pairs."""
    val_period: NonNegativeInt = 25
    """Validate after so many steps each time; 0: not in between."""
    val_batches: NonNegativeInt = 0
    """Batches of each set that a validation takes; 0: the whole set."""
    val_global_batch_size: PositiveInt = 32
    """Pairs of a validation batch, over all processes."""
    val_micro_batch_size: PositiveInt | None = None
    """As policy.train_micro_batch_size, for validation; null: rows as in training."""
    val_at_start: bool = True
    """Validate before the first step."""
    val_at_end: bool = True
    """Validate after the last step."""

    @model_validator(mode="after")
    def _has_a_term(self) -> Self:
        if self.preference_loss_weight == self.sft_loss_weight == 0:
            raise ValueError("preference_loss_weight and sft_loss_weight are both 0, so there is nothing to learn")
        return self


class RewardSection(Section):
    """How the rewards of the pair file go into the losses that use them."""

    scale: PositiveFloat = 1.0
    """Multiplies the difference of the rewards: eta of reward_*, gamma of mmpo; of odpo alpha, before its offset."""
    normalization: Literal["none", "environment", "global"] = "environment"
    """Divide rewards by their standard deviation: in their environment, over all data, or not at all."""
    offset: Literal["log", "linear"] = "log"
    """What odpo makes of the difference of the rewards: log(1 + difference), or the difference itself."""


class LossSection(Section):
    """Which preference loss, and what it takes; beta is dpo.reference_policy_kl_penalty."""

    name: LossName = "sigmoid"
    """The preference loss; docs/losses.md has the equation of each."""
    mix: dict[LossName, PositiveFloat] = {}
    """Several losses with their weights, in place of name."""
    label_smoothing: Smoothing = 0.0
    """Share of pairs whose labels are taken to be wrong: of cdpo, robust, exo and the aots."""
    simpo_gamma: NonNegativeFloat = 0.5
    """Margin that simpo wants between the two sides."""
    dpop_lambda: NonNegativeFloat = 50.0
    """What dpop multiplies a fall of the chosen response's log-prob by."""
    discopop_temperature: Temperature = 0.05
    """How sharply discopop goes from one of its two losses to the other."""
    f_divergence: Divergence = "reverse_kl"
    """The divergence between policy and reference whose derivative takes the place of the log-ratio."""
    f_alpha: Share = 0.5
    """Alpha of the divergence alpha: towards 1 reverse_kl, towards 0 forward_kl."""
    ld_alpha: Share = 1.0
    """LD-DPO: weight of the tokens of a response beyond the length of the other; 1: off."""
    length_penalty: NonNegativeFloat = 0.0
    """R-DPO: added to the margin for each token that the chosen response is longer; 0: off."""
    wpo_weighting: bool = False
    """WPO: weigh each pair by how probable its responses are under the policy."""
    reward: RewardSection = RewardSection()

    @property
    def weights(self) -> dict[LossName, float]:
        """Give each loss its weight."""
        return dict(self.mix) or {self.name: 1.0}

    @property
    def needs_reference(self) -> bool:
        """Say whether any of the losses compares the policy with a reference."""
        return not REFERENCE_FREE_LOSSES.issuperset(self.weights)

    @property
    def needs_rewards(self) -> bool:
        """Say whether any of the losses takes the rewards of the pairs."""
        return not REWARD_LOSSES.isdisjoint(self.weights)

    @property
    def needs_whole_step(self) -> bool:
        """Say whether any of the losses compares pairs with one another, so that a step is no sum over its pairs."""
        return not WHOLE_STEP_LOSSES.isdisjoint(self.weights)

    @property
    def starts_at_ln_2(self) -> bool:
        """Say whether the loss is ln 2 where the policy is the reference."""
        return self.weights == {"sigmoid": 1.0} and not self.length_penalty and not self.wpo_weighting

    @property
    def averages_lengths(self) -> bool:
        """Say whether all losses divide log-probs by the number of tokens of their own accord."""
        return LENGTH_AVERAGED_LOSSES.issuperset(self.weights)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        problems = [*self._name_problems(), *self._modifier_problems(), *self._unused_problems()]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _name_problems(self) -> Iterator[str]:
        names = self.weights.keys()
        if self.mix and "name" in self.model_fields_set and self.name not in self.mix:
            yield f"name={self.name} and mix are two answers to one question; give one"
        if self.label_smoothing and MAY_BE_SMOOTHED.isdisjoint(names):
            smoothing = f"label_smoothing={self.label_smoothing:g}"
            yield f"{smoothing} has no place in {', '.join(names)}; DPO with smoothed labels is the loss cdpo"
        if not self.label_smoothing and not SMOOTHED_LOSSES.isdisjoint(names):
            needing = ", ".join(sorted(SMOOTHED_LOSSES & names))
            yield f"{needing} needs label_smoothing above 0, such as label_smoothing=0.1"

    def _unused_problems(self) -> Iterator[str]:
        """Name what would change nothing: whoever sets it expects that it does."""
        names = self.weights.keys()
        for option, loss in PARAMETERS.items():
            if loss not in names and getattr(self, option) != LossSection.model_fields[option].default:
                yield f"{option} is for the loss {loss}, and the loss is {', '.join(names)}"
        if self.f_alpha != LossSection.model_fields["f_alpha"].default and self.f_divergence != "alpha":
            yield f"f_alpha is for f_divergence=alpha, and f_divergence is {self.f_divergence}"
        if self.reward != RewardSection() and not self.needs_rewards:
            yield f"reward.* is for {', '.join(sorted(REWARD_LOSSES))}, and the loss is {', '.join(names)}"
        elif self.reward.offset != "log" and "odpo" not in names:
            yield f"reward.offset is for the loss odpo, and the loss is {', '.join(names)}"

    def _modifier_problems(self) -> Iterator[str]:
        names = self.weights.keys()
        others = ", ".join(sorted(names - MARGIN_LOSSES))
        if self.f_divergence != "reverse_kl" and others:
            yield f"f_divergence={self.f_divergence} has a meaning only in a margin, and {others} has more than that"
        if self.length_penalty and others:
            yield f"length_penalty is added to a margin, and {others} has more than that"
        if self.wpo_weighting and self.needs_whole_step:
            whole = ", ".join(sorted(WHOLE_STEP_LOSSES & names))
            yield f"wpo_weighting weighs pairs, and {whole} has none once it has sorted their sides"
