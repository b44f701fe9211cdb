"""The languages that a report can be written in."""

from enum import StrEnum

from pipeline.gate.report import Report
from pipeline.gate.rules import Severity


class OutputFormat(StrEnum):
    """A language of reports, as --output-format names it."""

    HUMAN = "human"
    JSON = "json"
    JSONL = "jsonl"
    JUNIT = "junit"
    SARIF = "sarif"
    GITHUB = "github"
    MARKDOWN = "markdown"


def render(form: OutputFormat, report: Report, fail_on: Severity = Severity.ERROR) -> str:
    """Write a report in any format but human, which needs a console, and jsonl, which is written on the way.

    `fail_on` is the least severity that refuses the data, as the exit code has it.
    """
    match form:
        case OutputFormat.JSON:
            from pipeline.gate.reports.json_report import render as written
        case OutputFormat.JUNIT:
            from pipeline.gate.reports.junit import render as written
        case OutputFormat.SARIF:
            from pipeline.gate.reports.sarif import render as written
        case OutputFormat.GITHUB:
            from pipeline.gate.reports.github import render as written
        case OutputFormat.MARKDOWN:
            from pipeline.gate.reports.markdown import render as written
        case OutputFormat.HUMAN | OutputFormat.JSONL:
            raise ValueError(f"{form} has no text of its own")
    return written(report, fail_on)
