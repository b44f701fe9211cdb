"""Lines as writers of all ages left them: read as far as they can be, and a named reason where they can't."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.attrition import Reason, RowDropped
from pipeline.collect import collect_pairs
from pipeline.intake import Machinery
from pipeline.record import FIELDS, decode_record
from pipeline.settings import Settings

PARAMS = b'"responses_create_params":{"input":"Q"}'
RESPONSE = b'"response":{"output":[{"type":"message","content":"A"}]}'
ROW = b"{" + PARAMS + b"," + RESPONSE + b',"reward":1.0}'
WORSE = ROW.replace(b'"A"', b'"B"').replace(b"1.0", b"0.0")


def collected(tmp_path, content, **settings):
    path = tmp_path / "rollouts.jsonl"
    path.write_bytes(content)
    output = tmp_path / "pairs.jsonl"
    collection = collect_pairs([path], output, Settings(**settings))
    pairs = [json.loads(line) for line in output.read_bytes().splitlines()] if output.exists() else []
    return collection, pairs


def dropped(tmp_path, line, **settings):
    """Give the reason why a line is dropped that stands between two that make a pair, which they must."""
    collection, pairs = collected(tmp_path, ROW + b"\n" + line + b"\n" + WORSE + b"\n", **settings)
    assert [(pair["chosen"], pair["rejected"]) for pair in pairs] == [("A", "B")]
    ((reason, count),) = collection.attrition.dropped.items()
    assert count == 1
    return reason


def test_a_file_of_windows_with_blank_lines(tmp_path):
    content = b"\xef\xbb\xbf" + ROW + b"\r\n\r\n \t\n" + WORSE + b"\r\n\n"
    collection, (pair,) = collected(tmp_path, content)
    assert (collection.attrition.rows, pair["chosen_source"][-2:], pair["rejected_source"][-2:]) == (2, ":1", ":4")


def test_a_last_line_without_a_line_feed(tmp_path):
    assert collected(tmp_path, ROW + b"\n" + WORSE)[0].attrition.pairs == 1


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_last_line_that_a_killed_writer_left(tmp_path, end):
    collection, pairs = collected(tmp_path, ROW + b"\n" + WORSE + b"\n" + ROW[:-20] + end)
    assert dict(collection.attrition.dropped) == {Reason.NOT_JSON: 1}
    assert "truncated" in collection.examples[Reason.NOT_JSON]
    assert len(pairs) == 1


def test_only_a_line_feed_ends_a_line(tmp_path):
    """U+2028, U+2029 and U+0085 stand unescaped in what models write."""
    written = ROW.replace(b'"A"', '"A\u2028B\u2029C\u0085D"'.encode())
    collection, (pair,) = collected(tmp_path, written + b"\n" + WORSE + b"\n")
    assert (collection.attrition.rows, pair["chosen"]) == (2, "A\u2028B\u2029C\u0085D")


@pytest.mark.parametrize(
    "line",
    [
        b"<PLACEHOLDER ROW>",
        b"{",
        ROW + ROW,  # two writers at once
        ROW[:-1],
        ROW.replace(b'"', b"'"),
        ROW.replace(b'"A"', b'"a\tb"'),
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        ROW.replace(b'"reward"', b'"info":' + b"[" * 100_000 + b"]" * 100_000 + b',"reward"'),
        ROW.replace(b'"Q"', b"[" * 100_000 + b"]" * 100_000),
        ROW.replace(b'"reward"', b'"expected_answer":' + b"[" * 100_000 + b"]" * 100_000 + b',"reward"'),
        # half a character, which no UTF-8 file can hold
        ROW.replace(b'"A"', b'"half \\ud83d"'),
        ROW.replace(b'"Q"', b'"half \\ud83d"'),
        # no UTF-8
        ROW.replace(b'"A"', b'"\xff"'),
        ROW.replace(b'"Q"', b'"\xff"'),
        ROW.replace(b'"Q"', b'"\xed\xa0\x80"'),
        ROW.replace(b'{"input"', b'{"metadata":{"a":"\xff"},"input"'),
        ROW.replace(b'{"input"', b'{"tools":[{"name":"\xff"}],"input"'),
        ROW.replace(b'"reward"', b'"expected_answer":"\xff","reward"'),
        ROW.replace(b'{"output"', b'{"tools":[{"name":"\xff"}],"output"'),
    ],
    ids=lambda line: ascii(line[:70]),
)
def test_what_is_no_json_is_dropped_as_such(tmp_path, line):
    assert dropped(tmp_path, line) == Reason.NOT_JSON


@pytest.mark.parametrize(
    "line",
    [
        b"[]",
        b"5",
        b"null",
        b'"row"',
        b"NaN",
        b"{}",
        b"{" + PARAMS + b',"reward":1.0}',  # materialized inputs
        b"{" + RESPONSE + b',"reward":1.0}',
        b'{"responses_create_params":null,' + RESPONSE + b',"reward":1.0}',
        b'{"responses_create_params":[1],' + RESPONSE + b',"reward":1.0}',
        b"{" + PARAMS + b',"response":null,"reward":1.0}',  # bbq
        b"{" + PARAMS + b',"response":{"output":"A"},"reward":1.0}',
        b"{" + PARAMS + b',"response":{"output":null},"reward":1.0}',
        b"{" + PARAMS + b',"response":[1],"reward":1.0}',
        b'{"usersim_result":{},"invocations":[],"reward":1.0}',  # nemo_user_sim
        b'{"prompt":"Q","chosen":"A","rejected":"B"}',  # pairs already
        b'{"context":[],"completions":[]}',
    ],
)
def test_what_is_no_rollout_is_dropped_as_such(tmp_path, line):
    assert dropped(tmp_path, line) == Reason.NOT_A_ROLLOUT


def test_what_a_simulated_user_left_is_named(tmp_path):
    collection, _ = collected(tmp_path, b'{"usersim_result":{}}\n')
    assert "simulated user" in collection.examples[Reason.NOT_A_ROLLOUT]


@pytest.mark.parametrize(
    ("token", "shown"),
    [(b"NaN", "NaN"), (b"Infinity", "Infinity"), (b"-Infinity", "-Infinity"), (b"1e999", "inf"), (b"9" * 400, "inf")],
    ids=lambda value: ascii(value[:12]),
)
def test_a_reward_that_is_no_number(tmp_path, token, shown):
    line = ROW.replace(b"1.0", token)
    assert dropped(tmp_path, line) == Reason.REWARD_NOT_A_NUMBER
    collection, _ = collected(tmp_path, line)
    assert collection.examples[Reason.REWARD_NOT_A_NUMBER].endswith(f": {shown}")


@pytest.mark.parametrize(
    "value",
    [b"NaN", b"-Infinity", b"1e999", b"9" * 400, b"9" * 5000, b'"\\ud83d"', b'"\xff"'],
    ids=lambda value: ascii(value[:12]),
)
def test_what_stands_in_keys_that_nobody_reads_does_no_harm(tmp_path, value):
    odd = b'{"info":{"score":' + value + b"}," + ROW[1:]
    _, (pair,) = collected(tmp_path, odd + b"\n" + WORSE + b"\n")
    assert (pair["chosen"], pair["rejected"]) == ("A", "B")


@pytest.mark.parametrize(
    "value", [b"NaN", b"-Infinity", b"1e999", b"9" * 30, b"9" * 400, b"9" * 5000], ids=lambda value: ascii(value[:12])
)
@pytest.mark.parametrize(
    "key", [b'"expected_answer"', b'"verifier_metadata"', b'"_ng_task_id"', b'"_ng_task_index"', b'"_ng_rollout_index"']
)
def test_odd_numbers_in_what_tells_a_task_do_no_harm(tmp_path, key, value):
    odd = b"," + key + b":" + value + b"}"
    _, (pair,) = collected(tmp_path, ROW[:-1] + odd + b"\n" + WORSE[:-1] + odd + b"\n")
    assert (pair["chosen"], pair["rejected"]) == ("A", "B")


@pytest.mark.parametrize(
    "value", [b"NaN", b"Infinity", b"1e999", b"9" * 30, b"9" * 400, b"9" * 5000], ids=lambda value: ascii(value[:12])
)
def test_odd_numbers_in_the_params_are_no_question_of_objects(tmp_path, value):
    """The row may be used or dropped, but `responses_create_params` is an object, and must not be said to be none."""
    odd = ROW.replace(b'{"input"', b'{"metadata":{"score":' + value + b'},"input"')
    collection, _ = collected(tmp_path, odd + b"\n" + ROW + b"\n" + WORSE + b"\n")
    assert collection.attrition.dropped[Reason.NOT_A_ROLLOUT] == 0


def test_of_a_duplicate_key_the_last_counts(tmp_path):
    line = ROW.replace(b'"reward":1.0', b'"reward":0.5,"reward":1.0').replace(b'"Q"', b'"X","input":"Q"')
    _, (pair,) = collected(tmp_path, line + b"\n" + WORSE + b"\n")
    assert (pair["prompt"], pair["chosen_reward"]) == ("Q", 1.0)


def test_of_a_duplicate_key_the_last_counts_beside_a_nan_too(tmp_path):
    line = ROW.replace(b'"reward":1.0', b'"reward":NaN,"reward":1.0,"info":NaN')
    _, (pair,) = collected(tmp_path, line + b"\n" + WORSE + b"\n")
    assert pair["chosen_reward"] == 1.0


@pytest.mark.parametrize("chunk_bytes", [7, 64, 1 << 20])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_that_is_too_long(tmp_path, chunk_bytes, end):
    """The limit counts the line feed too; a line of just the limit is read."""
    limit = len(ROW) + 1
    path = tmp_path / "rollouts.jsonl"
    path.write_bytes(ROW + b"\n" + WORSE + b"\n" + ROW.replace(b'"A"', b'"' + b"A" * 1000 + b'"') + end)
    output = tmp_path / "pairs.jsonl"
    machinery = Machinery(1, chunk_bytes=chunk_bytes)
    collection = collect_pairs([path], output, Settings(max_line_bytes=limit), machinery)
    assert (collection.attrition.rows, dict(collection.attrition.dropped)) == (3, {Reason.LINE_TOO_LONG: 1})
    assert collection.attrition.pairs == 1
    assert collection.examples[Reason.LINE_TOO_LONG] == f"{path}:3"


def test_the_limit_of_a_line_is_an_option(tmp_path, dpo):
    path = tmp_path / "rollouts.jsonl"
    path.write_bytes(ROW.replace(b'"A"', b'"' + b"A" * (2 << 20) + b'"') + b"\n" + ROW + b"\n" + WORSE + b"\n")
    done = dpo("collect-pairs", path, "--max-line-mb", 1, "--json", "-o", "pairs.jsonl")
    assert json.loads(done.stdout)["dropped"] == {"line_too_long": 1}
    done = dpo("collect-pairs", path, "--max-line-mb", 3, "--json", "-o", "pairs.jsonl")
    assert (json.loads(done.stdout)["dropped"], json.loads(done.stdout)["pairs"]) == ({}, 2)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from(sorted(FIELDS))


@given(st.dictionaries(KEYS, JSON, max_size=8))
def test_an_object_of_any_values_is_read(row):
    """Python writes the bare tokens NaN and Infinity, as Gym's first versions did."""
    decode_record(json.dumps(row).encode())


@given(st.binary(max_size=100))
def test_any_bytes_are_no_row(content):
    with pytest.raises(RowDropped) as dropped:
        decode_record(content)
    assert dropped.value.reason in {Reason.NOT_JSON, Reason.NOT_A_ROLLOUT}
