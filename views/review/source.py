"""The items of a file: pairs in any form that dpo train reads, answers of two policies, answers of one.

Pairs give their chosen response first, samples the answer before training; on the page that order is not told.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from schemas.errors import DpoError, InputError
from schemas.lines import LineError
from schemas.preference import Message, PreferencePair, pairs_of_rows
from schemas.rows import NumberedRow, read_rows
from schemas.streams import place_text
from schemas.validation import shape_of
from views.review.item import Item

COMPARED = ("before", "after")
"""The answers of two policies in a row of dpo eval --generate."""
SAMPLED = {"step", "set", "prompt", "response"}
"""Keys by which the samples of a run are told from pairs, which have chosen and rejected too."""

Messages = tuple[Message, ...]


def iter_items(
    path: Path, left_out: Counter[str], advance: Callable[[int], None] = lambda amount: None
) -> Iterator[Item]:
    """Yield each item of a file once; what is left out is counted under a reason.

    Raises:
        InputError: the file can't be read, or holds something else.
        DpoError: it holds nothing.
    """
    seen = set()
    for item in _all_items(path, left_out, advance):
        if len(item.responses) == 2 and item.responses[0] == item.responses[1]:
            left_out["with two responses that are the same"] += 1
        elif item.key in seen:
            left_out["that are there already"] += 1
        else:
            seen.add(item.key)
            yield item


def key_of(prompt: Messages, tools: tuple[dict[str, Any], ...], responses: tuple[Messages, ...]) -> str:
    """Give the key of an item: a digest of what is judged, wherever it is read from."""
    content = msgspec.json.encode([prompt, tools, responses], order="sorted")
    return hashlib.sha256(content).hexdigest()[:32]


def _all_items(path: Path, left_out: Counter[str], advance: Callable[[int], None]) -> Iterator[Item]:
    rows = read_rows(path, advance)
    first = next(rows, None)
    if first is None:
        raise DpoError(f"{place_text(path)}: has no rows; make pairs with: dpo collect-pairs ROLLOUTS")
    row = first[1]
    if isinstance(row, dict) and row.keys() >= {"prompt", *COMPARED}:
        yield from _samples(first, rows, shown=place_text(path), names=COMPARED)
    elif isinstance(row, dict) and (row.keys() >= SAMPLED or row.keys() == {"prompt", "response"}):
        yield from _samples(first, rows, shown=place_text(path), names=("response",))
    else:
        yield from _pairs(first, rows, left_out, shown=place_text(path))


def _pairs(first: NumberedRow, rows: Iterator[NumberedRow], left_out: Counter[str], *, shown: str) -> Iterator[Item]:
    taken: list[object] = [None]  # the row that the pair was made of, which is always the last one taken

    def remembered() -> Iterator[NumberedRow]:
        for number, row in _with(first, rows):
            taken[0] = row
            yield number, row

    def count_tie() -> None:
        left_out["in which neither response is the better one"] += 1

    for pair in pairs_of_rows(remembered(), shown=shown, count_tie=count_tie):
        assert isinstance(taken[0], dict)
        yield _item_of_pair(pair, taken[0])


def _item_of_pair(pair: PreferencePair, row: dict[str, Any]) -> Item:
    responses = (pair.chosen, pair.rejected)
    return Item(
        key=key_of(pair.prompt, pair.tools, responses),
        place=pair.source,
        prompt=pair.prompt,
        tools=pair.tools,
        responses=responses,
        names=("chosen", "rejected"),
        row=row,
    )


def _samples(first: NumberedRow, rows: Iterator[NumberedRow], *, shown: str, names: tuple[str, ...]) -> Iterator[Item]:
    for number, row in _with(first, rows):
        place = f"{shown}:{number}"
        try:
            yield _item_of_sample(row, place=place, names=names)
        except LineError as error:
            raise InputError(f"{place}: {error}; write the samples again with: dpo eval --generate") from None


def _item_of_sample(row: object, *, place: str, names: tuple[str, ...]) -> Item:
    if isinstance(row, LineError):
        raise row
    if not isinstance(row, dict):
        raise LineError(f"got {shape_of(row)}, expected an object with {', '.join(('prompt', *names))}")
    prompt = _messages(row.get("prompt"), "user", "/prompt")
    responses = tuple(_messages(row.get(name), "assistant", f"/{name}") for name in names)
    return Item(
        key=key_of(prompt, (), responses),
        place=place,
        prompt=prompt,
        tools=(),
        responses=responses,
        names=names,
        row=row,
    )


def _messages(value: object, role: str, pointer: str) -> Messages:
    if isinstance(value, str):
        return ({"role": role, "content": value},)
    try:
        return msgspec.convert(value, type=Messages)
    except msgspec.ValidationError:
        raise LineError(f"{pointer}: got {shape_of(value)}, expected text or messages") from None


def _with(first: NumberedRow, rows: Iterator[NumberedRow]) -> Iterator[NumberedRow]:
    yield first
    yield from rows
