"""The report for people: one line for each finding, fair shares, and nothing that a terminal or a CI log obeys."""

import gzip
import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from pipeline.gate.baseline import Collected, read_baseline, write_baseline
from pipeline.gate.report import MAX_KEPT, Report
from pipeline.gate.reports.human import print_report
from pipeline.gate.rules import ABOUT, Rule, Severity
from tests.gate_reports import GOOD, HOSTILE, NO_JSON, NO_TEXT, checked, hostile_files, placed


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def shown(
    report: Report, *, max_findings: int = 20, width: int = 110, color: bool = False, fail_on: Severity = Severity.ERROR
) -> str:
    """Print a report as `stderr_console` would, to a text."""
    stream = io.StringIO()
    console = Console(
        file=stream,
        markup=False,
        emoji=False,
        highlight=False,
        width=width,
        force_terminal=color,
        color_system="standard" if color else None,
    )
    print_report(report, console, max_findings=max_findings, fail_on=fail_on)
    return stream.getvalue()


def test_a_report(tmp_path: Path) -> None:
    files = placed(tmp_path, {"a.jsonl": [GOOD, NO_TEXT, GOOD], "b.jsonl": [], "c.jsonl": [GOOD]})
    lines = [line.rstrip() for line in shown(checked(files)).splitlines()]
    assert lines == [
        "a.jsonl:2: error: schema: /chosen: got 3, expected string",
        "b.jsonl: warning: empty-file: got an empty file, expected at least one row",
        "",
        "severity  rule        findings  what it finds",
        "error     schema             1  a row that misses its JSON Schema",
        "warning   empty-file         1  a file without rows",
        "",
        "schema: dpo train and NeMo RL read such a row wrongly, or refuse it.",
        "empty-file: A training on it would have nothing to learn from.",
        "",
        "a.jsonl: 3 rows of binary_preference, 1 invalid, 1 error",
        "b.jsonl: 0 rows, 1 warning",
        "c.jsonl: 1 row of binary_preference, all valid",
        "failed: 1 error, 1 warning",
    ]


def test_nothing_found(tmp_path: Path) -> None:
    report = checked(placed(tmp_path, {"a.jsonl": [GOOD]}))
    assert shown(report) == "a.jsonl: 1 row of binary_preference, all valid\npassed: nothing found\n"


def test_warnings_fail_where_the_user_wants_it(tmp_path: Path) -> None:
    report = checked(placed(tmp_path, {"a.jsonl": []}))
    assert shown(report).endswith("passed: 1 warning\n")
    assert shown(report, fail_on=Severity.WARNING).endswith("failed: 1 warning\n")


def test_no_rule_hides_another(tmp_path: Path) -> None:
    """Thirty of one rule come first in the file; of four places each of the two rules gets two."""
    files = placed(tmp_path, {"a.jsonl": [*[NO_TEXT] * 30, NO_JSON, NO_JSON, NO_JSON]})
    lines = shown(checked(files), max_findings=4).splitlines()
    told = [re.match(r"a.jsonl:(\d+)(?::\d+)?: error: ([a-z-]+): ", line) for line in lines[:4]]
    assert [match.groups() for match in told if match] == [
        ("1", "schema"),
        ("2", "schema"),
        ("31", "malformed-json"),
        ("32", "malformed-json"),
    ]
    assert lines[4] == "… and 29 more findings in a.jsonl (--max-findings shows more)"


def test_errors_come_before_warnings_where_there_is_room_for_one(tmp_path: Path) -> None:
    files = placed(tmp_path, {"a.jsonl": [NO_JSON, NO_TEXT]})
    report = checked(files, severities={Rule.MALFORMED_JSON: Severity.WARNING})
    assert shown(report, max_findings=1).startswith("a.jsonl:2: error: schema:")


def test_each_file_has_room_of_its_own(tmp_path: Path) -> None:
    files = placed(tmp_path, {"a.jsonl": [NO_TEXT] * 5, "b.jsonl": [NO_TEXT] * 5})
    text = shown(checked(files), max_findings=2)
    assert re.findall(r"^([ab]).jsonl:\d+: error", text, re.MULTILINE) == ["a", "a", "b", "b"]
    assert "… and 3 more findings in a.jsonl" in text
    assert "… and 3 more findings in b.jsonl" in text


def test_what_was_not_kept_is_in_jsonl(tmp_path: Path) -> None:
    report = checked(placed(tmp_path, {"a.jsonl": [NO_TEXT] * (MAX_KEPT + 7)}))
    text = shown(report, max_findings=5000)
    assert "… and 7 more findings in a.jsonl (--output-format jsonl writes all)" in text
    assert "a.jsonl: 1,007 rows of binary_preference, 1,007 invalid" in text


def test_many_rules_are_explained_elsewhere(tmp_path: Path) -> None:
    few = checked(placed(tmp_path, {"a.jsonl": [NO_TEXT, NO_JSON], "b.jsonl": []}))
    assert "--list-rules" not in shown(few)
    counts = dict.fromkeys(list(Rule)[:6], 1)  # one more than are explained
    many = Report((), few.severities | dict.fromkeys(counts, Severity.ERROR), counts, ())
    assert "dpo validate --list-rules tells what comes of each" in shown(many)
    assert ABOUT[Rule.SCHEMA].why not in shown(many)


def test_known_findings_and_an_early_end_are_told(tmp_path: Path) -> None:
    files = placed(tmp_path, {"a.jsonl": [NO_TEXT, NO_TEXT, NO_JSON]})
    collected = Collected()
    checked(files, hear=collected.add)
    write_baseline(Path("known.json"), collected)
    placed(tmp_path, {"a.jsonl": [NO_TEXT, NO_JSON]})
    text = shown(checked(files, baseline=read_baseline(Path("known.json"))))
    assert text.endswith("2 known findings (of 3 in the baseline) not counted\npassed: nothing found\n")
    assert "2 invalid" in text
    stopped = shown(checked(files, max_errors=1))
    assert "stopped after 1 error; what lies behind was not checked" in stopped


def test_findings_stay_on_one_line_in_a_narrow_terminal(tmp_path: Path) -> None:
    name = "long" * 30 + ".jsonl"
    text = shown(checked(placed(tmp_path, {name: [NO_TEXT]})), width=80)
    assert text.splitlines()[0] == f"{name}:1: error: schema: /chosen: got 3, expected string"


def test_only_the_severity_has_a_colour(tmp_path: Path) -> None:
    report = checked(placed(tmp_path, {"a.jsonl": [NO_TEXT]}))
    assert "\x1b" not in shown(report)
    first = shown(report, color=True).splitlines()[0]
    assert first == "a.jsonl:1: \x1b[1;31merror\x1b[0m: schema: /chosen: got 3, expected string"


def test_what_was_found_before_a_file_broke_off_is_told(tmp_path: Path) -> None:
    whole = gzip.compress(
        b"".join(json.dumps({**NO_TEXT, "prompt": str(number)}).encode() + b"\n" for number in range(60_000))
    )
    (tmp_path / "a.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    report = checked([Path("a.jsonl.gz")], chunk_bytes=1 << 18)
    assert report.unreadable
    lines = shown(report, max_findings=1).splitlines()
    assert lines[0] == "a.jsonl.gz:1: error: schema: /chosen: got 3, expected string"
    assert re.fullmatch(r"a.jsonl.gz: [\d,]+ rows of binary_preference, ([\d,]+) invalid, \1 errors", lines[-2])
    assert lines[-1].startswith("incomplete: ")


def test_nothing_hostile_is_printed(tmp_path: Path) -> None:
    """Each text of `HOSTILE` is in a file's name, in a value and in a key; all of them are told, none is obeyed."""
    report = checked(hostile_files(tmp_path))
    assert report.num_errors > 2 * len(HOSTILE)
    text = shown(report, max_findings=1000)
    for line in text.splitlines():
        assert not line.lstrip().startswith("::")
        assert not re.search(r"##\w*\[", line)
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe]", text)
    assert "[red]x[/red]" in text  # as it is: neither read as markup nor lost
    assert ":boom:" in text
    assert r"\x3a:error file=x::y:1: error:" in text
    assert r"  \x3a:error file=x::y:1: error:" in text
    assert r"#\x23[add-mask]x:1: error:" in text
    assert text.count("more findings") == 0


def test_a_narrow_terminal_sees_names_and_numbers_whole(tmp_path: Path) -> None:
    files = placed(tmp_path, {"a.jsonl": [GOOD, {"prompt": "?", "chosen": "4", "rejected": "4"}]})
    report = checked(files, severities={Rule.IDENTICAL_RESPONSES: Severity.ERROR})
    lines = [line.rstrip() for line in shown(report, width=40).splitlines()]
    assert "severity  rule                 findings" in lines
    assert "error     identical-responses         1" in lines
