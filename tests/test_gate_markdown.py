"""The report in Markdown, rendered to HTML: tables that hold, and foreign text that is code and nothing else."""

from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from pipeline.gate.report import Report
from pipeline.gate.reports.formats import OutputFormat, render
from pipeline.gate.reports.markdown import MAX_CHARACTERS, MAX_FILES, MAX_FINDINGS, quoted
from pipeline.gate.rules import Severity
from schemas.terminal import harmless
from tests.gate_reports import GOOD, HOSTILE, NO_JSON, NO_TEXT, checked, hostile_files, placed

USUAL_TAGS = {"h3", "p", "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "code"}


class Page(HTMLParser):
    """What a reader sees: the tags, the texts of code, and the other texts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.codes: list[str] = []
        self.others = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)
        self.open.append(tag)
        if tag == "code":
            self.codes.append("")

    def handle_endtag(self, tag: str) -> None:
        self.open.remove(tag)

    def handle_data(self, data: str) -> None:
        if "code" in self.open:
            self.codes[-1] += data
        else:
            self.others += data


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def page(text: str) -> Page:
    return Page(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))


def rendered(report: Report, fail_on: Severity = Severity.ERROR) -> Page:
    return page(render(OutputFormat.MARKDOWN, report, fail_on))


def test_a_report(tmp_path: Path) -> None:
    files = placed(tmp_path, {"a.jsonl": [GOOD, NO_TEXT], "b.jsonl": []})
    report = checked([*files, Path("none.jsonl")])
    assert render(OutputFormat.MARKDOWN, report).split("\n\n") == [
        "### dpo validate incomplete: 1 error, 1 warning",
        "Could not be read:",
        "- <code>none.jsonl: no such file</code>",
        "| Severity | Rule | Findings | What |\n"
        "| --- | --- | ---: | --- |\n"
        "| error | schema | 1 | a row that misses its JSON Schema |\n"
        "| warning | empty-file | 1 | a file without rows |",
        "| Where | Rule | What |\n"
        "| --- | --- | --- |\n"
        "| <code>b.jsonl</code> | warning: empty-file "
        "| <code>got an empty file, expected at least one row</code> |\n"
        "| <code>a.jsonl:2</code> | error: schema | <code>/chosen: got 3, expected string</code> |",
        "Files:",
        "- <code>a.jsonl</code>: 2 rows, binary_preference, 1 error\n"
        "- <code>b.jsonl</code>: 0 rows, unknown, 1 warning\n",
    ]


def test_nothing_found(tmp_path: Path) -> None:
    seen = rendered(checked(placed(tmp_path, {"a.jsonl": [GOOD]})))
    assert seen.others.split("\n")[0] == "dpo validate passed: nothing found"
    assert "table" not in seen.tags


def test_hostile_texts_are_shown_as_code(tmp_path: Path) -> None:
    """Each line of the report's tables is one row of three or four cells; no tag is there that isn't ours."""
    for path in hostile_files(tmp_path):
        report = checked([path])
        seen = rendered(report)
        assert set(seen.tags) <= USUAL_TAGS
        assert seen.open == []
        chosen = {harmless(finding.place) for finding in report.findings} | {harmless(report.files[0].path)}
        messages = {harmless(finding.message) for finding in report.findings}
        assert set(seen.codes) <= chosen | messages
        num_rules, num_findings = len(report.counts), min(len(report.findings), MAX_FINDINGS)
        assert seen.tags.count("td") == 4 * num_rules + 3 * num_findings
        assert not {"@", "<", "`", "["} & set(seen.others)


@pytest.mark.parametrize(
    "text", [*HOSTILE, "www.example.org", "http://x.org", "\\|", "a|b", "*a* _b_ ~~c~~", "&lt;", ""]
)
def test_quoted_text_is_code_in_a_table(text: str) -> None:
    seen = page(f"| x | y |\n| --- | --- |\n| {quoted(text)} | z |\n")
    assert seen.codes == [harmless(text)]
    assert seen.tags.count("td") == 2
    assert "www." not in quoted(text)
    assert "://" not in quoted(text)  # GitHub makes links of both


def test_long_reports_fit_into_a_comment(tmp_path: Path) -> None:
    """Names of 200 characters that are each escaped, many files, many findings."""
    files = placed(tmp_path, {f"{number:03}{'`|' * 100}": [NO_TEXT] * 3 for number in range(60)})
    text = render(OutputFormat.MARKDOWN, checked([*files, *(Path(f"none {name}") for name in range(60))]))
    assert 30_000 < len(text) < MAX_CHARACTERS
    seen = page(text)
    assert set(seen.tags) <= USUAL_TAGS
    shown = sum(code.startswith("/chosen: ") for code in seen.codes)
    assert 10 < shown < MAX_FINDINGS
    assert f"… and {180 - shown} more findings." in text
    assert seen.codes[:MAX_FILES] == [f"none {name}: no such file" for name in range(MAX_FILES)]
    assert f"- … and {60 - MAX_FILES} more" in text


def test_no_rule_hides_another(tmp_path: Path) -> None:
    seen = rendered(checked(placed(tmp_path, {"a.jsonl": [*[NO_TEXT] * 200, NO_JSON]})))
    assert any(code.startswith("a.jsonl:201") for code in seen.codes)
    assert "… and 151 more findings." in seen.others
