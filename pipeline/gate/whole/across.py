"""The rules across rows: what a key of each row tells."""

import heapq
import itertools
from collections.abc import Iterator

from pipeline.gate.finding import Problem
from pipeline.gate.rules import Rule
from pipeline.gate.settings import GateSettings
from pipeline.gate.whole.rows import AllRows

MAX_NAMED_LEAKS = 10_000
"""Leaks of which it is told where the other prompt stands; who has more sees enough of them."""

NumberedProblem = tuple[int, Problem]


def across_problems(rows: AllRows, against: AllRows, settings: GateSettings) -> Iterator[NumberedProblem]:
    """Yield what is wrong with rows beside others, each with the number of the row, in the order of the rows.

    `against` are the rows of the files that no prompt may be in.
    """
    ways = []
    if settings.finds(Rule.DUPLICATE_ROW) or settings.finds(Rule.CONTRADICTORY_PAIR):
        ways.append(_repeats(rows, settings))
    if settings.finds(Rule.PROMPT_LEAK) and len(against):
        ways.append(_leaks(rows, against))
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


def _leaks(rows: AllRows, against: AllRows) -> Iterator[NumberedProblem]:
    prompts, others = rows.columns["prompt"], against.columns["prompt"]
    numbers = rows.comparison.leaks(rows.columns, others)
    named = list(itertools.islice(numbers, MAX_NAMED_LEAKS))
    wanted = {prompts[number] for number in named}
    places: dict[int, int] = {}
    if wanted:
        for place, prompt in enumerate(others):
            if prompt in wanted:
                places.setdefault(prompt, place)
    for number in itertools.chain(named, numbers):
        found = places.get(prompts[number])
        where = "a file of --against" if found is None else against.place_text(found)
        yield number, Problem(Rule.PROMPT_LEAK, "", f"a prompt that {where} has too", "none of its prompts")
