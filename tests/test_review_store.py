"""The store of a review: nothing that was confirmed is lost or overwritten, and no other file is touched."""

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from schemas.errors import DpoError, InputError, UsageError
from views.review.answer import Answer, Verdict
from views.review.begin import Wanted, default_store, open_review
from views.review.order import chosen_keys, items_in_order, shown_first
from views.review.source import iter_items
from views.review.store import Store, read_answers, read_items, read_settings

ROOT = Path(__file__).resolve().parent.parent
PAIRS = [{"prompt": f"Q{n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(6)]
DEFAULTS = Wanted()


@pytest.fixture
def pairs(tmp_path, write_jsonl):
    """Write six pairs."""
    return write_jsonl(tmp_path / "pairs.jsonl", PAIRS)


@pytest.fixture
def store(pairs):
    """Open a review of six pairs, in the order of the file."""
    with closing(open_review(pairs, store_path=None, wanted=Wanted(order="file")).store) as opened:
        yield opened


def answer(store, place, verdict=Verdict.FIRST, reviewer="Ada", **keys):
    return Answer(store.keys[place], reviewer, verdict, shown_first=0, at="2026-01-02T03:04:05.000+00:00", **keys)


def items_of(path):
    left_out = Counter()
    return list(iter_items(path, left_out)), left_out


# Items


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Q", "chosen": "A", "rejected": "B"},
        {"prompt": "Q", "chosen_response": "A", "rejected_response": "B"},
        {
            "context": [{"role": "user", "content": "Q"}],
            "completions": [
                {"rank": 1, "completion": [{"role": "assistant", "content": "B"}]},
                {"rank": 0, "completion": [{"role": "assistant", "content": "A"}]},
            ],
        },
        {
            "chosen": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}],
            "rejected": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "B"}],
        },
        {"context": [{"role": "user", "content": "Q"}], "response1": "B", "response2": "A", "overall_preference": 2},
    ],
    ids=["binary", "old keys", "ranked", "whole conversations", "helpsteer3"],
)
def test_a_pair_has_one_key_in_every_form(tmp_path, write_jsonl, row):
    (item,), _ = items_of(write_jsonl(tmp_path / "pairs.jsonl", [row]))
    (plain,), _ = items_of(write_jsonl(tmp_path / "plain.jsonl", [{"prompt": "Q", "chosen": "A", "rejected": "B"}]))
    assert item.key == plain.key
    assert item.names == ("chosen", "rejected")
    assert [response[0]["content"] for response in item.responses] == ["A", "B"]
    assert item.row == row
    assert item.place == f"{tmp_path}/pairs.jsonl:1"


def test_what_is_judged_makes_the_key(tmp_path, write_jsonl):
    row = {"prompt": "Q", "chosen": "A", "rejected": "B"}
    others = [
        row | {"prompt": "q"},
        row | {"chosen": "B", "rejected": "A"},
        row | {"tools": [{"type": "function"}]},
        row | {"prompt": [{"role": "system", "content": "Q"}]},
    ]
    same = [row | {"chosen_reward": 1.0, "rejected_reward": 0.0, "agent": "a"}]
    items, left_out = items_of(write_jsonl(tmp_path / "pairs.jsonl", [row, *others, *same]))
    assert len({item.key for item in items}) == len(items) == 5
    assert left_out == {"that are there already": 1}


def test_answers_of_two_policies_and_of_one_are_items(tmp_path, write_jsonl):
    compared = [
        {"prompt": "Q", "before": "x", "after": "y", "seed": 0, "before_truncated": False, "after_truncated": False},
        {"prompt": [{"role": "user", "content": "R"}], "before": "x", "after": "x", "seed": 1},
        {"prompt": [{"role": "user", "content": "R"}], "before": "", "after": "z", "seed": 2},
    ]
    items, left_out = items_of(write_jsonl(tmp_path / "samples.jsonl", compared))
    assert [(item.prompt[0]["content"], item.names) for item in items] == [("Q", ("before", "after"))] * 1 + [
        ("R", ("before", "after"))
    ]
    assert left_out == {"with two responses that are the same": 1}

    sampled = {"step": 4, "set": "default", "prompt": "Q", "response": "r", "chosen": "A", "rejected": "B"}
    (item,), _ = items_of(write_jsonl(tmp_path / "run.jsonl", [sampled]))
    assert item.names == ("response",)
    assert item.responses == (({"role": "assistant", "content": "r"},),)


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([], DpoError, "has no rows"),
        ([b"{"], InputError, "odd.jsonl:1"),
        ([{"prompt": "Q"}], InputError, "odd.jsonl:1"),
        ([PAIRS[0], {"prompt": "Q"}], InputError, "odd.jsonl:2"),
        ([{"prompt": "Q", "before": "x", "after": 7}], InputError, "odd.jsonl:1: /after: got 7"),
        ([{"prompt": "Q", "before": "x", "after": "x"}], DpoError, "nothing to judge: 1 row with two responses"),
    ],
)
def test_what_is_nothing_to_judge_is_refused_and_leaves_no_store(tmp_path, write_jsonl, rows, error, message):
    path = write_jsonl(tmp_path / "odd.jsonl", rows)
    with pytest.raises(error, match=message):
        open_review(path, store_path=None, wanted=DEFAULTS)
    assert [each.name for each in tmp_path.iterdir()] == ["odd.jsonl"]


def test_rollouts_are_sent_to_collect_pairs(tmp_path, write_jsonl, rollout):
    path = write_jsonl(tmp_path / "rollouts.jsonl", [rollout()])
    with pytest.raises(InputError, match="make pairs with: dpo collect-pairs"):
        open_review(path, store_path=None, wanted=DEFAULTS)


# Answers


def test_what_stands_is_the_last_answer_that_was_not_undone(store):
    assert store.add_answer(answer(store, 0, note="one"), after=0)
    assert store.add_answer(answer(store, 1, Verdict.TIE), after=0)
    changed = answer(store, 0, Verdict.SECOND, ratings={"safety": (None, 4)}, note="two\nlines", seconds=1.25)
    assert store.add_answer(changed, after=store.revision("Ada", store.keys[0]))
    assert read_answers(store.path) == [answer(store, 1, Verdict.TIE), changed]

    assert [(key, each.number, each.verdict) for key, each in store.standing("Ada").items()] == [
        (store.keys[1], 2, Verdict.TIE),
        (store.keys[0], 3, Verdict.SECOND),
    ]

    assert store.undo("Ada", 3, at="now")
    assert read_answers(store.path) == [answer(store, 0, note="one"), answer(store, 1, Verdict.TIE)]
    assert not store.undo("Ada", 1, at="now"), "event 2 is the last one that stands"
    assert store.undo("Ada", 2, at="now")
    assert store.undo("Ada", 1, at="now")
    assert read_answers(store.path) == []
    assert store.latest("Ada", store.keys[0]) == changed, "an undone answer is still in the log"
    with closing(sqlite3.connect(store.path)) as connection:
        log = connection.execute("SELECT kind, verdict, undoes FROM events ORDER BY number").fetchall()
    assert log == [
        ("answer", "first", None),
        ("answer", "tie", None),
        ("answer", "second", None),
        ("undo", None, 3),
        ("undo", None, 2),
        ("undo", None, 1),
    ]


def test_an_answer_to_what_is_not_there_any_more_is_not_taken(store):
    first = answer(store, 0)
    assert store.add_answer(first, after=0)
    assert not store.add_answer(replace(first, verdict=Verdict.TIE), after=0)
    assert store.undo("Ada", 1, at="now")
    assert not store.add_answer(first, after=1), "an undo came since"
    assert store.add_answer(first, after=2)
    assert store.add_answer(replace(first, reviewer="Bob"), after=0), "somebody else's answers are no matter"


def test_nothing_in_a_store_can_be_changed_or_removed(store):
    store.add_answer(answer(store, 0), after=0)
    with closing(sqlite3.connect(store.path, isolation_level=None)) as connection:
        for statement in (
            "UPDATE events SET verdict = 'second'",
            "DELETE FROM events",
            "UPDATE items SET content = '{}'",
            "DELETE FROM items",
        ):
            with pytest.raises(sqlite3.IntegrityError, match="only added"):
                connection.execute(statement)
    assert len(read_answers(store.path)) == 1


def test_reviewers_in_threads_and_in_two_servers_lose_nothing(store):
    other = Store(store.path)
    taken = Counter()

    def review(opened, name):
        for place in range(len(PAIRS)):
            taken[opened is other, opened.add_answer(answer(opened, place, reviewer=name), after=0)] += 1

    threads = [threading.Thread(target=review, args=(opened, f"R{n}")) for n in range(4) for opened in (store, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other.close()
    assert taken[False, True] + taken[True, True] == 4 * len(PAIRS), "each answer was taken by one of the two"
    assert Counter(each.reviewer for each in read_answers(store.path)) == {f"R{n}": len(PAIRS) for n in range(4)}


WRITER = """
import sys
from pathlib import Path
from views.review.answer import Answer, Verdict
from views.review.store import Store

store = Store(Path(sys.argv[1]))
revision = 0
while True:  # says what is confirmed, until it is killed
    answer = Answer(store.keys[0], "Ada", Verdict.FIRST, 0, note=str(revision), at="now")
    assert store.add_answer(answer, after=revision)
    revision += 1
    print(revision, flush=True)
"""


def test_what_was_confirmed_survives_kill_9(store):
    """SIGKILL while answers are written, several times: all that was confirmed is there."""
    store.close()
    for _ in range(5):
        copy = store.path.with_name("copy.sqlite")
        shutil.copy(store.path, copy)
        writer = subprocess.Popen([sys.executable, "-c", WRITER, copy], cwd=ROOT, stdout=subprocess.PIPE)
        confirmed = 0
        while confirmed < 20:
            confirmed = int(writer.stdout.readline())
        writer.kill()
        rest, _ = writer.communicate()
        confirmed = int(rest.split()[-1]) if rest.split() else confirmed
        assert writer.returncode == -signal.SIGKILL
        with closing(Store(copy)) as again:
            assert again.revision("Ada", again.keys[0]) in (confirmed, confirmed + 1)
            (standing,) = again.standing("Ada").values()
            assert standing.number == again.revision("Ada", again.keys[0])
            assert again.answer(standing.number).note == str(standing.number - 1)
        copy.unlink()


CREATOR = """
import os, signal, sys
from pathlib import Path
from views.review import store as module
from views.review.begin import Wanted, open_review

number = int(sys.argv[2])
statements = module.STATEMENTS

def killing():
    yield from statements[:number]
    os.kill(os.getpid(), signal.SIGKILL)

module.STATEMENTS = killing()
open_review(Path(sys.argv[1]), store_path=None, wanted=Wanted())
"""


@pytest.mark.parametrize("number", [0, 3])
def test_a_store_that_was_killed_while_it_was_made_is_made_again(pairs, number):
    creator = subprocess.run([sys.executable, "-c", CREATOR, pairs, str(number)], cwd=ROOT, check=False)
    assert creator.returncode == -signal.SIGKILL
    with closing(open_review(pairs, store_path=None, wanted=DEFAULTS).store) as store:
        assert len(store.keys) == len(PAIRS)


# The same command again


def test_the_same_command_goes_on(pairs, store):
    store.add_answer(answer(store, 0), after=0)
    for place in (pairs, store.path):
        with closing(open_review(place, store_path=None, wanted=DEFAULTS).store) as again:
            assert again.keys == store.keys
            assert again.reviewers() == {"Ada": 1}
            assert again.settings == store.settings == read_settings(store.path)
    assert read_items(store.path) == items_of(pairs)[0]


def test_a_store_of_other_items_is_refused(tmp_path, pairs, store, write_jsonl):
    store.close()
    write_jsonl(pairs, [PAIRS[0] | {"chosen": "another"}, *PAIRS[1:]])
    with pytest.raises(UsageError, match=r"other items: 1 of its 6 .* dpo review .*pairs.jsonl.review.sqlite"):
        open_review(pairs, store_path=None, wanted=DEFAULTS)
    write_jsonl(pairs, [{"prompt": "new", "chosen": "a", "rejected": "b"}, *reversed(PAIRS)])
    with closing(open_review(pairs, store_path=None, wanted=DEFAULTS).store) as again:
        assert again.keys == store.keys, "rows that were added or moved are no other items"


def test_other_settings_than_it_was_begun_with_are_refused(pairs, store):
    for wanted in (Wanted(seed=1), Wanted(order="random")):
        with pytest.raises(UsageError, match="was begun with --"):
            open_review(pairs, store_path=None, wanted=wanted)
    with pytest.raises(UsageError, match="leave --store out"):
        open_review(store.path, store_path=store.path, wanted=DEFAULTS)


def test_a_higher_limit_adds_items_and_none_changes_nothing(pairs):
    seen = []
    for limit in (2, None, 4, 3, 99):
        with closing(open_review(pairs, store_path=None, wanted=Wanted(limit=limit)).store) as store:
            seen.append(set(store.keys))
    assert [len(keys) for keys in seen] == [2, 2, 4, 4, 6]
    assert seen[0] < seen[2] < seen[4]
    again = open_review(pairs, store_path=pairs.with_name("four.sqlite"), wanted=Wanted(limit=4)).store
    assert set(again.keys) == seen[2], "four at once are the four of two and two"
    again.close()


def test_items_are_added_from_a_file_that_was_sorted_anew(pairs, write_jsonl):
    for rows, limit in ((PAIRS, 2), (PAIRS[::-1], 4)):
        write_jsonl(pairs, rows)
        with closing(open_review(pairs, store_path=None, wanted=Wanted(limit=limit, order="file")).store) as store:
            asked = [store.item(key).prompt[0]["content"] for key in store.keys]
    assert asked == [row["prompt"] for row in (PAIRS[0], PAIRS[1], PAIRS[5], PAIRS[4])]
    with pytest.raises(UsageError, match="to add items, name the file"):
        open_review(store.path, store_path=None, wanted=Wanted(limit=6))


def test_a_limit_takes_the_same_items_of_a_long_file_without_holding_them_all(tmp_path, write_jsonl):
    rows = [{"prompt": f"Q{number}", "chosen": "a", "rejected": "b"} for number in range(200)]
    place = write_jsonl(tmp_path / "long.jsonl", rows)
    keys = [item.key for item in items_of(place)[0]]
    for order in ("file", "random"):
        wanted = Wanted(limit=7, order=order)
        with closing(open_review(place, store_path=tmp_path / order, wanted=wanted).store) as store:
            assert set(store.keys) == set(chosen_keys(keys, limit=7, order=order, seed=0))


def test_an_answer_is_never_written_to_a_file_that_is_gone(store):
    assert store.add_answer(answer(store, 0), after=0)
    store.path.rename(store.path.with_name("moved"))
    with pytest.raises(DpoError, match="was moved or deleted while it was open"):
        store.add_answer(answer(store, 1), after=0)
    store.path.write_bytes(b"another one")
    with pytest.raises(DpoError, match="was moved or deleted while it was open"):
        store.undo("Ada", 1, at="now")
    store.path.with_name("moved").replace(store.path)
    assert store.add_answer(answer(store, 1), after=0), "what was put back is written to again"


def test_ties_of_the_file_are_counted(tmp_path, write_jsonl):
    row = {"context": [{"role": "user", "content": "Q"}], "response1": "B", "response2": "A"}
    rows = [row | {"overall_preference": preference} for preference in (0, 2, 0)]
    items, left_out = items_of(write_jsonl(tmp_path / "pairs.jsonl", rows))
    assert len(items) == 1
    assert left_out == {"in which neither response is the better one": 2}


def test_a_folder_without_a_name_has_a_place_for_answers_or_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert default_store(Path()) == tmp_path.with_name(tmp_path.name + ".review.sqlite")
    with pytest.raises(UsageError, match="--store"):
        default_store(Path("/"))


def test_only_its_own_files_are_opened(tmp_path, pairs):
    foreign = tmp_path / "foreign.sqlite"
    with closing(sqlite3.connect(foreign)) as connection:
        connection.execute("CREATE TABLE t (x)")
    text = tmp_path / "text.sqlite"
    text.write_text("no store at all, but a file of somebody")
    before = [path.read_bytes() for path in (foreign, text)]
    for place, store_path in ((foreign, None), (pairs, foreign), (pairs, text)):
        with pytest.raises(InputError, match="no review store"):
            open_review(place, store_path=store_path, wanted=DEFAULTS)
    for path in (foreign, text, tmp_path / "absent.sqlite"):
        with pytest.raises(InputError):
            read_answers(path)
    assert [path.read_bytes() for path in (foreign, text)] == before
    assert {path.name for path in tmp_path.iterdir()} == {"foreign.sqlite", "text.sqlite", "pairs.jsonl"}


def test_a_store_of_a_later_version_is_refused(store):
    store.close()
    with closing(sqlite3.connect(store.path)) as connection:
        connection.execute("PRAGMA user_version = 2")
    with pytest.raises(InputError, match="format 2, expected 1"):
        read_items(store.path)
    with pytest.raises(InputError, match="format 2, expected 1"):
        Store(store.path)


def test_a_damaged_store_is_told_in_one_sentence(store):
    store.close()
    content = bytearray(store.path.read_bytes())
    content[2000:-100] = b"\xff" * (len(content) - 2100)
    store.path.write_bytes(content)
    with pytest.raises(InputError, match="can't be read"):
        read_answers(store.path)


# Order and sides


def test_sides_and_orders_are_functions_of_seed_item_and_reviewer():
    keys = [f"{n:x}" for n in range(2000)]
    sides = [shown_first(0, key, "Ada") for key in keys]
    assert sides == [shown_first(0, key, "Ada") for key in keys]
    assert abs(sum(sides) - 1000) < 120, "a fair coin: 5 standard deviations are 112"
    for other in ([shown_first(1, key, "Ada") for key in keys], [shown_first(0, key, "Bob") for key in keys]):
        assert abs(sum(one == two for one, two in zip(sides, other, strict=True)) - 1000) < 120
    ada = items_in_order(keys, order="random", seed=0, reviewer="Ada")
    assert sorted(ada) == sorted(keys)
    assert ada != items_in_order(keys, order="random", seed=0, reviewer="Bob")
    assert items_in_order(keys, order="file", seed=0, reviewer="Ada") == keys
    assert chosen_keys(keys, limit=3, order="file", seed=0) == keys[:3]


def test_the_store_has_no_texts_that_sqlite_would_cut(tmp_path, write_jsonl):
    hostile = "a\0b\u202ec\u2028d'); DROP TABLE events; --\x1b[31m" + "\U0001f600" * 10
    path = write_jsonl(
        tmp_path / "pairs.jsonl", [{"prompt": hostile, "chosen": hostile + "1", "rejected": "x" * 2**20}]
    )
    with closing(open_review(path, store_path=None, wanted=DEFAULTS).store) as store:
        store.add_answer(answer(store, 0, note=hostile, reviewer="Zoë 🦊"), after=0)
        (item,), (given,) = read_items(store.path), read_answers(store.path)
    assert item.prompt[0]["content"] == hostile
    assert len(item.responses[1][0]["content"]) == 2**20
    assert (given.note, given.reviewer) == (hostile, "Zoë 🦊")
    assert json.loads(path.read_text())["prompt"] == hostile
