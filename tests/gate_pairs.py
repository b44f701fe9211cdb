"""Rows of pairs for the tests of the gate's rules on single pairs, and what a rule finds in them."""

import json
from typing import Any

from pipeline.gate.finding import Problem
from pipeline.gate.form import row_form
from pipeline.gate.gate import Gate, Gathered
from pipeline.gate.rules import Rule
from pipeline.gate.settings import GateSettings, Limits
from schemas.forms import DEFAULT_KEYS, PairKeys

Row = dict[str, Any]


def message(role: str, content: str = "text", **keys: object) -> Row:
    """Make a message."""
    return {"role": role, "content": content, **keys}


def call(content: str = "", *, name: str = "look") -> Row:
    """Make a message of the assistant that calls a tool."""
    return message("assistant", content, tool_calls=[{"id": "1", "function": {"name": name, "arguments": {}}}])


def binary(**changes: object) -> Row:
    """Make a BinaryPreference row in which nothing is wrong."""
    row = {"prompt": "Why?", "chosen": "Because it is so.", "rejected": "No idea."}
    return row | {"chosen_reward": 1.0, "rejected_reward": 0.0} | changes


def conversation(*prompt: Row, chosen: list[Row] | None = None, rejected: list[Row] | None = None) -> Row:
    """Make a row for TRL."""
    sides = chosen or [message("assistant", "Because it is so.")], rejected or [message("assistant", "No idea.")]
    return {"prompt": [*prompt], "chosen": sides[0], "rejected": sides[1]}


def ranked(better: Row, worse: Row, *, places: tuple[int, int] = (0, 1), **changes: object) -> Row:
    """Make a Preference row; `better` and `worse` are what completions hold beside their ranks, at these places."""
    completions = [better | {"rank": 0}, worse | {"rank": 1}]
    return {"context": [message("user")], "completions": [completions[place] for place in places], **changes}


def found(row: Row, rule: Rule, *, keys: PairKeys = DEFAULT_KEYS, **limits: float) -> list[Problem]:
    """Give what one rule finds in a row that came as a line of a file; no other rule may fail at it."""
    settings = GateSettings(limits=Limits(**limits), keys=keys)
    content = json.dumps(row).encode()
    form = row_form(row, settings)
    assert form is not None
    problems = Gate(settings).check(json.loads(content), form, content=content, line=1, gathered=Gathered())
    assert Rule.SCHEMA not in {problem.rule for problem in problems}, problems
    return [problem for problem in problems if problem.rule is rule]


def told(row: Row, rule: Rule, **limits: float) -> list[tuple[str, str]]:
    """Give where a rule finds something, and what."""
    return [(problem.pointer, problem.got) for problem in found(row, rule, **limits)]
