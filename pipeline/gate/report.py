"""All that a run of the gate has to tell, for each of the formats."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.gate.finding import Finding
from pipeline.gate.rules import Rule, Severity
from schemas.errors import DpoError, InputError

MAX_KEPT = 1000
"""Findings of one rule that are kept for reports; all are counted, and jsonl writes all."""


@dataclass(frozen=True)
class FileReport:
    """What checking one file gave."""

    path: str
    form: str  # what its rows are; "unknown" where no row told
    rows: int
    invalid_rows: int  # rows with at least one error of their own, known or not
    num_errors: int
    num_warnings: int
    counts: Mapping[Rule, int]  # findings of each rule that has any in this file, known ones not among them


@dataclass(frozen=True)
class Report:
    """What checking all files gave."""

    files: tuple[FileReport, ...]
    severities: Mapping[Rule, Severity]
    counts: Mapping[Rule, int]  # findings of each rule that has any, known ones not among them
    findings: tuple[Finding, ...]  # by rule in the order of `Rule`, then by file; `MAX_KEPT` of each rule
    known: int = 0  # findings that the baseline has
    is_stopped: bool = False  # after --max-errors, with rows unread
    unreadable: tuple[str, ...] = ()  # what could not be read, and why
    statistics: Mapping[str, Any] = field(default_factory=dict)
    unmet: int = 0  # findings that the baseline has, and the files have not
    passed_over: int = 0  # rows that fit the user's schema, and that no rule can read
    compared_with: int = 0  # rows of the files that no prompt may be in

    @property
    def num_errors(self) -> int:
        """Count findings that are errors."""
        return self._count(Severity.ERROR)

    @property
    def num_warnings(self) -> int:
        """Count findings that are warnings."""
        return self._count(Severity.WARNING)

    @property
    def num_rows(self) -> int:
        """Count the rows of all files."""
        return sum(file.rows for file in self.files)

    def fails(self, fail_on: Severity) -> bool:
        """Say whether the data is refused."""
        return self.num_errors > 0 or (fail_on is Severity.WARNING and self.num_warnings > 0)

    def exit_code(self, fail_on: Severity) -> int:
        """Give the exit code of the command: a file that can't be read comes before what the others hold."""
        if self.unreadable:
            return InputError.exit_code
        return DpoError.exit_code if self.fails(fail_on) else 0

    def _count(self, severity: Severity) -> int:
        return sum(number for rule, number in self.counts.items() if self.severities[rule] is severity)
