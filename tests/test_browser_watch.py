"""What watches the pages of the other browser tests sees each thing that a page should not do, or be."""

import time

import pytest

from tests.browser import NoBrowser, find_browser
from tests.page_audit import faults_of

POLICY = "<meta http-equiv=Content-Security-Policy content=\"default-src 'none'; style-src 'sha256-x'\">"


DEEDS = [
    ("<script>alert(1)</script>", "dialog: alert 1"),
    ("<img src=x onerror=alert(2)>", "dialog: alert 2"),
    ("<script>prompt('name?')</script>", "dialog: prompt name?"),
    ("<img src='https://elsewhere.invalid/seen.png'>", "request: GET https://elsewhere.invalid/seen.png"),
    ("<link rel=stylesheet href='https://elsewhere.invalid/a.css'>", "https://elsewhere.invalid/a.css"),
    ("<iframe src='https://elsewhere.invalid/'></iframe>", "request: GET https://elsewhere.invalid/"),
    ("<script>fetch('https://elsewhere.invalid/', {method: 'POST'})</script>", "request: POST"),
    ("<img src='other.png'>", "other.png"),
    ("<script>nothing.there</script>", "error: "),
    ("<script>console.error('bad')</script>", "console: bad"),
    (POLICY + "<script>1</script>", "console: Executing inline script violates"),
    (POLICY + "<p style='color: red'>red</p>", "console: Applying inline style violates"),
    (POLICY + "<style>p { color: red }</style>", "console: Applying inline style violates"),
    (POLICY + "<img src=x onerror=alert(1)>", "console: Loading the image"),
    ("<meta http-equiv=refresh content='0;url=https://elsewhere.invalid/'>", "https://elsewhere.invalid/"),
]
"""What a page may hold, and what is told of that; the last one leads away from the page."""

GOOD = """<!doctype html>
<html lang="en"><title>page</title><meta name="viewport" content="width=device-width">
<style>body {{ color: #222; background: #fff }} .pale {{ color: #999 }} .half {{ opacity: .5 }} .wide {{ width: 125em }}
.scroll {{ overflow-x: auto }} .large {{ font-size: 30px; color: #888 }} @media (prefers-color-scheme: dark) {{
body {{ color: #eee; background: #111 }} .night {{ color: #444 }} .large {{ color: #777 }} }}</style>
<main><h1>page</h1>{}</main>"""


FAULTS = [
    ("<script type=text/plain>x</script>", "a script: <script"),
    ("<p onclick=''>x</p>", "handler onclick: <p"),
    ("<p style='margin: 0'>x</p>", "style attribute: <p"),
    ("<a href='javascript:1'>x</a>", "leads elsewhere: href=javascript:1"),
    ("<a href='https://elsewhere.invalid/'>x</a>", "leads elsewhere: href=https://"),
    ("<form></form>", "a form"),
    ("<iframe></iframe>", "must not be there: <iframe"),
    ("<h1>two</h1>", "2 h1, not one"),
    ("<h3>deep</h3>", "a heading of level 3 below one of 1"),
    ("<input name=q>", "no label: q"),
    ("<button></button>", "no name: <button>"),
    ("<svg><text>x</text></svg>", "a drawing without a title"),
    ("<p id=a>x</p><p id=a>y</p>", "two elements are called a"),
    ("<p class=wide>x</p>", "2008 wide on a screen of 390: <p"),
    ("<p class=pale>pale</p>", 'contrast 2.85: <p class="pale"> "pale"'),
    ("<p class=half>half</p>", "contrast 3.17"),
    ("<div class=half><p>half</p></div>", "contrast 3.17"),
]
"""What a page may hold, and what the audit says to it."""


@pytest.mark.browser
def test_what_a_page_should_not_do_is_seen(tmp_path, open_page, watch) -> None:
    place = tmp_path / "page.html"
    place.write_text("<!doctype html><title>page</title>")
    page = open_page(place)
    for body, seen in DEEDS:
        place.write_text(f"<!doctype html><title>page</title>{body}")
        watch.seen.clear()
        page.goto(place.as_uri())
        until = time.monotonic() + 5
        while not any(seen in line for line in watch.seen) and time.monotonic() < until:
            page.wait_for_timeout(10)
        assert [line for line in watch.seen if seen in line], (body, watch.seen)
    watch.seen.clear()


@pytest.mark.browser
def test_what_a_page_should_not_be_is_found(tmp_path, open_page) -> None:
    place = tmp_path / "page.html"
    place.write_text(GOOD.format(""))
    page = open_page(place, phone=True)
    for body, fault in FAULTS:
        place.write_text(GOOD.format(body))
        page.reload()
        faults = faults_of(page)
        assert len(faults) == 1, (body, faults)
        assert fault in faults[0]


@pytest.mark.browser
def test_nothing_is_found_on_a_good_page(tmp_path, open_page) -> None:
    place = tmp_path / "page.html"
    fold = "<details><summary>more</summary><p class=pale>hidden, so not yet read</p></details>"
    place.write_text(
        GOOD.format(
            f"<h2>part</h2><h3>deeper</h3>{fold}<label>name <input></label><div class=scroll><p class=wide>x</p></div>"
            "<svg><title>drawing</title></svg><p class='large'>large</p><p class=night>seen by day</p>"
        )
    )
    assert faults_of(open_page(place, phone=True)) == []
    assert [fault[:15] for fault in faults_of(open_page(place, phone=True, dark=True))] == ["contrast 1.94: "]


@pytest.mark.browser
def test_a_page_that_does_nothing_is_let_through(tmp_path, open_page, watch) -> None:
    place = tmp_path / "a page #1?.html"
    place.write_text("<!doctype html><title>page</title><p id=here><a href='#here'>here</a>")
    open_page(place).click("a")
    assert watch.seen == []


def test_a_missing_browser_is_told_in_one_sentence(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("DPO_BROWSER", raising=False)
    with pytest.raises(
        NoBrowser, match=r"^the browser tests need Chromium, and none of .* install .* chromium"
    ) as told:
        find_browser()
    assert "\n" not in str(told.value)
    monkeypatch.setenv("DPO_BROWSER", "/nowhere/chromium")
    with pytest.raises(NoBrowser, match="DPO_BROWSER=/nowhere/chromium is no program"):
        find_browser()
    chosen = tmp_path / "chromium"
    chosen.write_text("#!/bin/sh\n")
    chosen.chmod(0o755)
    monkeypatch.setenv("DPO_BROWSER", str(chosen))
    assert find_browser() == str(chosen)
    monkeypatch.delenv("DPO_BROWSER")
    assert find_browser() == str(chosen)  # on the PATH
