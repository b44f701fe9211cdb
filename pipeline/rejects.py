"""`--rejects`: the rows that are in no pair, as they were, each with its reason and place."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from pipeline.attrition import Reason
from pipeline.sources import Source
from schemas.atomic import atomic_writer
from schemas.errors import UsageError
from schemas.lines import LineError, decode_strict, numbered_lines, without_margin
from schemas.streams import STDIN, as_url, open_stream, place_text

Rejects = Sequence[tuple[int, int, str, str]]
"""Source, line, reason, what was met; sorted."""


def refuse_unrepeatable(sources: Iterable[Source]) -> None:
    """Tell before the work that an input can't be read a second time, which writing its rejects needs.

    Raises:
        UsageError: an input is stdin or a pipe.
    """
    for source in sources:
        if source.path == STDIN or not (as_url(source.path) or source.path.is_file()):
            raise UsageError(
                f"{place_text(source.path)}: --rejects reads its inputs twice, which a pipe does not allow; "
                "write it to a file first"
            )


def write_rejects(path: Path, sources: Sequence[Source], rejects: Rejects, *, max_line_bytes: int) -> None:
    """Write the rejected rows in the order of the input.

    Raises:
        DpoError: the file can't be written.
        InputError: an input can't be read again.
    """
    waiting = iter(rejects)
    next_reject = next(waiting, None)
    with atomic_writer(path) as output:
        for source in sources:
            if next_reject is None or next_reject[0] != source.number:
                continue
            with open_stream(source.path) as stream:
                for number, content in enumerate(numbered_lines(stream, max_line_bytes), start=1):
                    if next_reject is None or next_reject[0] != source.number:
                        break
                    if number == next_reject[1]:
                        line = b"" if content is None else without_margin(content, number)
                        output.write(_row(source.path, line, *next_reject[1:]))
                        next_reject = next(waiting, None)


def _row(path: Path, content: bytes, line: int, reason: str, detail: str) -> bytes:
    told = {"reason": reason, "detail": detail, "source": f"{place_text(path)}:{line}"}
    if reason == Reason.LINE_TOO_LONG:
        return msgspec.json.encode(told) + b"\n"
    try:
        decode_strict(content)
        return msgspec.json.encode({**told, "row": msgspec.Raw(content)}) + b"\n"
    except LineError:
        return msgspec.json.encode({**told, "text": content.decode("utf-8", "backslashreplace")}) + b"\n"
