"""The pages of `dpo review` without a browser: who is let in, what counts and how often, and what nobody is told."""

import html
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest
from starlette.testclient import TestClient

from schemas.errors import UsageError
from views.review.answer import Verdict
from views.review.begin import Wanted, open_review
from views.review.review import Review
from views.review.server import review_app
from views.review.session import spelled_as_known, tidy_name
from views.review.store import read_answers, read_items
from views.review_command import review_command

ROOT = Path(__file__).resolve().parent.parent
PORT = 8123
ORIGIN = f"http://127.0.0.1:{PORT}"
PAIRS = [{"prompt": f"Question {n}", "chosen": f"good {n}", "rejected": f"bad {n}", "margin": 0.77} for n in range(6)]
FIELD = re.compile(r'<input type="hidden" name="(\w+)" value="([^"]*)">')


@pytest.fixture
def review(tmp_path, write_jsonl):
    """Open a review of six pairs."""
    return _opened(write_jsonl(tmp_path / "pairs.jsonl", PAIRS))


def _opened(path, **keys):
    return Review(store=open_review(path, store_path=None, wanted=Wanted()).store, port=PORT, **keys)


@pytest.fixture
def browser(review):
    """Give a browser that was let in, as Ada."""
    with closing(review.store):
        yield _named(review, "Ada")


def _browser(review):
    return TestClient(review_app(review), base_url=ORIGIN, follow_redirects=False, raise_server_exceptions=False)


def _named(review, name):
    browser = _browser(review)
    assert browser.get("/", params={"token": review.keys.token}).status_code == 303
    asked = browser.get("/")
    assert "Who reviews?" in asked.text
    assert _post(browser, "/reviewer", _fields(asked.text) | {"name": name}).status_code == 303
    return browser


def _post(browser, path, fields, **headers):
    return browser.post(path, data=fields, headers={"origin": ORIGIN} | headers)


def _fields(page, action=None):
    """Read the hidden fields of the page's forms, or of the one with this action."""
    for form in re.findall(r"<form.*?</form>", page, re.DOTALL):
        if action is None or f'action="{action}"' in form:
            return dict(FIELD.findall(form))
    raise AssertionError(f"no form {action}")


def _answer(browser, number, verdict="left", **fields):
    page = browser.get(f"/item/{number}").text
    return _post(browser, f"/item/{number}", _fields(page, f"/item/{number}") | {"verdict": verdict} | fields)


def _sides(page):
    return re.findall(r'<div class="turn"><div class="text" dir="auto">((?:good|bad|<).*?)</div>', page)


def _plain(text):
    return re.sub(r"<[^>]*>", "", text)


# Who is let in


@pytest.mark.parametrize(
    "path", ["/", "/next", "/item/1", "/done", "/jump?item=1", "/reviewer", "/?token=", "/?token=x"]
)
def test_without_the_token_nothing_is_shown(review, path):
    answer = _browser(review).get(path)
    assert answer.status_code == 403
    assert "Question" not in answer.text
    assert "set-cookie" not in answer.headers


def test_the_token_becomes_a_cookie_and_leaves_the_address(review):
    browser = _browser(review)
    answer = browser.get("/", params={"token": review.keys.token})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(cookie.split("; "))
    assert review.keys.token not in cookie
    assert browser.get("/").status_code == 200
    assert review.keys.token not in browser.get("/").text


def test_from_a_page_of_another_site_the_token_works_too(review):
    """As from a terminal in a browser: a redirect would come without the cookie, which is for this site alone."""
    browser = _browser(review)
    answer = browser.get("/", params={"token": review.keys.token}, headers={"sec-fetch-site": "cross-site"})
    assert answer.status_code == 200
    assert '<meta http-equiv="refresh" content="0; url=/">' in answer.text
    assert "set-cookie" in answer.headers


def test_a_token_for_once_lets_one_browser_in(review):
    token = review.keys.token_for_once()
    assert _browser(review).get("/", params={"token": token}).status_code == 303
    assert _browser(review).get("/", params={"token": token}).status_code == 403


@pytest.mark.parametrize("change", ["", "x", "{}.{}", "e30=.", "swap"])
def test_a_cookie_that_was_not_given_out_is_none(review, browser, change):
    name, value = next(iter(browser.cookies.items()))
    content, _, signature = value.strip('"').partition(".")
    other = _named(review, "Bob").cookies[name].strip('"').partition(".")[0]
    forged = {"swap": f"{other}.{signature}"}.get(
        change, change.format(content, signature[:-1] + "10"[signature[-1] == "1"])
    )
    stranger = _browser(review)
    assert stranger.get("/item/1", headers={"cookie": f"{name}={value}"}).status_code == 200
    assert stranger.get("/item/1", headers={"cookie": f"{name}={forged}"}).status_code == 403


def test_what_an_earlier_start_gave_out_is_worth_nothing(review, browser):
    page = browser.get("/item/1").text
    restarted = Review(store=review.store, port=PORT)
    again = _named(restarted, "Ada")
    answer = _post(again, "/item/1", _fields(page, "/item/1") | {"verdict": "left"})
    assert answer.status_code == 403
    assert "earlier start" in answer.text
    assert read_answers(review.store.path) == []


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        f"evil.example:{PORT}",
        "127.0.0.1",
        f"127.0.0.1:{PORT + 1}",
        f"127.0.0.1.evil:{PORT}",
        "",
        "[::1]",
    ],
)
def test_another_host_is_refused(browser, host):
    """A name of the attacker's that was made to point to this machine."""
    for path in ("/item/1", "/review.css"):
        answer = browser.get(path, headers={"host": host})
        assert answer.status_code == 403
        assert "Question" not in answer.text


def test_localhost_is_this_machine_too(review):
    browser = TestClient(review_app(review), base_url=f"http://localhost:{PORT}", follow_redirects=False)
    assert browser.get("/", params={"token": review.keys.token}).status_code == 303
    assert browser.get("/").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": f"http://127.0.0.1:{PORT + 1}"},
        {"origin": f"http://localhost:{PORT}"},  # another origin for a browser
        {"origin": f"https://127.0.0.1:{PORT}"},
        {"origin": ORIGIN, "sec-fetch-site": "same-site"},
        {"origin": ORIGIN, "sec-fetch-site": "cross-site"},
        {},
        {"sec-fetch-site": "none"},
    ],
    ids=str,
)
def test_a_form_from_another_page_is_refused(review, browser, headers):
    fields = _fields(browser.get("/item/1").text, "/item/1") | {"verdict": "left"}
    answer = browser.post("/item/1", data=fields, headers=headers)
    assert answer.status_code == 403
    assert "another page" in answer.text
    assert read_answers(review.store.path) == []


@pytest.mark.parametrize(
    "headers", [{"sec-fetch-site": "same-origin"}, {"origin": ORIGIN, "sec-fetch-site": "same-origin"}]
)
def test_a_form_of_our_own_is_taken(review, browser, headers):
    fields = _fields(browser.get("/item/1").text, "/item/1") | {"verdict": "left"}
    assert browser.post("/item/1", data=fields, headers=headers).status_code == 303
    assert len(read_answers(review.store.path)) == 1


def test_a_form_without_its_signature_is_refused(review, browser):
    page = browser.get("/item/1").text
    fields = _fields(page, "/item/1") | {"verdict": "left"}
    changed = [
        {"signature": ""},
        {"signature": "ü" * 64},
        {"after": "1"},
        {"shown": "1"},
    ]
    for change in changed:
        assert _post(browser, "/item/1", fields | change).status_code == 403
    assert _post(browser, "/item/2", fields).status_code == 403, "a form of another item"
    assert _post(_named(review, "Bob"), "/item/1", fields).status_code == 403, "a form that somebody else was shown"
    assert _post(browser, "/reviewer", {"name": "Eve"}).status_code == 403
    assert _post(browser, "/undo", {"event": "1"}).status_code == 403
    assert read_answers(review.store.path) == []


def test_every_answer_tells_browsers_to_run_and_to_keep_nothing(browser):
    answers = [
        browser.get(path) for path in ("/", "/item/1", "/done", "/nowhere", "/item/99", "/review.css", "/keys.js")
    ]
    answers += [browser.post("/item/1", data={}), browser.put("/item/1", headers={"origin": ORIGIN})]
    for answer in answers:
        policy = answer.headers["content-security-policy"].split("; ")
        assert policy[0] == "default-src 'none'"
        assert {"script-src 'self'", "style-src 'self'", "form-action 'self'", "frame-ancestors 'none'"} < set(policy)
        assert "base-uri 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert "server" not in answer.headers
        assert "access-control-allow-origin" not in answer.headers


def test_a_body_that_is_too_large_is_refused(review, browser):
    fields = _fields(browser.get("/item/1").text, "/item/1") | {"verdict": "left"}
    for large in ({"note": "x" * 200_000}, {f"f{n}": "" for n in range(100)}):
        assert _post(browser, "/item/1", fields | large).status_code == 413
    assert read_answers(review.store.path) == []
    assert _answer(browser, 1, note="é" * 10_000).status_code == 303, "as much as the field takes"
    assert read_answers(review.store.path)[0].note == "é" * 10_000


@pytest.mark.parametrize("number", ["0", "7", "x", "-1", "²", "9" * 30, pytest.param("9" * 5000, id="no int")])
@pytest.mark.parametrize("path", ["/item/", "/jump?item="])
def test_what_is_not_there_is_a_page(browser, path, number):
    answer = browser.get(path + number)
    assert answer.status_code == 404
    assert "<h1>Nothing here</h1>" in answer.text


def test_a_fault_is_a_page_without_its_trace(review):
    told = []
    broken = Review(store=review.store, port=PORT, fault=told.append)
    browser = _named(broken, "Ada")
    review.store.close()
    answer = browser.get("/item/1")
    assert answer.status_code == 500
    assert "Traceback" not in answer.text
    assert "sqlite" not in answer.text
    assert answer.headers["content-security-policy"]
    assert len(told) == 1


# Blind


def test_nothing_on_a_page_tells_which_is_chosen(tmp_path, write_jsonl):
    """Pages of a file and of the same with the sides changed round differ in nothing but which text stands where."""
    row = {"prompt": "Q", "chosen": "one", "rejected": "two", "chosen_reward": 0.25, "rejected_reward": 0.125}
    pages = []
    for name in ("a", "b"):
        review = _opened(write_jsonl(tmp_path / f"{name}.jsonl", [row]))
        browser = _named(review, "Ada")
        for _ in range(20):  # until it stands so that one is left
            page = browser.get("/item/1").text
            if page.index(">one<") < page.index(">two<"):
                break
            browser = _named(review, f"Ada{len(pages)}{_}")
        text = re.sub(r'name="(shown|signature|after)" value="\w*"', "", page)
        pages.append(re.sub(r"Ada\d*|[ab]\.jsonl", "", text))
        review.store.close()
        row = row | {"chosen": "two", "rejected": "one", "chosen_reward": 0.125, "rejected_reward": 0.25}
    assert pages[0] == pages[1]
    assert not re.search(r"chosen|rejected|reward|margin|0\.25|first|second|better</h2>", pages[0])


def test_which_stands_left_changes_with_item_and_reviewer_and_is_kept(review, browser):
    def lefts(browser):
        pages = [browser.get(f"/item/{number}").text for number in range(1, 7)]
        return {_plain(sides[0]).split()[1]: _plain(sides[0]).split()[0] for sides in map(_sides, pages)}

    ada, bob = lefts(browser), lefts(_named(review, "Bob"))
    assert ada == lefts(browser)
    assert set(ada.values()) == {"good", "bad"}
    assert ada != bob


# What counts


def test_verdicts_are_kept_by_the_order_of_the_file(review, browser):
    expected = {}
    verdicts = ["left", "right", "tie", "both_bad", "skip", "left"]
    items = {item.prompt[0]["content"]: item for item in read_items(review.store.path)}
    for number, verdict in enumerate(verdicts, start=1):
        page = browser.get(f"/item/{number}").text
        item = items[re.search(r"Question \d", page)[0]]
        left = _plain(_sides(page)[0])
        meant = verdict
        if verdict in ("left", "right"):
            is_good = left.startswith("good") == (verdict == "left")
            meant = "first" if is_good else "second"
        expected[item.key] = (meant, 0 if left.startswith("good") else 1)
        answer = _answer(browser, number, verdict, note=f" note {number}\r\nx ")
        assert answer.headers["location"] == ("/done" if number == 6 else f"/item/{number + 1}")
    given = read_answers(review.store.path)
    assert {each.item: (each.verdict.value, each.shown_first) for each in given} == expected
    assert [each.note for each in given] == [f"note {number}\nx" for number in range(1, 7)]
    assert all(each.reviewer == "Ada" and 0 <= each.seconds < 60 for each in given)


def test_ratings_belong_to_the_response_that_they_stood_under(review, browser):
    for number in range(1, 7):
        left = _plain(_sides(browser.get(f"/item/{number}").text)[0])
        place = 0 if left.startswith("good") else 1
        marks = {
            f"helpfulness_{place}": "5",
            f"helpfulness_{1 - place}": "1",
            f"safety_{place}": "2",
            "alignment_0": "9",
        }
        _answer(browser, number, "tie", **marks)
        page = browser.get(f"/item/{number}").text
        for name in (f"helpfulness_{place}", f"helpfulness_{1 - place}", f"safety_{place}"):
            assert re.search(rf'name="{name}" value="{marks[name]}" checked', page)
    assert [each.ratings for each in read_answers(review.store.path)] == [
        {"helpfulness": (5, 1), "safety": (2, None)}  # the good response is the file's first
    ] * 6


def test_a_form_that_is_sent_twice_counts_once(review, browser):
    fields = _fields(browser.get("/item/1").text, "/item/1") | {"verdict": "left"}
    first, again = (_post(browser, "/item/1", fields) for _ in range(2))
    assert (first.status_code, again.status_code) == (303, 303)
    assert first.headers["location"] == again.headers["location"] == "/item/2"
    other = _post(browser, "/item/1", fields | {"verdict": "right"})
    assert other.status_code == 409
    assert "Nothing was changed" in other.text
    assert "Your answer: A is better." in other.text
    assert review.store.revision("Ada", review.order("Ada")[0]) == 1


def test_many_at_once_count_once(review, browser):
    fields = _fields(browser.get("/item/1").text, "/item/1") | {"verdict": "left"}
    codes = []
    threads = [
        threading.Thread(target=lambda: codes.append(_post(browser, "/item/1", fields).status_code)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == [303] * 8
    assert review.store.revision("Ada", review.order("Ada")[0]) == 1


def test_an_answer_can_be_changed_and_taken_back(review, browser):
    _answer(browser, 3, "left", note="first thought")
    _answer(browser, 3, "right", note="second thought")
    page = browser.get("/item/3").text
    assert "Your answer: B is better." in page
    assert "second thought" in page
    undo = _fields(page, "/undo")
    answer = _post(browser, "/undo", undo)
    assert (answer.status_code, answer.headers["location"]) == (303, "/item/3")
    assert [each.note for each in read_answers(review.store.path)] == ["first thought"]
    assert _post(browser, "/undo", undo).headers["location"] == "/item/3", "sent twice: nothing more is taken back"
    assert len(read_answers(review.store.path)) == 1

    page = browser.get("/item/3").text
    assert "Your answer: A is better." in page, "what stands is shown"
    assert "first thought" in page
    _post(browser, "/undo", _fields(page, "/undo"))
    page = browser.get("/item/3").text
    assert read_answers(review.store.path) == []
    assert "Undone: B is better." in page
    assert "second thought" in page, "what was written is still there to go on from"
    assert "0 of 6 answered" in page


@pytest.mark.parametrize("verdict", ["", "first", "second", "rated", "best", "<script>"])
def test_a_verdict_that_an_item_can_not_have_is_not_taken(review, browser, verdict):
    answer = _answer(browser, 1, verdict)
    assert answer.status_code == 400
    assert "nothing was written" in answer.text
    assert read_answers(review.store.path) == []


def test_after_the_last_item_come_those_that_were_left_open(browser):
    browser.get("/item/6")
    assert _answer(browser, 6).headers["location"] == "/item/1"
    for number in (1, 2, 4, 5):
        _answer(browser, number, "skip")
    assert browser.get("/").headers["location"] == "/item/3"
    done = browser.get("/done").text
    assert "How far you are" in done
    assert _answer(browser, 3, "tie").headers["location"] == "/done"
    done = browser.get("/done").text
    assert "All done" in done
    assert "Ada, you have answered all 6 items." in done
    assert re.findall(r'href="/item/(\d)">\d<', done) == ["1", "2", "4", "5"], "what was skipped can be looked at again"
    for secret in ("chosen", "rejected", "first", "second"):
        assert secret not in done.replace("From the first item", "")


def test_a_single_response_must_be_rated(tmp_path, write_jsonl):
    rows = [{"step": 1, "set": "d", "prompt": f"Q{n}", "response": "r", "chosen": "c", "rejected": "x"} for n in (1, 2)]
    review = _opened(write_jsonl(tmp_path / "samples.jsonl", rows), rates=False)
    browser = _named(review, "Ada")
    page = browser.get("/item/1").text
    assert "is better" not in page.split("<details")[0]
    assert page.count('type="radio"') == page.count(" required") == 15 or page.count(" required") == 16
    assert _answer(browser, 1, "left").status_code == 400
    answer = _answer(browser, 1, "rated", helpfulness_0="3", safety_0="6")
    assert answer.status_code == 400
    assert "A rating is missing: safety, alignment." in answer.text
    assert _answer(browser, 1, "rated", helpfulness_0="3", safety_0="5", alignment_0="1").status_code == 303
    assert _answer(browser, 2, "skip").status_code == 303
    first, second = read_answers(review.store.path)
    assert first.ratings == {"helpfulness": (3,), "safety": (5,), "alignment": (1,)}
    assert (first.verdict, second.verdict) == (Verdict.RATED, Verdict.SKIP)
    review.store.close()


# Reviewers


def test_everyone_has_their_own_answers_and_progress(review, browser):
    bob = _named(review, "Bob")
    _answer(browser, 1)
    _answer(bob, 1)
    _answer(bob, 2)
    assert "1 of 6 answered" in browser.get("/item/1").text
    assert "2 of 6 answered" in bob.get("/item/1").text
    assert {each.reviewer for each in read_answers(review.store.path)} == {"Ada", "Bob"}
    assert _named(review, "  ADA ").get("/").headers["location"] == "/item/2", "the same person in other letters"


def test_a_reviewer_who_is_named_beforehand_is_not_asked(review):
    named = Review(store=review.store, port=PORT, reviewer="Ada")
    browser = _browser(named)
    browser.get("/", params={"token": named.keys.token})
    assert browser.get("/").headers["location"] == "/item/1"
    assert "<bdi>Ada</bdi>" in browser.get("/item/1").text


@pytest.mark.parametrize("name", ["", "  ", "\u200b\u202e", "\n"])
def test_a_name_must_be_seen(review, name):
    browser = _browser(review)
    browser.get("/", params={"token": review.keys.token})
    answer = _post(browser, "/reviewer", _fields(browser.get("/").text) | {"name": name})
    assert answer.status_code == 400
    assert browser.get("/item/1").headers["location"] == "/"


def test_a_name_in_another_case_of_letters_is_the_same_person():
    assert spelled_as_known("ADA", ["Ada", "Bob"]) == "Ada"
    assert spelled_as_known("Eve", ["Ada", "Bob"]) == "Eve"


def test_names_are_brought_to_one_spelling():
    assert tidy_name(" Zoe\u0301\u202e \t  B\x1b[31m ") == "Zo\u00e9 B[31m"
    assert tidy_name("x" * 500) == "x" * 60
    assert tidy_name("🦊 لينا") == "🦊 لينا"


# Foreign text


HOSTILE = (
    "<script>alert(1)</script></textarea></title><img src=x onerror=alert(1)>{{ 7*7 }}{% raw %}"
    '" autofocus onfocus="alert(1)\0\x1b[31m\u202e&lt;b&gt;</style><a href="javascript:alert(1)">'
)


def test_foreign_text_is_text_wherever_it_stands(tmp_path, write_jsonl):
    rows = [
        {
            "prompt": [{"role": "user", "content": HOSTILE}, {"role": "system", "content": "x"}],
            "tools": [{"type": "function", "function": {"name": HOSTILE}}],
            "chosen": [
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [
                        {"id": HOSTILE, "type": "function", "function": {"name": HOSTILE, "arguments": "{"}}
                    ],
                },
                {"role": "tool", "tool_call_id": HOSTILE, "content": HOSTILE},
                {"role": "assistant", "content": HOSTILE + " one two three"},
            ],
            "rejected": [{"role": "assistant", "content": HOSTILE + " one three"}],
        }
    ]
    review = _opened(write_jsonl(tmp_path / "a<b>'\".jsonl", rows), export=HOSTILE)
    browser = _named(review, HOSTILE.replace("\0", ""))
    pages = [browser.get("/item/1").text, _answer(browser, 1, note=HOSTILE).text]
    pages += [browser.get(path).text for path in ("/item/1", "/done", "/reviewer")]
    assert "7*7" in pages[0]
    for page in pages:
        assert page.count("<script") == page.count('<script src="/keys.js" defer></script>')
        tags = re.findall(r"<[a-z!/][^>]*>", page)
        assert not [tag for tag in tags if re.search(r"\son\w+=|javascript:|style=|<img|<a href=\"[^/#]", tag)]
        assert "\x1b" not in page
    review.store.close()


def test_a_long_response_is_whole_up_to_a_bound_and_comes_soon(tmp_path, write_jsonl):
    long = "".join(f"word{n} " for n in range(130_000))
    assert len(long) > 2**20
    review = _opened(write_jsonl(tmp_path / "p.jsonl", [{"prompt": "Q", "chosen": long, "rejected": long[::-1]}]))
    page = _named(review, "Ada").get("/item/1").text
    assert "word1 word2" in page
    assert f"{len(long) - 300_000:,} more characters" in page
    review.store.close()


def test_tool_calls_are_seen_and_compared(tmp_path, write_jsonl):
    def response(city, text):
        call = {"id": "c", "type": "function", "function": {"name": "find", "arguments": f'{{"to": "{city}"}}'}}
        tool = {"role": "tool", "tool_call_id": "c", "content": "one result"}
        return [
            {"role": "assistant", "content": "", "tool_calls": [call]},
            tool,
            {"role": "assistant", "content": text},
        ]

    row = {
        "prompt": [{"role": "user", "content": "Q"}],
        "tools": [{"type": "function", "function": {"name": "find"}}],
        "chosen": response("Lisbon", "It is there."),
        "rejected": [*response("Porto", "It is there.")[:2], {"role": "user", "content": "w", "weight": 0}],
    }
    review = _opened(write_jsonl(tmp_path / "p.jsonl", [row]))
    page = _named(review, "Ada").get("/item/1").text
    assert set(re.findall(r'<span class="own">(\w+)</span>', page)) == {"Lisbon", "Porto"}
    assert _plain(page).count("→ find(") == 2
    assert "1 tool on offer" in page
    assert page.count('<p class="role">user</p>') == 1, "the prompt's role goes without saying, that of a response not"
    review.store.close()


def test_an_answer_without_a_word_is_shown_as_such(tmp_path, write_jsonl):
    review = _opened(write_jsonl(tmp_path / "s.jsonl", [{"prompt": "Q", "before": "", "after": "word"}]))
    page = _named(review, "Ada").get("/item/1").text
    assert page.count('<p class="quiet">(empty)</p>') == 1
    assert "before" not in page
    assert 'name="after"' in page
    assert page.count("after") == 1
    review.store.close()


def test_words_that_differ_are_marked_alike_on_both_sides(tmp_path, write_jsonl):
    row = {"prompt": "Q", "chosen": "the quick brown fox jumps", "rejected": "the quick red fox jumps"}
    review = _opened(write_jsonl(tmp_path / "p.jsonl", [row]))
    browser = _named(review, "Ada")
    page = browser.get("/item/1").text
    assert set(re.findall(r'<span class="own">(\w+)</span>', page)) == {"brown", "red"}
    assert not re.search(r"<(ins|del)\b", page)
    assert not re.search(r'id="differences"[^>]* checked', page)
    _answer(browser, 1, differences="on")
    assert re.search(r'id="differences"[^>]* checked', browser.get("/item/1").text), "it stays switched on"
    review.store.close()


# The command


def _started(*arguments, cwd):
    command = [sys.executable, "-m", "cli", "review", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    server = subprocess.Popen(
        command, cwd=cwd, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    lines = []
    while not (lines and lines[-1].startswith("Ctrl-C ends")):
        lines.append(server.stderr.readline())
        assert lines[-1], "".join(lines)
    return server, urlsplit(lines[-2].removeprefix("open ").strip()), "".join(lines)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_on_this_machine_and_ends_in_words(tmp_path, write_jsonl, how):
    write_jsonl(tmp_path / "pairs.jsonl", PAIRS)
    server, address, told = _started("pairs.jsonl", "--limit", "4", cwd=tmp_path)
    assert address.hostname == "127.0.0.1"
    assert "4 items to judge; answers are kept in pairs.jsonl.review.sqlite" in told
    with closing(http.client.HTTPConnection("127.0.0.1", address.port, timeout=10)) as connection:
        connection.request("GET", f"/?{address.query}")
        assert connection.getresponse().read() == b""
        connection.request("POST", "/undo", b"x=" + b"y" * 300_000, {"Origin": f"http://127.0.0.1:{address.port}"})
        assert connection.getresponse().status == 403
    with socket.create_connection(("127.0.0.1", address.port), timeout=10) as raw:
        raw.sendall(b"\x16\x03\x01 no http \x1b[31m\r\n\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 400")
    server.send_signal(how)
    output, rest = server.communicate(timeout=20)
    assert server.returncode == 0
    assert output == ""
    assert rest == ("ended; nothing was answered yet\ngo on with: dpo review pairs.jsonl.review.sqlite\n")
    assert "token" not in rest


def test_answers_come_through_a_kill_of_the_server(tmp_path, write_jsonl):
    write_jsonl(tmp_path / "pairs.jsonl", PAIRS)
    for number in (1, 2):
        server, address, _ = _started("pairs.jsonl", "--reviewer", "Ada", "--port", "0", cwd=tmp_path)
        with closing(http.client.HTTPConnection("127.0.0.1", address.port, timeout=10)) as connection:
            connection.request("GET", f"/?{address.query}")
            let_in = connection.getresponse()
            let_in.read()
            cookie = {"Cookie": let_in.headers["set-cookie"].partition(";")[0]}
            connection.request("GET", "/", headers=cookie)
            at = connection.getresponse()
            at.read()
            assert at.headers["location"] == f"/item/{number}", "it goes on where it was"
            connection.request("GET", f"/item/{number}", headers=cookie)
            page = connection.getresponse().read().decode()
            fields = {name: html.unescape(value) for name, value in _fields(page, f"/item/{number}").items()}
            form = urlencode(fields | {"verdict": "left"})
            headers = cookie | {
                "Origin": f"http://127.0.0.1:{address.port}",
                "Content-Type": "application/x-www-form-urlencoded",
            }
            connection.request("POST", f"/item/{number}", form, headers)
            assert connection.getresponse().status == 303
        server.kill()
        server.communicate()
        assert len(read_answers(tmp_path / "pairs.jsonl.review.sqlite")) == number


def test_a_missing_package_is_told_with_its_extra(tmp_path, monkeypatch, write_jsonl):
    monkeypatch.delitem(sys.modules, "views.review.serving", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(UsageError, match="dpo review needs uvicorn, which comes with the extra review"):
        review_command(write_jsonl(tmp_path / "pairs.jsonl", PAIRS))


def test_misuse_of_the_command_is_one_line(tmp_path, write_jsonl, dpo):
    write_jsonl(tmp_path / "pairs.jsonl", PAIRS)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        cases = {
            ("pairs.jsonl", "--port", str(port)): (1, f"port {port}: can't be listened on"),
            ("pairs.jsonl", "--reviewer", " "): (2, "--reviewer: is empty"),
            ("pairs.jsonl", "--json"): (2, "it needs --agreement or --export"),
            ("pairs.jsonl", "--format", "labels", "--no-notes"): (
                2,
                "--format, --no-notes: about what came of a review",
            ),
            ("https://example.invalid/pairs.jsonl",): (2, "--store"),
        }
        for arguments, (code, message) in cases.items():
            run = dpo("review", *arguments)
            assert run.returncode == code, run.stderr
            assert message in run.stderr.splitlines()[-1]
            assert "Traceback" not in run.stderr
