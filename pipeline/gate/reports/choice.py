"""Which findings are shown where there is no room for all: some of each rule and file, rather than many of one."""

import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from pipeline.gate.finding import Finding
from pipeline.gate.rules import Rule, Severity

Key = TypeVar("Key", bound=Hashable)


def fair_choice(findings: Sequence[Finding], limit: int, severities: Mapping[Rule, Severity]) -> list[Finding]:
    """Choose `limit` findings, in their order: the rules take turns, errors first, and so do the files of each rule."""
    by_rule = _grouped(range(len(findings)), lambda number: findings[number].rule)
    rules = sorted(by_rule, key=lambda rule: severities[rule] is not Severity.ERROR)
    turns = [_in_turns(_grouped(by_rule[rule], lambda number: findings[number].path).values()) for rule in rules]
    return [findings[number] for number in sorted(itertools.islice(_in_turns(turns), min(limit, len(findings))))]


def by_place(findings: Iterable[Finding]) -> list[Finding]:
    """Order the findings of one file as they stand in it, those on the file as a whole last."""
    return sorted(findings, key=lambda finding: (finding.line == 0, finding.line, finding.column))


def _grouped(numbers: Iterable[int], key_of: Callable[[int], Key]) -> dict[Key, list[int]]:
    groups: dict[Key, list[int]] = {}
    for number in numbers:
        groups.setdefault(key_of(number), []).append(number)
    return groups


def _in_turns(groups: Iterable[Iterable[int]]) -> Iterator[int]:
    """Yield the first of each group, then the second of each that has one, and so on."""
    turns = itertools.zip_longest(*groups)
    return (number for turn in turns for number in turn if number is not None)
