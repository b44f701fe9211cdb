"""The preference pair, and how it is read from and written to files: the contract between the two halves."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import msgspec

from schemas.atomic import atomic_writer
from schemas.errors import DpoError, InputError
from schemas.lines import LineError
from schemas.rows import read_rows
from schemas.terminal import bare_excerpt, path_text
from schemas.validation import Kind, detect_kind, row_findings


class Message(TypedDict):
    """One turn of a conversation in chat form."""

    role: str
    content: str
    tool_calls: NotRequired[list[dict[str, Any]]]
    tool_call_id: NotRequired[str]  # of a tool's result
    weight: NotRequired[int]  # 0 for what stands in a completion but was not written by the policy


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two responses to one prompt, the better one named: one record from disk to batch."""

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    source: str  # file:line
    chosen_reward: float | None = None
    rejected_reward: float | None = None
    chosen_truncated: bool = False  # the response was cut by a limit, so the policy did not end it
    rejected_truncated: bool = False


def read_pairs(path: Path, advance: Callable[[int], None] = lambda amount: None) -> list[PreferencePair]:
    """Read a file of BinaryPreference or Preference rows, checked against their schema.

    Raises:
        InputError: the file can't be read, or a row is no preference pair; the first is named.
        DpoError: the file has no rows.
    """
    shown = path_text(path)
    pairs: list[PreferencePair] = []
    first_problem = ""
    num_bad_rows = 0
    kind: Kind | None = None
    for number, row in read_rows(path, advance):
        try:
            if isinstance(row, LineError):
                raise row
            kind = kind or detect_kind(row)
            if kind is Kind.ROLLOUT:
                raise InputError(f"{shown}: holds rollouts, not pairs; make pairs with: dpo collect-pairs {shown}")
            pairs.append(_pair(row, kind, source=f"{shown}:{number}"))
        except LineError as error:
            num_bad_rows += 1
            first_problem = first_problem or f"{shown}:{number}: {error}"
    if num_bad_rows:
        raise InputError(
            f"{first_problem}; {num_bad_rows} of {num_bad_rows + len(pairs)} rows are no preference pairs, "
            f"see each with: dpo validate {shown}"
        )
    if not pairs:
        raise DpoError(f"{shown}: has no rows; make pairs with: dpo collect-pairs ROLLOUTS -o {shown}")
    return pairs


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as JSONL; the file is there whole or not at all.

    Raises:
        DpoError: the file can't be written.
    """
    encoder = msgspec.json.Encoder()
    with atomic_writer(path) as stream:
        for row in rows:
            stream.write(encoder.encode(row) + b"\n")


def _pair(row: object, kind: Kind | None, *, source: str) -> PreferencePair:
    for pointer, got, expected in row_findings(row, kind):
        raise LineError(f"{pointer or '(row)'}: got {got}, expected {expected}")
    assert isinstance(row, dict)
    if row.get("tools"):
        raise LineError("tools are offered, which can't be trained on yet")
    if kind is Kind.PREFERENCE:
        return _from_ranked(row, source)
    return _from_messages(row, source) if kind is Kind.TRL else _from_binary(row, source)


def _from_binary(row: dict[str, Any], source: str) -> PreferencePair:
    prompt = row["prompt"]
    return _from_sides(
        row,
        source,
        prompt=(Message(role="user", content=prompt),) if isinstance(prompt, str) else tuple(prompt),
        chosen=(Message(role="assistant", content=row["chosen"]),),
        rejected=(Message(role="assistant", content=row["rejected"]),),
    )


def _from_messages(row: dict[str, Any], source: str) -> PreferencePair:
    chosen, rejected = (_single_message(row[side]) for side in ("chosen", "rejected"))
    return _from_sides(row, source, prompt=tuple(row["prompt"]), chosen=chosen, rejected=rejected)


def _from_sides(row: dict[str, Any], source: str, **messages: tuple[Message, ...]) -> PreferencePair:
    """Make a pair of a row whose columns name the side."""
    return PreferencePair(
        **messages,
        source=source,
        chosen_reward=row.get("chosen_reward"),
        rejected_reward=row.get("rejected_reward"),
        chosen_truncated=row.get("chosen_truncated") or False,
        rejected_truncated=row.get("rejected_truncated") or False,
    )


def _from_ranked(row: dict[str, Any], source: str) -> PreferencePair:
    better, worse = sorted(row["completions"], key=lambda completion: completion["rank"])
    return PreferencePair(
        prompt=tuple(row["context"]),
        chosen=_single_message(better["completion"]),
        rejected=_single_message(worse["completion"]),
        source=source,
        chosen_reward=better.get("reward"),
        rejected_reward=worse.get("reward"),
        chosen_truncated=better.get("truncated") or False,
        rejected_truncated=worse.get("truncated") or False,
    )


def _single_message(completion: list[Message]) -> tuple[Message, ...]:
    roles = [message["role"] for message in completion]
    if roles != ["assistant"] or completion[0].get("tool_calls"):
        shown = bare_excerpt(", ".join(roles))
        raise LineError(f"a completion of roles {shown}: only a single assistant message can be trained on yet")
    return tuple(completion)
