"""The reports for programs: whole, exact where findings are capped, and valid JSON whatever is in the data."""

import json
import math
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest

from pipeline.gate.finding import Finding
from pipeline.gate.found import Found
from pipeline.gate.report import MAX_KEPT
from pipeline.gate.reports import jsonl
from pipeline.gate.reports.choice import by_place, fair_choice
from pipeline.gate.reports.formats import OutputFormat, render
from pipeline.gate.reports.plain_text import harmless_line
from pipeline.gate.rules import ABOUT, Rule, Severity
from pipeline.gate.settings import GateSettings, severities_of
from schemas.terminal import harmless
from tests.gate_reports import GOOD, HOSTILE, NO_JSON, NO_TEXT, checked, hostile_files, placed

ALL_SEVERITIES = severities_of()


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def finding(rule: Rule, line: int, path: str = "a") -> Finding:
    return Finding(rule, path, line, "", "got", "expected", 0, line)


def test_json_tells_all(tmp_path: Path) -> None:
    files = placed(tmp_path, {"a.jsonl": [GOOD, NO_TEXT], "b.jsonl": []})
    report = checked([*files, Path("none.jsonl")])
    told = json.loads(render(OutputFormat.JSON, report))
    assert {key: told[key] for key in told if key not in ("findings", "files", "rules", "statistics")} == {
        "version": 1,
        "dpo_version": version("dpo"),
        "exit_code": 3,
        "is_stopped": False,
        "errors": 1,
        "warnings": 1,
        "known": 0,
        "unmet": 0,
        "compared_with": 0,
        "passed_over": 0,
        "unreadable": ["none.jsonl: no such file"],
        "findings_left_out": 0,
    }
    assert told["files"][0] == {
        "path": "a.jsonl",
        "form": "binary_preference",
        "rows": 2,
        "invalid_rows": 1,
        "errors": 1,
        "warnings": 0,
        "findings": {"schema": 1},
    }
    about = ABOUT[Rule.SCHEMA]
    assert told["rules"]["schema"] == {"severity": "error", "findings": 1, "finds": about.finds, "why": about.why}
    assert list(told["rules"]) == ["empty-file", "schema"]
    empty, schema = told["findings"]
    assert (empty["path"], empty["line"], empty["severity"]) == ("b.jsonl", None, "warning")
    assert {key: schema[key] for key in schema if key != "fingerprint"} == {
        "rule": "schema",
        "severity": "error",
        "path": "a.jsonl",
        "line": 2,
        "column": None,
        "pointer": "/chosen",
        "got": "3",
        "expected": "string",
    }


@pytest.mark.parametrize(
    ("names", "fail_on", "code"),
    [
        (("good.jsonl",), Severity.WARNING, 0),
        (("empty.jsonl",), Severity.ERROR, 0),
        (("empty.jsonl",), Severity.WARNING, 1),
        (("bad.jsonl",), Severity.ERROR, 1),
        (("bad.jsonl", "none.jsonl"), Severity.ERROR, 3),
    ],
)
def test_the_exit_code(tmp_path: Path, names: tuple[str, ...], fail_on: Severity, code: int) -> None:
    placed(tmp_path, {"good.jsonl": [GOOD], "empty.jsonl": [], "bad.jsonl": [NO_TEXT]})
    report = checked([Path(name) for name in names])
    assert report.exit_code(fail_on) == code
    assert json.loads(render(OutputFormat.JSON, report, fail_on))["exit_code"] == code


def test_json_has_no_nan(tmp_path: Path) -> None:
    report = checked(placed(tmp_path, {"a.jsonl": [GOOD]}))
    odd = replace(report, statistics={"mean": math.nan, "deep": {"all": [1.5, math.inf]}})
    assert json.loads(render(OutputFormat.JSON, odd))["statistics"] == {"mean": None, "deep": {"all": [1.5, None]}}


def test_jsonl_has_all_findings_and_json_counts_those_it_leaves_out(tmp_path: Path) -> None:
    lines: list[str] = []
    report = checked(
        placed(tmp_path, {"a.jsonl": [NO_TEXT] * (MAX_KEPT + 5), "b.jsonl": [NO_JSON]}),
        hear=lambda finding, severity: lines.append(jsonl.line(finding, severity)),
    )
    heard = [json.loads(line) for line in lines]
    assert [each["line"] for each in heard if each["rule"] == "schema"] == list(range(1, MAX_KEPT + 6))
    told = json.loads(render(OutputFormat.JSON, report))
    assert told["errors"] == MAX_KEPT + 6
    assert told["rules"]["schema"]["findings"] == MAX_KEPT + 5
    assert len(told["findings"]) == MAX_KEPT + 1
    assert told["findings_left_out"] == 5
    assert all(each in heard for each in told["findings"][:10])


@pytest.mark.parametrize("form", [OutputFormat.JSON, OutputFormat.SARIF, OutputFormat.JUNIT])
def test_what_is_hostile_is_spelled_harmlessly(tmp_path: Path, form: OutputFormat) -> None:
    text = render(form, checked(hostile_files(tmp_path)))
    assert text.isascii()
    assert "##[" not in text
    assert "##vso[" not in text
    assert not any(line.lstrip().startswith("::") for line in text.splitlines())


def test_json_means_what_the_data_has(tmp_path: Path) -> None:
    lines: list[str] = []
    files = hostile_files(tmp_path)
    report = checked(files, hear=lambda finding, severity: lines.append(jsonl.line(finding, severity)))
    paths = {file["path"] for file in json.loads(render(OutputFormat.JSON, report))["files"]}
    assert {"##[add-mask]x", "::error file=x::y", "[red]x[red]", "a:b,c.jsonl"} <= paths
    assert not any("##[" in line or "\n" in line for line in lines)
    assert {json.loads(line)["path"] for line in lines} == paths
    assert len(lines) == sum(report.counts.values())


def test_human_and_jsonl_are_not_rendered(tmp_path: Path) -> None:
    report = checked(placed(tmp_path, {"a.jsonl": [GOOD]}))
    for form in (OutputFormat.HUMAN, OutputFormat.JSONL):
        with pytest.raises(ValueError, match="no text of its own"):
            render(form, report)


def test_files_share_what_is_kept() -> None:
    """The first file alone would take all places; in the end the three have as equal shares as there can be."""
    found = Found(GateSettings(), None, None, lambda finding, severity: None)
    for path in ("a", "b", "c"):
        for line in range(1, 2 * MAX_KEPT):
            found.add(finding(Rule.SCHEMA, line, path))
    shares = [[each.line for each in found.kept if each.path == path] for path in ("a", "b", "c")]
    assert sum(map(len, shares)) == MAX_KEPT
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert all(share == list(range(1, len(share) + 1)) for share in shares)  # the first of each
    assert found.counts[Rule.SCHEMA] == 3 * (2 * MAX_KEPT - 1)
    assert found.num_of("b", Severity.ERROR) == 2 * MAX_KEPT - 1


def test_more_files_than_can_be_kept() -> None:
    found = Found(GateSettings(), None, None, lambda finding, severity: None)
    for number in range(MAX_KEPT + 50):
        found.add(finding(Rule.SCHEMA, 1, f"file {number}"))
        found.add(finding(Rule.SCHEMA, 2, f"file {number}"))
    assert len(found.kept) == MAX_KEPT
    assert {each.line for each in found.kept} == {1}
    assert found.counts[Rule.SCHEMA] == 2 * (MAX_KEPT + 50)


def test_rules_and_files_take_turns() -> None:
    many = [finding(Rule.SCHEMA, line) for line in range(1, 9)]
    few = [finding(Rule.SCHEMA, 1, "b"), finding(Rule.TIE, 1), finding(Rule.SECRET, 1), finding(Rule.SECRET, 2)]
    assert fair_choice([*many, *few], 20, ALL_SEVERITIES) == [*many, *few]
    # schema a:1, tie a:1 and secret a:1 in the first turn; schema b:1 and secret a:2 in the second; then schema alone
    assert fair_choice([*many, *few], 6, ALL_SEVERITIES) == [*many[:2], *few]
    assert fair_choice([*many, *few], 2, ALL_SEVERITIES) == [many[0], few[1]]  # errors before warnings
    assert fair_choice([], 5, ALL_SEVERITIES) == []
    assert fair_choice(many, 10**30, ALL_SEVERITIES) == many


def test_the_file_as_a_whole_comes_last() -> None:
    lines = [each.line for each in by_place([finding(Rule.BALANCE, 0), finding(Rule.TIE, 7), finding(Rule.SCHEMA, 3)])]
    assert lines == [3, 7, 0]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("::error::x", r"\x3a:error::x"),
        ("  ::error::x", r"  \x3a:error::x"),
        ("a ::error::x", "a ::error::x"),
        ("a ##[error]x", r"a #\x23[error]x"),
        ("###[error]x", r"##\x23[error]x"),
        ("##vso[x]##teamcity[x]", r"#\x23vso[x]#\x23teamcity[x]"),
        ("## title [1]", "## title [1]"),
        ("\x1b[0m\n::x", r"\x1b[0m\n::x"),
    ],
)
def test_commands_are_escaped(text: str, shown: str) -> None:
    assert harmless_line(text) == shown
    assert harmless(f"a {text}") == f"a {shown}".replace(r"\x3a", ":")


def test_the_hostile_texts_are_hostile() -> None:
    """Without what the reports do, these tests would have something to find."""
    assert any(text.startswith("::") for text in HOSTILE)
    assert sum(harmless_line(text) != text for text in HOSTILE) >= 10
