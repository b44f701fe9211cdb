"""The rewards of the pair file, as the losses that use them take them: on one scale for all environments.

No torch here: what is said of rewards is said before anything is computed.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from schemas.errors import UsageError
from schemas.terminal import counted
from trainer.config.loss import REWARD_LOSSES, LossSection
from trainer.data.groups import GroupPair

NO_NAME = "(no environment)"
MAX_NAMED = 8
SAME = 1e-6
"""So near to one another differences of rewards count as one."""


class HasPairs(Protocol):
    """A group, tokenised or not."""

    @property
    def pairs(self) -> tuple[GroupPair, ...]:
        """Give the pairs of the group."""
        ...


@dataclass(frozen=True)
class RewardScale:
    """What rewards are divided by: their standard deviation over the training data, 1 where they are all equal."""

    by_environment: dict[str, float]
    overall: float  # of environments that the training data does not have

    def gap(self, pair: GroupPair) -> float:
        """Give the pair's difference of rewards, chosen - rejected, in standard deviations.

        Raises:
            UsageError: a reward is missing.
        """
        if pair.chosen_reward is None or pair.rejected_reward is None:
            raise UsageError(_missing(pair, "a loss"))
        deviation = self.by_environment.get(pair.environment, self.overall)
        return (pair.chosen_reward - pair.rejected_reward) / deviation


def require_rewards(loss: LossSection, groups: Sequence[HasPairs]) -> None:
    """Hold pairs, of training or validation, to what the loss needs.

    Raises:
        UsageError: the loss needs rewards and a pair has none; the first is named.
    """
    if not loss.needs_rewards:
        return
    for group in groups:
        for pair in group.pairs:
            if pair.chosen_reward is None or pair.rejected_reward is None:
                names = ", ".join(name for name in loss.weights if name in REWARD_LOSSES)
                raise UsageError(_missing(pair, f"loss.name={names}"))


def reward_scale(loss: LossSection, groups: Sequence[HasPairs]) -> RewardScale:
    """Measure the rewards of the training data as `loss.reward.normalization` says; each distinct response once.

    Raises:
        UsageError: a pair has no rewards.
    """
    require_rewards(loss, groups)
    rewards = _rewards(groups)
    overall = _deviation([reward for some in rewards.values() for reward in some])
    match loss.reward.normalization:
        case "none":
            return RewardScale({}, 1.0)
        case "global":
            return RewardScale({}, overall)
        case "environment":
            return RewardScale({name: _deviation(some) for name, some in rewards.items()}, overall)


def reward_notes(loss: LossSection, groups: Sequence[HasPairs]) -> list[str]:
    """Say what a user of the loss should know of the training data's rewards."""
    if not loss.needs_rewards:
        return [*_order_note(groups, "they are learnt all the same")]
    scale = reward_scale(loss, groups)
    order = _order_note(groups, "a reward-aware loss then teaches the opposite of the choice")
    return [*_scale_note(loss, scale), *_same_gap_note(loss, groups, scale), *order]


def _scale_note(loss: LossSection, scale: RewardScale) -> Iterator[str]:
    if loss.reward.normalization == "none":
        return
    divisors = scale.by_environment or {"all data": scale.overall}
    shown = [f"{name or NO_NAME} {value:.3g}" for name, value in list(divisors.items())[:MAX_NAMED]]
    more = f" and {len(divisors) - MAX_NAMED} more" if len(divisors) > MAX_NAMED else ""
    yield f"rewards are divided by their standard deviation: {', '.join(shown)}{more}"


def _same_gap_note(loss: LossSection, groups: Sequence[HasPairs], scale: RewardScale) -> Iterator[str]:
    """Say so where rewards tell no pair from another, as binary rewards never do."""
    gaps: dict[str, list[float]] = defaultdict(list)
    for group in groups:
        for pair in group.pairs:
            gaps[pair.environment].append(scale.gap(pair))
    names = ", ".join(name for name in loss.weights if name in REWARD_LOSSES)
    same = [name for name, some in gaps.items() if max(some) - min(some) <= SAME]
    if len(same) < len(gaps):
        if same := [name or NO_NAME for name in same if len(gaps[name]) > 1]:
            more = f" and {len(same) - MAX_NAMED} more" if len(same) > MAX_NAMED else ""
            yield (
                f"every pair of {', '.join(same[:MAX_NAMED])}{more} has the same difference of rewards (rewards of "
                f"only two values?), so there the rewards tell {names} nothing about a single pair"
            )
        return
    where = "every pair has the same difference of rewards" + (" in its environment" if len(gaps) > 1 else "")
    labels = sorted({round(1 / (1 + math.exp(-min(loss.reward.scale * some[0], 700.0))), 3) for some in gaps.values()})
    yield (
        f"{where} (rewards of only two values?), so the rewards tell {names} nothing about a single pair: it is "
        f"constant label smoothing (label {', '.join(f'{label:g}' for label in labels[:MAX_NAMED])}) or a constant "
        "margin; loss.name=cdpo or sigmoid do as much, and rewards with partial credit would do more"
    )


def _order_note(groups: Sequence[HasPairs], consequence: str) -> Iterator[str]:
    counts = Counter(_is_turned(pair) for group in groups for pair in group.pairs)
    if counts[True]:
        turned = f"{counted(counts[True], 'pair')} of {counts.total():,}"
        yield f"{turned} chose the response with the lower reward; {consequence}"


def _is_turned(pair: GroupPair) -> bool:
    chosen, rejected = pair.chosen_reward, pair.rejected_reward
    return chosen is not None and rejected is not None and chosen < rejected


def _rewards(groups: Sequence[HasPairs]) -> dict[str, list[float]]:
    """List the rewards of each environment, of a response that stands in several pairs once."""
    found: dict[str, dict[tuple[int, int], float]] = defaultdict(dict)
    for number, group in enumerate(groups):
        for pair in group.pairs:
            for position, reward in ((pair.chosen, pair.chosen_reward), (pair.rejected, pair.rejected_reward)):
                if reward is not None:
                    found[pair.environment][number, position] = reward
    return {name: list(rewards.values()) for name, rewards in found.items()}


def _deviation(rewards: Sequence[float]) -> float:
    """Give the standard deviation, 1 where it is 0 so that nothing is divided by nothing."""
    if not rewards:
        return 1.0
    mean = math.fsum(rewards) / len(rewards)
    deviation = math.sqrt(math.fsum((reward - mean) ** 2 for reward in rewards) / len(rewards))
    return deviation if deviation > 1e-9 * max(1.0, abs(mean)) else 1.0


def _missing(pair: GroupPair, who: str) -> str:
    known = {"chosen_reward": pair.chosen_reward, "rejected_reward": pair.rejected_reward}
    names = " and no ".join(name for name, reward in known.items() if reward is None)
    return (
        f"{pair.source}: the pair has no {names}, and {who} needs both of every pair; dpo collect-pairs writes them, "
        "or take a loss without rewards, such as loss.name=sigmoid"
    )
