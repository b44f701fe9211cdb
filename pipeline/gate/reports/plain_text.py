"""Findings as plain text that no terminal and no CI service takes for something else.

The logs of GitHub Actions, Azure Pipelines and TeamCity carry commands: lines that begin with `::`, and `##[`,
`##vso[` or `##teamcity[` anywhere in a line. No path and no text of the data may ever be one.
"""

from pipeline.gate.finding import Finding
from pipeline.gate.report import Report
from pipeline.gate.rules import Rule, Severity
from schemas.terminal import counted, harmless


def harmless_line(text: str) -> str:
    """Escape what a terminal or a CI service would obey in a line that begins with this text."""
    line = harmless(text)
    return line.replace(":", r"\x3a", 1) if line.lstrip().startswith("::") else line


def finding_line(finding: Finding, severity: Severity) -> str:
    """Give a finding on one line, the way compilers do, so that editors and grep find the place."""
    return harmless_line(f"{finding.place}: {severity}: {finding.rule}: {finding.message}")


def verdict(report: Report, fail_on: Severity) -> str:
    """Say in a few words how it ended."""
    word = "incomplete" if report.unreadable else "failed" if report.fails(fail_on) else "passed"
    return f"{word}: {totals(report.num_errors, report.num_warnings) or 'nothing found'}"


def totals(num_errors: int, num_warnings: int) -> str:
    """Say how much was found; nothing where nothing was."""
    parts = [counted(number, noun) for number, noun in ((num_errors, "error"), (num_warnings, "warning")) if number]
    return ", ".join(parts)


def remarks(report: Report) -> list[str]:
    """Say what else is to be known of a run, in whole lines."""
    lines = []
    if report.known or report.unmet:
        of_all = f" (of {report.known + report.unmet:,} in the baseline)" if report.unmet else ""
        lines.append(f"{counted(report.known, 'known finding')}{of_all} not counted")
    if report.compared_with:
        lines.append(f"prompts compared with those of {counted(report.compared_with, 'row')} of --against")
    if report.passed_over:
        rows = counted(report.passed_over, "row")
        lines.append(f"{rows} fit --schema, but are no pairs or rollouts, so no other rule looked at them")
    if report.is_stopped:
        lines.append(f"stopped after {counted(report.num_errors, 'error')}; what lies behind was not checked")
    return lines


def sentence(phrase: str) -> str:
    """Make a sentence of what a rule finds."""
    return f"{phrase[:1].upper()}{phrase[1:]}."


def rules_found(report: Report) -> list[Rule]:
    """Give the rules that found something, errors first."""
    return sorted(report.counts, key=lambda rule: report.severities[rule] is not Severity.ERROR)
