"""docs/clusters.md shows what `dpo cluster` prints."""

import re
import shlex
from pathlib import Path

import pytest
import typer

import cli
from trainer.jobs.job import MAX_RESTARTS, WARNING_SECONDS
from trainer.jobs.kubernetes import FAILURES_OF_A_NODE

PAGE = (Path(__file__).parents[1] / "docs" / "clusters.md").read_text()
BLOCKS = re.findall(
    r"^```console\n\$ (dpo cluster (?:[^\n]*\\\n)*[^\n]*)\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE
)
LEFT_OUT = "…"


def words(command: str) -> list[str]:
    """Split a command as a shell does, whose lines end with a backslash."""
    return shlex.split(command.replace("\\\n", ""))


def test_there_is_a_block_for_each_scheduler() -> None:
    assert [words(command)[2] for command, _ in BLOCKS] == ["slurm", "skypilot", "k8s"]


@pytest.mark.parametrize(("command", "shown"), BLOCKS)
def test_the_files_of_the_page_are_those_that_are_printed(capsys, command: str, shown: str) -> None:
    cli.app(words(command)[1:], standalone_mode=False)
    rest = f"\n{capsys.readouterr().out}"
    parts = [part for part in re.split(rf"^{LEFT_OUT}$\n", shown, flags=re.MULTILINE) if part]
    assert len(parts) > 2
    for part in parts:
        _, found, rest = rest.partition(f"\n{part}")
        assert found, f"not in what is printed, or not in this order:\n{part}"
        rest = f"\n{rest}"
    if not shown.endswith(f"{LEFT_OUT}\n"):
        assert rest == "\n"


def test_every_option_of_a_job_is_one_that_there_is() -> None:
    command = typer.main.get_command(cli.app).commands["cluster"]  # type: ignore[attr-defined]
    there = {name for option in command.params for name in option.opts}
    shown = {word.partition("=")[0] for text, _ in BLOCKS for word in words(text) if word.startswith("-")}
    assert shown <= there
    assert {"--nodes", "--gpus-per-node", "--setup", "--bucket", "--volume"} <= {name for name in there if name in PAGE}


def test_the_numbers_of_the_page_are_those_of_the_files() -> None:
    assert f"fit into the {WARNING_SECONDS} seconds" in PAGE
    assert f"After {MAX_RESTARTS} restarts" in PAGE
    assert FAILURES_OF_A_NODE == 6
    assert "six failures for each node" in PAGE
