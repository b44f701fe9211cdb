"""Reading a chunk of rollouts: in come lines, out go ready pieces of JSON on disk and slim columns about them.

This runs in worker processes and imports no Polars.
"""

import hashlib
import secrets
from array import array
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import msgspec

from pipeline.attrition import Reason, RowDropped
from pipeline.chunks import Chunk, lines_of
from pipeline.identify import agent_name
from pipeline.labels import asked_number, said_number
from pipeline.materialized import ROLLOUT_MASK, TASK_SHIFT, read_materialized, rollout_key
from pipeline.plain import plain_rollout, takes_plain
from pipeline.prompts import Prompts
from pipeline.reasoning import ReasoningPolicy
from pipeline.record import decode_record
from pipeline.rollout import Rollout, rollout_of
from pipeline.settings import Format, Settings
from pipeline.spool import Spool
from pipeline.token_ids import NO_IDS, Tokens

IS_TRUNCATED, HAS_REASONING, HAS_SEVERAL_MESSAGES, IS_NAMED, IS_NAMED_EVERYWHERE = 1, 2, 4, 8, 16

COLUMNS = {
    "line": "i",  # in the chunk, and once all chunks are there in the file
    "agent": "i",  # position in `agents`
    "reward": "d",
    "response": "q",  # equal for responses that are the same once normalised
    "sample": "q",  # equal for two records of one rollout
    "rollout": "q",  # the rollout index, or NO_INDEX
    "flags": "b",
    "num_chars": "i",
    "cluster": "q",  # equal for prompts that are nearly the same
    "prompt_offset": "q",  # in the spool, where the tools follow the prompt
    "prompt_bytes": "i",
    "tools_bytes": "i",
    "response_offset": "q",
    "response_bytes": "i",
}
TOKEN_COLUMNS = {
    "tokens": "q",  # equal for equal ids, or NO_IDS
    "prompt_tokens": "q",  # the same of the prompt's ids alone
    "tokens_offset": "q",  # in the spool: prompt, response, loss mask
    "prompt_tokens_bytes": "i",
    "response_tokens_bytes": "i",
    "loss_mask_bytes": "i",
}
"""Columns that are there only if token ids are asked for."""
LABEL_COLUMNS = {
    "asked": "q",  # equal for prompts and tools that people see no difference in
    "said": "q",  # the same of responses
}
"""Columns that are there only if there are labels of people."""
NO_INDEX = -1


def columns_of(settings: Settings) -> dict[str, str]:
    """Give the columns of a collection."""
    columns = {**COLUMNS, **TOKEN_COLUMNS} if settings.token_ids else COLUMNS
    return columns if settings.labels is None else {**columns, **LABEL_COLUMNS}


def empty_columns(columns: dict[str, str]) -> "dict[str, array[int] | array[float]]":
    """Make columns without values."""
    return {name: array(code) for name, code in columns.items()}


class Rejected(NamedTuple):
    """A line that is no usable rollout, as `--rejects` writes it."""

    line: int
    reason: Reason
    detail: str


@dataclass
class Scanned:
    """What one chunk gave."""

    source: int
    num_bytes: int
    spool: str
    num_lines: int = 0  # blank ones too
    num_rows: int = 0
    num_parsed: int = 0  # rows that are rollouts
    groups: bytes = b""  # 16 bytes for each usable rollout
    columns: dict[str, "array[int] | array[float]"] = field(default_factory=lambda: empty_columns(COLUMNS))
    agents: list[str | None] = field(default_factory=list)
    dropped: Counter[Reason] = field(default_factory=Counter)
    dropped_by_agent: Counter[tuple[str | None, Reason]] = field(default_factory=Counter)
    examples: dict[Reason, tuple[int, str]] = field(default_factory=dict)  # the first line of each, what was met
    rejected: list[Rejected] = field(default_factory=list)
    keys: "array[int]" = field(default_factory=lambda: array("q"))  # task and rollout index of all rows that have them


class Scanner:
    """The state of one process that scans: its spool, and the prompts that it remembers."""

    def __init__(self, settings: Settings, scratch: Path, keep_texts: bool, keep_rejects: bool) -> None:
        """Open a spool."""
        self.settings = settings
        self.spool = Spool.create(scratch, is_kept=keep_texts)
        self.keep_rejects = keep_rejects
        self.scratch = scratch
        self._tables: dict[str, dict[int, bytes]] = {}
        splits = settings.validation_fraction > 0 or settings.test_fraction > 0
        self.prompts = Prompts(keep_reasoning=settings.reasoning is not ReasoningPolicy.STRIP, clusters=splits)
        self.writes_text = settings.format is Format.BINARY
        self.columns = columns_of(settings)

    def close(self) -> None:
        """Close the spool."""
        self.spool.close()

    def table(self, name: str | None) -> dict[int, bytes]:
        """Give what tells the tasks of a file apart; only the last such table stays in memory."""
        if name is None:
            return {}
        if name not in self._tables:
            table = msgspec.msgpack.decode((self.scratch / name).read_bytes(), type=dict[int, bytes])
            self._tables = {name: table}
        return self._tables[name]


class Beside(NamedTuple):
    """What the materialized inputs beside a rollout file say."""

    expected: "array[int]"  # the keys of the rollouts that were to be made
    table: str  # the file, in the scratch folder, of what tells its tasks apart


class ScanTask(NamedTuple):
    """A chunk to scan, and what the materialized inputs say of its tasks."""

    chunk: Chunk
    table: str | None = None  # the name of a file that `read_beside` wrote


def scan(scanner: Scanner, task: ScanTask) -> Scanned:
    """Scan one chunk.

    Raises:
        InputError: its file can't be read.
    """
    settings, chunk = scanner.settings, task.chunk
    scanned = Scanned(chunk.source, chunk.num_bytes, scanner.spool.name, columns=empty_columns(scanner.columns))
    agents: dict[str | None, int] = {}
    groups: list[bytes] = []
    rows: list[tuple[float, ...]] = []
    table = scanner.table(task.table)
    is_plain = not table and takes_plain(settings)
    for number, content in lines_of(chunk, max_line_bytes=settings.max_line_bytes):
        scanned.num_lines = number
        if content == b"":
            continue
        scanned.num_rows += 1
        record = None
        try:
            if content is None:
                raise RowDropped(Reason.LINE_TOO_LONG)
            rollout = plain_rollout(content, settings, scanner.prompts) if is_plain else None
            if rollout is None:
                record = decode_record(content)
                key = rollout_key(record.task_index, record.rollout_index)
                if key is not None:
                    scanned.keys.append(key)
                stable = None if key is None else table.get(key >> TASK_SHIFT)
                rollout = rollout_of(record, content, settings, prompts=scanner.prompts, stable=stable)
            elif rollout.key is not None:
                scanned.keys.append(rollout.key)
            groups.append(rollout.group)
            rows.append(_values(scanner, rollout, line=number, agent=agents.setdefault(rollout.agent, len(agents))))
        except RowDropped as drop:
            scanned.dropped[drop.reason] += 1
            scanned.dropped_by_agent[agent_name(record) if record else None, drop.reason] += 1
            scanned.examples.setdefault(drop.reason, (number, drop.detail))
            if scanner.keep_rejects:
                scanned.rejected.append(Rejected(number, drop.reason, drop.detail))
    scanner.spool.flush()
    scanned.agents = list(agents)
    scanned.groups = b"".join(groups)
    if rows:
        columns = zip(scanner.columns.items(), zip(*rows, strict=True), strict=True)
        scanned.columns = {name: array(code, column) for (name, code), column in columns}
    return scanned


def read_beside(scanner: Scanner, path: Path) -> Beside:
    """Read materialized inputs.

    Raises:
        InputError: the file can't be read.
    """
    materialized = read_materialized(path)
    name = f"table-{secrets.token_hex(8)}"
    (scanner.scratch / name).write_bytes(msgspec.msgpack.encode(materialized.stable))
    return Beside(materialized.expected, name)


def sha256_of(scanner: Scanner, path: Path) -> str:
    """Hash a file, as it is."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _values(scanner: Scanner, rollout: Rollout, *, line: int, agent: int) -> tuple[float, ...]:
    """Spool a rollout; give its values of the columns."""
    question, response = rollout.question, rollout.response
    prompt = question.text if scanner.writes_text and question.text else question.prompt
    if question.place < 0:
        question.place = scanner.spool.append(prompt + question.tools)
    values: tuple[float, ...] = (
        line,
        agent,
        rollout.reward,
        rollout.response_number,
        rollout.sample_number,
        NO_INDEX if rollout.key is None else rollout.key & ROLLOUT_MASK,
        rollout.is_truncated * IS_TRUNCATED
        + rollout.has_reasoning * HAS_REASONING
        + (rollout.num_messages > 1) * HAS_SEVERAL_MESSAGES
        + rollout.is_named * IS_NAMED
        + rollout.is_named_everywhere * IS_NAMED_EVERYWHERE,
        rollout.num_chars,
        question.cluster,
        question.place,
        len(prompt),
        len(question.tools),
        scanner.spool.append(response),
        len(response),
    )
    if scanner.settings.token_ids:
        values = (*values, *_token_values(scanner, rollout.tokens))
    if scanner.settings.labels is not None:
        values = (*values, asked_number(question.prompt, question.tools), said_number(response))
    return values


def _token_values(scanner: Scanner, tokens: Tokens | None) -> tuple[int, ...]:
    """Spool a rollout's ids; give its values of TOKEN_COLUMNS."""
    if tokens is None:
        return (NO_IDS, NO_IDS, 0, 0, 0, 0)
    offset = scanner.spool.append(b"".join(tokens))
    return (tokens.number, tokens.prompt_number, offset, *map(len, tokens))
