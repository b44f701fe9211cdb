"""What a plot shows, declared: names, axes, numbers. How it is drawn is for views/figures.py.

Every plot has a name (of its files, and of its element on the page) and a caption that says in words what to look for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Series:
    """Values over an axis; nan leaves a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True)
class LinePlot:
    """One or more series as lines."""

    name: str
    caption: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    log_y: bool = False
    points: bool = False  # mark each value, for series of few
    level: float | None = None  # a thin line across, such as ln 2
    diagonal: bool = False  # a thin line from corner to corner, for calibration


@dataclass(frozen=True)
class HistogramPlot:
    """Counts between edges, one outline for each name."""

    name: str
    caption: str
    x_label: str
    edges: Sequence[float]  # one more than each of the counts
    counts: Mapping[str, Sequence[int]]
    log_x: bool = False


@dataclass(frozen=True)
class BarPlot:
    """Horizontal bars, one for each label; with several names, side by side."""

    name: str
    caption: str
    x_label: str
    labels: Sequence[str]
    values: Mapping[str, Sequence[float]]
    intervals: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)  # low and high, by name
    stacked: bool = False


@dataclass(frozen=True)
class ScatterPlot:
    """Points, one colour for each series."""

    name: str
    caption: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    log_axes: bool = False
    diagonal: bool = False


Plot = LinePlot | HistogramPlot | BarPlot | ScatterPlot
