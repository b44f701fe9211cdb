"""The strict reading of lines against a reader as plain as can be, and its fast part against its slow one."""

import json
import math
import re

from hypothesis import given
from hypothesis import strategies as st

from pipeline.gate.line.json_faults import fault_of
from pipeline.gate.line.json_rules import decoded
from pipeline.gate.rules import Rule
from schemas.lines import LineError, decode_strict

JSON, UTF8, TWICE = Rule.MALFORMED_JSON, Rule.INVALID_UTF8, Rule.DUPLICATE_KEY


class Pairs(list):
    """An object as the pairs that its text has, so that a key may be there twice."""


SCALARS = st.none() | st.booleans() | st.integers(-(2**66), 2**66) | st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.sampled_from('ab":\\/\t\n\x00{},é\u2028😀 '), max_size=6)
TREES = st.recursive(
    SCALARS | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(st.tuples(st.sampled_from(["a", "b", "", '"', ":", "é", "a:"]), inner), max_size=4).map(Pairs)
    ),
    max_leaves=12,
)
BLANKS = st.text(st.sampled_from(" \t\r"), max_size=2)
ESCAPES = {'"': '\\"', "\\": "\\\\", "\t": "\\t", "\n": "\\n", "/": "\\/"}


@st.composite
def written(draw, tree):
    """Write a tree as JSON with blanks and escapes here and there."""

    def text(value):
        parts = []
        for char in value:
            how = draw(st.integers(0, 3))
            units = char.encode("utf-16-be")
            numbers = "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
            must = char in '"\\' or ord(char) < 32
            parts.append(
                numbers if how == 0 else ESCAPES.get(char, numbers) if must or (how == 1 and char == "/") else char
            )
        return f'"{"".join(parts)}"'

    def around(part):
        return draw(BLANKS) + part + draw(BLANKS)

    def value(part):
        if isinstance(part, Pairs):
            return (
                "{"
                + (",".join(around(text(key)) + ":" + around(value(each)) for key, each in part) or draw(BLANKS))
                + "}"
            )
        if isinstance(part, list):
            return "[" + (",".join(around(value(each)) for each in part) or draw(BLANKS)) + "]"
        return text(part) if isinstance(part, str) else json.dumps(part)

    return value(tree).encode()


def first_double(tree, pointer=""):
    """Give the pointer of the first key, in the order of the text, that its object has already."""
    if isinstance(tree, Pairs):
        seen = set()
        for key, value in tree:
            below = f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}"
            if key in seen:
                return below
            seen.add(key)
            if (found := first_double(value, below)) is not None:
                return found
    elif isinstance(tree, list):
        for place, value in enumerate(tree):
            if (found := first_double(value, f"{pointer}/{place}")) is not None:
                return found
    return None


def last_values(tree):
    if isinstance(tree, Pairs):
        return {key: last_values(value) for key, value in tree}
    return [last_values(value) for value in tree] if isinstance(tree, list) else tree


@given(st.data())
def test_keys_that_are_there_twice_are_found_and_no_others(data):
    tree = data.draw(TREES)
    row, problem = decoded(data.draw(written(tree)))
    expected = first_double(tree)
    assert (None if problem is None else (problem.rule, problem.pointer)) == (
        None if expected is None else (TWICE, expected)
    )
    assert row == last_values(tree)


CUTS = st.tuples(
    st.integers(0, 200),
    st.integers(0, 3),
    st.sampled_from([b"", *(bytes([byte]) for byte in b'{}[],:"\\0-.eEtu \x01\xc3')]),
)


@given(st.data(), st.lists(CUTS, min_size=1, max_size=3))
def test_the_slow_reader_refuses_what_the_fast_one_does(data, cuts):
    """Both are independent of each other: a change to a sound line makes most of them unsound in some way."""
    content = data.draw(written(data.draw(TREES)))
    for place, length, instead in cuts:
        at = place % (len(content) + 1)
        content = content[:at] + instead + content[at + length :]
    try:
        decode_strict(content)
    except LineError:
        problem = fault_of(content)
        assert problem is not None
        assert problem.rule in (JSON, UTF8)
        assert 1 <= problem.column <= len(content) + 1
    else:
        problem = fault_of(content)
        assert problem is None or problem.rule is TWICE


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(content):
    _, problem = decoded(content)
    if problem is None:
        json.loads(content)
    else:
        assert problem.got.isprintable()
        assert problem.expected.isprintable()


def test_numbers_of_any_length_are_judged_as_the_fast_reader_does():
    for digits in (308, 309, 4299, 4300, 4301):
        for number in (b"9" * digits, b"-" + b"9" * digits, b"9" * digits + b".5", b"1" + b"0" * digits + b"e-4000"):
            _, problem = decoded(number)
            slow = fault_of(number)
            assert (problem is None) == (slow is None), number[:10]
            assert problem is None or (problem == slow and "the number" in problem.got)
    assert math.isinf(float("9" * 309 + ".5"))
    assert re.fullmatch(r"'9{58}…", fault_of(b"9" * 5000).got.removeprefix("the number "))
