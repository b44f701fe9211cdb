"""Reasoning in one form, whatever form it came in: items of their own, think tags inline, a closing tag alone."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.attrition import Reason, RowDropped
from pipeline.prompts import Prompts
from pipeline.reasoning import ReasoningPolicy, join_reasoning, split_reasoning, without_reasoning
from pipeline.record import decode_record
from pipeline.rollout import rollout_of
from pipeline.settings import Format, Settings


def message(text):
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


def thought(*summaries, content=None):
    summary = [{"type": "summary_text", "text": each} for each in summaries]
    return {"type": "reasoning", "summary": summary, "content": content, "encrypted_content": "gAAA"}


CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c", "output": "1"}


def rollout_from(items, policy, form=Format.BINARY):
    row = {"responses_create_params": {"input": "Q"}, "response": {"output": items}, "reward": 1.0}
    content = json.dumps(row).encode()
    prompts = Prompts(keep_reasoning=policy is not ReasoningPolicy.STRIP, clusters=False)
    return rollout_of(decode_record(content), content, Settings(reasoning=policy, format=form), prompts=prompts)


def written(items, policy, form=Format.BINARY):
    return json.loads(rollout_from(items, policy, form).response)


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        ("A", "", "A"),
        ("<think>hm</think>A", "hm", "A"),
        ("<think>\nhm\n</think>\n\nA", "hm", "A"),
        (" \n<think> hm </think>\nA\n", "hm", "A\n"),
        ("hm</think>A", "hm", "A"),  # the chat template opened it
        ("\nhm\n</think>\n\nA", "hm", "A"),
        ("<think></think>A", "", "A"),  # a model told not to think
        ("<think>\n\n</think>\n\nA", "", "A"),
        ("</think>A", "", "A"),
        ("<think>hm", "hm", ""),  # the tokens ran out
        ("<think>", "", ""),
        ("<think>hm</think>", "hm", ""),
        ("<think>a</think>see </think> B", "a", "see </think> B"),  # only what leads is reasoning
        ("A, as <think> says", "", "A, as <think> says"),  # the answer speaks of tags
        ("A, as <think>x</think> says", "", "A, as <think>x</think> says"),
        ("<thinking>x</thinking>A", "", "<thinking>x</thinking>A"),
        ("  A \n", "", "  A \n"),
        ("\nA", "", "\nA"),
    ],
)
def test_what_leads_a_text_in_tags_is_reasoning(text, reasoning, answer):
    assert split_reasoning(text) == (reasoning, answer)


@pytest.mark.parametrize(
    ("text", "reasoning", "answer"),
    [
        ("A", "first", "A"),
        ("\n\nA", "first", "A"),  # what stood between the tags and the answer
        ("<think>second</think>A", "first\nsecond", "A"),
        ("say </think> to end", "first", "say </think> to end"),  # it has its reasoning already
        ("", "first", ""),
    ],
)
def test_reasoning_of_its_own_goes_first(text, reasoning, answer):
    assert split_reasoning(text, separate=" first\n") == (reasoning, answer)


def test_there_is_one_form():
    assert join_reasoning("hm", "A") == "<think>\nhm\n</think>\n\nA"
    assert join_reasoning("", "A") == "A"


@given(
    st.text(alphabet="ab \n").map(str.strip),
    st.text(alphabet="ab \n").filter(lambda answer: not answer.startswith("\n")),
)
def test_what_was_joined_is_split_again(reasoning, answer):
    assert split_reasoning(join_reasoning(reasoning, answer)) == (reasoning, answer)


SAME_THOUGHT = [
    [thought("hm"), message("A")],
    [message("A"), thought("hm")],
    [thought(content=[{"type": "reasoning_text", "text": "hm"}]), message("A")],
    [thought("hm"), message("\n\nA")],
    [message("<think>hm</think>A")],
    [message("<think>\nhm\n</think>\n\nA")],
    [message("hm</think>\n\nA")],
    [message("<think>hm</think>"), message("A")],
]


@pytest.mark.parametrize("items", SAME_THOUGHT, ids=str)
def test_one_thought_in_all_its_forms_is_one_response(items):
    """Else chosen and rejected would differ by what parser the server ran."""
    assert written(items, ReasoningPolicy.KEEP) == "<think>\nhm\n</think>\n\nA"
    assert written(items, ReasoningPolicy.REQUIRE_BOTH) == "<think>\nhm\n</think>\n\nA"
    assert written(items, ReasoningPolicy.STRIP) == "A"
    kept = rollout_from(items, ReasoningPolicy.KEEP)
    assert kept.has_reasoning
    assert kept.response_number == rollout_from(SAME_THOUGHT[0], ReasoningPolicy.KEEP).response_number


NO_THOUGHT = [
    [message("A")],
    [thought(), message("A")],  # a hosted model: encrypted_content alone
    [thought(""), message("A")],
    [message("<think>\n\n</think>\n\nA")],
    [message("</think>A")],
]


@pytest.mark.parametrize("items", NO_THOUGHT, ids=str)
def test_no_thought_in_all_its_forms_is_one_response(items):
    for policy in (ReasoningPolicy.KEEP, ReasoningPolicy.STRIP):
        assert written(items, policy) == "A"
        assert not rollout_from(items, policy).has_reasoning
    with pytest.raises(RowDropped) as dropped:
        rollout_from(items, ReasoningPolicy.REQUIRE_BOTH)
    assert dropped.value.reason == Reason.REASONING_MISSING


@pytest.mark.parametrize(
    "items",
    [
        [thought("hm")],  # ruler, imo: ran out of tokens while thinking
        [message("<think>hm")],
        [message("<think>hm</think>")],
        [message("<think>hm</think> \n")],
        [thought("hm"), message("")],
        [thought()],
    ],
    ids=str,
)
@pytest.mark.parametrize("policy", ReasoningPolicy)
def test_thoughts_without_an_answer_are_no_response(items, policy):
    with pytest.raises(RowDropped) as dropped:
        rollout_from(items, policy)
    assert dropped.value.reason == Reason.RESPONSE_EMPTY


def test_several_thoughts_of_one_turn_are_joined():
    items = [thought("one", " two"), thought("three"), message("A")]
    assert written(items, ReasoningPolicy.KEEP) == "<think>\none two\nthree\n</think>\n\nA"


def test_each_turn_keeps_its_own_thoughts():
    items = [thought("ask f"), CALL, RESULT, message("so it is 1</think>\n\n1")]
    turns = written(items, ReasoningPolicy.KEEP, Format.TRL)
    assert [turn["content"] for turn in turns] == [
        "<think>\nask f\n</think>\n\n",
        "1",
        "<think>\nso it is 1\n</think>\n\n1",
    ]
    stripped = written(items, ReasoningPolicy.STRIP, Format.TRL)
    assert [turn["content"] for turn in stripped] == ["", "1", "1"]


@pytest.mark.parametrize(
    "items",
    [
        [message("<think>one</think>A"), message("<think>two</think>B")],
        [message("one</think>A"), message("two</think>B")],
    ],
)
def test_thoughts_of_each_message_of_a_turn_are_found(items):
    """Two model calls in a row, without a reasoning parser."""
    assert written(items, ReasoningPolicy.STRIP) == "AB"
    assert written(items, ReasoningPolicy.KEEP) == "<think>\none\ntwo\n</think>\n\nAB"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Sure. <think>secret</think> b", "Sure.  b"),
        ("<think>a</think>x<think>b</think>y", "xy"),
        ("a <think> b", "a <think> b"),
    ],
)
def test_strip_leaves_no_thoughts_inside_a_text(text, left):
    assert without_reasoning(split_reasoning(text)[1]) == left


def test_a_closing_tag_that_only_ends_thoughts_given_apart_is_taken_off():
    assert split_reasoning("</think>\n\nAns", separate="R") == ("R", "Ans")
