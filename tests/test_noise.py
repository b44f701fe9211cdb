"""Rows whose reward measures nothing, responses that teach nothing: each a named reason, with a count and a line."""

import json
import math
import sys

import pytest

from pipeline.attrition import MEANING, Reason
from pipeline.collect import collect_pairs
from pipeline.reasoning import ReasoningPolicy
from pipeline.settings import Format, RewardField, Settings


def said(text):
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


REASONING = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}
ENCRYPTED = {"type": "reasoning", "summary": [], "encrypted_content": "gAAA"}
CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
RESULT = {"type": "function_call_output", "call_id": "c", "output": "1"}
TOOLS = {"tools": [{"type": "function", "name": "f"}]}
CUT = {"reason": "max_output_tokens"}


@pytest.fixture
def collect(tmp_path, write_jsonl):
    """Collect rows of one file; give the collection and the rows written."""

    def run(rows, **settings):
        path = write_jsonl(tmp_path / "rollouts.jsonl", rows)
        output = tmp_path / "pairs.jsonl"
        output.unlink(missing_ok=True)
        collection = collect_pairs([path], output, Settings(**settings))
        written = output.read_bytes().splitlines() if output.exists() else []
        return collection, [json.loads(line) for line in written]

    return run


@pytest.fixture
def dropped(collect):
    """Give the reason why a row is dropped that alone comes with two that make a pair, which they must."""

    def run(row, good, worse, **settings):
        collection, pairs = collect([good, row, worse], **settings)
        assert [(pair["chosen_reward"], pair["rejected_reward"]) for pair in pairs] == [(1.0, 0.0)]
        ((reason, count),) = collection.attrition.dropped.items()
        assert count == 1
        assert ":2" in collection.examples[reason]
        return reason

    return run


def with_response(row, **keys):
    return {**row, "response": {**row["response"], **keys}}


# with an index a row is plain, and is read on a short way
INDICES = pytest.mark.parametrize("index", [{}, {"_ng_task_index": 0}], ids=["without index", "with index"])


def test_each_reason_has_a_meaning():
    assert list(MEANING) == list(Reason)


@INDICES
@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        # masked
        ({"mask_sample": True}, Reason.MASKED),
        ({"mask_sample": 1}, Reason.MASKED),
        ({"instance_config": {"mask_sample": True}}, Reason.MASKED),  # swe, genrm
        ({"instance_config": {"mask_sample": True}, "mask_sample": False}, Reason.MASKED),
        # not verified
        ({"verification_skipped": True}, Reason.VERIFICATION_SKIPPED),
        ({"invalid_judge_response": True}, Reason.VERIFICATION_SKIPPED),  # gdpval
        # runs that failed
        ({"exception_type": "RuntimeError"}, Reason.FAILED),  # toolsandbox
        ({"_ng_failure_class": "judge_failed"}, Reason.FAILED),  # a row of the sidecar among the others
        ({"_ng_failure_class": "agent_run_error", "response": None}, Reason.FAILED),
        ({"response": "Failed: timeout", "reward": 0}, Reason.FAILED),
        ({"response": "Failed: timeout", "reward": -0.0}, Reason.FAILED),
        ({"response": []}, Reason.FAILED),  # the patch was elsewhere (swebench), whatever the reward
        ({"response": [], "reward": 0}, Reason.FAILED),
        # rewards that are none
        ({"reward": None}, Reason.REWARD_MISSING),
        ({"reward": float("nan")}, Reason.REWARD_NOT_A_NUMBER),
        ({"reward": float("inf")}, Reason.REWARD_NOT_A_NUMBER),
        ({"reward": float("-inf")}, Reason.REWARD_NOT_A_NUMBER),
        ({"reward": 10**400}, Reason.REWARD_NOT_A_NUMBER),
        ({"reward": -(10**400)}, Reason.REWARD_NOT_A_NUMBER),
        ({"reward": "1.0"}, Reason.REWARD_NOT_A_NUMBER),
        ({"reward": True}, Reason.REWARD_NOT_A_NUMBER),
        ({"reward": []}, Reason.REWARD_NOT_A_NUMBER),
        ({"reward": {"total": 1.0}}, Reason.REWARD_NOT_A_NUMBER),
        # empty answers
        ({"response": ""}, Reason.RESPONSE_EMPTY),  # openclaw, math_with_autograder; context overflow
        ({"response": " \n\t"}, Reason.RESPONSE_EMPTY),
        ({"response": "\u00a0\u2003"}, Reason.RESPONSE_EMPTY),
        ({"response": "", "reward": 0}, Reason.RESPONSE_EMPTY),
        ({"response": [REASONING]}, Reason.RESPONSE_EMPTY),  # ruler, imo: ran out of tokens while thinking
        ({"response": [ENCRYPTED]}, Reason.RESPONSE_EMPTY),
        ({"response": "<think>hm</think>\n\n"}, Reason.RESPONSE_EMPTY),
        ({"response": [said(""), said(" ")]}, Reason.RESPONSE_EMPTY),
    ],
    ids=str,
)
def test_noise_is_dropped_by_name(rollout, dropped, index, keys, reason):
    worse = rollout(response="B", reward=0, **index)
    assert dropped(rollout(**index, **keys), rollout(**index), worse) == reason


@INDICES
def test_a_row_without_a_reward(rollout, dropped, index):
    """The recipe takes 0.0, so that a failed verification becomes a rejected answer."""
    row = rollout(response="C", **index)
    del row["reward"]
    assert dropped(row, rollout(**index), rollout(response="B", reward=0, **index)) == Reason.REWARD_MISSING


@INDICES
@pytest.mark.parametrize("keys", [{"id": "resp_1-failed"}, {"id": "resp_1-failed", "output": [said("A")]}], ids=str)
def test_the_id_of_a_failed_response(rollout, dropped, index, keys):
    row = with_response(rollout(response="C", reward=0, **index), **keys)
    assert dropped(row, rollout(**index), rollout(response="B", reward=0, **index)) == Reason.FAILED


@INDICES
@pytest.mark.parametrize(
    "keys",
    [
        {"mask_sample": False},
        {"mask_sample": None},
        {"instance_config": {"mask_sample": False}},
        {"instance_config": {"repo": "x"}},
        {"instance_config": [1]},
        {"verification_skipped": False},
        {"invalid_judge_response": False},
        {"exception_type": None},
        {"exception_type": ""},
        {"_ng_failure_class": None},
        # a wrong answer may have its reason, and a right one may speak of failure
        {"failure_reason": "wrong answer", "failure_kind": None},
        {"response": "Failed: is a past participle."},
        {"response": "It failed.", "reward": 1},
        {"reward": 1},
        {"truncated": True},  # of an environment with a limit of steps
    ],
    ids=str,
)
def test_what_is_no_noise(rollout, collect, index, keys):
    collection, _ = collect([rollout(**index, **keys), rollout(response="B", reward=0, **index)])
    assert (collection.attrition.pairs, dict(collection.attrition.dropped)) == (1, {})


def test_a_text_that_says_failed_in_a_scale_of_negative_rewards(rollout, collect):
    """Made-up rewards are 0.0 and nothing else."""
    rows = [rollout(response="A", reward=1), rollout(response="Failed: so I gave up.", reward=-1)]
    assert collect(rows)[0].attrition.pairs == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        # two faults to a row: one is counted, and none of them makes the other invisible in the sum
        ({"response": {"output": "A"}, "reward": None}, Reason.NOT_A_ROLLOUT),
        ({"mask_sample": True, "reward": None}, Reason.MASKED),
        ({"mask_sample": True, "response": {"output": []}}, Reason.MASKED),
        ({"responses_create_params": {"input": []}, "reward": None}, Reason.REWARD_MISSING),
        ({"responses_create_params": {"input": []}, "response": {"output": []}}, Reason.FAILED),
        ({"responses_create_params": {"input": "Q", **TOOLS}, "response": {"output": []}}, Reason.FAILED),
        ({"responses_create_params": {"input": "Q", **TOOLS}, "reward": None}, Reason.REWARD_MISSING),
    ],
    ids=str,
)
def test_the_first_reason_counts(rollout, collect, changes, reason):
    assert dict(collect([{**rollout(), **changes}])[0].attrition.dropped) == {reason: 1}


# ---- truncated


@INDICES
@pytest.mark.parametrize(
    "keys",
    [
        {"incomplete_details": CUT},
        {"incomplete_details": {"reason": "content_filter"}},
        {"incomplete_details": CUT, "status": "completed"},  # status says little
        {"status": "incomplete"},
    ],
    ids=str,
)
def test_truncated_responses_are_dropped(rollout, dropped, index, keys):
    row = with_response(rollout(response="cut o", reward=0.5, **index), **keys)
    assert dropped(row, rollout(**index), rollout(response="B", reward=0, **index)) == Reason.TRUNCATED


@INDICES
@pytest.mark.parametrize("keys", [{"incomplete_details": None}, {"status": "completed"}, {"status": None}], ids=str)
def test_whole_responses_are_not(rollout, collect, index, keys):
    rows = [with_response(rollout(**index), **keys), rollout(response="B", reward=0, **index)]
    assert collect(rows)[0].attrition.pairs == 1


@INDICES
def test_a_truncated_response_may_be_rejected_on_request(rollout, collect, index):
    whole, cut = rollout(response="whole", reward=1, **index), rollout(response="cut o", reward=0, **index)
    rows = [whole, with_response(cut, incomplete_details=CUT)]
    assert collect(rows)[1] == []
    _, (pair,) = collect(rows, allow_truncated_rejected=True)
    assert (pair["chosen"], pair["rejected"]) == ("whole", "cut o")
    assert (pair["chosen_truncated"], pair["rejected_truncated"]) == (False, True)


@INDICES
def test_a_truncated_response_is_never_chosen(rollout, collect, index):
    rows = [with_response(rollout(response="cut o", reward=1, **index), incomplete_details=CUT)]
    rows.append(rollout(response="whole", reward=0, **index))
    collection, pairs = collect(rows, allow_truncated_rejected=True)
    assert pairs == []
    assert dict(collection.attrition.dropped) == {Reason.CHOSEN_TRUNCATED: 2}
    assert dict(collection.attrition.left_out) == {Reason.CHOSEN_TRUNCATED: 1}


CUT_THINKING = [[REASONING], [said("<think>hm")], [said("<think>\nhm\n")]]


@pytest.mark.parametrize("items", CUT_THINKING, ids=str)
def test_a_response_cut_while_thinking_is_its_thoughts(rollout, collect, items):
    """The closing tag was never sampled."""
    row = with_response(rollout(response=items, reward=0), incomplete_details=CUT)
    _, (pair,) = collect([rollout(reward=1, response="<think>x</think>A"), row], allow_truncated_rejected=True)
    assert pair["rejected"] == "<think>\nhm"


def test_a_trajectory_cut_while_thinking_ends_with_its_thoughts(rollout, collect):
    row = with_response(rollout(response=[CALL, RESULT, REASONING], reward=0), incomplete_details=CUT)
    rows = [rollout(reward=1, response=[REASONING, CALL]), row]
    _, (pair,) = collect(rows, allow_truncated_rejected=True, format=Format.TRL)
    assert pair["rejected"][-1] == {"role": "assistant", "content": "<think>\nhm"}


@pytest.mark.parametrize("items", CUT_THINKING, ids=str)
def test_without_its_thoughts_it_is_nothing(rollout, collect, items):
    row = with_response(rollout(response=items, reward=0), incomplete_details=CUT)
    strip = ReasoningPolicy.STRIP
    collection, _ = collect([rollout(), row], allow_truncated_rejected=True, reasoning=strip)
    assert collection.attrition.dropped[Reason.RESPONSE_EMPTY] == 1


# ---- responses and rewards that are no preference


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("A", "A"),
        ("a b", " a  b\n"),
        ("a\r\nb", "a\nb"),
        ("caf\u00e9", "cafe\u0301"),  # NFC
    ],
    ids=ascii,
)
@INDICES
def test_equal_responses_are_no_preference(rollout, collect, index, one, other):
    """A verifier that is not deterministic scores one text twice; nothing can be learnt from it."""
    rows = [rollout(response=one, reward=1, **index), rollout(response=other, reward=0, **index)]
    collection, pairs = collect(rows)
    assert (pairs, dict(collection.attrition.dropped)) == ([], {Reason.EQUAL_RESPONSES: 2})


def test_equal_responses_do_not_keep_others_from_being_paired(rollout, collect):
    rows = [rollout(response="A", reward=1), rollout(response="A ", reward=0), rollout(response="B", reward=0)]
    collection, pairs = collect(rows)
    assert [(pair["chosen"], pair["rejected"]) for pair in pairs] == [("A", "B")]
    assert dict(collection.attrition.left_out) == {Reason.EQUAL_RESPONSES: 1}
    assert dict(collection.attrition.dropped) == {Reason.EQUAL_RESPONSES: 1}


def test_equal_trajectories_differ_in_ids_alone(rollout, collect):
    """Each call has an id that was drawn; it is no difference."""
    rows = []
    for call_id, reward in (("call_x", 1), ("call_y", 0)):
        items = [{**CALL, "call_id": call_id}, {**RESULT, "call_id": call_id}, said("A")]
        rows.append(rollout(response=items, reward=reward, params=TOOLS))
    collection, pairs = collect(rows, format=Format.TRL)
    assert (pairs, dict(collection.attrition.dropped)) == ([], {Reason.EQUAL_RESPONSES: 2})


@pytest.mark.parametrize("other", ["a  b", "a\nb", "a\n\nb\n"], ids=ascii)
def test_equal_trajectories_differ_in_white_space_alone(rollout, collect, other):
    rows = [rollout(response=[CALL, RESULT, said(text)], reward=r) for text, r in (("a b", 1), (other, 0))]
    collection, pairs = collect(rows, format=Format.TRL)
    assert (pairs, dict(collection.attrition.dropped)) == ([], {Reason.EQUAL_RESPONSES: 2})


def test_trajectories_that_differ_in_an_argument_are_two(rollout, collect):
    rows = [rollout(response=[{**CALL, "arguments": f'{{"x": {reward}}}'}], reward=reward) for reward in (1, 0)]
    assert collect(rows, format=Format.TRL)[0].attrition.pairs == 1


def test_ties_are_no_preference(rollout, collect):
    collection, pairs = collect([rollout(response="A", reward=1), rollout(response="B", reward=1.0)])
    assert (pairs, dict(collection.attrition.dropped)) == ([], {Reason.EQUAL_REWARDS: 2})


def test_zero_and_minus_zero_are_a_tie(rollout, collect):
    rows = [rollout(response="A", reward=0.0), rollout(response="B", reward=-0.0)]
    assert dict(collect(rows)[0].attrition.dropped) == {Reason.EQUAL_REWARDS: 2}


@INDICES
@pytest.mark.parametrize(
    ("high", "low"),
    [
        (1, 0),  # integers
        (-2, -100),  # negative
        (19.4, 8.9),  # unbounded
        (0.3, 0.15),
        (2**70, 2**69),
        (1e308, -1e308),
    ],
)
def test_rewards_of_any_range_are_compared(rollout, collect, index, high, low):
    rows = [rollout(response="B", reward=low, **index), rollout(response="A", reward=high, **index)]
    _, (pair,) = collect(rows)
    assert (pair["chosen"], pair["rejected"]) == ("A", "B")
    assert (pair["chosen_reward"], pair["rejected_reward"]) == (high, low)
    assert pair["margin"] >= min(high - low - math.ulp(high), sys.float_info.max)


# ---- trajectories


@pytest.mark.parametrize(
    ("items", "roles"),
    [
        ([said("A"), {"role": "user", "content": "bye"}], ["assistant"]),  # an environment's last word
        ([said("A"), CALL, RESULT], ["assistant"]),  # the steps ran out: nobody marks it
        ([said("A"), {"role": "user", "content": "x"}, said("B"), {"role": "user", "content": "y"}], None),
        ([CALL, RESULT, {"role": "user", "content": "y"}], ["assistant"]),
        ([CALL, RESULT, CALL], ["assistant", "tool", "assistant"]),
    ],
    ids=str,
)
def test_what_comes_after_the_policys_last_word_is_cut(rollout, collect, items, roles):
    rows = [rollout(response=items, reward=1), rollout(response="Z", reward=0)]
    _, (pair,) = collect(rows, format=Format.TRL)
    assert [message["role"] for message in pair["chosen"]] == (roles or ["assistant", "user", "assistant"])


@pytest.mark.parametrize("last", [ENCRYPTED, said(""), said(" \n")], ids=str)
def test_a_last_turn_that_says_nothing_is_cut(rollout, collect, last):
    """NeMo RL trains a completion's last message alone; an empty one teaches to be silent."""
    rows = [rollout(response=[CALL, RESULT, last], reward=1), rollout(response="Z", reward=0)]
    _, (pair,) = collect(rows, format=Format.TRL)
    assert [message["role"] for message in pair["chosen"]] == ["assistant"]


def test_what_the_policy_did_not_write_is_marked(rollout, collect):
    items = [CALL, RESULT, said("A"), {"role": "user", "content": "sure?"}, said("B")]
    rows = [rollout(response=items, reward=1), rollout(response="Z", reward=0)]
    _, (pair,) = collect(rows, format=Format.TRL)
    assert [(message["role"], message.get("weight", 1)) for message in pair["chosen"]] == [
        ("assistant", 1),
        ("tool", 0),
        ("assistant", 1),
        ("user", 0),
        ("assistant", 1),
    ]


def test_answers_to_several_user_turns_are_not_glued_together(rollout, collect):
    """speed_bench: all user turns in the input, the answers to each in the output; their order is lost."""
    prompt = [{"role": "user", "content": "Q1"}, {"role": "user", "content": "Q2"}]
    rows = [rollout(prompt=prompt, response=[said(f"{reward} 1"), said("2")], reward=reward) for reward in (1, 0)]
    for form in (Format.BINARY, Format.TRL):
        assert dict(collect(rows, format=form)[0].attrition.dropped) == {Reason.RESPONSE_UNSUPPORTED: 2}


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"params": TOOLS}, Reason.TOOL_USE),
        ({"response": [CALL]}, Reason.TOOL_USE),
        ({"response": [CALL, RESULT, said("A")]}, Reason.TOOL_USE),
        ({"prompt": [{"role": "user", "content": "Q"}, CALL, RESULT]}, Reason.TOOL_USE),
        ({"response": [said("A"), {"role": "user", "content": "x"}, said("B")]}, Reason.SEVERAL_TURNS),
    ],
    ids=str,
)
def test_what_binary_can_not_hold_is_counted_with_the_format_that_can(rollout, collect, keys, reason):
    rows = [rollout(reward=1, **keys), rollout(**{"response": "Z", **keys}, reward=0)]
    assert collect(rows)[0].attrition.dropped[reason] == 2
    assert "--format preference or trl can" in MEANING[reason]
    assert collect(rows, format=Format.PREFERENCE)[0].attrition.dropped[reason] == 0


# ---- what is told


def test_an_example_of_each_reason_is_told(tmp_path, rollout, write_jsonl, dpo):
    rows = [rollout(mask_sample=True), b"", rollout(response="Failed: x", reward=0), rollout(exception_type="E\x1b[2J")]
    rows += [rollout(reward=1), rollout(response="B", reward=0), rollout(prompt="other")]
    write_jsonl(tmp_path / "r.jsonl", rows)
    done = dpo("collect-pairs", "r.jsonl", "--dry-run", "--verbose")
    told = " ".join(done.stderr.split())
    assert "-1 masked mask_sample is set: the reward measures nothing for example r.jsonl:1 -2 failed" in told
    assert "for example r.jsonl:3: the response is a text Failed: ..." in told
    assert "-1 single_rollout" in told
    assert "for example r.jsonl:7" in told
    assert "for example" not in dpo("collect-pairs", "r.jsonl", "--dry-run").stderr


def test_rejects_have_their_reason_and_place(tmp_path, rollout, write_jsonl):
    rows = [
        rollout(mask_sample=True),  # 1
        b"<PLACEHOLDER ROW>",  # 2
        rollout(response="A", reward=1),  # 3: paired
        rollout(response="B", reward=0),  # 4: paired
        rollout(prompt="alone"),  # 5
        b"",
        rollout(reward=float("nan")),  # 7
        b'{"half": "\\ud83d"',  # 8
        b"[" * 100_000,  # 9
        b'{"bytes": "\xff\x1b"}',  # 10
    ]
    path = write_jsonl(tmp_path / "r.jsonl", rows)
    rejects = tmp_path / "rejects.jsonl"
    collection = collect_pairs([path], tmp_path / "pairs.jsonl", Settings(), rejects=rejects)
    told = [json.loads(line) for line in rejects.read_bytes().splitlines()]
    assert [(row["reason"], row["source"]) for row in told] == [
        ("masked", f"{path}:1"),
        ("not_json", f"{path}:2"),
        ("single_rollout", f"{path}:5"),
        ("reward_not_a_number", f"{path}:7"),
        ("not_json", f"{path}:8"),
        ("not_json", f"{path}:9"),
        ("not_json", f"{path}:10"),
    ]
    assert told[0]["row"] == rows[0]
    assert told[2]["row"] == rows[4]
    assert [told[number]["text"][:20] for number in (1, 4, 6)] == [
        "<PLACEHOLDER ROW>",
        '{"half": "\\ud83d"',
        '{"bytes": "\\xff\x1b"}',
    ]
    assert len(told) == collection.attrition.dropped.total()


def test_all_reasons_add_up(rollout, collect):
    """Every row leaves in a pair or under one reason."""
    rows = [
        b"<PLACEHOLDER ROW>",  # not_json
        b'{"responses_create_params":',  # not_json: cut off
        [],  # not_a_rollout
        {"responses_create_params": {"input": "Q"}, "reward": 1.0},  # not_a_rollout
        b"",  # blank: no row
        rollout(mask_sample=True),
        rollout(instance_config={"mask_sample": True}),
        rollout(response=[]),  # failed
        rollout(verification_skipped=True),
        rollout(reward=None),
        rollout(reward="1.0"),
        rollout(params={"metadata": {"audio_url": "x"}}),  # media
        rollout(prompt=[{"type": "item_reference"}]),  # prompt_unsupported
        rollout(response=[RESULT]),  # response_unsupported
        rollout(prompt=[]),  # prompt_empty
        rollout(response=""),
        with_response(rollout(), incomplete_details=CUT),
        rollout(params=TOOLS),
        rollout(response=[said("A"), {"role": "user", "content": "x"}, said("B")]),  # several_turns
        rollout(prompt="alone"),
        rollout(prompt="equal"),
        rollout(prompt="equal"),
        rollout(prompt="near", reward=0.5),
        rollout(prompt="near", reward=0.55),
        rollout(prompt="same", response="A", reward=1),
        rollout(prompt="same", response="A", reward=0),
        rollout(prompt="good", response="A", reward=1),
        rollout(prompt="good", response="B", reward=0),
        rollout(prompt="good", response="C", reward=0),
    ]
    collection, pairs = collect(rows)
    assert collection.attrition.as_dict() == {
        "rows": 28,
        "dropped": {
            "not_json": 2,
            "not_a_rollout": 2,
            "masked": 2,
            "failed": 1,
            "verification_skipped": 1,
            "reward_missing": 1,
            "reward_not_a_number": 1,
            "media": 1,
            "prompt_unsupported": 1,
            "response_unsupported": 1,
            "prompt_empty": 1,
            "response_empty": 1,
            "truncated": 1,
            "tool_use": 1,
            "several_turns": 1,
            "single_rollout": 1,
            "equal_rewards": 2,
            "below_margin": 2,
            "equal_responses": 2,
        },
        "parsed": 24,
        "eligible": 10,
        "groups": 5,  # alone, equal, near, same, good
        "varied_groups": 3,
        "paired_groups": 1,
        "paired_rollouts": 3,
        "pairs": 2,
        "left_out_pairs": {"below_margin": 1, "equal_responses": 1},
        "pairs_of_several_messages": 0,
    }
    assert sorted((pair["prompt"], pair["chosen"], pair["rejected"]) for pair in pairs) == [
        ("good", "A", "B"),
        ("good", "A", "C"),
    ]


@pytest.mark.parametrize("field", ["rc.a+rc.b", "10*rc.a+-10*rc.b"])
def test_a_sum_of_rewards_beyond_the_floats_is_a_named_drop(rollout, collect, field):
    settings = {"reward_field": RewardField.parse(field)}
    collection, _ = collect([rollout(rc={"a": 1e308, "b": 1e308})], **settings)
    assert dict(collection.attrition.dropped) == {Reason.REWARD_NOT_A_NUMBER: 1}


def test_details_without_a_reason_cut_nothing(rollout, collect):
    row = rollout()
    row["response"]["incomplete_details"] = {"reason": None}
    collection, pairs = collect([row, rollout(response="B", reward=0)])
    assert (dict(collection.attrition.dropped), len(pairs)) == ({}, 1)
