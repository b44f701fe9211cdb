"""Comparing rows by their keys in plain Python: for few rows this is faster than starting Polars.

`many_rows` has the same functions, which give the same.
"""

from array import array
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from pipeline.gate.gate import NO_REWARD

Columns = Mapping[str, "array[int]"]


class Repeat(NamedTuple):
    """A row that an earlier one says already, or says the other way round."""

    number: int
    is_reversed: bool
    place: int  # the number of the first such row


class Spread(NamedTuple):
    """How the rows of one kind are spread over prompts."""

    num_rows: int = 0
    num_prompts: int = 0
    num_most: int = 0  # rows of the most frequent prompt
    place_of_most: int = 0  # the first of them
    num_repeated: int = 0  # rows whose prompt has more than one
    num_tasks: int = 0  # such prompts
    num_varied: int = 0  # of these, with different rewards


def repeats(columns: Columns) -> Iterator[Repeat]:
    """Yield the rows that repeat or contradict an earlier one of their kind, in order."""
    firsts: tuple[dict[int, int], dict[int, int]] = ({}, {})  # key -> number, of rollouts and of pairs
    for number, (key, reward) in enumerate(zip(columns["row"], columns["reward"], strict=True)):
        is_pair = reward == NO_REWARD
        first = firsts[is_pair].setdefault(key, number)
        if first < number:
            yield Repeat(number, False, first)
        if is_pair and (other := firsts[is_pair].get(key ^ 1)) is not None:
            yield Repeat(number, True, other)


def leaks(columns: Columns, against: "array[int]") -> Iterator[int]:
    """Yield the numbers of the rows whose prompt is in `against`, in order."""
    leaked = set(columns["prompt"]).intersection(against)
    return (number for number, prompt in enumerate(columns["prompt"]) if prompt in leaked)


def spreads(columns: Columns) -> tuple[Spread, Spread]:
    """Count prompts: of the pairs, and of the rollouts."""
    numbers: tuple[dict[int, list[int]], dict[int, list[int]]] = ({}, {})
    rewards = columns["reward"]
    for number, (prompt, reward) in enumerate(zip(columns["prompt"], rewards, strict=True)):
        numbers[reward != NO_REWARD].setdefault(prompt, []).append(number)
    pairs, rollouts = (_spread(list(groups.values()), rewards) for groups in numbers)
    return pairs, rollouts


def _spread(groups: list[list[int]], rewards: "array[int]") -> Spread:
    most = max(groups, key=len, default=[0])  # the first of equals
    repeated = [group for group in groups if len(group) > 1]
    return Spread(
        sum(map(len, groups)),
        len(groups),
        len(most) if groups else 0,
        most[0],
        sum(map(len, repeated)),
        len(repeated),
        sum(len({rewards[number] for number in group}) > 1 for group in repeated),
    )
