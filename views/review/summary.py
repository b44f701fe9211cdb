"""`dpo review --agreement`: what people said, how far they agree, and what speaks against believing them.

Who votes skip says nothing, so it counts as no value. Intervals are of 95 %: by the bootstrap over items where an item
may have several votes, and Wilson's for single choices.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import median
from typing import Any

from schemas.bootstrap import Interval, bootstrap_mean
from views.review.agreement import (
    LEAST_UNITS,
    Level,
    alpha_interval,
    cohens_kappa,
    krippendorffs_alpha,
    percent_agreement,
    share_interval,
)
from views.review.answer import CRITERIA, Answer
from views.review.consensus import PREFERENCES, VOTES
from views.review.item import Item

NO_ENVIRONMENT = ""


@dataclass(frozen=True)
class Reviewer:
    """What one person did."""

    name: str
    answers: int
    verdicts: dict[str, int]
    preferred: Interval  # how often the file's response, of those times when one was preferred
    left: Interval  # how often the left one, of those times
    median_seconds: float  # for an item
    total_seconds: float


@dataclass(frozen=True)
class TwoReviewers:
    """How far two people agree on the items that both judged."""

    names: tuple[str, str]
    items: int
    percent: float
    kappa: float


@dataclass(frozen=True)
class Rating:
    """What people gave on one criterion, 1 to 5."""

    criterion: str
    ratings: int
    means: dict[str, Interval]  # of each response's name
    difference: Interval  # of the preferred name less the other one, by item
    units: int  # responses that several people rated
    alpha: Interval  # ordinal


@dataclass(frozen=True)
class Environment:
    """What people said of the items of one agent."""

    name: str
    items: int
    votes: dict[str, int]
    preferred: Interval
    alpha: float


@dataclass(frozen=True)
class Summary:
    """What a review came to."""

    items: int
    reviewed: int  # items that somebody voted on, or rated
    answers: int
    name: str  # which of the responses `preferred` speaks of: chosen, or after
    votes: dict[str, int]
    preferred: Interval
    left: Interval
    shared: int  # items that several people voted on
    percent: float
    alpha: Interval
    reviewers: tuple[Reviewer, ...]
    pairs: tuple[TwoReviewers, ...]
    ratings: tuple[Rating, ...]
    environments: tuple[Environment, ...]

    def as_dict(self) -> dict[str, Any]:
        """Give it as JSON types; what is not known is null."""
        told: dict[str, Any] = _without_nan(asdict(self))
        return told


def summarise(items: Sequence[Item], answers: Iterable[Answer]) -> Summary:
    """Sum up a review; `answers` has one for each person and item at most."""
    by_key = {item.key: item for item in items}
    answers = sorted((answer for answer in answers if answer.item in by_key), key=lambda each: (each.reviewer, each.at))
    votes = [answer for answer in answers if answer.verdict in VOTES]
    units = _units(votes)
    several = [values for values in units.values() if len(values) > 1]
    names = next((item.names for item in items if len(item.names) == 2), ("response",))
    place = int(names == ("before", "after"))  # the one that people should prefer
    return Summary(
        items=len(items),
        reviewed=len({answer.item for answer in answers if answer.verdict in VOTES or _has_ratings(answer)}),
        answers=len(answers),
        name=names[place],
        votes=_named_votes(votes, names),
        preferred=_preferred(votes, place),
        left=_left(votes),
        shared=len(several),
        percent=percent_agreement(several),
        alpha=alpha_interval(several, Level.NOMINAL),
        reviewers=tuple(
            _reviewer(name, of_one, names, place) for name, of_one in _by(answers, lambda each: each.reviewer).items()
        ),
        pairs=tuple(_two_reviewers(votes)),
        ratings=tuple(_ratings(by_key, answers, place)),
        environments=tuple(_environments(items, votes, names, place)),
    )


def _reviewer(name: str, answers: Sequence[Answer], names: tuple[str, ...], place: int) -> Reviewer:
    seconds = [answer.seconds for answer in answers]
    return Reviewer(
        name,
        len(answers),
        _named_votes(answers, names),
        _preferred(answers, place),
        _left(answers),
        median(seconds),
        math.fsum(seconds),
    )


def _two_reviewers(votes: Sequence[Answer]) -> Iterable[TwoReviewers]:
    said = {
        name: {vote.item: vote.verdict for vote in some}
        for name, some in _by(votes, lambda each: each.reviewer).items()
    }
    for one, other in combinations(said, 2):
        both = [(said[one][key], said[other][key]) for key in said[one].keys() & said[other].keys()]
        if both:
            yield TwoReviewers((one, other), len(both), percent_agreement(both), cohens_kappa(both))


def _ratings(items: dict[str, Item], answers: Sequence[Answer], place: int) -> Iterable[Rating]:
    for criterion in CRITERIA:
        units: dict[tuple[str, int], list[float]] = {}
        for answer in answers:
            for number, value in enumerate(answer.ratings.get(criterion, ())):
                if value is not None:
                    units.setdefault((answer.item, number), []).append(value)
        if not units:
            continue
        means: dict[str, list[float]] = {}
        for (key, number), values in sorted(units.items(), key=lambda unit: unit[0][1]):
            means.setdefault(items[key].names[number], []).append(math.fsum(values) / len(values))
        differences = [
            math.fsum(units[key, place]) / len(units[key, place]) - math.fsum(others) / len(others)
            for (key, number), others in units.items()
            if number == 1 - place and (key, place) in units
        ]
        several = [values for values in units.values() if len(values) > 1]
        yield Rating(
            criterion,
            sum(map(len, units.values())),
            {name: _mean_of_items(values) for name, values in means.items()},
            _mean_of_items(differences),
            len(several),
            alpha_interval(several, Level.ORDINAL),
        )


def _environments(
    items: Sequence[Item], votes: Sequence[Answer], names: tuple[str, ...], place: int
) -> Iterable[Environment]:
    of_item = {item.key: _environment(item) for item in items}
    voted = _by(votes, lambda each: of_item[each.item])
    if voted.keys() <= {NO_ENVIRONMENT}:
        return
    for name in sorted(voted):
        some = voted[name]
        alpha = krippendorffs_alpha([*_units(some).values()], Level.NOMINAL)
        num_items = len({vote.item for vote in some})
        yield Environment(name, num_items, _named_votes(some, names), _preferred(some, place), alpha)


def _environment(item: Item) -> str:
    agent = item.row.get("agent")
    return agent if isinstance(agent, str) else NO_ENVIRONMENT


def _preferred(votes: Sequence[Answer], place: int) -> Interval:
    """Say how often a response was preferred to the other one: of each item the share of those who preferred one."""
    shares = []
    for some in _by((vote for vote in votes if vote.verdict in PREFERENCES), lambda each: each.item).values():
        shares.append(sum(vote.verdict is PREFERENCES[place] for vote in some) / len(some))
    if all(share in (0, 1) for share in shares):  # single choices, of which Wilson knows more
        return share_interval(int(sum(shares)), len(shares))
    return _mean_of_items(shares)


def _mean_of_items(values: Sequence[float]) -> Interval:
    """Give a mean with its interval; no ends where so few or equal values can't tell how far others would spread."""
    interval = bootstrap_mean(values)
    is_known = len(values) >= LEAST_UNITS and min(values) < max(values)
    return interval if is_known else Interval(interval.mean, math.nan, math.nan)


def _left(votes: Iterable[Answer]) -> Interval:
    preferring = [vote for vote in votes if vote.verdict in PREFERENCES]
    return share_interval(
        sum(PREFERENCES.index(vote.verdict) == vote.shown_first for vote in preferring), len(preferring)
    )


def _units(votes: Iterable[Answer]) -> dict[str, list[float]]:
    return {
        key: [float(VOTES.index(vote.verdict)) for vote in some]
        for key, some in _by(votes, lambda each: each.item).items()
    }


def _named_votes(answers: Iterable[Answer], names: tuple[str, ...]) -> dict[str, int]:
    """Count the verdicts, first and second by the names of the responses."""
    words = dict(zip((vote.value for vote in PREFERENCES), names, strict=False))
    counts = Counter(words.get(answer.verdict.value, answer.verdict.value) for answer in answers)
    order = [*words.values(), "tie", "both_bad", "skip", "rated"]
    return {name: counts[name] for name in order if counts[name] or name in words.values()}


def _has_ratings(answer: Answer) -> bool:
    return any(value is not None for values in answer.ratings.values() for value in values)


def _by(answers: Iterable[Answer], key: Callable[[Answer], str]) -> dict[str, list[Answer]]:
    groups: dict[str, list[Answer]] = {}
    for answer in answers:
        groups.setdefault(key(answer), []).append(answer)
    return groups


def _without_nan(value: object) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value
