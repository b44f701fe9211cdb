"""The tasks that lost or gained most, with what was said of them before and after."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from pipeline.comparison.sides import TASK, Side, Sides
from pipeline.spool import SpoolReader

if TYPE_CHECKING:
    import polars as pl

Said = tuple[str, str]
"""A role and its text."""


@dataclass(frozen=True)
class Answer:
    """One rollout of a task."""

    text: str  # empty where it said nothing
    reward: float
    is_truncated: bool


@dataclass(frozen=True)
class Example:
    """A task whose mean reward changed: of a loss the best answer before and the worst after, of a gain the reverse."""

    task: str  # the digest that a pair's `group` has too, where it was collected with --across-files
    agent: str | None
    prompt: tuple[Said, ...]
    change: float
    before_rewards: tuple[float, ...]  # falling
    after_rewards: tuple[float, ...]
    before: Answer
    after: Answer


def examples_of(sides: Sides, tasks: "pl.DataFrame") -> tuple[Example, ...]:
    """Read the texts of some tasks."""
    reader = SpoolReader(sides.scratch)
    try:
        return tuple(_example(sides, reader, row) for row in tasks.iter_rows(named=True))
    finally:
        reader.close()


def _example(sides: Sides, reader: SpoolReader, task: dict[str, Any]) -> Example:
    lost = task["change"] < 0
    before, after = (_rollouts(side, task) for side in (sides.before, sides.after))
    first, second = (_best(before), _worst(after)) if lost else (_worst(before), _best(after))
    prompt = next(
        (
            _prompt(side, reader, rollout["row"])
            for side, rollouts in ((sides.before, before), (sides.after, after))
            for rollout in rollouts
            if rollout["row"] is not None
        ),
        (),
    )
    high, low = (task[name].to_bytes(8, "little", signed=True).hex() for name in TASK)
    return Example(
        task=high + low,
        agent=task["agent"],
        prompt=prompt,
        change=task["change"],
        before_rewards=tuple(rollout["reward"] for rollout in before),
        after_rewards=tuple(rollout["reward"] for rollout in after),
        before=_answer(sides.before, reader, first),
        after=_answer(sides.after, reader, second),
    )


def _rollouts(side: Side, task: dict[str, Any]) -> list[dict[str, Any]]:
    """Give the rollouts of a task by falling reward; of equal ones, those with a text come first."""
    import polars as pl

    same = [pl.col(name) == task[name] for name in TASK]
    found = list(side.scores.filter(*same).iter_rows(named=True))
    return sorted(found, key=lambda rollout: (-rollout["reward"], rollout["row"] is None, rollout["response"]))


def _best(rollouts: list[dict[str, Any]]) -> dict[str, Any]:
    return rollouts[0]


def _worst(rollouts: list[dict[str, Any]]) -> dict[str, Any]:
    """Give the first of those with the least reward, so that there is a text to show if one of them has some."""
    return next(rollout for rollout in rollouts if rollout["reward"] == rollouts[-1]["reward"])


def _answer(side: Side, reader: SpoolReader, rollout: dict[str, Any]) -> Answer:
    said: Sequence[Said] = ()
    if rollout["row"] is not None:
        place = side.payload.row(rollout["row"], named=True)
        said = _said(reader.read(side.spools[place["spool"]], place["response_offset"], place["response_bytes"]))
    return Answer(as_text(said), rollout["reward"], rollout["is_truncated"])


def _prompt(side: Side, reader: SpoolReader, row: int) -> tuple[Said, ...]:
    place = side.payload.row(row, named=True)
    return _said(reader.read(side.spools[place["spool"]], place["prompt_offset"], place["prompt_bytes"]))


def as_text(said: Sequence[Said]) -> str:
    """Put what was said into one text; roles are named where it is not one message of the policy."""
    if len(said) == 1 and said[0][0] == "assistant":
        return said[0][1]
    return "\n\n".join(f"[{role}]\n{text}" for role, text in said)


def _said(content: bytes) -> tuple[Said, ...]:
    return tuple(_message(message) for message in msgspec.json.decode(content))


def _message(message: dict[str, Any]) -> Said:
    calls = [
        f"{call['function']['name']}({msgspec.json.encode(call['function']['arguments']).decode()})"
        for call in message.get("tool_calls", ())
    ]
    return message["role"], "\n".join([*([message["content"]] if message["content"] else []), *calls])
