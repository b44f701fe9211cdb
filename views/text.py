"""Foreign text on a page: escaped, with what can't be seen made visible, and never longer than a browser bears."""

import re
import unicodedata
from typing import Any

from markupsafe import Markup, escape

SHOWN_CHARACTERS = 1_200
"""Of a text before a fold that opens at a click."""

NOTHING = "\N{EN DASH}"
"""Where there is no number."""

MOST_CHARACTERS = 20_000
"""Of a text on a page at all; the file that it is from has the rest."""

PLAIN_CONTROLS = "\n\t"

UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a file can't hold, or what would turn the text beside it around."""


def visible(text: str, *, shown: int = SHOWN_CHARACTERS, most: int = MOST_CHARACTERS) -> Markup:
    """Show a text: `shown` characters at once, up to `most` behind a fold, then how many are missing."""
    if len(text) <= shown:
        return _block(text, "text")
    rest = text[shown:most]
    missing = len(text) - most
    note = Markup('<p class="cut">… and {:,} more characters</p>').format(missing) if missing > 0 else Markup()
    fold = Markup('<details class="fold"><summary>{:,} more characters</summary>{}{}</details>')
    return _block(text[:shown], "text") + fold.format(len(text) - shown, _block(rest, "text"), note)


def marked(text: str) -> Markup:
    """Escape a text, with each character that can't be seen, or that changes how others are, shown by its number.

    Control characters, and the format characters of Unicode (direction, joiners, tags, invisible ones), save the joiner
    inside of emoji and of scripts that need it.
    """
    if text.isascii() and text.isprintable():
        return escape(text)
    return Markup("").join(escape(char) if _is_plain(char) else _odd(char) for char in text)


def inert(value: Any) -> Any:
    """Take out of any text that a template shows what no page may have, attributes and titles included."""
    return UNFIT.sub("\N{REPLACEMENT CHARACTER}", value) if type(value) is str else value


def _block(text: str, kind: str) -> Markup:
    return Markup('<div class="{}" dir="auto">{}</div>').format(kind, marked(text))


def _is_plain(char: str) -> bool:
    if char in PLAIN_CONTROLS or char in "\u200c\u200d\ufe0e\ufe0f":
        return True
    return unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")


def _odd(char: str) -> Markup:
    name = unicodedata.name(char, "control character")
    return Markup('<span class="odd" title="{}">U+{:04X}</span>').format(name, ord(char))


def number(value: float | None, digits: int = 3) -> str:
    """Show a number with so many significant digits; a dash where there is none."""
    if value is None or value != value:
        return NOTHING
    if abs(value) >= 1e15:
        return f"{float(value):.{digits}g}"
    if isinstance(value, int) or (float(value).is_integer() and abs(value) >= 1000):
        return f"{int(value):,}"
    return f"{value:,.{digits}g}" if abs(value) < 1000 else f"{value:,.0f}"


def count(value: int) -> str:
    """Show a count with separators."""
    return f"{value:,}"


def percent(share: float | None, digits: int = 1) -> str:
    """Show a share of one as per cent; a dash where there is none."""
    return NOTHING if share is None or share != share else f"{share:.{digits}%}"
