"""Converting the Responses API's items to chat messages, and refusing what text can't hold by a named reason."""

import pytest

from pipeline.attrition import Reason, RowDropped
from pipeline.convert import prompt_messages, response_text


def user(content, **keys):
    return {"role": "user", "content": content, **keys}


def system(content):
    return {"role": "system", "content": content}


def assistant(content, **keys):
    return {"type": "message", "role": "assistant", "content": content, **keys}


def text(value, kind="output_text"):
    return {"type": kind, "text": value, "annotations": [], "logprobs": None}


REASONING = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}], "id": "rs_1"}
CALL = {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "c"}
CALL_OUTPUT = {"type": "function_call_output", "call_id": "c", "output": "1"}
IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,"}


@pytest.mark.parametrize(
    ("params", "messages"),
    [
        ({"input": "Q"}, [user("Q")]),  # text is one user message
        ({"input": [user("Q")]}, [user("Q")]),  # the type "message" may be left out,
        ({"input": [user("Q", type=None)]}, [user("Q")]),  # null,
        ({"input": [user("Q", type="message", id="m", status=None)]}, [user("Q")]),  # or named; other keys go
        ({"input": [user([text("Q", "input_text")])]}, [user("Q")]),
        ({"input": [user([text("Q1 ", "input_text"), text("Q2", "text")])]}, [user("Q1 Q2")]),  # parts of one text
        ({"input": [user("Q"), user([])]}, [user("Q"), user("")]),
        ({"input": [user("Q"), assistant(None)]}, [user("Q"), {"role": "assistant", "content": ""}]),
        ({"input": "Q", "instructions": "I"}, [system("I"), user("Q")]),  # instructions lead
        ({"input": [system("S"), user("Q")], "instructions": "I"}, [system("I"), system("S"), user("Q")]),
        ({"input": "Q", "instructions": ""}, [user("Q")]),
        ({"input": "Q", "instructions": None, "tools": [], "metadata": None}, [user("Q")]),  # nulls of the server
        ({"input": "Q", "tools": None, "metadata": {"extra_body": '{"seed": 1}'}}, [user("Q")]),
        ({"input": "Q", "metadata": {"audio_url": None}}, [user("Q")]),
        (
            {"input": [{"role": "developer", "content": "D"}, user("Q1"), assistant([text("A1")]), user("Q2")]},
            [{"role": "developer", "content": "D"}, user("Q1"), {"role": "assistant", "content": "A1"}, user("Q2")],
        ),
        ({"input": [user("Q1"), REASONING, user("Q2")]}, [user("Q1"), user("Q2")]),  # thoughts are left out
        ({"input": [user("Q"), user(" ")]}, [user("Q"), user(" ")]),  # one message with text will do
        ({"input": [user("Q", tool_calls=[])]}, [user("Q")]),
        ({"input": "Q\u2028\x00"}, [user("Q\u2028\x00")]),
    ],
)
def test_a_prompt_becomes_messages(params, messages):
    assert prompt_messages(params) == tuple(messages)


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        # nothing that tells tasks apart
        ({"input": []}, Reason.PROMPT_EMPTY),
        ({"input": ""}, Reason.PROMPT_EMPTY),
        ({"input": " \n"}, Reason.PROMPT_EMPTY),
        ({"input": [user("")]}, Reason.PROMPT_EMPTY),
        ({"input": [user(None)]}, Reason.PROMPT_EMPTY),
        ({"input": [REASONING]}, Reason.PROMPT_EMPTY),
        ({"input": [system("the same for all tasks")]}, Reason.PROMPT_EMPTY),
        ({"input": [], "instructions": "the same for all tasks"}, Reason.PROMPT_EMPTY),
        # tools
        ({"input": "Q", "tools": [{"type": "function", "name": "f"}]}, Reason.TOOL_USE),
        ({"input": [user("Q"), CALL, CALL_OUTPUT]}, Reason.TOOL_USE),
        ({"input": [user("Q"), CALL_OUTPUT]}, Reason.TOOL_USE),
        ({"input": [user("Q"), {"type": "mcp_call"}]}, Reason.TOOL_USE),
        ({"input": [user("Q"), {"type": "custom_tool_call"}]}, Reason.TOOL_USE),
        ({"input": [user("Q"), {"role": "tool", "content": "1"}]}, Reason.TOOL_USE),
        ({"input": [user("Q"), assistant("", tool_calls=[{"id": "c"}])]}, Reason.TOOL_USE),
        # what text can't hold
        ({"input": "Q", "metadata": {"audio_url": "https://"}}, Reason.PROMPT_UNSUPPORTED),
        ({"input": [user([IMAGE])]}, Reason.PROMPT_UNSUPPORTED),
        ({"input": [user([text("Q", "input_text"), IMAGE])]}, Reason.PROMPT_UNSUPPORTED),
        ({"input": [user("Q"), {"type": "item_reference", "id": "x"}]}, Reason.PROMPT_UNSUPPORTED),
        ({"input": [user("Q"), {"role": "critic", "content": "C"}]}, Reason.PROMPT_UNSUPPORTED),
        ({"input": [user("Q"), {"content": "no role"}]}, Reason.PROMPT_UNSUPPORTED),
        # wrong types
        ({}, Reason.PROMPT_UNSUPPORTED),
        ({"input": None}, Reason.PROMPT_UNSUPPORTED),
        ({"input": {"role": "user", "content": "Q"}}, Reason.PROMPT_UNSUPPORTED),
        ({"input": 5}, Reason.PROMPT_UNSUPPORTED),
        ({"input": ["Q"]}, Reason.PROMPT_UNSUPPORTED),
        ({"input": [None]}, Reason.PROMPT_UNSUPPORTED),
        ({"input": [[user("Q")]]}, Reason.PROMPT_UNSUPPORTED),
        ({"input": [user(5)]}, Reason.PROMPT_UNSUPPORTED),
        ({"input": [user({"text": "Q"})]}, Reason.PROMPT_UNSUPPORTED),
        ({"input": [user(["Q"])]}, Reason.PROMPT_UNSUPPORTED),
        ({"input": [user([{"type": "text"}])]}, Reason.PROMPT_UNSUPPORTED),
        ({"input": [user([text(5)])]}, Reason.PROMPT_UNSUPPORTED),
        ({"input": [user([text("Q", ["text"])])]}, Reason.PROMPT_UNSUPPORTED),
        ({"input": [user([text("Q", {"text": 1})])]}, Reason.PROMPT_UNSUPPORTED),
        ({"input": [user("Q", type=["message"])]}, Reason.PROMPT_UNSUPPORTED),
        ({"input": [user("Q", type={"message": 1})]}, Reason.PROMPT_UNSUPPORTED),
        ({"input": [{"role": ["user"], "content": "Q"}]}, Reason.PROMPT_UNSUPPORTED),
        ({"input": [{"role": {"user": 1}, "content": "Q"}]}, Reason.PROMPT_UNSUPPORTED),
    ],
    ids=str,
)
def test_a_prompt_that_is_refused(params, reason):
    with pytest.raises(RowDropped) as dropped:
        prompt_messages(params)
    assert dropped.value.reason == reason


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([assistant([text("A")])], "A"),
        ([assistant("A")], "A"),  # content as text
        ([{"content": "A"}], "A"),  # neither type nor role: the assistant's message
        ([{"type": "message", "role": None, "content": "A"}], "A"),
        ([assistant([text("A1 "), text("A2")])], "A1 A2"),  # all parts, not the first only
        ([assistant([text("A1 ")]), assistant([text("A2")])], "A1 A2"),  # all messages
        ([REASONING, assistant([text("A")])], "A"),
        ([assistant([text("A")]), REASONING], "A"),
        ([assistant([text("")]), assistant([text("A")])], "A"),
        ([assistant([text("  A \n")])], "  A \n"),  # white space is the policy's own
        ([assistant([text("<think>x</think>A")])], "<think>x</think>A"),
    ],
)
def test_a_response_becomes_one_text(items, expected):
    assert response_text(items) == expected


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ([], Reason.RESPONSE_EMPTY),
        ([REASONING], Reason.RESPONSE_EMPTY),  # ran out of tokens while thinking
        ([assistant([])], Reason.RESPONSE_EMPTY),
        ([assistant([text("")])], Reason.RESPONSE_EMPTY),
        ([assistant([text(" \n")])], Reason.RESPONSE_EMPTY),
        ([assistant(None)], Reason.RESPONSE_EMPTY),
        ([{}], Reason.RESPONSE_EMPTY),
        ([CALL], Reason.TOOL_USE),
        ([assistant([text("A")]), CALL, CALL_OUTPUT, assistant([text("B")])], Reason.TOOL_USE),
        ([assistant([{"type": "refusal", "refusal": "no"}])], Reason.RESPONSE_UNSUPPORTED),
        ([assistant([text("A")]), user("an environment's turn"), assistant([text("B")])], Reason.RESPONSE_UNSUPPORTED),
        ([system("S"), user("Q"), assistant([text("A")])], Reason.RESPONSE_UNSUPPORTED),  # gdpval
        ([[user("Q"), assistant([text("A")])]], Reason.RESPONSE_UNSUPPORTED),  # aviary's snapshots
        ([{"type": "web_search_call"}], Reason.RESPONSE_UNSUPPORTED),
        ([{"type": "compaction"}], Reason.RESPONSE_UNSUPPORTED),
        ([None], Reason.RESPONSE_UNSUPPORTED),
        (["A"], Reason.RESPONSE_UNSUPPORTED),
        ([assistant(5)], Reason.RESPONSE_UNSUPPORTED),
        ([assistant({"text": "A"})], Reason.RESPONSE_UNSUPPORTED),
        ([assistant(["A"])], Reason.RESPONSE_UNSUPPORTED),
        ([assistant([{"text": "A"}])], Reason.RESPONSE_UNSUPPORTED),
        ([assistant([{"type": "output_text"}])], Reason.RESPONSE_UNSUPPORTED),
        ([assistant([text("A", {"x": 1})])], Reason.RESPONSE_UNSUPPORTED),
        ([{"type": ["message"], "content": "A"}], Reason.RESPONSE_UNSUPPORTED),
        ([{"type": {"message": 1}, "content": "A"}], Reason.RESPONSE_UNSUPPORTED),
        ([{"type": "message", "role": ["assistant"], "content": "A"}], Reason.RESPONSE_UNSUPPORTED),
    ],
    ids=str,
)
def test_a_response_that_is_refused(items, reason):
    with pytest.raises(RowDropped) as dropped:
        response_text(items)
    assert dropped.value.reason == reason
