"""Baselines: what is known does not fail, wherever its row has moved to, and what is new does."""

import json
from pathlib import Path

import pytest

from pipeline.gate.baseline import Baseline, Collected, read_baseline, write_baseline
from pipeline.gate.finding import Finding
from pipeline.gate.report import MAX_KEPT, Report
from pipeline.gate.rules import Rule, Severity
from schemas.errors import DpoError, InputError
from tests.gate_reports import GOOD, HOSTILE, NO_JSON, NO_TEXT, checked, hostile_files, placed

KNOWN = Path("known.json")
OTHER = {**NO_TEXT, "prompt": "another"}


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def baseline_of(paths: list[Path], **told: object) -> Baseline:
    """Write the baseline of files as they are, and read it again."""
    collected = Collected()
    checked(paths, hear=collected.add, **told)
    write_baseline(KNOWN, collected)
    return read_baseline(KNOWN)


def test_what_is_known_is_counted_and_does_not_fail(tmp_path: Path) -> None:
    files = placed(tmp_path, {"a.jsonl": [NO_TEXT, GOOD, NO_JSON], "b.jsonl": []})
    report = checked(files, baseline=baseline_of(files))
    assert (report.known, report.unmet, report.counts, report.findings) == (3, 0, {}, ())
    assert report.exit_code(Severity.WARNING) == 0
    assert [(file.num_errors, file.num_warnings, dict(file.counts)) for file in report.files] == [
        (0, 0, {}),
        (0, 0, {}),
    ]
    assert report.files[0].invalid_rows == 2  # which is so all the same


def test_moved_rows_are_known_and_changed_ones_are_not(tmp_path: Path) -> None:
    files = placed(tmp_path, {"a.jsonl": [NO_TEXT, NO_JSON]})
    baseline = baseline_of(files)
    placed(tmp_path, {"a.jsonl": [GOOD, NO_JSON, GOOD, OTHER, GOOD, NO_TEXT]})
    report = checked(files, baseline=baseline)
    assert [(finding.rule, finding.line) for finding in report.findings] == [(Rule.SCHEMA, 4)]
    assert (report.known, report.unmet) == (2, 0)
    assert report.fails(Severity.ERROR)


def test_rows_may_move_to_another_file(tmp_path: Path) -> None:
    baseline = baseline_of(placed(tmp_path, {"a.jsonl": [NO_TEXT]}))
    assert checked(placed(tmp_path, {"b.jsonl": [GOOD, NO_TEXT]}), baseline=baseline).known == 1


def test_each_known_finding_is_taken_once(tmp_path: Path) -> None:
    files = placed(tmp_path, {"a.jsonl": [NO_TEXT, NO_TEXT]})
    baseline = baseline_of(files)
    placed(tmp_path, {"a.jsonl": [NO_TEXT] * 5})
    report = checked(files, baseline=baseline)
    assert (report.known, report.counts) == (2, {Rule.SCHEMA: 3})
    assert [finding.line for finding in report.findings] == [3, 4, 5]


def test_a_known_finding_on_the_whole_is_known_when_its_figures_change(tmp_path: Path) -> None:
    """All of 120 chosen responses are the longer ones, then all of 130: another finding to read, the same to know."""
    longer = {**GOOD, "chosen": "a longer one"}
    files = placed(tmp_path, {"a.jsonl": [longer] * 120})
    severities = {Rule.LENGTH_BIAS: Severity.ERROR}
    before = checked(files, severities=severities)
    baseline = baseline_of(files, severities=severities)
    placed(tmp_path, {"a.jsonl": [longer] * 130})
    after = checked(files, severities=severities)
    assert before.counts == after.counts == {Rule.LENGTH_BIAS: 1}
    assert before.findings[0].got != after.findings[0].got
    assert checked(files, severities=severities, baseline=baseline).known == 1


def test_known_findings_that_are_no_longer_there_are_counted(tmp_path: Path) -> None:
    files = placed(tmp_path, {"a.jsonl": [NO_TEXT, NO_TEXT, NO_JSON]})
    baseline = baseline_of(files)
    placed(tmp_path, {"a.jsonl": [GOOD, NO_TEXT]})
    report = checked(files, baseline=baseline)
    assert (report.known, report.unmet, report.num_errors) == (1, 2, 0)


def test_nothing_is_said_of_those_behind_an_early_end(tmp_path: Path) -> None:
    files = placed(tmp_path, {"a.jsonl": [OTHER, NO_TEXT]})
    baseline = baseline_of(placed(tmp_path, {"b.jsonl": [NO_TEXT]}))
    report = checked(files, baseline=baseline, max_errors=1)
    assert (report.is_stopped, report.known, report.unmet) == (True, 0, 0)


def test_known_errors_are_none_of_max_errors(tmp_path: Path) -> None:
    files = placed(tmp_path, {"a.jsonl": [NO_TEXT] * 3})
    baseline = baseline_of(files)
    placed(tmp_path, {"a.jsonl": [*[NO_TEXT] * 3, NO_JSON]})
    report = checked(files, baseline=baseline, max_errors=2)
    assert (report.is_stopped, report.num_errors, report.known) == (False, 1, 3)


def test_all_findings_are_in_it_not_only_the_kept_ones(tmp_path: Path) -> None:
    files = placed(tmp_path, {"a.jsonl": [{**NO_TEXT, "prompt": str(number)} for number in range(MAX_KEPT + 50)]})
    report = checked(files, baseline=baseline_of(files))
    assert (report.known, report.counts) == (MAX_KEPT + 50, {})


def test_the_file_is_for_people_too(tmp_path: Path) -> None:
    """By rule, file and line; each fingerprint once, where it is first; one on each line."""
    files = placed(
        tmp_path, {"b.jsonl": [NO_TEXT, GOOD, NO_TEXT], "a.jsonl": [GOOD, OTHER, NO_JSON, NO_TEXT], "c.jsonl": []}
    )
    baseline_of(files)
    content = json.loads(KNOWN.read_bytes())
    assert list(content) == ["baseline_version", "findings"]
    assert content["baseline_version"] == 1
    assert [(entry["rule"], entry["place"], entry["count"]) for entry in content["findings"]] == [
        ("empty-file", "c.jsonl", 1),
        ("malformed-json", "a.jsonl:3", 1),
        ("schema", "a.jsonl:2", 1),
        ("schema", "a.jsonl:4", 3),
    ]
    lines = KNOWN.read_text().splitlines()
    assert [json.loads(line.rstrip(",")) for line in lines[3:-2]] == content["findings"]
    assert KNOWN.stat().st_size < 120 * (len(lines) + 1)


def test_the_same_findings_make_the_same_file(tmp_path: Path) -> None:
    """In whatever order the files were named, and with whatever pieces they were read in."""
    files = placed(tmp_path, {"a.jsonl": [NO_TEXT, OTHER] * 40, "b.jsonl": [OTHER, NO_JSON], "c.jsonl": []})
    baseline_of(files)
    first = KNOWN.read_bytes()
    baseline_of(files[::-1], num_workers=2, chunk_bytes=100)
    assert KNOWN.read_bytes() == first


def test_nothing_found_makes_an_empty_baseline(tmp_path: Path) -> None:
    files = placed(tmp_path, {"a.jsonl": [GOOD]})
    assert baseline_of(files).num_left == 0
    assert json.loads(KNOWN.read_bytes()) == {"baseline_version": 1, "findings": []}


def test_hostile_texts_and_names(tmp_path: Path) -> None:
    files = hostile_files(tmp_path)
    report = checked(files, baseline=baseline_of(files))
    assert (report.counts, report.unmet) == ({}, 0)
    assert report.known > 2 * len(HOSTILE)
    assert KNOWN.read_bytes().isascii()


def test_a_finding_costs_few_bytes() -> None:
    collected = Collected()
    for number in range(1000):
        collected.add(Finding(Rule.SCHEMA, "a", number, "", "", "", 0, (1 << 64) - 1 - number), Severity.ERROR)
    assert len(collected) == 1000
    assert sum(column.itemsize for column in vars(collected).values() if hasattr(column, "itemsize")) == 21
    assert next(collected.entries())["fingerprint"] == "f" * 16


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no JSON, expected a baseline"),
        (b"{nope", "is no JSON, expected a baseline"),
        (b'{"baseline_version": 1, "findings": [', "is no JSON, expected a baseline"),
        (
            b'{"baseline_version": 1, "findings": [{"fingerprint": "\xff", "count": 1}]}',
            "is no JSON, expected a baseline",
        ),
        (b'"baseline"', "is no baseline (Expected `object`, got `str`)"),
        (b"[" * 100_000, "is no"),
        (b"[]", "is no baseline (Expected `object`, got `array`)"),
        (b"{}", "is no baseline (Object missing required field `baseline_version`)"),
        (b'{"version": "2.1.0", "runs": []}', "is no baseline (Object missing required field `baseline_version`)"),
        (b'{"baseline_version": 2, "findings": []}', "is a baseline of version 2, expected version 1"),
        (b'{"baseline_version": 2}', "is a baseline of version 2, expected version 1"),
        (b'{"baseline_version": 1}', "is no baseline (Object missing required field `findings`)"),
        (b'{"baseline_version": 1, "findings": [{"fingerprint": "xyz"}]}', "is no baseline (Expected `str` matching"),
        (
            b'{"baseline_version": 1, "findings": [{"fingerprint": "0123456789abcdef", "count": 0}]}',
            "is no baseline (Expected `int` >= 1 - at `$.findings[0].count`)",
        ),
    ],
)
def test_what_is_no_baseline_is_refused_in_words(content: bytes, message: str) -> None:
    KNOWN.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_baseline(KNOWN)
    assert str(caught.value).startswith(f"known.json: {message}")
    assert str(caught.value).endswith("; dpo validate --write-baseline writes one")


def test_our_json_report_is_no_baseline(tmp_path: Path) -> None:
    from pipeline.gate.reports.formats import OutputFormat, render

    KNOWN.write_text(render(OutputFormat.JSON, checked(placed(tmp_path, {"a.jsonl": [NO_TEXT]}))))
    with pytest.raises(InputError, match="is no baseline"):
        read_baseline(KNOWN)


def test_a_baseline_that_cant_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^none.json: no such baseline; dpo validate --write-baseline writes one$"):
        read_baseline(Path("none.json"))
    with pytest.raises(InputError, match="can't be read: Is a directory"):
        read_baseline(tmp_path)


def test_the_old_baseline_stays_where_the_new_one_cant_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(DpoError, match="is a directory"):
        write_baseline(folder, Collected())
    baseline_of(placed(tmp_path, {"a.jsonl": [NO_TEXT]}))
    before = KNOWN.read_bytes()
    broken = Collected()
    broken.add(Finding(Rule.SCHEMA, "a", 1, "", "", "", 0, 1), Severity.ERROR)
    broken.entries = lambda: iter([{1: object()}])  # type: ignore[method-assign]
    with pytest.raises(TypeError):
        write_baseline(KNOWN, broken)
    assert KNOWN.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "folder", "known.json"]


def test_unread_rules_are_left_alone(tmp_path: Path) -> None:
    """A rule that is off takes nothing from the baseline; a severity that changed does not matter to it."""
    files = placed(tmp_path, {"a.jsonl": [NO_TEXT, NO_JSON]})
    baseline = baseline_of(files)
    severities = {Rule.SCHEMA: Severity.IGNORE, Rule.MALFORMED_JSON: Severity.WARNING}
    report: Report = checked(files, baseline=baseline, severities=severities)
    assert (report.known, report.unmet, report.counts) == (1, 1, {})
