"""Which rollouts answer the same question: the heart of a collection.

Two answers to different questions, once paired, poison a policy silently. So two rollouts belong together only where
all of this is equal: the whole prompt with its tools, the format asked for, the metadata, the agent, and the task as
far as the row tells it. And they must lie in one file, because task indices restart in each run; that part is kept
apart from the key, so that a key does not change with the place where a file lies.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import msgspec

from pipeline.attrition import Reason, RowDropped
from pipeline.record import Params, Record, value_of
from schemas.preference import Message

TRUTH_KEYS = (
    "expected_answer",
    "expected_output",
    "expected_action",
    "expected_result",
    "ground_truth",
    "reference_answer",
    "label",
    "target",
    "solution",
    "question",
    "instruction_id_list",
    "kwargs",
    "verifier_metadata",
    "difficulty",
    "task_id",
    "uuid",
    "problem_id",
    "instance_id",
    "grading_id",
    "hashid",
)
"""Verifiers' keys that differ between tasks of one prompt text (newton_bench: three difficulties).

One too many here costs pairs, which is seen; one too few pairs answers to different questions, which is not.
"""

DIGEST_BYTES = 16
TO_SPACES = bytes.maketrans(b"\t\n\r\f\v", b"     ")
NUMBER_BYTES = 8

# what is written keeps its order, since a chat template shows tools in theirs; what is only compared is sorted
_encode = msgspec.json.Encoder().encode
_encode_sorted = msgspec.json.Encoder(order="deterministic").encode
_NOT_A_WORD = re.compile(r"[\W_]+")


@dataclass(slots=True)
class Question:
    """A prompt, ready to be written, and what tells it from others."""

    prompt: bytes  # JSON: the messages
    tools: bytes  # JSON: the tools that are offered; b"" if none are
    digest: bytes
    cluster: int  # equal for prompts that are nearly the same
    asks_twice: bool
    text: bytes  # JSON: the text, where the prompt is nothing but one user message; else b""
    place: int = -1  # in this process's spool, once it was written there


def question_of(
    messages: list[Message], tools: list[dict[str, Any]], params: Params, *, asks_twice: bool, clusters: bool
) -> Question:
    """Identify a prompt; `clusters` says whether near-identical ones are to be told, which a split needs.

    Raises:
        RowDropped: it can't be written as JSON.
    """
    is_text = len(messages) == 1 and messages[0]["role"] == "user"
    try:
        prompt = _encode(messages)
        offered = _encode(tools) if tools else b""
        besides = _encode_sorted(_asked_besides(params))
    except (ValueError, OverflowError, RecursionError) as error:
        raise RowDropped(Reason.PROMPT_UNSUPPORTED, str(error)) from None
    return Question(
        prompt=prompt,
        tools=offered,
        digest=digest_of(prompt, offered, besides),
        cluster=cluster_of(messages) if clusters else 0,
        asks_twice=asks_twice,
        text=_encode(messages[0]["content"]) if is_text else b"",
    )


def cluster_of(messages: Sequence[Message]) -> int:
    """Number a prompt so that those are equal which differ in case, punctuation and white space only."""
    return number_of(_plain_words(messages).encode())


def group_key(question: Question, *, agent: str | None, task: bytes) -> bytes:
    """Give the key that is equal for rollouts of one task, prompt and agent."""
    return digest_of(question.digest, b"" if agent is None else b"@" + agent.encode(), task)


def task_identity(record: Record, *, stable: bytes | None, across_files: bool) -> bytes:
    """Give what tells the row's task from others of the same prompt.

    That is, the best that there is: what the materialized inputs say of it (`stable`), else its id and index in the
    run (only within one file, as they restart in each), else what the verifier compared with.

    Raises:
        RowDropped: what says so is no JSON that can be read.
    """
    if stable is not None:
        return b"stable" + stable
    index, task = record.task_index, value_of(record.task)
    has_index = index is not None or task is not None
    if across_files or not has_index:
        truth = [value_of(getattr(record, key)) for key in TRUTH_KEYS]
        if any(value is not None for value in truth):
            return b"truth" + _canonical(truth)
    if not has_index:
        return b""
    is_simple = type(index) is int and task is None
    return task_identity_of_index(index) if is_simple else b"index" + _canonical([index, task])


def task_identity_of_index(index: int) -> bytes:
    """Give what tells a task of which the row has an index and nothing else."""
    return b"index%d" % index


def skills_identity(record: Record) -> bytes:
    """Give what tells runs apart in which the agent was taught different skills: they change what is asked."""
    skills = value_of(record.skills_ref)
    return b"" if skills is None else b"skills" + _canonical(skills)


def agent_name(record: Record) -> str | None:
    """Name the agent that made the rollout, where the row says it (Gym 0.3.0 on)."""
    name = record.agent_ref.get("name") if isinstance(record.agent_ref, dict) else None
    return name if isinstance(name, str) else None


def digest_of(*parts: bytes) -> bytes:
    """Hash parts, each with its length, so that no two lists of parts hash alike."""
    framed = b"".join([b"%d:%b" % (len(part), part) for part in parts])
    return hashlib.blake2b(framed, digest_size=DIGEST_BYTES).digest()


def number_of(content: bytes) -> int:
    """Hash to a number of 64 bits, with a sign, as Polars' Int64 holds it."""
    digest = hashlib.blake2b(content, digest_size=NUMBER_BYTES).digest()
    return int.from_bytes(digest, "little", signed=True)


def response_number(text: str) -> int:
    """Number a response so that those are equal which differ in white space or Unicode's forms of a character only.

    A run of white space is one space, as in "1 2", which is not "12".
    """
    letters = comparable(text)
    return crc32(letters) << 31 | len(letters) % (1 << 31)


def comparable(text: str) -> bytes:
    """Give a text without what doesn't matter: how much white space there is, and which of Unicode's forms it has."""
    letters = _encoded(text).translate(TO_SPACES)
    return b" ".join(letters.split()) if b"  " in letters else letters.strip()


def _encoded(text: str) -> bytes:
    """Encode a text so that NFC's equal ones are equal; characters below 256 are in that form already."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        folded = unicodedata.normalize("NFC", text)
    try:
        return folded.encode("latin-1")
    except UnicodeEncodeError:
        return b"\0" + folded.encode()


def _plain_words(messages: Sequence[Message]) -> str:
    """Fold what is no difference between two prompts of a split: case, punctuation and white space too."""
    text = "\n".join(message["content"] for message in messages)
    folded = _NOT_A_WORD.sub(" ", text if text.isascii() else unicodedata.normalize("NFKC", text)).casefold().strip()
    return folded or text  # a prompt of signs alone


def _asked_besides(params: Params) -> list[object]:
    """Give what belongs to the question beside its messages: the format of the answer, and the metadata.

    The metadata's `extra_body` does not: it carries a different seed for each repeat.
    """
    metadata = params.metadata
    if isinstance(metadata, dict):
        metadata = {key: value for key, value in metadata.items() if key != "extra_body"}
    return [params.text, metadata or None]


def _canonical(value: object) -> bytes:
    # Python's own JSON for what verifiers write: it keeps numbers of any size apart
    return json.dumps(value, sort_keys=True).encode()
