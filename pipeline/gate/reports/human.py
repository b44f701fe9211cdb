"""The report for people: findings that grep and editors understand, what they come to, and what to do about them."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.gate.finding import Finding
from pipeline.gate.form import UNKNOWN
from pipeline.gate.report import FileReport, Report
from pipeline.gate.reports.choice import by_place, fair_choice
from pipeline.gate.reports.plain_text import harmless_line, remarks, rules_found, totals, verdict
from pipeline.gate.rules import ABOUT, Severity
from schemas.terminal import counted, harmless

MAX_EXPLAINED = 5
"""Rules of which it is told at once what comes of them; for more there is --list-rules."""
MAX_CLEAN_FILES = 10
MIN_WIDTH = 60
"""Of a terminal that has room for what each rule finds."""
STYLES = {Severity.ERROR: "bold red", Severity.WARNING: "yellow"}


def print_report(report: Report, console: Console, *, max_findings: int, fail_on: Severity) -> None:
    """Print the report, at most `max_findings` of each file. What could not be read is left to the caller to tell."""
    by_file: dict[str, list[Finding]] = {}
    for finding in report.findings:
        by_file.setdefault(finding.path, []).append(finding)
    for file in report.files:
        _print_findings(file, by_file.get(file.path, []), report, console, max_findings)
    if report.counts:
        console.print()
        console.print(_rules(report, console.width))
        console.print()
        _print_reasons(report, console)
        console.print()
    _print_files(report, console)
    for remark in remarks(report):
        console.print(remark, soft_wrap=True)
    console.print(verdict(report, fail_on), soft_wrap=True)


def _print_findings(
    file: FileReport, findings: list[Finding], report: Report, console: Console, max_findings: int
) -> None:
    shown = by_place(fair_choice(findings, max_findings, report.severities))
    for finding in shown:
        severity = report.severities[finding.rule]
        line = Text(harmless_line(f"{finding.place}: "))
        line.append(severity, STYLES[severity])
        line.append(harmless(f": {finding.rule}: {finding.message}"))
        console.print(line, soft_wrap=True)
    if hidden := sum(file.counts.values()) - len(shown):
        how = "--max-findings shows more" if len(findings) > len(shown) else "--output-format jsonl writes all"
        console.print(f"… and {counted(hidden, 'more finding')} in {harmless(file.path)} ({how})", soft_wrap=True)


def _print_files(report: Report, console: Console) -> None:
    """Print a line for each file, and one for all in which nothing was found where they are many."""
    clean = [file for file in report.files if not file.counts]
    if len(clean) <= MAX_CLEAN_FILES:
        clean = []
    for file in report.files:
        if file not in clean:
            console.print(Text(harmless_line(f"{file.path}: {_in_words(file)}")), soft_wrap=True)
    if clean:
        num_rows = counted(sum(file.rows for file in clean), "row")
        console.print(f"{counted(len(clean), 'file')} with {num_rows}: all valid", soft_wrap=True)


def _rules(report: Report, width: int) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("severity", "rule"):
        table.add_column(name, no_wrap=True)
    table.add_column("findings", justify="right", no_wrap=True)
    if width >= MIN_WIDTH:
        table.add_column("what it finds")
    for rule in rules_found(report):
        severity = report.severities[rule]
        cells = (Text(severity, STYLES[severity]), rule, f"{report.counts[rule]:,}", ABOUT[rule].finds)
        table.add_row(*cells[: len(table.columns)])
    return table


def _print_reasons(report: Report, console: Console) -> None:
    rules = rules_found(report)
    if len(rules) > MAX_EXPLAINED:
        console.print("dpo validate --list-rules tells what comes of each", soft_wrap=True)
        return
    for rule in rules:
        console.print(f"{rule}: {ABOUT[rule].why}", soft_wrap=True)


def _in_words(file: FileReport) -> str:
    """Say what a file holds, and what of it is wrong."""
    form = "" if not file.rows else " of unknown form" if file.form == UNKNOWN else f" of {file.form}"
    invalid = f"{file.invalid_rows:,} invalid" if file.invalid_rows else ""
    found = ", ".join(filter(None, (invalid, totals(file.num_errors, file.num_warnings))))
    return f"{counted(file.rows, 'row')}{form}, {found or 'all valid'}"
