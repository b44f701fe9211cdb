"""Who sees what in which order: functions of the seed, so that nothing of it need be remembered.

Which response stands left is drawn for each item and reviewer anew. So is the order of the items, unless it is that of
the file; which items are judged at all is the same for everyone, and fewer of them are always among more of them.
"""

import hashlib
from collections.abc import Iterable, Sequence

FILE, RANDOM = "file", "random"


def shown_first(seed: int, key: str, reviewer: str) -> int:
    """Say which of two responses stands left: 0 or 1."""
    return _draw("left", seed, key, reviewer)[0] & 1


def items_in_order(keys: Sequence[str], *, order: str, seed: int, reviewer: str) -> list[str]:
    """Put items in the order in which a reviewer meets them."""
    if order == FILE:
        return list(keys)
    return sorted(keys, key=lambda key: _draw("order", seed, key, reviewer))


def chosen_keys(keys: Iterable[str], *, limit: int | None, order: str, seed: int) -> list[str]:
    """Choose the items that are judged; which, does not depend on the reviewer."""
    kept = list(keys) if order == FILE else sorted(keys, key=lambda key: _draw("limit", seed, key, ""))
    return kept[:limit]


def _draw(what: str, seed: int, key: str, reviewer: str) -> bytes:
    return hashlib.sha256(f"{what}\0{seed}\0{key}\0{reviewer}".encode()).digest()
