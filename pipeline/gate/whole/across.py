"""The rules across rows: what a key of each row tells."""

import heapq
import itertools
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from pipeline.gate.finding import Problem
from pipeline.gate.rules import Rule
from pipeline.gate.settings import GateSettings
from pipeline.gate.whole.rows import AllRows

MAX_NAMED_LEAKS = 10_000
"""Leaks of which it is told where the other prompt stands; who has more sees enough of them."""

NumberedProblem = tuple[int, Problem]


def across_problems(
    rows: AllRows, against: AllRows, settings: GateSettings, own: Mapping[str, str] = MappingProxyType({})
) -> Iterator[NumberedProblem]:
    """Yield what is wrong with rows beside others, each with the number of the row, in the order of the rows.

    `against` are the rows of the files that no prompt may be in; `own` says which of these is which of the files that
    are checked, by their paths.
    """
    ways = []
    if settings.finds(Rule.DUPLICATE_ROW) or settings.finds(Rule.CONTRADICTORY_PAIR):
        ways.append(_repeats(rows, settings))
    if settings.finds(Rule.PROMPT_LEAK) and len(against):
        ways.append(_leaks(rows, against, own))
    return heapq.merge(*ways, key=lambda problem: problem[0])


def _repeats(rows: AllRows, settings: GateSettings) -> Iterator[NumberedProblem]:
    for repeat in rows.comparison.repeats(rows.columns):
        rule = Rule.CONTRADICTORY_PAIR if repeat.is_reversed else Rule.DUPLICATE_ROW
        if settings.finds(rule):
            place = rows.place_text(repeat.place)
            if repeat.is_reversed:
                got, expected = f"the responses of {place} the other way round", "one of the two as the better one"
            else:
                got, expected = f"the row of {place} again", "each row once"
            yield repeat.number, Problem(rule, "", got, expected)


def _leaks(rows: AllRows, against: AllRows, own: Mapping[str, str]) -> Iterator[NumberedProblem]:
    """Find prompts that others have too; a file that is both is not held against itself."""
    prompts = rows.columns["prompt"]
    numbers = rows.comparison.leaks(rows.columns, against.columns["prompt"])
    named = list(itertools.islice(numbers, MAX_NAMED_LEAKS))
    places = _places(against, {prompts[number] for number in named})
    for number in itertools.chain(named, numbers):
        path, _ = rows.place(number)
        known = places.get(prompts[number])
        if known is None:
            where = "" if path in own else "a file of --against"
        else:
            elsewhere = (place for place in known if against.place(place)[0] != own.get(path))
            where = next(map(against.place_text, elsewhere), "")
        if where:
            yield number, Problem(Rule.PROMPT_LEAK, "", f"a prompt that {where} has too", "none of its prompts")


def _places(against: AllRows, wanted: set[int]) -> dict[int, list[int]]:
    """Give the first row that has each prompt, and the first one in another file."""
    places: dict[int, list[int]] = {}
    for place, prompt in enumerate(against.columns["prompt"] if wanted else ()):
        if prompt in wanted:
            known = places.setdefault(prompt, [])
            if not known or (len(known) == 1 and against.place(place)[0] != against.place(known[0])[0]):
                known.append(place)
    return places
