"""What a policy is asked, and what it answers; imports nothing heavy, for the process in which vLLM answers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """A prompt that is to be answered once, with the random numbers of a seed."""

    prompt: int  # place of the prompt among all
    ids: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class Answer:
    """What a policy answered; where it was cut by the limit, it did not end."""

    text: str
    num_tokens: int  # the end of the turn counts where it came
    is_truncated: bool
