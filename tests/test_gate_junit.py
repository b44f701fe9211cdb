"""JUnit: suites, cases and sums as CI services read them, and well-formed whatever the data holds."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from pipeline.gate.report import Report
from pipeline.gate.reports import junit
from pipeline.gate.reports.formats import OutputFormat, render
from pipeline.gate.rules import ABOUT, Rule, Severity
from tests.gate_reports import GOOD, HOSTILE, NO_JSON, NO_TEXT, checked, hostile_files, placed


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def parsed(report: Report, fail_on: Severity = Severity.ERROR) -> ElementTree.Element:
    return ElementTree.fromstring(render(OutputFormat.JUNIT, report, fail_on).encode())


def sums(element: ElementTree.Element) -> tuple[str, ...]:
    return tuple(element.attrib[key] for key in ("tests", "failures", "errors"))


def test_suites_and_cases(tmp_path: Path) -> None:
    files = placed(tmp_path, {"a.jsonl": [GOOD, NO_TEXT, NO_JSON, NO_TEXT], "b.jsonl": [], "c.jsonl": [GOOD]})
    root = parsed(checked([*files, Path("none.jsonl")]))
    assert [(suite.attrib["name"], sums(suite)) for suite in root] == [
        ("a.jsonl", ("2", "2", "0")),
        ("b.jsonl", ("1", "0", "0")),
        ("c.jsonl", ("1", "0", "0")),
        ("unreadable files", ("1", "0", "1")),
    ]
    assert sums(root) == ("5", "2", "1")
    malformed, schema = root[0]
    assert malformed.attrib == {"classname": "a.jsonl", "name": "malformed-json", "file": "a.jsonl"}
    (failure,) = schema
    assert failure.tag == "failure"
    assert failure.attrib == {"message": f"2 errors: {ABOUT[Rule.SCHEMA].finds}", "type": "error"}
    assert failure.text is not None
    assert failure.text.splitlines() == [
        "a.jsonl:2: error: schema: /chosen: got 3, expected string",
        "a.jsonl:4: error: schema: /chosen: got 3, expected string",
        f"A row that misses its JSON Schema. {ABOUT[Rule.SCHEMA].why}",
    ]
    (clean,) = root[2]
    assert (clean.attrib["name"], list(clean)) == ("all rules", [])
    assert root[3][0][0].attrib["message"] == "none.jsonl: no such file"


def test_a_warning_fails_where_it_fails_the_gate(tmp_path: Path) -> None:
    report = checked(placed(tmp_path, {"b.jsonl": []}))
    (passed,) = parsed(report)[0][0]
    assert passed.tag == "system-out"
    assert (passed.text or "").startswith("b.jsonl: warning: empty-file: got an empty file")
    root = parsed(report, Severity.WARNING)
    assert root[0][0][0].tag == "failure"
    assert sums(root) == ("1", "1", "0")


def test_examples_are_capped_for_each_rule_of_a_file(tmp_path: Path) -> None:
    report = checked(placed(tmp_path, {"a.jsonl": [NO_TEXT] * 1300, "b.jsonl": [NO_TEXT] * 21}))
    texts = [(suite[0][0].text or "").splitlines() for suite in parsed(report)]
    assert [len(text) for text in texts] == [junit.MAX_EXAMPLES + 2] * 2
    assert texts[0][-2] == "… and 1,280 more findings"
    assert texts[1][-2] == "… and 1 more finding"


def test_hostile_texts_make_well_formed_xml(tmp_path: Path) -> None:
    files = hostile_files(tmp_path)
    root = parsed(checked(files))
    assert len(root) == len(files)
    names = [suite.attrib["name"] for suite in root]
    assert {"]]>", "<script>", "##[add-mask]x", "::error file=x::y"} <= set(names)


def test_what_xml_cant_hold_is_replaced(tmp_path: Path) -> None:
    """Excerpts hold none of it; what another library says of a file could."""
    report = checked(placed(tmp_path, {"a.jsonl": [GOOD]}))
    texts = tuple(f"<{text}>" for text in HOSTILE)
    broken = Report(report.files, report.severities, {}, (), unreadable=texts)
    suite = parsed(broken)[-1]
    told = {case[0].attrib["message"] for case in suite}
    assert {"<\ufffd[31mred>", "<\ufffd>", "<]]>>", "<<script>>", "<##[add-mask]x>"} <= told  # NUL, U+FFFE, a surrogate
    assert len(suite) == len(HOSTILE)
