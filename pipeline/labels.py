"""What people say of pairs, as `dpo review` exports it, for `dpo collect-pairs --labels`.

A label is known by what people saw and by nothing else: the prompt with its tools, and the two responses. So it finds
its pair in whatever file, order and form the rollouts lie, and it finds none where the text has changed since.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from pipeline.identify import NUMBER_BYTES, digest_of
from schemas.errors import InputError
from schemas.lines import LineError
from schemas.preference import Message
from schemas.rows import read_rows
from schemas.streams import is_plain_file, place_text
from schemas.terminal import counted
from schemas.validation import shape_of

DIGESTS = ("prompt_digest", "first_digest", "second_digest")
REMEDY = "write labels with: dpo review STORE --export labels.jsonl --format labels"
SQLITE = b"SQLite format 3\0"
MOST_VOTES = 2**31 - 1


class Preference(StrEnum):
    """What people say of two responses; the values are those of `views.review.answer.Verdict`."""

    FIRST = "first"
    SECOND = "second"
    TIE = "tie"
    BOTH_BAD = "both_bad"


class Review(StrEnum):
    """What a label made of a pair, seen from the verifier: the column `review`."""

    CONFIRMED = "confirmed"  # the verifier's order
    TURNED = "turned"  # the other way round
    DECIDED = "decided"  # the verifier saw no difference


REVIEW_COLUMNS = ("review", "reviewers", "review_votes", "verifier_chosen_reward", "verifier_rejected_reward")
"""What a row says of its review; all are null where nobody compared its responses."""
PREFERRED = (Preference.FIRST, Preference.SECOND)
DecodedRow = Mapping[str, Any]


@dataclass(frozen=True)
class Label:
    """What people say of two responses to one prompt."""

    prompt: str  # digest, in hexadecimal digits
    first: str
    second: str
    preference: Preference
    reviewers: tuple[str, ...] = ()
    votes: Mapping[str, int] = field(default_factory=dict)  # preference -> how many said so

    def as_row(self) -> dict[str, Any]:
        """Give the row of a file of labels."""
        digests = dict(zip(DIGESTS, (self.prompt, self.first, self.second), strict=True))
        return {**digests, "verdict": self.preference, "reviewers": [*self.reviewers], "votes": dict(self.votes)}

    @property
    def key(self) -> tuple[int, int, int]:
        """Give the numbers of prompt, lower and higher response, as the table of rollouts has them."""
        low, high = sorted(map(number_of_digest, (self.first, self.second)))
        return number_of_digest(self.prompt), low, high

    @property
    def preferred(self) -> int | None:
        """Give the number of the better response; None where neither is."""
        if self.preference not in PREFERRED:
            return None
        return number_of_digest(self.first if self.preference is Preference.FIRST else self.second)

    def told(
        self, review: Review, *, chosen_is_first: bool, rewards: tuple[float | None, float | None]
    ) -> dict[str, Any]:
        """Give what a row says of its review, in words of chosen and rejected; the rewards are the verifier's."""
        sides = PREFERRED if chosen_is_first else PREFERRED[::-1]
        names = {"chosen": sides[0], "rejected": sides[1], "tie": Preference.TIE, "both_bad": Preference.BOTH_BAD}
        votes = {name: self.votes.get(preference, 0) for name, preference in names.items()}
        return dict(zip(REVIEW_COLUMNS, (review, [*self.reviewers], votes, *rewards), strict=True))


@dataclass(frozen=True)
class Labels:
    """The labels of a file, one for each pair."""

    labels: tuple[Label, ...] = ()
    num_read: int = 0
    num_repeated: int = 0  # that say once more what another says
    num_contradicting: int = 0  # that say otherwise than another; none of them is used


def prompt_digest(messages: Iterable[Message], tools: Sequence[Mapping[str, Any]] = ()) -> bytes:
    """Hash what was asked, with the tools on offer."""
    return digest_of(_canonical([*map(_spoken, messages)]), _canonical([*tools]) if tools else b"")


def response_digest(messages: Iterable[Message]) -> bytes:
    """Hash what was answered; ids of calls, which are drawn, and the weights of messages do not count."""
    return digest_of(_canonical([*map(_spoken, messages)]))


def asked_number(prompt: bytes, tools: bytes) -> int:
    """Number a prompt and tools, given as the JSON that rows are made of."""
    return _number(prompt_digest(msgspec.json.decode(prompt), msgspec.json.decode(tools) if tools else ()))


def said_number(response: bytes) -> int:
    """Number a response, given as the JSON that rows are made of: a text, or messages."""
    said = msgspec.json.decode(response)
    return _number(response_digest([{"role": "assistant", "content": said}] if isinstance(said, str) else said))


def number_of_digest(digest: str) -> int:
    """Give what the table of rollouts has of a digest: its first 64 bits."""
    return _number(bytes.fromhex(digest))


def read_labels(path: Path, advance: Callable[[int], None] = lambda amount: None) -> Labels:
    """Read a file of labels. Where several say the same of a pair, the first is used; if they differ, none is.

    Raises:
        InputError: the file can't be read, or a row is no label; the first is named.
    """
    _refuse_store(path)
    found: dict[tuple[int, int, int], list[Label]] = {}
    num_read = 0
    for number, row in read_rows(path, advance):
        num_read += 1
        try:
            if isinstance(row, LineError):
                raise row
            label = _label(row)
        except LineError as error:
            raise InputError(f"{place_text(path)}:{number}: {error}; {REMEDY}") from None
        found.setdefault(label.key, []).append(label)
    agreeing = [same for same in found.values() if len({label.preferred for label in same}) == 1]
    num_used = sum(map(len, agreeing))
    return Labels(tuple(same[0] for same in agreeing), num_read, num_used - len(agreeing), num_read - num_used)


def labels_entry(path: Path) -> dict[str, Any]:
    """Say in the manifest which file of labels was used.

    Raises:
        InputError: it can't be read.
    """
    if not is_plain_file(path):
        return {"path": place_text(path), "bytes": None, "sha256": None}
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return {"path": place_text(path), "bytes": path.stat().st_size, "sha256": digest}
    except OSError as error:
        raise InputError(f"{place_text(path)}: can't be read: {error.strerror or error}") from error


def _label(row: object) -> Label:
    """Make a label of a row.

    Raises:
        LineError: it is none.
    """
    if not isinstance(row, dict) or not {*DIGESTS, "verdict"} <= row.keys():
        expected = ", ".join((*DIGESTS, "verdict"))
        raise LineError(f"got {shape_of(row)}, expected a label with {expected}")
    prompt, first, second = (_digest(row, key) for key in DIGESTS)
    if number_of_digest(first) == number_of_digest(second):
        raise LineError("/second_digest: got the digest of the first response, expected that of another one")
    try:
        preference = Preference(row["verdict"])
    except ValueError:
        expected = ", ".join(Preference)
        raise LineError(f"/verdict: got {shape_of(row['verdict'])}, expected one of {expected}") from None
    reviewers, votes = row.get("reviewers") or [], row.get("votes") or {}
    if not isinstance(reviewers, list) or not all(isinstance(name, str) for name in reviewers):
        raise LineError(f"/reviewers: got {shape_of(reviewers)}, expected an array of names")
    counts = votes.values() if isinstance(votes, dict) else [None]
    if not all(type(count) is int and 0 <= count <= MOST_VOTES for count in counts):
        raise LineError(f"/votes: got {shape_of(votes)}, expected how many said each of {', '.join(Preference)}")
    return Label(prompt, first, second, preference, tuple(reviewers), votes)


def _digest(row: DecodedRow, key: str) -> str:
    value = row[key]
    try:
        size = len(bytes.fromhex(value)) if isinstance(value, str) else 0
    except ValueError:
        size = 0
    if size < NUMBER_BYTES:
        least = counted(2 * NUMBER_BYTES, "hexadecimal digit")
        raise LineError(f"/{key}: got {shape_of(value)}, expected at least {least}")
    return str(value)


def _spoken(message: Message) -> list[object]:
    calls = [call.get("function") or {} for call in message.get("tool_calls") or ()]
    return [
        message["role"],
        message.get("content") or "",
        [[call.get("name"), _arguments(call.get("arguments"))] for call in calls],
    ]


def _arguments(arguments: object) -> object:
    """Read arguments that are JSON in a string, as tables have them."""
    if not isinstance(arguments, str):
        return arguments
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments


def _canonical(value: object) -> bytes:
    return json.dumps(_without_nulls(value), sort_keys=True).encode()


def _without_nulls(value: object) -> object:
    """Take out keys without a value, which tables give to rows that have not got them."""
    if isinstance(value, dict):
        return {key: _without_nulls(part) for key, part in value.items() if part is not None}
    return [_without_nulls(part) for part in value] if isinstance(value, list) else value


def _number(digest: bytes) -> int:
    return int.from_bytes(digest[:NUMBER_BYTES], "little", signed=True)


def _refuse_store(path: Path) -> None:
    if not is_plain_file(path):
        return
    try:
        with path.open("rb") as stream:
            is_store = stream.read(len(SQLITE)) == SQLITE
    except OSError:  # which reading the rows tells
        return
    if is_store:
        raise InputError(f"{place_text(path)}: is a store of dpo review, not its labels; {REMEDY}")
