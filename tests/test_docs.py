"""README and docs describe what is: the tree, the commands, the reasons, the options, the samples of rows."""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import typer

import cli
from pipeline.attrition import MEANING, Reason
from pipeline.settings import Strategy
from schemas.validation import Kind, row_findings
from trainer.config.listing import list_options

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text()
TRAINING = (REPOSITORY / "docs" / "training.md").read_text()
COLLECTING = (REPOSITORY / "docs" / "collect-pairs.md").read_text()

TREE_LINE = re.compile(r"^(?P<indent>[│ ├└─]*)(?P<name>[\w.\-]+/?)\s+\S")


def tree_of_readme() -> set[str]:
    """Read the paths of the annotated tree."""
    block = README.split("## What is where", 1)[1].split("```")[1]
    paths: set[str] = set()
    folders: list[str] = []
    for line in block.splitlines():
        match = TREE_LINE.match(line)
        if not match:
            continue
        depth = len(match["indent"]) // 4
        folders = folders[:depth]
        paths.add("/".join([*folders, match["name"].rstrip("/")]))
        if match["name"].endswith("/"):
            folders.append(match["name"].rstrip("/"))
    return paths


def test_the_tree_is_that_of_the_disk() -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    source = {path for path in tracked if path and (REPOSITORY / path).exists()}
    python = {path for path in source if path.endswith(".py") and not path.endswith("__init__.py")}
    ours = {
        path
        for path in python
        if path.startswith(("pipeline/", "trainer/", "schemas/", "views/", "data/")) or "/" not in path
    }
    named = tree_of_readme()
    assert ours - named == set(), "not in README's tree"
    assert {path for path in named if not (REPOSITORY / path).exists()} == set(), "in README's tree, not on the disk"
    top = {path.partition("/")[0] for path in source} - {".gitignore"}
    assert top - {path for path in named if "/" not in path} == set(), "top level not in README's tree"


def test_every_command_is_in_the_readme() -> None:
    names = [command.name for command in cli.app.registered_commands]
    data, training = ["collect-pairs", "inspect", "validate"], ["train", "cluster"]
    assert names == [*data, *training, "report", "eval", "compare", "review", "export", "schema"]
    groups = [group.typer_instance for group in cli.app.registered_groups]
    names += [f"{group.info.name} {command.name}" for group in groups for command in group.registered_commands]
    assert names[11:] == ["config show", "config list", "config import"]
    for name in names:
        assert f"dpo {name}" in README


def test_every_reason_is_documented() -> None:
    table = COLLECTING.split("## Why a row is in no pair", 1)[1]
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", table, flags=re.MULTILINE)
    assert dict(rows) == {reason.value: MEANING[reason] for reason in Reason}


def test_every_option_is_documented_with_default_and_meaning() -> None:
    page = (REPOSITORY / "docs" / "configuration.md").read_text()
    rows = re.findall(r"^\| `([\w.]+)` \| `(.*?)` \| (.+) \| (.+) \|$", page, flags=re.MULTILINE)
    assert {key: (default, meaning) for key, default, _, meaning in rows} == {
        option.key: (option.default, option.meaning) for option in list_options()
    }
    assert "configuration.md" in TRAINING


def test_the_sample_row_of_the_docs_is_valid() -> None:
    blocks = re.findall(r"```json\n(.*?)```", COLLECTING, flags=re.DOTALL)
    for block, kind in zip(blocks, (Kind.BINARY_PREFERENCE, Kind.PREFERENCE, Kind.TRL), strict=True):
        assert list(row_findings(json.loads(block), kind)) == []


def test_every_strategy_and_option_of_collecting_is_documented() -> None:
    documented = re.findall(r"^\| `([\w-]+)` \| [^|]+ \|$", COLLECTING, flags=re.MULTILINE)
    assert set(Strategy) <= set(documented)
    command = typer.main.get_command(cli.app).commands["collect-pairs"]  # type: ignore[attr-defined]
    options = {name for option in command.params for name in option.opts if name.startswith("--")}
    known = {"--help", "--sources"}
    assert {name for name in options - known if name not in COLLECTING} == set()


@pytest.mark.parametrize(
    "document", ["README.md", "CONTRIBUTING.md", *(f"docs/{p.name}" for p in (REPOSITORY / "docs").glob("*.md"))]
)
def test_links_lead_somewhere(document: str) -> None:
    path = REPOSITORY / document
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), f"{document}: {target}"


def test_constraints_pin_every_dependency() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"].values()
    wanted = {*project["project"]["dependencies"], *(name for extra in extras for name in extra)}
    names = {re.split(r"[\[<>=]", requirement)[0] for requirement in wanted} - {"dpo"}
    pinned = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (REPOSITORY / "constraints.txt").read_text().splitlines()
    }
    assert names <= pinned
