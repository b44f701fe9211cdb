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
        if wanted.limit is not None:
            raise UsageError(f"{path_text(place)}: is a review; to add items, name the file that it is of with --limit")
        return Begun(_opened(place, wanted), ())
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
    named = place if place.name not in ("", "..") else place.resolve()  # a folder may be "."
    if not named.name:
        raise UsageError(f"{place_text(place)}: has no name; name a file for the answers with --store")
    return named.with_name(named.name + SUFFIX)


def _begin(place: Path, path: Path, wanted: Wanted) -> Begun:
    order, seed = wanted.order or RANDOM, DEFAULT_SEED if wanted.seed is None else wanted.seed
    left_out: Counter[str] = Counter()
    keys: list[str] = []
    kept = _chosen(_numbered(place, left_out, keys), limit=wanted.limit, order=order, seed=seed)
    if not keys:
        raise DpoError(f"{place_text(place)}: nothing to judge: {_left_out_text(left_out)}")
    create_store(path, kept, Settings(place_text(place), _digest(keys), seed, order))
    notes = [f"left out {_left_out_text(left_out)}"] if left_out else []
    if len(kept) < len(keys):
        notes.append(f"{len(kept):,} of {counted(len(keys), 'item')} are to be judged (--limit)")
    return Begun(Store(path), tuple(notes))


def _go_on(place: Path, path: Path, wanted: Wanted) -> Begun:
    """Go on with a store, if its items are still those of the file; a higher limit adds some."""
    store = _opened(path, wanted)
    try:
        more = _items_to_add(place, store, limit=wanted.limit or 0)
        if more:
            store.add_items(more)
    except BaseException:
        store.close()
        raise
    return Begun(store, (f"added {counted(len(more), 'item')}",) if more else ())


def _items_to_add(place: Path, store: Store, *, limit: int) -> list[tuple[int, Item]]:
    """Read which items a store lacks to have as many as are wanted.

    Raises:
        UsageError: the file has lost some of the store's items.
    """
    keys: list[str] = []
    known, settings = set(store.keys), store.settings
    rest = ((number, item) for number, item in _numbered(place, Counter(), keys) if item.key not in known)
    more = _chosen(rest, limit=max(0, limit - len(known)), order=settings.order, seed=settings.seed)
    missing = known.difference(keys)
    if missing:
        raise UsageError(
            f"{path_text(store.path)}: has answers to other items: {len(missing):,} of its {len(known):,} are not in "
            f"{place_text(place)} (any more); go on with them: dpo review {path_text(store.path)}, or begin anew with "
            "another file: --store NEW.sqlite"
        )
    return more


def _chosen(
    numbered: Iterable[tuple[int, Item]], *, limit: int | None, order: str, seed: int
) -> list[tuple[int, Item]]:
    """Choose the items that are judged; of a large file, few more than those are in memory at once."""
    kept: dict[str, tuple[int, Item]] = {}
    for number, item in numbered:
        kept[item.key] = number, item
        if limit is not None and len(kept) > 2 * limit:
            kept = {key: kept[key] for key in chosen_keys(kept, limit=limit, order=order, seed=seed)}
    return [kept[key] for key in chosen_keys(kept, limit=limit, order=order, seed=seed)]


def _opened(path: Path, wanted: Wanted) -> Store:
    """Open a store, unless it was begun with other settings."""
    store = Store(path)
    for name, value in (("seed", wanted.seed), ("order", wanted.order)):
        begun = getattr(store.settings, name)
        if value is not None and value != begun:
            store.close()
            raise UsageError(f"{path_text(path)}: was begun with --{name} {begun}, which it keeps; leave --{name} out")
    return store


def _numbered(place: Path, left_out: Counter[str], keys: list[str]) -> Iterator[tuple[int, Item]]:
    """Read the items with their numbers in the file; `keys` gets those of all."""
    is_file = place != STDIN and not as_url(place) and place.is_file()
    with progress("reading", total=place.stat().st_size if is_file else None, unit="bytes") as advance:
        for number, item in enumerate(iter_items(place, left_out, advance), start=1):
            keys.append(item.key)
            yield number, item


def _left_out_text(left_out: Counter[str]) -> str:
    return ", ".join(f"{counted(count, 'row')} {why}" for why, count in left_out.items())


def _digest(keys: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()
