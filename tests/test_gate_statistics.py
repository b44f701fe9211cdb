"""The figures of all rows: what they are, and that they don't depend on how rows are cut into chunks."""

import json
import math
import pickle
import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.gate.pair.view import view_of
from pipeline.gate.settings import GateSettings
from pipeline.gate.whole.figures import DENOMINATOR_BITS, MAX_VALUES, Sum, Tally, exact_sum, is_number
from pipeline.gate.whole.statistics import MARGIN_BINS, Statistics
from pipeline.identify import Question
from pipeline.rollout import Rollout
from schemas.preference import pair_of
from schemas.validation import Kind

DEFAULT = GateSettings()


def view(prompt="Q", chosen="good", rejected="bad", **keys):
    row = {"prompt": prompt, "chosen": chosen, "rejected": rejected, **keys}
    return view_of(row, pair_of(row, Kind.BINARY_PREFERENCE, source=""))


def rewarded(chosen, rejected):
    return view(chosen_reward=chosen, rejected_reward=rejected)


def gathered(views, settings=DEFAULT):
    statistics = Statistics()
    for each in views:
        statistics.add_pair(each, settings)
    return statistics


def rollout(reward=1.0, agent="math", *, num_chars=10, is_truncated=False):
    question = Question(b"[]", b"", b"", 0, False, b"")
    return Rollout(None, b"", question, b'""', reward, agent, 0, 0, True, False, num_chars, 1, is_truncated, False)


def test_lengths_and_cut_sides():
    told = gathered(
        [
            view("12345", "1234", "12"),
            view("1", "12", "12", rejected_truncated=True),
            view("123", "1", "123456", rejected_truncated=True),
            view("123", "12", "1", chosen_truncated=True, rejected_truncated=False),
        ]
    ).as_dict()["pairs"]
    assert told["count"] == 4
    assert (told["chosen_longer"], told["equal_length"], told["rejected_longer"]) == (2, 1, 1)
    assert told["chosen_longer_share"] == 0.6667  # of the three whose sides differ in length
    assert told["mean_characters"] == {"prompt": 3.0, "chosen": 2.25, "rejected": 2.75}
    assert told["truncated"] == {"chosen": 1, "rejected": 2}


def test_rewards_and_margins():
    told = gathered(
        [rewarded(1, 0), rewarded(0.5, 0.25), rewarded(1.0, None), rewarded(None, -3), view(), rewarded(0, 0.5)]
    ).as_dict()["pairs"]["rewards"]
    assert (told["both"], told["one"], told["none"]) == (3, 2, 1)
    assert told["chosen"] == {"min": 0.0, "mean": 0.625, "max": 1.0}  # (1 + 0.5 + 1 + 0) / 4
    assert told["rejected"] == {"min": -3.0, "mean": -0.5625, "max": 0.5}  # (0 + 0.25 - 3 + 0.5) / 4
    assert told["margin"] == {"min": -0.5, "mean": 0.25, "max": 1.0}  # (1 + 0.25 - 0.5) / 3
    assert {name: count for name, count in told["margins"].items() if count} == {"below 0": 1, "to 0.25": 1, "to 1": 1}


@pytest.mark.parametrize(
    ("margin", "name"),
    [
        (-5e-324, "below 0"),
        (0.0, "0"),
        (-0.0, "0"),
        (5e-324, "to 0.1"),
        (0.1, "to 0.1"),
        (0.25, "to 0.25"),
        (0.26, "to 0.5"),
        (1.0, "to 1"),
        (10, "to 10"),
        (10.5, "above 10"),
    ],
)
def test_each_margin_has_one_bin(margin, name):
    margins = gathered([rewarded(margin, 0.0)]).as_dict()["pairs"]["rewards"]["margins"]
    assert [*margins] == list(MARGIN_BINS)
    assert [each for each, count in margins.items() if count] == [name]


@pytest.mark.parametrize("reward", [math.nan, math.inf, -math.inf, 10**400])
def test_a_reward_that_no_float_can_hold_is_none(reward):
    told = gathered([rewarded(reward, 0.5), rewarded(reward, reward)]).as_dict()["pairs"]["rewards"]
    assert (told["both"], told["one"], told["none"]) == (0, 1, 1)
    assert told["chosen"] == {"min": None, "mean": None, "max": None}
    assert not is_number(reward)


def test_the_greatest_rewards_stay_finite():
    statistics = gathered([rewarded(1.7e308, -1.7e308)] * 3)
    told = json.loads(json.dumps(statistics.as_dict(), allow_nan=False))["pairs"]["rewards"]
    assert told["chosen"]["mean"] == 1.7e308
    assert told["margin"]["mean"] == told["margin"]["max"] == pytest.approx(1.79769e308)
    assert told["margins"]["above 10"] == 3


def test_no_rows_have_no_figures():
    assert Statistics().as_dict() == {}
    assert Sum().as_dict() == {"min": None, "mean": None, "max": None}


def test_rollouts():
    statistics = Statistics()
    for each in (rollout(1.0), rollout(0.0, num_chars=20), rollout(0.5, "code", is_truncated=True), rollout(0.5, None)):
        statistics.add_rollout(each, {}, DEFAULT)
    told = statistics.as_dict()
    assert told["rollouts"] == {
        "count": 4,
        "truncated": 1,
        "mean_characters": 12.5,
        "reward": {"min": 0.0, "mean": 0.5, "max": 1.0},
        "agents": {"math": 2, "code": 1},
    }
    assert told["balance"] == {"agent": {"math": 2, "code": 1}}  # though the rows have it under agent_ref


def test_values_of_the_keys_to_be_balanced():
    settings = GateSettings(balance_keys=("kind", "agent_ref.name", "absent"))
    rows = [
        {"kind": "a", "agent_ref": {"name": "x"}},
        {"kind": "b", "agent_ref": {"name": "x"}},
        {"kind": "a", "agent_ref": "no object"},
        {"kind": 3, "agent_ref": {"name": None}},
        {"kind": 0.5},
        {"kind": True},
        {"kind": False},
        {"kind": ["a"]},  # only texts, numbers and booleans are counted
        {"kind": {"a": 1}},
        {"kind": None},
        {"kind": 10**5000},  # of more digits than Python writes
        {},
    ]
    statistics = gathered([view(**row) for row in rows], settings)
    assert statistics.as_dict()["balance"] == {
        "agent_ref.name": {"x": 2},
        "kind": {"a": 2, "0.5": 1, "3": 1, "b": 1, "false": 1, "true": 1},
    }


def test_the_values_are_foreign_text():
    told = gathered([view(agent="\x1b[2J\u202e::error::" + "x" * 1_000_000)]).as_dict()["balance"]["agent"]
    (name,) = told
    assert len(name) <= 60
    assert name.startswith("\\x1b[2J\\u202e")


def test_the_rest_of_many_values():
    tally = Tally()
    for number in range(60):
        for _ in range(60 - number):
            tally.add(f"value {number}")
    told = tally.as_dict()
    assert len(told) == 51
    assert told["value 0"] == 60
    assert told["(others)"] == sum(range(1, 11))  # the ten least frequent ones
    for _ in range(100):
        tally.add("(others)")  # a value that is called so itself
    assert tally.as_dict()["(others)"] == 100 + sum(range(1, 12))


def test_an_id_is_no_value_to_be_balanced():
    one, other = Tally(), Tally()
    for number in range(MAX_VALUES):
        one.add(f"id {number}")
    assert len(one.by_frequency()) == MAX_VALUES
    other.add("one more")
    one.merge(other)
    assert one.by_frequency() == []
    one.add("and another")
    assert one.as_dict() == {"(others)": MAX_VALUES + 2}


FLOATS = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(FLOATS, max_size=30))
def test_sums_are_exact(values):
    expected = sum(map(Fraction, values), Fraction())
    assert Fraction(exact_sum(values), 1 << DENOMINATOR_BITS) == expected
    one = Sum()
    for value in values:
        one.add(value)
    assert one.mean == float(expected / (len(values) or 1))  # rounded once


def test_the_mean_of_very_different_numbers():
    one = Sum()
    for value in (1e16, 1.0, -1e16, 1.0):  # floats added one by one give 0 or 1, as the order may be
        one.add(value)
    assert one.mean == 0.5


VIEWS = [
    view("p" * 3, "a" * length, "b" * (7 - length), agent=agent, chosen_reward=chosen, rejected_reward=rejected)
    for length in (1, 3, 5)
    for agent in ("x", "y", None)
    for chosen, rejected in ((0.1, 1e17), (None, 0.3), (1 / 3, -1e17), (2, 1), (None, None))
]


@given(st.lists(st.tuples(st.sampled_from(VIEWS), st.booleans()), max_size=60))
def test_chunks_change_nothing(told):
    """Any cut of the rows into chunks, sent from process to process, gives the same figures."""
    chunks = [[]]
    for each, is_cut in told:
        chunks[-1].append(each)
        if is_cut:
            chunks.append([])
    merged = Statistics()
    for chunk in chunks:
        merged.merge(pickle.loads(pickle.dumps(gathered(chunk))))
    assert merged.as_dict() == gathered([each for each, _ in told]).as_dict()


def test_many_numbers_at_once():
    """More than are kept before they are summed up."""
    numbers = [math.sin(number) * 10 ** (number % 30) for number in range(3000)]
    pieces = (numbers[:700], numbers[700:2500], numbers[2500:])
    merged = Sum()
    for piece in pieces:
        one = Sum()
        for number in piece:
            one.add(number)
        merged.merge(one)
    assert merged.count == 3000
    assert merged.mean == float(sum(map(Fraction, numbers)) / 3000)
    assert merged.as_dict()["max"] == float(f"{max(numbers):.6g}")


def test_counting_a_pair_is_cheap():
    """2 microseconds are planned; a machine that is slow or busy may take some more."""
    views = [rewarded(math.sin(number), math.cos(number)) for number in range(5000)]
    statistics, best = Statistics(), math.inf
    for _ in range(5):
        started = time.perf_counter()
        for each in views:
            statistics.add_pair(each, DEFAULT)
        best = min(best, time.perf_counter() - started)
    assert best / len(views) < 10e-6
