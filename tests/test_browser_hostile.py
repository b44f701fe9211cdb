"""Hostile texts in every kind of report, in a browser: nothing in them is alive, and all of them can be read."""

from itertools import groupby

import pytest

from tests.hostile_texts import FORMATS, INVISIBLE, MARKUP, SCRIPTS, TERMINAL
from tests.made_reports import KINDS, make_of_hostile_texts
from tests.page_audit import faults_everywhere

pytestmark = pytest.mark.browser

MAX_BYTES = 4_000_000


@pytest.fixture(scope="module")
def reports(tmp_path_factory, _warm_server):
    """Make a report of each kind."""
    folder = tmp_path_factory.mktemp("hostile")
    return make_of_hostile_texts(folder, lambda *arguments: _warm_server.run(*arguments, cwd=folder))


@pytest.mark.parametrize("kind", KINDS)
def test_a_report_is_inert(reports, open_page, kind) -> None:
    assert reports[kind].stat().st_size < MAX_BYTES
    page = open_page(reports[kind])
    for element in page.locator("summary, label, svg, article").all()[:10]:
        element.hover()  # which is when some handlers would run
    page.keyboard.press("Tab")
    assert faults_everywhere(page) == []


def test_markup_stands_in_the_page_as_text(reports, open_page) -> None:
    shown = bare(open_page(reports["pairs"]).locator("main").text_content())
    for name, text in (MARKUP | SCRIPTS | FORMATS).items():
        assert bare(text) in shown, name


def test_what_is_not_seen_is_shown_by_its_number(reports, open_page) -> None:
    shown = bare(open_page(reports["pairs"]).locator("main").text_content())
    for name, text in (TERMINAL | INVISIBLE).items():
        runs = ((char, len(list(run))) for char, run in groupby(text[:500]))
        assert bare("".join(numbered(char, times) for char, times in runs)) in shown, name


def bare(text: str) -> str:
    """Leave out white space, of which a page shows less than there is."""
    return "".join(text.split())


def numbered(char: str, times: int) -> str:
    """Write a character as a page of ours does, by rules of its own: which ranges are seen, and which not."""
    number = ord(char)
    controls = number < 0x20 or 0x7F <= number < 0xA0
    hides = number in (0xAD, 0x200B, 0x2060, 0xFEFF) or 0x202A <= number <= 0x202E or 0x2066 <= number <= 0x2069
    unassigned = 0xE000 <= number < 0xF900 or 0xE0000 <= number < 0xE0080 or number in (0x2028, 0x2029)
    blank = number in (0x34F, 0x115F, 0x1160, 0x2800, 0x3164, 0xFFA0)
    if char in "\n\t" or not (controls or hides or unassigned or blank):
        return char * times
    return f"U+{number:04X}" + (f"\N{MULTIPLICATION SIGN}{times}" if times > 1 else "")
