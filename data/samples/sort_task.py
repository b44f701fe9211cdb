"""The sample task: put a short list of digits in order and give the result in \\boxed{}.

Not a script. It holds what a task needs and nothing else: prompts made from a seed, the expected answer, and
a strict verifier with reward 1.0 or 0.0. `make_samples.py` and `collect.py` import it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

MIN_DIGITS = 3
MAX_DIGITS = 5
SYSTEM_SHARE = 1 / 3

# {d} is the digit list and {o} the direction, in the words that fit the sentence.
USER_TEMPLATES: tuple[tuple[str, str, str], ...] = (
    ("Sort the digits {d} in {o} order.", "ascending", "descending"),
    ("Put {d} in order, {o} first.", "smallest", "largest"),
    ("Order these digits from {o}: {d}.", "low to high", "high to low"),
    ("Arrange {d} so that the digits {o}.", "rise", "fall"),
    ("{d}\nWrite these digits in {o} order.", "ascending", "descending"),
    ("Here are some digits: {d}. Which list do you get with the {o} first?", "smallest", "largest"),
    ("Digits: {d}. Sort: {o}.", "low to high", "high to low"),
)
SEPARATORS: tuple[str, ...] = (" ", ", ")
SYSTEM_MESSAGES: tuple[str, ...] = (
    "You sort digits. Give the answer in \\boxed{}.",
    "Answer with the sorted digits in \\boxed{}.",
    "You are a careful clerk. Put the result in \\boxed{}.",
)
ANSWER_RULES: tuple[str, ...] = ("Give the answer in \\boxed{}.", "Put the result in \\boxed{}.")

_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_BOXED_AT_END = re.compile(r"\\boxed\{([0-9]+)\}\.?\s*\Z")


@dataclass(frozen=True)
class Message:
    """One chat message of a prompt."""

    role: str
    content: str

    def as_dict(self) -> dict[str, str]:
        """The message as chat templates take it."""
        return {"role": self.role, "content": self.content}


@dataclass(frozen=True)
class SortTask:
    """One prompt together with what its verifier needs."""

    digits: str
    descending: bool
    messages: tuple[Message, ...]

    @property
    def expected_answer(self) -> str:
        """The digits in the order that was asked for."""
        return "".join(sorted(self.digits, reverse=self.descending))

    def chat(self) -> list[dict[str, str]]:
        """The prompt as chat templates take it."""
        return [message.as_dict() for message in self.messages]


@dataclass(frozen=True)
class Verdict:
    """What the verifier says about one answer."""

    reward: float
    extracted_answer: str | None


def extract_answer(text: str) -> str | None:
    """The digits of the one \\boxed{} that ends the text; None when there is none, or more than one."""
    if len(_BOXED.findall(text)) != 1:
        return None
    match = _BOXED_AT_END.search(text)
    return match.group(1) if match else None


def verify(text: str, expected_answer: str) -> Verdict:
    """Strict: exactly one box, at the end, with exactly the expected digits."""
    extracted = extract_answer(text)
    return Verdict(1.0 if extracted == expected_answer else 0.0, extracted)


def make_task(rng: random.Random) -> SortTask:
    """Draw one task: the digits, the direction, the wording, and whether there is a system message."""
    digits = "".join(rng.choices("0123456789", k=rng.randint(MIN_DIGITS, MAX_DIGITS)))
    descending = rng.random() < 0.5
    template, upward, downward = rng.choice(USER_TEMPLATES)
    listed = rng.choice(SEPARATORS).join(digits)
    question = template.replace("{d}", listed).replace("{o}", downward if descending else upward)
    if rng.random() < SYSTEM_SHARE:
        system = Message("system", rng.choice(SYSTEM_MESSAGES))
        return SortTask(digits, descending, (system, Message("user", question)))
    return SortTask(digits, descending, (Message("user", f"{question} {rng.choice(ANSWER_RULES)}"),))


def task_stream(seed: str, reserved: frozenset[str] = frozenset()) -> Iterator[SortTask]:
    """Endless tasks from a seed without reserved digit lists, and without lists of one and the same digit."""
    rng = random.Random(seed)
    while True:
        task = make_task(rng)
        if task.digits not in reserved and len(set(task.digits)) > 1:
            yield task


def distinct_tasks(seed: str, count: int, reserved: frozenset[str] = frozenset()) -> list[SortTask]:
    """`count` tasks, no two of which have the same digit list, and none a reserved one."""
    tasks: dict[str, SortTask] = {}
    for task in task_stream(seed, reserved):
        tasks.setdefault(task.digits, task)
        if len(tasks) == count:
            break
    return list(tasks.values())
