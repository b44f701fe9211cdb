"""What is known of all rows together: their columns, and where each of them stands."""

from array import array
from bisect import bisect_right
from dataclasses import dataclass, field

from pipeline.gate.gate import COLUMNS, Gathered
from pipeline.gate.statistics import Statistics


@dataclass
class AllRows:
    """The columns of all rows, one after another; the place of a row in them is its number."""

    columns: "dict[str, array[int] | array[float]]" = field(
        default_factory=lambda: {name: array(code) for name, code in COLUMNS.items()}
    )
    statistics: Statistics = field(default_factory=Statistics)
    paths: list[str] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)  # the number of the first row of each file

    def __len__(self) -> int:
        return len(self.columns["line"])

    def begin_file(self, path: str) -> None:
        """Say that the rows that come now are of this file."""
        self.paths.append(path)
        self.starts.append(len(self))

    def add(self, gathered: Gathered, *, lines_before: int) -> None:
        """Add the rows of a piece of a file."""
        for name, column in self.columns.items():
            values = gathered.columns[name]
            if name == "line" and lines_before:
                values = array(COLUMNS[name], (line + lines_before for line in values))
            column.extend(values)  # type: ignore[arg-type]
        self.statistics.merge(gathered.statistics)

    def place(self, number: int) -> tuple[str, int]:
        """Give the file and the line of a row."""
        return self.paths[bisect_right(self.starts, number) - 1], int(self.columns["line"][number])
