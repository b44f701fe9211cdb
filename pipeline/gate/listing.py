"""All rules with what is known of them: `dpo validate --list-rules`, and the tables of docs/validate.md.

`python -m pipeline.gate.listing` writes those tables anew. Run it where a rule or a limit has changed; a test compares.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.gate.rules import ABOUT, Rule, Scope, Severity
from pipeline.gate.settings import LIMITS, GateSettings, Limits

PAGE = Path(__file__).parents[2] / "docs" / "validate.md"
STYLES = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.IGNORE: "dim"}
SCOPES = {
    Scope.ROW: "On each row",
    Scope.ACROSS: "Across rows",
    Scope.DATASET: "On the rows as a whole",
}


def limits_of_rule(rule: Rule) -> tuple[str, ...]:
    """Name the limits that a rule looks at."""
    return tuple(name for name, about in LIMITS.items() if rule in about.rules)


def what_is_missing(rule: Rule, settings: GateSettings) -> str | None:
    """Say what a rule needs before it can find anything; None where it has all."""
    match rule:
        case Rule.REWARD_RANGE | Rule.SMALL_MARGIN | Rule.LENGTH_RATIO:
            names = limits_of_rule(rule)
            is_set = any(_limit_value(settings.limits, name) is not None for name in names)
            return None if is_set else f"--limit {' or '.join(f'{name}=NUMBER' for name in names)}"
        case Rule.TOO_LONG:
            return None if settings.tokenizer else "--tokenizer PATH --max-tokens N"
        case Rule.PROMPT_LEAK:
            return None if settings.folds_prompts else "--against FILE"
    return None


def rules_as_json(settings: GateSettings) -> list[dict[str, Any]]:
    """Give all rules as JSON types, severities and limits as they are set."""
    return [
        {
            "name": rule.value,
            "severity": settings.severities[rule].value,
            "default_severity": about.severity.value,
            "scope": about.scope.value,
            "rows": about.rows,
            "finds": about.finds,
            "why": about.why,
            "limits": {name: _limit_value(settings.limits, name) for name in limits_of_rule(rule)},
            "needs": what_is_missing(rule, settings),
        }
        for rule, about in ABOUT.items()
    ]


def print_rules(settings: GateSettings, console: Console) -> None:
    """Print all rules for people, severities and limits as they are set."""
    for scope, title in SCOPES.items():
        table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
        table.add_column("rule", no_wrap=True, min_width=max(map(len, Rule)))
        table.add_column("severity", no_wrap=True)
        table.add_column("finds", ratio=1)
        for rule, about in ABOUT.items():
            if about.scope is scope:
                severity = settings.severities[rule]
                table.add_row(rule.value, Text(severity.value, STYLES[severity]), _told_of(rule, settings))
        console.print(table)
        console.print()
    console.print(
        "--ignore, --error and --warn RULE change a severity (all: each rule that is not named), --limit NAME=VALUE a "
        "limit; [tool.dpo.validate] in pyproject.toml, or .dpo-validate.toml, does so for all runs."
    )


def rules_page() -> str:
    """Write the table of all rules for the page: severity unless told otherwise, what is found, why, limits."""
    lines = ["| rule | severity | finds | why, or what to do |", "|---|---|---|---|"]
    for scope, title in SCOPES.items():
        lines.append(f"| **{title}** | | | |")
        lines += [
            f"| `{rule}` | {about.severity} | {about.finds} | {about.why} |"
            for rule, about in ABOUT.items()
            if about.scope is scope
        ]
    return "\n".join(lines)


def limits_page() -> str:
    """Write the table of all limits for the page."""
    lines = ["| limit | default | meaning | rules |", "|---|---|---|---|"]
    for name, about in LIMITS.items():
        default = _limit_text(_limit_value(Limits(), name))
        rules = ", ".join(f"`{rule}`" for rule in about.rules)
        lines.append(f"| `{name}` | {default} | {about.meaning} | {rules} |")
    return "\n".join(lines)


def page_with_tables(page: str) -> str:
    """Put the tables as they are now between their marks in the page."""
    for name, table in (("rules", rules_page()), ("limits", limits_page())):
        before, mark, rest = page.partition(f"<!-- {name} -->\n\n")
        _, end, after = rest.partition(f"\n\n<!-- end of {name} -->")
        assert mark, f"docs/validate.md has no marks of its table of {name}"
        assert end, f"docs/validate.md has no marks of its table of {name}"
        page = before + mark + table + end + after
    return page


def _told_of(rule: Rule, settings: GateSettings) -> Text:
    """Say what a rule finds and why, its limits, and what it waits for."""
    about = ABOUT[rule]
    text = Text(about.finds).append(f"\n{about.why}", "dim")
    limits = ", ".join(f"{name}={_limit_text(_limit_value(settings.limits, name))}" for name in limits_of_rule(rule))
    if needs := what_is_missing(rule, settings):
        text.append(f"\nsilent without {needs}", "magenta")
    elif limits:
        text.append(f"\n{limits}", "cyan")
    return text


def _limit_value(limits: Limits, name: str) -> float | None:
    values: Mapping[str, float | None] = dataclasses.asdict(limits)
    return values[name.replace("-", "_")]


def _limit_text(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"


if __name__ == "__main__":
    PAGE.write_text(page_with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
