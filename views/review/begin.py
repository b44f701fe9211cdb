"""A review begun from a file, or gone on with: which items it has, and that they are those of the file."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from schemas.errors import DpoError, UsageError
from schemas.streams import STDIN, as_url, place_text
from schemas.terminal import counted, path_text, progress
from views.review.item import Item
from views.review.layout import is_sqlite, is_store
from views.review.order import RANDOM, chosen_keys
from views.review.source import iter_items
from views.review.store import Settings, Store, create_store

SUFFIX = ".review.sqlite"
DEFAULT_SEED = 0


@dataclass(frozen=True)
class Wanted:
    """What the command line says of a review; None is as it was begun, or else the default."""

    limit: int | None = None
    seed: int | None = None
    order: str | None = None


@dataclass(frozen=True)
class Begun:
    """An open review, and what is to be told of how it was opened."""

    store: Store
    notes: tuple[str, ...]


def open_review(place: Path, *, store_path: Path | None, wanted: Wanted) -> Begun:
    """Open the review of a file, or of a store; make it where there is none.

    Raises:
        InputError: the file can't be read, or the store's file is something else.
        UsageError: the store was begun otherwise than is wanted now, or with other items.
        DpoError: the file has nothing to judge, or the store can't be written.
    """
    if is_sqlite(place):
        if store_path is not None:
            raise UsageError(f"{path_text(place)}: is a review already; leave --store out")
        is_store(place)  # or it is refused
        return Begun(_opened(place, wanted, limit=None), ())
    path = store_path or default_store(place)
    if is_store(path):
        return _go_on(place, path, wanted)
    return _begin(place, path, wanted)


def default_store(place: Path) -> Path:
    """Give the path of a file's review: beside it.

    Raises:
        UsageError: it is read from elsewhere.
    """
    if place == STDIN or as_url(place):
        raise UsageError(f"{place_text(place)}: is no file here; name one for the answers with --store")
    return place.with_name(place.name + SUFFIX)


def _begin(place: Path, path: Path, wanted: Wanted) -> Begun:
    order, seed = wanted.order or RANDOM, DEFAULT_SEED if wanted.seed is None else wanted.seed
    left_out: Counter[str] = Counter()
    items = {item.key: (number, item) for number, item in _numbered(place, left_out)}
    if not items:
        raise DpoError(f"{place_text(place)}: nothing to judge: {_left_out_text(left_out)}")
    kept = chosen_keys(items, limit=wanted.limit, order=order, seed=seed)
    settings = Settings(place_text(place), _digest(items), seed, order)
    create_store(path, (items[key] for key in kept), settings)
    notes = [f"left out {_left_out_text(left_out)}"] if left_out else []
    if len(kept) < len(items):
        notes.append(f"{len(kept):,} of {counted(len(items), 'item')} are judged (--limit)")
    return Begun(Store(path), tuple(notes))


def _go_on(place: Path, path: Path, wanted: Wanted) -> Begun:
    """Go on with a store, if its items are still those of the file; a higher limit adds some."""
    items = {item.key: (number, item) for number, item in _numbered(place, Counter())}
    store = _opened(path, wanted, limit=wanted.limit)
    missing = [key for key in store.keys if key not in items]
    if missing:
        store.close()
        raise UsageError(
            f"{path_text(path)}: has answers to other items: {len(missing):,} of its {len(store.keys):,} are not in "
            f"{place_text(place)} (any more); go on with them: dpo review {path_text(path)}, or begin anew with "
            "another file: --store NEW.sqlite"
        )
    num_more = (wanted.limit or 0) - len(store.keys)
    if num_more <= 0:
        return Begun(store, ())
    rest = [key for key in items if key not in set(store.keys)]
    more = chosen_keys(rest, limit=num_more, order=store.settings.order, seed=store.settings.seed)
    store.add_items(items[key] for key in more)
    return Begun(store, (f"added {counted(len(more), 'item')}",) if more else ())


def _opened(path: Path, wanted: Wanted, *, limit: int | None) -> Store:
    """Open a store, unless it was begun with other settings."""
    store = Store(path)
    for name, value in (("seed", wanted.seed), ("order", wanted.order)):
        begun = getattr(store.settings, name)
        if value is not None and value != begun:
            store.close()
            raise UsageError(f"{path_text(path)}: was begun with --{name} {begun}, which it keeps; leave --{name} out")
    return store


def _numbered(place: Path, left_out: Counter[str]) -> Iterator[tuple[int, Item]]:
    """Read the items with their numbers in the file."""
    is_file = place != STDIN and not as_url(place) and place.is_file()
    with progress("reading", total=place.stat().st_size if is_file else None, unit="bytes") as advance:
        yield from enumerate(iter_items(place, left_out, advance), start=1)


def _left_out_text(left_out: Counter[str]) -> str:
    return ", ".join(f"{counted(count, 'row')} {why}" for why, count in left_out.items())


def _digest(keys: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()
