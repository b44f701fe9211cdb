"""What the gate is told: severities, limits, and what rows are to be."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from pipeline.gate.rules import ABOUT, Rule, Severity
from schemas.forms import DEFAULT_KEYS, PairKeys
from schemas.validation import Kind


@dataclass(frozen=True)
class Limits:
    """Where rules begin to find something; None keeps a rule silent."""

    min_reward: float | None = None
    max_reward: float | None = None
    min_margin: float | None = None
    max_length_ratio: float | None = None
    min_rows: int = 100  # figures of fewer rows say nothing, so the rules on datasets are silent
    min_chosen_longer: float = 0.4  # share of the pairs in which chosen is the longer one
    max_chosen_longer: float = 0.6
    min_mean_margin: float | None = None
    max_mean_margin: float | None = None
    min_distinct_prompts: float = 0.02  # distinct prompts in each row, on average
    max_prompt_share: float = 0.2  # of the rows that have the most frequent prompt
    max_balance_share: float = 0.8  # of the rows that have the most frequent environment or preference type
    min_varied_tasks: float = 0.3  # of the tasks with several rollouts


@dataclass(frozen=True)
class GateSettings:
    """All that changes what is found. Workers get a copy, so everything in here can be pickled."""

    severities: Mapping[Rule, Severity] = field(default_factory=lambda: severities_of())
    limits: Limits = Limits()
    kind: Kind | None = None  # None: told by the first row
    keys: PairKeys = DEFAULT_KEYS
    schema: Path | None = None  # instead of ours
    tokenizer: Path | None = None
    max_tokens: int | None = None
    balance_keys: tuple[str, ...] = ("agent", "environment", "preference_type")

    def finds(self, rule: Rule) -> bool:
        """Say whether a rule is on."""
        return self.severities[rule] is not Severity.IGNORE


def severities_of(changed: Mapping[Rule, Severity] | None = None) -> dict[Rule, Severity]:
    """Give the severity of each rule: its own, or what it was changed to."""
    return {rule: (changed or {}).get(rule, about.severity) for rule, about in ABOUT.items()}


LIMIT_NAMES = tuple(each.name.replace("_", "-") for each in fields(Limits))
"""As options and configuration spell them."""
