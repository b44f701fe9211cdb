"""Reading JSONL: what ends a line, line numbers, strict and tolerant decoding."""

import gzip
import io
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import InputError
from schemas.lines import LineError, decode_strict, decode_tolerant, numbered_lines, read_lines

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", []),
        (b"1\n2\n", [(1, b"1"), (2, b"2")]),
        (b"1\n2", [(1, b"1"), (2, b"2")]),  # last line without newline
        (b"1\r\n2\r\n", [(1, b"1"), (2, b"2")]),  # written on Windows
        (b"\xef\xbb\xbf1\n2\n", [(1, b"1"), (2, b"2")]),  # byte order mark
        (b"1\n\xef\xbb\xbf2\n", [(1, b"1"), (2, b"\xef\xbb\xbf2")]),  # a mark in the middle is content
        (b"\xef\xbb\xbf\n1\n", [(2, b"1")]),  # nothing but the mark on the first line
        (b"\n \t\n1\n\n\r\n2\n\n", [(3, b"1"), (6, b"2")]),  # blank lines are counted, not given
        (b'"a\xe2\x80\xa8b"\n2\n', [(1, b'"a\xe2\x80\xa8b"'), (2, b"2")]),  # U+2028 does not end a line
        (b'"a\xc2\x85b"\n2\n', [(1, b'"a\xc2\x85b"'), (2, b"2")]),  # nor does U+0085
        (b'"a\rb"\n', [(1, b'"a\rb"')]),  # nor a lone carriage return
        (b"1\n\x0c\n2\n", [(1, b"1"), (2, b"\x0c"), (3, b"2")]),  # a form feed is no white space in JSON
    ],
)
def test_only_a_line_feed_ends_a_line(tmp_path, content, expected):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    assert [tuple(line) for line in read_lines(path)] == expected


def test_the_bytes_read_are_reported(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf1\n\n  2  \r\n3")
    amounts = []
    assert len(list(read_lines(path, amounts.append))) == 3
    assert sum(amounts) == path.stat().st_size


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"abc\nabcd\nab\n", [b"abc\n", None, b"ab\n"]),  # the limit counts the line feed
        (b"abcd", [b"abcd"]),
        (b"abcde", [None]),
        (b"abcdefghijkl\n\na", [None, b"\n", b"a"]),
        (b"abcdefghijkl", [None]),
    ],
)
def test_a_line_beyond_the_limit_is_passed_over(content, expected):
    assert list(numbered_lines(io.BytesIO(content), 4)) == expected


def test_a_packed_file_is_read_as_if_it_were_not(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(gzip.compress(b"1\n\n2\n"))
    assert [tuple(line) for line in read_lines(path)] == [(1, b"1"), (3, b"2")]


def test_a_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"absent\.jsonl: no such file"):
        list(read_lines(tmp_path / "absent.jsonl"))


def test_a_folder_is_an_input_error_that_says_what_to_name(tmp_path):
    with pytest.raises(InputError, match="is a directory; name a file in it"):
        list(read_lines(tmp_path))


def test_a_path_below_a_file_is_an_input_error(tmp_path):
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(InputError):
        list(read_lines(tmp_path / "file.txt" / "rows.jsonl"))


def test_a_name_that_is_too_long_is_an_input_error(tmp_path):
    with pytest.raises(InputError):
        list(read_lines(tmp_path / ("a" * 300)))


@pytest.mark.parametrize("decode", [decode_strict, decode_tolerant])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"a":1,"b":[true,null,"x"]}', {"a": 1, "b": [True, None, "x"]}),
        (b'{"a":1,"a":2}', {"a": 2}),  # the last of a duplicate key wins
        (b'"\\ud83d\\ude00"', "\U0001f600"),  # a surrogate pair, escaped, is one character
        (b'"a\xe2\x80\xa8b"', "a\u2028b"),
        (b"123456789012345678901234567890", 123456789012345678901234567890),  # beyond 64 bits, exact
        (b"-0.0", -0.0),
        (b"1.0", 1.0),
    ],
)
def test_both_readings_agree_on_standard_json(decode, content, expected):
    value = decode(content)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize("token", [b"NaN", b"Infinity", b"-Infinity"])
def test_only_the_tolerant_reading_takes_bare_tokens(token):
    row = b'{"reward":' + token + b"}"
    with pytest.raises(LineError, match="malformed"):
        decode_strict(row)
    reward = decode_tolerant(row)["reward"]
    assert math.isnan(reward) if token == b"NaN" else reward == float(token)


@pytest.mark.parametrize("decode", [decode_strict, decode_tolerant])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a":1', "truncated"),  # a writer that was killed
        (b'{"a":"x', "truncated"),
        (b'{"a":1}}', "malformed"),
        (b'{"a":1} {"b":2}', "malformed"),  # two rows on one line
        (b"<PLACEHOLDER ROW>", "malformed"),
        (b"{'a':1}", "malformed"),  # Python's repr
        (b'{"a":1,}', "malformed"),
        (b'"a\tb"', "control character|malformed|[Ii]nvalid"),  # a raw control character in a string
        (b'{"a":"\xff"}', "not UTF-8: byte 0xff"),
        (b'{"\xff":1}', "not UTF-8: byte 0xff"),
        (b"[" * 100_000, "too deep"),
        (b'{"a":' * 100_000, "too deep"),
        (b"[" * 100_000 + b"]" * 100_000, "too deep"),  # whole, but no reader's stack takes it
        (b"\x00", "malformed"),
        (b"[1,\x1b[31m]", "malformed"),
    ],
    ids=lambda value: ascii(value[:20]),
)
def test_what_is_no_json_is_a_line_error(decode, content, message):
    with pytest.raises(LineError, match=message):
        decode(content)


@pytest.mark.parametrize("content", [b'"\\ud800"', b'{"\\ud800":1}', b'{"a":["\\udfff x"]}'])
def test_a_lone_surrogate_is_a_line_error(content):
    with pytest.raises(LineError):
        decode_strict(content)
    with pytest.raises(LineError, match="lone surrogate"):
        decode_tolerant(content)


def test_a_surrogate_in_raw_bytes_is_a_line_error():
    for decode in (decode_strict, decode_tolerant):
        with pytest.raises(LineError):
            decode(b'"\xed\xa0\x80"')


@pytest.mark.parametrize("digits", [400, 5000])
def test_the_tolerant_reading_takes_numbers_of_any_size(digits):
    row = decode_tolerant(b'{"seed":' + b"9" * digits + b',"reward":1.0}')
    assert row["reward"] == 1.0


def test_the_tolerant_reading_takes_a_float_beyond_the_range():
    assert decode_tolerant(b"1e999") == math.inf


@given(JSON_VALUES)
def test_what_python_writes_is_read_back(value):
    for escaped in (True, False):
        content = json.dumps(value, ensure_ascii=escaped).encode()
        assert decode_strict(content) == value
        assert decode_tolerant(content) == value


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_by_name(content):
    refusals = []
    for decode in (decode_strict, decode_tolerant):
        try:
            decode(content)
        except LineError as problem:
            refusals.append(str(problem))
    assert all(refusals)
