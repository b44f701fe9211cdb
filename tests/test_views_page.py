"""What every page is made with: text that can do nothing, a policy that names the one style, plots without styles."""

import base64
import hashlib
import re
from xml.etree import ElementTree

import pytest

from views.figures import drawn, write_figures
from views.page import render, style_sheet
from views.plots import BarPlot, HistogramPlot, LinePlot, Plot, ScatterPlot, Series
from views.text import MOST_CHARACTERS, SHOWN_CHARACTERS, marked, number, percent, visible, with_options

HOSTILE = '</title></style><script>alert(1)</script>$\\frac{1}{2}$ _x {{ 7*7 }} "on=\x1b[31m\x00\u202e\ud800 日本語'

PLOTS: list[Plot] = [
    LinePlot("line", HOSTILE, HOSTILE, HOSTILE, [Series(HOSTILE, [0, 1], [1.0, float("nan")])], level=0.5),
    LinePlot("log", "c", "x", "y", [Series("a", [1, 2, 3], [1e-5, 1e-3, 1.0]), Series("b", [], [])], log_y=True),
    HistogramPlot("histogram", "c", "x", [0, 1, 2], {HOSTILE: [1, 2], "other": [0, 0]}),
    BarPlot("bars", "c", "x", [HOSTILE, "b"], {"before": [0.1, 0.2], "after": [0.2, 0.1]}, {"after": [(0, 1), (0, 1)]}),
    BarPlot("stacked", "c", "x", ["a"], {"always": [1], "never": [2]}, stacked=True),
    ScatterPlot("points", "c", "x", "y", [Series("a", [1, 10], [10, 1])], log_axes=True, diagonal=True),
]


def test_the_policy_names_the_style_that_the_page_has() -> None:
    page = render("page.html", title=HOSTILE, style=".own { color: red }")
    (sheet,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    assert sheet == style_sheet() + ".own { color: red }"
    digest = base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert f"style-src &#39;sha256-{digest.replace('+', '+')}&#39;" in policy
    assert "default-src &#39;none&#39;" in policy
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_what_can_not_be_seen_is_shown() -> None:
    assert marked("a\tb\nc") == "a\tb\nc"
    assert str(marked("\x1b")) == '<span class="odd" title="control character">U+001B</span>'
    assert "RIGHT-TO-LEFT OVERRIDE" in marked("\u202e")
    assert "U+D800" in marked("\ud800")
    assert marked("👩\u200d🚀") == "👩\u200d🚀"  # an emoji of two, joined
    assert "<" not in marked("<").replace("&lt;", "")


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("a\u200db", ["200D"]),  # nothing to join
        ("日\u200d\u200d本", ["200D ×2"]),  # noqa: RUF001
        ("日\u200d\u200c本", ["200D", "200C"]),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", []),  # Persian needs it
        ("❤\ufe0f\u200d🔥 1\ufe0f\u20e3 葛\U000e0100", []),  # emoji, a keycap, a variant
        ("😀\ufe0f\ufe01\ufe02", ["FE01", "FE02"]),  # a text in selectors
        ("a\ufe0f", ["FE0F"]),
        ("😀\ufe0f\ufe0f", ["FE0F ×2"]),  # noqa: RUF001
        ("\x00" * 5000, ["0000 ×5,000"]),  # noqa: RUF001
        ("\u3164x\u2800", ["3164", "2800"]),
        ("é 日本語 \U0001f600", []),
    ],
)
def test_nothing_is_hidden_by_joiners_selectors_and_blanks(text: str, hidden: list[str]) -> None:
    shown = str(marked(text))
    assert re.findall(r">U\+([0-9A-F]+(?: ×[\d,]+)?)<", shown) == hidden  # noqa: RUF001
    assert not re.sub(r"<span[^>]*>[^<]*</span>", "", shown).translate(dict.fromkeys(map(ord, text)))


def test_options_are_not_cut_and_nothing_else_is_let_through() -> None:
    assert with_options("use --max-pairs N, <--bold> or a--b-") == (
        "use <code>--max-pairs</code> N, &lt;<code>--bold</code>&gt; or a--b-"
    )


def test_long_texts_are_folded_and_endless_ones_cut() -> None:
    short, long, endless = "a" * SHOWN_CHARACTERS, "a" * (SHOWN_CHARACTERS + 5), "a" * (MOST_CHARACTERS + 7)
    assert "<details" not in visible(short)
    assert "<summary>5 more characters</summary>" in visible(long)
    assert "more characters</p>" not in visible(long)
    assert "… and 7 more characters" in visible(endless)
    assert visible(endless).count("a" * 100) == MOST_CHARACTERS // 100


def test_numbers_are_short() -> None:
    assert [number(value) for value in (0.12345, 12345.6, 3, 1234567, None, float("nan"), -0.5, 1e308)] == [
        "0.123",
        "12,346",
        "3",
        "1,234,567",
        "–",  # noqa: RUF001
        "–",  # noqa: RUF001
        "-0.5",
        "1e+308",
    ]
    assert [number(value) for value in (999.4, 999.7, -999.96)] == ["999", "1,000", "-1,000"]
    assert number(999.96, 4) == "1,000"
    assert percent(0.1234) == "12.3%"


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.name)
def test_a_plot_in_a_page_has_no_style_no_script_and_ids_of_its_own(plot: Plot) -> None:
    (each,) = drawn([plot])
    root = ElementTree.fromstring(each.svg)
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert ids
    assert all(name.startswith(f"{plot.name}-") for name in ids if name)
    assert len(ids) == len(set(ids))
    for element in root.iter():
        assert element.tag.rpartition("}")[2] not in ("style", "script", "a", "image", "foreignObject")
        assert not [key for key in element.attrib if key == "style" or key.startswith("on")]
        for key, value in element.attrib.items():
            assert "#" not in value or f"#{plot.name}-" in value, f"{key} leads elsewhere or has a colour: {value}"


@pytest.mark.parametrize(
    ("plot", "is_whole"),
    [
        (LinePlot("k", "c", "k", "pass", [Series("a", [1, 2, 3], [0.1, 0.2, 0.3])]), True),
        (LinePlot("share", "c", "share", "y", [Series("a", [0.5, 1.5, 2.5], [0.1, 0.2, 0.3])]), False),
        (BarPlot("tasks", "c", "tasks", ["a"], {"tasks": [1.0]}), True),
        (BarPlot("gains", "c", "gain", ["a"], {"gain": [1.0]}, {"gain": [(0.4, 1.6)]}), False),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_whole_numbers_have_whole_ticks(plot: Plot, is_whole: bool) -> None:
    (each,) = drawn([plot])
    axis = re.search(rf'id="{plot.name}-matplotlib.axis_1".*?id="{plot.name}-matplotlib.axis_2"', each.svg, re.DOTALL)
    assert axis is not None
    ticks = re.findall(r">(-?[0-9.]+)</text>", axis[0])
    assert len(ticks) >= 2
    assert all("." not in tick or tick.endswith(".0") for tick in ticks) == is_whole, ticks


def test_the_same_plot_gives_the_same_files(tmp_path) -> None:
    first = write_figures(drawn(PLOTS, with_files=True), tmp_path / "a")
    second = write_figures(drawn(PLOTS[:2], with_files=True), tmp_path / "b")
    assert [path.name for path in first] == [f"{plot.name}{suffix}" for plot in PLOTS for suffix in (".svg", ".png")]
    assert [path.read_bytes() for path in first[:4]] == [path.read_bytes() for path in second]
