"""The short way of plain pairs: it leaves what the long one does, and takes no row in which a rule finds anything."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.gate.form import RowForm
from pipeline.gate.gate import Gate, Gathered
from pipeline.gate.pair.plain import plain_pairs
from pipeline.gate.pair.text_rules import BIDIRECTIONAL, C0, C1
from pipeline.gate.rules import Rule
from pipeline.gate.settings import GateSettings, Limits
from pipeline.gate.whole.statistics import Statistics
from schemas.forms import BINARY, PairKeys
from schemas.validation import Kind

FORM = RowForm(Kind.BINARY_PREFERENCE, BINARY)
USUAL = GateSettings()
LONG, SHORT = Gate(USUAL), Gate(USUAL)
LONG.plain = None
PAIR = {"prompt": "Q", "chosen": "A", "rejected": "B"}

odd = st.sampled_from(
    [
        *("", " ", "\t\n", "\u200b", "A", "a", "\u00e9", "e\u0301", "A  b", "A b", "所以", "\u202e", "\x00", "\x1b[1m"),
        *("<|im_end|>", "<s>", "x</s>", "[INST]", "\ufffd", "\u00e2\u20ac\u2122", "AKIA" + "Q3E5T7Y2U4I6O3P5"),
        "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8",
    ]
)
texts = st.lists(odd | st.text(max_size=5), min_size=1, max_size=4).map("".join)
rewards = st.sampled_from([None, 0, 1, 0.5, -1.0, 10**400]) | st.floats(allow_nan=False, allow_infinity=False)
anything = st.none() | st.booleans() | st.integers() | st.just("") | st.lists(st.integers(0, 9), max_size=3) | texts
messages = st.just([{"role": "assistant", "content": "x"}])
rows = st.fixed_dictionaries(
    {"prompt": texts, "chosen": texts, "rejected": texts},
    optional={
        **dict.fromkeys(("chosen_reward", "rejected_reward"), rewards),
        **dict.fromkeys(("chosen_truncated", "rejected_truncated"), st.none() | st.booleans() | anything),
        **dict.fromkeys(("tools", "prompt_token_ids", "chosen_token_ids", "rejected_loss_mask"), anything),
        **dict.fromkeys(("agent", "environment"), anything),
    },
)


def left_by(gate, row):
    gathered = Gathered()
    problems = gate.check(row, FORM, content=json.dumps(row).encode(), line=1, gathered=gathered)
    return problems, gathered.columns, gathered.statistics.as_dict()


@given(
    rows
    | st.tuples(rows, st.sampled_from(["prompt", "chosen", "rejected"]), anything | messages).map(
        lambda told: {**told[0], told[1]: told[2]}
    )
)
@example({**PAIR, "chosen": "e\u0301", "rejected": "\u00e9"})  # one text in two of Unicode's forms
@example({**PAIR, "chosen": "A b", "rejected": " A\n b"})
@example({**PAIR, "chosen_reward": 1, "rejected_reward": 1.0})
def test_both_ways_leave_the_same(row):
    assert left_by(SHORT, row) == left_by(LONG, row)


def is_taken(row, settings=USUAL):
    plain = plain_pairs(settings)
    return plain is not None and plain.take(row, line=1, gathered=Gathered())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"prompt": "Была", "chosen": "所以", "rejected": "はい"},
        {"chosen": "Caf\u00e9 \U0001f642", "rejected": "x" * 100_000},
        {"chosen_reward": 1.0, "rejected_reward": 0},
        {"chosen_reward": None, "rejected_reward": 0.5, "rejected_truncated": True, "agent": "a", "tools": None},
    ],
    ids=str,
)
def test_what_is_plain(changes):
    assert is_taken({**PAIR, **changes})
    assert left_by(LONG, {**PAIR, **changes})[0] == []


@pytest.mark.parametrize("side", ["prompt", "chosen", "rejected"])
def test_no_suspicious_character_is_plain(side):
    for character in C0 + C1 + BIDIRECTIONAL + "\ufffd":
        assert not is_taken({**PAIR, side: f"one {character} two"}), ascii(character)


@pytest.mark.parametrize(
    "settings",
    [
        GateSettings(limits=Limits(min_margin=0.1)),
        GateSettings(limits=Limits(max_reward=1)),
        GateSettings(limits=Limits(max_length_ratio=3)),
        GateSettings(keys=PairKeys("question")),
        GateSettings(folds_prompts=True),
        GateSettings(kind=Kind.TRL),
    ],
    ids=str,
)
def test_settings_that_want_more_are_not_passed_over(settings):
    assert is_taken({**PAIR, "chosen_reward": 1.0, "rejected_reward": 0.99})
    assert not is_taken({**PAIR, "chosen_reward": 1.0, "rejected_reward": 0.99}, settings)


def test_prompts_are_told_apart_though_the_last_one_is_remembered():
    plain, gathered = plain_pairs(USUAL), Gathered()
    for line, prompt in enumerate(["Q", "Q", "R", "Q", " Q"], start=1):
        assert plain.take({**PAIR, "prompt": prompt}, line=line, gathered=gathered)
    first, second, third, *rest = gathered.columns["prompt"]
    assert first == second != third
    assert rest == [first, first]
    assert list(gathered.columns["line"]) == [1, 2, 3, 4, 5]
    assert isinstance(gathered.statistics, Statistics)
    assert gathered.statistics.pairs.count == 5


def test_rules_on_what_is_not_plain_find_it():
    row = {**PAIR, "chosen": "<|im_start|>A"}
    assert [problem.rule for problem in left_by(SHORT, row)[0]] == [Rule.TEMPLATE_TOKEN]
