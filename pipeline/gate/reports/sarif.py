"""SARIF 2.1.0 (OASIS, errata 01), for GitHub's code scanning, GitLab, Azure DevOps and editors.

Some examples of each rule are results, and a notification tells how many more there are: GitHub shows 5,000 alerts of a
file at most. There are no columns, as ours count bytes and SARIF's count characters. The fingerprint has a name of its
own: GitHub's action for uploads works out `primaryLocationLineHash` itself, and warns of each that differs.
"""

import itertools
import json
import re
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pipeline.gate.finding import Finding
from pipeline.gate.report import Report
from pipeline.gate.reports.choice import fair_choice
from pipeline.gate.reports.jsonl import without_commands
from pipeline.gate.reports.plain_text import remarks, sentence
from pipeline.gate.rules import ABOUT, Rule, Severity
from schemas.streams import as_url
from schemas.terminal import counted

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
MAX_EXAMPLES = 100
"""Of each rule: with all rules less than the 5,000 that GitHub shows."""
FINGERPRINT = "dpoFinding/v1"

_URL_CHARACTERS = "/:?&=@+,;~"
_PLACEHOLDER = re.compile(r"\{(\d+)\}")


def render(report: Report, fail_on: Severity) -> str:
    """Write the report as SARIF, in ASCII."""
    rules = [rule for rule in Rule if report.severities[rule] is not Severity.IGNORE]
    number_of = {rule: number for number, rule in enumerate(rules)}
    examples = _examples(report)
    run = {
        "tool": {
            "driver": {
                "name": "dpo validate",
                "version": version("dpo"),
                "rules": [_descriptor(rule, report.severities[rule]) for rule in rules],
            }
        },
        "invocations": [
            {
                "executionSuccessful": not report.unreadable,
                "exitCode": report.exit_code(fail_on),
                "toolExecutionNotifications": _notifications(report, number_of, examples),
            }
        ],
        "results": [_result(finding, report, number_of) for finding in examples],
    }
    content = {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}
    return without_commands(json.dumps(content, indent=1)) + "\n"


def uri_of(path: str) -> str:
    """Give a path as a URI reference, relative where the path is."""
    if as_url(Path(path)):
        return quote(path, safe=_URL_CHARACTERS)
    if path.startswith("/"):
        return "file://" + quote("/" + path.lstrip("/"))
    while path.startswith("./"):
        path = path[2:].lstrip("/")
    return quote(path)


def _examples(report: Report) -> list[Finding]:
    by_rule: dict[Rule, list[Finding]] = {}
    for finding in report.findings:
        by_rule.setdefault(finding.rule, []).append(finding)
    chosen = (fair_choice(found, MAX_EXAMPLES, report.severities) for found in by_rule.values())
    return list(itertools.chain.from_iterable(chosen))


def _descriptor(rule: Rule, severity: Severity) -> dict[str, Any]:
    about = ABOUT[rule]
    return {
        "id": rule,
        "shortDescription": {"text": sentence(about.finds)},
        "fullDescription": {"text": f"{sentence(about.finds)} {about.why}"},
        "help": {"text": about.why},
        "defaultConfiguration": {"level": severity},
    }


def _result(finding: Finding, report: Report, number_of: dict[Rule, int]) -> dict[str, Any]:
    place: dict[str, Any] = {"artifactLocation": {"uri": uri_of(finding.path)}}
    if finding.line:
        place["region"] = {"startLine": finding.line}
    return {
        "ruleId": finding.rule,
        "ruleIndex": number_of[finding.rule],
        "level": report.severities[finding.rule],
        "message": {"text": _plain(finding.message)},
        "locations": [{"physicalLocation": place}],
        "partialFingerprints": {FINGERPRINT: f"{finding.fingerprint:016x}"},
    }


def _notifications(report: Report, number_of: dict[Rule, int], examples: list[Finding]) -> list[dict[str, Any]]:
    notes: list[dict[str, Any]] = [{"level": "error", "message": {"text": _plain(text)}} for text in report.unreadable]
    notes += [{"level": "note", "message": {"text": sentence(remark)}} for remark in remarks(report)]
    shown = Counter(finding.rule for finding in examples)
    for rule, number in report.counts.items():
        if hidden := number - shown[rule]:
            text = f"{counted(hidden, 'more finding')} of {rule} not listed."
            about = {"id": rule, "index": number_of[rule]}
            notes.append({"level": "note", "message": {"text": text}, "associatedRule": about})
    return notes


def _plain(text: str) -> str:
    """Spell foreign text so that it holds no link and no placeholder of SARIF's messages (3.11.5, 3.11.6)."""
    return _PLACEHOLDER.sub(r"{{\1}}", text).replace("](", "] (")
