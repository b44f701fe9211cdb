"""The order of the pairs, their spread over steps, and how much each counts."""

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.groups import GroupPair
from trainer.data.plan import Order, PairRef, ResponseRef, Step, pair_order, pair_weights, plan_steps, sides
from trainer.data.tokenize import TokenizedGroup, TokenizedResponse


def groups_of(*num_pairs: int) -> list[TokenizedGroup]:
    responses = (TokenizedResponse((2,), (1,)), TokenizedResponse((3,), (1,)))
    return [TokenizedGroup((1,), responses, (GroupPair(0, 1, "f:1"),) * count) for count in num_pairs]


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


@given(group_sizes, st.integers(0, 99), st.integers(0, 3))
def test_in_the_order_pairs_an_epoch_has_every_pair_once(sizes: list[int], seed: int, epoch: int) -> None:
    order = pair_order(groups_of(*sizes), seed=seed, epoch=epoch, order="pairs")
    assert Counter(order) == Counter(PairRef(g, p) for g, size in enumerate(sizes) for p in range(size))


def test_the_order_pairs_spreads_groups_over_the_epoch() -> None:
    order = pair_order(groups_of(*[10] * 10), seed=0, epoch=0, order="pairs")
    neighbours = sum(one.group == two.group for one, two in itertools.pairwise(order))
    assert neighbours < 25  # of 99; shuffled, a tenth; together, it would be 90
    assert order != pair_order(groups_of(*[10] * 10), seed=0, epoch=1, order="pairs")
    assert order != pair_order(groups_of(*[10] * 10), seed=1, epoch=0, order="pairs")


def test_the_order_pairs_never_changes_between_versions() -> None:
    order = pair_order(groups_of(2, 1, 3), seed=42, epoch=0, order="pairs")
    assert order == [(2, 1), (1, 0), (0, 1), (0, 0), (2, 2), (2, 0)]


@given(group_sizes, st.integers(1, 7), st.sampled_from(["groups", "pairs"]))
def test_every_step_but_the_last_has_exactly_so_many_pairs(sizes: list[int], batch: int, order: Order) -> None:
    """A group at the border is split over two steps; nothing is left out or taken twice."""
    steps = plan_steps(groups_of(*sizes), seed=0, global_batch_size=batch, num_epochs=1, max_steps=None, order=order)
    assert [len(step.pairs) for step in steps[:-1]] == [batch] * (len(steps) - 1)
    assert 1 <= len(steps[-1].pairs) <= batch
    assert [pair for step in steps for pair in step.pairs] == pair_order(
        groups_of(*sizes), seed=0, epoch=0, order=order
    )


def test_a_step_names_each_response_that_its_pairs_need_once() -> None:
    responses = tuple(TokenizedResponse((number,), (1,)) for number in range(4))
    pairs = (GroupPair(2, 0, "f:1"), GroupPair(2, 3, "f:2"), GroupPair(1, 3, "f:3"))
    groups = [TokenizedGroup((9,), responses, pairs)] * 2
    assert sides(PairRef(1, 2), groups) == (ResponseRef(1, 1), ResponseRef(1, 3))
    step = Step(0, (PairRef(1, 1), PairRef(0, 0), PairRef(1, 0)))
    # response 1 of either group, and 3 of the first, stand in no pair of the step
    assert Counter(step.responses(groups)) == Counter([(1, 2), (1, 3), (1, 0), (0, 2), (0, 0)])


def test_weights_by_prompt_count_the_pairs_of_the_data_not_of_the_step() -> None:
    groups = groups_of(4, 1, 2)
    pairs = [PairRef(0, 1), PairRef(1, 0), PairRef(2, 0), PairRef(2, 1)]
    assert pair_weights(pairs, groups, "pair") == [1.0, 1.0, 1.0, 1.0]
    assert pair_weights(pairs, groups, "prompt") == [0.25, 1.0, 0.5, 0.5]


@given(group_sizes)
def test_by_prompt_every_prompt_weighs_the_same(sizes: list[int]) -> None:
    groups = groups_of(*sizes)
    order = pair_order(groups, seed=0, epoch=0)
    totals = Counter[int]()
    for pair, weight in zip(order, pair_weights(order, groups, "prompt"), strict=True):
        totals[pair.group] += weight  # type: ignore[assignment]
    assert list(totals.values()) == pytest.approx([1.0] * len(sizes))
