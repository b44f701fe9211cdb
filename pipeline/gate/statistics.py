"""Figures of all rows, gathered chunk by chunk."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from pipeline.gate.settings import GateSettings
from pipeline.gate.view import PairView
from pipeline.rollout import Rollout


@dataclass
class Statistics:
    """Sums over the rows of one kind; two of them can be added."""

    num_pairs: int = 0
    balance: dict[str, Counter[str]] = field(default_factory=dict)

    def add_pair(self, view: PairView, settings: GateSettings) -> None:
        """Count a pair."""
        self.num_pairs += 1

    def add_rollout(self, rollout: Rollout, row: dict[str, Any], settings: GateSettings) -> None:
        """Count a usable rollout."""

    def merge(self, other: "Statistics") -> None:
        """Add what another chunk gave."""
        self.num_pairs += other.num_pairs

    def as_dict(self) -> dict[str, Any]:
        """Give the figures as JSON types, ratios worked out."""
        return {"pairs": self.num_pairs}
