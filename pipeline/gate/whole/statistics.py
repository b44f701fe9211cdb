"""Figures of all rows, gathered chunk by chunk; how the rows were cut into chunks does not change them."""

import math
import sys
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any

from pipeline.gate.pair.view import PairView
from pipeline.gate.settings import GateSettings
from pipeline.gate.whole.figures import Sum, Tally, is_number, rounded, share, value_text
from pipeline.rollout import Rollout

MARGIN_EDGES = (-5e-324, 0.0, 0.1, 0.25, 0.5, 1.0, 10.0)
"""Each bin reaches up to its edge, and holds it; the first one ends below 0."""
MARGIN_BINS = ("below 0", "0", "to 0.1", "to 0.25", "to 0.5", "to 1", "to 10", "above 10")
AGENT = "agent"
LARGEST = sys.float_info.max
NEITHER, NO_REWARDS = (False, False), (None, None)


@dataclass(slots=True)
class PairFigures:
    """What is summed up over pairs; lengths are in characters."""

    count: int = 0
    chosen_longer: int = 0
    rejected_longer: int = 0
    prompt_length: int = 0
    chosen_length: int = 0
    rejected_length: int = 0
    chosen_truncated: int = 0
    rejected_truncated: int = 0
    one_reward: int = 0  # of the two
    chosen_reward: Sum = field(default_factory=Sum)
    rejected_reward: Sum = field(default_factory=Sum)
    margin: Sum = field(default_factory=Sum)  # of the pairs with both rewards
    margins: list[int] = field(default_factory=lambda: [0] * len(MARGIN_BINS))

    def add(
        self,
        prompt: str,
        chosen: str,
        rejected: str,
        *,
        rewards: tuple[float | None, float | None],
        truncated: tuple[bool, bool],
    ) -> None:
        """Add a pair by its texts, and by the rewards of chosen and rejected and whether these were cut."""
        chosen_length, rejected_length = len(chosen), len(rejected)
        self.count += 1
        self.prompt_length += len(prompt)
        self.chosen_length += chosen_length
        self.rejected_length += rejected_length
        if chosen_length > rejected_length:
            self.chosen_longer += 1
        elif rejected_length > chosen_length:
            self.rejected_longer += 1
        if truncated != NEITHER:
            self.chosen_truncated += truncated[0]
            self.rejected_truncated += truncated[1]
        if rewards != NO_REWARDS:
            self._add_rewards(*rewards)

    def _add_rewards(self, chosen: float | None, rejected: float | None) -> None:
        if is_number(chosen):
            self.chosen_reward.add(float(chosen))
            if is_number(rejected):
                self.rejected_reward.add(float(rejected))
                margin = float(chosen) - float(rejected)
                if not -LARGEST <= margin <= LARGEST:
                    margin = math.copysign(LARGEST, margin)
                self.margin.add(margin)
                self.margins[bisect_left(MARGIN_EDGES, margin)] += 1
            else:
                self.one_reward += 1
        elif is_number(rejected):
            self.rejected_reward.add(float(rejected))
            self.one_reward += 1

    def as_dict(self) -> dict[str, Any]:
        """Give the figures as JSON types."""
        lengths = {"prompt": self.prompt_length, "chosen": self.chosen_length, "rejected": self.rejected_length}
        unequal = self.chosen_longer + self.rejected_longer
        return {
            "count": self.count,
            "chosen_longer": self.chosen_longer,
            "rejected_longer": self.rejected_longer,
            "equal_length": self.count - unequal,
            "chosen_longer_share": share(self.chosen_longer, unequal),
            "mean_characters": {name: rounded(total / (self.count or 1)) for name, total in lengths.items()},
            "truncated": {"chosen": self.chosen_truncated, "rejected": self.rejected_truncated},
            "rewards": {
                "both": self.margin.count,
                "one": self.one_reward,
                "none": self.count - self.margin.count - self.one_reward,
                "chosen": self.chosen_reward.as_dict(),
                "rejected": self.rejected_reward.as_dict(),
                "margin": self.margin.as_dict(),
                "margins": dict(zip(MARGIN_BINS, self.margins, strict=True)),
            },
        }


@dataclass(slots=True)
class RolloutFigures:
    """What is summed up over rollouts that pairs can be made of."""

    count: int = 0
    truncated: int = 0
    length: int = 0  # characters that the policy wrote
    reward: Sum = field(default_factory=Sum)
    agents: Tally = field(default_factory=Tally)

    def add(self, rollout: Rollout) -> None:
        """Add a rollout."""
        self.count += 1
        self.truncated += rollout.is_truncated
        self.length += rollout.num_chars
        self.reward.add(rollout.reward)
        if rollout.agent is not None:
            self.agents.add(value_text(rollout.agent) or "")

    def as_dict(self) -> dict[str, Any]:
        """Give the figures as JSON types."""
        return {
            "count": self.count,
            "truncated": self.truncated,
            "mean_characters": rounded(self.length / (self.count or 1)),
            "reward": self.reward.as_dict(),
            "agents": self.agents.as_dict(),
        }


@dataclass(slots=True)
class Statistics:
    """Figures of the rows of both kinds; two of them can be added."""

    pairs: PairFigures = field(default_factory=PairFigures)
    rollouts: RolloutFigures = field(default_factory=RolloutFigures)
    balance: dict[str, Tally] = field(default_factory=dict)  # by the keys whose values are to be balanced

    def add_pair(self, view: PairView, settings: GateSettings) -> None:
        """Count a pair."""
        pair = view.pair
        self.pairs.add(
            view.prompt,
            view.chosen,
            view.rejected,
            rewards=(pair.chosen_reward, pair.rejected_reward),
            truncated=(pair.chosen_truncated, pair.rejected_truncated),
        )
        self.add_balance(view.row, settings)

    def add_balance(self, row: dict[str, Any], settings: GateSettings) -> None:
        """Count the values of a row that are to be balanced."""
        for key, parts in _paths(settings.balance_keys):
            value = row.get(key) if len(parts) == 1 else _at(row, parts)
            if value is not None:
                self._count_value(key, value)

    def add_rollout(self, rollout: Rollout, row: dict[str, Any], settings: GateSettings) -> None:
        """Count a usable rollout."""
        self.rollouts.add(rollout)
        for key, parts in _paths(settings.balance_keys):
            value = _at(row, parts)
            if value is None and key == AGENT:
                value = rollout.agent
            if value is not None:
                self._count_value(key, value)

    def merge(self, other: "Statistics") -> None:
        """Add what another chunk gave."""
        _merge(self.pairs, other.pairs)
        _merge(self.rollouts, other.rollouts)
        for key, tally in other.balance.items():
            self.balance.setdefault(key, Tally()).merge(tally)

    def as_dict(self) -> dict[str, Any]:
        """Give the figures as JSON types: of the kinds that there are."""
        kinds: dict[str, PairFigures | RolloutFigures] = {"pairs": self.pairs, "rollouts": self.rollouts}
        balance = {key: self.balance[key].as_dict() for key in sorted(self.balance)}
        return {name: figures.as_dict() for name, figures in kinds.items() if figures.count} | (
            {"balance": balance} if balance else {}
        )

    def _count_value(self, key: str, value: object) -> None:
        text = value_text(value)
        if text is not None:
            tally = self.balance.get(key)
            if tally is None:
                tally = self.balance[key] = Tally()
            tally.add(text)


def _merge(figures: Any, other: Any) -> None:
    """Add field by field what another chunk summed up."""
    for each in fields(figures):
        value, more = getattr(figures, each.name), getattr(other, each.name)
        if isinstance(value, int):
            setattr(figures, each.name, value + more)
        elif isinstance(value, list):
            value[:] = map(sum, zip(value, more, strict=True))
        else:
            value.merge(more)


@lru_cache(maxsize=8)
def _paths(keys: Iterable[str]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Take keys with dots to their parts."""
    return tuple((key, tuple(key.split("."))) for key in keys)


def _at(row: object, parts: tuple[str, ...]) -> object:
    for part in parts:
        if not isinstance(row, dict):
            return None
        row = row.get(part)
    return row
