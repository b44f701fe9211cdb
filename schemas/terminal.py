"""How every stage writes for people: on stderr, with foreign text made harmless.

Data and machine-readable output belong to stdout; what these functions make goes to stderr.
"""

import contextlib
import errno
import os
import re
import sys
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol, cast

from rich.console import Console

from schemas.secrets import without_logins

MAX_EXCERPT = 60
CI_COMMAND = re.compile(r"##(?=\w*\[)")
MAX_LOOKED_AT = 2000
READER_HAS_GONE = (errno.EPIPE, errno.EIO)
"""Of stderr: `tee` was ended, or the terminal was closed."""


class Advance(Protocol):
    """Reports that `amount` more of the work is done, and `rows` more rows with it."""

    def __call__(self, amount: int, rows: int = 0) -> None: ...


def stderr_console() -> Console:
    """Make a console on stderr that never reads markup, emoji codes or highlights in the text it is given."""
    width = None if sys.stderr.isatty() else 110
    return Console(file=STDERR, stderr=True, markup=False, emoji=False, highlight=False, width=width)


class _Stderr:
    """stderr as it is at each moment. What can't be written there is lost: that is no reason to end the work."""

    def write(self, text: str) -> int:
        """Write as much as can be."""
        with _unheard():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Bring out what was written."""
        with _unheard():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def _stream(self) -> Any:
        return getattr(sys.stderr, "rich_proxied_file", sys.stderr)  # a bar puts a proxy there, which writes here


STDERR = cast("IO[str]", _Stderr())


@contextmanager
def _unheard() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in READER_HAS_GONE:
            with contextlib.suppress(OSError):  # else Python tries again at its end, and changes the exit code
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def stdout_console() -> Console:
    """Make such a console on stdout, for reports that are the result of a command."""
    width = None if sys.stdout.isatty() else 110
    return Console(markup=False, emoji=False, highlight=False, width=width)


def printable(text: str) -> str:
    """Replace control, escape and bidirectional characters, which could drive the reader's terminal."""
    return "".join(
        char if char == " " or unicodedata.category(char)[0] not in "CZ" else _escaped(char) for char in text
    )


def harmless(text: str) -> str:
    """Escape what a terminal or a CI service would obey inside a line: also `##[error]` and its like."""
    return CI_COMMAND.sub(r"#\\x23", printable(text))


def one_line(error: BaseException) -> str:
    """Show what another library's error says on one line, or else its kind."""
    return printable(" ".join(str(error).split())) or type(error).__name__


def reason(error: BaseException) -> str:
    """Say why something can't be read or written, without the path, which is told beside it."""
    return getattr(error, "strerror", None) or one_line(error)


def reason_with_path(error: OSError) -> str:
    """Say why something can't be read or written, and what."""
    place = f"{path_text(Path(os.fsdecode(error.filename)))}: " if isinstance(error.filename, str | bytes) else ""
    return place + reason(error)


def path_text(path: Path) -> str:
    """Show a path, or a URL without its password, on one line, whatever its bytes are."""
    return printable(without_logins(os.fsencode(path).decode("utf-8", "backslashreplace")))


def counted(number: int, noun: str) -> str:
    """Put a number before a noun: 1 pair, 1,354 pairs."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def excerpt(value: object) -> str:
    """Show a foreign value, text in quotes, in at most `MAX_EXCERPT` harmless characters."""
    return bare_excerpt(repr(value) if isinstance(value, str) else str(value))


def bare_excerpt(text: str) -> str:
    """Show foreign text, without quotes, in at most `MAX_EXCERPT` harmless characters."""
    text = printable(without_logins(text[:MAX_LOOKED_AT])[: MAX_EXCERPT + 1])
    return text if len(text) <= MAX_EXCERPT else text[: MAX_EXCERPT - 1] + "…"


@contextmanager
def progress(description: str, *, total: int | None, unit: str, shown: bool = True) -> Iterator[Advance]:
    """Show a progress bar on stderr while the block runs; nothing where stderr is not a terminal."""
    keeps_all = "PRE_COMMIT" in os.environ  # what was drawn and taken away again too
    if not shown or keeps_all or not sys.stderr.isatty():
        yield lambda amount, rows=0: None
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    started = time.monotonic()
    num_rows = 0
    with Progress(*columns, console=stderr_console(), transient=True) as bar:
        task = bar.add_task(description, total=total, rate="")

        def advance(amount: int, rows: int = 0) -> None:
            nonlocal num_rows
            num_rows += rows
            rate = speed_text(bar.tasks[0].speed, unit)
            if num_rows:
                rate += f" {num_rows / (time.monotonic() - started):,.0f} rows/s"
            bar.update(task, advance=amount, rate=rate)

        yield advance


def speed_text(speed: float | None, unit: str) -> str:
    """Show a speed, bytes in megabytes (10^6)."""
    if speed is None:
        return ""
    return f"{speed / 1e6:,.1f} MB/s" if unit == "bytes" else f"{speed:,.0f} {unit}/s"


def _escaped(char: str) -> str:
    return " " if unicodedata.category(char) == "Zs" else char.encode("unicode_escape").decode("ascii")
