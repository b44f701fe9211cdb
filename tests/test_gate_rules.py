"""Each rule with rows in which it finds something, and with rows like them in which it finds nothing."""

import json

import pytest

from pipeline.gate import reader, scan
from pipeline.gate.rules import Rule
from pipeline.gate.settings import Limits
from tests.gate_pairs import binary, conversation, message, ranked
from tests.gate_runs import checked, only

A, B = ({"completion": [message("assistant", text)]} for text in ("Yes.", "No."))
KEY = "hf_" + "aB3dE5gH7jK9mN1pQ3sT5vW7yZ9bC1dE3f"
SETTINGS = {
    Rule.REWARD_RANGE: {"limits": Limits(min_reward=0, max_reward=1)},
    Rule.SMALL_MARGIN: {"limits": Limits(min_margin=0.5)},
    Rule.LENGTH_RATIO: {"limits": Limits(max_length_ratio=3)},
    Rule.TOO_LONG: {"max_tokens": 6},
}
ROWS = {
    Rule.EMPTY_FILE: ([], [binary()]),
    Rule.LINE_TOO_LONG: ([binary(prompt="x" * 1000)], [binary()]),
    Rule.INVALID_UTF8: ([b'{"prompt": "\xff"}'], [binary(prompt="\u00ff")]),
    Rule.MALFORMED_JSON: ([json.dumps(binary()).encode()[:-1]], [binary()]),
    Rule.DUPLICATE_KEY: ([b'{"prompt": "Q", ' + json.dumps(binary()).encode()[1:]], [binary()]),
    Rule.UNKNOWN_FORM: ([{"x": 1}], [binary(x=1)]),
    Rule.SCHEMA: ([binary(chosen=1)], [binary(chosen="1")]),
    Rule.TIE: ([ranked(A, B) | {"completions": [A | {"rank": 1}, B | {"rank": 1.0}]}], [ranked(A, B)]),
    Rule.REWARD_TIE: ([binary(chosen_reward=0)], [binary()]),
    Rule.REWARD_ORDER: ([binary(chosen_reward=-1)], [binary()]),
    Rule.REWARD_RANGE: ([binary(chosen_reward=2)], [binary()]),
    Rule.SMALL_MARGIN: ([binary(chosen_reward=0.4)], [binary(chosen_reward=0.5)]),
    Rule.IDENTICAL_RESPONSES: ([binary(chosen="a", rejected="a ")], [binary(chosen="a", rejected="A")]),
    Rule.EMPTY_TEXT: ([binary(chosen="\n")], [binary(chosen=".")]),
    Rule.ROLE_ORDER: (
        [conversation(message("user"), message("system"))],
        [conversation(message("system"), message("user"))],
    ),
    Rule.TRUNCATED_CHOSEN: ([binary(chosen_truncated=True)], [binary(rejected_truncated=True)]),
    Rule.TEMPLATE_TOKEN: ([binary(chosen="Yes.<|im_end|>")], [binary(chosen="a <| b |> c")]),
    Rule.CONTROL_CHARACTER: ([binary(chosen="\x1b[1m")], [binary(chosen="\ta\r\n")]),
    Rule.BROKEN_ENCODING: ([binary(chosen="caf\u00c3\u00a9")], [binary(chosen="caf\u00e9")]),
    Rule.SECRET: ([binary(chosen=KEY)], [binary(chosen="hf_" + "x" * 34)]),
    Rule.LENGTH_RATIO: ([binary(chosen="a" * 31, rejected="b" * 10)], [binary(chosen="a" * 30, rejected="b" * 10)]),
    Rule.TOO_LONG: (
        [binary(prompt="a a", chosen="a a a a a", rejected="a")],
        [binary(prompt="a a", chosen="a a a a", rejected="a")],
    ),
    Rule.DUPLICATE_ROW: ([binary(), binary(chosen_reward=2)], [binary(), binary(prompt="Who?")]),
    Rule.CONTRADICTORY_PAIR: (
        [binary(chosen="a", rejected="b"), binary(chosen="b", rejected="a")],
        [binary(chosen="a", rejected="b"), binary(chosen="b", rejected="c")],
    ),
    Rule.PROMPT_LEAK: ([binary(prompt="in the OTHER file?")], [binary(prompt="in another file?")]),
    Rule.LENGTH_BIAS: (
        [binary(chosen="long", rejected="no")] * 100,
        [binary(chosen="long", rejected="no"), binary(chosen="no", rejected="long")] * 50,
    ),
    Rule.REWARD_STATISTICS: ([binary()] * 99 + [binary(chosen_reward=None)], [binary()] * 100),
    Rule.PROMPT_DIVERSITY: ([binary()] * 100, [binary(prompt=str(number)) for number in range(100)]),
    Rule.BALANCE: (
        [binary(agent="a")] * 95 + [binary(agent="b")] * 5,
        [binary(agent="a")] * 90 + [binary(agent="b")] * 10,
    ),
}
"""Rows that a rule finds something in, and rows that it finds nothing in."""


@pytest.fixture
def of_rollouts(rollout):
    """Make the rows for rules on rollouts."""
    tasks = [(prompt, number) for prompt in range(50) for number in range(2)]
    cut = {"output": rollout()["response"]["output"], "status": "incomplete"}
    cut |= {"incomplete_details": {"reason": "max_output_tokens"}}
    return {
        Rule.UNUSABLE_ROLLOUT: ([rollout() | {"response": cut}], [rollout()]),
        Rule.FEW_VARIED_TASKS: (
            [rollout(f"Q{prompt}", f"A{number}", 1.0) for prompt, number in tasks],
            [rollout(f"Q{prompt}", f"A{number}", float(number)) for prompt, number in tasks],
        ),
    }


@pytest.fixture
def settings(tmp_path, write_jsonl):
    """Give what a rule needs beside rows."""
    tokenizer = tmp_path / "tokenizer.json"
    model = {"type": "WordLevel", "vocab": {"a": 0, "?": 1}, "unk_token": "?"}
    tokenizer.write_text(json.dumps({"version": "1.0", "model": model, "pre_tokenizer": {"type": "Whitespace"}}))
    other = write_jsonl(tmp_path / "other.jsonl", [binary(prompt="In the other file")])
    return SETTINGS | {
        Rule.TOO_LONG: SETTINGS[Rule.TOO_LONG] | {"tokenizer": tokenizer},
        Rule.PROMPT_LEAK: {"against": [other]},
    }


@pytest.mark.parametrize("rule", list(Rule))
def test_each_rule_finds_what_it_is_for_and_nothing_else(
    tmp_path, write_jsonl, monkeypatch, of_rollouts, settings, rule
):
    if rule is Rule.LINE_TOO_LONG:
        for module in (scan, reader):
            monkeypatch.setattr(module, "MAX_LINE_BYTES", 1000)
    failing, passing = (ROWS | of_rollouts)[rule]
    told = {"severities": only(rule)} | settings.get(rule, {})
    assert set(checked(write_jsonl(tmp_path / "failing.jsonl", failing), **told).counts) == {rule}
    assert checked(write_jsonl(tmp_path / "passing.jsonl", passing), **told).counts == {}


def test_a_line_that_is_too_long_is_told_once_and_the_others_are_read(tmp_path, write_jsonl, monkeypatch):
    for module in (scan, reader):
        monkeypatch.setattr(module, "MAX_LINE_BYTES", 1000)
    path = write_jsonl(tmp_path / "rows.jsonl", [binary(prompt="x" * 5000), binary(), binary(chosen=1)])
    for chunk_bytes in (100, 1 << 20):
        report = checked(path, chunk_bytes=chunk_bytes)
        assert [(finding.rule, finding.line) for finding in report.findings] == [
            (Rule.LINE_TOO_LONG, 1),
            (Rule.SCHEMA, 3),
        ]
        assert [(file.form, file.rows, file.invalid_rows) for file in report.files] == [("binary_preference", 3, 2)]


def test_rollouts_have_rewards_within_limits_too(tmp_path, write_jsonl, rollout):
    path = write_jsonl(tmp_path / "rows.jsonl", [rollout(reward=reward) for reward in (0, 1, -0.5, 1.5)])
    report = checked(path, severities=only(Rule.REWARD_RANGE), limits=Limits(min_reward=0, max_reward=1))
    assert [(finding.line, finding.pointer, finding.got, finding.expected) for finding in report.findings] == [
        (3, "/reward", "-0.5", "at least 0"),
        (4, "/reward", "1.5", "at most 1"),
    ]
