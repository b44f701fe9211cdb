"""The same metrics of parts of the pairs: by environment, by file, by length, by which response is the longer one."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.evaluation.measures import measure
from trainer.evaluation.pair_scores import PairScores

MOST_PARTS = 50
"""Of environments; those with the most pairs."""
FIRST_EDGE = 32
"""Tokens up to which lengths are one bucket; each further one reaches to twice as many."""
UNNAMED = "(unnamed)"


def breakdowns(scores: PairScores, files: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Measure each part; a kind of part of which there is only one is left out."""
    kinds = {
        "by_environment": _by_name([name or UNNAMED for name in scores.environment]),
        "by_file": _by_name([files[number] for number in scores.dataset]),
        "by_length": _by_length(scores),
        "by_longer_side": _by_longer_side(scores),
    }
    return {
        kind: [_part(scores, name, places) for name, places in parts.items()]
        for kind, parts in kinds.items()
        if len(parts) > 1
    }


def _part(scores: PairScores, name: str, places: NDArray[np.int64]) -> dict[str, Any]:
    return {
        "name": name,
        "num_pairs": len(places),
        "num_prompts": len(np.unique(scores.prompt[places])),
        "metrics": measure(scores, places),
    }


def _by_name(names: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """Part by name, the largest first."""
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name, []).append(place)
    largest = sorted(places, key=lambda name: (-len(places[name]), name))[:MOST_PARTS]
    return {name: np.array(places[name], dtype=np.int64) for name in largest}


def _by_length(scores: PairScores) -> dict[str, NDArray[np.int64]]:
    """Part by the tokens of the longer response."""
    longer = np.maximum(scores.chosen_tokens, scores.rejected_tokens)
    edges = [0]
    edge = FIRST_EDGE
    while edges[-1] <= int(longer.max()):
        edges.append(edge)
        edge *= 2
    parts: dict[str, NDArray[np.int64]] = {}
    for low, high in pairwise(edges):
        places = np.flatnonzero((longer >= low) & (longer < high))
        if len(places):
            parts[f"{low:,} to {high - 1:,} tokens" if low else f"up to {high - 1:,} tokens"] = places
    return parts


def _by_longer_side(scores: PairScores) -> Mapping[str, NDArray[np.int64]]:
    gap = scores.chosen_tokens - scores.rejected_tokens
    parts = {"chosen is shorter": gap < 0, "as long": gap == 0, "chosen is longer": gap > 0}
    return {name: np.flatnonzero(are) for name, are in parts.items() if are.any()}
