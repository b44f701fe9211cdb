"""Everything that a report on pairs tells: what the gate finds, what the pairs are from, their figures, some texts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.gate.report import Report
from pipeline.gate.rules import ABOUT
from pipeline.gate.run import Machinery, check_files
from pipeline.gate.settings import GateSettings
from schemas.errors import InputError
from schemas.streams import as_url, place_text
from schemas.terminal import progress
from views.data.flow import Told, flow_dict, told_by_manifest
from views.data.options import DataOptions

if TYPE_CHECKING:  # Polars starts threads when it is imported; the worker processes are forked before
    from views.data.pair_figures import PairFigures
    from views.data.pair_sample import ShownPair
    from views.data.pair_table import PairTable


@dataclass(frozen=True)
class PairData:
    """All that the page tells."""

    paths: tuple[Path, ...]
    gate: Report
    told: dict[str, Told]  # by file: what the manifests beside them say
    table: "PairTable"
    figures: "PairFigures"
    shown: "list[ShownPair]"
    num_matching: int  # pairs that could have been shown

    def as_dict(self) -> dict[str, Any]:
        """Give all numbers as JSON types."""
        return {
            "files": [place_text(path) for path in self.paths],
            "attrition": {path: flow_dict(told.attrition) for path, told in self.told.items() if told.attrition},
            "pairs": self.figures.as_dict(),
            "gate": {
                "rows": self.gate.num_rows,
                "errors": self.gate.num_errors,
                "warnings": self.gate.num_warnings,
                "findings": {
                    rule.value: {"count": number, "severity": self.gate.severities[rule].value, "why": ABOUT[rule].why}
                    for rule, number in self.gate.counts.items()
                },
            },
            "shown": {"pairs": len(self.shown), "of": self.num_matching, "places": [pair.place for pair in self.shown]},
        }


def read_pair_files(paths: Sequence[Path], options: DataOptions) -> PairData:
    """Check files of pairs, sum them up, and read the pairs that are shown.

    Raises:
        InputError: a file can't be read.
        UsageError: nothing is of the environment that was asked for.
        DpoError: a process died.
    """
    report = check_files(paths, GateSettings(), machinery=Machinery(options.num_workers))
    if report.unreadable:
        raise InputError("; ".join(report.unreadable))
    from views.data.pair_figures import figures_of
    from views.data.pair_sample import chosen_rows, shown_pairs
    from views.data.pair_table import refuse_unknown, table_of_files

    plain = [path for path in paths if path.is_file()]
    total = sum(path.stat().st_size for path in plain) if len(plain) == len(paths) else None
    with progress("summing up", total=total, unit="bytes") as advance:
        table = table_of_files(paths, advance)
    refuse_unknown(options.environment, table.environments)
    chosen, num_matching = chosen_rows(table, options)
    manifests = {place_text(path): told_by_manifest(path) for path in paths if not as_url(path)}
    told = {path: each for path, each in manifests.items() if each is not None}
    return PairData(tuple(paths), report, told, table, figures_of(table), shown_pairs(table, chosen), num_matching)
