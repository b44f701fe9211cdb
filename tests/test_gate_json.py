"""Reading a line strictly: what is no JSON, or has a key twice, is found once, at its place, and with the remedy."""

import json

import pytest

from pipeline.gate.line.json_faults import MAX_SHOWN_LEVELS, fault_of
from pipeline.gate.line.json_rules import decoded
from pipeline.gate.rules import Rule, Severity
from pipeline.gate.run import Machinery, check_files
from pipeline.gate.settings import GateSettings, severities_of

GOOD = b'{"prompt":"What is 2 + 2?","chosen":"It is 4.","rejected":"It is 5."}'
SMALL_CHUNKS = 2000  # bytes: the lines stand in many pieces
JSON, UTF8, TWICE = Rule.MALFORMED_JSON, Rule.INVALID_UTF8, Rule.DUPLICATE_KEY

FAULTS = {
    # what a writer of numbers may leave behind
    "nan": (b'{"prompt":"q","chosen_reward":NaN}', JSON, "/chosen_reward", 31, "NaN", "null"),
    "infinity": (b'{"a":[1,Infinity]}', JSON, "/a/1", 9, "Infinity", "null"),
    "minus infinity": (b'{"a":-Infinity}', JSON, "/a", 6, "-Infinity", "null"),
    "too large": (b'{"a":1e400}', JSON, "/a", 6, "1e400", "at most 1.8e308"),
    "too large below zero": (b'{"a":-1e+9999}', JSON, "/a", 6, "-1e+9999", "at most 1.8e308"),
    "exponent of many digits": (b'{"a":1e99999999999999999999}', JSON, "/a", 6, "1e9999", "at most 1.8e308"),
    "integer of 5000 digits": (b'{"a":' + b"7" * 5000 + b"}", JSON, "/a", 6, "7777", "at most 1.8e308"),
    "leading zero": (b'{"a":01}', JSON, "/a", 6, "01", "as JSON has it"),
    "leading zero below zero": (b'{"a":-01}', JSON, "/a", 6, "-01", "as JSON has it"),
    "leading plus": (b'{"a":+1}', JSON, "/a", 6, "+1", "as JSON has it"),
    "leading point": (b'{"a":.5}', JSON, "/a", 6, ".5", "as JSON has it"),
    "trailing point": (b'{"a":5.}', JSON, "/a", 6, "5.", "as JSON has it"),
    "no exponent": (b'{"a":5e}', JSON, "/a", 6, "5e", "as JSON has it"),
    "hexadecimal": (b'{"a":0x1F}', JSON, "/a", 6, "0x1F", "as JSON has it"),
    "lone minus": (b'{"a":-}', JSON, "/a", 6, "-", "as JSON has it"),
    # other languages
    "python's quotes": (b"{'prompt': 'q'}", JSON, "", 2, "single quote", "json.dumps"),
    "python's none": (b'{"a": None}', JSON, "/a", 7, "Python's 'None'", "json.dumps"),
    "python's true": (b'{"a": True}', JSON, "/a", 7, "Python's 'True'", "json.dumps"),
    "python's tuple": (b'{"a": (1, 2)}', JSON, "/a", 7, "(1, 2)", "a value"),
    "undefined": (b'{"a":undefined}', JSON, "/a", 6, "undefined", "null"),
    "bare key": (b"{prompt: 1}", JSON, "", 2, "the bare word 'prompt'", "double quotes"),
    "number as key": (b"{1: 2}", JSON, "", 2, "'1'", "double quotes"),
    "comment": (b'{"a":1, // one\t"b":2}', JSON, "", 9, "comment", "JSON has none"),
    "comment behind": (b'{"a":1} # one', JSON, "", 9, "comment", "JSON has none"),
    "html": (b"<html>", JSON, "", 1, "<html>", "a value"),
    "typographic quotes": ('{"a":“x”}'.encode(), JSON, "/a", 6, "typographic quote", "plain quote"),
    "hard blank": ('{"a":\u00a01}'.encode(), JSON, "/a", 6, "\\xa0", "a space"),
    "form feed": (b'{"a":1}\x0c', JSON, "", 8, "\\x0c", "a space"),
    # commas, colons, brackets
    "comma before the end": (b'{"a":1,}', JSON, "/a", 7, "a comma before the }", "no comma"),
    "comma before an array's end": (b'{"a":[1,]}', JSON, "/a/0", 8, "a comma before the ]", "no comma"),
    "two commas": (b'{"a":1,,"b":2}', JSON, "", 8, ",", "a key in double quotes"),
    "no comma": (b'{"a":1 "b":2}', JSON, "/a", 8, '"b":2', "a comma, or the end of the object"),
    "no comma in an array": (b'{"a":[1 2]}', JSON, "/a/0", 9, "2]", "a comma, or the end of the array"),
    "no colon": (b'{"a" 1}', JSON, "", 6, "1}", "a colon"),
    "no value": (b'{"a":}', JSON, "/a", 6, "}", "a value"),
    "key alone": (b'{"a"}', JSON, "", 5, "}", "a colon"),
    "wrong bracket": (b'{"a":[1}', JSON, "/a/0", 8, "}", "the end of the array"),
    "one bracket too many": (b'{"a":1}}', JSON, "", 8, "one } too many", "opens"),
    "bare quote in a text": (b'{"a":"say "hi" now"}', JSON, "/a", 12, "hi", 'is written \\"'),
    "cut word": (b'{"a":tru}', JSON, "/a", 6, "tru}", "a value"),
    "word with a tail": (b'{"a":nullx}', JSON, "/a", 6, "nullx}", "a value"),
    # lines that are no rows of their own
    "cut in a text": (b'{"prompt":"q","chosen":"It i', JSON, "/chosen", 29, "ends inside a row", "the file was cut"),
    "cut behind a value": (b'{"a":[1,2', JSON, "/a/1", 10, "ends inside a row", "the file was cut"),
    "cut in an escape": (b'{"a":"x\\', JSON, "/a", 9, "ends inside a row", "the file was cut"),
    "cut in a number": (b'{"a":1', JSON, "/a", 7, "ends inside a row", "the file was cut"),
    "two rows": (b'{"a":1}{"a":2}', JSON, "", 8, "a second value", "line of its own"),
    "two rows apart": (b'{"a":1} \t{"a":2}', JSON, "", 10, "a second value", "line of its own"),
    "comma behind a row": (b'{"a":1},', JSON, "", 8, "a comma behind the row", "each line is one row"),
    "printed over lines, first": (b"{", JSON, "", 2, "goes on on the next line", "jq -c"),
    "printed over lines, inner": (b'"prompt": "q",', JSON, "", 9, "without their object", "jq -c"),
    "printed over lines, inner object": (b'"meta": {', JSON, "", 7, "without their object", "jq -c"),
    "printed over lines, last": (b"}", JSON, "", 1, "began on a line before", "jq -c"),
    "array over lines, first": (b"[", JSON, "/0", 2, "goes on on the next line", "jq -c"),
    "array over lines, last": (b"]", JSON, "", 1, "began on a line before", "jq -c"),
    "mark of a conflict": (b"<<<<<<< HEAD", JSON, "", 1, "merge conflict", "resolved"),
    "git lfs": (b"version https://git-lfs.github.com/spec/v1", JSON, "", 1, "Git LFS", "git lfs pull"),
    "parquet": (b"PAR1\x15\x04", JSON, "", 1, "Parquet", ".parquet"),
    # texts
    "bare tab": (b'{"a":"x\ty"}', JSON, "/a", 8, "U+0009", "\\t"),
    "bare carriage return": (b'{"a":"x\ry"}', JSON, "/a", 8, "U+000D", "\\r"),
    "bare nul": (b'{"a":"x\x00y"}', JSON, "/a", 8, "U+0000", "\\u0000"),
    "bare escape character": (b'{"\x1b[2J":1}', JSON, "", 3, "U+001B", "\\u001b"),
    "nuls alone": (b"\0" * 4096, JSON, "", 1, "NUL bytes", "crash"),
    "unknown escape": (b'{"a":"\\d+"}', JSON, "/a", 7, "\\d", "written twice"),
    "escaped control character": (b'{"a":"\\\x01"}', JSON, "/a", 8, "U+0001", "\\u0001"),
    "short escape": (b'{"a":"\\u12"}', JSON, "/a", 7, "hexadecimal", "four"),
    "first half alone": (b'{"a":"\\ud83d"}', JSON, "/a", 7, "half a character (a lone surrogate), \\ud83d", "cut"),
    "first half and a letter": (b'{"a":"x\\uD83Dy"}', JSON, "/a", 8, "half a character", "cut"),
    "second half alone": (b'{"a":"\\ude00"}', JSON, "/a", 7, "half a character", "cut"),
    "halves swapped": (b'{"a":"\\ude00\\ud83d"}', JSON, "/a", 7, "half a character", "cut"),
    "half of a key": (b'{"\\ud800":1}', JSON, "", 3, "half a character", "cut"),
    # depth
    "arrays": (b"[" * 100_000, JSON, "", 0, "nested too deep", "fewer levels"),
    "objects": (b'{"a":' * 100_000, JSON, "", 0, "nested too deep", "fewer levels"),
    "arrays that end": (b"[" * 5000 + b"]" * 5000, JSON, "", 0, "nested too deep", "fewer levels"),
    # bytes
    "latin-1": ('{"a":"é"}'.encode("latin-1"), UTF8, "", 7, "byte 0xe9", "UTF-8"),
    "byte in a key": (b'{"\xff":1}', UTF8, "", 3, "byte 0xff", "UTF-8"),
    "overlong": (b'{"a":"\xc0\xaf"}', UTF8, "", 7, "byte 0xc0", "UTF-8"),
    "beyond unicode": (b'{"a":"\xf4\x90\x80\x80"}', UTF8, "", 7, "byte 0xf4", "UTF-8"),
    "half as bytes": (b'{"a":"\xed\xa0\x80"}', UTF8, "", 7, "half a character", "UTF-8"),
    "cut in a character": (b'{"a":"\xe2\x80', UTF8, "", 7, "in the middle of a character", "UTF-8"),
    "utf-16": ('{"a":1}'.encode("utf-16"), UTF8, "", 1, "UTF-16", "iconv"),
    "utf-16 without mark": ('{"a":1}'.encode("utf-16-le"), UTF8, "", 1, "UTF-16", "iconv"),
    "utf-16, high byte first": ('{"a":1}'.encode("utf-16-be"), UTF8, "", 1, "UTF-16", "iconv"),
    "mark inside the file": (b"\xef\xbb\xbf" + GOOD, JSON, "", 1, "byte order mark", "beginning of the file"),
    # keys
    "key twice": (b'{"a":1,"b":2,"a":1}', TWICE, "/a", 14, "a second time", "each key once"),
    "key twice by escapes": (b'{"a":1,"\\u0061":2}', TWICE, "/a", 8, "a second time", "each key once"),
    "key twice below": (b'{"x":[{"a":{"b":1, "b":2}}]}', TWICE, "/x/0/a/b", 20, "a second time", "each key once"),
    "empty key twice": (b'{"":1,"":2}', TWICE, "/", 7, "a second time", "each key once"),
    "key twice behind escapes": (b'{"a":"\\"a\\":","a":2}', TWICE, "/a", 15, "a second time", "each key once"),
    "key twice and as many quotes by number": (
        b'{"a":1,"a":"\\u0022\\u0022"}',
        TWICE,
        "/a",
        8,
        "a second time",
        "each key once",
    ),
    "key twice and a quote by number": (b'{"a":"\\u0022","a":""}', TWICE, "/a", 15, "a second time", "each key once"),
}
"""What is wrong: the line, the rule, the pointer, the column, and words of what was got and of what is expected."""

SOUND = {
    "scalar": b"1",
    "text": b'"x"',
    "empty object": b"{}",
    "line separator": '{"a":"x\u2028y\u0085z"}'.encode(),
    "white space": b'{ "a" :\t[ ] , "b" :\r{ } }',
    "both halves": b'{"a":"\\ud83d\\ude00 \\uD83D\\uDE00"}',
    "a backslash before a u": b'{"a":"\\\\ud800"}',
    "zeros": b"[0,-0,0.0,-0.0,0e400,1e-400,1E+2]",
    "beyond 64 bits": b'{"a":18446744073709551616,"b":-9223372036854775809}',
    "escaped nul": b'{"a":"\\u0000"}',
    "delete character": b'{"a":"\x7f"}',
    "same key in siblings": b'{"a":{"a":1},"b":[{"a":1},{"a":1}]}',
    "keys of equal look": '{"é":1,"e\u0301":2}'.encode(),  # NFC and NFD are two keys
    "json in a text": b'{"a":"{\\"a\\":1,\\"a\\":2}"}',
    "quotes by number": b'{"a":"\\u0022\\u0022:","b":1}',
    "escaped slash": b'{"a":"<\\/b>"}',
    "500 levels": b"[" * 500 + b"]" * 500,
}


@pytest.fixture
def any_row(tmp_path):
    """Take any JSON for a row, so that only what is no JSON is found."""
    schema = tmp_path / "any.json"
    schema.write_text("true")
    return GateSettings(schema=schema, severities=severities_of({Rule.DUPLICATE_ROW: Severity.IGNORE}))


def found_in(path, settings, **machinery):
    return check_files([path], settings, machinery=Machinery(**machinery)).findings


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_one_finding_at_its_place(name, tmp_path, any_row):
    content, rule, pointer, column, got, expected = FAULTS[name]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(GOOD + b"\n\n" + content + b"\r\n" + GOOD + b"\n")
    (finding,) = found_in(path, any_row, num_workers=1)
    assert (finding.rule, finding.line, finding.pointer, finding.column) == (rule, 3, pointer, column)
    assert got in finding.got
    assert expected in finding.expected
    assert finding.message.isprintable()


@pytest.mark.forks
def test_two_processes_find_what_one_does(tmp_path, any_row):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"".join(GOOD + b"\n" + content + b"\n" for content, *_ in FAULTS.values()))
    alone = found_in(path, any_row, num_workers=1)
    assert sorted((finding.line, finding.rule) for finding in alone) == [
        (2 * number, rule) for number, (_, rule, *_) in enumerate(FAULTS.values(), start=1)
    ]
    assert found_in(path, any_row, num_workers=2, chunk_bytes=SMALL_CHUNKS) == alone
    assert found_in(path, any_row, num_workers=1, chunk_bytes=SMALL_CHUNKS) == alone


@pytest.mark.parametrize("name", SOUND)
def test_what_is_sound_is_read(name):
    content = SOUND[name]
    row, problem = decoded(content)
    assert problem is None
    assert fault_of(content) is None  # the slow reader agrees
    assert row == json.loads(content)


def test_a_mark_before_the_first_line_alone_is_no_fault(tmp_path, any_row):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD + b"\n" + GOOD)
    assert found_in(path, any_row) == ()


def test_a_row_with_a_key_twice_is_checked_all_the_same(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"prompt":"q","chosen":"a","rejected":"b","chosen":" "}\n')
    assert [finding.rule for finding in found_in(path, GateSettings())][:1] == [TWICE]
    ignoring = GateSettings(severities=severities_of({TWICE: Severity.IGNORE}))
    assert [(finding.rule, finding.pointer) for finding in found_in(path, ignoring)] == [(Rule.EMPTY_TEXT, "/chosen")]


@pytest.mark.parametrize("levels", [260, 600, 900])
@pytest.mark.parametrize(
    "row",
    [
        '{"prompt":"q","chosen":"a","rejected":"b","tools":[{"a":DEEP}]}',
        '{"prompt":DEEP,"chosen":"a","rejected":"b"}',
        '{"responses_create_params":{"input":"q"},"response":{"output":[DEEP]},"reward":1}',
        '{"responses_create_params":{"input":DEEP},"response":{"output":[]},"reward":1}',
    ],
)
def test_a_row_that_can_just_be_decoded_is_checked_or_refused(tmp_path, row, levels):
    path = tmp_path / "rows.jsonl"
    path.write_text(row.replace("DEEP", "[" * levels + "]" * levels))
    assert len(found_in(path, GateSettings(), num_workers=1)) <= 1


def test_an_integer_beyond_all_floats_is_refused_where_it_has_to_be_one(tmp_path):
    path = tmp_path / "rows.jsonl"
    output = '[{"type":"message","role":"assistant","content":"a"}]'
    path.write_text(
        f'{{"responses_create_params":{{"input":"q"}},"response":{{"output":{output}}},"reward":{"9" * 400}}}\n'
    )
    (finding,) = found_in(path, GateSettings(), num_workers=1)
    assert (finding.rule, finding.line, finding.got) == (JSON, 1, "an integer that no float can hold")


def test_a_pointer_ends_where_it_would_fill_the_screen():
    deep = MAX_SHOWN_LEVELS + 1
    assert fault_of(b"[" * deep + b"NaN").pointer == ""
    assert fault_of(b"[" * (deep - 1) + b"NaN").pointer == "/0" * (deep - 1)


def test_a_key_in_a_pointer_is_harmless_and_short():
    problem = fault_of(b'{"\\u001b[2J~/":{"' + b"k" * 500 + b'":NaN}}')
    assert problem.pointer.startswith("/\\x1b[2J~0~1/kkk")
    assert len(problem.pointer) < 100


def test_a_line_of_8_megabytes_is_told_as_quickly_as_it_is_read():
    text = b'\\u00e9 \\"word\\" ' * (4 << 20 >> 4)
    assert fault_of(b'{"a":"' + text + b'","a":"' + text + b'"}').rule is TWICE
    assert fault_of(b'{"a":"' + text).column == len(text) + 7
