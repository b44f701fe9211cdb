"""Converting the Responses API's items to chat messages, and refusing what these can't hold by a named reason."""

import json

import msgspec
import pytest

from pipeline.attrition import Reason, RowDropped
from pipeline.convert import asks_twice, chat_tools, prompt_turns, response_turns
from pipeline.record import decode_params, decode_record


def prompt_of(params, *, keep_reasoning=True):
    decoded = decode_params(msgspec.Raw(json.dumps(params).encode()))
    return [turn.message for turn in prompt_turns(decoded, keep_reasoning=keep_reasoning)]


def response_of(items, *, keep_reasoning=True):
    record = decode_record(json.dumps({"response": {"output": items}}).encode())
    return [turn.message for turn in response_turns(record.response.output, keep_reasoning=keep_reasoning)]


def user(content, **keys):
    return {"role": "user", "content": content, **keys}


def system(content):
    return {"role": "system", "content": content}


def assistant(content, **keys):
    return {"type": "message", "role": "assistant", "content": content, **keys}


def text(value, kind="output_text"):
    return {"type": kind, "text": value, "annotations": [], "logprobs": None}


def said(content, *calls):
    return {"role": "assistant", "content": content, **({"tool_calls": list(calls)} if calls else {})}


def called(call_id, name="f", arguments=None):
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments or {}}}


def result(call_id, content):
    return {"role": "tool", "content": content, "tool_call_id": call_id}


def reasoning(*summaries):
    return {"type": "reasoning", "id": "rs", "summary": [{"type": "summary_text", "text": each} for each in summaries]}


def call(call_id, arguments="{}", name="f"):
    return {
        "type": "function_call",
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
        "id": "fc",
        "status": None,
    }


def call_output(call_id, output="1"):
    return {"type": "function_call_output", "call_id": call_id, "output": output, "id": None, "status": "completed"}


IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,", "detail": "auto"}
AUDIO = {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}


# ---- prompts


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
        ({"input": [user("Q"), assistant(None)]}, [user("Q"), said("")]),
        ({"input": "Q", "instructions": "I"}, [system("I"), user("Q")]),  # instructions lead
        ({"input": [system("S"), user("Q")], "instructions": "I"}, [system("I"), system("S"), user("Q")]),
        ({"input": "Q", "instructions": ""}, [user("Q")]),
        ({"input": "Q", "instructions": None, "tools": [], "metadata": None}, [user("Q")]),  # nulls of the server
        ({"input": "Q", "metadata": {"audio_url": None}}, [user("Q")]),
        (
            {"input": [{"role": "developer", "content": "D"}, user("Q1"), assistant([text("A1")]), user("Q2")]},
            [{"role": "developer", "content": "D"}, user("Q1"), said("A1"), user("Q2")],
        ),
        ({"input": [user("Q", tool_calls=[])]}, [user("Q")]),
        ({"input": "Q\u2028\x00"}, [user("Q\u2028\x00")]),
        # empty for now: what the trajectory begins with may fill it
        ({"input": []}, []),
        ({"input": [], "instructions": "I"}, [system("I")]),
        ({"input": ""}, [user("")]),
        # single_step_tool_use: a call, its output and reasoning from before
        (
            {"input": [user("Q"), reasoning("hm"), call("c1", '{"x":1}'), call_output("c1", "2"), user("go on")]},
            [
                user("Q"),
                said("<think>\nhm\n</think>\n\n", called("c1", "f", {"x": 1})),
                result("c1", "2"),
                user("go on"),
            ],
        ),
        # tau2: the assistant greets first, and has called a tool already
        (
            {"input": [system("S"), assistant("Hi"), user("Q"), call("c1"), call_output("c1")]},
            [system("S"), said("Hi"), user("Q"), said("", called("c1")), result("c1", "1")],
        ),
        # chat-shaped items, which Gym's converter takes too
        (
            {
                "input": [
                    user("Q"),
                    {
                        "role": "assistant",
                        "content": None,
                        "tool_calls": [
                            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
                        ],
                    },
                    {"role": "tool", "tool_call_id": "c1", "content": "2"},
                ]
            },
            [user("Q"), said("", called("c1", "f", {"x": 1})), result("c1", "2")],
        ),
    ],
    ids=lambda value: json.dumps(value)[:80],
)
def test_a_prompt_becomes_messages(params, messages):
    assert prompt_of(params) == messages


def test_thoughts_in_the_prompt_follow_the_policy_on_reasoning():
    params = {"input": [user("Q1"), reasoning("hm"), assistant("A1"), user("Q2")]}
    assert prompt_of(params)[1] == said("<think>\nhm\n</think>\n\nA1")
    assert prompt_of(params, keep_reasoning=False)[1] == said("A1")


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        # media
        ({"input": "Q", "metadata": {"audio_url": "https://"}}, Reason.MEDIA),  # asr_with_pc
        ({"input": [user([IMAGE])]}, Reason.MEDIA),
        ({"input": [user([text("Q", "input_text"), IMAGE])]}, Reason.MEDIA),
        ({"input": [user([text("Q", "input_text"), AUDIO])]}, Reason.MEDIA),
        ({"input": [user([{"type": "input_file", "file_id": "x"}])]}, Reason.MEDIA),
        ({"input": [user([{"type": "image_url", "image_url": {"url": "x"}}])]}, Reason.MEDIA),  # chat form
        ({"input": [user("Q"), call("c"), call_output("c", [IMAGE])]}, Reason.MEDIA),  # a tool's screenshot
        # tools' outputs that belong to no call
        ({"input": [user("Q"), call_output("c")]}, Reason.PROMPT_UNSUPPORTED),
        ({"input": [user("Q"), {"role": "tool", "content": "1"}]}, Reason.PROMPT_UNSUPPORTED),
        # what is not known
        ({"input": [user("Q"), {"type": "mcp_call"}]}, Reason.PROMPT_UNSUPPORTED),
        ({"input": [user("Q"), {"type": "custom_tool_call", "name": "f"}]}, Reason.PROMPT_UNSUPPORTED),
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
        ({"input": [user("Q"), assistant("", tool_calls="f()")]}, Reason.PROMPT_UNSUPPORTED),
        ({"input": [user("Q"), assistant("", tool_calls=["f()"])]}, Reason.PROMPT_UNSUPPORTED),
        ({"input": [user("Q"), assistant("", tool_calls=[{"id": "c"}])]}, Reason.PROMPT_UNSUPPORTED),  # without a name
    ],
    ids=str,
)
def test_a_prompt_that_is_refused(params, reason):
    with pytest.raises(RowDropped) as dropped:
        prompt_of(params)
    assert dropped.value.reason == reason


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        (["user"], False),
        (["system", "user"], False),
        (["user", "assistant", "user"], False),
        (["user", "user"], True),  # speed_bench: the answer to the first is lost among the output's
        (["user", "system", "user"], False),
    ],
)
def test_user_turns_that_follow_one_another(roles, expected):
    assert asks_twice([{"role": role, "content": "x"} for role in roles]) is expected


# ---- tools


def test_tools_take_the_shape_of_chat_templates():
    """Responses has them flat, and with `strict`, which is an order to the server."""
    parameters = {"type": "object", "properties": {"x": {"type": "number"}}}
    flat = {"type": "function", "name": "f", "description": "F", "parameters": parameters, "strict": True}
    assert chat_tools([flat]) == [
        {"type": "function", "function": {"name": "f", "description": "F", "parameters": parameters}}
    ]
    assert chat_tools([{"type": "function", "name": "f", "description": None, "parameters": None}]) == [
        {"type": "function", "function": {"name": "f"}}
    ]


def test_tools_in_chat_form_stay():
    nested = {"type": "function", "function": {"name": "f", "parameters": {}}}
    assert chat_tools([nested]) == [nested]


@pytest.mark.parametrize("tools", [None, []])
def test_no_tools(tools):
    assert chat_tools(tools) == []


@pytest.mark.parametrize("tools", [5, "f", {"name": "f"}, ["f"], [None], [{"type": "web_search"}]])
def test_tools_that_are_refused(tools):
    with pytest.raises(RowDropped) as dropped:
        chat_tools(tools)
    assert dropped.value.reason == Reason.PROMPT_UNSUPPORTED


# ---- responses


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([assistant([text("A")])], "A"),
        ([assistant("A")], "A"),  # content as text
        ([{"content": "A"}], "A"),  # neither type nor role: the assistant's message
        ([{"type": "message", "role": None, "content": "A"}], "A"),
        ([assistant([text("A1 "), text("A2")])], "A1 A2"),  # all parts, not the first only
        ([assistant([text("A1 ")]), assistant([text("A2")])], "A1 A2"),  # all messages
        ([assistant([text("")]), assistant([text("A")])], "A"),
        ([assistant([text("  A \n")])], "  A \n"),  # white space is the policy's own
        ([assistant([text("A\u2028\u0085\x00\U0001f600")])], "A\u2028\u0085\x00\U0001f600"),
        ([assistant([])], ""),
        ([assistant(None)], ""),
        ([{}], ""),
    ],
)
def test_a_response_of_text_becomes_one_message(items, expected):
    assert response_of(items) == [said(expected)]


R, M, C = reasoning("hm"), assistant([text("A")]), call("c1")


@pytest.mark.parametrize(
    "items",
    [[R, M, C], [R, C, M], [M, R, C], [M, C, R], [C, R, M], [C, M, R]],
    ids=["RMC", "RCM", "MRC", "MCR", "CRM", "CMR"],
)
def test_adjacent_items_are_one_turn_in_any_order(items):
    """conversational_tool_use_simulation writes a call before its reasoning."""
    expected = [said("<think>\nhm\n</think>\n\nA", called("c1")), result("c1", "1")]
    assert response_of([*items, call_output("c1")]) == expected


def test_tool_results_follow_with_matching_ids():
    items = [
        reasoning("first f"),
        call("c1", '{"x": 1}'),
        call_output("c1", "one"),
        reasoning("then g"),
        call("c2", '{"y": [2]}', "g"),
        call_output("c2", [text("tw", "input_text"), text("o", "input_text")]),
        assistant([text("A")]),
    ]
    assert response_of(items) == [
        said("<think>\nfirst f\n</think>\n\n", called("c1", "f", {"x": 1})),
        result("c1", "one"),
        said("<think>\nthen g\n</think>\n\n", called("c2", "g", {"y": [2]})),
        result("c2", "two"),
        said("A"),
    ]


def test_parallel_calls_are_one_turn():
    items = [call("c1"), call("c2", name="g"), call_output("c2", "2"), call_output("c1", "1"), assistant("A")]
    assert response_of(items) == [
        said("", called("c1"), called("c2", "g")),
        result("c2", "2"),
        result("c1", "1"),
        said("A"),
    ]


def test_an_unanswered_call_is_kept():
    """27 real rows: the steps ran out, or a judge looked at the call alone."""
    assert response_of([assistant("A"), call("c1"), call("c2"), call_output("c1")]) == [
        said("A", called("c1"), called("c2")),
        result("c1", "1"),
    ]


@pytest.mark.parametrize(
    "items",
    [
        [call_output("c1"), assistant("A")],  # no call at all (harbor)
        [call("c1"), call_output("c2"), assistant("A")],  # the call of another
        [call_output("c1"), call("c1"), assistant("A")],  # before its call
        [call("c1"), {"type": "function_call_output", "output": "1"}],  # of nobody knows which
        [{"type": "function_call", "name": "f", "arguments": "{}"}, {"type": "function_call_output", "output": "1"}],
    ],
    ids=str,
)
def test_an_output_without_its_call_is_refused(items):
    with pytest.raises(RowDropped) as dropped:
        response_of(items)
    assert dropped.value.reason == Reason.RESPONSE_UNSUPPORTED
    assert "output without" in dropped.value.detail


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"x": 1, "y": "é"}', {"x": 1, "y": "é"}),
        ("{}", {}),
        (None, {}),
        ({"x": 1}, {"x": 1}),  # not in a string
        ('{"x": 123456789012345678901234567890}', {"x": 123456789012345678901234567890}),
        # as they were sampled: what they should have been nobody knows
        ('{"x": 1', '{"x": 1'),
        ("", ""),
        ("[1]", "[1]"),
        ("5", "5"),
        ("null", "null"),
        ("[" * 100_000, "[" * 100_000),
    ],
    ids=lambda value: str(value)[:30],
)
def test_arguments_become_objects_where_they_are_such(arguments, expected):
    (message,) = response_of([call("c1", arguments)])
    assert message["tool_calls"][0]["function"]["arguments"] == expected


@pytest.mark.parametrize("arguments", ['{"x": NaN}', '{"x": -Infinity}', '{"x": 1e999}', '{"x": "\\ud800"}'])
def test_arguments_that_json_can_not_hold_stay_text(arguments):
    """Decoded and written again they would become null, which the policy did not say."""
    (message,) = response_of([call("c1", arguments)])
    assert message["tool_calls"][0]["function"]["arguments"] == arguments


def test_turns_of_others_stand_between():
    """blackjack, tau2: observations and simulated users speak inside the trajectory, with content as text."""
    items = [assistant([text("hit")]), user("You hold 20"), assistant([text("stand")]), user("You win")]
    assert response_of(items) == [said("hit"), user("You hold 20"), said("stand"), user("You win")]


def test_system_items_in_the_output_are_messages():
    """gdpval: the trajectory begins with what the policy was really asked."""
    assert response_of([system("S"), user("Q"), assistant([text("A")])]) == [system("S"), user("Q"), said("A")]


def test_of_snapshots_the_last_is_the_whole():
    """aviary: lists of items, each with all that was said so far."""
    first = [user("Q"), call("c1"), call_output("c1")]
    snapshots = [first, [*first, assistant([text("A")])]]
    assert response_of(snapshots) == [user("Q"), said("", called("c1")), result("c1", "1"), said("A")]


def test_chat_shaped_items_in_the_output():
    items = [
        assistant("", tool_calls=[{"id": "c1", "function": {"name": "f", "arguments": "{}"}}]),
        {"role": "tool", "tool_call_id": "c1", "content": "1"},
        {"role": "assistant", "content": "A"},
    ]
    assert response_of(items) == [said("", called("c1")), result("c1", "1"), said("A")]


def test_a_call_without_an_id_is_kept():
    (message,) = response_of([{"type": "function_call", "name": "f", "arguments": "{}"}])
    assert message == said("", {"type": "function", "function": {"name": "f", "arguments": {}}})


def test_token_ids_and_log_probs_are_left_behind():
    item = assistant([text("A")], prompt_token_ids=[1, 2], generation_token_ids=[3], generation_log_probs=[-0.1])
    assert response_of([item]) == [said("A")]


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ([assistant([{"type": "refusal", "refusal": "no"}])], Reason.RESPONSE_UNSUPPORTED),
        ([assistant([text("A"), {"type": "refusal", "refusal": "no"}])], Reason.RESPONSE_UNSUPPORTED),
        ([{"type": "web_search_call"}], Reason.RESPONSE_UNSUPPORTED),
        ([{"type": "mcp_call"}, assistant("A")], Reason.RESPONSE_UNSUPPORTED),
        ([assistant("A"), {"type": "compaction"}], Reason.RESPONSE_UNSUPPORTED),
        ([assistant("A"), {"type": "custom_tool_call", "name": "f"}], Reason.RESPONSE_UNSUPPORTED),
        # media
        ([{"type": "image_generation_call"}], Reason.MEDIA),
        ([{"type": "computer_call"}], Reason.MEDIA),
        ([call("c"), call_output("c", [IMAGE]), assistant("A")], Reason.MEDIA),
        ([assistant("A"), user([IMAGE]), assistant("B")], Reason.MEDIA),
        # wrong types
        ([None], Reason.RESPONSE_UNSUPPORTED),
        (["A"], Reason.RESPONSE_UNSUPPORTED),
        ([5], Reason.RESPONSE_UNSUPPORTED),
        ([[user("Q")], assistant("A")], Reason.RESPONSE_UNSUPPORTED),  # snapshots and items in one list
        ([[[assistant("A")]]], Reason.RESPONSE_UNSUPPORTED),
        ([assistant(5)], Reason.RESPONSE_UNSUPPORTED),
        ([assistant({"text": "A"})], Reason.RESPONSE_UNSUPPORTED),
        ([assistant(["A"])], Reason.RESPONSE_UNSUPPORTED),
        ([assistant([["A"]])], Reason.RESPONSE_UNSUPPORTED),
        ([assistant([{"text": "A"}])], Reason.RESPONSE_UNSUPPORTED),
        ([assistant([{"type": "output_text"}])], Reason.RESPONSE_UNSUPPORTED),
        ([assistant([text("A", {"x": 1})])], Reason.RESPONSE_UNSUPPORTED),
        ([{"type": ["message"], "content": "A"}], Reason.RESPONSE_UNSUPPORTED),
        ([{"type": {"message": 1}, "content": "A"}], Reason.RESPONSE_UNSUPPORTED),
        ([{"type": "message", "role": ["assistant"], "content": "A"}], Reason.RESPONSE_UNSUPPORTED),
        ([{"type": "message", "role": "critic", "content": "A"}], Reason.RESPONSE_UNSUPPORTED),
        ([{"type": "function_call", "call_id": "c", "arguments": "{}"}], Reason.RESPONSE_UNSUPPORTED),
        ([call("c"), call_output("c", {"x": 1})], Reason.RESPONSE_UNSUPPORTED),
        ([{"type": "reasoning", "summary": 5}], Reason.RESPONSE_UNSUPPORTED),
        ([assistant("", tool_calls=5)], Reason.RESPONSE_UNSUPPORTED),
    ],
    ids=str,
)
def test_a_response_that_is_refused(items, reason):
    with pytest.raises(RowDropped) as dropped:
        response_of(items)
    assert dropped.value.reason == reason
