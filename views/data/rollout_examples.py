"""A few tasks with their answers, best first: what the rewards of a collection are about."""

import random
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from pipeline.scan import IS_TRUNCATED
from pipeline.spool import SpoolReader
from pipeline.table import Rollouts
from schemas.preference import Message
from views.conversation import as_text, tools_text
from views.data.options import DataOptions
from views.data.pair_table import MOST_NAME, environment_name

MOST_TASKS = 8
MOST_ANSWERS = 12


@dataclass(frozen=True)
class Answer:
    """One response of a task."""

    reward: float
    text: str
    num_chars: int
    is_truncated: bool
    place: str  # file and line


@dataclass(frozen=True)
class TaskExample:
    """A task and its answers: the best first; of many, the best and the worst ones."""

    environment: str
    prompt: str
    tools: str
    num_answers: int
    answers: tuple[Answer, ...]

    @property
    def varies(self) -> bool:
        """Say whether the rewards differ."""
        return self.answers[0].reward != self.answers[-1].reward


def task_examples(rollouts: Rollouts, scratch: Path, paths: list[str], options: DataOptions) -> list[TaskExample]:
    """Draw tasks whose rewards differ, from each environment in turn, and read their texts; the seed draws.

    Where there are none, tasks are taken that always or never pass.
    """
    tasks = (
        rollouts.ranked.lazy()
        .with_row_index("place")
        .group_by("group", maintain_order=True)
        .agg(
            start=pl.col("place").min(),
            size=pl.len(),
            agent=pl.col("agent").first(),
            spread=pl.col("reward").max() - pl.col("reward").min(),
        )
        .collect()
    )
    if options.environment is not None:
        numbers = [
            place
            for place, agent in enumerate(rollouts.agents)
            if environment_name(agent) == options.environment[:MOST_NAME]
        ]
        tasks = tasks.filter(pl.col("agent").is_in(numbers))
    if options.min_margin is not None:
        tasks = tasks.filter(pl.col("spread") >= options.min_margin)
    if options.max_margin is not None:
        tasks = tasks.filter(pl.col("spread") <= options.max_margin)
    varied = tasks.filter(pl.col("spread") > 0)
    drawn = _in_turn(varied if len(varied) else tasks, seed=options.seed)[: min(MOST_TASKS, options.num_pairs)]
    reader = SpoolReader(scratch)
    try:
        return [_task(rollouts, reader, paths, start=start, size=size) for start, size in drawn]
    finally:
        reader.close()


def _in_turn(tasks: pl.DataFrame, *, seed: int) -> list[tuple[int, int]]:
    """Draw from each environment in turn: start and size of each task."""
    draw = random.Random(seed)
    several = []
    for _, part in sorted(tasks.partition_by("agent", as_dict=True).items()):
        rows = part.select("start", "size").rows()
        draw.shuffle(rows)
        several.append(rows[:MOST_TASKS])
    return [row for turn in zip_longest(*several) for row in turn if row is not None]


def _task(rollouts: Rollouts, reader: SpoolReader, paths: list[str], *, start: int, size: int) -> TaskExample:
    places = list(range(start, start + size))
    if size > MOST_ANSWERS:
        places = [*places[: MOST_ANSWERS // 2], *places[-MOST_ANSWERS // 2 :]]
    ranked = rollouts.ranked[places]
    payload = rollouts.payload[ranked["row"]]
    rows = [
        told | where for told, where in zip(ranked.iter_rows(named=True), payload.iter_rows(named=True), strict=True)
    ]
    first = rows[0]
    spool, offset, num_prompt = rollouts.spools[first["spool"]], first["prompt_offset"], first["prompt_bytes"]
    asked = reader.read(spool, offset, num_prompt + first["tools_bytes"])
    tools = msgspec.json.decode(asked[num_prompt:]) if first["tools_bytes"] else []
    return TaskExample(
        environment=environment_name(rollouts.agents[first["agent"]]),
        prompt=_text(asked[:num_prompt], "user"),
        tools=tools_text(tools) if isinstance(tools, list) else str(tools),
        num_answers=size,
        answers=tuple(_answer(row, rollouts, reader, paths) for row in rows),
    )


def _answer(row: dict[str, Any], rollouts: Rollouts, reader: SpoolReader, paths: list[str]) -> Answer:
    response = reader.read(rollouts.spools[row["spool"]], row["response_offset"], row["response_bytes"])
    return Answer(
        row["reward"],
        _text(response, "assistant"),
        row["num_chars"],
        bool(row["flags"] & IS_TRUNCATED),
        f"{paths[row['source']]}:{row['line']}",
    )


def _text(content: bytes, usual_role: str) -> str:
    """Give a ready piece of JSON, a text or messages, as one text."""
    value: str | list[Message] = msgspec.json.decode(content)
    return value if isinstance(value, str) else as_text(value, usual_role)
