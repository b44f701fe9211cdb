"""How a review store lies on disk: a SQLite file whose items and events are only ever added to.

What people answered is a list of events. An answer that is taken back stays there, and an event that undoes it follows;
what stands is worked out from both. Triggers hold that nothing is changed or removed, whoever writes to the file.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

from schemas.errors import DpoError, InputError
from schemas.terminal import path_text, printable

FORMAT_VERSION = 1
APPLICATION_ID = 0x64706F52
"""By which a file is told from other SQLite files: "dpoR"."""

SQLITE_MAGIC = b"SQLite format 3\x00"
BUSY_SECONDS = 30
"""How long one server waits for another that writes to the same store."""

STATEMENTS = (
    "CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    """
    CREATE TABLE items (
        number  INTEGER PRIMARY KEY,           -- the order of the source
        key     TEXT NOT NULL UNIQUE,
        content TEXT NOT NULL                  -- JSON
    )
    """,
    """
    CREATE TABLE events (
        number      INTEGER PRIMARY KEY AUTOINCREMENT,
        kind        TEXT NOT NULL CHECK (kind IN ('answer', 'undo')),
        item        TEXT NOT NULL REFERENCES items (key),
        reviewer    TEXT NOT NULL,
        at          TEXT NOT NULL,             -- UTC, ISO 8601
        verdict     TEXT,                      -- of an answer, as are those below
        shown_first INTEGER,
        ratings     TEXT,                      -- JSON
        note        TEXT,
        seconds     REAL,
        undoes      INTEGER UNIQUE REFERENCES events (number),
        CHECK ((kind = 'undo') = (undoes IS NOT NULL)),
        CHECK ((kind = 'answer') = (verdict IS NOT NULL))
    )
    """,
    "CREATE INDEX events_of_reviewers ON events (reviewer, item)",
    """
    CREATE VIEW standing AS
        SELECT * FROM events WHERE number IN (
            SELECT max(number) FROM events
            WHERE kind = 'answer' AND number NOT IN (SELECT undoes FROM events WHERE undoes IS NOT NULL)
            GROUP BY reviewer, item
        )
    """,
    "CREATE TRIGGER events_stay BEFORE UPDATE ON events BEGIN SELECT raise(ABORT, 'events are only added'); END",
    "CREATE TRIGGER events_last BEFORE DELETE ON events BEGIN SELECT raise(ABORT, 'events are only added'); END",
    "CREATE TRIGGER items_stay BEFORE UPDATE ON items BEGIN SELECT raise(ABORT, 'items are only added'); END",
    "CREATE TRIGGER items_last BEFORE DELETE ON items BEGIN SELECT raise(ABORT, 'items are only added'); END",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {FORMAT_VERSION}",
)
"""What makes an empty file a store."""


def is_sqlite(path: Path) -> bool:
    """Tell a SQLite file by its first bytes; an absent file is none."""
    try:
        with path.open("rb") as stream:
            return stream.read(len(SQLITE_MAGIC)) == SQLITE_MAGIC
    except OSError:
        return False


def connect(path: Path) -> sqlite3.Connection:
    """Open the file of a store, or make an empty one; what is committed survives a kill and a power cut.

    Raises:
        DpoError: it can't be opened or made.
    """
    try:
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # a commit is on the disk when it returns
        connection.execute("PRAGMA foreign_keys = ON")
    except sqlite3.Error as error:
        raise DpoError(f"{path_text(path)}: can't be opened as a review store: {printable(str(error))}") from error
    return connection


def connect_to_read(path: Path) -> sqlite3.Connection:
    """Open the file of a store for reading, while a server may be writing to it.

    Raises:
        InputError: there is no such file, or it is no review store that this version reads.
    """
    connection = _open_to_read(path)
    try:
        _refuse_foreign(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def is_store(path: Path) -> bool:
    """Tell whether a store was made at a path; a file in which nothing was made yet, as a kill leaves it, is none.

    Raises:
        InputError: something else is there, or it can't be read.
    """
    if not path.exists() or (path.is_file() and not path.stat().st_size):
        return False
    with closing(_open_to_read(path)) as connection:
        if is_empty(connection):
            return False
        _refuse_foreign(connection, path)
    return True


def is_empty(connection: sqlite3.Connection) -> bool:
    """Tell a file in which nothing was made yet."""
    return bool(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0)


def _open_to_read(path: Path) -> sqlite3.Connection:
    if not path.is_file():
        raise InputError(f"{path_text(path)}: no such file; begin a review with: dpo review PAIRS")
    if not is_sqlite(path):
        raise InputError(f"{path_text(path)}: is no review store, which dpo review PAIRS makes")
    try:
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS, isolation_level=None
        )
        connection.row_factory = sqlite3.Row
        connection.execute("SELECT count(*) FROM sqlite_master")
    except sqlite3.Error as error:
        raise InputError(f"{path_text(path)}: can't be read: {printable(str(error))}") from error
    return connection


def _refuse_foreign(connection: sqlite3.Connection, path: Path) -> None:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application != APPLICATION_ID:
        raise InputError(f"{path_text(path)}: is a SQLite file, but no review store, which dpo review PAIRS makes")
    if version != FORMAT_VERSION:
        raise InputError(
            f"{path_text(path)}: is a review store of format {version}, expected {FORMAT_VERSION}; "
            "open it with the version of dpo that made it"
        )
