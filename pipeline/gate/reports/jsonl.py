"""One JSON object for each finding, written as they come, so that all of them are there."""

import json
from typing import Any

from pipeline.gate.finding import Finding
from pipeline.gate.rules import Severity
from schemas.terminal import CI_COMMAND


def line(finding: Finding, severity: Severity) -> str:
    """Give a finding as a line of JSON, without its end."""
    return without_commands(json.dumps(as_dict(finding, severity)))


def as_dict(finding: Finding, severity: Severity) -> dict[str, Any]:
    """Give a finding as JSON types; what is not known, or is the file as a whole, is null."""
    return {
        "rule": finding.rule,
        "severity": severity,
        "path": finding.path,
        "line": finding.line or None,
        "column": finding.column or None,
        "pointer": finding.pointer,
        "got": finding.got,
        "expected": finding.expected,
        "fingerprint": f"{finding.fingerprint:016x}",
    }


def without_commands(text: str) -> str:
    """Spell JSON so that no CI service takes a string in it for a command; it means the same."""
    return CI_COMMAND.sub(r"#\\u0023", text)
