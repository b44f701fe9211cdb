"""A schema of the user's own: any draft, references in its folder alone, no network, no pattern that hangs."""

import json
import socket
import time

import pytest

from pipeline.gate.line.user_schema import MAX_SCHEMA_BYTES, user_validator
from pipeline.gate.rules import Rule
from pipeline.gate.run import check_files
from pipeline.gate.settings import GateSettings
from schemas.errors import UsageError
from schemas.validation import MAX_FINDINGS, schema_findings

DRAFT_7 = "http://json-schema.org/draft-07/schema#"
DRAFT_4 = "http://json-schema.org/draft-04/schema#"


@pytest.fixture
def folder(tmp_path):
    """Make a folder with schemas, and one beside it that is none of its business."""
    folder = tmp_path / "schemas"
    (folder / "parts").mkdir(parents=True)
    (tmp_path / "secret.json").write_text('{"type": "string"}')
    (folder / "text.json").write_text('{"type": "string", "$defs": {"short": {"maxLength": 3}}}')
    (folder / "parts" / "up.json").write_text('{"$ref": "../text.json"}')
    (folder / "cut.json").write_text("{")
    (folder / "nonsense.json").write_text('{"type": "nonsense"}')
    (folder / "other_draft.json").write_text('{"$schema": "https://example.com/draft"}')
    (folder / "linked.json").symlink_to(folder / "text.json")
    (folder / "leak.json").symlink_to(tmp_path / "secret.json")
    return folder


@pytest.fixture
def no_network(monkeypatch):
    """Listen where a schema points to; who connects is noted."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.05)
    yield listener.getsockname()[1]
    with pytest.raises(TimeoutError):
        listener.accept()
    listener.close()


def validator_of(folder, schema):
    path = folder / "row.json"
    path.write_text(schema if isinstance(schema, str) else json.dumps(schema))
    return user_validator(path)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "text.json"},
        {"$ref": "./parts/up.json"},  # which refers to its neighbour's folder, and that is the schema's
        {"$ref": "linked.json"},
        {"$ref": "parts/../text.json"},
        {
            "$id": "https://example.com/schemas/row.json",
            "$ref": "text.json",
        },  # the folder stands for where it says it is
        {"$id": "https://example.com/schemas/row.json", "$ref": "parts/up.json"},
        {"$schema": DRAFT_7, "definitions": {"t": {"type": "string"}}, "$ref": "#/definitions/t"},
        {"$schema": DRAFT_4, "type": "string"},
        {"$schema": "https://json-schema.org/draft/2019-09/schema", "type": "string"},
        {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "string"},
        '\ufeff{"type": "string"}\n',
    ],
    ids=str,
)
def test_what_a_schema_may_be(folder, schema, no_network):
    validator = validator_of(folder, schema)
    assert validator.is_valid("text")
    assert not validator.is_valid(1)


def test_true_takes_all_and_a_schema_may_describe_schemas(folder, no_network):
    assert validator_of(folder, "true").is_valid(1)
    meta = validator_of(folder, {"$ref": "https://json-schema.org/draft/2020-12/schema"})
    assert meta.is_valid({"type": "string"})
    assert not meta.is_valid({"type": "nonsense"})


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("../secret.json", r"\$ref to file://\S*/secret.json: outside of \S*schemas, the schema's folder"),
        ("%2e%2e/secret.json", r"secret.json: outside of"),
        ("parts/..%2f..%2fsecret.json", r"outside of"),
        ("leak.json", r"leak.json: outside of"),
        ("/etc/passwd", r"\$ref to file:///etc/passwd: outside of"),
        ("file:///etc/passwd", r"\$ref to file:///etc/passwd: outside of"),
        ("file://localhost/etc/passwd", r"nothing is fetched"),
        ("http://127.0.0.1:{port}/row.json", r"\$ref to http://127.0.0.1:\d+/row.json: nothing is fetched"),
        ("//127.0.0.1:{port}/row.json", r"nothing is fetched"),
        ("https://example.com/row.json", r"\$ref to https://example.com/row.json: nothing is fetched"),
        ("ftp://127.0.0.1:{port}/row.json", r"nothing is fetched"),
        ("urn:example:row", r"\$ref to urn:example:row: nothing is fetched"),
        ("absent.json", r"absent.json: no such file"),
        ("parts", r"parts: no such file"),
        ("cut.json", r"cut.json: no JSON"),
        ("nonsense.json", r"nonsense.json: /type: no JSON Schema"),
        ("other_draft.json", r"other_draft.json: \$schema: got 'https://example.com/draft'"),
        ("text.json#/$defs/long", r"a \$ref leads nowhere: Pointer '/\$defs/long' does not exist"),
        ("#/$defs/absent", r"a \$ref leads nowhere: Pointer '/\$defs/absent' does not exist"),
        ("text.json%00", r"null byte"),
        ("not a reference", r"a \$ref leads nowhere: Invalid URI reference"),
        ("\x1b]0;title\x07", r"a \$ref leads nowhere: Invalid URI reference '\\x1b"),
    ],
    ids=str,
)
def test_references_that_are_refused(folder, reference, told, no_network):
    with pytest.raises(UsageError, match=told) as raised:
        validator_of(folder, {"properties": {"a": {"$ref": reference.format(port=no_network)}}})
    assert str(raised.value).startswith(f"--schema {folder / 'row.json'}: ")
    assert str(raised.value).isprintable()


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ("", r"no JSON \(Input data was truncated\)"),
        ("type: string", r"no JSON"),
        ("[" * 100_000, r"no JSON \(JSON nested too deep\)"),
        ('{"not":' * 600 + "{}" + "}" * 600, r"Recursion limit"),
        ([1], r"no JSON Schema: got an array of 1, expected an object"),
        ("5", r"no JSON Schema: got 5, expected an object"),
        ({"type": "nonsense"}, r'/type: no JSON Schema: "nonsense" is not valid'),
        ({"properties": {"a/b": {"minimum": "x"}}}, r"/properties/a~1b/minimum: no JSON Schema: .* not of type"),
        (
            {"$schema": "http://127.0.0.1:{port}/draft"},
            r"\$schema: got 'http://127.0.0.1:\d+/draft', expected that of dr",
        ),
        (
            {"$schema": "http://json-schema.org/draft-03/schema#"},
            r"expected that of draft 4, draft 6, draft 7, 2019-09",
        ),
        ({"$schema": 5}, r"\$schema: got 5, expected that"),
        ({"pattern": "^(?!x)"}, r"/pattern: the pattern '\^\(\?!x\)' needs look-around"),
        ({"pattern": r"(a)\1"}, r"needs look-around or a back-reference"),
        ({"patternProperties": {"(?=a)b": {}}}, r"the pattern '\(\?=a\)b' needs look-around"),
        ({"pattern": "("}, r"/pattern: the pattern '\(' is no regular expression"),
        ({"pattern": "a{1000}{1000}{1000}"}, r"is too large for an engine"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_is_no_schema_is_told(folder, schema, told, no_network):
    schema = json.loads(json.dumps(schema).replace("{port}", str(no_network)))
    with pytest.raises(UsageError, match=told):
        validator_of(folder, schema)


def test_files_that_can_not_be_read_are_told(folder):
    with pytest.raises(UsageError, match=r"--schema \S*/absent.json: can't be read: No such file"):
        user_validator(folder / "absent.json")
    with pytest.raises(UsageError, match=r"--schema \S*/parts: can't be read: Is a directory"):
        user_validator(folder / "parts")
    with pytest.raises(UsageError, match="can't be read: embedded null byte"):
        user_validator(folder / "a\0b")
    (folder / "huge.json").write_bytes(b" " * (MAX_SCHEMA_BYTES + 1))
    with pytest.raises(UsageError, match=r"more than 16 MiB"):
        user_validator(folder / "huge.json")


def test_no_pattern_hangs(folder):
    validator = validator_of(folder, {"pattern": "^(a+)+$"})
    started = time.monotonic()
    assert not validator.is_valid("a" * 100_000 + "!")
    assert time.monotonic() - started < 2  # by trying again and again it would be the end of the universe


def test_formats_are_asserted_where_the_draft_says_so(folder):
    assert not validator_of(folder, {"$schema": DRAFT_7, "format": "date"}).is_valid("yesterday")
    assert validator_of(folder, {"format": "date"}).is_valid("yesterday")  # in 2020-12 it is a remark


@pytest.mark.parametrize(
    ("schema", "value", "pointer", "got", "expected"),
    [
        ({"type": ["string", "null"]}, 1, "/a", "1", "null or string"),
        ({"enum": [1, "x", {"b": 2}]}, 5, "/a", "5", 'one of 1, x, {"b": 2}'),
        ({"const": {"x": 1}}, 1, "/a", "1", '{"x": 1}'),
        ({"pattern": "^x"}, "y", "/a", "'y'", "a text that matches ^x"),
        ({"minLength": 3}, "y", "/a", "'y'", "a length of at least 3"),
        ({"maximum": 11}, 13, "/a", "13", "at most 11"),
        ({"exclusiveMinimum": 0}, 0, "/a", "0", "more than 0"),
        ({"multipleOf": 5}, 13, "/a", "13", "a multiple of 5"),
        ({"minProperties": 2}, {"k": 1}, "/a", "an object with keys k", "at least 2 keys"),
        ({"uniqueItems": True}, [1, 1], "/a", "an array of 2", "no item twice"),
        ({"contains": {"const": 1}}, [2], "/a", "an array of 1", "items of which enough"),
        ({"not": {"type": "null"}}, None, "/a", "null", 'anything but {"type": "null"}'),
        ({"dependentRequired": {"x": ["y"]}}, {"x": 1}, "/a", "an object with keys x", "a key y"),
        ({"if": {"type": "string"}, "then": {"minLength": 3}}, "y", "/a", "'y'", "a length of at least 3"),
        (
            {"propertyNames": {"pattern": "^x"}},
            {"y": 1},
            "/a",
            "an object with keys y",
            "keys that are each a text that",
        ),
        ({"properties": {"x": {}}, "additionalProperties": False}, {"y": 1}, "/a", "an object with keys y", "no key y"),
        ({"additionalProperties": False}, {"y": 1}, "/a", "1", "an object without keys"),
        (
            {"properties": {"x": {}}, "unevaluatedProperties": False},
            {"y": 1},
            "/a",
            "an object with keys y",
            "no key y",
        ),
        ({"prefixItems": [{}], "unevaluatedItems": False}, [1, 2], "/a", "an array of 2", "fewer items"),
        ({"prefixItems": [{}], "items": False}, [1, 2], "/a/1", "2", "no value here"),
        (False, 1, "/a", "1", "no value here"),
        ({"anyOf": [{"type": "string"}, {"type": "array"}]}, 1, "/a", "1", "string or array"),
        ({"oneOf": [{"type": "string"}, {"type": "null"}]}, 1, "/a", "1", "string or null"),
        ({"oneOf": [{"type": "string"}, {"minLength": 1}]}, "y", "/a", "'y'", "one of the forms that the schema names"),
        (
            {"anyOf": [{"required": ["x"]}, {"properties": {"k": {"type": "string"}}}]},
            {"k": 1},
            "/a",
            "an object with keys k",
            "a key x; or at k: string",
        ),
        (
            {"anyOf": [{"minimum": n} for n in range(5, 10)]},
            1,
            "/a",
            "1",
            "at least 5; or at least 6; or at least 7; or 2",
        ),
        ({"items": {"type": "string"}}, ["x", 1], "/a/1", "1", "string"),
        ({"required": ["\x1b[2J" + "k" * 99]}, {}, "/a", "an empty object", "a key \\x1b[2Jkkk"),
        ({"pattern": "\u202e"}, "y", "/a", "'y'", "a text that matches \\u202e"),
    ],
    ids=str,
)
def test_what_a_row_misses_is_said_in_words(folder, schema, value, pointer, got, expected):
    validator = validator_of(folder, {"properties": {"a": schema}})
    ((found_pointer, found_got, found_expected),) = schema_findings(validator, {"a": value})
    assert (found_pointer, found_got) == (pointer, got)
    assert found_expected.startswith(expected)
    assert found_expected.isprintable()
    assert len(found_expected) < 100


def test_a_list_of_wrong_items_is_not_told_to_its_end(folder):
    validator = validator_of(folder, {"items": {"type": "string"}})
    assert len(list(schema_findings(validator, list(range(1000))))) == MAX_FINDINGS


def test_one_thing_at_one_place_is_told_once(folder):
    validator = validator_of(folder, {"allOf": [{"type": "string"}, {"type": "string"}, {"minimum": 5}]})
    assert list(schema_findings(validator, 1)) == [("", "1", "string"), ("", "1", "at least 5")]


def test_a_wrong_row_too_deep_to_be_told_of_is_told_as_that(folder):
    validator = validator_of(folder, {"type": "array", "minItems": 2})
    deep = json.loads("[" * 400 + "]" * 400)
    assert list(schema_findings(validator, deep)) == [("", "JSON nested too deep", "less than 255 levels")]


def test_rows_of_the_users_own_form_are_held_to_the_users_schema(folder):
    rows = folder / "rows.jsonl"
    rows.write_text('{"question": "q", "score": 3}\n{"question": "q", "score": "high"}\n')
    (folder / "row.json").write_text('{"properties": {"score": {"$ref": "number.json"}}}')
    (folder / "number.json").write_text('{"type": "number", "maximum": 5}')
    (finding,) = check_files([rows], GateSettings(schema=folder / "row.json")).findings
    assert (finding.rule, finding.line, finding.pointer) == (Rule.SCHEMA, 2, "/score")
    assert finding.message == "/score: got 'high', expected number"
