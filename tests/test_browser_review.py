"""People review fifty pairs in a browser: by keys alone, through a kill, two at once; their choices are exported."""

import json
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Page, expect

from tests.hostile_texts import write
from tests.review_servers import ReviewServer, expect_done, introduce, look_at, press, prompt_of, sides_of

pytestmark = pytest.mark.browser

NUM_PAIRS = 50
PAIRS = [
    {"prompt": f"Question {number}?", "chosen": f"the good answer {number}", "rejected": f"the bad one {number}"}
    for number in range(NUM_PAIRS)
]
NOTE = "1 2 skip, undo & <b>so on</b> \N{SNOWMAN}"
PLAN = ("good", "good", "bad", "tie", "good", "both_bad", "good", "skip", "bad", "good")
"""What is thought of an item, by the last digit of its number."""


@dataclass
class Person:
    """Somebody who reviews in a window of their own, and what they pressed."""

    page: Page
    name: str
    done: int = 0
    pressed: dict[int, str] = field(default_factory=dict)  # number of the pair -> what was thought of it

    def begin(self, address: str) -> None:
        """Open the page, and say who it is."""
        self.page.goto(address)
        introduce(self.page, self.name)

    def number(self) -> int:
        """Say which of the pairs is shown."""
        return int(prompt_of(self.page).removeprefix("Question ").removesuffix("?"))

    def answer(self, opinion: str = "") -> int:
        """Judge the item that is shown by a key, wherever the good answer stands; gives its number."""
        number = self.number()
        opinion = opinion or PLAN[number % len(PLAN)]
        if opinion in ("good", "bad"):
            left, right = sides_of(self.page)
            assert {opinion in left, opinion in right} == {True, False}
            key = "1" if opinion in left else "2"
        else:
            key = {"tie": "3", "both_bad": "4", "skip": "s"}[opinion]
        self.done += number not in self.pressed
        press(self.page, key, done=self.done)
        self.pressed[number] = opinion
        return number

    def wait_for(self, text: str) -> None:
        """Wait until the head of the page says this."""
        expect(self.page.locator("#progress")).to_contain_text(text)


def test_fifty_pairs_are_reviewed_by_keys_alone_through_a_kill(tmp_path, open_page, watch, dpo) -> None:
    write(tmp_path / "pairs.jsonl", PAIRS)
    with ReviewServer("pairs.jsonl", "--store", "answers.sqlite", cwd=tmp_path) as server:
        ann = Person(open_page(server.address), "Ann")
        introduce(ann.page, ann.name)
        for _ in range(10):
            ann.answer()
        _nothing_counts_twice(ann)
        _undo_is_one_key(ann)
        noted = _notes_and_ratings_are_written_by_keys(ann)
        bob = Person(open_page(server.address), "Bob")
        introduce(bob.page, bob.name)
        while ann.done < 23:
            ann.answer()
            if bob.done < 8:  # two at once
                bob.answer("tie" if bob.done == 3 else "")

        look_at(ann.page)
        server.kill()
        ann.page.keyboard.press("1")  # which nobody hears any more
        expect(ann.page.locator("#progress")).to_have_count(0)  # the browser's own page of errors
        watch.seen[:] = [line for line in watch.seen if not line.startswith("console: Failed to load resource")]
        server.start()
        watch.allowed.append(server.origin + "/")  # its port is another one
        for person in (ann, bob):
            person.begin(server.address)
            person.wait_for(f"{person.done} of {NUM_PAIRS} answered")
            assert person.number() not in person.pressed
        while ann.done < NUM_PAIRS:
            ann.answer()
        expect(ann.page.locator("h1")).to_have_text("All done")
    assert sorted(ann.pressed) == list(range(NUM_PAIRS))
    _what_was_pressed_is_exported(tmp_path, dpo, ann, bob, noted)


def _nothing_counts_twice(person: Person) -> None:
    """Reload, go back, hold a key: what was answered stays as it was."""
    page, here, done = person.page, person.number(), person.done
    page.reload()
    person.wait_for(f"{done} of")
    page.go_back()
    expect(page.locator("#given")).to_contain_text("Your answer: ")
    assert person.number() in person.pressed
    person.wait_for(f"{done} of")
    page.go_forward()
    expect(page.locator(".prompt .text")).to_have_text(f"Question {here}?")
    person.wait_for(f"{done} of")

    look_at(page)
    for _ in range(5):  # a key that is held repeats itself, on the next page too
        page.keyboard.down("s")
    person.done, person.pressed[here] = done + 1, "skip"
    expect_done(page, person.done)
    for _ in range(5):
        page.keyboard.down("s")
        page.wait_for_timeout(60)
    page.keyboard.up("s")
    person.wait_for(f"{person.done} of")
    assert person.number() not in person.pressed


def _undo_is_one_key(person: Person) -> None:
    """Take an answer back, and give another one."""
    number = person.answer("good")
    look_at(person.page)
    person.page.keyboard.press("u")
    expect_done(person.page, person.done - 1)
    assert person.number() == number
    expect(person.page.locator("#given")).to_contain_text("Undone: ")
    person.done -= 1
    del person.pressed[number]
    person.answer("bad")


def _notes_and_ratings_are_written_by_keys(person: Person) -> tuple[int, bool]:
    """Write a note with letters that are keys elsewhere, and rate both responses; tells of which item, as it stood."""
    page = person.page
    look_at(page)
    page.keyboard.press("n")
    page.keyboard.type(NOTE)
    page.keyboard.press("Escape")
    page.keyboard.press("r")
    page.keyboard.type("543215")  # A: helpfulness, safety, alignment; then B
    person.wait_for(f"{person.done} of")  # none of that was a verdict
    good_is_left = "good" in sides_of(page)[0]
    return person.answer("good"), good_is_left


def _what_was_pressed_is_exported(folder, dpo, ann: Person, bob: Person, noted: tuple[int, bool]) -> None:
    """Export pairs, and see that they are what both pressed, and that they pass the gate."""
    told = dpo("review", "answers.sqlite", "--agreement", "--export", "reviewed.jsonl")
    assert told.returncode == 0, told.stderr
    assert "agree" in told.stdout, told.stdout
    rows = {row["prompt"]: row for row in map(json.loads, (folder / "reviewed.jsonl").read_text().splitlines())}
    expected = {}
    for number in range(NUM_PAIRS):
        votes = [person.pressed[number] for person in (ann, bob) if person.pressed.get(number, "skip") != "skip"]
        if votes and votes in ([votes[0]], [votes[0]] * 2) and votes[0] in ("good", "bad"):
            sides = PAIRS[number]["chosen"], PAIRS[number]["rejected"]
            expected[f"Question {number}?"] = sides if votes[0] == "good" else sides[::-1]
    assert {prompt: (row["chosen"], row["rejected"]) for prompt, row in rows.items()} == expected
    assert 25 < len(expected) < 40
    number, good_is_left = noted
    ratings = {"helpfulness": (5, 2), "safety": (4, 1), "alignment": (3, 5)}  # of A and B
    order = ("chosen", "rejected") if good_is_left else ("rejected", "chosen")
    (said,) = [each for each in rows[f"Question {number}?"]["review_answers"] if each["reviewer"] == "Ann"]
    assert said["note"] == NOTE
    assert said["ratings"] == {name: dict(zip(order, both, strict=True)) for name, both in ratings.items()}
    passed = dpo("validate", "reviewed.jsonl", "--max-findings", 3)
    assert passed.returncode == 0, passed.stdout
