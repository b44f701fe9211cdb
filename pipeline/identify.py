"""Which rollouts answer the same question: the heart of a collection.

Two answers to different questions, once paired, poison a policy silently. So two rollouts belong together only where
all of this is equal: the file (task indices restart in each run), the agent, the task's id and index as far as the
row has them, the whole prompt, the format asked for, the metadata, and, for rows without an index, what the verifier
compared with.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import msgspec

from schemas.preference import Message

INDEX_KEYS = ("_ng_task_id", "_ng_task_index")
TRUTH_KEYS = (
    "expected_answer",
    "verifier_metadata",
    "difficulty",
    "task_id",
    "uuid",
    "problem_id",
    "instance_id",
)
"""Verifiers' keys that differ between tasks of one prompt text (newton_bench: three difficulties)."""

DIGEST_BYTES = 16

_encoder = msgspec.json.Encoder(order="deterministic")


def group_key(row: dict[str, Any], prompt: tuple[Message, ...], *, path: Path) -> str:
    """Give the key that is equal for rollouts of one task and prompt, as hexadecimal digits."""
    index = {key: row[key] for key in INDEX_KEYS if row.get(key) is not None}
    truth = {} if index else {key: row[key] for key in TRUTH_KEYS if row.get(key) is not None}
    # Python's own JSON for what verifiers write: it keeps NaN, Infinity and numbers of any size apart
    task = json.dumps([agent_name(row), index, truth, _asked_besides(row)], sort_keys=True).encode()
    identity = b"\0".join([os.fsencode(os.path.normpath(path)), task, _encoder.encode(prompt)])
    return hashlib.blake2b(identity, digest_size=DIGEST_BYTES).hexdigest()


def agent_name(row: dict[str, Any]) -> str | None:
    """Name the agent that made the rollout, where the row says it (Gym 0.3.0 on)."""
    reference = row.get("agent_ref")
    name = reference.get("name") if isinstance(reference, dict) else None
    return name if isinstance(name, str) else None


def _asked_besides(row: dict[str, Any]) -> list[object]:
    """Give what belongs to the question beside its messages: the format of the answer, and the metadata.

    The metadata's `extra_body` does not: it carries a different seed for each repeat.
    """
    params = row["responses_create_params"]
    metadata = params.get("metadata")
    if isinstance(metadata, dict):
        metadata = {key: value for key, value in metadata.items() if key != "extra_body"}
    return [params.get("text"), metadata or None]
