"""The gate on its way through files: forms, lines, packings, processes, limits. What rules find is tested elsewhere."""

import gzip
import itertools
import json
import os

import polars as pl
import pytest

from pipeline.gate.report import MAX_KEPT
from pipeline.gate.rules import Rule, Severity
from schemas.errors import InputError
from schemas.forms import PairKeys
from schemas.preference import read_pairs
from schemas.validation import Kind
from tests.gate_runs import checked, errors, only

USER = {"role": "user", "content": "Q"}
ANSWER = {"role": "assistant", "content": "A"}
WORSE = {"role": "assistant", "content": "B"}
BINARY = {"prompt": "Q", "chosen": "A", "rejected": "B"}
RANKED = {
    "context": [USER],
    "completions": [{"rank": 0, "completion": [ANSWER]}, {"rank": 1, "completion": [WORSE]}],
}
WHOLE = {"chosen": [USER, ANSWER], "rejected": [USER, WORSE]}
STEERED = {"context": [USER], "response1": "A", "response2": "B", "overall_preference": -1}


def places(report):
    return [(finding.line, finding.rule) for finding in errors(report)]


def test_a_file_is_held_to_the_form_of_its_first_known_row(tmp_path, write_jsonl, rollout):
    # line 1 is unknown, line 2 makes the file BinaryPreference, the others are valid rows of another form
    report = checked(write_jsonl(tmp_path / "rows.jsonl", [{"x": 1}, BINARY, RANKED, rollout()]))
    assert [(file.form, file.rows, file.invalid_rows) for file in report.files] == [("binary_preference", 4, 3)]
    assert [(finding.line, finding.expected) for finding in errors(report)] == [
        (line, f"a key {key}") for line in (1, 3, 4) for key in ("prompt", "chosen", "rejected")
    ]


@pytest.mark.parametrize("chunk_bytes", [50, 1 << 20])
@pytest.mark.parametrize("is_packed", [False, True])
def test_what_is_broken_at_the_beginning_hides_no_form(tmp_path, chunk_bytes, is_packed):
    content = b'{"prompt": "' + b"x" * 1000 + b"\n" * 1000 + b"\n".join(json.dumps(BINARY).encode() for _ in range(3))
    path = tmp_path / "rows.jsonl"
    path.write_bytes(gzip.compress(content) if is_packed else content)
    report = checked(path, chunk_bytes=chunk_bytes, severities=only(Rule.MALFORMED_JSON, Rule.UNKNOWN_FORM))
    assert [(file.form, file.rows, file.invalid_rows) for file in report.files] == [("binary_preference", 4, 1)]
    assert places(report) == [(1, Rule.MALFORMED_JSON)]


@pytest.mark.parametrize(
    ("row", "form", "keys"),
    [
        (BINARY, "binary_preference", ()),
        ({**BINARY, "chosen": [ANSWER], "rejected": "B"}, "trl", ()),
        (RANKED, "preference", ()),
        (WHOLE, "pairs with the prompt in both sides", ()),
        ({"prompt": "Q", "chosen_response": "A", "rejected_response": "B"}, "BinaryPreference of NeMo RL 0.3", ()),
        (STEERED, "HelpSteer3", ()),
        ({"question": "Q", "good": "A", "bad": "B"}, "binary_preference", ("question", "good", "bad")),
    ],
    ids=str,
)
def test_each_form_that_training_reads_passes(tmp_path, write_jsonl, row, form, keys):
    path = write_jsonl(tmp_path / "rows.jsonl", [row])
    report = checked(path, **({"keys": PairKeys(*keys)} if keys else {}))
    assert [(file.form, file.rows, file.invalid_rows) for file in report.files] == [(form, 1, 0)]
    assert report.counts == {}
    if not keys:
        assert len(read_pairs(path)) == 1


@pytest.mark.parametrize(
    ("good", "bad", "pointer"),
    [
        (BINARY, {**BINARY, "chosen_token_ids": [1]}, "/prompt_token_ids"),
        (BINARY, {**BINARY, "prompt": ""}, "/prompt"),
        (RANKED, {**RANKED, "completions": RANKED["completions"][:1]}, "/completions"),
        (WHOLE, {**WHOLE, "prompt": "Q"}, "/prompt"),
        (WHOLE, {"chosen": [USER, ANSWER], "rejected": [ANSWER, ANSWER]}, "/chosen"),
        (STEERED, {**STEERED, "overall_preference": "1"}, "/overall_preference"),
        (STEERED, {**STEERED, "response1": None}, "/response1"),
        (STEERED, {**STEERED, "response2": ""}, "/response2"),
        (STEERED, {**STEERED, "context": []}, "/context"),
    ],
    ids=str,
)
def test_what_training_refuses_is_an_error_at_its_place(tmp_path, write_jsonl, good, bad, pointer):
    path = write_jsonl(tmp_path / "rows.jsonl", [good, bad])
    assert [(finding.line, finding.rule, finding.pointer) for finding in errors(checked(path))] == [
        (2, Rule.SCHEMA, pointer)
    ]
    with pytest.raises(InputError, match="see each with: dpo validate"):
        read_pairs(path)


def test_rows_of_no_known_form_are_errors(tmp_path, write_jsonl):
    report = checked(write_jsonl(tmp_path / "rows.jsonl", [{"x": 1}, [BINARY], "text", None]))
    assert places(report) == [(line, Rule.UNKNOWN_FORM) for line in (1, 2, 3, 4)]
    assert report.files[0].form == "unknown"


def test_a_kind_can_be_required(tmp_path, write_jsonl, rollout):
    path = write_jsonl(tmp_path / "rows.jsonl", [BINARY])
    assert errors(checked(path, kind=Kind.BINARY_PREFERENCE)) == []
    assert {finding.rule for finding in errors(checked(path, kind=Kind.ROLLOUT))} == {Rule.SCHEMA}
    path = write_jsonl(tmp_path / "rows.jsonl", [rollout()])
    assert errors(checked(path, kind=Kind.ROLLOUT)) == []
    assert {finding.rule for finding in errors(checked(path, kind=Kind.PREFERENCE))} == {Rule.SCHEMA}


@pytest.mark.parametrize("content", [b"", b"\n\n \n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_an_error(tmp_path, content):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    report = checked(path)
    assert [(file.form, file.rows, file.num_errors) for file in report.files] == [("unknown", 0, 1)]
    (finding,) = report.findings
    assert (finding.rule, finding.place) == (Rule.EMPTY_FILE, str(path))
    assert finding.message == "got an empty file, expected at least one row"


def test_lines_are_counted_over_pieces_and_blank_ones_too(tmp_path):
    """Rows of any length, in pieces of 64 bytes, by one process and by two: the same findings at the same lines."""
    rows = []
    for number in range(200):
        row = {"prompt": f"Q{number}", "chosen": "A" * (number % 90), "rejected": "B"}
        rows.append(b"" if number % 7 == 3 else json.dumps(row).encode())
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(rows))
    empty = [number + 1 for number in range(200) if number % 7 != 3 and number % 90 == 0]
    found = [checked(path, chunk_bytes=size, num_workers=workers) for size, workers in [(64, 1), (64, 2), (1 << 20, 1)]]
    assert [finding.line for finding in errors(found[0])] == empty == [1, 91, 181]
    assert found[0] == found[1] == found[2]


def test_findings_are_all_counted_and_the_first_are_kept(tmp_path, write_jsonl):
    rows = [{**BINARY, "rejected": 5} for _ in range(MAX_KEPT + 7)]
    heard = []
    report = checked(
        write_jsonl(tmp_path / "rows.jsonl", rows), hear=lambda finding, severity: heard.append((finding, severity))
    )
    assert report.counts == {Rule.SCHEMA: MAX_KEPT + 7}
    assert [finding.line for finding in report.findings] == list(range(1, MAX_KEPT + 1))
    assert [(finding.line, severity) for finding, severity in heard] == [
        (line, Severity.ERROR) for line in range(1, MAX_KEPT + 8)
    ]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_reading_stops_at_the_last_error_that_is_wanted(tmp_path, write_jsonl, num_workers):
    rows = [{**BINARY, "rejected": 5} if number % 2 else BINARY for number in range(50)]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    report = checked(path, max_errors=3, num_workers=num_workers, chunk_bytes=100)
    assert places(report) == [(line, Rule.SCHEMA) for line in (2, 4, 6)]
    assert report.is_stopped
    whole = checked(path, num_workers=num_workers)
    assert not whole.is_stopped
    assert whole.num_errors == 25


def test_severities_decide_what_is_found_and_what_fails(tmp_path, write_jsonl):
    path = write_jsonl(tmp_path / "rows.jsonl", [BINARY, {**BINARY, "rejected": 5}])
    severities = {**only(), Rule.SCHEMA: Severity.WARNING}
    report = checked(path, severities=severities)
    assert (report.num_errors, report.num_warnings, report.files[0].invalid_rows) == (0, 1, 0)
    assert not report.fails(Severity.ERROR)
    assert report.fails(Severity.WARNING)
    assert checked(path, severities=only()).counts == {}


def test_files_are_one_data_set_and_each_has_its_account(tmp_path, write_jsonl):
    first = write_jsonl(tmp_path / "first.jsonl", [BINARY, {**BINARY, "rejected": 5}])
    second = write_jsonl(tmp_path / "second.jsonl", [RANKED])
    report = checked(first, second, tmp_path / "absent.jsonl")
    assert [(file.path, file.form, file.rows, file.num_errors) for file in report.files] == [
        (str(first), "binary_preference", 2, 1),
        (str(second), "preference", 1, 0),
    ]
    assert report.unreadable == (f"{tmp_path}/absent.jsonl: no such file",)


def test_a_file_that_breaks_off_is_unreadable_and_the_others_are_checked(tmp_path, write_jsonl):
    broken, good = tmp_path / "broken.jsonl.gz", write_jsonl(tmp_path / "good.jsonl", [BINARY])
    broken.write_bytes(gzip.compress(b"\n".join([json.dumps(BINARY).encode()] * 100_000))[:-1000])
    report = checked(broken, good)
    assert [file.path for file in report.files] == [str(broken), str(good)]  # what was read of it is told
    assert 0 < report.files[0].rows < 100_000
    (reason,) = report.unreadable
    assert reason.startswith(f"{broken}: can't be read")


def test_a_file_that_vanishes_while_it_is_read_is_unreadable_and_the_others_are_checked(tmp_path, write_jsonl):
    path = write_jsonl(tmp_path / "rows.jsonl", [{**BINARY, "chosen": 1}] * 3)
    other = write_jsonl(tmp_path / "other.jsonl", [BINARY])
    report = checked(path, other, chunk_bytes=20, hear=lambda *_: path.unlink(missing_ok=True))
    assert report.unreadable == (f"{path}: no such file",)
    assert [(file.path, file.rows) for file in report.files] == [(str(path), 1), (str(other), 1)]
    assert places(report) == [(1, Rule.SCHEMA)]


def test_every_packing_gives_the_same_findings(tmp_path, write_jsonl):
    rows = [{"prompt": f"Q{number}", "chosen": "A" * (number % 50), "rejected": "B"} for number in range(2500)]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    pl.DataFrame(rows).write_parquet(tmp_path / "rows.parquet")
    pl.DataFrame(rows).write_csv(tmp_path / "rows.csv")
    wanted = [(number + 1, Rule.SCHEMA) for number in range(0, 2500, 50)]
    for name in ("rows.jsonl", "rows.jsonl.gz", "rows.json", "rows.parquet", "rows.csv"):
        report = checked(tmp_path / name, num_workers=2, chunk_bytes=10_000, severities=only(Rule.SCHEMA))
        assert places(report) == wanted, name
        assert report.files[0].rows == 2500


def test_folders_and_patterns_stand_for_their_files(tmp_path, write_jsonl):
    (tmp_path / "shards").mkdir()
    for name in ("b.jsonl", "a.jsonl", "notes.txt"):
        write_jsonl(tmp_path / "shards" / name, [BINARY])
    wanted = [str(tmp_path / "shards" / name) for name in ("a.jsonl", "b.jsonl")]
    for place in (tmp_path / "shards", tmp_path / "shards" / "*.jsonl"):
        assert [file.path for file in checked(place).files] == wanted
    with pytest.raises(InputError, match="no file matches"):
        checked(tmp_path / "shards" / "*.parquet")


def test_what_is_written_beside_rollouts_is_checked_only_where_it_is_named(tmp_path, write_jsonl, rollout):
    path = write_jsonl(tmp_path / "run.jsonl", [rollout()])
    beside = [write_jsonl(tmp_path / f"run_{name}.jsonl.gz", []) for name in ("failures", "reward_profiling")]
    for place in (tmp_path, tmp_path / "*.jsonl*"):
        assert [file.path for file in checked(place).files] == [str(path)]
    assert [file.path for file in checked(path, beside[0]).files] == [str(path), str(beside[0])]
    path.unlink()
    assert [file.path for file in checked(tmp_path).files] == list(map(str, beside))


def test_each_file_is_read_once(tmp_path, write_jsonl):
    path = write_jsonl(tmp_path / "rows.jsonl", [BINARY])
    assert len(checked(path, path).files) == 1


def test_a_pipe_is_checked_while_it_is_written(tmp_path):
    reads, writes = os.pipe()
    with os.fdopen(writes, "wb") as stream:
        stream.write(json.dumps({**BINARY, "chosen": 1}).encode() + b"\n" + json.dumps(BINARY).encode())
    report = checked(tmp_path / "missing" / ".." / f"/dev/fd/{reads}")
    os.close(reads)
    assert places(report) == [(1, Rule.SCHEMA)]
    assert report.files[0].rows == 2


def test_the_same_row_has_the_same_fingerprint_wherever_it_stands(tmp_path, write_jsonl):
    bad = {**BINARY, "rejected": 5}
    first = checked(write_jsonl(tmp_path / "first.jsonl", [bad]))
    second = checked(write_jsonl(tmp_path / "second.jsonl", [BINARY, b"", {**bad, "prompt": "other"}, bad]))
    prints = [finding.fingerprint for finding in errors(second)]
    assert [finding.fingerprint for finding in errors(first)] == prints[1:]
    assert prints[0] != prints[1]


def test_rules_that_are_ignored_cost_no_other_its_findings(tmp_path, write_jsonl):
    rows = [{**BINARY, "rejected": "A"}, {**BINARY, "chosen": " "}]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    everything = checked(path).counts
    for ignored, kept in itertools.permutations(everything, 2):
        report = checked(path, severities={**only(*everything), ignored: Severity.IGNORE})
        assert ignored not in report.counts
        assert report.counts[kept] == everything[kept]


def test_a_file_in_another_encoding_is_told_once(tmp_path, write_jsonl):
    path = write_jsonl(tmp_path / "rows.jsonl", [BINARY] * 100)
    path.write_bytes(path.read_text().encode("utf-16"))
    (finding,) = checked(path, chunk_bytes=300).findings
    assert (finding.rule, finding.line) == (Rule.INVALID_UTF8, 1)
    assert "UTF-16" in finding.got


@pytest.mark.parametrize("good", [BINARY, RANKED, STEERED, WHOLE], ids=str)
@pytest.mark.parametrize("bad", [b"null", b"1", b'"text"', b"[]", b"{}"])
def test_what_is_no_object_is_an_error_among_rows_of_any_form(tmp_path, write_jsonl, good, bad):
    report = checked(write_jsonl(tmp_path / "rows.jsonl", [good, bad]))
    assert {finding.rule for finding in report.findings} == {Rule.SCHEMA}
    assert {finding.line for finding in report.findings} == {2}


@pytest.mark.parametrize("kind", [Kind.BINARY_PREFERENCE, Kind.TRL, Kind.PREFERENCE])
def test_a_required_kind_is_held_by_each_row(tmp_path, write_jsonl, kind):
    rows = {
        Kind.BINARY_PREFERENCE: BINARY,
        Kind.TRL: {"prompt": [USER], "chosen": [ANSWER], "rejected": [WORSE]},
        Kind.PREFERENCE: RANKED,
    }
    report = checked(write_jsonl(tmp_path / "rows.jsonl", [*rows.values()]), kind=kind)
    assert {finding.line for finding in errors(report)} == {1, 2, 3} - {list(rows).index(kind) + 1}


def test_a_key_that_nemo_rl_stops_at_is_told_though_training_passes_it_over(tmp_path, write_jsonl):
    path = write_jsonl(tmp_path / "rows.jsonl", [RANKED, {**RANKED, "task_name": "x"}])
    assert [(finding.line, finding.pointer) for finding in errors(checked(path))] == [(2, "/task_name")]
    assert len(read_pairs(path)) == 2


def test_what_was_read_of_a_file_is_told_where_it_was_stopped(tmp_path, write_jsonl):
    rows = [{**BINARY, "rejected": 5} if number % 2 else BINARY for number in range(50)]
    path, other = write_jsonl(tmp_path / "rows.jsonl", rows), write_jsonl(tmp_path / "other.jsonl", rows)
    for size in (100, 1 << 20):
        report = checked(path, other, max_errors=3, chunk_bytes=size)
        assert [(file.path, file.rows, file.invalid_rows) for file in report.files] == [(str(path), 6, 3)]


def test_rows_that_only_the_users_schema_knows_are_counted(tmp_path, write_jsonl):
    schema = tmp_path / "own.schema.json"
    schema.write_text(json.dumps({"required": ["prompt"]}))
    rows = [BINARY, {"prompt": "", "chosen": 1, "rejected": None}, {"chosen": "A"}]
    report = checked(write_jsonl(tmp_path / "rows.jsonl", rows), schema=schema)
    assert places(report) == [(3, Rule.SCHEMA)]
    assert report.passed_over == 1


def test_files_are_not_held_against_themselves_but_against_each_other(tmp_path, write_jsonl):
    train = write_jsonl(tmp_path / "train.jsonl", [BINARY, {**BINARY, "prompt": "R"}])
    val = write_jsonl(tmp_path / "val.jsonl", [{**BINARY, "prompt": "S"}, {**BINARY, "prompt": "T"}])
    test = write_jsonl(tmp_path / "test.jsonl", [{**BINARY, "prompt": "t!"}, {**BINARY, "prompt": "r"}])
    report = checked(train, val, against=[tmp_path / "." / "val.jsonl", test])
    assert [(finding.path, finding.line, finding.got) for finding in errors(report)] == [
        (str(train), 2, f"a prompt that {test}:2 has too"),
        (str(val), 2, f"a prompt that {test}:1 has too"),
    ]
    assert report.compared_with == 4


def test_a_contradiction_has_one_fingerprint_whichever_row_comes_first(tmp_path, write_jsonl):
    rows = [BINARY, {"prompt": "Q", "chosen": "B", "rejected": "A"}]
    (first,) = errors(checked(write_jsonl(tmp_path / "first.jsonl", rows)))
    (second,) = errors(checked(write_jsonl(tmp_path / "second.jsonl", rows[::-1])))
    assert first.rule == second.rule == Rule.CONTRADICTORY_PAIR
    assert first.fingerprint == second.fingerprint


def test_findings_on_the_whole_stand_at_a_file_of_their_rows(tmp_path, write_jsonl, rollout):
    rollouts = write_jsonl(tmp_path / "a.jsonl", [rollout(str(number)) for number in range(3)])
    pairs = [{"prompt": str(number), "chosen": "long", "rejected": "no"} for number in range(100)]
    report = checked(rollouts, write_jsonl(tmp_path / "b.jsonl", pairs), severities=only(Rule.LENGTH_BIAS))
    ((path, line, got),) = [(finding.path, finding.line, finding.got) for finding in report.findings]
    assert (path, line) == (str(tmp_path / "b.jsonl"), 0)
    assert got.endswith("(of 2 files together)")
