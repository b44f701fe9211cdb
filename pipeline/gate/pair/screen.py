"""A first look at a text, which tells innocent ones fast: rules search in those alone that don't pass."""

from collections.abc import Callable

import jsonschema_rs

Screen = Callable[[str], bool]


def screen(*patterns: str) -> Screen:
    """Make a function that says whether one of some patterns is in a text.

    They are searched by Rust's regex crate, which is at hand as JSON Schema's `pattern`. It compares up to 32 bytes at
    once where it can tell by a few literals that there is no match, and needs 0.1 microseconds for 3 kB; `re` and `in`
    need 2 to 15. It can't with sets of more than ten characters, so those are to be cut. Patterns mean the same to
    both if they have no backslash but before what is to be taken literally.
    """
    parts = [{"pattern": pattern} for pattern in patterns]
    schema = parts[0] if len(parts) == 1 else {"anyOf": parts}
    return jsonschema_rs.Draft202012Validator(schema, pattern_options=jsonschema_rs.RegexOptions()).is_valid


def sets_of(characters: str, size: int = 10) -> tuple[str, ...]:
    """Write patterns for any of some characters, each of a size at which the search is fast."""
    pieces = (characters[start : start + size] for start in range(0, len(characters), size))
    return tuple("[" + "".join(f"\\u{ord(character):04x}" for character in piece) + "]" for piece in pieces)
