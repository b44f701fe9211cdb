"""The whole report as one JSON object, for programs."""

import json
import math
from importlib.metadata import version
from typing import Any

from pipeline.gate.report import FileReport, Report
from pipeline.gate.reports.jsonl import as_dict, without_commands
from pipeline.gate.rules import ABOUT, Severity

VERSION = 1
"""Of the format: keys may be added to it; where one goes or changes its meaning, the version does."""


def render(report: Report, fail_on: Severity) -> str:
    """Write the report as JSON, in ASCII, so that any terminal and any reader can take it."""
    content = {
        "version": VERSION,
        "dpo_version": version("dpo"),
        "exit_code": report.exit_code(fail_on),
        "is_stopped": report.is_stopped,
        "errors": report.num_errors,
        "warnings": report.num_warnings,
        "known": report.known,
        "unmet": report.unmet,
        "compared_with": report.compared_with,
        "passed_over": report.passed_over,
        "files": [_file(file) for file in report.files],
        "unreadable": list(report.unreadable),
        "rules": {
            rule: {
                "severity": report.severities[rule],
                "findings": number,
                "finds": ABOUT[rule].finds,
                "why": ABOUT[rule].why,
            }
            for rule, number in report.counts.items()
        },
        "findings": [as_dict(finding, report.severities[finding.rule]) for finding in report.findings],
        "findings_left_out": sum(report.counts.values()) - len(report.findings),
        "statistics": _finite(report.statistics),
    }
    return without_commands(json.dumps(content, allow_nan=False)) + "\n"


def _file(file: FileReport) -> dict[str, Any]:
    return {
        "path": file.path,
        "form": file.form,
        "rows": file.rows,
        "invalid_rows": file.invalid_rows,
        "errors": file.num_errors,
        "warnings": file.num_warnings,
        "findings": dict(file.counts),
    }


def _finite(value: Any) -> Any:
    """Make null of numbers that JSON has not."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value
