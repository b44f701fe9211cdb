"""Several training sets with weights: what each epoch takes of them, and in which order."""

import itertools
import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import UsageError
from tests.pairwise import config_of
from trainer.data.groups import GroupPair
from trainer.data.plan import Order, PairRef, pair_order, plan_steps
from trainer.data.tokenize import TokenizedGroup, TokenizedPairs, TokenizedResponse
from trainer.run.start import load_groups, plan

RESPONSES = (TokenizedResponse((2,), (1,)), TokenizedResponse((3,), (1,)))
ORDERS: tuple[Order, ...] = ("groups", "pairs")


def groups_of(*datasets: str) -> list[TokenizedGroup]:
    """Make a group of each text: "001" has two pairs of set 0 and one of set 1, numbered as they come."""
    numbers = iter(range(1000))
    return [
        TokenizedGroup(
            (1,),
            RESPONSES,
            tuple(GroupPair(0, 1, "f:1", dataset=int(digit), number=next(numbers)) for digit in digits),
        )
        for digits in datasets
    ]


def set_of(pair: PairRef, groups: list[TokenizedGroup]) -> int:
    return groups[pair.group].pairs[pair.pair].dataset


mixtures = st.lists(st.text("01", min_size=1, max_size=5), min_size=1, max_size=8)


@given(mixtures, st.floats(0.05, 3.5), st.floats(0.05, 3.5), st.sampled_from(ORDERS), st.booleans(), st.integers(0, 5))
def test_an_epoch_takes_exactly_its_share_of_each_set(
    sets: list[str], first: float, second: float, order: Order, shuffle: bool, epoch: int
) -> None:
    groups = groups_of(*sets)
    pairs = pair_order(groups, seed=1, epoch=epoch, order=order, weights=(first, second), shuffle=shuffle)
    sizes, taken = Counter("".join(sets)), Counter(set_of(pair, groups) for pair in pairs)
    assert [taken[0], taken[1]] == [round(first * sizes["0"]), round(second * sizes["1"])]
    for pair, count in Counter(pairs).items():  # no pair comes twice more often than another of its set
        weight = (first, second)[set_of(pair, groups)]
        assert weight - 2 < count < weight + 2


@pytest.mark.parametrize("weights", [None, (1.0,)])
def test_one_set_of_weight_1_is_planned_as_if_there_were_no_sets(weights: tuple[float] | None) -> None:
    groups = groups_of("00", "0", "000")
    order_of = [pair_order(groups, seed=42, epoch=0, order=each, weights=weights) for each in ORDERS]
    assert order_of[1] == [(2, 1), (1, 0), (0, 1), (0, 0), (2, 2), (2, 0)]  # the order that is a promise
    assert [group for group, _ in order_of[0]] == [2, 2, 2, 0, 0, 1]


def test_without_weights_every_set_is_taken_once() -> None:
    groups = groups_of("01", "2")
    assert sorted(pair_order(groups, seed=0, epoch=0)) == [(0, 0), (0, 1), (1, 0)]


@pytest.mark.parametrize("order", ORDERS)
def test_half_a_set_is_another_half_each_epoch(order: Order) -> None:
    groups = groups_of(*["0"] * 10)
    halves = [{*pair_order(groups, seed=3, epoch=epoch, order=order, weights=(0.5,))} for epoch in range(4)]
    assert [len(half) for half in halves] == [5] * 4
    assert halves[0] | halves[1] == halves[2] | halves[3] == {PairRef(group, 0) for group in range(10)}
    assert halves[0] != halves[2]
    assert halves[0] != {*pair_order(groups, seed=4, epoch=0, order=order, weights=(0.5,))}


def test_a_part_of_a_set_has_whole_groups_but_for_its_ends() -> None:
    groups = groups_of(*["0000"] * 10)
    for epoch in range(5):
        counts = Counter(pair.group for pair in pair_order(groups, seed=0, epoch=epoch, weights=(0.3,)))
        assert sum(counts.values()) == 12
        assert sorted(counts.values())[2:] == [4] * (len(counts) - 2)  # at most two are cut


@pytest.mark.parametrize("order", ORDERS)
def test_with_weight_2_each_pair_comes_twice_and_not_at_once(order: Order) -> None:
    groups = groups_of(*["00"] * 12)
    pairs = pair_order(groups, seed=0, epoch=0, order=order, weights=(2.0,))
    assert Counter(pairs) == {PairRef(group, pair): 2 for group in range(12) for pair in range(2)}
    runs = sum(one.group != two.group for one, two in itertools.pairwise(pairs))
    assert runs > 12  # copies of a group stand apart


def test_sets_are_mixed_and_a_prompt_of_both_stays_together() -> None:
    groups = groups_of(*["0"] * 8, *["1"] * 8, "0101")
    pairs = pair_order(groups, seed=0, epoch=0, weights=(1.0, 1.0))
    sets = [set_of(pair, groups) for pair in pairs if pair.group < 16]
    assert sets != sorted(sets)
    places = [place for place, pair in enumerate(pairs) if pair.group == 16]
    assert places == list(range(places[0], places[0] + 4))


def test_unshuffled_the_pairs_are_in_the_order_of_the_file() -> None:
    responses = groups_of("0", "0")[0].responses
    pairs = [GroupPair(0, 1, f"f:{n + 1}", number=n) for n in range(4)]
    groups = [
        TokenizedGroup((1,), responses, (pairs[0], pairs[2])),
        TokenizedGroup((1,), responses, (pairs[1], pairs[3])),
    ]
    for epoch in (0, 1):
        options = {"seed": epoch, "epoch": epoch, "shuffle": False, "weights": (1.0,)}
        in_pairs = pair_order(groups, order="pairs", **options)  # type: ignore[arg-type]
        assert in_pairs == [(0, 0), (1, 0), (0, 1), (1, 1)]
        assert pair_order(groups, **options) == [(0, 0), (0, 1), (1, 0), (1, 1)]  # type: ignore[arg-type]


def test_unshuffled_a_half_goes_on_where_the_last_epoch_stopped() -> None:
    groups = groups_of(*["0"] * 4)
    steps = plan_steps(groups, seed=0, global_batch_size=8, num_epochs=3, max_steps=None, weights=(0.5,), shuffle=False)
    assert [[pair.group for pair in step.pairs] for step in steps] == [[0, 1], [2, 3], [0, 1]]


def write(path: Path, *prompts: str) -> Path:
    rows = [{"prompt": prompt, "chosen": "yes", "rejected": "no"} for prompt in prompts]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_of_a_million_epochs_only_those_are_planned_that_are_run() -> None:
    groups = groups_of(*["0"] * 4)
    steps = plan_steps(groups, seed=0, global_batch_size=4, num_epochs=10**9, max_steps=3)
    assert [step.epoch for step in steps] == [0, 1, 2]


def test_the_options_reach_the_plan(tmp_path: Path) -> None:
    config = config_of("data.shuffle=false", "data.order=pairs", "policy.train_global_batch_size=100")
    sets = [
        config.data.train[0].model_copy(update={"data_path": write(tmp_path / "a.jsonl", "p", "q"), "weight": 2.0}),
        config.data.train[0].model_copy(update={"data_path": write(tmp_path / "b.jsonl", "p", "r", "s", "t")}),
    ]
    sets[1] = sets[1].model_copy(update={"weight": 0.5})
    config = config.model_copy(update={"data": config.data.model_copy(update={"train": tuple(sets)})})
    loaded = load_groups(config.data.train, shown=False)
    data = TokenizedPairs([TokenizedGroup((1,), RESPONSES, group.pairs) for group in loaded.groups], loaded.dropped)
    (step,) = plan(config, data)
    sources = [Path(data.groups[pair.group].pairs[pair.pair].source).name for pair in step.pairs]
    assert sources == ["a.jsonl:1", "a.jsonl:2", "a.jsonl:1", "a.jsonl:2", "b.jsonl:1", "b.jsonl:2"]
    tiny = tuple(each.model_copy(update={"weight": 0.1}) for each in sets)
    config = config.model_copy(update={"data": config.data.model_copy(update={"train": tiny})})
    with pytest.raises(UsageError, match=r"data\.train\.0\.weight=0\.1: of 2 pairs none is left; give at least 0.5"):
        plan(config, data)
