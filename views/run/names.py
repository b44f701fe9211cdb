"""What runs are called that are shown side by side."""

from collections.abc import Sequence
from pathlib import Path

from schemas.errors import UsageError

MOST_RUNS = 24
"""As many lines as can be told apart by colour and dashes."""


def named_runs(places: Sequence[Path]) -> dict[str, Path]:
    """Call each run's folder by as much of its path as tells it from the others.

    Raises:
        UsageError: one is named twice, or there are too many.
    """
    if len(places) > MOST_RUNS:
        raise UsageError(f"{len(places)} runs: at most {MOST_RUNS} can be told apart in a plot")
    parts = [place.resolve().parts for place in places]
    if len(set(parts)) < len(parts):
        raise UsageError("a run is named twice; name different ones to compare")
    names: list[str] = []
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-length:]) for each in parts]
        if len(set(names)) == len(names):
            break
    return dict(zip(names, places, strict=True))
