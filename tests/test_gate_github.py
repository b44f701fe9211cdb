"""Workflow commands, read back the way GitHub's runner reads them, and the summary of a step."""

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from pipeline.gate.report import Report
from pipeline.gate.reports import github, markdown
from pipeline.gate.reports.formats import OutputFormat, render
from pipeline.gate.rules import Rule, Severity
from schemas.errors import DpoError
from tests.gate_reports import GOOD, NO_JSON, NO_TEXT, checked, hostile_files, placed


class Command(NamedTuple):
    name: str
    properties: dict[str, str]
    message: str


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def commands(report: Report, fail_on: Severity = Severity.ERROR) -> list[Command]:
    """Read what is printed as the runner does: from `::` to the next `::` the command, behind it the message."""
    return [command(line) for line in render(OutputFormat.GITHUB, report, fail_on).splitlines()]


def command(line: str) -> Command:
    assert "##[" not in line
    match = re.fullmatch(r"::(\w+) (.*?)::(.*)", line)
    assert match is not None
    pairs = (pair.split("=", 1) for pair in match[2].split(","))
    return Command(match[1], {key: unescaped(value) for key, value in pairs}, unescaped(match[3]))


def unescaped(text: str) -> str:
    """Undo the escapes, `%25` last."""
    for escape, char in (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
        text = text.replace(escape, char)
    return text


def test_annotations(tmp_path: Path) -> None:
    report = checked(placed(tmp_path, {"a.jsonl": [GOOD, NO_TEXT], "b.jsonl": []}))
    assert commands(report) == [
        Command(
            "error",
            {"file": "a.jsonl", "line": "2", "title": "dpo validate: schema"},
            "/chosen: got 3, expected string",
        ),
        Command(
            "warning",
            {"file": "b.jsonl", "title": "dpo validate: empty-file"},
            "got an empty file, expected at least one row",
        ),
        Command("notice", {"title": "dpo validate"}, "failed: 1 error, 1 warning"),
    ]


def test_ten_of_each_kind_and_the_rest_in_words(tmp_path: Path) -> None:
    """Of twenty errors of one rule, two of another, a file that can't be read, and twelve warnings."""
    empty = {f"empty {number}.jsonl": [] for number in range(12)}
    files = placed(tmp_path, {"a.jsonl": [*[NO_TEXT] * 20, NO_JSON, NO_JSON], **empty})
    found = commands(checked([*files, Path("none.jsonl")]))
    kinds = [each.name for each in found]
    assert kinds == ["error"] * 10 + ["warning"] * 10 + ["notice"]
    assert found[0].message == "none.jsonl: no such file"
    titles = [each.properties["title"] for each in found[1:10]]
    assert titles == ["dpo validate: malformed-json"] * 2 + ["dpo validate: schema"] * 7
    assert found[-1].message == (
        "incomplete: 22 errors, 12 warnings; 15 more are not annotated, as GitHub shows 10 of each kind"
    )


def test_nothing_found(tmp_path: Path) -> None:
    found = commands(checked(placed(tmp_path, {"a.jsonl": [GOOD]})))
    assert found == [Command("notice", {"title": "dpo validate"}, "passed: nothing found")]


def test_no_text_and_no_name_is_a_command(tmp_path: Path) -> None:
    """One file at a time, so that each is annotated; what is read back is what was meant."""
    for path in hostile_files(tmp_path):
        report = checked([path])
        for each in commands(report)[:-1]:
            assert each.name == "error"
            assert each.properties.keys() - {"col"} == {"file", "line", "title"}
            assert each.properties["file"].replace(r"#\x23", "##") == report.files[0].path
            assert each.properties["title"] in ("dpo validate: malformed-json", "dpo validate: schema")
            assert "\n" not in each.message


def test_a_percent_sign_is_no_escape(tmp_path: Path) -> None:
    text = "%0A::error::x"
    (path,) = placed(
        tmp_path, {"100%0A,a.jsonl": [{**GOOD, "chosen": [{"role": "x", "content": "y", text: "z"}]}, b"1"]}
    )
    found = commands(checked([path]))
    assert {each.properties.get("file") for each in found[:-1]} == {"100%0A,a.jsonl"}


def test_the_summary_is_appended(tmp_path: Path) -> None:
    report = checked(placed(tmp_path, {"a.jsonl": [NO_TEXT]}))
    summary = tmp_path / "summary.md"
    summary.write_text("before, without an end of line")
    github.append_summary(report, Severity.ERROR, {"GITHUB_STEP_SUMMARY": str(summary)})
    assert summary.read_text() == f"before, without an end of line\n{markdown.render(report, Severity.ERROR)}"
    for environment in ({}, {"GITHUB_STEP_SUMMARY": ""}):
        github.append_summary(report, Severity.ERROR, environment)


def test_the_summary_stays_below_githubs_limit(tmp_path: Path) -> None:
    report = checked(placed(tmp_path, {"a.jsonl": [NO_TEXT]}))
    size = len(f"\n{markdown.render(report, Severity.ERROR)}".encode())
    summary = tmp_path / "summary.md"
    for before, after in (((1 << 20) - size, 1 << 20), ((1 << 20) - size + 1, (1 << 20) - size + 1)):
        summary.write_bytes(b"x" * before)
        github.append_summary(report, Severity.ERROR, {"GITHUB_STEP_SUMMARY": str(summary)})
        assert summary.stat().st_size == after


def test_a_summary_that_cant_be_written(tmp_path: Path) -> None:
    report = checked(placed(tmp_path, {"a.jsonl": [GOOD]}))
    for name in (str(tmp_path), str(tmp_path / "none" / "summary.md")):
        with pytest.raises(DpoError, match=r"^GITHUB_STEP_SUMMARY: .*: can't be written: "):
            github.append_summary(report, Severity.ERROR, {"GITHUB_STEP_SUMMARY": name})


def test_warnings_fail_where_the_user_wants_it(tmp_path: Path) -> None:
    report = checked(placed(tmp_path, {"a.jsonl": []}), severities={Rule.EMPTY_FILE: Severity.WARNING})
    assert commands(report)[-1].message == "passed: 1 warning"
    assert commands(report, Severity.WARNING)[-1].message == "failed: 1 warning"
