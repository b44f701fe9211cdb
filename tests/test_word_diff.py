"""The word diff: right by another way of counting, readable, bounded on any text, inert."""

import random
import re
import time
from html import unescape

import pytest

from views.word_diff import MOST_CELLS, MOST_COMPARED, compared, word_diff, words


def marks(block: str) -> list[str]:
    """Give what a block marks."""
    return [unescape(text) for text in re.findall(r"<(?:ins|del) class=\"\w+\">(.*?)</(?:ins|del)>", block, re.DOTALL)]


def plain(block: str) -> str:
    """Give the text of a block without tags."""
    return unescape(re.sub(r"<[^>]*>", "", block))


def longest_common(one: list[str], other: list[str]) -> int:
    """Give the length of the longest common subsequence, by the table of the textbooks."""
    row = [0] * (len(other) + 1)
    for word in one:
        before = row[:]
        for place, met in enumerate(other, start=1):
            row[place] = before[place - 1] + 1 if word == met else max(before[place], row[place - 1])
    return row[-1]


def test_marks_what_one_text_has_alone() -> None:
    found = word_diff("The answer is 42, I think.", "The answer is 43, I think.")
    assert str(found.before) == (
        '<div class="text" dir="auto">The answer is <del class="drop">42</del>, I think.</div>'
    )
    assert str(found.after) == '<div class="text" dir="auto">The answer is <ins class="add">43</ins>, I think.</div>'
    assert found.note == ""


def test_what_is_added_at_the_end() -> None:
    found = word_diff("In order: 689. Ask me for more.", "In order: 689.")
    assert marks(found.before) == [" Ask me for more."]
    assert marks(found.after) == []


@pytest.mark.parametrize("seed", range(30))
def test_common_words_are_the_longest_there_are_or_given_up_for_readability(seed: int) -> None:
    draw = random.Random(seed)
    one, other = (draw.choices("abcd", k=draw.randint(0, 30)) for _ in range(2))
    found = compared(one, other)
    assert found is not None
    before, after = found
    assert "".join(text for _, text in before) == "".join(one)
    assert "".join(text for _, text in after) == "".join(other)
    common = ["".join(text for is_common, text in runs if is_common) for runs in found]
    assert common[0] == common[1]
    assert len(common[0]) <= longest_common(one, other)


@pytest.mark.parametrize("seed", range(30))
def test_the_way_is_the_longest_common_subsequence(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("views.word_diff._readable", lambda before, after, steps: steps)
    draw = random.Random(seed)
    one, other = (draw.choices("abcdef", k=draw.randint(0, 60)) for _ in range(2))
    found = compared(one, other)
    assert found is not None
    assert sum(len(text) for is_common, text in found[0] if is_common) == longest_common(one, other)


def test_a_comma_in_common_is_no_island() -> None:
    # the comma alone would be common to two sentences that share nothing else in the middle
    found = word_diff("Begin: apples taste nice, truly so. End", "Begin: volcanoes erupt often, maybe daily. End")
    assert marks(found.before) == ["apples taste nice, truly so"]
    assert marks(found.after) == ["volcanoes erupt often, maybe daily"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't pay 3.14 or 1,000", ["Don't", " ", "pay", " ", "3.14", " ", "or", " ", "1,000"]),
        ("\\boxed{96}\n\nx", ["\\", "boxed", "{", "96", "}", "\n", "\n", "x"]),
        ("नमस्ते जी", ["नमस्ते", " ", "जी"]),  # vowel signs are no letters to Python
        ("你好世界", ["你", "好", "世", "界"]),
        ("สวัสดี", ["ส", "วั", "ส", "ดี"]),  # vowels above stay on their consonants
        ("한국어 말", ["한국어", " ", "말"]),  # has spaces
        ("👨‍👩‍👧🇩🇪🇫🇷👍🏽1️⃣", ["👨‍👩‍👧", "🇩🇪", "🇫🇷", "👍🏽", "1️⃣"]),
        ("e\u0301a", ["e\u0301a"]),
        ("שלום עולם", ["שלום", " ", "עולם"]),
    ],
)
def test_words_of_scripts(text: str, expected: list[str]) -> None:
    assert words(text) == expected


def test_chinese_is_marked_by_character() -> None:
    found = word_diff("我住在北京的一个小房子里", "我住在上海的一个小房子里")
    assert marks(found.before) == ["北京"]
    assert marks(found.after) == ["上海"]


def test_joined_words_are_the_text_again() -> None:
    draw = random.Random(0)
    codes = [*range(0xD800), *range(0xE000, 0x30000)]
    text = "".join(map(chr, draw.choices(codes, k=20_000)))
    assert "".join(words(text)) == text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a " * 50_000, "a " * 50_001),  # 100,000 equal words
        ("a " * 100_000, "b " * 100_000),
        ("ab " * 130_000, "ba " * 130_000),
        ("x" * 1_000_000, "y" * 1_000_000),
        ("x y" * 300_000, "x  y" * 300_000),
        ("\u0301" * 300_000, "\u0302" * 300_000),
        ("\u200d" * 300_000, "a\u200d" * 100_000),
        ("1.1'" * 90_000, "1,1\u2019" * 90_000),
        ("\U0001f1e6" * 200_000, "\U0001f1e7" * 200_000),
    ],
)
def test_time_is_bounded(before: str, after: str) -> None:
    started = time.monotonic()
    found = word_diff(before, after)
    assert time.monotonic() - started < 5  # none takes a second on a machine with nothing else to do
    assert len(found.before) + len(found.after) < 1_000_000


def test_the_largest_comparison_is_fast() -> None:
    draw = random.Random(0)
    side = int(MOST_CELLS**0.5) - 1
    one, other = (draw.choices([f"w{number}" for number in range(50)], k=side) for _ in range(2))
    started = time.monotonic()
    assert compared(one, other) is not None
    assert time.monotonic() - started < 10
    assert compared([*one, "x", "y"], ["z", *other, "q"]) is None


def test_too_long_is_told_and_shown() -> None:
    found = word_diff("a" * (MOST_COMPARED + 1), "b", names="answers")
    assert found.note == "The answers are too long to be compared word by word."
    assert marks(found.before) == []
    assert plain(found.before).startswith("a" * 1_000)


def test_unlike_and_equal_texts_are_not_marked() -> None:
    unlike = word_diff("Sorted: hard to say", "xyz 12 qqq rrr sss ttt uuu vvv")
    assert unlike.note == "The texts have hardly a word in common."
    assert marks(unlike.before) + marks(unlike.after) == []
    same = word_diff("a b", "a b")
    assert (same.note, str(same.before)) == ("The texts are the same.", str(same.after))


def test_an_empty_side() -> None:
    found = word_diff("", "x y")
    assert (marks(found.before), marks(found.after), found.note) == ([], ["x y"], "")


def test_long_texts_are_folded_and_cut() -> None:
    words_of = [f"w{number}" for number in range(3_000)]
    before = " ".join(words_of)
    after = " ".join([*words_of[:2_900], "other", *words_of[2_901:]])
    found = word_diff(before, after, shown=100, most=5_000)
    assert "more characters, one marked passage</summary>" in found.after
    assert f"… and {len(after) - 5_000:,} more characters" in found.after
    assert plain(found.after).startswith(after[:100])
    near = word_diff("x" + before, "y" + before, shown=100, most=5_000)
    assert "more characters, no differences</summary>" in near.after


def test_nothing_of_a_text_gets_out() -> None:
    evil = "</style><script>alert(1)</script><img src=x onerror=alert(1)>{{ 7*7 }}\x1b[31m\u202eabc\x00\ud800 &lt;"
    found = word_diff(evil + " one", "two " + evil)
    for block in (found.before, found.after):
        assert set(re.findall(r"<(\w+)", block)) <= {"div", "ins", "del", "span"}
        for code in ("U+001B", "U+202E", "U+0000", "U+D800"):
            assert f">{code}</span>" in block
        assert "&amp;lt;" in block
        assert "{{ 7*7 }}" in block
