"""What the tests of the gate's reports share: small files, some of them hostile, and what checking them gives."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.gate.report import Report
from pipeline.gate.rules import Rule, Severity
from pipeline.gate.settings import severities_of
from tests import gate_runs

GOOD: dict[str, Any] = {"prompt": "Q", "chosen": "A", "rejected": "B"}
NO_TEXT: dict[str, Any] = {"prompt": "Q", "chosen": 3, "rejected": "B"}
NO_JSON = b"{nope"

WARNED = {Rule.EMPTY_FILE: Severity.WARNING}
"""A warning that needs nothing but an empty file."""
COUNTED = (Rule.EMPTY_FILE, Rule.MALFORMED_JSON, Rule.SCHEMA)
"""The rules of these tests; the others are off, so that what they find is of no account here."""

HOSTILE = (
    "\x1b[31mred",
    "\x9b2J",
    "\u202etxt.exe",
    "[red]x[/red]",
    ":boom:",
    "::error file=x::y",
    "##[add-mask]x",
    "##vso[task.setvariable]x",
    "##teamcity[x]",
    "]]>",
    "<script>",
    "\x00",
    "\ufffe",
    "\ud800",
    "|",
    "`",
    "@all",
    "![i](http://x.org)",
    "[l](1)",
    "{0}",
    "%0A::error::x",
    "a\n::error::b",
    "\r\n##[error]",
)
"""Texts that a terminal, a CI service, XML, Markdown or SARIF would take for something else."""
HOSTILE_NAMES = ("  ::error file=x::y", "d e-ü#%?.jsonl", "a:b,c.jsonl", "--help", "\x7f")
"""Of files, besides."""


def placed(folder: Path, files: Mapping[str, Sequence[object]]) -> list[Path]:
    """Write files of rows; a row of bytes is written as it is."""
    paths = []
    for name, rows in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(
            b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)
        )
        paths.append(Path(name))
    return paths


def checked(paths: Sequence[Path], *, severities: Mapping[Rule, Severity] | None = None, **told: Any) -> Report:
    """Check files in this process, with the rules of these tests."""
    off = {rule: Severity.IGNORE for rule in Rule if rule not in COUNTED}
    return gate_runs.checked(*paths, severities=severities_of(off | WARNED | dict(severities or {})), **told)


def hostile_files(folder: Path) -> list[Path]:
    """Write files whose names and rows are hostile; each row breaks a rule and shows its text as a value or a key."""
    rows: list[object] = []
    for text in HOSTILE:
        rows += [{**GOOD, "chosen": [text]}, {**GOOD, "chosen": [{"role": text, "content": text, text: text}]}]
    names = [text.replace("/", "") for text in (*HOSTILE, *HOSTILE_NAMES) if not {"\0", "\ud800"} & set(text)]
    return placed(folder, {"rows.jsonl": [GOOD, *rows], **{name: [NO_TEXT, NO_JSON] for name in names}})
