"""A short report in Markdown, for a comment on a pull request or the summary of a step."""

import re
import string
from collections.abc import Iterable

from pipeline.gate.finding import Finding
from pipeline.gate.report import FileReport, Report
from pipeline.gate.reports.choice import fair_choice
from pipeline.gate.reports.plain_text import remarks, rules_found, sentence, totals, verdict
from pipeline.gate.rules import ABOUT, Severity
from schemas.terminal import counted, harmless

MAX_CHARACTERS = 60_000
"""A comment on GitHub has at most 65,536."""
LIST_CHARACTERS = 10_000
TABLE_CHARACTERS = 30_000
MAX_FINDINGS = 50
MAX_FILES = 20

_AS_THEY_ARE = " \"%'+,-./:;=?"  # of ASCII: what Markdown takes for nothing else in the middle of a line
_ENTITIES = str.maketrans({char: f"&#{ord(char)};" for char in string.punctuation if char not in _AS_THEY_ARE})
_LINK = re.compile(r"www(?=\.)|:(?=/)", re.IGNORECASE)


def render(report: Report, fail_on: Severity) -> str:
    """Write the report, of long lists as much as there is room for."""
    blocks = [
        f"### dpo validate {verdict(report, fail_on)}",
        *(sentence(remark) for remark in remarks(report)),
        *_list("Could not be read", [quoted(text) for text in report.unreadable]),
        *_rules(report),
        *_findings(report),
        *_list("Files", [f"{quoted(file.path)}: {_in_words(file)}" for file in report.files]),
    ]
    return "\n\n".join(blocks) + "\n"


def quoted(text: str) -> str:
    """Show foreign text as code: no markup in it, no mention, no link, no image, no end of a table's cell."""
    escaped = harmless(text).translate(_ENTITIES)
    return f"<code>{_LINK.sub(_as_entities, escaped)}</code>"


def _as_entities(match: re.Match[str]) -> str:
    return "".join(f"&#{ord(char)};" for char in match[0])


def _in_words(file: FileReport) -> str:
    rows = f"{counted(file.rows, 'row')}, {file.form}"
    return f"{rows}, {totals(file.num_errors, file.num_warnings) or 'nothing found'}"


def _rules(report: Report) -> list[str]:
    if not report.counts:
        return []
    rows = [
        f"| {report.severities[rule]} | {rule} | {report.counts[rule]:,} | {_cell(ABOUT[rule].finds)} |"
        for rule in rules_found(report)
    ]
    return ["\n".join(["| Severity | Rule | Findings | What |", "| --- | --- | ---: | --- |", *rows])]


def _findings(report: Report) -> list[str]:
    chosen = fair_choice(report.findings, MAX_FINDINGS, report.severities)
    rows, hidden = _fitting([_row(finding, report) for finding in chosen], TABLE_CHARACTERS)
    if not rows:
        return []
    blocks = ["\n".join(["| Where | Rule | What |", "| --- | --- | --- |", *rows])]
    hidden += sum(report.counts.values()) - len(chosen)
    return [*blocks, f"… and {counted(hidden, 'more finding')}."] if hidden else blocks


def _row(finding: Finding, report: Report) -> str:
    severity = report.severities[finding.rule]
    return f"| {quoted(finding.place)} | {severity}: {finding.rule} | {quoted(finding.message)} |"


def _list(title: str, entries: list[str]) -> list[str]:
    lines, hidden = _fitting([f"- {entry}" for entry in entries[:MAX_FILES]], LIST_CHARACTERS)
    hidden += max(0, len(entries) - MAX_FILES)
    if hidden:
        lines.append(f"- … and {hidden:,} more")
    return [f"{title}:", "\n".join(lines)] if lines else []


def _fitting(lines: Iterable[str], room: int) -> tuple[list[str], int]:
    """Give the lines that there is room for, and how many are left out."""
    shown, hidden = [], 0
    for line in lines:
        if len(line) < room:
            room -= len(line) + 1
            shown.append(line)
        else:
            hidden += 1
    return shown, hidden


def _cell(text: str) -> str:
    return text.replace("|", r"\|")
