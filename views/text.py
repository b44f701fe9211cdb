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

UNUSUAL = re.compile(r"([^\n\t -~])\1*")
JOINERS = "\u200c\u200d"
SELECTORS = re.compile("[\u180b-\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")
"""Of variants of the character before; in a row they could carry a text of their own."""
KEYCAPS = "0123456789#*"
BLANK = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
"""Letters and signs by their category, of which nothing is to be seen."""

OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]")  # nothing in it could be markup

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

    Control characters, the format characters of Unicode (direction, joiners, tags, invisible ones) and blank letters;
    save joiners between characters of emoji and of scripts that need them, and one selector of a variant behind such.
    """
    parts, start = [], 0
    for match in UNUSUAL.finditer(text):
        if not _is_plain(text, *match.span()):
            parts += [escape(text[start : match.start()]), _odd(match[1], len(match[0]))]
            start = match.end()
    return Markup("").join([*parts, escape(text[start:])])


def with_options(text: str) -> Markup:
    """Escape a text as `marked` does, and keep the options in it whole: a line may end behind their dashes."""
    return Markup(OPTION.sub(r"<code>\g<0></code>", str(marked(text))))


def inert(value: Any) -> Any:
    """Take out of any text that a template shows what no page may have, attributes and titles included."""
    return UNFIT.sub("\N{REPLACEMENT CHARACTER}", value) if type(value) is str else value


def _block(text: str, kind: str) -> Markup:
    return Markup('<div class="{}" dir="auto">{}</div>').format(kind, marked(text))


def _is_plain(text: str, start: int, end: int) -> bool:
    """Say whether a character that is not of ASCII, once or several times, can be shown as it is."""
    char, before, behind = text[start], text[max(start - 1, 0) : start], text[end : end + 1]
    if char in JOINERS:
        is_between = before > "\x7f" and behind > "\x7f" and before not in JOINERS and behind not in JOINERS
        return is_between and end == start + 1
    if SELECTORS.match(char):
        is_seen = before > "\x7f" and before not in JOINERS and not SELECTORS.match(before)
        is_keycap = char in "\ufe0e\ufe0f" and before != "" and before in KEYCAPS
        return (is_seen or is_keycap) and end == start + 1
    return char not in BLANK and unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")


def _odd(char: str, times: int) -> Markup:
    name = unicodedata.name(char, "control character")
    often = f" \N{MULTIPLICATION SIGN}{times:,}" if times > 1 else ""
    return Markup('<span class="odd" title="{}">U+{:04X}{}</span>').format(name, ord(char), often)


def number(value: float | None, digits: int = 3) -> str:
    """Show a number with so many significant digits; a dash where there is none."""
    if value is None or value != value:
        return NOTHING
    if abs(value) >= 1e15:
        return f"{float(value):.{digits}g}"
    if isinstance(value, int) or (float(value).is_integer() and abs(value) >= 1000):
        return f"{int(value):,}"
    shown = f"{value:,.{digits}g}"
    return f"{value:,.0f}" if abs(value) >= 1000 or "e+" in shown else shown  # 999.9 is no 1e+03


def count(value: int) -> str:
    """Show a count with separators."""
    return f"{value:,}"


def percent(share: float | None, digits: int = 1) -> str:
    """Show a share of one as per cent; a dash where there is none."""
    return NOTHING if share is None or share != share else f"{share:.{digits}%}"
