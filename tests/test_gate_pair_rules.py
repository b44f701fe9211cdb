"""The gate's rules on rewards, lengths and emptiness of single pairs, and where in a row they point to."""

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.gate.pair.pair_rules import INVISIBLE, PAIR_CHECKS, is_blank
from pipeline.gate.pair.view import view_of
from pipeline.gate.rules import Rule
from pipeline.gate.settings import GateSettings, Limits
from schemas.forms import PairKeys
from schemas.preference import pair_of
from schemas.validation import Kind
from tests.gate_pairs import binary, call, conversation, found, message, ranked, told


def answer(text, **keys):
    return {"completion": [message("assistant", text)], **keys}


def test_the_table_has_each_rule_in_the_order_of_reports():
    assert list(PAIR_CHECKS) == [rule for rule in Rule if rule in PAIR_CHECKS]


def test_nothing_is_found_in_a_good_row():
    limits = {"min_reward": 0.0, "max_reward": 1.0, "min_margin": 1.0, "max_length_ratio": 3.0}
    for rule in PAIR_CHECKS:
        assert found(binary(), rule, **limits) == []
        assert found(ranked(answer("Yes.", reward=1), answer("No", reward=0.0)), rule, **limits) == []


# --- rewards


def test_a_tie_of_rewards():
    assert told(binary(rejected_reward=1), Rule.REWARD_TIE) == [("/rejected_reward", "1, as for the other response")]
    assert told(binary(rejected_reward=0.999), Rule.REWARD_TIE) == []
    assert told(binary(chosen_reward=None, rejected_reward=None), Rule.REWARD_TIE) == []  # nothing is known
    row = ranked(answer("a", reward=0.5), answer("b", reward=0.5), places=(1, 0))
    assert told(row, Rule.REWARD_TIE) == [("/completions/0/reward", "0.5, as for the other response")]


def test_a_chosen_response_with_the_lower_reward():
    (problem,) = found(binary(chosen_reward=-3), Rule.REWARD_ORDER)
    assert problem[1:4] == ("/chosen_reward", "-3", "more than the 0 of the rejected response")
    assert found(binary(chosen_reward=0.0), Rule.REWARD_ORDER) == []  # a tie is another rule's
    assert found(binary(chosen_reward=None), Rule.REWARD_ORDER) == []
    row = ranked(answer("a", reward=0.25), answer("b", reward=0.5), places=(1, 0))
    assert told(row, Rule.REWARD_ORDER) == [("/completions/1/reward", "0.25")]


def test_rewards_out_of_range_on_both_sides():
    row = binary(chosen_reward=19.4, rejected_reward=-100)
    (chosen, rejected) = found(row, Rule.REWARD_RANGE, min_reward=0.0, max_reward=1.0)
    assert chosen[1:4] == ("/chosen_reward", "19.4", "at most 1")
    assert rejected[1:4] == ("/rejected_reward", "-100", "at least 0")
    assert found(row, Rule.REWARD_RANGE) == []
    assert found(row, Rule.REWARD_RANGE, min_reward=-100.0, max_reward=19.4) == []
    assert told(binary(chosen_reward=None), Rule.REWARD_RANGE, min_reward=0.5) == [("/rejected_reward", "0")]


@pytest.mark.parametrize(
    ("chosen", "rejected", "least", "finds"),
    [
        (1.0, 0.5, 0.6, True),
        (1.0, 0.5, 0.5, False),
        (0.3, 0.2, 0.1, False),  # 0.09999999999999998 in floats
        (0.5, 0.5, 0.1, True),
        (0.0, 1.0, 0.1, False),  # swapped, which another rule says
        (None, 0.0, 0.1, False),
        (10**400, 0.5, 0.1, False),  # JSON has numbers that no float holds
        (10**400, 10**400, 0.1, False),  # inf - inf
    ],
)
def test_a_small_margin(chosen, rejected, least, finds):
    row = binary(chosen_reward=chosen, rejected_reward=rejected)
    assert bool(found(row, Rule.SMALL_MARGIN, min_margin=least)) is finds
    assert found(row, Rule.SMALL_MARGIN) == []


def test_a_small_margin_is_told_with_both_rewards():
    got = "a margin of 0.25 (0.75 and 0.5)"
    row = binary(chosen_reward=0.75, rejected_reward=0.5)
    assert told(row, Rule.SMALL_MARGIN, min_margin=0.5) == [("/chosen_reward", got)]


@pytest.mark.parametrize("reward", [10**400, -(10**400), 1e308])
def test_rewards_of_any_size_are_compared(reward):
    row = binary(chosen_reward=reward, rejected_reward=0.5)
    assert bool(found(row, Rule.REWARD_ORDER)) is (reward < 0.5)
    problems = found(row, Rule.REWARD_RANGE, min_reward=0.0, max_reward=1.0)
    assert len(problems) == 1
    assert len(problems[0].got) <= 60


# --- texts


def test_identical_responses():
    row = binary(chosen="It  is\nso.", rejected=" It is so. ")
    assert told(row, Rule.IDENTICAL_RESPONSES) == [("/rejected", "the chosen response once more (11 characters)")]
    assert told(binary(chosen="It is so!"), Rule.IDENTICAL_RESPONSES) == []
    calls = [call(name="look")], [call(name="search")]
    row = conversation(message("user"), chosen=calls[0], rejected=calls[1])
    assert found(row, Rule.IDENTICAL_RESPONSES) == []  # another call, though the texts are both empty
    assert found(row | {"rejected": calls[0]}, Rule.IDENTICAL_RESPONSES) != []


@pytest.mark.parametrize(
    "text",
    [
        " ",
        "\n\t \r\n",
        "\u00a0\u3000",
        "\u200b",
        "\ufeff \u2060",
        "\u3164",
        "\u2800",
        "\U000e0020",
        "\x1c",
        "\u200d \xad",
    ],
)
def test_a_text_of_nothing_visible_is_empty(text):
    for part in ("prompt", "chosen", "rejected"):
        assert told(binary(**{part: text}), Rule.EMPTY_TEXT)[0][0] == f"/{part}"
        assert found(binary(**{part: f"{text}x{text}"}), Rule.EMPTY_TEXT) == []


def test_an_empty_text_says_how_empty():
    row = conversation(message("user", ""), rejected=[message("assistant", " \n")])
    assert told(row, Rule.EMPTY_TEXT) == [
        ("/prompt/0/content", "an empty string"),
        ("/rejected/0/content", "nothing but white space (2 characters)"),
    ]


@pytest.mark.parametrize(
    ("row", "pointers"),
    [
        # a call says something; so does a result, even an empty one
        (conversation(message("user"), chosen=[call()]), []),
        (conversation(message("user"), call(), message("tool", "")), []),
        (conversation(message("user"), chosen=[message("assistant", "", tool_calls=[])]), ["/chosen/0/content"]),
        (conversation(message("user"), chosen=[message("assistant", "", tool_calls=None)]), ["/chosen/0/content"]),
        # a system message may be empty, the last question may not
        (conversation(message("system", ""), message("user")), []),
        (conversation(message("user"), message("assistant"), message("user", "")), ["/prompt/2/content"]),
        # what is said before does not help where the last turn is empty
        (
            conversation(message("user"), chosen=[call(), message("tool"), message("assistant", " ")]),
            ["/chosen/2/content"],
        ),
        (conversation(message("user"), chosen=[call(), message("tool"), message("assistant", "a")]), []),
    ],
)
def test_what_counts_as_empty_in_conversations(row, pointers):
    assert [problem.pointer for problem in found(row, Rule.EMPTY_TEXT)] == pointers


def test_invisible_characters_are_white_space_and_what_unicode_ignores():
    white_space = {chr(code) for code in range(sys.maxunicode + 1) if chr(code).isspace()}
    assert white_space < set(INVISIBLE)
    others = set(INVISIBLE) - white_space - {"\u2800"}
    # Unicode's Default_Ignorable_Code_Point: format characters, four fillers of Hangul, and marks that show nothing
    assert {unicodedata.category(each) for each in others} <= {"Cf", "Lo", "Mn", "Cn"}
    visible_formats = {chr(code) for code in (*range(0x600, 0x606), 0x6DD, 0x70F)}  # signs of Arabic and Syriac
    assert others.isdisjoint(visible_formats)


@given(st.text(st.characters(codec="utf-8") | st.sampled_from(INVISIBLE), max_size=8))
def test_blank_means_that_all_characters_are_invisible(text):
    assert is_blank(text) is (set(text) <= set(INVISIBLE))


def test_a_chosen_response_that_was_cut():
    got = "a response that was cut"
    assert told(binary(chosen_truncated=True), Rule.TRUNCATED_CHOSEN) == [("/chosen_truncated", got)]
    assert told(binary(rejected_truncated=True), Rule.TRUNCATED_CHOSEN) == []
    row = ranked(answer("a", truncated=True), answer("b"), places=(1, 0))
    assert told(row, Rule.TRUNCATED_CHOSEN) == [("/completions/1/truncated", got)]


def test_responses_of_different_lengths():
    row = binary(chosen="x" * 31, rejected="y" * 10)
    (problem,) = found(row, Rule.LENGTH_RATIO, max_length_ratio=3.0)
    assert problem[1:4] == ("/chosen", "31 characters beside 10", "at most 3 times as many")
    assert found(row, Rule.LENGTH_RATIO, max_length_ratio=3.1) == []
    assert found(row, Rule.LENGTH_RATIO) == []
    swapped = binary(chosen="y" * 10, rejected="x" * 31)
    assert told(swapped, Rule.LENGTH_RATIO, max_length_ratio=3.0) == [("/rejected", "31 characters beside 10")]


def test_the_length_is_what_the_assistant_says():
    chosen = [call("abc"), message("tool", "x" * 1000), message("assistant", "abc")]
    row = conversation(message("user"), chosen=chosen, rejected=[message("assistant", "abcdef")])
    assert found(row, Rule.LENGTH_RATIO, max_length_ratio=1.0) == []
    row = conversation(message("user"), chosen=[call("")], rejected=[message("assistant", "abcdef")])
    assert told(row, Rule.LENGTH_RATIO, max_length_ratio=5.0) == [("/rejected", "6 characters beside 0")]
    assert found(row, Rule.LENGTH_RATIO, max_length_ratio=6.0) == []  # a call alone counts as one character


# --- where it stands in the row

TURNS = [message("user", "Hi"), message("assistant", "Hello"), message("user", "Why?")]
DEL = "\x7f"


@pytest.mark.parametrize(
    ("row", "pointer"),
    [
        (binary(prompt=DEL), "/prompt"),
        (binary(rejected=DEL), "/rejected"),
        (binary(prompt=[message("system"), message("user", DEL)]), "/prompt/1/content"),
        (conversation(message("user"), rejected=[message("assistant", DEL)]), "/rejected/0/content"),
        # one side in messages, the other as text
        (conversation(message("user")) | {"chosen": DEL}, "/chosen"),
        (ranked(answer("a"), answer(DEL), places=(1, 0)), "/completions/0/completion/0/content"),
        (ranked(answer("a"), answer("b"), context=[message("user", DEL)]), "/context/0/content"),
        # older names, and the data sets' own
        ({"prompt": "a", "chosen_response": DEL, "rejected_response": "b"}, "/chosen_response"),
        (
            {"context": [message("user")], "response1": "a", "response2": DEL, "overall_preference": 2},
            "/response2",
        ),
        (
            {"context": [message("user")], "response1": "a", "response2": DEL, "overall_preference": -2},
            "/response2",
        ),
        (
            {"context": [message("user", DEL)], "response1": "a", "response2": "b", "overall_preference": 1},
            "/context/0/content",
        ),
        # whole conversations, with the prompt in them
        (
            {"chosen": [*TURNS, message("assistant", DEL)], "rejected": [*TURNS, message("assistant")]},
            "/chosen/3/content",
        ),
        (
            {side: [message("user", DEL), message("assistant", side)] for side in ("chosen", "rejected")},
            "/chosen/0/content",
        ),
        (
            {"prompt": "Why?"}
            | {
                side: [message("system", DEL), message("user", "Why?"), message("assistant", side)]
                for side in ("chosen", "rejected")
            },
            "/chosen/0/content",
        ),
        (
            {
                "prompt": TURNS,
                "chosen": [*TURNS, message("assistant")],
                "rejected": [*TURNS, message("assistant", DEL)],
            },
            "/rejected/3/content",
        ),
        # whole texts
        ({"chosen": f"Why so? {DEL}", "rejected": "Why so? No."}, "/chosen"),
    ],
)
def test_findings_point_into_the_row_as_it_is(row, pointer):
    (problem,) = found(row, Rule.CONTROL_CHARACTER)
    assert problem.pointer == pointer


def test_keys_of_the_user_are_named_as_pointers_spell_them():
    row = {"a/b": DEL, "c~d": DEL, "e\x1b[2J": DEL}
    problems = found(row, Rule.CONTROL_CHARACTER, keys=PairKeys(*row))
    assert [problem.pointer for problem in problems] == ["/a~1b", "/c~0d", "/e\\x1b[2J"]


def test_whole_texts_point_to_a_side_for_the_prompt_too():
    row = {"chosen": f"Why {DEL} so? Yes.", "rejected": f"Why {DEL} so? No."}
    assert [problem.pointer for problem in found(row, Rule.CONTROL_CHARACTER)] == ["/chosen"]


# --- anything at all


@given(
    st.fixed_dictionaries({name: st.text(min_size=1) for name in ("prompt", "chosen", "rejected")}),
    st.none() | st.integers() | st.floats(allow_nan=False),
    st.none() | st.integers() | st.floats(allow_nan=False),
)
def test_no_rule_fails_at_any_texts_and_rewards(row, chosen_reward, rejected_reward):
    row |= {"chosen_reward": chosen_reward, "rejected_reward": rejected_reward}
    view = view_of(row, pair_of(row, Kind.BINARY_PREFERENCE, source=""))
    limits = Limits(min_reward=0.0, max_reward=1.0, min_margin=0.5, max_length_ratio=2.0)
    for rule, check in PAIR_CHECKS.items():
        for problem in check(view, GateSettings(limits=limits)):
            assert problem.rule is rule
            assert (problem.got + problem.expected).isprintable()
            assert len(problem.got) < 150
