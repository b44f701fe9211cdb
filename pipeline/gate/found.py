"""Findings as they come: all are counted, as many are kept as reports need."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
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
class _Kept:
    """The kept findings of one rule, `MAX_KEPT` at most, which the files share so that none hides another."""

    by_file: dict[str, list[Finding]] = field(default_factory=dict)
    number: int = 0

    def add(self, finding: Finding) -> None:
        """Keep a finding while there is room, or in place of one of the file that has most."""
        if self.number < MAX_KEPT:
            self.number += 1
        elif not self._makes_room(finding.path):
            return
        self.by_file.setdefault(finding.path, []).append(finding)

    def _makes_room(self, path: str) -> bool:
        own = len(self.by_file.get(path, ()))
        if (own + 1) * (len(self.by_file) + (own == 0)) > MAX_KEPT:
            return False  # it has its share; in nearly all cases the answer ends here
        max(self.by_file.values(), key=len).pop()  # another file, as this one has less than its share
        return True

    def __iter__(self) -> Iterator[Finding]:
        return itertools.chain.from_iterable(self.by_file.values())


@dataclass
class Found:
    """All findings so far."""

    settings: GateSettings
    baseline: Baseline | None
    max_errors: int | None
    hear: Hear
    counts: Counter[Rule] = field(default_factory=Counter)
    by_file: defaultdict[str, Counter[Rule]] = field(default_factory=lambda: defaultdict(Counter))
    num_errors: int = 0
    known: int = 0
    _kept: defaultdict[Rule, _Kept] = field(default_factory=lambda: defaultdict(_Kept))

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
        self.by_file[finding.path][finding.rule] += 1
        self._kept[finding.rule].add(finding)
        self.hear(finding, severity)
        if severity is Severity.ERROR:
            self.num_errors += 1
            if self.num_errors == self.max_errors:
                raise EnoughError

    def num_of(self, path: str, severity: Severity) -> int:
        """Count the findings of a severity in one file."""
        return sum(number for rule, number in self.by_file[path].items() if self.settings.severities[rule] is severity)

    @property
    def kept(self) -> tuple[Finding, ...]:
        """Give what is kept, by rule."""
        return tuple(itertools.chain.from_iterable(self._kept[rule] for rule in Rule if rule in self._kept))
