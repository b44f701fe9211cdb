"""Putting together what the chunks gave: one array for each column, counts, examples. No Polars yet."""

from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from pipeline.attrition import Reason
from pipeline.scan import COLUMNS, Scanned, columns_of, empty_columns
from pipeline.settings import Settings
from pipeline.sources import Source

EXTRA_COLUMNS = {"group_high": "q", "group_low": "q", "source": "i", "namespace": "i", "spool": "h"}


@dataclass
class Gathered:
    """What all chunks gave, put together as they come."""

    columns: dict[str, Any] = field(default_factory=lambda: empty_columns({**COLUMNS, **EXTRA_COLUMNS}))
    agents: dict[str | None, int] = field(default_factory=dict)
    spools: dict[str, int] = field(default_factory=dict)
    dropped: Counter[Reason] = field(default_factory=Counter)
    dropped_by_agent: Counter[tuple[str | None, Reason]] = field(default_factory=Counter)
    examples: dict[Reason, tuple[int, int, str]] = field(default_factory=dict)  # source, line, what was met
    rejected: list[tuple[int, int, Reason, str]] = field(default_factory=list)
    num_rows: int = 0
    num_lines: Counter[int] = field(default_factory=Counter)  # of each source

    @classmethod
    def of(cls, settings: Settings) -> "Gathered":
        """Start with the columns that the settings ask for."""
        return cls(dict(empty_columns({**columns_of(settings), **EXTRA_COLUMNS})))

    def add(self, scanned: Scanned, source: Source) -> None:
        """Take in the next chunk; the chunks of a file come in its order."""
        first_line = self.num_lines[source.number]
        num_rollouts = len(scanned.columns["line"])
        digests = array("q", scanned.groups)
        agents = [self.agents.setdefault(agent, len(self.agents)) for agent in scanned.agents]
        constants = {
            "source": source.number,
            "namespace": source.namespace,
            "spool": self.spools.setdefault(scanned.spool, len(self.spools)),
        }
        for name, column in scanned.columns.items():
            if name == "line":
                column = array("i", [first_line + int(line) for line in column])
            elif name == "agent":
                column = array("i", [agents[int(agent)] for agent in column])
            self.columns[name].extend(column)
        self.columns["group_high"].extend(digests[::2])
        self.columns["group_low"].extend(digests[1::2])
        for name, value in constants.items():
            self.columns[name].extend(array(EXTRA_COLUMNS[name], [value]) * num_rollouts)
        self.dropped += scanned.dropped
        self.dropped_by_agent += scanned.dropped_by_agent
        self.num_rows += scanned.num_rows
        for reason, (line, detail) in scanned.examples.items():
            self.examples.setdefault(reason, (source.number, first_line + line, detail))
        self.rejected += [
            (source.number, first_line + line, reason, detail) for line, reason, detail in scanned.rejected
        ]
        self.num_lines[source.number] += scanned.num_lines
