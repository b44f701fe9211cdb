"""Which rollouts answer the same question: each trap that real files hold, and rows of odd types."""

from pathlib import Path

import pytest

from pipeline.convert import prompt_messages
from pipeline.identify import agent_name, group_key

HERE, THERE = Path("run1/rollouts.jsonl"), Path("run2/rollouts.jsonl")


def key_of(row, path=HERE):
    return group_key(row, prompt_messages(row["responses_create_params"]), path=path)


@pytest.fixture
def pair_of(rollout):
    """Make two rows that differ by what is given for the second."""

    def make(first, second):
        return rollout(**first), rollout(**second)

    return make


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {}),
        ({"_ng_task_index": 3}, {"_ng_task_index": 3}),
        # what a rollout, not its task, is about
        ({"response": "A", "reward": 1}, {"response": "B", "reward": 0}),
        ({"_ng_rollout_index": 0}, {"_ng_rollout_index": 1}),
        ({"extracted_answer": "A"}, {"extracted_answer": None}),
        # the seed of a repeat (num_repeats_add_seed)
        (
            {"params": {"metadata": {"extra_body": '{"seed": 0}'}}},
            {"params": {"metadata": {"extra_body": '{"seed": 1}'}}},
        ),
        ({"params": {"metadata": {"extra_body": '{"seed": 0}'}}}, {"params": {"metadata": None}}),
        ({"params": {"temperature": 1.0}}, {"params": {"temperature": 0.5}}),
        # one prompt, written in three ways
        ({"prompt": "Q"}, {"params": {"input": "Q"}}),
        ({"prompt": "Q"}, {"prompt": [{"role": "user", "content": [{"type": "input_text", "text": "Q"}]}]}),
        # with an index, the truth may come in another form
        ({"_ng_task_index": 0, "expected_answer": "1"}, {"_ng_task_index": 0, "expected_answer": None}),
        # the order of keys
        ({"verifier_metadata": {"a": 1, "b": 2}}, {"verifier_metadata": {"b": 2, "a": 1}}),
        ({"agent_ref": {"name": "x"}}, {"agent_ref": {"type": "responses_api_agents", "name": "x"}}),
        ({"expected_answer": None}, {}),
        ({"_ng_task_index": None}, {}),
    ],
    ids=str,
)
def test_rollouts_of_one_task(pair_of, first, second):
    one, other = pair_of(first, second)
    assert key_of(one) == key_of(other)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        # blackjack: one index, a random deal in each prompt
        ({"_ng_task_index": 0, "prompt": "You hold 12"}, {"_ng_task_index": 0, "prompt": "You hold 20"}),
        # wordle, tetris: one prompt, five tasks
        ({"_ng_task_index": 0}, {"_ng_task_index": 1}),
        ({"_ng_task_index": 0}, {}),
        ({"_ng_task_index": 0}, {"_ng_task_index": "0"}),
        ({"_ng_task_id": {"taskset": "t", "task_id": "1"}}, {"_ng_task_id": {"taskset": "t", "task_id": "2"}}),
        ({"_ng_task_id": "1", "_ng_task_index": 0}, {"_ng_task_id": "2", "_ng_task_index": 0}),
        # newton_bench: one prompt, no index, three hidden tasks
        ({"difficulty": "easy"}, {"difficulty": "hard"}),
        ({"expected_answer": "1"}, {"expected_answer": "2"}),
        ({"expected_answer": 1}, {"expected_answer": "1"}),
        ({"expected_answer": False}, {"expected_answer": None}),
        ({"expected_answer": float("nan")}, {"expected_answer": float("inf")}),
        ({"verifier_metadata": {"a": [1]}}, {"verifier_metadata": {"a": [2]}}),
        ({"verifier_metadata": "12"}, {"expected_answer": "12"}),
        ({"uuid": "1"}, {"uuid": "2"}),
        ({"instance_id": "1"}, {"instance_id": "2"}),
        # agents
        ({"agent_ref": {"name": "x"}}, {"agent_ref": {"name": "y"}}),
        ({"agent_ref": {"name": "x"}}, {}),
        # prompts that differ before the last user message, or only by role
        ({"params": {"instructions": "be short"}}, {"params": {"instructions": "be long"}}),
        ({"params": {"instructions": "be short"}}, {}),
        (
            {"prompt": [{"role": "system", "content": "S1"}, {"role": "user", "content": "Q"}]},
            {"prompt": [{"role": "system", "content": "S2"}, {"role": "user", "content": "Q"}]},
        ),
        (
            {"prompt": [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}]},
            {"prompt": [{"role": "developer", "content": "S"}, {"role": "user", "content": "Q"}]},
        ),
        # texts that are equal once joined
        (
            {"prompt": [{"role": "user", "content": "ab"}, {"role": "user", "content": "c"}]},
            {"prompt": [{"role": "user", "content": "a"}, {"role": "user", "content": "bc"}]},
        ),
        ({"prompt": "Q"}, {"prompt": "Q "}),
        # metadata is part of what was asked
        ({"params": {"metadata": {"problem": "1"}}}, {"params": {"metadata": {"problem": "2"}}}),
        ({"params": {"metadata": {"problem": "1"}}}, {}),
    ],
    ids=str,
)
def test_rollouts_of_two_tasks(pair_of, first, second):
    one, other = pair_of(first, second)
    assert key_of(one) != key_of(other)


def test_an_index_starts_again_in_each_file(rollout):
    row = rollout(_ng_task_index=0)
    assert key_of(row, HERE) != key_of(row, THERE)


@pytest.mark.parametrize(
    "value",
    [0, -1, 1.5, True, "x", "", [], [1], {}, {"a": {"b": [None]}}, 2**64, -(2**70), 10**400, float("inf")],
    ids=lambda value: str(value)[:20],
)
@pytest.mark.parametrize(
    "key", ["_ng_task_index", "_ng_task_id", "expected_answer", "verifier_metadata", "agent_ref", "uuid"]
)
def test_keys_of_any_type_identify(rollout, key, value):
    assert key_of(rollout(**{key: value})) == key_of(rollout(response="B", **{key: value}))


@pytest.mark.parametrize("metadata", [[], [1], "x", 0, 5, 1.5, True, ["audio_url"], {"k": 2**70}, {"k": {"l": []}}])
def test_metadata_of_any_type_is_no_error(rollout, metadata):
    row = rollout(params={"metadata": metadata})
    assert key_of(row) == key_of(row)


def test_a_file_name_that_is_no_utf_8_is_no_error(rollout):
    assert key_of(rollout(), Path("rollouts\udcff.jsonl"))


@pytest.mark.parametrize(
    ("reference", "name"),
    [({"name": "x"}, "x"), ({"name": 5}, None), ({}, None), (None, None), ("x", None), (["x"], None), (5, None)],
)
def test_the_agent_is_named_where_the_row_says_it(rollout, reference, name):
    assert agent_name(rollout(agent_ref=reference)) == name
