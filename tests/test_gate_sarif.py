"""SARIF: held to a schema written here from the specification, for the part of SARIF that we write.

No properties but these are in a report, and each of them is in SARIF 2.1.0 and of this type there. What the
specification asks for beyond a schema (indices, unique rules, harmless messages) is checked in plain code.
"""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import jsonschema_rs
import pytest

from pipeline.gate.report import Report
from pipeline.gate.reports import sarif
from pipeline.gate.reports.formats import OutputFormat, render
from pipeline.gate.reports.sarif import FINGERPRINT, MAX_EXAMPLES, uri_of
from pipeline.gate.rules import ABOUT, Rule, Severity
from tests.gate_reports import COUNTED, GOOD, NO_JSON, NO_TEXT, checked, hostile_files, placed


def closed(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    """Give the schema of an object that has no other keys."""
    return {
        "type": "object",
        "properties": required | (optional or {}),
        "required": list(required),
        "additionalProperties": False,
    }


TEXT = {"type": "string", "minLength": 1}
MESSAGE = closed({"text": TEXT})  # 3.11; of rules a multiformatMessageString, 3.12
INDEX = {"type": "integer", "minimum": 0}
LEVEL = {"enum": ["none", "note", "warning", "error"]}  # 3.27.10
DESCRIPTOR = closed(  # 3.49
    {
        "id": TEXT,
        "shortDescription": MESSAGE,
        "fullDescription": MESSAGE,
        "help": MESSAGE,
        "defaultConfiguration": closed({"level": LEVEL}),
    }
)
PHYSICAL_LOCATION = closed(  # 3.29
    {"artifactLocation": closed({"uri": {"type": "string", "format": "uri-reference"}})},
    {"region": closed({"startLine": {"type": "integer", "minimum": 1}})},
)
RESULT = closed(  # 3.27
    {
        "ruleId": TEXT,
        "ruleIndex": INDEX,
        "level": LEVEL,
        "message": MESSAGE,
        "locations": {"type": "array", "items": closed({"physicalLocation": PHYSICAL_LOCATION}), "minItems": 1},
        "partialFingerprints": closed({FINGERPRINT: {"type": "string", "pattern": "^[0-9a-f]{16}$"}}),
    }
)
NOTIFICATION = closed(  # 3.58
    {"level": LEVEL, "message": MESSAGE}, {"associatedRule": closed({"id": TEXT, "index": INDEX})}
)
INVOCATION = closed(  # 3.20
    {
        "executionSuccessful": {"type": "boolean"},
        "exitCode": {"type": "integer"},
        "toolExecutionNotifications": {"type": "array", "items": NOTIFICATION},
    }
)
DRIVER = closed({"name": TEXT, "version": TEXT, "rules": {"type": "array", "items": DESCRIPTOR, "uniqueItems": True}})
RUN = closed(  # 3.14
    {
        "tool": closed({"driver": DRIVER}),
        "invocations": {"type": "array", "items": INVOCATION, "minItems": 1},
        "results": {"type": "array", "items": RESULT},
    }
)
LOG = closed({"$schema": TEXT, "version": {"const": "2.1.0"}, "runs": {"type": "array", "items": RUN, "minItems": 1}})
VALIDATOR = jsonschema_rs.Draft202012Validator(LOG, validate_formats=True)

PLACEHOLDER = re.compile(r"(?<!\{)\{\d+\}(?!\})")


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run_of(report: Report, fail_on: Severity = Severity.ERROR) -> dict[str, Any]:
    """Render a report, hold it to the specification, and give its run."""
    log = json.loads(render(OutputFormat.SARIF, report, fail_on))
    assert [error.message for error in VALIDATOR.iter_errors(log)] == []
    (run,) = log["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert len(set(rules)) == len(rules)
    notes = run["invocations"][0]["toolExecutionNotifications"]
    for result in run["results"]:
        assert rules[result["ruleIndex"]] == result["ruleId"]
    for rule in (note["associatedRule"] for note in notes if "associatedRule" in note):
        assert rules[rule["index"]] == rule["id"]
    for text in (each["message"]["text"] for each in [*run["results"], *notes]):
        assert "](" not in text  # an embedded link, 3.11.6
        assert not PLACEHOLDER.search(text)  # 3.11.5
    result: dict[str, Any] = run
    return result


def places(run: dict[str, Any]) -> list[tuple[str, int | None]]:
    found = (result["locations"][0]["physicalLocation"] for result in run["results"])
    return [(place["artifactLocation"]["uri"], place.get("region", {}).get("startLine")) for place in found]


def test_the_schema_of_this_test_refuses_what_is_wrong(tmp_path: Path) -> None:
    log = json.loads(render(OutputFormat.SARIF, checked(placed(tmp_path, {"a.jsonl": [NO_TEXT]}))))
    for wrong in ({"startLine": 0}, {"startLine": 1, "startcolumn": 1}):
        log["runs"][0]["results"][0]["locations"][0]["physicalLocation"]["region"] = wrong
        assert not VALIDATOR.is_valid(log)
    log["runs"][0]["results"][0]["locations"][0]["physicalLocation"] = {"artifactLocation": {"uri": "a b"}}
    assert not VALIDATOR.is_valid(log)


def test_a_run(tmp_path: Path) -> None:
    report = checked(placed(tmp_path, {"a.jsonl": [GOOD, NO_TEXT], "b.jsonl": []}))
    run = run_of(report)
    assert run["results"] == [
        {
            "ruleId": "empty-file",
            "ruleIndex": 0,
            "level": "warning",
            "message": {"text": "got an empty file, expected at least one row"},
            "locations": [{"physicalLocation": {"artifactLocation": {"uri": "b.jsonl"}}}],
            "partialFingerprints": {FINGERPRINT: f"{report.findings[0].fingerprint:016x}"},
        },
        {
            "ruleId": "schema",
            "ruleIndex": 2,
            "level": "error",
            "message": {"text": "/chosen: got 3, expected string"},
            "locations": [
                {"physicalLocation": {"artifactLocation": {"uri": "a.jsonl"}, "region": {"startLine": 2}}},
            ],
            "partialFingerprints": {FINGERPRINT: f"{report.findings[1].fingerprint:016x}"},
        },
    ]
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == list(COUNTED)  # those that are off are left out
    assert rules[2]["shortDescription"] == {"text": "A row that misses its JSON Schema."}
    assert rules[2]["help"] == {"text": ABOUT[Rule.SCHEMA].why}
    assert [rule["defaultConfiguration"]["level"] for rule in rules] == ["warning", "error", "error"]
    assert run["invocations"] == [{"executionSuccessful": True, "exitCode": 1, "toolExecutionNotifications": []}]


def test_nothing_found(tmp_path: Path) -> None:
    run = run_of(checked(placed(tmp_path, {"a.jsonl": [GOOD]})))
    assert run["results"] == []
    assert run["invocations"][0]["exitCode"] == 0


def test_a_file_that_cant_be_read_is_a_failed_execution() -> None:
    (invocation,) = run_of(checked([Path("none](1) {0}.jsonl")]))["invocations"]
    assert (invocation["executionSuccessful"], invocation["exitCode"]) == (False, 3)
    (note,) = invocation["toolExecutionNotifications"]
    assert note == {"level": "error", "message": {"text": "none] (1) {{0}}.jsonl: no such file"}}


def test_examples_are_capped_and_the_rest_is_told(tmp_path: Path) -> None:
    """The second file has its examples all the same."""
    files = placed(tmp_path, {"a.jsonl": [*[NO_TEXT] * 2000, NO_JSON], "b.jsonl": [NO_TEXT] * 3})
    run = run_of(checked(files))
    found = [result["ruleId"] for result in run["results"]]
    assert found == ["malformed-json", *["schema"] * MAX_EXAMPLES]
    assert places(run)[-3:] == [("b.jsonl", 1), ("b.jsonl", 2), ("b.jsonl", 3)]
    (note,) = run["invocations"][0]["toolExecutionNotifications"]
    assert note["message"]["text"] == "1,903 more findings of schema not listed."
    assert note["associatedRule"] == {"id": "schema", "index": 2}


def test_all_rules_at_their_cap_have_room_on_github() -> None:
    assert len(Rule) * sarif.MAX_EXAMPLES < 5000


def test_an_early_end_is_told(tmp_path: Path) -> None:
    run = run_of(checked(placed(tmp_path, {"a.jsonl": [NO_TEXT] * 3}), max_errors=2))
    (note,) = run["invocations"][0]["toolExecutionNotifications"]
    assert note["message"]["text"] == "Stopped after 2 errors; what lies behind was not checked."


def test_hostile_texts_and_names(tmp_path: Path) -> None:
    files = hostile_files(tmp_path)
    run = run_of(checked(files))
    uris = {uri for uri, _ in places(run)}
    assert {"%3A%3Aerror%20file%3Dx%3A%3Ay", "a%3Ab%2Cc.jsonl", "d%20e-%C3%BC%23%25%3F.jsonl"} <= uris
    assert {"%5D%5D%3E", "%7B0%7D", "--help"} <= uris
    assert len(uris) == len(files)


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        ("data/train.jsonl", "data/train.jsonl"),
        ("./data/train.jsonl", "data/train.jsonl"),
        (".//a.jsonl", "a.jsonl"),
        ("../a.jsonl", "../a.jsonl"),
        ("/srv/a b.jsonl", "file:///srv/a%20b.jsonl"),
        ("//srv/a.jsonl", "file:///srv/a.jsonl"),
        ("c:/a.jsonl", "c%3A/a.jsonl"),  # a folder of that name, no scheme
        ("100%.jsonl", "100%25.jsonl"),
        ("中.jsonl", "%E4%B8%AD.jsonl"),
        ("s3://bucket/a b#1.jsonl", "s3://bucket/a%20b%231.jsonl"),
        ("https://x.org/a.jsonl?v=1&w=2", "https://x.org/a.jsonl?v=1&w=2"),
    ],
)
def test_uris(path: str, uri: str) -> None:
    assert uri_of(path) == uri
    assert unquote(uri).removeprefix("file://").removeprefix("/").endswith(path.lstrip("./"))
