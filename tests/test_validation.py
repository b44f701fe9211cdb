"""Checking rows against their schemas: which kind a row is, what each schema allows, what a finding says."""

import json

import jsonschema_rs
import pytest

from schemas.validation import Kind, detect_kind, row_findings, schema_of

USER = {"role": "user", "content": "Q"}
ANSWER = {"role": "assistant", "content": "A"}
BINARY = {"prompt": "Q", "chosen": "A", "rejected": "B"}
RANKED = {
    "context": [USER],
    "completions": [{"rank": 0, "completion": [ANSWER]}, {"rank": 1, "completion": [ANSWER]}],
}
ROLLOUT = {
    "responses_create_params": {"input": "Q"},
    "response": {"output": [{"type": "message", "role": "assistant", "content": "A"}]},
    "reward": 1.0,
}
KINDS = "a rollout, a BinaryPreference row, a Preference row or a row for TRL"
ROLES = "one of system, developer, user, assistant, tool"


def changed(row, pointer, value):
    """Copy a row with the value at a JSON pointer replaced, or taken out where it is `...`."""
    copy = json.loads(json.dumps(row))
    *parents, last = pointer.strip("/").split("/")
    holder = copy
    for part in parents:
        holder = holder[int(part)] if isinstance(holder, list) else holder[part]
    last = int(last) if isinstance(holder, list) else last
    if value is ...:
        del holder[last]
    else:
        holder[last] = value
    return copy


@pytest.mark.parametrize("kind", Kind)
def test_schemas_are_valid_2020_12(kind):
    schema = schema_of(kind)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert jsonschema_rs.meta.is_valid(schema)


def test_both_copies_of_the_message_definition_are_equal():
    binary, ranked = schema_of(Kind.BINARY_PREFERENCE), schema_of(Kind.PREFERENCE)
    assert binary["$defs"]["message"] == ranked["$defs"]["message"]


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        (ROLLOUT, Kind.ROLLOUT),
        ({"response": {}, "reward": 0}, Kind.ROLLOUT),  # one key of a kind is enough, so that the rest is missed
        ({"responses_create_params": {}}, Kind.ROLLOUT),
        ({**ROLLOUT, "prompt": "verifiers add keys of any name"}, Kind.ROLLOUT),
        ({**ROLLOUT, "chosen": "A"}, Kind.ROLLOUT),
        (RANKED, Kind.PREFERENCE),
        ({"completions": []}, Kind.PREFERENCE),
        ({"context": []}, Kind.PREFERENCE),
        (BINARY, Kind.BINARY_PREFERENCE),
        ({"prompt": "Q"}, Kind.BINARY_PREFERENCE),
        ({"chosen": "A"}, Kind.BINARY_PREFERENCE),
        ({"rejected": "A"}, Kind.BINARY_PREFERENCE),
        ({**BINARY, "response": "other columns are allowed"}, Kind.BINARY_PREFERENCE),
        ({**BINARY, "context": "other columns are allowed"}, Kind.BINARY_PREFERENCE),
        ({**RANKED, "response": "other columns are allowed"}, Kind.PREFERENCE),
        ({**RANKED, "prompt": "other columns are allowed"}, Kind.PREFERENCE),
        ({}, None),
        ({"messages": []}, None),
        ([BINARY], None),
        ("prompt", None),
        (None, None),
        (1, None),
    ],
    ids=str,
)
def test_a_row_is_known_by_its_keys(row, kind):
    assert detect_kind(row) == kind


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        (Kind.BINARY_PREFERENCE, BINARY),
        (Kind.BINARY_PREFERENCE, {**BINARY, "prompt": [USER]}),
        (Kind.BINARY_PREFERENCE, {**BINARY, "prompt": [{"role": "system", "content": ""}, USER, ANSWER, USER]}),
        (Kind.BINARY_PREFERENCE, {**BINARY, "chosen_reward": 1, "rejected_reward": -0.5}),
        (Kind.BINARY_PREFERENCE, {**BINARY, "chosen_reward": None, "rejected_reward": None}),
        (Kind.BINARY_PREFERENCE, {**BINARY, "margin": "x", "anything": {}}),
        (Kind.PREFERENCE, RANKED),
        (Kind.PREFERENCE, changed(RANKED, "/completions/0/rank", -1.5)),
        (Kind.PREFERENCE, changed(RANKED, "/completions/0/reward", 0.5)),
        (Kind.PREFERENCE, changed(RANKED, "/completions/0/completion", [ANSWER, USER, ANSWER])),
        (Kind.PREFERENCE, {**RANKED, "source": "x"}),
        (Kind.ROLLOUT, ROLLOUT),
        (Kind.ROLLOUT, {**ROLLOUT, "_ng_task_index": 0, "_ng_rollout_index": 7, "agent_ref": {"name": "a"}}),
        (Kind.ROLLOUT, {**ROLLOUT, "agent_ref": None, "extracted_answer": None}),
        (Kind.ROLLOUT, {**ROLLOUT, "reward": -100}),
        (Kind.ROLLOUT, changed(ROLLOUT, "/responses_create_params/input", [])),
        (Kind.ROLLOUT, changed(ROLLOUT, "/response/output", [])),
        (Kind.ROLLOUT, changed(ROLLOUT, "/response/output", [[{"type": "message"}]])),  # aviary's list of lists
        (Kind.ROLLOUT, {key: ROLLOUT[key] for key in ("responses_create_params", "reward")} | {"output": []}),
    ],
    ids=str,
)
def test_what_a_schema_allows(kind, row):
    assert list(row_findings(row, kind)) == []


@pytest.mark.parametrize(
    ("kind", "row", "pointer", "got", "expected"),
    [
        # BinaryPreference
        (Kind.BINARY_PREFERENCE, [], "", "an array of 0", "object"),
        (Kind.BINARY_PREFERENCE, None, "", "null", "object"),
        (Kind.BINARY_PREFERENCE, "x", "", "'x'", "object"),
        (
            Kind.BINARY_PREFERENCE,
            changed(BINARY, "/chosen", ...),
            "",
            "an object with keys prompt, rejected",
            "a key chosen",
        ),
        (
            Kind.BINARY_PREFERENCE,
            changed(BINARY, "/prompt", ""),
            "/prompt",
            "an empty string",
            "a length of at least 1",
        ),
        (Kind.BINARY_PREFERENCE, changed(BINARY, "/prompt", []), "/prompt", "an array of 0", "a length of at least 1"),
        (Kind.BINARY_PREFERENCE, changed(BINARY, "/prompt", 1), "/prompt", "1", "string or array"),
        (Kind.BINARY_PREFERENCE, changed(BINARY, "/prompt", ["Q"]), "/prompt/0", "'Q'", "object"),
        (
            Kind.BINARY_PREFERENCE,
            changed(BINARY, "/prompt", [{"role": "user"}]),
            "/prompt/0",
            "an object with keys role",
            "a key content",
        ),
        (
            Kind.BINARY_PREFERENCE,
            changed(BINARY, "/prompt", [USER, {"content": "Q"}]),
            "/prompt/1",
            "an object with keys content",
            "a key role",
        ),
        (
            Kind.BINARY_PREFERENCE,
            changed(BINARY, "/prompt", [{"role": "User", "content": "Q"}]),
            "/prompt/0/role",
            "'User'",
            ROLES,
        ),
        (
            Kind.BINARY_PREFERENCE,
            changed(BINARY, "/prompt", [{"role": "user", "content": ["Q"]}]),
            "/prompt/0/content",
            "an array of 1",
            "string",
        ),
        (
            Kind.BINARY_PREFERENCE,
            changed(BINARY, "/chosen", ""),
            "/chosen",
            "an empty string",
            "a length of at least 1",
        ),
        (Kind.BINARY_PREFERENCE, changed(BINARY, "/chosen", [ANSWER]), "/chosen", "an array of 1", "string"),
        (Kind.BINARY_PREFERENCE, changed(BINARY, "/rejected", None), "/rejected", "null", "string"),
        (Kind.BINARY_PREFERENCE, {**BINARY, "chosen_reward": "1"}, "/chosen_reward", "'1'", "null or number"),
        (Kind.BINARY_PREFERENCE, {**BINARY, "rejected_reward": True}, "/rejected_reward", "true", "null or number"),
        # Preference
        (
            Kind.PREFERENCE,
            changed(RANKED, "/context", ...),
            "",
            "an object with keys completions",
            "a key context",
        ),
        (Kind.PREFERENCE, changed(RANKED, "/context", []), "/context", "an array of 0", "a length of at least 1"),
        (Kind.PREFERENCE, changed(RANKED, "/context", "Q"), "/context", "'Q'", "array"),
        (Kind.PREFERENCE, changed(RANKED, "/context/0/role", "bot"), "/context/0/role", "'bot'", ROLES),
        (
            Kind.PREFERENCE,
            changed(RANKED, "/completions/1", ...),
            "/completions",
            "an array of 1",
            "a length of at least 2",
        ),
        (
            Kind.PREFERENCE,
            changed(RANKED, "/completions", RANKED["completions"] * 2),
            "/completions",
            "an array of 4",
            "a length of at most 2",
        ),
        (
            Kind.PREFERENCE,
            changed(RANKED, "/completions/1/rank", ...),
            "/completions/1",
            "an object with keys completion",
            "a key rank",
        ),
        (Kind.PREFERENCE, changed(RANKED, "/completions/1/rank", "1"), "/completions/1/rank", "'1'", "number"),
        (Kind.PREFERENCE, changed(RANKED, "/completions/1/rank", False), "/completions/1/rank", "false", "number"),
        (
            Kind.PREFERENCE,
            changed(RANKED, "/completions/0/completion", []),
            "/completions/0/completion",
            "an array of 0",
            "a length of at least 1",
        ),
        (
            Kind.PREFERENCE,
            changed(RANKED, "/completions/0/completion/0/content", None),
            "/completions/0/completion/0/content",
            "null",
            "string",
        ),
        (
            Kind.PREFERENCE,
            changed(RANKED, "/completions/0/reward", "x"),
            "/completions/0/reward",
            "'x'",
            "null or number",
        ),
        (
            Kind.PREFERENCE,
            {**RANKED, "task_name": "x"},
            "/task_name",
            "'x'",
            "no such key (NeMo RL adds it itself and fails where it is there already)",
        ),
        # Rollout
        (
            Kind.ROLLOUT,
            changed(ROLLOUT, "/reward", ...),
            "",
            "an object with keys response, responses_create_params",
            "a key reward",
        ),
        (Kind.ROLLOUT, changed(ROLLOUT, "/reward", None), "/reward", "null", "number"),
        (Kind.ROLLOUT, changed(ROLLOUT, "/reward", "1.0"), "/reward", "'1.0'", "number"),
        (
            Kind.ROLLOUT,
            changed(ROLLOUT, "/responses_create_params/input", ...),
            "/responses_create_params",
            "an empty object",
            "a key input",
        ),
        (
            Kind.ROLLOUT,
            changed(ROLLOUT, "/responses_create_params/input", ["Q"]),
            "/responses_create_params/input/0",
            "'Q'",
            "object",
        ),
        (
            Kind.ROLLOUT,
            changed(ROLLOUT, "/response", ...),
            "",
            "an object with keys responses_create_params, reward",
            "a key response",
        ),
        (
            Kind.ROLLOUT,
            changed(ROLLOUT, "/response/output", ...),
            "/response",
            "an empty object",
            "a key output",
        ),
        (Kind.ROLLOUT, changed(ROLLOUT, "/response/output", "A"), "/response/output", "'A'", "array"),
        (
            Kind.ROLLOUT,
            changed(ROLLOUT, "/response/output/0/type", ...),
            "/response/output/0",
            "an object with keys content, role",
            "a key type",
        ),
        (Kind.ROLLOUT, {**ROLLOUT, "_ng_task_index": 1.5}, "/_ng_task_index", "1.5", "integer"),
        (Kind.ROLLOUT, {**ROLLOUT, "_ng_rollout_index": "0"}, "/_ng_rollout_index", "'0'", "integer"),
        # no kind
        (None, {"messages": []}, "", "an object with keys messages", KINDS),
        (None, {}, "", "an empty object", KINDS),
        (None, [1, 2], "", "an array of 2", KINDS),
        (None, True, "", "true", KINDS),
    ],
    ids=lambda value: None if isinstance(value, dict) else str(value)[:40],
)
def test_what_a_schema_refuses_and_how_it_says_so(kind, row, pointer, got, expected):
    assert list(row_findings(row, kind)) == [(pointer, got, expected)]


def test_alternatives_of_a_type_are_all_named():
    ((pointer, got, expected),) = row_findings(changed(ROLLOUT, "/responses_create_params/input", 5), Kind.ROLLOUT)
    assert (pointer, got, set(expected.split(" or "))) == ("/responses_create_params/input", "5", {"string", "array"})


@pytest.mark.parametrize("first", [1, 0, -2.5])
def test_a_tie_is_found(first):
    """As numbers, whatever they are written like."""
    row = changed(changed(RANKED, "/completions/0/rank", first), "/completions/1/rank", float(first))
    ((pointer, got, expected),) = row_findings(row, Kind.PREFERENCE)
    assert (pointer, got) == ("/completions", f"two completions of rank {first}")
    assert expected == "distinct ranks: the lower one is preferred"
