"""Which rollouts answer the same question: each trap that real files hold, and rows of odd types.

What is asked here is whether two rows get one group key; that files are not mixed is in test_collect.py.
"""

import json

import pytest

from pipeline.attrition import Reason, RowDropped
from pipeline.identify import agent_name, digest_of
from pipeline.prompts import Prompts
from pipeline.record import decode_record
from pipeline.rollout import rollout_of
from pipeline.settings import Format, Settings


def rollout_from(row, *, stable=None, **settings):
    content = json.dumps(row).encode()
    settings = Settings(**{"format": Format.TRL, **settings})
    prompts = Prompts(keep_reasoning=True, clusters=False)
    return rollout_of(decode_record(content), content, settings, prompts=prompts, stable=stable)


def key_of(row, **settings):
    return rollout_from(row, **settings).group


def user(content):
    return {"role": "user", "content": content}


def system(content):
    return {"role": "system", "content": content}


def said(text):
    part = {"type": "output_text", "text": text, "annotations": []}
    return {"type": "message", "role": "assistant", "content": [part]}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({}, {}),
        ({"_ng_task_index": 3}, {"_ng_task_index": 3}),
        # what a rollout, not its task, is about
        ({"response": "A", "reward": 1}, {"response": "B", "reward": 0}),
        ({"_ng_rollout_index": 0}, {"_ng_rollout_index": 1}),
        ({"_ng_attempt_index": 1}, {"_ng_attempt_index": 2}),
        ({"extracted_answer": "A"}, {"extracted_answer": None}),
        # the seed of a repeat (num_repeats_add_seed: speed_bench, evalplus)
        (
            {"params": {"metadata": {"extra_body": '{"seed": 0}'}}},
            {"params": {"metadata": {"extra_body": '{"seed": 1}'}}},
        ),
        ({"params": {"metadata": {"extra_body": '{"seed": 0}'}}}, {"params": {"metadata": None}}),
        ({"params": {"metadata": {}}}, {}),
        ({"params": {"temperature": 1.0}}, {"params": {"temperature": 0.5}}),
        # one prompt, written in several ways
        ({"prompt": "Q"}, {"params": {"input": "Q"}}),
        ({"prompt": "Q"}, {"prompt": [{"role": "user", "content": [{"type": "input_text", "text": "Q"}]}]}),
        ({"prompt": "Q"}, {"prompt": [{"type": None, "id": None, "status": None, "role": "user", "content": "Q"}]}),
        # the server's copy has nulls
        ({"params": {"tools": [], "instructions": None, "text": None}}, {}),
        (
            {"params": {"tools": [{"type": "function", "name": "f", "strict": True}]}},
            {"params": {"tools": [{"type": "function", "name": "f", "strict": None, "description": None}]}},
        ),
        # with an index, the truth may come in another form
        ({"_ng_task_index": 0, "expected_answer": "1"}, {"_ng_task_index": 0, "expected_answer": None}),
        # the order of keys
        ({"verifier_metadata": {"a": 1, "b": 2}}, {"verifier_metadata": {"b": 2, "a": 1}}),
        ({"params": {"metadata": {"a": "1", "b": "2"}}}, {"params": {"metadata": {"b": "2", "a": "1"}}}),
        ({"agent_ref": {"name": "x"}}, {"agent_ref": {"type": "responses_api_agents", "name": "x"}}),
        ({"expected_answer": None}, {}),
        ({"_ng_task_index": None}, {}),
    ],
    ids=str,
)
def test_rollouts_of_one_task(rollout, first, second):
    assert key_of(rollout(**first)) == key_of(rollout(**second))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        # blackjack: one index, a random deal in each prompt
        ({"_ng_task_index": 0, "prompt": "You hold 12"}, {"_ng_task_index": 0, "prompt": "You hold 20"}),
        # wordle, tetris, openair_congestion: one prompt, five tasks
        ({"_ng_task_index": 0}, {"_ng_task_index": 1}),
        ({"_ng_task_index": 0}, {}),
        ({"_ng_task_index": 0}, {"_ng_task_index": "0"}),
        ({"_ng_task_index": 0}, {"_ng_task_index": False}),
        ({"_ng_task_id": {"taskset": "t", "task_id": "1"}}, {"_ng_task_id": {"taskset": "t", "task_id": "2"}}),
        ({"_ng_task_id": "1", "_ng_task_index": 0}, {"_ng_task_id": "2", "_ng_task_index": 0}),
        # newton_bench: one prompt, no index, three hidden tasks
        ({"difficulty": "easy"}, {"difficulty": "hard"}),
        ({"expected_answer": "1"}, {"expected_answer": "2"}),
        ({"expected_answer": 1}, {"expected_answer": "1"}),
        ({"expected_answer": False}, {"expected_answer": None}),
        ({"expected_answer": float("nan")}, {"expected_answer": float("inf")}),
        ({"expected_answer": 2**70}, {"expected_answer": 2**70 + 1}),
        ({"verifier_metadata": {"a": [1]}}, {"verifier_metadata": {"a": [2]}}),
        ({"verifier_metadata": "12"}, {"expected_answer": "12"}),
        ({"uuid": "1"}, {"uuid": "2"}),
        ({"task_id": "1"}, {"task_id": "2"}),
        ({"problem_id": 1}, {"problem_id": 2}),
        ({"instance_id": "1"}, {"instance_id": "2"}),
        ({"ground_truth": "1"}, {"ground_truth": "2"}),
        ({"kwargs": [{"num_words": 1}]}, {"kwargs": [{"num_words": 2}]}),
        # agents
        ({"agent_ref": {"name": "x"}}, {"agent_ref": {"name": "y"}}),
        ({"agent_ref": {"name": "x"}}, {}),
        ({"agent_ref": {"name": ""}}, {}),
        # prompts that differ before the last user message, or only by role
        ({"params": {"instructions": "be short"}}, {"params": {"instructions": "be long"}}),
        ({"params": {"instructions": "be short"}}, {}),
        ({"prompt": [system("S1"), user("Q")]}, {"prompt": [system("S2"), user("Q")]}),
        ({"prompt": [system("S"), user("Q")]}, {"prompt": [{"role": "developer", "content": "S"}, user("Q")]}),
        # texts that are equal once joined
        ({"prompt": [user("ab"), user("c")]}, {"prompt": [user("a"), user("bc")]}),
        ({"prompt": "Q"}, {"prompt": "Q "}),
        # the tools, and the format of the answer
        ({"params": {"tools": [{"name": "f"}]}}, {}),
        ({"params": {"tools": [{"name": "f"}]}}, {"params": {"tools": [{"name": "g"}]}}),
        ({"params": {"text": {"format": {"type": "json_object"}}}}, {}),
        # metadata is part of what was asked
        ({"params": {"metadata": {"problem": "1"}}}, {"params": {"metadata": {"problem": "2"}}}),
        ({"params": {"metadata": {"problem": "1"}}}, {}),
        # prior turns with tools
        (
            {"prompt": [user("Q"), {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"x":1}'}]},
            {"prompt": [user("Q"), {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"x":2}'}]},
        ),
    ],
    ids=str,
)
def test_rollouts_of_two_tasks(rollout, first, second):
    assert key_of(rollout(**first)) != key_of(rollout(**second))


def test_numbers_of_19_digits_stay_apart_beside_a_nan(rollout):
    """Ids of services have so many digits; beside a NaN the row is read in another way."""
    rows = [rollout(verifier_metadata={"id": 1234567890123456780 + last, "score": float("nan")}) for last in (1, 2)]
    assert key_of(rows[0]) != key_of(rows[1])


def test_tools_that_an_agent_offered_are_part_of_the_question(rollout):
    """Some agents add them to the response alone; those of the dataset row go first."""
    tool, other = {"type": "function", "name": "f"}, {"type": "function", "name": "g"}
    offered = rollout()
    offered["response"]["tools"] = [tool]
    assert key_of(offered) != key_of(rollout())
    assert key_of(offered) == key_of(rollout(params={"tools": [tool]}))
    offered["responses_create_params"]["tools"] = [other]
    assert key_of(offered) == key_of(rollout(params={"tools": [other]}))


def test_agents_are_mixed_on_request(rollout):
    rows = [rollout(agent_ref={"name": name}) for name in ("x", "y")]
    assert key_of(rows[0], across_agents=True) == key_of(rows[1], across_agents=True)


def test_across_files_the_truth_tells_tasks_apart(rollout):
    """The index restarts in each run, so a run over another selection gives a task another index."""
    one, other = rollout(_ng_task_index=0, uuid="u1"), rollout(_ng_task_index=7, uuid="u1")
    assert key_of(one) != key_of(other)
    assert key_of(one, across_files=True) == key_of(other, across_files=True)
    third = rollout(_ng_task_index=0, uuid="u2")
    assert key_of(one, across_files=True) != key_of(third, across_files=True)


def test_across_files_an_index_without_a_truth_still_tells_tasks_apart(rollout):
    """wordle: the prompt is the same for all tasks, and the hidden word is nowhere in the row."""
    rows = [rollout(prompt="Guess the word.", _ng_task_index=index) for index in (0, 1)]
    assert key_of(rows[0], across_files=True) != key_of(rows[1], across_files=True)


def test_what_the_materialized_inputs_say_goes_first(rollout):
    row = rollout(_ng_task_index=0, uuid="u1")
    assert key_of(row, stable=b"one") == key_of(rollout(_ng_task_index=5), stable=b"one")
    assert key_of(row, stable=b"one") != key_of(row, stable=b"two")
    assert key_of(row, stable=b"one") != key_of(row)


# ---- prompts that an agent built itself: `input` is empty


def empty(rollout, output, **keys):
    return rollout(prompt=[], response=output, **keys)


def test_a_leading_system_and_user_message_of_the_output_are_the_prompt(rollout):
    """gdpval: one index, as its rows have."""
    row = empty(rollout, [system("S"), user("Do it"), said("A")], _ng_task_index=0)
    made = rollout_from(row, format=Format.BINARY)
    assert json.loads(made.question.prompt) == [system("S"), user("Do it")]
    assert json.loads(made.response) == "A"
    other = empty(rollout, [system("S"), user("Do it"), said("B")], _ng_task_index=0)
    assert key_of(row) == key_of(other)
    assert key_of(row) != key_of(empty(rollout, [system("S"), user("Do that"), said("A")], _ng_task_index=0))
    assert key_of(row) != key_of(empty(rollout, [user("Do it"), said("A")], _ng_task_index=0))
    assert key_of(row) != key_of({**row, "_ng_task_index": 1})


def test_the_last_snapshot_begins_with_the_prompt(rollout):
    """aviary: a list of lists of items."""
    snapshots = [[user("Q"), said("A1")], [user("Q"), said("A1"), user("ok"), said("A2")]]
    made = rollout_from(empty(rollout, snapshots, _ng_task_index=0))
    assert json.loads(made.question.prompt) == [user("Q")]
    assert [message["content"] for message in json.loads(made.response)] == ["A1", "ok", "A2"]
    other = empty(rollout, [[user("Q2"), said("A")]], _ng_task_index=0)
    assert made.group != key_of(other)


def test_a_trajectory_that_repeats_the_prompt_does_not_double_it(rollout):
    prompt = [system("S"), user("Q")]
    made = rollout_from(rollout(prompt=prompt, response=[*prompt, said("A")]))
    assert json.loads(made.question.prompt) == prompt
    assert made.group == key_of(rollout(prompt=prompt))


@pytest.mark.parametrize("params", [{"input": [], "instructions": "S"}, {"input": [system("S")]}])
def test_a_trajectory_that_repeats_part_of_the_prompt_does_not_double_it(rollout, params):
    """An agent that was given the system message, and built the rest."""
    made = rollout_from(rollout(response=[system("S"), user("Q"), said("A")], params=params))
    assert json.loads(made.question.prompt) == [system("S"), user("Q")]


def test_what_the_environment_says_first_belongs_to_the_prompt(rollout):
    made = rollout_from(rollout(prompt="Play.", response=[user("You hold 12"), said("hit")]))
    assert json.loads(made.question.prompt) == [user("Play."), user("You hold 12")]
    assert made.group != key_of(rollout(prompt="Play.", response=[user("You hold 20"), said("hit")]))


def test_with_an_index_the_problem_statement_is_the_prompt(rollout):
    """anyswe_agent: the best real pairs there are."""
    row = empty(rollout, [said("A")], _ng_task_index=0, params={"metadata": {"problem_statement": "Fix it."}})
    made = rollout_from(row, format=Format.BINARY)
    assert json.loads(made.question.prompt) == [user("Fix it.")]
    assert key_of(row) == key_of({**row, "reward": 0.0})
    assert key_of(row) != key_of({**row, "_ng_task_index": 1})
    changed = {"metadata": {"problem_statement": "Fix it.", "commit": "2"}}
    assert key_of(row) != key_of(empty(rollout, [said("A")], _ng_task_index=0, params=changed))


def test_instructions_stay_before_the_problem_statement(rollout):
    params = {"metadata": {"problem_statement": "Fix it."}, "instructions": "S"}
    made = rollout_from(empty(rollout, [said("A")], _ng_task_index=0, params=params))
    assert json.loads(made.question.prompt) == [system("S"), user("Fix it.")]


@pytest.mark.parametrize(
    ("index", "params"),
    [
        # nothing that tells tasks apart
        ({"_ng_task_index": 0}, {}),
        ({"_ng_task_index": 0}, {"metadata": {"instance_id": "1"}}),
        ({"_ng_task_index": 0}, {"metadata": {"problem_statement": None}}),
        ({"_ng_task_index": 0}, {"metadata": {"problem_statement": " \n"}}),
        ({"_ng_task_index": 0}, {"metadata": {"problem_statement": ["Fix it."]}}),
        ({"_ng_task_index": 0}, {"metadata": "Fix it."}),
        ({}, {"metadata": {"problem_statement": "Fix it."}}),  # no index
        ({"_ng_task_index": None}, {"metadata": {"problem_statement": "Fix it."}}),
        # the same for all tasks
        ({}, {"instructions": "S"}),
        ({}, {"input": [system("S")]}),
        ({}, {"input": [{"role": "developer", "content": "S"}]}),
        ({}, {"input": ""}),
        ({}, {"input": " \n"}),
        ({}, {"input": [user("")]}),
        ({}, {"input": [user(None)]}),
        ({}, {"input": [{"type": "reasoning", "summary": []}]}),
    ],
    ids=str,
)
def test_a_prompt_that_asks_nothing_is_refused(rollout, index, params):
    with pytest.raises(RowDropped) as dropped:
        rollout_from(empty(rollout, [said("A")], params=params, **index))
    assert dropped.value.reason == Reason.PROMPT_EMPTY


# ---- fields of any type


@pytest.mark.parametrize(
    "value",
    [0, -1, 1.5, True, "x", "", [], [1], {}, {"a": {"b": [None]}}, 2**64, -(2**70), 10**400, float("inf")],
    ids=lambda value: str(value)[:20],
)
@pytest.mark.parametrize(
    "key", ["_ng_task_index", "_ng_task_id", "_ng_rollout_index", "expected_answer", "verifier_metadata", "agent_ref"]
)
def test_keys_of_any_type_identify(rollout, key, value):
    assert key_of(rollout(**{key: value})) == key_of(rollout(response="B", **{key: value}))


def test_a_truth_of_5000_digits_identifies(rollout):
    """Python refuses to read such a number, and the row may still be paired."""
    row = json.dumps(rollout(expected_answer="DIGITS")).replace('"DIGITS"', "7" * 5000).encode()
    prompts = Prompts(keep_reasoning=True, clusters=False)
    assert rollout_of(decode_record(row), row, Settings(), prompts=prompts).group


@pytest.mark.parametrize("metadata", [[], [1], "x", 0, 5, 1.5, True, ["audio_url"], {"k": 2**70}, {"k": {"l": []}}])
def test_metadata_of_any_type_is_no_error(rollout, metadata):
    row = rollout(params={"metadata": metadata})
    assert key_of(row) == key_of(row)


@pytest.mark.parametrize(
    ("reference", "name"),
    [({"name": "x"}, "x"), ({"name": 5}, None), ({}, None), (None, None), ("x", None), (["x"], None), (5, None)],
)
def test_the_agent_is_named_where_the_row_says_it(rollout, reference, name):
    assert agent_name(decode_record(json.dumps(rollout(agent_ref=reference)).encode())) == name


def test_parts_of_a_digest_are_framed():
    assert digest_of(b"ab", b"c") != digest_of(b"a", b"bc")
    assert digest_of(b"a") != digest_of(b"a", b"")


# ---- responses


def number_of(text):
    row = {"responses_create_params": {"input": "Q"}, "response": {"output": [said(text)]}, "reward": 1}
    return rollout_from(row).response_number


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A", "A"),
        ("A", " A\n"),
        ("a b", "a  b"),
        ("a b", "a\n\tb"),
        ("a\r\nb", "a\nb"),
        ("caf\u00e9", "cafe\u0301"),  # NFC
        ("\uac00", "\u1100\u1161"),
        ("a\\nb", "a\\nb "),
        ("\u65e5 \u672c", "\u65e5\n\u672c"),
    ],
    ids=ascii,
)
def test_responses_that_are_the_same_once_normalised(one, other):
    assert number_of(one) == number_of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A", "B"),
        ("A", "a"),
        ("A.", "A"),
        ("ab", "ba"),
        ("a\\nb", "a\nb"),  # a backslash and an n; a line feed
        ("a\\\\b", "a\\b"),
        ("\u00e0", "\u00c3"),  # in UTF-8 they share a byte, and the other one looks like a no-break space
        ("\u65e5\u00e0", "\u65e5\u00c3"),
        ("\ufb01", "fi"),  # NFKC would make them one
        ("12", "1 2"),  # what stands apart is two words
    ],
    ids=ascii,
)
def test_responses_that_differ(one, other):
    assert number_of(one) != number_of(other)
