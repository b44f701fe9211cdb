"""The pages of a review in a browser: without script, for everyone, with hostile texts, and closed to everyone else."""

import re
import urllib.error
import urllib.parse
import urllib.request

import pytest
from playwright.sync_api import expect

from tests.hostile_texts import HUGE, TEXTS, pairs, write
from tests.page_audit import faults_everywhere, faults_of
from tests.review_servers import ReviewServer, expect_done, introduce, look_at, press

pytestmark = pytest.mark.browser

PAIRS = [
    {"prompt": f"Question {number}?", "chosen": f"yes {number}", "rejected": f"no {number}"} for number in range(4)
]


def test_a_review_works_without_script_by_clicks(tmp_path, open_page) -> None:
    write(tmp_path / "pairs.jsonl", PAIRS)
    with ReviewServer("pairs.jsonl", cwd=tmp_path) as server:
        page = open_page(server.address, script=False, phone=True)
        page.get_by_label("Your name").fill("Cid")
        page.get_by_role("button", name="Begin").click()
        expect_done(page, 0)
        page.get_by_label("Note").fill("a note")
        page.get_by_role("group", name="Ratings of B").locator("label", has_text="4").first.click()
        page.get_by_role("button", name="B is better").click()
        expect_done(page, 1)
        page.get_by_role("button", name="Tie").click()
        expect_done(page, 2)
        page.get_by_role("button", name="Undo").click()
        expect_done(page, 1)
        expect(page.locator("#given")).to_contain_text("Undone: tie")
        for done, name in ((2, "Both bad"), (3, "Skip"), (4, "A is better")):
            page.get_by_role("button", name=name).click()
            expect_done(page, done)
        expect(page.locator("h1")).to_have_text("All done")
        page.get_by_role("link", name="From the first item").click()
        expect(page.get_by_label("Note")).to_have_value("a note")
        expect(page.locator("input[name=helpfulness_1][value='4']")).to_be_checked()


def test_digits_rate_after_keys_and_judge_after_a_click(tmp_path, open_page) -> None:
    write(tmp_path / "pairs.jsonl", PAIRS)
    with ReviewServer("pairs.jsonl", "--reviewer", "Flo", cwd=tmp_path) as server:
        page = open_page(server.address)
        page.locator("input[name=helpfulness_0][value='4']").click()
        press(page, "1", done=1)
        page.goto(server.origin + "/item/1")
        expect(page.locator("input[name=helpfulness_0][value='4']")).to_be_checked()
        look_at(page)
        for key in ("r", "2", "5"):
            page.keyboard.press(key)
        expect(page.locator("input[name=helpfulness_0][value='2']")).to_be_checked()
        expect(page.locator("input[name=safety_0][value='5']")).to_be_checked()
        expect(page.locator("h1")).to_contain_text("Item 1 ")


def test_every_page_of_a_review_is_readable(tmp_path, open_page) -> None:
    write(tmp_path / "pairs.jsonl", PAIRS)
    with ReviewServer("pairs.jsonl", cwd=tmp_path) as server:
        page = open_page(server.address)
        assert faults_everywhere(page, served=True) == []
        introduce(page, "Dee")
        for place in ("/item/1", "/done", "/reviewer"):
            page.goto(server.origin + place)
            assert faults_everywhere(page, served=True) == [], place


def test_hostile_texts_are_inert_in_a_review(tmp_path, open_page) -> None:
    short = [text for text in TEXTS.values() if text not in HUGE.values() and text.strip()]
    heaps = {str(place): "\n".join(short[place::8]) for place in range(8)}
    write(tmp_path / "pairs.jsonl", pairs(heaps | {name: HUGE[name] for name in ("huge word", "megabyte")}))
    with ReviewServer("pairs.jsonl", cwd=tmp_path) as server:
        page = open_page(server.address)
        introduce(page, "<b>Eve</b>")
        for done in range(len(heaps) + 2):
            text = page.locator(".prompt .text").first.text_content()
            shown = "".join(text.split())
            assert "script>alert(1)" in shown or "ww" in shown or "Manywords" in shown or "U+" in shown
            page.locator("#note").fill("</textarea><script>alert(1)</script>\n{{ 7*7 }}")
            assert faults_of(page, served=True) == []
            page.locator('[data-keys~="x"]').click()  # both bad; keys are another test's matter
            expect_done(page, done + 1)
        page.goto(server.origin + "/item/1")
        expect(page.locator("#note")).to_have_value("</textarea><script>alert(1)</script>\n{{ 7*7 }}")
        for place in ("/item/1", "/done", "/reviewer"):
            page.goto(server.origin + place)
            assert faults_everywhere(page, served=True) == [], place


def test_who_has_no_token_or_comes_from_elsewhere_is_refused(tmp_path) -> None:
    write(tmp_path / "pairs.jsonl", PAIRS[:2])
    with ReviewServer("pairs.jsonl", "--reviewer", "Fay", cwd=tmp_path) as server:
        assert status_of(server.origin + "/") == 403
        assert status_of(server.origin + "/item/1") == 403
        assert status_of(server.origin + "/?token=wrong") == 403
        assert status_of(server.origin + "/item/1", cookie="dpo_review_1=x.y") == 403
        assert status_of(server.address, Host="elsewhere.invalid") == 403
        assert status_of(server.address, Host="127.0.0.1:1") == 403
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
        with opener.open(server.address) as page:  # follows to the first item, with the cookie
            html = page.read().decode()
            assert page.geturl() == server.origin + "/item/1"
        fields = dict(re.findall(r'name="(after|shown|signature)" value="([^"]*)"', html)) | {"verdict": "tie"}
        body = urllib.parse.urlencode(fields).encode()
        for origin in ("https://elsewhere.invalid", "null", server.origin.replace("127.0.0.1", "localhost"), None):
            headers = {} if origin is None else {"Origin": origin}
            assert status_of(server.origin + "/item/1", opener, body, **headers) == 403, origin
        forged = urllib.parse.urlencode(fields | {"signature": "0" * 64}).encode()
        assert status_of(server.origin + "/item/1", opener, forged, Origin=server.origin) == 403
        with opener.open(server.origin + "/item/1") as page:
            assert "0 of 2 answered" in page.read().decode()  # none of these has written anything
        assert status_of(server.origin + "/item/1", opener, body, Origin=server.origin) == 200
        with opener.open(server.origin + "/item/1") as page:
            assert "1 of 2 answered" in page.read().decode()


def status_of(address: str, opener=None, body: bytes | None = None, **headers: str) -> int:
    """Ask for an address, and give the status of the answer."""
    request = urllib.request.Request(address, body, headers)
    try:
        with (opener or urllib.request.build_opener()).open(request) as answer:
            return answer.status
    except urllib.error.HTTPError as refused:
        refused.close()
        return refused.code
