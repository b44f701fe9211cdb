"""The materialized inputs that Gym writes beside rollouts: which rollouts were to be made, of which dataset rows.

They hold the untouched dataset row (options, expected answer, uuid), of which many servers drop parts from the
rollout. So they tell tasks apart better than the rollout does, and whether rollouts are missing.
"""

from array import array
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from pipeline.identify import digest_of
from schemas.lines import LineError, decode_tolerant, numbered_lines, without_margin
from schemas.streams import open_stream

NOT_OF_THE_TASK = {"responses_create_params", "agent_ref", "skills_ref"}

TASK_SHIFT = 24
ROLLOUT_MASK = (1 << TASK_SHIFT) - 1

_encoder = msgspec.json.Encoder(order="deterministic")


class Materialized(NamedTuple):
    """What the materialized inputs of one rollout file say."""

    expected: "array[int]"  # the keys of the rollouts that were to be made
    stable: dict[int, bytes]  # of a task's index: what tells the task in every run of the same dataset


def read_materialized(path: Path) -> Materialized:
    """Read materialized inputs; lines that are none are passed over.

    Raises:
        InputError: the file can't be read.
    """
    expected: array[int] = array("q")
    stable: dict[int, bytes] = {}
    with open_stream(path) as stream:
        for number, content in enumerate(numbered_lines(stream), start=1):
            row = _decoded(content and without_margin(content, number))
            key = rollout_key(row.get("_ng_task_index"), row.get("_ng_rollout_index"))
            if key is None:
                continue
            expected.append(key)
            task = row["_ng_task_index"]
            if task not in stable and (identity := _identity(row)):
                stable[task] = identity
    return Materialized(expected, stable)


def rollout_key(task_index: object, rollout_index: object) -> int | None:
    """Pack both indices into one number of 63 bits; None where they are no indices."""
    if type(task_index) is not int or type(rollout_index) is not int:
        return None
    if not (0 <= task_index < 1 << (63 - TASK_SHIFT) and 0 <= rollout_index <= ROLLOUT_MASK):
        return None
    return task_index << TASK_SHIFT | rollout_index


def _identity(row: dict[str, Any]) -> bytes:
    own = {key: value for key, value in row.items() if key not in NOT_OF_THE_TASK and not key.startswith("_ng_")}
    if not own:
        return b""
    try:
        return digest_of(_encoder.encode(own))
    except (ValueError, OverflowError, RecursionError):
        return b""


def _decoded(content: bytes | None) -> dict[str, Any]:
    try:
        row = decode_tolerant(content) if content else None
    except LineError:
        row = None
    return row if isinstance(row, dict) else {}
