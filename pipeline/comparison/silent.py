"""Rollouts whose response was scored, and of which no pair can be made: an empty answer, a refusal.

A pair needs a text on both sides, an evaluation does not. A policy that has learnt to say nothing must not look good
because its silence is left out. So such rows, which the reader drops, are looked at again, and count with their reward.
"""

from array import array
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipeline.attrition import Reason, RowDropped
from pipeline.convert import response_turns
from pipeline.identify import agent_name, group_key, skills_identity, task_identity
from pipeline.prompts import Prompts
from pipeline.reasoning import ReasoningPolicy
from pipeline.record import ABSENT, Record, Response, decode_record
from pipeline.rollout import own_name, reward_of, rollout_of
from pipeline.settings import Settings
from pipeline.sources import Source
from schemas.lines import numbered_lines, without_margin
from schemas.streams import open_stream

if TYPE_CHECKING:
    import polars as pl

SCORED_WITHOUT_TEXT = (Reason.RESPONSE_EMPTY, Reason.RESPONSE_UNSUPPORTED)
"""Why a row is in no pair though its response was scored."""

COLUMNS = {"task_high": "q", "task_low": "q", "reward": "d", "is_truncated": "b", "num_chars": "q", "response": "q"}


class Silent:
    """Rollouts that were scored and have no text, as they are found file by file."""

    def __init__(self) -> None:
        """Start with none."""
        self.columns: dict[str, array[Any]] = {name: array(code) for name, code in COLUMNS.items()}
        self.agents: list[str | None] = []
        self.counted: Counter[Reason] = Counter()  # rows that count after all, and those that are there twice
        self.duplicates = 0
        self._seen: set[tuple[bytes, bytes]] = set()

    def read(self, source: Source, lines: dict[int, Reason], settings: Settings, stable: dict[int, bytes]) -> None:
        """Read some lines of a file again; what has no prompt that tells its task stays uncounted."""
        prompts = Prompts(keep_reasoning=settings.reasoning is not ReasoningPolicy.STRIP, clusters=False)
        with open_stream(source.path) as stream:
            for number, content in enumerate(numbered_lines(stream, settings.max_line_bytes), start=1):
                if content is None or number not in lines:
                    continue
                try:
                    self._add(without_margin(content, number), source, settings, prompts, stable)
                except RowDropped:
                    continue
                self.counted[lines[number]] += 1

    def _add(
        self, content: bytes, source: Source, settings: Settings, prompts: Prompts, stable: dict[int, bytes]
    ) -> None:
        record = decode_record(content)
        reward = reward_of(record, content, settings.reward_field)
        task = _task_of(record, settings, prompts, stable)
        response_id = record.response.id if isinstance(record.response, Response) else None
        name, is_unique = own_name(task, record.rollout_index, response_id)
        if name:
            key = (b"" if is_unique else b"%d" % source.number, name)
            if key in self._seen:
                self.duplicates += 1
                return
            self._seen.add(key)
        high, low = array("q", task)
        values = (high, low, reward, _is_cut(record, content, settings, prompts), 0, 0)
        for column, value in zip(self.columns.values(), values, strict=True):
            column.append(value)
        self.agents.append(agent_name(record))

    def frame(self, schema: "pl.Schema") -> "pl.DataFrame":
        """Give them as a part of the scores."""
        import polars as pl

        data = {**self.columns, "agent": self.agents, "row": [None] * len(self.agents)}
        data["is_truncated"] = list(map(bool, self.columns["is_truncated"]))
        return pl.DataFrame(data, schema=schema)


def _task_of(record: Record, settings: Settings, prompts: Prompts, stable: dict[int, bytes]) -> bytes:
    asked = prompts.asked(record.params, record.response.tools if isinstance(record.response, Response) else ABSENT)
    items = record.response.output if isinstance(record.response, Response) else record.output
    try:
        turns = response_turns(
            items if isinstance(items, list) else [],
            keep_reasoning=prompts.keep_reasoning,
            open_calls=asked.open_calls,
        )
    except RowDropped:  # a refusal and its like
        turns = []
    question, _ = prompts.question_and_answer(asked, turns, has_index=record.task_index is not None)
    known = stable.get(record.task_index) if isinstance(record.task_index, int) else None
    identity = task_identity(record, stable=known, across_files=settings.across_files)
    agent = None if settings.across_agents else agent_name(record)
    return group_key(question, agent=agent, task=identity + skills_identity(record))


def _is_cut(record: Record, content: bytes, settings: Settings, prompts: Prompts) -> bool:
    """Ask the reader, who names what was cut before it looks at the response."""
    try:
        rollout_of(record, content, replace(settings, allow_truncated_rejected=False), prompts=prompts)
    except RowDropped as drop:
        return drop.reason is Reason.TRUNCATED
    return False
