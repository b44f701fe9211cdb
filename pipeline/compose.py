"""From pairs to the rows of a file: pieces of JSON that lie in the spools, put together by offset.

This runs in worker processes and imports no Polars. NeMo RL's loaders take the rows of `binary` and `preference` as they
are, TRL's trainers those of `trl`; all of them ignore the columns that lead back to the rollouts.
"""

import struct
from typing import NamedTuple

import msgspec

from pipeline.scan import IS_TRUNCATED, Scanner
from pipeline.settings import Format
from pipeline.spool import SpoolReader

_encode = msgspec.json.Encoder().encode


class Names(NamedTuple):
    """What the columns of a task only have numbers for."""

    spools: list[str]
    agents: list[str | None]
    sources: list[str]


class ComposeTask(NamedTuple):
    """Some pairs, and what the table says of their rollouts, one list a column."""

    number: int
    first_place: int
    rollouts: dict[str, list[int] | list[float]]
    chosen: list[int]  # places
    rejected: list[int]
    margin: list[float]
    names: Names


class Composed(NamedTuple):
    """The rows of a task, in a file in the scratch folder."""

    name: str
    num_rows: int


class Side(NamedTuple):
    """One rollout, as the rows need it."""

    prompt: bytes
    tools: bytes
    response: bytes
    reward: bytes
    truncated: bytes
    source: bytes
    agent: bytes
    group: bytes


def compose(scanner: Scanner, task: ComposeTask) -> Composed:
    """Write the rows of some pairs to a file of their own."""
    sides = _Sides(task, SpoolReader(scanner.scratch))
    settings = scanner.settings
    row = {Format.BINARY: _flat_row, Format.PREFERENCE: _ranked_row, Format.TRL: _flat_row}[settings.format]
    path = scanner.scratch / f"part-{task.number}"
    with path.open("wb") as stream:
        for chosen, rejected, margin in zip(task.chosen, task.rejected, task.margin, strict=True):
            better, worse = sides.at(chosen), sides.at(rejected)
            tail = _tail(better, worse, margin, across_agents=settings.across_agents)
            tools = better.tools and (_encode(better.tools.decode()) if settings.format is Format.TRL else better.tools)
            stream.write(row(better, worse, tools, tail, sources=settings.sources))
    sides.close()
    return Composed(path.name, len(task.chosen))


class _Sides:
    """The rollouts of a task, each read once: the pairs of one prompt follow each other."""

    def __init__(self, task: ComposeTask, reader: SpoolReader) -> None:
        self._task = task
        self._reader = reader
        self._known: dict[int, Side] = {}
        self._group: bytes = b""
        self.close = reader.close

    def at(self, place: int) -> Side:
        side = self._known.get(place)
        if side is None:
            side = self._read(place)
            if side.group != self._group:
                self._known.clear()
                self._group = side.group
            self._known[place] = side
        return side

    def _read(self, place: int) -> Side:
        names, index = self._task.names, place - self._task.first_place
        column = {name: values[index] for name, values in self._task.rollouts.items()}
        prompt, tools, response = (int(column[name]) for name in ("prompt_bytes", "tools_bytes", "response_bytes"))
        spool = names.spools[int(column["spool"])]
        content = self._reader.read(spool, int(column["offset"]), prompt + tools + response)
        agent = names.agents[int(column["agent"])]
        source = f"{names.sources[int(column['source'])]}:{column['line']}"
        return Side(
            prompt=content[:prompt],
            tools=content[prompt : prompt + tools],
            response=content[prompt + tools :],
            reward=_encode(column["reward"]),
            truncated=b"true" if int(column["flags"]) & IS_TRUNCATED else b"false",
            source=_encode(source),
            agent=b"null" if agent is None else _encode(agent),
            group=struct.pack("<qq", column["group_high"], column["group_low"]).hex().encode(),
        )


def _flat_row(better: Side, worse: Side, tools: bytes, tail: bytes, *, sources: bool) -> bytes:
    """Make a row of prompt, chosen, rejected."""
    return b"".join(
        (
            b'{"prompt":%b,"chosen":' % better.prompt,
            better.response,
            b',"rejected":',
            worse.response,
            b',"tools":' + tools if tools else b"",
            b',"chosen_reward":%b,"rejected_reward":%b' % (better.reward, worse.reward),
            tail,
            b',"chosen_truncated":%b,"rejected_truncated":%b' % (better.truncated, worse.truncated),
            b',"chosen_source":%b,"rejected_source":%b' % (better.source, worse.source) if sources else b"",
            b"}\n",
        )
    )


def _ranked_row(better: Side, worse: Side, tools: bytes, tail: bytes, *, sources: bool) -> bytes:
    """Make a row of a context and two completions, the lower rank preferred."""
    completions = []
    for rank, side in enumerate((better, worse)):
        source = b',"source":' + side.source if sources else b""
        pieces = (b'{"rank":%d,"completion":' % rank, side.response)
        end = b',"reward":%b,"truncated":%b%b}' % (side.reward, side.truncated, source)
        completions.append(b"".join((*pieces, end)))
    offered = b',"tools":' + tools if tools else b""
    return b"".join(
        (b'{"context":', better.prompt, b',"completions":[', b",".join(completions), b"]", offered, tail, b"}\n")
    )


def _tail(better: Side, worse: Side, margin: float, *, across_agents: bool) -> bytes:
    agents = b'"agent":%b' % better.agent
    if across_agents:
        agents = b'"chosen_agent":%b,"rejected_agent":%b' % (better.agent, worse.agent)
    return b',"margin":%b,"group":"%b",%b' % (_encode(margin), better.group, agents)
