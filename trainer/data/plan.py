"""Which pairs are in which step.

The order is a pure function of seed and epoch, and a step is a slice of it: a run that knows how many pairs it has
consumed knows all. In the order `groups` the pairs of one prompt follow one another, so that its responses are shared
within a step; in the order `pairs` they are spread over the epoch, as other trainers do.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from trainer.data.tokenize import TokenizedGroup

Order = Literal["groups", "pairs"]
Weighting = Literal["pair", "prompt"]


class PairRef(NamedTuple):
    """A pair, by the position of its group and its position in there."""

    group: int
    pair: int


class ResponseRef(NamedTuple):
    """A distinct response, by the position of its group and its position in there."""

    group: int
    response: int


@dataclass(frozen=True)
class Step:
    """The pairs of one optimizer step, over all processes."""

    epoch: int  # counted from 0
    pairs: tuple[PairRef, ...]

    def responses(self, groups: Sequence[TokenizedGroup]) -> list[ResponseRef]:
        """Name each response that the pairs need, once."""
        return list(dict.fromkeys(ref for pair in self.pairs for ref in sides(pair, groups)))


def sides(reference: PairRef, groups: Sequence[TokenizedGroup]) -> tuple[ResponseRef, ResponseRef]:
    """Name the two responses of a pair, the chosen one first."""
    pair = groups[reference.group].pairs[reference.pair]
    return ResponseRef(reference.group, pair.chosen), ResponseRef(reference.group, pair.rejected)


def pair_weights(pairs: Sequence[PairRef], groups: Sequence[TokenizedGroup], weighting: Weighting) -> list[float]:
    """Say how much each pair counts: 1, or by prompt 1 / M, M the pairs of its prompt in the data."""
    if weighting == "pair":
        return [1.0] * len(pairs)
    return [1.0 / len(groups[pair.group].pairs) for pair in pairs]


def plan_steps(
    groups: Sequence[TokenizedGroup],
    *,
    seed: int,
    global_batch_size: int,
    num_epochs: int,
    max_steps: int | None,
    order: Order = "groups",
) -> list[Step]:
    """Plan the whole run; the last step of an epoch takes what is left, so that no pair is passed over."""
    steps: list[Step] = []
    for epoch in range(num_epochs):
        pairs = pair_order(groups, seed=seed, epoch=epoch, order=order)
        steps += [
            Step(epoch, tuple(pairs[start : start + global_batch_size]))
            for start in range(0, len(pairs), global_batch_size)
        ]
    return steps[:max_steps]


def pair_order(groups: Sequence[TokenizedGroup], *, seed: int, epoch: int, order: Order = "groups") -> list[PairRef]:
    """Order all pairs of an epoch: the groups shuffled and the pairs of each together, or all pairs shuffled."""
    if order == "pairs":
        pairs = [PairRef(group, pair) for group in range(len(groups)) for pair in range(len(groups[group].pairs))]
        return sorted(pairs, key=lambda pair: _random_key(seed, epoch, *pair))
    shuffled = sorted(range(len(groups)), key=lambda group: _random_key(seed, epoch, group))
    return [PairRef(group, pair) for group in shuffled for pair in range(len(groups[group].pairs))]


def _random_key(seed: int, epoch: int, *place: int) -> bytes:
    """Hash rather than draw: no library's random stream may change the order between versions."""
    text = "/".join(map(str, (seed, epoch, *place)))
    return hashlib.blake2b(text.encode(), digest_size=8).digest()
