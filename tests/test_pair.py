"""Which rollouts could be paired, and which rule speaks against the rest."""

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.pair import candidate_pairs, reward_deviations, slabs
from pipeline.settings import Margin, Settings
from tests.ranked import pairing_of, pairs_of, ranked, reasons_by_rows, rollouts_of, unpaired_of


@pytest.mark.parametrize(
    ("groups", "rewards", "min_margin", "expected"),
    [
        ("", [], 0.1, []),  # nothing
        ("a", [1], 0.1, []),  # one rollout
        ("aa", [1, 0], 0.1, [(0, 1)]),
        ("aa", [0, 1], 0.1, [(1, 0)]),  # the higher reward is chosen wherever it stands
        ("aa", [1, 1], 0.1, []),  # a tie
        ("aa", [1, 1], 0, []),  # a tie is no preference even without a margin
        ("ab", [1, 0], 0.1, []),  # two groups
        ("abab", [1, 0, 0, 1], 0.1, [(0, 2), (3, 1)]),
        ("baab", [0, 1, 0, 1], 0.1, [(1, 2), (3, 0)]),
        ("aaa", [0, 2, 1], 0.1, [(1, 2), (1, 0), (2, 0)]),  # all pairs, best first
        ("aaaa", [1, 0, 1, 0], 0.1, [(0, 1), (0, 3), (2, 1), (2, 3)]),
        ("aaa", [0, 0.5, 1], 0.75, [(2, 0)]),  # the middle one is too near to both
        ("aa", [-100, -2], 0.1, [(1, 0)]),  # negative rewards
        ("aa", [0.5, 0.25], 0.25, [(0, 1)]),  # the margin itself is enough; exact in binary
        ("aa", [0.5, 0.25], 0.250001, []),
        ("aa", [0.3, 0.2], 0.1, []),  # 0.3 - 0.2 is 0.09999999999999998, in the recipe as here
        ("aa", [0.1, 0.0], 0.1, [(0, 1)]),
        ("aa", [5e-324, 0.0], 0, [(0, 1)]),  # the least difference there is
        ("aa", [1e308, -1e308], 0.1, [(0, 1)]),  # a difference beyond the floats
    ],
)
def test_pairs_by_hand(groups, rewards, min_margin, expected):
    assert pairs_of(rollouts_of(groups, rewards), min_margin=Margin(min_margin)) == expected


def test_the_margin_is_the_difference_of_the_rewards():
    frame = ranked({"reward": 0.75}, {"reward": -1.5}, {"reward": 0.5})
    (slab,) = slabs(frame)
    pairs = candidate_pairs(slab.lazy()).collect()
    assert pairs["margin"].to_list() == [0.25, 2.25, 2.0]
    assert pairs.select("chosen_reward", "rejected_reward").rows() == [(0.75, 0.5), (0.75, -1.5), (0.5, -1.5)]


def test_a_group_is_described_with_its_size_mean_and_deviation():
    (slab,) = slabs(ranked(*rollouts_of("aaab", [1, 0, 0.5, 7])))
    pairs = candidate_pairs(slab.lazy()).collect()
    # mean 1/2; the squares of 1/2, 1/2 and 0 have the mean 1/6
    assert pairs["group_size"].unique().to_list() == [3]
    assert pairs["group_mean"].unique().to_list() == [0.5]
    assert pairs["group_deviation"].to_list() == pytest.approx([(1 / 6) ** 0.5] * 3)


def test_responses_that_are_equal_once_normalised_are_no_preference():
    rollouts = rollouts_of("aaa", [1, 0, 0], response=[5, 5, 6])
    assert reasons_by_rows(ranked(*rollouts), Settings()) == {(0, 1): "equal_responses", (0, 2): None}
    assert unpaired_of(rollouts) == {1: "equal_responses"}


def test_a_truncated_response_is_never_chosen_and_may_be_rejected():
    rollouts = rollouts_of("aaa", [1, 0.5, 0], truncated=[True, False, True])
    assert reasons_by_rows(ranked(*rollouts), Settings(allow_truncated_rejected=True)) == {
        (0, 1): "chosen_truncated",
        (0, 2): "chosen_truncated",
        (1, 2): None,
    }
    assert unpaired_of(rollouts, allow_truncated_rejected=True) == {0: "chosen_truncated"}


def test_a_pair_never_differs_in_whether_there_is_reasoning():
    rollouts = rollouts_of("aaaa", [1, 0.5, 0.25, 0], reasoning=[True, False, True, False])
    assert pairs_of(rollouts) == [(0, 2), (1, 3)]
    assert reasons_by_rows(ranked(*rollouts), Settings())[0, 1] == "reasoning_differs"


@pytest.mark.parametrize(
    ("least", "most", "expected"),
    [
        (None, None, [(0, 1), (0, 2), (1, 2)]),
        (1, None, [(0, 1), (0, 2)]),  # the bound itself is enough
        (1.01, None, []),
        (None, 0.5, [(0, 1), (0, 2), (1, 2)]),  # here too
        (None, 0.49, [(0, 2), (1, 2)]),
        (1, 0.49, [(0, 2)]),
    ],
)
def test_bounds_of_the_rewards_hold_after_grouping(least, most, expected):
    rollouts = rollouts_of("aaa", [1, 0.5, 0])
    assert pairs_of(rollouts, min_chosen_reward=least, max_rejected_reward=most) == expected


@pytest.mark.parametrize(("ratio", "expected"), [(None, [(0, 1), (0, 2)]), (2, [(0, 1)]), (1.99, []), (10, [(0, 1)])])
def test_responses_may_not_be_too_different_in_length(ratio, expected):
    # 10 characters against 20 and against 101; whether the longer one is chosen does not matter
    assert pairs_of(rollouts_of("aaa", [1, 0, 0], num_chars=[10, 20, 101]), max_length_ratio=ratio) == expected
    assert len(pairs_of(rollouts_of("aaa", [0, 1, 1], num_chars=[10, 20, 101]), max_length_ratio=ratio)) == len(
        expected
    )


def test_an_empty_answer_has_a_length_ratio_too():
    rollouts = rollouts_of("aa", [1, 0], num_chars=[3, 0])  # tool calls without a word: as if it were one character
    assert pairs_of(rollouts, max_length_ratio=3) == [(0, 1)]
    assert pairs_of(rollouts, max_length_ratio=2.9) == []


def test_the_first_rule_that_speaks_against_a_pair_is_named():
    # too near, out of bounds, equal, truncated, with reasoning and too long apart, all at once; then one rule less each
    rollout = {"reward": 1.05, "truncated": True, "reasoning": True, "num_chars": 1, "response": 1}
    other = {"reward": 1.0, "num_chars": 99, "response": 1}
    steps = [
        ({}, {}, "below_margin"),
        ({"reward": 2.0}, {}, "reward_bounds"),
        ({"reward": 3.0}, {}, "equal_responses"),
        ({"reward": 3.0}, {"response": 2}, "chosen_truncated"),
        ({"reward": 3.0, "truncated": False}, {"response": 2}, "reasoning_differs"),
        ({"reward": 3.0, "truncated": False}, {"response": 2, "reasoning": True}, "length_ratio"),
        ({"reward": 3.0, "truncated": False, "num_chars": 99}, {"response": 2, "reasoning": True}, None),
    ]
    bounds = Settings(min_chosen_reward=2.5, max_length_ratio=2)
    found = [reasons_by_rows(ranked(rollout | one, other | two), bounds)[0, 1] for one, two, _ in steps]
    assert found == [reason for _, _, reason in steps]


def test_a_rollout_in_no_pair_has_the_reason_of_its_pair_that_came_furthest():
    # row 2 is too near to row 1, and has the text of row 0
    rollouts = rollouts_of("aaa", [1, 0.05, 0], response=[5, 6, 5])
    assert pairs_of(rollouts) == [(0, 1)]
    assert unpaired_of(rollouts) == {2: "equal_responses"}


@pytest.mark.parametrize(
    ("groups", "rewards", "expected"),
    [
        ("", [], {}),
        ("a", [1], {0: "single_rollout"}),
        ("aa", [1, 1], {0: "equal_rewards", 1: "equal_rewards"}),
        ("aa", [1, 0.95], {0: "below_margin", 1: "below_margin"}),
        ("aa", [1, 0], {}),
        ("aaab", [0, 0.5, 1, 1], {3: "single_rollout"}),
        ("aaabb", [1, 0, 0.95, 3, 3], {3: "equal_rewards", 4: "equal_rewards"}),
    ],
)
def test_reasons_of_rollouts_by_hand(groups, rewards, expected):
    assert unpaired_of(rollouts_of(groups, rewards)) == expected


def test_counts_by_hand():
    # group a: two pairs and one too near; b varies, but not enough; c does not; d is alone
    pairing = pairing_of(rollouts_of("aaabbccd", [1, 0, 0.05, 1, 0.95, 2, 2, 3]))
    assert (pairing.num_groups, pairing.num_varied_groups, pairing.num_paired_groups) == (4, 2, 1)
    assert (pairing.num_paired_rollouts, len(pairing.pairs)) == (3, 2)
    assert {reason.value: count for reason, count in pairing.left_out.items()} == {"below_margin": 2}


def test_pairs_with_a_response_of_several_messages_are_counted():
    rollouts = rollouts_of("aaa", [1, 0, 0], several=[False, True, False])
    assert pairing_of(rollouts).num_several_messages == 1


def test_deviations_by_hand():
    # agent 0: rewards 1, 0, 0, 1: mean 1/2, deviation 1/2; agent 1: 3, 5, 10: mean 6, variance (9 + 1 + 16) / 3
    frame = ranked(*rollouts_of("aabbccc", [1, 0, 0, 1, 3, 5, 10], agent=[0, 0, 0, 0, 1, 1, 1]))
    rows = sorted(reward_deviations(frame).rows())
    assert rows == [(0, 0.5, 0.5), (1, pytest.approx(6), pytest.approx((26 / 3) ** 0.5))]


def test_deviations_do_not_depend_on_the_order():
    rewards = [0.1, 0.2, 0.3, 1e16, -1e16, 0.7]  # a running sum would
    forward = reward_deviations(ranked(*rollouts_of("abcdef", rewards))).rows()
    backward = reward_deviations(ranked(*rollouts_of("abcdef", rewards[::-1]))).rows()
    assert forward == backward


def test_deviations_of_the_largest_rewards_are_no_fault_of_ours():
    """Rewards have no bound (Gym's verifiers write what they like), and squares overflow from 1e155 on."""
    ((_, mean, deviation),) = reward_deviations(ranked({"reward": 1e300}, {"reward": -1e300})).rows()
    assert (mean, deviation) == (0, 1e300)


@pytest.mark.parametrize(
    ("margin", "expected"), [("1sd", [(0, 1)]), ("2sd", [(0, 1)]), ("2.01sd", []), ("0sd", [(0, 1)])]
)
def test_a_margin_in_deviations_of_the_agents_rewards(margin, expected):
    # deviation 1/2, so 2sd is the difference itself
    assert pairs_of(rollouts_of("aabb", [1, 0, 0, 0]), min_margin=Margin.parse("3sd")) == []
    assert pairs_of(rollouts_of("aa", [1, 0]), min_margin=Margin.parse(margin)) == expected


def test_each_agent_has_its_own_deviation():
    # agent 0 gives 0 or 100, agent 1 0 or 1: half a deviation is 25 and 0.25
    rewards = [100, 80, 0, 1, 0.8, 0]
    rollouts = rollouts_of("aaabbb", rewards, agent=[0, 0, 0, 1, 1, 1])
    assert pairs_of(rollouts, min_margin=Margin.parse("0.5sd")) == [(0, 2), (1, 2), (3, 5), (4, 5)]
    assert pairs_of(rollouts, min_margin=Margin(0.25)) == [(0, 1), (0, 2), (1, 2), (3, 5), (4, 5)]


def recipe_pairs(groups, rewards, min_margin):
    """The pairing rule of NeMo Gym's recipe: stable sort by falling reward, every two, a margin apart."""
    rows_of_group = {}
    for row, group in enumerate(groups):
        rows_of_group.setdefault(group, []).append(row)
    pairs = set()
    for rows in rows_of_group.values():
        for high, low in combinations(sorted(rows, key=lambda row: rewards[row], reverse=True), 2):
            if rewards[high] - rewards[low] >= min_margin and rewards[high] != rewards[low]:
                pairs.add((high, low))
    return pairs


REWARDS = st.sampled_from([-1.0, 0.0, 0.1, 0.2, 0.3, 0.5, 1.0]) | st.floats(-1e9, 1e9).map(lambda number: number + 0.0)
ROLLOUTS = st.lists(st.tuples(st.sampled_from("abc"), REWARDS), max_size=24)


@settings(max_examples=50, deadline=None)
@given(ROLLOUTS, st.sampled_from([0.0, 0.1, 0.5, 1.0]) | st.floats(0, 10))
def test_the_pairs_are_those_of_the_recipe(rollouts, min_margin):
    groups, rewards = "".join(group for group, _ in rollouts), [reward for _, reward in rollouts]
    pairs = pairs_of(rollouts_of(groups, rewards), min_margin=Margin(min_margin))
    assert len(set(pairs)) == len(pairs)
    assert set(pairs) == recipe_pairs(groups, rewards, min_margin)


@settings(max_examples=50, deadline=None)
@given(ROLLOUTS, st.sampled_from([0.0, 0.1, 1.0]))
def test_each_rollout_is_in_a_pair_or_has_a_reason(rollouts, min_margin):
    made = rollouts_of("".join(group for group, _ in rollouts), [reward for _, reward in rollouts])
    paired = {row for pair in pairs_of(made, min_margin=Margin(min_margin)) for row in pair}
    assert unpaired_of(made, min_margin=Margin(min_margin)).keys() | paired == set(range(len(made)))
    assert not unpaired_of(made, min_margin=Margin(min_margin)).keys() & paired


def test_a_slab_ends_between_groups_and_none_is_lost(monkeypatch):
    monkeypatch.setattr("pipeline.pair.CANDIDATES_AT_ONCE", 2)  # so that a few rollouts make several slabs
    rollouts = rollouts_of("aaabbcdddd", [3, 2, 1, 1, 0, 5, 4, 3, 2, 1])
    frame = ranked(*rollouts)
    cut = list(slabs(frame))
    assert len(cut) > 1
    assert [group for slab in cut for group in slab["group"]] == frame["group"].to_list()
    ends = [slab["group"].unique().to_list() for slab in cut]
    assert sum(map(len, ends)) == 4  # no group is in two
    assert len(pairs_of(rollouts)) == 3 + 1 + 6
