"""From pairs to the rows of a file: pieces of JSON that lie in the spools, put together by offset.

This runs in worker processes and imports no Polars. NeMo RL's loaders take the rows of `binary` and `preference` as
they are, TRL's trainers those of `trl`; all of them ignore the columns that lead back to the rollouts.
"""

import os
import struct
from itertools import accumulate, pairwise
from typing import NamedTuple

import msgspec

from pipeline.scan import IS_TRUNCATED, Scanner
from pipeline.settings import Format, Settings
from pipeline.spool import SpoolReader
from pipeline.token_ids import NO_IDS, Tokens

TOKEN_SIZES = ("prompt_tokens_bytes", "response_tokens_bytes", "loss_mask_bytes")
UNKNOWN = Tokens(b"null", b"null", b"null")

Columns = dict[str, list[int] | list[float]]

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
    rollouts: Columns
    chosen: list[int]  # places
    rejected: list[int]
    margin: list[float]
    names: Names
    reviewed: list[bytes] | None = None  # JSON: what people say of each pair; None: there are no labels
    is_rewarded: list[bool] | None = None  # whether the rewards say the same


class Composed(NamedTuple):
    """The rows of a task: the beginning of a file in the scratch folder."""

    name: str
    num_bytes: int
    num_rows: int


def compose(scanner: Scanner, task: ComposeTask) -> Composed:
    """Write the rows of some pairs to a file of their own."""
    rows = _Rows(task, SpoolReader(scanner.scratch), scanner.settings)
    pairs = zip(task.chosen, task.rejected, task.margin, strict=True)
    if task.reviewed is None or task.is_rewarded is None:
        lines = [rows.row(chosen, rejected, margin) for chosen, rejected, margin in pairs]
    else:
        lines = [
            rows.row(*pair, reviewed=reviewed, is_rewarded=is_rewarded)
            for pair, reviewed, is_rewarded in zip(pairs, task.reviewed, task.is_rewarded, strict=True)
        ]
    rows.close()
    name = f"part-{task.slot}"
    return Composed(name, _overwrite(os.fsencode(scanner.scratch / name), lines), len(lines))


class _Rows:
    """Makes rows; what one rollout gives to them is made once, however many pairs it is in."""

    def __init__(self, task: ComposeTask, reader: SpoolReader, settings: Settings) -> None:
        self._task = task
        self._reader = reader
        self._settings = settings
        self._ranked = settings.format is Format.PREFERENCE
        self._chosen: dict[int, tuple[bytes, bytes, bytes]] = {}
        self._rejected: dict[int, tuple[bytes, bytes]] = {}
        self._known_tokens: dict[int, Tokens] = {}
        self._margins: dict[float, bytes] = {}
        self._sources = [_encode(source)[:-1] for source in task.names.sources]
        self._agents = [_encode(agent) for agent in task.names.agents]
        self._prompts: dict[tuple[int, int], bytes] = {}
        self.close = reader.close

    def row(
        self, chosen: int, rejected: int, margin: float, *, reviewed: bytes = b"", is_rewarded: bool = True
    ) -> bytes:
        """Make the row of one pair; rewards that say otherwise than people are not told as those of the sides."""
        if is_rewarded:
            better = self._chosen.get(chosen) or self._as_chosen(chosen)
            worse = self._rejected.get(rejected) or self._as_rejected(rejected)
            told = self._margins.get(margin) or self._margins.setdefault(margin, b',"margin":' + _encode(margin))
        else:
            better = self._pieces_of_chosen(chosen, is_rewarded=False)
            worse = self._pieces_of_rejected(rejected, is_rewarded=False)
            told = b',"margin":null'
        told += reviewed
        if self._settings.across_agents:
            agents = (
                self._agents[int(self._task.rollouts["agent"][place - self._task.first_place])]
                for place in (chosen, rejected)
            )
            told += b',"chosen_agent":%b,"rejected_agent":%b' % tuple(agents)
        if self._settings.token_ids:
            prompt, of_chosen, of_rejected = self._tokens_of_pair(chosen, rejected)
            return b"".join((better[0], of_chosen, worse[0], of_rejected, better[1], worse[1], prompt, told, better[2]))
        return b"".join((better[0], worse[0], better[1], worse[1], told, better[2]))

    def _as_chosen(self, place: int) -> tuple[bytes, bytes, bytes]:
        self._chosen[place] = pieces = self._pieces_of_chosen(place)
        return pieces

    def _as_rejected(self, place: int) -> tuple[bytes, bytes]:
        self._rejected[place] = pieces = self._pieces_of_rejected(place)
        return pieces

    def _pieces_of_chosen(self, place: int, *, is_rewarded: bool = True) -> tuple[bytes, bytes, bytes]:
        """Give the row's beginning, what follows both responses, and the row's end."""
        column, index = self._task.rollouts, place - self._task.first_place
        prompt, tools = self._asked(column, index)
        response, told = self._response(column, index), self._told(column, index, b"chosen_", is_rewarded=is_rewarded)
        if self._ranked:
            begin = b'{"context":%b,"completions":[{"rank":0,"completion":%b%b' % (prompt, response, told)
            tail = b'}],"tools":' + tools if tools else b"}]"
        else:
            begin = b'{"prompt":%b,"chosen":%b' % (prompt, response)
            if tools:  # TRL decodes them itself
                tools = b',"tools":' + (_encode(tools.decode()) if self._settings.format is Format.TRL else tools)
            tail = tools + told
        group = struct.pack("<qq", column["group_high"][index], column["group_low"][index]).hex().encode()
        agent = b"" if self._settings.across_agents else b',"agent":' + self._agents[int(column["agent"][index])]
        return begin, tail, b',"group":"%b"%b}\n' % (group, agent)

    def _pieces_of_rejected(self, place: int, *, is_rewarded: bool = True) -> tuple[bytes, bytes]:
        """Give the rejected response's part, and what follows both responses."""
        column, index = self._task.rollouts, place - self._task.first_place
        response, told = self._response(column, index), self._told(column, index, b"rejected_", is_rewarded=is_rewarded)
        if self._ranked:
            return b'},{"rank":1,"completion":%b%b' % (response, told), b""
        return b',"rejected":' + response, told

    def _tokens_of_pair(self, chosen: int, rejected: int) -> tuple[bytes, bytes, bytes]:
        """Give the columns of token ids: the prompt's, and those of each side; all are null or none is."""
        places = [place - self._task.first_place for place in (chosen, rejected)]
        asked = [self._task.rollouts["prompt_tokens"][index] for index in places]
        if asked[0] != asked[1] or asked[0] == NO_IDS:
            tokens = [UNKNOWN, UNKNOWN]
        else:
            tokens = [self._tokens(place, index) for place, index in zip((chosen, rejected), places, strict=True)]
        names = (b"", b"") if self._ranked else (b"chosen_", b"rejected_")
        of_chosen, of_rejected = (
            b',"%btoken_ids":%b,"%bloss_mask":%b' % (name, each.response, name, each.loss_mask)
            for name, each in zip(names, tokens, strict=True)
        )
        return b',"prompt_token_ids":' + tokens[0].prompt, of_chosen, of_rejected

    def _tokens(self, place: int, index: int) -> Tokens:
        """Read the ids of one rollout."""
        known = self._known_tokens.get(place)
        if known is None:
            column = self._task.rollouts
            sizes = [int(column[name][index]) for name in TOKEN_SIZES]
            spool, offset = self._task.names.spools[int(column["spool"][index])], int(column["tokens_offset"][index])
            content = self._reader.read(spool, offset, sum(sizes))
            ends = tuple(accumulate(sizes, initial=0))
            known = Tokens(*(content[start:end] for start, end in pairwise(ends)))
            self._known_tokens[place] = known
        return known

    def _told(self, column: Columns, index: int, side: bytes, *, is_rewarded: bool) -> bytes:
        """Say what the table knows of a rollout; beside a completion, the keys need not name the side."""
        side = b"" if self._ranked else side
        reward = _encode(column["reward"][index]) if is_rewarded else b"null"
        truncated = b"true" if int(column["flags"][index]) & IS_TRUNCATED else b"false"
        told = b',"%breward":%b,"%btruncated":%b' % (side, reward, side, truncated)
        if not self._settings.sources:
            return told
        source = self._sources[int(column["source"][index])]
        return b'%b,"%bsource":%b:%d"' % (told, side, source, column["line"][index])

    def _asked(self, column: Columns, index: int) -> tuple[bytes, bytes]:
        """Read prompt and tools, which the rollouts of a group mostly share."""
        spool, offset = int(column["spool"][index]), int(column["prompt_offset"][index])
        num_prompt, num_tools = int(column["prompt_bytes"][index]), int(column["tools_bytes"][index])
        asked = self._prompts.get((spool, offset))
        if asked is None:
            asked = self._reader.read(self._task.names.spools[spool], offset, num_prompt + num_tools)
            self._prompts = {(spool, offset): asked}
        return asked[:num_prompt], asked[num_prompt:]

    def _response(self, column: Columns, index: int) -> bytes:
        spool = self._task.names.spools[int(column["spool"][index])]
        return self._reader.read(spool, int(column["response_offset"][index]), int(column["response_bytes"][index]))


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
