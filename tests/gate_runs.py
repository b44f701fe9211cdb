"""Running the gate in tests."""

from pathlib import Path
from typing import Any

from pipeline.gate.finding import Finding
from pipeline.gate.report import Report
from pipeline.gate.rules import Rule, Severity
from pipeline.gate.run import Machinery, check_files
from pipeline.gate.settings import GateSettings, severities_of


def checked(*places: Path, num_workers: int = 1, chunk_bytes: int = 1 << 20, **told: Any) -> Report:
    """Check files; what `check_files` doesn't take are settings."""
    names = ("against", "baseline", "max_errors", "hear")
    given = {name: told.pop(name) for name in names if name in told}
    machinery = Machinery(num_workers=num_workers, chunk_bytes=chunk_bytes)
    return check_files(places, GateSettings(**told), machinery=machinery, **given)


def only(*rules: Rule) -> dict[Rule, Severity]:
    """Give severities with which no other rules find anything; these find errors."""
    return severities_of({rule: Severity.ERROR if rule in rules else Severity.IGNORE for rule in Rule})


def errors(report: Report) -> list[Finding]:
    """Give the findings that are errors, in the order of the lines."""
    found = [finding for finding in report.findings if report.severities[finding.rule] is Severity.ERROR]
    return sorted(found, key=lambda finding: (finding.path, finding.line))
