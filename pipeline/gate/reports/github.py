"""GitHub Actions: findings as annotations of the pull request's files, and a report in the summary of the step."""

import os
from collections.abc import Mapping
from pathlib import Path

from pipeline.gate.finding import Finding
from pipeline.gate.report import Report
from pipeline.gate.reports import markdown
from pipeline.gate.reports.choice import fair_choice
from pipeline.gate.reports.plain_text import remarks, verdict
from pipeline.gate.rules import Severity
from schemas.errors import DpoError
from schemas.terminal import harmless, path_text, reason

MAX_ANNOTATIONS = 10
"""Of errors, and of warnings: GitHub shows no more of a step."""
MAX_SUMMARY_BYTES = 1 << 20
SUMMARY_VARIABLE = "GITHUB_STEP_SUMMARY"
NAME = "dpo validate"


def render(report: Report, fail_on: Severity) -> str:
    """Write workflow commands, to be printed by a step; the last one tells what the others leave out."""
    lines = [_command("error", text, title=NAME) for text in report.unreadable[:MAX_ANNOTATIONS]]
    room = {Severity.ERROR: MAX_ANNOTATIONS - len(lines), Severity.WARNING: MAX_ANNOTATIONS}
    for severity, limit in room.items():
        found = [finding for finding in report.findings if report.severities[finding.rule] is severity]
        lines += [_annotation(finding, severity) for finding in fair_choice(found, limit, report.severities)]
    told = [verdict(report, fail_on), *remarks(report)]
    hidden = sum(report.counts.values()) + len(report.unreadable) - len(lines)
    if hidden:
        told.append(f"{hidden:,} more are not annotated, as GitHub shows {MAX_ANNOTATIONS} of each kind")
    lines.append(_command("notice", "; ".join(told), title=NAME))
    return "".join(f"{line}\n" for line in lines)


def append_summary(report: Report, fail_on: Severity, environment: Mapping[str, str] = os.environ) -> None:
    """Append the report to the summary of the step, unless this is none, or its summary has no room left.

    Raises:
        DpoError: the summary can't be written.
    """
    name = environment.get(SUMMARY_VARIABLE)
    if not name:
        return
    path = Path(name)
    content = f"\n{markdown.render(report, fail_on)}".encode()
    try:
        before = path.stat().st_size if path.exists() else 0
        if before + len(content) <= MAX_SUMMARY_BYTES:  # a longer one is not shown at all
            with path.open("ab") as stream:
                stream.write(content)
    except OSError as error:
        raise DpoError(f"{SUMMARY_VARIABLE}: {path_text(path)}: can't be written: {reason(error)}") from error


def _annotation(finding: Finding, severity: Severity) -> str:
    place = {"file": finding.path, "line": finding.line, "col": finding.column if finding.line else 0}
    return _command(severity, finding.message, **place, title=f"{NAME}: {finding.rule}")


def _command(name: str, message: str, **properties: object) -> str:
    told = ",".join(f"{key}={_property(str(value))}" for key, value in properties.items() if value)
    return f"::{name} {told}::{_data(message)}"


def _data(text: str) -> str:
    """Escape what would end a command, or begin another one."""
    return harmless(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
