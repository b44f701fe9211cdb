"""What the command line says of a check, and what a configuration file says: each in parts that may be missing.

The two are laid over each other key by key, severities rule by rule and limits one by one; then they are checked as a
whole, so that a tokenizer may stand in the file and the number of tokens on the command line.
"""

import difflib
import json
import math
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from pipeline.gate.rules import Rule, Severity
from pipeline.gate.settings import LIMITS, GateSettings, Limits, severities_of
from schemas.errors import UsageError
from schemas.forms import DEFAULT_KEYS, PairKeys
from schemas.terminal import bare_excerpt
from schemas.validation import Kind

ALL = "all"
NONE = "none"
LISTING = "dpo validate --list-rules shows them"
SWITCHES = {"ignore": Severity.IGNORE, "error": Severity.ERROR, "warn": Severity.WARNING}
KINDS_WITH_KEYS = (None, Kind.BINARY_PREFERENCE, Kind.TRL)

Value = TypeVar("Value")


@dataclass(frozen=True)
class Told:
    """What one place says; None and empty say nothing."""

    severities: Mapping[Rule, Severity] = field(default_factory=dict)
    limits: Mapping[str, float | None] = field(default_factory=dict)  # by the names of options; None: silent
    fail_on: Severity | None = None
    max_errors: int | None = None
    max_findings: int | None = None
    max_tokens: int | None = None
    tokenizer: Path | None = None
    schema: Path | None = None
    against: tuple[Path, ...] = ()
    kind: Kind | None = None
    prompt_key: str | None = None
    chosen_key: str | None = None
    rejected_key: str | None = None
    balance_by: tuple[str, ...] = ()
    baseline: Path | None = None


def laid_over(line: Told, file: Told) -> Told:
    """Lay the command line over a file."""
    values = {each.name: getattr(line, each.name) for each in fields(Told)}
    values = {name: getattr(file, name) if value in (None, ()) else value for name, value in values.items()}
    values["severities"] = {**file.severities, **line.severities}
    values["limits"] = {**file.limits, **line.limits}
    return Told(**values)


def settings_of(told: Told) -> GateSettings:
    """Make the settings of what was told, checked as a whole.

    Raises:
        UsageError: parts of it can't be together.
    """
    named = (told.prompt_key, told.chosen_key, told.rejected_key)
    keys = PairKeys(*(usual if key is None else key for usual, key in zip(DEFAULT_KEYS, named, strict=True)))
    limits = limits_of(told.limits)
    problems = [*_problems_of(told, keys), *_problems_of_limits(limits)]
    refuse_all(problems)
    settings = GateSettings(
        severities_of(told.severities),
        limits,
        told.kind,
        keys,
        told.schema,
        told.tokenizer,
        told.max_tokens,
        folds_prompts=bool(told.against),
    )
    return replace(settings, balance_keys=told.balance_by) if told.balance_by else settings


def limits_of(told: Mapping[str, float | None]) -> Limits:
    """Give the limits with those that were told; None puts one where its rule never finds anything."""
    values: dict[str, Any] = {
        name.replace("-", "_"): LIMITS[name].silent if value is None else value for name, value in told.items()
    }
    if "min_rows" in values:
        values["min_rows"] = int(values["min_rows"])
    return Limits(**values)


def severities_told(switched: Mapping[str, Iterable[str]], dashes: str = "") -> tuple[dict[Rule, Severity], list[str]]:
    """Give the severities that lists of rules ask for, and what is wrong with the lists.

    What is wrong begins with the name of the list, with `dashes` before it. A member of a list may be several names
    with commas between them. `all` stands for every rule that is not named.
    """
    named: dict[str, str] = {}  # the switch of each rule that is named, and of `all`
    problems = []
    for switch, members in switched.items():
        for name in dict.fromkeys(_names_in(members)):
            if name != ALL and name not in {*Rule}:
                problems.append(
                    f"{dashes}{switch}: {bare_excerpt(name)}: {no_such('rule', name, [*Rule, ALL], LISTING)}"
                )
            elif name in named:
                problems.append(f"{dashes}{switch}: {name}: is named by {dashes}{named[name]} too")
            else:
                named[name] = switch
    severities = dict.fromkeys(Rule, SWITCHES[named[ALL]]) if ALL in named else {}
    severities |= {rule: SWITCHES[named[rule]] for rule in Rule if rule in named}
    return severities, problems


def limit_told(name: str, value: object) -> tuple[float | None, str | None]:
    """Give the value of a limit, None where its rule is to be silent, and what is wrong with it."""
    about = LIMITS.get(name)
    if about is None:
        return None, no_such("limit", name, LIMITS)
    is_whole = name == "min-rows"
    if value == NONE and not is_whole:
        return None, None
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    is_finite = abs(number) <= sys.float_info.max  # a whole number may be too large for a float
    if is_finite and about.least <= number <= about.most and not (is_whole and number % 1):
        return number, None
    kind = "a whole number" if is_whole else "a number"
    shown = f"{value:g}" if isinstance(value, float) else bare_excerpt(_text_of(value))
    return None, f"got {shown}, expected {kind}{_range(about.least, about.most)}" + ("" if is_whole else f", or {NONE}")


def limits_told(texts: Iterable[str]) -> tuple[dict[str, float | None], list[str]]:
    """Read `NAME=VALUE` of the command line; give the limits, and what is wrong with them."""
    limits: dict[str, float | None] = {}
    problems = []
    for text in texts:
        name, equals, written = text.partition("=")
        name, shown = name.strip(), bare_excerpt(text)
        if not equals:
            problems.append(f"--limit {shown}: expected NAME=VALUE, such as max-length-ratio=3")
            continue
        value, problem = limit_told(name, _number(written.strip()))
        if problem or name in limits:
            problems.append(f"--limit {shown}: {problem or 'is told twice'}")
        limits[name] = value
    return limits, problems


def refuse_all(problems: Sequence[str], place: str = "") -> None:
    """Tell all that is wrong at once, with the place that has it.

    Raises:
        UsageError: something is wrong.
    """
    if len(problems) == 1:
        raise UsageError(f"{place}: {problems[0]}" if place else problems[0])
    if problems:
        raise UsageError("\n  ".join([f"{place or 'the options'} can't be used:", *problems]))


def no_such(kind: str, name: str, names: Collection[str], where: str = "") -> str:
    """Say that there is no rule, limit or key of that name, and which one may be meant, or else where they are told."""
    near = difflib.get_close_matches(name.lower().replace("_", "-"), names, n=1)
    if near:
        return f"no such {kind}; did you mean {near[0]}?"
    return f"no such {kind}; " + (where or f"there are {', '.join(names)}")


def _names_in(members: Iterable[str]) -> Iterator[str]:
    for member in members:
        yield from filter(None, (name.strip() for name in member.split(",")))


def _number(text: str) -> float | str:
    """Read a number, or leave the text as it is."""
    try:
        return float(text) if "_" not in text else text
    except ValueError:
        return text


def _text_of(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _range(least: float, most: float) -> str:
    if math.isfinite(most):
        return f" from {least:g} to {most:g}"
    return f" of at least {least:g}" if math.isfinite(least) else ""


def _problems_of(told: Told, keys: PairKeys) -> Iterator[str]:
    if told.tokenizer and not told.max_tokens:
        yield "--tokenizer needs --max-tokens N: a row that has more tokens is a finding of the rule too-long"
    if told.max_tokens and not told.tokenizer:
        yield "--max-tokens needs --tokenizer PATH: the tokenizer.json of the policy, or its folder"
    if not all(keys):
        yield "--prompt-key, --chosen-key and --rejected-key name keys, got an empty text"
    elif len({*keys}) < len(keys):
        yield f"--prompt-key, --chosen-key and --rejected-key name three keys, got {bare_excerpt(', '.join(keys))}"
    if not all(told.balance_by):
        yield "--balance-by names a key, got an empty text"
    if keys != DEFAULT_KEYS and told.kind not in KINDS_WITH_KEYS:
        yield f"--prompt-key and its like name keys of binary_preference and trl rows, not of {told.kind}"


def _problems_of_limits(limits: Limits) -> Iterator[str]:
    for name in ("reward", "chosen_longer", "mean_margin"):
        least, most = getattr(limits, f"min_{name}"), getattr(limits, f"max_{name}")
        if least is not None and most is not None and least > most:
            shown = name.replace("_", "-")
            yield f"--limit min-{shown}={least:g} is above max-{shown}={most:g}, so nothing would pass"
