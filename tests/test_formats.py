"""The schemas as what other people use: ids that stay, notes for readers, examples that hold, the page made of them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from typer.testing import CliRunner

from cli import app
from schemas.formats_page import COMMANDS, formats_page
from schemas.validation import Kind, validator_of
from trainer.config.listing import EXAMPLES
from views.review.pair_rows import OF_REVIEW

REPOSITORY = Path(__file__).parents[1]
PAGE = (REPOSITORY / "docs" / "formats.md").read_text()
# whoever keeps a copy of a schema, or refers to one, knows it by these
IDS = {
    "rollout": "urn:dpo:schema:rollout:1",
    "binary": "urn:dpo:schema:binary-preference:1",
    "preference": "urn:dpo:schema:preference:1",
    "trl": "urn:dpo:schema:trl:1",
    "train-config": "urn:dpo:schema:train-config:1",
}
EMPTY: tuple[Any, ...] = (None, {}, [])
"""Defaults that don't show what a value looks like."""


def schema_named(name: str) -> dict[str, Any]:
    """Take a schema from where users get it."""
    result = CliRunner().invoke(app, ["schema", name])
    assert result.exit_code == 0
    schema: dict[str, Any] = json.loads(result.stdout)
    return schema


SCHEMAS = {name: schema_named(name) for name in IDS}


def parts_of(schema: Any, pointer: str = "#") -> Iterator[tuple[str, Any]]:
    """Yield every schema in a schema, with where it stands."""
    yield pointer, schema
    if not isinstance(schema, dict):
        return
    for keyword in ("properties", "$defs"):
        for name, part in schema.get(keyword, {}).items():
            yield from parts_of(part, f"{pointer}/{keyword}/{name}")
    for keyword in ("items", "not", "if", "then", "else", "additionalProperties"):
        if keyword in schema:
            yield from parts_of(schema[keyword], f"{pointer}/{keyword}")
    for keyword in ("anyOf", "oneOf", "allOf", "prefixItems"):
        for number, part in enumerate(schema.get(keyword, ())):
            yield from parts_of(part, f"{pointer}/{keyword}/{number}")


PARTS = {(name, pointer): part for name, schema in SCHEMAS.items() for pointer, part in parts_of(schema)}
NOTED = [place for place in PARTS if place[1] == "#" or place[1].split("/")[-2] in ("properties", "$defs")]
SHOWN = [(name, pointer) for (name, pointer), part in PARTS.items() if isinstance(part, dict) and "examples" in part]


def validator_at(name: str, part: dict[str, Any]) -> jsonschema_rs.Validator:
    """Build the validator of a part of a schema, which may refer to the definitions of the whole."""
    definitions = SCHEMAS[name].get("$defs", {})
    return jsonschema_rs.Draft202012Validator({"$defs": definitions, **part})


@pytest.mark.parametrize("name", IDS)
def test_a_schema_is_2020_12_with_an_id_that_stays(name: str) -> None:
    schema = SCHEMAS[name]
    assert jsonschema_rs.meta.is_valid(schema)
    assert (schema["$schema"], schema["$id"]) == ("https://json-schema.org/draft/2020-12/schema", IDS[name])


@pytest.mark.parametrize("name", IDS)
def test_a_schema_refers_to_itself_alone(name: str) -> None:
    references = [
        part["$ref"] for pointer, part in parts_of(SCHEMAS[name]) if isinstance(part, dict) and "$ref" in part
    ]
    assert references
    assert {reference for reference in references if not reference.startswith("#/$defs/")} == set()
    assert {reference.rpartition("/")[2] for reference in references} <= SCHEMAS[name]["$defs"].keys()


def test_the_walk_finds_what_there_is() -> None:
    # all that is written as "examples" beside other keywords, and no key of a row of that name
    assert len(SHOWN) == sum(json.dumps(schema).count('"examples": [') for schema in SCHEMAS.values())
    assert ("preference", "#/properties/completions/items/properties/rank") in SHOWN
    assert ("binary", "#/$defs/message/properties/tool_calls") in SHOWN


@pytest.mark.parametrize(("name", "pointer"), NOTED)
def test_the_whole_every_key_and_every_part_has_a_title_and_a_description(name: str, pointer: str) -> None:
    part = PARTS[name, pointer]
    if part is False:  # a key that must not be there
        assert pointer == "#/properties/task_name"
        return
    assert re.fullmatch(r"\S.{1,40}", part["title"])
    assert re.fullmatch(r"\S.*\.", part["description"]), "a sentence"
    assert len(part["description"]) <= 280


@pytest.mark.parametrize(("name", "pointer"), SHOWN)
def test_every_example_is_valid_where_it_stands(name: str, pointer: str) -> None:
    part = PARTS[name, pointer]
    assert part["examples"]
    for example in part["examples"]:
        assert [error.message for error in validator_at(name, part).iter_errors(example)] == []


@pytest.mark.parametrize("kind", COMMANDS)
def test_the_first_example_of_rows_is_the_least_and_the_last_is_full(kind: Kind) -> None:
    schema, is_valid = SCHEMAS[COMMANDS[kind]], validator_of(kind).is_valid
    least, full = schema["examples"][0], schema["examples"][-1]
    assert all(map(is_valid, schema["examples"]))
    for key in least:  # none of them can be left out
        assert not is_valid({name: least[name] for name in least if name != key})
    unnamed = {"chosen_agent", "rejected_agent", "tools", "task_name", "output", "_ng_failure_class"}
    assert schema["properties"].keys() - full.keys() <= unnamed | OF_REVIEW
    assert full.keys() <= schema["properties"].keys()


@pytest.mark.parametrize("name", ["binary", "preference", "trl"])
def test_what_a_review_writes_into_pairs_is_told_and_makes_no_row_wrong_that_was_right(name: str) -> None:
    assert SCHEMAS[name]["properties"].keys() >= OF_REVIEW
    [row, *_] = SCHEMAS[name]["examples"]
    assert jsonschema_rs.is_valid(SCHEMAS[name], row | dict.fromkeys(OF_REVIEW, "a column of somebody else"))


@pytest.mark.parametrize("name", ["binary", "preference", "trl", "rollout"])
def test_a_key_whose_form_is_not_obvious_has_an_example(name: str) -> None:
    for pointer, part in parts_of(SCHEMAS[name]):
        if isinstance(part, dict) and "title" in part and "enum" not in part and "$ref" not in part:
            assert part.get("examples"), pointer


def test_an_option_shows_a_value_by_its_default_or_by_an_example() -> None:
    for (name, pointer), part in PARTS.items():
        if name == "train-config" and pointer.split("/")[-2:-1] == ["properties"]:
            shown = [*part.get("examples", []), part.get("default")]
            assert any(value not in EMPTY for value in shown), pointer
            if "default" in part:
                assert validator_at(name, part).is_valid(part["default"]), pointer


def test_every_example_of_an_option_is_in_the_schema() -> None:
    shown = [PARTS[place]["examples"] for place in SHOWN if place[0] == "train-config"]
    assert [key for key, examples in EXAMPLES.items() if examples not in shown] == []


@pytest.mark.parametrize("name", ["binary", "preference", "trl", "rollout"])
def test_a_file_of_the_examples_passes_the_gate(name: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(example) + "\n" for example in SCHEMAS[name]["examples"]))
    result = CliRunner().invoke(app, ["validate", str(path)])
    assert result.exit_code == 0, result.stderr


def test_shared_parts_and_keys_are_told_alike() -> None:
    binary, ranked, trl = (SCHEMAS[name] for name in ("binary", "preference", "trl"))
    assert binary["$defs"]["message"] == ranked["$defs"]["message"] == trl["$defs"]["message"]
    both = binary["properties"].keys() & trl["properties"].keys() - {"prompt", "chosen", "rejected", "tools"}
    assert len(both) >= 10
    assert {key for key in both if binary["properties"][key] != trl["properties"][key]} == set()


# what other people's files hold in columns that dpo itself writes is their affair


@pytest.mark.parametrize("value", [None, 0, "x", [], {}], ids=repr)
@pytest.mark.parametrize("kind", COMMANDS)
def test_a_column_that_is_only_described_may_hold_anything(kind: Kind, value: object) -> None:
    schema = SCHEMAS[COMMANDS[kind]]
    described = {
        key for key, part in schema["properties"].items() if part and not {"type", "enum", "$ref"} & part.keys()
    }
    assert described
    for key in described:
        assert validator_of(kind).is_valid({**schema["examples"][0], key: value})


def test_every_column_that_collect_pairs_writes_is_described() -> None:
    composed = (REPOSITORY / "pipeline" / "compose.py").read_text()
    written = {key.replace("%b", "") for key in re.findall(r'"((?:%b)?[a-z_]+)":', composed)}
    assert {"prompt", "margin", "group", "agent", "chosen_agent", "source", "loss_mask", "completion"} <= written
    for name in ("binary", "preference"):
        described = {pointer.rpartition("/")[2] for pointer, _ in parts_of(SCHEMAS[name]) if "/properties/" in pointer}
        described |= {key.removeprefix("chosen_") for key in described}
        other = (
            {"context", "completions", "rank", "completion"} if name == "binary" else {"prompt", "chosen", "rejected"}
        )
        assert written - described - other == set()


# docs/formats.md


def test_the_page_is_made_of_the_schemas() -> None:
    assert formats_page() == PAGE, "run: python -m schemas.formats_page"


def test_the_page_names_every_key_and_id() -> None:
    for name, identity in IDS.items():
        assert f"| `dpo schema {name}` |" in PAGE
        assert f"| `{identity}` |" in PAGE
    for name in ("binary", "preference", "trl", "rollout"):
        section = PAGE.split(f"\n## {SCHEMAS[name]['title']}\n")[1].split("\n## ")[0]
        for key in SCHEMAS[name]["properties"]:
            needed = "yes" if key in SCHEMAS[name]["required"] else ""
            assert re.search(rf"^\| `{key}` \| [^|]+ \| {needed} \| .+ \|$", section, flags=re.MULTILINE), key


def test_the_rows_of_the_page_are_the_examples() -> None:
    for name in COMMANDS.values():
        section = PAGE.split(f"\n## {SCHEMAS[name]['title']}\n")[1].split("\n## ")[0]
        blocks = re.findall(r"```json\n(.*?)```", section, flags=re.DOTALL)
        assert [json.loads(block) for block in blocks] == [SCHEMAS[name]["examples"][0], SCHEMAS[name]["examples"][-1]]


def test_the_links_within_the_page_lead_somewhere() -> None:
    headings = {heading.lower() for heading in re.findall(r"^#+ (.+)$", PAGE, flags=re.MULTILINE)}
    targets = set(re.findall(r"\]\(#([^)]+)\)", PAGE))
    assert targets == {"message", "messages", "output"}
    assert targets <= headings
