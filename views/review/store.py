"""What people answered, on disk: every answer is committed before its page is sent, and nothing is overwritten.

The state of a review is this file alone, so the same command goes on with it after a kill, and two servers on one file
only wait for one another. `read_items` and `read_answers` are for all who only look.
"""

import sqlite3
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import msgspec

from schemas.errors import DpoError, InputError
from schemas.terminal import path_text, printable
from views.review.answer import Answer, Verdict
from views.review.item import Item
from views.review.layout import STATEMENTS, connect, connect_to_read, is_empty

ANSWERS = "SELECT item, reviewer, verdict, shown_first, ratings, note, seconds, at FROM {table}"


@dataclass(frozen=True)
class Settings:
    """What a review was begun with, and keeps."""

    source: str  # the file of the items, as it was named
    source_digest: str  # of the keys of all items of the file
    seed: int
    order: str  # file or random


class Standing(NamedTuple):
    """What of an answer that stands is needed to say how far someone is."""

    number: int  # of its event
    verdict: Verdict
    shown_first: int
    seconds: float


def read_items(path: Path) -> list[Item]:
    """Read the items of a review, in the order of the file that they are from.

    Raises:
        InputError: it can't be read, or is no review store.
    """
    with _reading(path) as connection:
        return [_item(row["content"]) for row in connection.execute("SELECT content FROM items ORDER BY number")]


def read_answers(path: Path) -> list[Answer]:
    """Read the answer that stands of each reviewer to each item, oldest first; undone ones are left out.

    Raises:
        InputError: it can't be read, or is no review store.
    """
    with _reading(path) as connection:
        return [_answer(row) for row in connection.execute(ANSWERS.format(table="standing") + " ORDER BY number")]


def read_settings(path: Path) -> Settings:
    """Read what a review was begun with.

    Raises:
        InputError: it can't be read, or is no review store.
    """
    with _reading(path) as connection:
        return _settings(connection)


class Store:
    """An open store; any thread may use it."""

    def __init__(self, path: Path) -> None:
        """Open a store that is there.

        Raises:
            InputError: it is no review store.
            DpoError: it can't be opened.
        """
        with _reading(path) as connection:  # before anything is done to a file that may be something else
            self.settings = _settings(connection)
            self.keys = _keys(connection)
        self.path = path
        self._lock = threading.Lock()
        self._connection = connect(path)
        self._file = _file_at(path)

    def close(self) -> None:
        """Close the file; all of it is in one file then, if no one else has it open."""
        with self._lock:
            self._connection.close()

    def item(self, key: str) -> Item:
        """Give the item of a key that the store has."""
        with self._asking():
            row = self._connection.execute("SELECT content FROM items WHERE key = ?", (key,)).fetchone()
            return _item(row["content"])

    def standing(self, reviewer: str) -> dict[str, Standing]:
        """Give what stands of a reviewer's answers, by the item's key, oldest first."""
        query = (
            "SELECT item, number, verdict, shown_first, seconds FROM events WHERE reviewer = :reviewer "
            "AND kind = 'answer' AND number NOT IN "
            "(SELECT undoes FROM events WHERE reviewer = :reviewer AND kind = 'undo') ORDER BY number DESC"
        )
        with self._asking():
            rows = self._connection.execute(query, {"reviewer": reviewer}).fetchall()
        newest: dict[str, Standing] = {}
        for key, number, verdict, first, seconds in rows:
            newest.setdefault(key, Standing(number, Verdict(verdict), first, seconds))
        return dict(reversed(newest.items()))

    def latest(self, reviewer: str, item: str) -> Answer | None:
        """Give the last answer of a reviewer to an item, whether it stands or was undone."""
        query = ANSWERS.format(table="events") + " WHERE kind = 'answer' AND reviewer = ? AND item = ?"
        with self._asking():
            row = self._connection.execute(f"{query} ORDER BY number DESC LIMIT 1", (reviewer, item)).fetchone()
            return None if row is None else _answer(row)

    def answer(self, number: int) -> Answer:
        """Give the answer that is this event of the log."""
        with self._asking():
            return _answer(
                self._connection.execute(ANSWERS.format(table="events") + " WHERE number = ?", (number,)).fetchone()
            )

    def revision(self, reviewer: str, item: str) -> int:
        """Give the number of the last event of a reviewer on an item; 0 where there is none."""
        with self._asking():
            return self._revision(reviewer, item)

    def item_of(self, number: int) -> str:
        """Give the key of the item that an event of the log is about."""
        with self._asking():
            return str(self._connection.execute("SELECT item FROM events WHERE number = ?", (number,)).fetchone()[0])

    def reviewers(self) -> dict[str, int]:
        """Give all who have answered, with the number of their standing answers, in the order of their names."""
        query = "SELECT reviewer, count(*) FROM standing GROUP BY reviewer ORDER BY reviewer"
        with self._asking():
            return {row[0]: row[1] for row in self._connection.execute(query)}

    def add_answer(self, answer: Answer, *, after: int) -> bool:
        """Add an answer, unless something has happened since `after`, the revision that the reviewer saw.

        When this returns, the answer is on the disk. False says that the form was sent already, and nothing was added.
        """
        with self._writing():
            if self._revision(answer.reviewer, answer.item) != after:
                return False
            self._connection.execute(
                "INSERT INTO events (kind, item, reviewer, at, verdict, shown_first, ratings, note, seconds) "
                "VALUES ('answer', ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    answer.item,
                    answer.reviewer,
                    answer.at,
                    answer.verdict.value,
                    answer.shown_first,
                    msgspec.json.encode(answer.ratings).decode(),
                    answer.note,
                    answer.seconds,
                ),
            )
        return True

    def undo(self, reviewer: str, number: int, *, at: str) -> bool:
        """Take back the last standing answer of a reviewer; False where that is not event `number` any more."""
        with self._writing():
            query = "SELECT number, item FROM standing WHERE reviewer = ? ORDER BY number DESC LIMIT 1"
            last = self._connection.execute(query, (reviewer,)).fetchone()
            if last is None or last["number"] != number:
                return False
            self._connection.execute(
                "INSERT INTO events (kind, item, reviewer, at, undoes) VALUES ('undo', ?, ?, ?, ?)",
                (last["item"], reviewer, at, number),
            )
        return True

    def add_items(self, items: Iterable[tuple[int, Item]]) -> None:
        """Add items with their numbers in the source; behind all others if those are taken, as it was sorted anew."""
        numbered = sorted(items, key=itemgetter(0))
        with self._writing():
            taken = {row[0] for row in self._connection.execute("SELECT number FROM items")}
            if not taken.isdisjoint(number for number, _ in numbered):
                numbered = [(max(taken) + place, item) for place, (_, item) in enumerate(numbered, start=1)]
            _insert_items(self._connection, numbered)
            self.keys = _keys(self._connection)

    def _revision(self, reviewer: str, item: str) -> int:
        query = "SELECT coalesce(max(number), 0) FROM events WHERE reviewer = ? AND item = ?"
        return int(self._connection.execute(query, (reviewer, item)).fetchone()[0])

    @contextmanager
    def _asking(self) -> Iterator[None]:
        with self._lock, _damage_told(self.path):
            yield

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._lock, _transaction(self._connection, self.path):
            if _file_at(self.path) != self._file:  # SQLite would write on to the file that has no name any more
                raise DpoError(
                    f"{path_text(self.path)}: was moved or deleted while it was open, so answers would be lost; put it "
                    "back, or end this review and begin another one"
                )
            yield


def create_store(path: Path, items: Iterable[tuple[int, Item]], settings: Settings) -> None:
    """Make a store of numbered items; after a kill there is all of it or nothing.

    Raises:
        DpoError: it can't be written, or is there.
    """
    with closing(connect(path)) as connection, _transaction(connection, path):
        if not is_empty(connection):
            raise DpoError(f"{path_text(path)}: was made by another program at this moment; the same command goes on")
        for statement in STATEMENTS:
            connection.execute(statement)
        connection.executemany(
            "INSERT INTO settings VALUES (?, ?)", [(name, str(value)) for name, value in asdict(settings).items()]
        )
        _insert_items(connection, items)


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(connect_to_read(path)) as connection, _damage_told(path):
        yield connection


@contextmanager
def _damage_told(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, msgspec.MsgspecError, KeyError, ValueError) as error:
        raise InputError(f"{path_text(path)}: can't be read, it is damaged: {printable(str(error))}") from error


def _file_at(path: Path) -> tuple[int, int] | None:
    """Tell a file from any other one, also from one of its name; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


@contextmanager
def _transaction(connection: sqlite3.Connection, path: Path) -> Iterator[None]:
    """Commit what the block writes, or none of it."""
    try:
        connection.execute("BEGIN IMMEDIATE")  # waits here for another writer, never in the middle
        try:
            yield
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    except sqlite3.Error as error:
        raise DpoError(f"{path_text(path)}: can't be written: {printable(str(error))}") from error


def _insert_items(connection: sqlite3.Connection, items: Iterable[tuple[int, Item]]) -> None:
    encode = msgspec.json.Encoder().encode
    rows = ((number, item.key, encode(item).decode()) for number, item in items)
    connection.executemany("INSERT INTO items (number, key, content) VALUES (?, ?, ?)", rows)


def _keys(connection: sqlite3.Connection) -> tuple[str, ...]:
    return tuple(row[0] for row in connection.execute("SELECT key FROM items ORDER BY number"))


def _settings(connection: sqlite3.Connection) -> Settings:
    told = {row[0]: row[1] for row in connection.execute("SELECT name, value FROM settings")}
    return Settings(told["source"], told["source_digest"], int(told["seed"]), told["order"])


def _item(content: str) -> Item:
    return msgspec.json.decode(content, type=Item)


def _answer(row: sqlite3.Row) -> Answer:
    return Answer(
        item=row["item"],
        reviewer=row["reviewer"],
        verdict=Verdict(row["verdict"]),
        shown_first=row["shown_first"],
        ratings=msgspec.json.decode(row["ratings"], type=dict[str, tuple[int | None, ...]]),
        note=row["note"],
        seconds=row["seconds"],
        at=row["at"],
    )
