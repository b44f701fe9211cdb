"""Which pairs are computed in which step, on which process, in which micro-batch.

The order is a pure function of seed and epoch, and a step is a slice of it: a run that knows how many pairs it has
consumed knows all. The pairs of one prompt follow one another, so that its responses are shared within a step.
The plan is made for all processes at once, and each takes its part: every process has the same number of
micro-batches in a step, which the collectives of distributed training need.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from trainer.tokenize import TokenizedGroup

Item = TypeVar("Item")


class PairRef(NamedTuple):
    """A pair, by the position of its group and its position in there."""

    group: int
    pair: int


class ResponseRef(NamedTuple):
    """A distinct response, by the position of its group and its position in there."""

    group: int
    response: int


@dataclass(frozen=True)
class MicroBatch:
    """The pairs that one process computes at once. `weight` is 0 for a filler, which counts for nothing."""

    pairs: tuple[PairRef, ...]
    weight: float = 1.0


@dataclass(frozen=True)
class Step:
    """The pairs of one optimizer step, over all processes."""

    epoch: int  # counted from 0
    pairs: tuple[PairRef, ...]

    def micro_batches(self, *, micro_batch_size: int, process: int, num_processes: int) -> list[MicroBatch]:
        """Give the micro-batches of one process: as many for each, with fillers where pairs run out."""
        chunks = chunked(self.pairs, micro_batch_size)
        return [
            MicroBatch(pairs, weight=0.0 if is_filler else 1.0)
            for pairs, is_filler in share(chunks, process=process, num_processes=num_processes)
        ]


def chunked(items: Sequence[Item], size: int) -> list[tuple[Item, ...]]:
    """Cut into pieces of `size`, the last with what is left."""
    return [tuple(items[start : start + size]) for start in range(0, len(items), size)]


def share(chunks: Sequence[Item], *, process: int, num_processes: int) -> list[tuple[Item, bool]]:
    """Give one process its chunks: as many as each other, the missing ones made up by fillers, which are told."""
    told = [(chunk, False) for chunk in chunks]
    told += [(chunks[-1], True)] * (-len(chunks) % num_processes)
    return told[process::num_processes]


def plan_steps(
    groups: Sequence[TokenizedGroup],
    *,
    seed: int,
    global_batch_size: int,
    num_epochs: int,
    max_steps: int | None,
) -> list[Step]:
    """Plan the whole run; the last step of an epoch takes what is left, so that no pair is passed over."""
    steps: list[Step] = []
    for epoch in range(num_epochs):
        order = pair_order(groups, seed=seed, epoch=epoch)
        steps += [Step(epoch, pairs) for pairs in chunked(order, global_batch_size)]
    return steps[:max_steps]


def pair_order(groups: Sequence[TokenizedGroup], *, seed: int, epoch: int) -> list[PairRef]:
    """Order all pairs of an epoch: the groups shuffled, the pairs of a group together."""
    shuffled = sorted(range(len(groups)), key=lambda group: _random_key(seed, epoch, group))
    return [PairRef(group, pair) for group in shuffled for pair in range(len(groups[group].pairs))]


def _random_key(seed: int, epoch: int, group: int) -> bytes:
    """Hash rather than draw: no library's random stream may change the order between versions."""
    return hashlib.blake2b(f"{seed}/{epoch}/{group}".encode(), digest_size=8).digest()
