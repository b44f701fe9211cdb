"""Plots as Matplotlib draws them: SVG to stand in a page, and SVG and PNG files.

A page may hold no styles but its own, and is read in the light and in the dark. So of the SVG for a page every style
becomes an attribute, every colour a variable of the style sheet, and ids get the plot's name, for a page has many.
"""

import io
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from schemas.atomic import atomic_writer
from schemas.errors import DpoError
from schemas.terminal import path_text, printable, reason
from views.plots import BarPlot, HistogramPlot, LinePlot, Plot, ScatterPlot

WIDTH, HEIGHT = 4.4, 2.75  # inches; a plot on a phone is about as wide
BAR_HEIGHT = 0.26
LEGEND_ROOM = ((3, 14), (2, 22), (1, 10_000))  # columns, and the characters that each has room for
PNG_DOTS_PER_INCH = 200
MOST_LABEL, MOST_AXIS = 28, 60  # characters

INK, QUIET, LINE, CARD = "#1d2329", "#5d6872", "#dde1e5", "#ffffff"
SERIES = ("#1f5fa8", "#c8501e", "#1a7a45", "#7a4fb0", "#8a6d00", "#b03a78")
VARIABLES = {
    INK: "var(--ink)",
    QUIET: "var(--quiet)",
    LINE: "var(--line)",
    CARD: "var(--card)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, start=1)},
}
DASHES = ("-", "--", ":", "-.")
"""Behind the last colour, so that no two of 24 series look the same; in black and white, no two of four."""

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be read out and searched
    "svg.hashsalt": "dpo",  # the same plot, the same file
    "text.parse_math": False,  # a name may have a dollar sign
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.edgecolor": LINE,
    "axes.labelcolor": QUIET,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.use_mathtext": False,
    "axes.unicode_minus": False,
    "axes.facecolor": CARD,
    "figure.facecolor": CARD,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": QUIET,
    "ytick.labelcolor": QUIET,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "figure.constrained_layout.use": True,
}
SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
ElementTree.register_namespace("", SVG)
ElementTree.register_namespace("xlink", XLINK)
FONT = re.compile(r"(?P<size>[\d.]+)px")
REFERENCE = re.compile(r"#(?P<id>[\w.-]+)")
NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
KEPT_FONT = ("font-size", "font-weight", "text-anchor")


@dataclass(frozen=True)
class Drawn:
    """A plot as it stands in a page, and as files."""

    name: str
    caption: str
    svg: Markup
    files: Mapping[str, bytes]  # by suffix; none unless they were asked for


def drawn(plots: Iterable[Plot], *, with_files: bool = False) -> list[Drawn]:
    """Draw plots for a page, and at once as the files that `write_figures` writes: drawing is what takes the time."""
    found = []
    for plot in plots:
        contents = _contents(plot, with_png=with_files)
        svg = Markup(for_page(contents[".svg"], plot))
        found.append(Drawn(plot.name, plot.caption, svg, contents if with_files else {}))
    return found


def write_figures(figures: Iterable[Drawn], folder: Path) -> list[Path]:
    """Write plots that were drawn with files as NAME.svg and NAME.png into a folder; give the paths.

    Raises:
        DpoError: they can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DpoError(f"{path_text(folder)}: can't be made, for the plots: {reason(error)}") from error
    paths = []
    for each in figures:
        for suffix, content in each.files.items():
            paths.append(folder / f"{each.name}{suffix}")
            with atomic_writer(paths[-1]) as stream:
                stream.write(content)
    return paths


def for_page(svg: bytes, plot: Plot) -> str:
    """Turn Matplotlib's SVG into one that a page with a strict policy takes, in the page's own colours."""
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}style", f"{{{SVG}}}metadata"):
                parent.remove(child)
    for element in root.iter():
        _style_to_attributes(element)
        for key, value in list(element.attrib.items()):
            if key == "id":
                element.set(key, f"{plot.name}-{value}")
            elif "#" in value and (key == f"{{{XLINK}}}href" or value.startswith("url(")):
                element.set(key, REFERENCE.sub(rf"#{plot.name}-\g<id>", value))
    title = ElementTree.Element(f"{{{SVG}}}title", {"id": f"{plot.name}-title"})
    title.text = printable(plot.caption)
    root.insert(0, title)
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib |= {"role": "img", "aria-labelledby": f"{plot.name}-title", "stroke-linejoin": "round"}
    return ElementTree.tostring(root, encoding="unicode")


def _style_to_attributes(element: ElementTree.Element) -> None:
    for declaration in element.attrib.pop("style", "").split(";"):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if key == "font":
            size = FONT.search(value)
            key, value = "font-size", size["size"] if size else "9.5"
        if key.startswith("font") and key not in KEPT_FONT:
            continue
        if key:
            element.set(key, VARIABLES.get(value, value.removesuffix("px") if key == "font-size" else value))
    if element.tag == f"{{{SVG}}}text" and "fill" not in element.attrib:
        element.set("fill", VARIABLES[INK])


def _contents(plot: Plot, *, with_png: bool) -> dict[str, bytes]:
    """Draw a plot as files, by suffix; it is laid out only once, which takes half of the time."""
    svg, png = io.BytesIO(), io.BytesIO()
    with rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of glyphs that Matplotlib's font has not; a browser has others
        figure = _figure(plot)
        figure.savefig(svg, format="svg", metadata=NO_METADATA)
        if not with_png:
            return {".svg": svg.getvalue()}
        figure.set_layout_engine("none")
        figure.savefig(png, format="png", dpi=PNG_DOTS_PER_INCH)
    return {".svg": svg.getvalue(), ".png": png.getvalue()}


def _figure(plot: Plot) -> Figure:
    if isinstance(plot, BarPlot):
        rows = len(plot.labels) * (1 if plot.stacked else len(plot.values))
        figure = Figure(figsize=(WIDTH, max(1.3, 0.75 + BAR_HEIGHT * rows)))
    else:
        figure = Figure(figsize=(WIDTH, HEIGHT))
    axes = figure.add_subplot()
    match plot:
        case LinePlot():
            _lines(axes, plot)
        case HistogramPlot():
            _histogram(axes, plot)
        case BarPlot():
            _bars(axes, plot)
        case ScatterPlot():
            _points(axes, plot)
    return figure


def _lines(axes: Axes, plot: LinePlot) -> None:
    marker = "o" if plot.points or all(len(each.x) < 3 for each in plot.series) else ""
    for number, each in enumerate(plot.series):
        axes.plot(each.x, each.y, label=_label(each.name), marker=marker, markersize=3.5, **_look(number))
    if plot.level is not None:
        axes.axhline(plot.level, color=QUIET, linewidth=0.8, linestyle="--")
    if plot.diagonal:
        axes.axline((0, 0), slope=1, color=QUIET, linewidth=0.8, linestyle="--")
    if plot.log_y:
        axes.set_yscale("log")
        _plain_powers(axes.yaxis)
    _whole_ticks(axes.xaxis, (value for each in plot.series for value in each.x))
    _finish(axes, plot.x_label, plot.y_label, num_series=len(plot.series))


def _histogram(axes: Axes, plot: HistogramPlot) -> None:
    for number, (name, counts) in enumerate(plot.counts.items()):
        look = _look(number)
        axes.stairs(counts, plot.edges, fill=True, alpha=0.25, color=look["color"], linewidth=0)
        axes.stairs(counts, plot.edges, label=_label(name), **look)
    if plot.log_x:
        axes.set_xscale("log")
        _plain_powers(axes.xaxis)
    axes.set_ylim(bottom=0)
    _whole_ticks(axes.yaxis, (count for counts in plot.counts.values() for count in counts))
    axes.grid(visible=False, axis="x")
    _finish(axes, plot.x_label, "count", num_series=len(plot.counts))


def _bars(axes: Axes, plot: BarPlot) -> None:
    places = list(range(len(plot.labels)))
    thickness = 0.7 if plot.stacked else 0.75 / max(len(plot.values), 1)
    starts = [0.0] * len(places)
    for number, (name, values) in enumerate(plot.values.items()):
        colour = _look(number)["color"]
        if plot.stacked:
            axes.barh(places, values, thickness, left=starts, label=_label(name), color=colour)
            starts = [start + value for start, value in zip(starts, values, strict=True)]
            continue
        shift = (number - (len(plot.values) - 1) / 2) * thickness
        rows = [place + shift for place in places]
        axes.barh(rows, values, thickness * 0.9, label=_label(name), color=colour)
        for row, (low, high) in zip(rows, plot.intervals.get(name, ()), strict=False):
            axes.plot([low, high], [row, row], color=INK, linewidth=1.0, marker="|", markersize=4)
    axes.set_yticks(places, [_label(label) for label in plot.labels])
    axes.invert_yaxis()
    if not plot.intervals:
        _whole_ticks(axes.xaxis, (value for values in plot.values.values() for value in values))
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    _finish(axes, plot.x_label, "", num_series=len(plot.values))


def _points(axes: Axes, plot: ScatterPlot) -> None:
    for number, each in enumerate(plot.series):
        colour = _look(number)["color"]
        axes.scatter(each.x, each.y, label=_label(each.name), color=colour, s=9, alpha=0.5, linewidths=0)
    if plot.log_axes:
        axes.set_xscale("log")
        axes.set_yscale("log")
        _plain_powers(axes.xaxis)
        _plain_powers(axes.yaxis)
    if plot.diagonal:
        low = min((*axes.get_xlim(), *axes.get_ylim()))
        high = max((*axes.get_xlim(), *axes.get_ylim()))
        axes.plot([low, high], [low, high], color=QUIET, linewidth=0.8, linestyle="--")
    _finish(axes, plot.x_label, plot.y_label, num_series=len(plot.series))


def _finish(axes: Axes, x_label: str, y_label: str, *, num_series: int) -> None:
    axes.set_xlabel(_label(x_label, MOST_AXIS))
    if y_label:  # level text is read more easily
        axes.set_title(_label(y_label, MOST_AXIS), loc="left", fontsize=9.5, color=QUIET)
    if num_series > 1:
        longest = max(map(len, axes.get_legend_handles_labels()[1]), default=0)
        columns = next(columns for columns, room in LEGEND_ROOM if longest <= room)
        axes.figure.legend(loc="outside lower center", ncols=min(num_series, columns))


def _whole_ticks(axis: Axis, values: Iterable[float]) -> None:
    """Put ticks at whole numbers alone where all values are, such as steps: none is at 1.5."""
    if all(float(value).is_integer() for value in values):
        axis.set_major_locator(MaxNLocator(nbins="auto", integer=True, steps=[1, 2, 2.5, 5, 10]))


def _plain_powers(axis: Axis) -> None:
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axis.set_minor_formatter(NullFormatter())


def _look(number: int) -> dict[str, Any]:
    return {"color": SERIES[number % len(SERIES)], "linestyle": DASHES[number // len(SERIES) % len(DASHES)]}


def _label(text: str, most: int = MOST_LABEL) -> str:
    """Make a name harmless and short; Matplotlib leaves out of a legend what begins with an underscore."""
    shown = printable(text)
    shown = shown if len(shown) <= most else f"{shown[: most - 1]}…"
    return f"\u200b{shown}" if shown.startswith("_") else shown
