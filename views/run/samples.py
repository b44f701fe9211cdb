"""samples.jsonl: what the policy answered to a few prompts, the first time and the last."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from schemas.errors import InputError
from schemas.terminal import path_text, reason

SAMPLES_FILE = "samples.jsonl"
MOST_PROMPTS = 100
"""Of which answers are shown; a run answers a few."""


class Sample(msgspec.Struct, frozen=True):
    """An answer beside the two that the policy learns from."""

    step: int
    set: str
    prompt: str
    response: str
    chosen: str
    rejected: str


@dataclass(frozen=True)
class Exchange:
    """A prompt with the first answer and the last."""

    first: Sample
    last: Sample
    num_answers: int

    @property
    def is_one(self) -> bool:
        """Say whether there was only one answer."""
        return self.first.step == self.last.step


@dataclass
class Answers:
    """What a run has answered."""

    exchanges: list[Exchange] = field(default_factory=list)
    num_prompts: int = 0  # also those that are not shown
    num_unreadable: int = 0


def read_answers(folder: Path) -> Answers:
    """Read the first and the last answer to each prompt; nothing where a run answers none.

    Raises:
        InputError: they can't be read.
    """
    path, answers = folder / SAMPLES_FILE, Answers()
    found: dict[tuple[str, str], Exchange] = {}
    others: set[int] = set()  # digests of prompts beyond those that are shown
    try:
        for sample in _samples(path, answers):
            key = sample.set, sample.prompt
            known = found.get(key)
            if known is not None:
                found[key] = Exchange(known.first, sample, known.num_answers + 1)
            elif len(found) < MOST_PROMPTS:
                found[key] = Exchange(sample, sample, 1)
            else:
                others.add(hash(key))
    except OSError as error:
        raise InputError(f"{path_text(path)}: can't be read: {reason(error)}") from error
    answers.exchanges, answers.num_prompts = list(found.values()), len(found) + len(others)
    return answers


def _samples(path: Path, answers: Answers) -> Iterator[Sample]:
    if not path.exists():
        return
    decoder = msgspec.json.Decoder(Sample)
    with path.open("rb") as stream:
        for line in stream:
            try:
                yield decoder.decode(line)
            except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError):
                is_torn = not line.endswith(b"\n")  # the run is writing it
                answers.num_unreadable += not is_torn
