"""The gate's rule on the order of messages."""

import json

import pytest

from pipeline.gate.rules import Rule
from pipeline.settings import Format
from tests.gate_pairs import binary, call, conversation, found, message, ranked, told

SYSTEM, DEVELOPER = message("system"), message("developer")
USER, ASSISTANT, RESULT = message("user"), message("assistant"), message("tool", "{}")
SPOKEN_CALL = message("assistant", '<tool_call>{"name": "look"}</tool_call>')


def of_sides(*messages):
    """Give what is found where chosen has these messages and rejected is an answer."""
    return told(conversation(USER, chosen=[*messages]), Rule.ROLE_ORDER)


@pytest.mark.parametrize(
    "row",
    [
        binary(),
        conversation(USER),
        conversation(SYSTEM, USER),
        conversation(SYSTEM, DEVELOPER, USER),  # `instructions` of the Responses API before a developer message
        conversation(USER, USER),  # two questions
        conversation(SYSTEM, ASSISTANT, USER),  # the assistant greets
        conversation(USER, ASSISTANT, USER, ASSISTANT, USER),
        conversation(USER, ASSISTANT, ASSISTANT, USER),
        conversation(USER, call(), RESULT),
        conversation(USER, call(), RESULT, RESULT, ASSISTANT, USER),  # two calls at once
        conversation(USER, call(), RESULT, USER),
        conversation(USER, SPOKEN_CALL, RESULT),  # a call in the text, as in many data sets
        conversation(USER, SPOKEN_CALL, USER),
        conversation(USER, chosen=[call(), RESULT, ASSISTANT]),
        conversation(USER, chosen=[call(), RESULT, call()]),  # the last call ends the episode
        conversation(USER, chosen=[call(), RESULT, USER, ASSISTANT]),
        conversation(USER, chosen=[ASSISTANT, USER, ASSISTANT]),
        # the prompt ends in a call, and both responses begin with its result
        conversation(USER, call(), chosen=[RESULT, ASSISTANT], rejected=[RESULT, message("assistant", "b")]),
        conversation(USER, call(), RESULT, chosen=[RESULT, ASSISTANT]),
        ranked({"completion": [ASSISTANT]}, {"completion": [message("assistant", "b")]}),
    ],
)
def test_orders_that_templates_take(row):
    assert found(row, Rule.ROLE_ORDER) == []


@pytest.mark.parametrize(
    ("row", "pointer", "got", "expected"),
    [
        (
            conversation(USER, SYSTEM, USER),
            "/prompt/1/role",
            "a system message after a user's message",
            "system and developer messages first",
        ),
        (
            conversation(SYSTEM, USER, ASSISTANT, DEVELOPER, USER),
            "/prompt/3/role",
            "a developer message after an assistant's message",
            "system and developer messages first",
        ),
        (conversation(RESULT, USER), "/prompt/0/role", "a tool's result at first", "a call before it"),
        (conversation(USER, RESULT), "/prompt/1/role", "a tool's result after a user's message", "a call before it"),
        (
            conversation(USER, ASSISTANT, RESULT),  # its text can't be a call
            "/prompt/2/role",
            "a tool's result after an assistant's message",
            "a call before it",
        ),
        (conversation(USER, call(), USER), "/prompt/2/role", "a user's message after a call", "the call's result"),
        (
            conversation(USER, call(), ASSISTANT, USER),
            "/prompt/2/role",
            "an assistant's message after a call",
            "the call's result",
        ),
        (
            conversation(USER, ASSISTANT),
            "/prompt/1/role",
            "an assistant's message at the end of the prompt",
            "the beginning of an answer in both responses, since templates end each message",
        ),
        (
            conversation(USER, call()),
            "/prompt/1/role",
            "a call at the end of the prompt",
            "its result before the assistant goes on",
        ),
        (conversation(SYSTEM), "/prompt/0/role", "a system message at the end of the prompt", "a user's message"),
    ],
)
def test_prompts_that_templates_refuse_or_misread(row, pointer, got, expected):
    (problem,) = found(row, Rule.ROLE_ORDER)
    assert problem[1:4] == (pointer, got, expected)


def test_responses_that_templates_refuse_or_misread():
    at_first = "a user's message at the beginning of a response"
    assert of_sides(USER, ASSISTANT) == [("/chosen/0/role", at_first)]
    assert of_sides(RESULT, ASSISTANT) == [("/chosen/0/role", "a tool's result at the beginning of a response")]
    assert of_sides(call(), USER, ASSISTANT) == [("/chosen/1/role", "a user's message after a call")]
    assert of_sides(call(), RESULT) == [("/chosen/1/role", "a tool's result at the end of a response")]
    assert of_sides(ASSISTANT, USER) == [("/chosen/1/role", "a user's message at the end of a response")]
    after = "a system message after an assistant's message"
    assert of_sides(ASSISTANT, SYSTEM, ASSISTANT) == [("/chosen/1/role", after)]


def test_each_part_is_told_once():
    row = conversation(USER, SYSTEM, RESULT, chosen=[USER, ASSISTANT, USER], rejected=[ASSISTANT, RESULT])
    pointers = [problem.pointer for problem in found(row, Rule.ROLE_ORDER)]
    assert pointers == ["/prompt/1/role", "/chosen/0/role", "/rejected/1/role"]


def test_a_flaw_of_the_prompt_is_not_told_again_of_the_responses():
    assert [problem.pointer for problem in found(conversation(USER, call()), Rule.ROLE_ORDER)] == ["/prompt/1/role"]


def test_ranked_rows_are_pointed_into_at_their_place():
    row = ranked({"completion": [USER, ASSISTANT]}, {"completion": [ASSISTANT]}, places=(1, 0))
    assert [problem.pointer for problem in found(row, Rule.ROLE_ORDER)] == ["/completions/1/completion/0/role"]


@pytest.mark.parametrize("form", [Format.TRL, Format.PREFERENCE])
def test_what_collect_pairs_writes_is_in_order(tmp_path, dpo, rollout, write_jsonl, form):
    """Instructions, a developer message, two questions, parallel calls, calls that the prompt has left open."""
    calling = {"type": "function_call", "name": "look", "arguments": "{}"}
    results = [{"type": "function_call_output", "call_id": each, "output": "{}"} for each in ("a", "b")]
    calls = [calling | {"call_id": each} for each in ("a", "b")]
    asked = [{"role": "developer", "content": "D"}, {"role": "user", "content": "Q"}, {"role": "user", "content": "R"}]

    def said(text):
        return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}

    prompts = [
        ("Q", [*calls, *results]),
        (asked, []),
        ([*asked, *calls], results),
    ]
    rows = [
        rollout(prompt, [*items, said(text)], reward, params={"instructions": "S"})
        for prompt, items in prompts
        for text, reward in (("good", 1.0), ("bad", 0.0))
    ]
    dpo("collect-pairs", write_jsonl(tmp_path / "rollouts.jsonl", rows), "-o", "pairs.jsonl", "--format", form)
    pairs = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert len(pairs) == 3
    assert [found(pair, Rule.ROLE_ORDER) for pair in pairs] == [[], [], []]
