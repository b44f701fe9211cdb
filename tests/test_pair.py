"""Pairing: which rollouts of a group become a pair, and why the others do not."""

from itertools import combinations

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.pair import ROLLOUT_SCHEMA, distinct_responses, pairs_above_margin, unpaired_reasons


def frame(groups, rewards, responses=None):
    """Make the frame; each rollout has a text of its own where none are given."""
    rows = range(len(groups))
    texts = [text.encode() for text in responses or map(str, rows)]
    return pl.LazyFrame({"row": rows, "group": groups, "response": texts, "reward": rewards}, schema=ROLLOUT_SCHEMA)


def pairs_of(groups, rewards, min_margin):
    pairs = pairs_above_margin(frame(groups, rewards), min_margin=min_margin).collect()
    assert pairs.columns == ["chosen", "rejected", "margin"]
    return list(pairs.iter_rows())


def reasons_of(groups, rewards, min_margin, responses=None):
    rollouts = frame(groups, rewards, responses)
    candidates = pairs_above_margin(rollouts, min_margin=min_margin)
    pairs = distinct_responses(candidates, rollouts)
    outcome = unpaired_reasons(rollouts, candidates=candidates, pairs=pairs).collect()
    return [reason for _, _, reason in outcome.sort("row").iter_rows()]


def recipe_pairs(groups, rewards, min_margin):
    """The pairing rule of NeMo Gym's recipe: stable sort by falling reward, every two, a margin apart."""
    rows_of_group = {}
    for row, group in enumerate(groups):
        rows_of_group.setdefault(group, []).append(row)
    pairs = []
    for rows in rows_of_group.values():
        for high, low in combinations(sorted(rows, key=lambda row: rewards[row], reverse=True), 2):
            if rewards[high] - rewards[low] >= min_margin and rewards[high] != rewards[low]:
                pairs.append((high, low, rewards[high] - rewards[low]))
    return pairs


@pytest.mark.parametrize(
    ("groups", "rewards", "min_margin", "expected"),
    [
        ("", [], 0.1, []),  # nothing
        ("a", [1], 0.1, []),  # one rollout
        ("aa", [1, 0], 0.1, [(0, 1, 1)]),
        ("aa", [0, 1], 0.1, [(1, 0, 1)]),  # the higher reward is chosen wherever it stands
        ("aa", [1, 1], 0.1, []),  # a tie
        ("aa", [1, 1], 0, []),  # a tie is no preference even without a margin
        ("ab", [1, 0], 0.1, []),  # two groups
        ("abab", [1, 0, 0, 1], 0.1, [(0, 2, 1), (3, 1, 1)]),
        ("baab", [0, 1, 0, 1], 0.1, [(3, 0, 1), (1, 2, 1)]),  # groups by first appearance, not by name
        ("aaa", [0, 2, 1], 0.1, [(1, 2, 1), (1, 0, 2), (2, 0, 1)]),  # all pairs, best first
        ("aaaa", [1, 0, 1, 0], 0.1, [(0, 1, 1), (0, 3, 1), (2, 1, 1), (2, 3, 1)]),  # equals in input order
        ("aaa", [0, 0.5, 1], 0.75, [(2, 0, 1)]),  # the middle one is too near to both
        ("aa", [-100, -2], 0.1, [(1, 0, 98)]),  # negative rewards
        ("aa", [0.5, 0.25], 0.25, [(0, 1, 0.25)]),  # the margin itself is enough; exact in binary
        ("aa", [0.5, 0.25], 0.250001, []),
        ("aa", [0.3, 0.2], 0.1, []),  # 0.3 - 0.2 is 0.09999999999999998, in the recipe as here
        ("aa", [0.1, 0.0], 0.1, [(0, 1, 0.1)]),
        ("aa", [5e-324, 0.0], 0, [(0, 1, 5e-324)]),  # the least difference there is
        ("aa", [0.0, -0.0], 0, []),  # both are zero
        ("aaa", [-0.0, 0.0, -1], 0.5, [(0, 2, 1), (1, 2, 1)]),  # zeros are equal: input order
    ],
)
def test_pairs_by_hand(groups, rewards, min_margin, expected):
    assert pairs_of(list(groups), rewards, min_margin) == expected


@pytest.mark.parametrize(
    ("groups", "rewards", "min_margin", "expected"),
    [
        ("", [], 0.1, []),
        ("a", [1], 0.1, ["single_rollout"]),
        ("aa", [1, 1], 0.1, ["equal_rewards"] * 2),
        ("aa", [0.0, -0.0], 0.1, ["equal_rewards"] * 2),
        ("aa", [1, 0.95], 0.1, ["below_margin"] * 2),
        ("aa", [1, 0], 0.1, [None, None]),
        ("aaab", [0, 0.5, 1, 1], 0.75, [None, "below_margin", None, "single_rollout"]),  # each for itself
    ],
)
def test_reasons_by_hand(groups, rewards, min_margin, expected):
    assert reasons_of(list(groups), rewards, min_margin) == expected


def test_two_equal_texts_are_no_preference():
    # rows 0 and 1 have one text and rewards 1 and 0; row 2 has another text
    rollouts = frame(list("aaab"), [1, 0, 0, 1], ["same", "same", "other", "same"])
    pairs = distinct_responses(pairs_above_margin(rollouts, min_margin=0.1), rollouts).collect()
    assert list(pairs.iter_rows()) == [(0, 2, 1)]
    assert reasons_of(list("aaab"), [1, 0, 0, 1], 0.1, ["same", "same", "other", "same"]) == [
        None,
        "equal_responses",
        None,
        "single_rollout",
    ]


REWARDS = st.sampled_from([-1.0, -0.0, 0.0, 0.1, 0.2, 0.3, 0.5, 1.0]) | st.floats(-1e9, 1e9)
ROLLOUTS = st.lists(st.tuples(st.sampled_from("abc"), REWARDS), max_size=24)


@settings(max_examples=150, deadline=None)
@given(ROLLOUTS, st.sampled_from([0.0, 0.1, 0.5, 1.0]) | st.floats(0, 10))
def test_the_pairs_are_those_of_the_recipe_in_its_order(rollouts, min_margin):
    groups, rewards = [group for group, _ in rollouts], [reward for _, reward in rollouts]
    assert pairs_of(groups, rewards, min_margin) == recipe_pairs(groups, rewards, min_margin)


@settings(max_examples=100, deadline=None)
@given(ROLLOUTS, st.sampled_from([0.0, 0.1, 1.0]))
def test_no_pair_is_a_tie_nor_across_groups_and_each_other_row_has_a_reason(rollouts, min_margin):
    groups, rewards = [group for group, _ in rollouts], [reward for _, reward in rollouts]
    pairs = pairs_of(groups, rewards, min_margin)
    assert len({(chosen, rejected) for chosen, rejected, _ in pairs}) == len(pairs)
    for chosen, rejected, margin in pairs:
        assert groups[chosen] == groups[rejected]
        assert rewards[chosen] > rewards[rejected]
        assert margin == rewards[chosen] - rewards[rejected] >= min_margin
    paired = {row for chosen, rejected, _ in pairs for row in (chosen, rejected)}
    assert [reason is None for reason in reasons_of(groups, rewards, min_margin)] == [
        row in paired for row in range(len(groups))
    ]
