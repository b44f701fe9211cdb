"""What the gate is told: severities, limits, and what rows are to be."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.gate.rules import ABOUT, Rule, Severity
from schemas.forms import DEFAULT_KEYS, PairKeys
from schemas.validation import Kind


class LimitAbout(NamedTuple):
    """What is known of a limit."""

    meaning: str  # as a noun phrase
    rules: tuple[Rule, ...]  # that look at it
    least: float
    most: float
    silent: float | None  # what `none` stands for: the value at which the rule never finds anything


def _limit(
    default: float | None,
    meaning: str,
    *rules: Rule,
    least: float = -math.inf,
    most: float = math.inf,
    silent: float | None = None,
) -> Any:
    return field(default=default, metadata={"about": LimitAbout(meaning, rules, least, most, silent)})


def _share(default: float, meaning: str, *rules: Rule, silent: float) -> Any:
    return _limit(default, meaning, *rules, least=0, most=1, silent=silent)


@dataclass(frozen=True)
class Limits:
    """Where rules begin to find something; None keeps a rule silent."""

    min_reward: float | None = _limit(None, "least reward", Rule.REWARD_RANGE)
    max_reward: float | None = _limit(None, "greatest reward", Rule.REWARD_RANGE)
    min_margin: float | None = _limit(None, "least margin of a pair's rewards", Rule.SMALL_MARGIN, least=0)
    max_length_ratio: float | None = _limit(
        None, "greatest ratio of the longer to the shorter response, in characters", Rule.LENGTH_RATIO, least=1
    )
    min_rows: int = _limit(
        100,
        "rows below which figures of the whole say nothing",
        Rule.LENGTH_BIAS,
        Rule.REWARD_STATISTICS,
        Rule.PROMPT_DIVERSITY,
        Rule.BALANCE,
        Rule.FEW_VARIED_TASKS,
        least=1,
    )
    min_chosen_longer: float = _share(
        0.4, "least share of the pairs in which chosen is the longer one", Rule.LENGTH_BIAS, silent=0
    )
    max_chosen_longer: float = _share(0.6, "greatest share of those pairs", Rule.LENGTH_BIAS, silent=1)
    min_mean_margin: float | None = _limit(None, "least mean margin of the rewards", Rule.REWARD_STATISTICS)
    max_mean_margin: float | None = _limit(None, "greatest mean margin of the rewards", Rule.REWARD_STATISTICS)
    min_distinct_prompts: float = _share(
        0.02, "least number of distinct prompts for each row", Rule.PROMPT_DIVERSITY, silent=0
    )
    max_prompt_share: float = _share(
        0.2, "greatest share of the rows that have one and the same prompt", Rule.PROMPT_DIVERSITY, silent=1
    )
    max_balance_share: float = _share(
        0.9, "greatest share of the rows that have one environment or preference type", Rule.BALANCE, silent=1
    )
    min_varied_tasks: float = _share(
        0.2,
        "least share of the tasks with several rollouts whose rewards differ",
        Rule.FEW_VARIED_TASKS,
        silent=0,
    )


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
    folds_prompts: bool = False  # prompts are to be compared with those of other files, so each is brought to one form

    def finds(self, rule: Rule) -> bool:
        """Say whether a rule is on."""
        return self.severities[rule] is not Severity.IGNORE


def severities_of(changed: Mapping[Rule, Severity] | None = None) -> dict[Rule, Severity]:
    """Give the severity of each rule: its own, or what it was changed to."""
    return {rule: (changed or {}).get(rule, about.severity) for rule, about in ABOUT.items()}


LIMITS: dict[str, LimitAbout] = {each.name.replace("_", "-"): each.metadata["about"] for each in fields(Limits)}
"""By their names as options and configuration spell them."""
