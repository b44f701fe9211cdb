"""Two texts side by side with the words marked that differ, in bounded time and memory whatever the texts are.

Words are found by their characters; of scripts that put no spaces between words, each character counts as one (with
the marks on it), and an emoji of several characters stays whole. What both texts have is their longest common
subsequence: computed for all words of one text at once, with a bit for each (Hyyro, Bit-Parallel LCS-length
Computation Revisited, 2004), which is exact, and as fast for unlike texts as for similar ones.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from markupsafe import Markup

from views.text import MOST_CHARACTERS, SHOWN_CHARACTERS, marked, visible

MOST_COMPARED = 400_000
"""Characters of a text whose words are looked for at all."""
MOST_CELLS = 150_000_000
"""Words of one text times words of the other, beginning and end in common aside: a tenth of a second, 20 MB."""
LEAST_IN_COMMON = 0.05
"""Share of the characters; below it nearly all would be marked, which shows nothing."""

SPACELESS = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u0f00-\u0fff"  # Tibetan
    "\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff"  # Myanmar
    "\u1780-\u17ff"  # Khmer
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3038-\u303b\u3041-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff66-\uff9f\U0001b000-\U0001b16f\U00020000-\U0003fffd"  # Han and kana
)
FIRST_MARK, LAST_MARK = 0x300, 0x1E943
JOINED = "\u200d."  # zero width joiner and what it joins
TAIL = "\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f\ufe00-\ufe0f\U000e0100-\U000e01ef"  # skin, flags, variants

Token = str
Run = tuple[bool, str]
"""Whether both texts have it, and the text."""


@dataclass(frozen=True)
class WordDiff:
    """Two texts as blocks of a page, and a note where they are not marked as one might expect."""

    before: Markup  # what only this one has is in <del class="drop">
    after: Markup  # what only this one has is in <ins class="add">
    note: str = ""


def word_diff(
    before: str, after: str, /, *, shown: int = SHOWN_CHARACTERS, most: int = MOST_CHARACTERS, names: str = "texts"
) -> WordDiff:
    """Mark in two texts the words that the other one has not; both are folded and cut as `visible` does it.

    Args:
        before: The one whose own words are marked as dropped.
        after: The one whose own words are marked as added.
        shown: Characters before the fold.
        most: Characters at all.
        names: What the texts are called in notes.
    """
    if before == after:
        return _unmarked(before, after, shown, most, f"The {names} are the same.")
    if max(len(before), len(after)) > MOST_COMPARED:
        return _unmarked(before, after, shown, most, f"The {names} are too long to be compared word by word.")
    runs = compared(words(before), words(after))
    if runs is None:
        return _unmarked(before, after, shown, most, f"The {names} are too long to be compared word by word.")
    in_common = sum(len(text.strip()) for is_common, text in runs[0] if is_common)
    lengths = len(before.strip()), len(after.strip())
    if min(lengths) and in_common < LEAST_IN_COMMON * max(lengths):
        return _unmarked(before, after, shown, most, f"The {names} have hardly a word in common.")
    return WordDiff(_block(runs[0], "del", "drop", shown, most), _block(runs[1], "ins", "add", shown, most))


def words(text: str) -> list[Token]:
    """Cut a text into words, spaces and single signs; joined together they are the text again."""
    return _pattern().findall(text)


def compared(before: Sequence[Token], after: Sequence[Token]) -> tuple[list[Run], list[Run]] | None:
    """Tell of two lists of words what they have in common; None where that would take too long."""
    head = _same(before, after)
    tail = _same(before[head:][::-1], after[head:][::-1])
    middle = before[head : len(before) - tail], after[head : len(after) - tail]
    if len(middle[0]) * len(middle[1]) > MOST_CELLS:
        return None
    steps = _steps(middle[0], middle[1])
    return (
        _runs(before, [True] * head + [step == "=" for step in steps if step != "+"] + [True] * tail),
        _runs(after, [True] * head + [step == "=" for step in steps if step != "-"] + [True] * tail),
    )


def _same(one: Sequence[Token], other: Sequence[Token]) -> int:
    """Count the words that both begin with."""
    least = min(len(one), len(other))
    return next((place for place in range(least) if one[place] != other[place]), least)


def _steps(before: Sequence[Token], after: Sequence[Token]) -> str:
    """Tell the way from one list to the other: = for what both have, - and + for what is only in one."""
    if not before or not after:
        return "-" * len(before) + "+" * len(after)
    places: dict[Token, int] = {}
    for place, word in enumerate(before):
        places[word] = places.get(word, 0) | 1 << place
    every = (1 << len(before)) - 1
    state, rows = every, []  # of each row, a bit is 0 where one word more of `before` makes what is common longer
    for word in after:
        met = state & places.get(word, 0)
        if met:
            state = ((state + met) | (state - met)) & every
        rows.append(state)
    return _readable(before, after, _way_back(rows, len(before)))


def _way_back(rows: list[int], num_before: int) -> str:
    place, row, steps = num_before, len(rows), []
    while place and row:
        if rows[row - 1] >> (place - 1) & 1:
            place -= 1
            steps.append("-")
        else:
            row -= 1
            if row and not rows[row - 1] >> (place - 1) & 1:
                steps.append("+")
            else:
                place -= 1
                steps.append("=")
    steps += ["-"] * place + ["+"] * row
    return "".join(reversed(steps))


def _readable(before: Sequence[Token], after: Sequence[Token], steps: str) -> str:
    """Give up what is common by chance: a short stretch with longer changes on both of its sides.

    The longest common subsequence joins a comma here and an article there; marks around each are hard to read.
    """
    stretches: list[tuple[str, int, int]] = []  # steps, characters only in one of them, characters in common
    at_before = at_after = 0
    for match in re.finditer(r"=+|[-+]+", steps):
        part = match[0]
        num_before, num_after = len(part) - part.count("+"), len(part) - part.count("-")
        own = sum(map(_weight, before[at_before : at_before + num_before]))
        other = sum(map(_weight, after[at_after : at_after + num_after]))
        at_before, at_after = at_before + num_before, at_after + num_after
        stretches.append((part, 0, own) if part[0] == "=" else (part, max(own, other), 0))
    kept: list[tuple[str, int, int]] = []
    for stretch in stretches:
        kept.append(stretch)
        while len(kept) >= 3 and kept[-1][1] and kept[-3][1] and kept[-2][2] <= min(kept[-1][1], kept[-3][1]) // 2:
            (first, changed, _), (common, _, lost), (last, also, _) = kept[-3:]
            kept[-3:] = [(first + common.replace("=", "-+") + last, changed + lost + also, 0)]
    return "".join(part for part, _, _ in kept)


def _weight(word: Token) -> int:
    """Count what a reader sees of a word; a space is next to nothing."""
    return 0 if word.isspace() else len(word)


def _runs(tokens: Sequence[Token], is_common: list[bool]) -> list[Run]:
    """Join neighbouring words of one kind."""
    runs: list[tuple[bool, list[str]]] = []
    for token, kind in zip(tokens, is_common, strict=True):
        if not runs or runs[-1][0] != kind:
            runs.append((kind, []))
        runs[-1][1].append(token)
    return [(kind, "".join(parts)) for kind, parts in runs]


def _unmarked(before: str, after: str, shown: int, most: int, note: str) -> WordDiff:
    return WordDiff(visible(before, shown=shown, most=most), visible(after, shown=shown, most=most), note)


def _block(runs: list[Run], tag: str, name: str, shown: int, most: int) -> Markup:
    """Write runs as `visible` writes a text: the first characters, and the rest behind a fold."""
    length = sum(len(text) for _, text in runs)
    text = Markup('<div class="text" dir="auto">{}</div>')
    if length <= shown:
        return text.format(_marks(runs, tag, name))
    behind = list(_part(runs, shown, most))
    num_changes = sum(not is_common for is_common, _ in _part(runs, shown, length))
    told = {0: "no differences", 1: "one marked passage"}.get(num_changes, f"{num_changes:,} marked passages")
    cut = Markup('<p class="cut">… and {:,} more characters</p>').format(length - most) if length > most else Markup()
    fold = Markup('<details class="fold"><summary>{:,} more characters, {}</summary>{}{}</details>')
    first = text.format(_marks(_part(runs, 0, shown), tag, name))
    return first + fold.format(length - shown, told, text.format(_marks(behind, tag, name)), cut)


def _part(runs: list[Run], start: int, end: int) -> Iterator[Run]:
    """Give the runs between two places of the text."""
    at = 0
    for is_common, text in runs:
        piece = text[max(start - at, 0) : max(end - at, 0)]
        at += len(text)
        if piece:
            yield is_common, piece


def _marks(runs: Iterator[Run] | list[Run], tag: str, name: str) -> Markup:
    mark = Markup(f'<{tag} class="{name}">{{}}</{tag}>')
    return Markup("").join(marked(text) if is_common else mark.format(marked(text)) for is_common, text in runs)


@cache
def _pattern() -> "re.Pattern[str]":
    """Make the pattern of a word; Python's \\w has no marks, and without those words of many scripts fall apart."""
    tail = f"(?:[{_marks_class()}{TAIL}]|{JOINED})*"
    letter = rf"(?:(?![{SPACELESS}])\w[{_marks_class()}]*)"
    return re.compile(
        rf"\n|[^\S\n]+"
        rf"|{letter}+(?:['\u2019\u200c\u200d]{letter}+|(?<=\d)[.,](?=\d){letter}+)*"
        rf"|[\U0001f1e6-\U0001f1ff]{{2}}"
        rf"|.{tail}",
        re.DOTALL,
    )


def _marks_class() -> str:
    """Give the characters that stand on others, as ranges for a pattern."""
    marks = [code for code in range(FIRST_MARK, LAST_MARK) if unicodedata.category(chr(code))[0] == "M"]
    starts = [code for place, code in enumerate(marks) if not place or marks[place - 1] != code - 1]
    ends = [code for place, code in enumerate(marks) if place + 1 == len(marks) or marks[place + 1] != code + 1]
    return "".join(f"{chr(start)}-{chr(end)}" for start, end in zip(starts, ends, strict=True))
