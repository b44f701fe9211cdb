"""Which pairs are in which step.

The order is a pure function of seed and epoch, and a step is a slice of it: a run that knows how many pairs it has
consumed knows all. In the order `groups` the pairs of one prompt follow one another, so that its responses are shared
within a step; in the order `pairs` they are spread over the epoch, as other trainers do.

Of several sets each has a weight: how often an epoch goes through it. All epochs together go through a set again and
again, each time in another order, and an epoch takes the next round(weight x pairs) of these; so with weight 0.5 two
epochs have each pair once, with weight 2 each epoch has each pair twice. What an epoch takes of the sets is then mixed.
"""

import hashlib
from collections.abc import Iterator, Sequence
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


def every_pair(groups: Sequence[TokenizedGroup]) -> tuple[PairRef, ...]:
    """Name all pairs, in the order of the groups."""
    return tuple(PairRef(number, pair) for number, group in enumerate(groups) for pair in range(len(group.pairs)))


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
    weights: Sequence[float] | None = None,
    shuffle: bool = True,
    steps_done: int = 0,
    consumed_samples: int = 0,
) -> list[Step]:
    """Plan the run, or what is left of it; the last step of an epoch takes what is left, so no pair is passed over.

    A run that has done `steps_done` steps with `consumed_samples` pairs goes on behind these pairs.
    """
    left = None if max_steps is None else max(0, max_steps - steps_done)
    steps: list[Step] = []
    passed = consumed_samples
    for epoch in range(num_epochs):
        if left is not None and len(steps) >= left:  # of epochs there may be a million
            break
        pairs = pair_order(groups, seed=seed, epoch=epoch, order=order, weights=weights, shuffle=shuffle)
        steps += [
            Step(epoch, tuple(pairs[start : start + global_batch_size]))
            for start in range(min(passed, len(pairs)), len(pairs), global_batch_size)
        ]
        passed -= min(passed, len(pairs))
    return steps[:left]


def pair_order(
    groups: Sequence[TokenizedGroup],
    *,
    seed: int,
    epoch: int,
    order: Order = "groups",
    weights: Sequence[float] | None = None,
    shuffle: bool = True,
) -> list[PairRef]:
    """Order the pairs of an epoch: the groups shuffled and the pairs of each together, or all pairs shuffled.

    `weights` are those of the sets that the pairs are from; without them each pair is taken once. Unshuffled, the pairs
    are in the order of the files.
    """
    sets: list[tuple[int | None, float]] = [(None, 1.0)] if weights is None else [*enumerate(weights)]
    if len(sets) == 1:
        sets = [(None, sets[0][1])]
    taken: list[_Run] = []
    for dataset, weight in sets:
        runs = _runs(groups, dataset, order="groups" if shuffle else order)
        taken += _take(runs, weight, seed=seed, epoch=epoch, shuffle=shuffle)
    if shuffle and order == "pairs":
        taken = [_Run(run.group, (pair,), run.copy) for run in taken for pair in run.pairs]
    if shuffle:
        keys = [_random_key(seed, epoch, *_unit(run, order)) for run in taken]
        taken = [taken[place] for place in sorted(range(len(taken)), key=keys.__getitem__)]
    return [PairRef(run.group, pair) for run in taken for pair in run.pairs]


class _Run(NamedTuple):
    """Pairs of a group that follow one another."""

    group: int
    pairs: Sequence[int]
    copy: int = 0  # how often the epoch has begun the set anew before it took them


def _unit(run: _Run, order: Order) -> tuple[int, ...]:
    """Name what is shuffled as one; the pairs of a prompt from several sets have one name in the order `groups`."""
    unit = (run.group, run.pairs[0]) if order == "pairs" else (run.group,)
    return (*unit, run.copy) if run.copy else unit


def _runs(groups: Sequence[TokenizedGroup], dataset: int | None, *, order: Order) -> list[_Run]:
    """Give what a set (None: all of them) has of each group; in the order `pairs`, each pair in its place by itself."""
    runs = [
        _Run(place, range(len(group.pairs)) if dataset is None else _of_set(group, dataset))
        for place, group in enumerate(groups)
    ]
    if order == "pairs":
        alone = [_Run(run.group, [pair]) for run in runs for pair in run.pairs]
        return sorted(alone, key=lambda run: groups[run.group].pairs[run.pairs[0]].number)
    return [run for run in runs if run.pairs]


def _of_set(group: TokenizedGroup, dataset: int) -> list[int]:
    return [place for place, pair in enumerate(group.pairs) if pair.dataset == dataset]


def _take(runs: list[_Run], weight: float, *, seed: int, epoch: int, shuffle: bool) -> Iterator[_Run]:
    """Take an epoch's share of a set: the next pairs of going through it again and again."""
    size = sum(len(run.pairs) for run in runs)
    place, end = epoch * round(weight * size), (epoch + 1) * round(weight * size)
    copy = 0
    while place < end:
        number, start = divmod(place, size)
        stop = min(size, start + end - place)
        if shuffle and stop - start < size:
            ordered = sorted(runs, key=lambda run, number=number: _random_key(seed, number, run.group))  # type: ignore[misc]
        else:
            ordered = runs
        yield from (run._replace(copy=copy) for run in _cut(ordered, start, stop))
        place += stop - start
        copy += 1


def _cut(runs: list[_Run], start: int, stop: int) -> Iterator[_Run]:
    """Give the pairs from the start-th up to the stop-th."""
    place = 0
    for run in runs:
        first, last = max(start - place, 0), min(stop - place, len(run.pairs))
        if first < last:
            yield run._replace(pairs=run.pairs[first:last])
        place += len(run.pairs)


def _random_key(seed: int, epoch: int, *place: int) -> bytes:
    """Hash rather than draw: no library's random stream may change the order between versions."""
    text = "/".join(map(str, (seed, epoch, *place)))
    return hashlib.blake2b(text.encode(), digest_size=8).digest()
