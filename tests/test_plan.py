"""The order of the pairs and their spread over steps, micro-batches and processes."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.groups import GroupPair
from trainer.plan import PairRef, Step, pair_order, plan_steps
from trainer.tokenize import TokenizedGroup


def groups_of(*num_pairs: int) -> list[TokenizedGroup]:
    return [TokenizedGroup((1,), ((2,), (3,)), (GroupPair(0, 1, "f:1"),) * count) for count in num_pairs]


group_sizes = st.lists(st.integers(1, 6), min_size=1, max_size=12)


@given(group_sizes, st.integers(0, 99), st.integers(0, 3))
def test_an_epoch_has_every_pair_once_and_keeps_groups_together(sizes: list[int], seed: int, epoch: int) -> None:
    order = pair_order(groups_of(*sizes), seed=seed, epoch=epoch)
    assert Counter(order) == Counter(PairRef(g, p) for g, size in enumerate(sizes) for p in range(size))
    runs = [
        reference.group
        for place, reference in enumerate(order)
        if place == 0 or order[place - 1].group != reference.group
    ]
    assert len(runs) == len(sizes)


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    groups = groups_of(*[1] * 20)
    first = pair_order(groups, seed=1, epoch=0)
    assert first == pair_order(groups, seed=1, epoch=0)
    assert first != pair_order(groups, seed=1, epoch=1)
    assert first != pair_order(groups, seed=2, epoch=0)


def test_the_order_never_changes_between_versions() -> None:
    # a run is resumed by counting pairs, so this very order is a promise
    assert [group for group, _ in pair_order(groups_of(*[1] * 8), seed=42, epoch=0)] == [2, 0, 5, 7, 1, 6, 3, 4]


def test_the_last_step_of_an_epoch_takes_what_is_left() -> None:
    steps = plan_steps(groups_of(3, 4), seed=0, global_batch_size=3, num_epochs=2, max_steps=None)
    assert [(step.epoch, len(step.pairs)) for step in steps] == [(0, 3), (0, 3), (0, 1), (1, 3), (1, 3), (1, 1)]


@pytest.mark.parametrize(("max_steps", "expected"), [(1, 1), (4, 4), (100, 6)])
def test_max_steps(max_steps: int, expected: int) -> None:
    steps = plan_steps(groups_of(3, 4), seed=0, global_batch_size=3, num_epochs=2, max_steps=max_steps)
    assert len(steps) == expected


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 5))
def test_processes_share_a_step_evenly_and_completely(
    num_pairs: int, micro_batch_size: int, num_processes: int
) -> None:
    step = Step(0, tuple(PairRef(0, number) for number in range(num_pairs)))
    shares = [
        step.micro_batches(micro_batch_size=micro_batch_size, process=process, num_processes=num_processes)
        for process in range(num_processes)
    ]
    assert len({len(share) for share in shares}) == 1  # collectives need the same number on each
    counted = Counter(pair for share in shares for batch in share for pair in batch.pairs if batch.weight)
    assert counted == Counter(step.pairs)
    assert all(1 <= len(batch.pairs) <= micro_batch_size for share in shares for batch in share)
    assert sum(batch.weight == 0 for share in shares for batch in share) < num_processes
