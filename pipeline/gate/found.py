"""Findings as they come: all are counted, as many are kept as reports need."""

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.gate.baseline import Baseline
from pipeline.gate.finding import Finding
from pipeline.gate.report import MAX_KEPT
from pipeline.gate.rules import Rule, Severity
from pipeline.gate.settings import GateSettings

Hear = Callable[[Finding, Severity], None]


class EnoughError(Exception):
    """As many errors were found as the user wants to see."""


@dataclass
class Found:
    """All findings so far."""

    settings: GateSettings
    baseline: Baseline | None
    max_errors: int | None
    hear: Hear
    counts: Counter[Rule] = field(default_factory=Counter)
    by_file: Counter[tuple[str, Severity]] = field(default_factory=Counter)
    num_errors: int = 0
    known: int = 0
    _kept: dict[Rule, list[Finding]] = field(default_factory=dict)

    def add(self, finding: Finding) -> None:
        """Add one, unless its rule is ignored or the baseline knows it.

        Raises:
            EnoughError: it is the last one that is wanted.
        """
        severity = self.settings.severities[finding.rule]
        if severity is Severity.IGNORE:
            return
        if self.baseline is not None and self.baseline.takes(finding.fingerprint):
            self.known += 1
            return
        self.counts[finding.rule] += 1
        self.by_file[finding.path, severity] += 1
        kept = self._kept.setdefault(finding.rule, [])
        if len(kept) < MAX_KEPT:
            kept.append(finding)
        self.hear(finding, severity)
        if severity is Severity.ERROR:
            self.num_errors += 1
            if self.num_errors == self.max_errors:
                raise EnoughError

    @property
    def kept(self) -> tuple[Finding, ...]:
        """Give what is kept, by rule."""
        return tuple(itertools.chain.from_iterable(self._kept.get(rule, ()) for rule in Rule))
