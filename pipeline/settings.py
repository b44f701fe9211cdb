"""What a collection is asked to do: one declaration of every choice, checked before anything is read."""

import math
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pipeline.reasoning import ReasoningPolicy
from schemas.errors import UsageError
from schemas.terminal import path_text

MAX_LINE_BYTES = 256 << 20


class Format(StrEnum):
    """The form of the rows that are written."""

    BINARY = "binary"
    PREFERENCE = "preference"
    TRL = "trl"


class Strategy(StrEnum):
    """Which of the possible pairs of a prompt are taken."""

    ALL = "all"
    BEST_WORST = "best-worst"
    BEST_LOWER_TAIL = "best-lower-tail"
    CORRECT_WRONG = "correct-wrong"
    RANDOM = "random"
    TOP = "top"
    LENGTH_MATCHED = "length-matched"


class DuplicateKeys(StrEnum):
    """What becomes of different rollouts that carry the same task and rollout index."""

    KEEP = "keep"
    DROP = "drop"


class Part(StrEnum):
    """A part of the data."""

    TRAIN = "train"
    VALIDATION = "val"
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Margin:
    """The least difference of two rewards: absolute, or in standard deviations of the environment's rewards."""

    value: float
    in_deviations: bool = False

    @classmethod
    def parse(cls, text: str) -> "Margin":
        """Read `0.1` or `0.5sd`.

        Raises:
            UsageError: it is neither.
        """
        number = text.strip().removesuffix("sd")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not (0 <= value < math.inf):
            raise UsageError(
                f"--min-margin {text}: expected a number of at least 0, such as 0.1, "
                "or one in standard deviations of the environment's rewards, such as 0.5sd"
            )
        return cls(value, number != text.strip())

    def __str__(self) -> str:
        return _shortest(self.value) + ("sd" if self.in_deviations else "")


@dataclass(frozen=True, slots=True)
class RewardField:
    """Where the reward stands: the weighted sum of fields named by their keys."""

    terms: tuple[tuple[float, tuple[str, ...]], ...] = ((1.0, ("reward",)),)

    @classmethod
    def parse(cls, text: str) -> "RewardField":
        """Read `reward_components.x` or `0.7*reward_components.x+-0.3*reward_components.y`.

        Raises:
            UsageError: a weight is no number, or a name is missing.
        """
        terms = tuple(map(_term, text.split("+")))
        if None in terms:
            raise UsageError(
                f"--reward-field {text}: expected a field, such as reward_components.correctness, "
                "or a weighted sum of fields, such as 0.7*reward_components.correctness+0.3*reward_components.style"
            )
        return cls(tuple(term for term in terms if term))

    @property
    def is_default(self) -> bool:
        """Tell whether it is the row's own `reward`."""
        return self.terms == ((1.0, ("reward",)),)

    def __str__(self) -> str:
        named = [(weight, ".".join(keys)) for weight, keys in self.terms]
        return "+".join(name if weight == 1 else f"{_shortest(weight)}*{name}" for weight, name in named)


def _shortest(number: float) -> str:
    return repr(number).removesuffix(".0")


def _term(text: str) -> tuple[float, tuple[str, ...]] | None:
    weight, times, name = text.rpartition("*")
    keys = tuple(key.strip() for key in name.split("."))
    try:
        factor = float(weight) if times else 1.0
    except ValueError:
        return None
    return (factor, keys) if math.isfinite(factor) and all(keys) else None


@dataclass(frozen=True, slots=True)
class Settings:
    """All choices of a collection. The defaults are the command's."""

    format: Format = Format.BINARY
    strategy: Strategy = Strategy.ALL
    num_pairs: int | None = None  # for random and top: pairs per prompt
    threshold: float = 0.5  # for correct-wrong: the least reward of a correct response
    min_margin: Margin = Margin(0.1)
    min_chosen_reward: float | None = None
    max_rejected_reward: float | None = None
    max_length_ratio: float | None = None
    max_pairs_per_prompt: int | None = None
    max_pairs_per_agent: int | None = None
    reward_field: RewardField = RewardField()
    reasoning: ReasoningPolicy = ReasoningPolicy.KEEP
    allow_truncated_rejected: bool = False
    duplicate_keys: DuplicateKeys = DuplicateKeys.KEEP
    across_files: bool = False
    across_agents: bool = False
    validation_fraction: float = 0.0
    test_fraction: float = 0.0
    seed: int = 0
    sources: bool = True
    token_ids: bool = False  # of the policy, in the rows
    labels: Path | None = None  # a file of what people say of pairs, which counts more than rewards
    max_line_bytes: int = MAX_LINE_BYTES

    def __post_init__(self) -> None:
        """Refuse what can't be done, all of it at once.

        Raises:
            UsageError: choices that contradict each other.
        """
        if problems := list(self._problems()):
            raise UsageError("; ".join(problems))

    def as_dict(self) -> dict[str, object]:
        """Give the settings as JSON types, as the manifest keeps them."""
        values = {name: getattr(self, name) for name in self.__slots__}
        texts = (Margin, RewardField, StrEnum)
        written = {name: str(value) if isinstance(value, texts) else value for name, value in values.items()}
        return {**written, "labels": None if self.labels is None else path_text(self.labels)}

    def _problems(self) -> "list[str]":
        takes_number = self.strategy in {Strategy.RANDOM, Strategy.TOP}
        ratio, shares = self.max_length_ratio, (self.validation_fraction, self.test_fraction)
        bounds = (self.threshold, self.min_chosen_reward, self.max_rejected_reward)
        checks = [
            (takes_number and self.num_pairs is None, f"--strategy {self.strategy} needs --num-pairs N"),
            (
                not takes_number and self.num_pairs is not None,
                f"--num-pairs is for the strategies random and top; with {self.strategy} use --max-pairs-per-prompt",
            ),
            (ratio is not None and not ratio >= 1, f"--max-length-ratio {ratio}: expected at least 1"),
            (
                not all(0 <= share < 1 for share in shares) or sum(shares) >= 1,
                "--validation-fraction and --test-fraction: expected shares from 0 up to, together, less than 1",
            ),
            (
                any(bound is not None and math.isnan(bound) for bound in bounds),
                "--threshold, --min-chosen-reward and --max-rejected-reward: expected numbers, got nan",
            ),
        ]
        return [message for is_wrong, message in checks if is_wrong]
