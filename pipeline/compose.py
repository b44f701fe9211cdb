"""From pairs to the rows of a file: pieces of JSON that lie in the spools, put together by offset.

This runs in worker processes and imports no Polars. NeMo RL's loaders take the rows of `binary` and `preference` as they
are, TRL's trainers those of `trl`; all of them ignore the columns that lead back to the rollouts.
"""

import os
import struct
from typing import NamedTuple

import msgspec

from pipeline.scan import IS_TRUNCATED, Scanner
from pipeline.settings import Format, Settings
from pipeline.spool import SpoolReader

_encode = msgspec.json.Encoder().encode


class Names(NamedTuple):
    """What the columns of a task only have numbers for."""

    spools: list[str]
    agents: list[str | None]
    sources: list[str]


class ComposeTask(NamedTuple):
    """Some pairs, and what the table says of their rollouts, one list a column."""

    slot: int  # of the files in the scratch folder that are written over and over
    first_place: int
    rollouts: dict[str, list[int] | list[float]]
    chosen: list[int]  # places
    rejected: list[int]
    margin: list[float]
    names: Names


class Composed(NamedTuple):
    """The rows of a task: the beginning of a file in the scratch folder."""

    name: str
    num_bytes: int


class Side(NamedTuple):
    """One rollout as it stands in a row, on either side."""

    as_chosen: bytes  # from the row's beginning to the end of the response
    as_rejected: bytes
    chosen_tail: bytes  # reward, truncation and source, where they follow both responses
    rejected_tail: bytes
    group: bytes
    agent: bytes


def compose(scanner: Scanner, task: ComposeTask) -> Composed:
    """Write the rows of some pairs to a file of their own."""
    settings = scanner.settings
    make = _ranked_side if settings.format is Format.PREFERENCE else _flat_side
    reader = SpoolReader(scanner.scratch)
    sides: dict[int, Side] = {}
    lines = []
    for chosen, rejected, margin in zip(task.chosen, task.rejected, task.margin, strict=True):
        better = sides.get(chosen) or sides.setdefault(chosen, make(task, chosen, reader, settings))
        worse = sides.get(rejected) or sides.setdefault(rejected, make(task, rejected, reader, settings))
        told = _agents(better, worse) if settings.across_agents else better.agent
        pieces = (better.as_chosen, worse.as_rejected, better.chosen_tail, worse.rejected_tail)
        lines.append(b'%b%b%b%b,"margin":%b%b%b}\n' % (*pieces, _encode(margin), better.group, told))
    reader.close()
    name = f"part-{task.slot}"
    return Composed(name, _overwrite(os.fsencode(scanner.scratch / name), lines))


def _flat_side(task: ComposeTask, place: int, reader: SpoolReader, settings: Settings) -> Side:
    """Make the pieces of a row of prompt, chosen, rejected."""
    told = _told(task, place)
    prompt, tools, response = _texts(task, place, reader)
    if tools:
        offered = _encode(tools.decode()) if settings.format is Format.TRL else tools  # TRL decodes them itself
        tools = b',"tools":' + offered
    chosen_tail, rejected_tail = (
        b'%b,"%b_reward":%b,"%b_truncated":%b'
        % (tools if side == b"chosen" else b"", side, told.reward, side, told.truncated)
        + (b',"%b_source":%b' % (side, told.source) if settings.sources else b"")
        for side in (b"chosen", b"rejected")
    )
    as_chosen = b'{"prompt":%b,"chosen":%b' % (prompt, response)
    return Side(as_chosen, b',"rejected":' + response, chosen_tail, rejected_tail, told.group, told.agent)


def _ranked_side(task: ComposeTask, place: int, reader: SpoolReader, settings: Settings) -> Side:
    """Make the pieces of a row of a context and two completions, the lower rank preferred."""
    told = _told(task, place)
    prompt, tools, response = _texts(task, place, reader)
    source = b',"source":' + told.source if settings.sources else b""
    rest = b',"completion":%b,"reward":%b,"truncated":%b%b}' % (response, told.reward, told.truncated, source)
    as_chosen = b'{"context":%b,"completions":[{"rank":0%b' % (prompt, rest)
    as_rejected = b',{"rank":1%b]' % rest
    return Side(as_chosen, as_rejected, b',"tools":' + tools if tools else b"", b"", told.group, told.agent)


class _Told(NamedTuple):
    reward: bytes
    truncated: bytes
    source: bytes
    group: bytes
    agent: bytes


def _told(task: ComposeTask, place: int) -> _Told:
    """Say as JSON what the table knows of a rollout."""
    column, index, names = task.rollouts, place - task.first_place, task.names
    agent = names.agents[int(column["agent"][index])]
    group = struct.pack("<qq", column["group_high"][index], column["group_low"][index]).hex()
    return _Told(
        reward=_encode(column["reward"][index]),
        truncated=b"true" if int(column["flags"][index]) & IS_TRUNCATED else b"false",
        source=_encode(f"{names.sources[int(column['source'][index])]}:{column['line'][index]}"),
        group=b',"group":"%b"' % group.encode(),
        agent=b',"agent":%b' % _encode(agent),
    )


def _texts(task: ComposeTask, place: int, reader: SpoolReader) -> tuple[bytes, bytes, bytes]:
    """Read prompt, tools and response."""
    column, index = task.rollouts, place - task.first_place
    spool = task.names.spools[int(column["spool"][index])]
    num_prompt, num_tools = int(column["prompt_bytes"][index]), int(column["tools_bytes"][index])
    asked = reader.read(spool, int(column["prompt_offset"][index]), num_prompt + num_tools)
    response = reader.read(spool, int(column["response_offset"][index]), int(column["response_bytes"][index]))
    return asked[:num_prompt], asked[num_prompt:], response


def _agents(better: Side, worse: Side) -> bytes:
    """Name both agents, which are not the same where agents were paired with each other."""
    return b"".join(
        side.agent.replace(b'"agent"', name, 1)
        for side, name in ((better, b'"chosen_agent"'), (worse, b'"rejected_agent"'))
    )


def _overwrite(path: bytes, lines: list[bytes]) -> int:
    """Write over what a file held: its pages are there already, and new ones would cost more than the copy."""
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
    try:
        rest = memoryview(b"".join(lines))
        num_bytes = len(rest)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    finally:
        os.close(descriptor)
    return num_bytes
