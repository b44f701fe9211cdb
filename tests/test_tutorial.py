"""docs/tutorial.md: its commands run, in one session, and print what the page says; its options and names are real."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import typer

import cli
from trainer.config.listing import list_options

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
EXACT = ("dpo inspect", "dpo report", "dpo collect-pairs", "dpo validate")
NUMBER = re.compile(r"[+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")
LEFT_OUT = "…"
SETTING = re.compile(r"`((?:dpo|policy|loss|data|logger|checkpointing|reference)\.[\w.]+)")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


def steps():
    """Give each command with the lines that the page says it prints."""
    found = []
    for block in blocks("console"):
        for line in block.replace("\\\n", "").splitlines():
            if line.startswith("$ "):
                found.append((" ".join(line.removeprefix("$ ").split()), []))
            else:
                found[-1][1].append(line)
    return found


@pytest.fixture(scope="module")
def session(tmp_path_factory, _warm_server):
    """Run all commands of the page, one after another in a folder with the samples; give what each printed."""
    folder = tmp_path_factory.mktemp("tutorial")
    shutil.copytree(ROOT / "data" / "samples", folder / "data" / "samples")
    environment = {"COLUMNS": "120", "DPO_REPORT": "1"}
    runs = []
    for command, _ in steps():
        name, *arguments = shlex.split(command)
        if name in ("dpo", "python"):  # in processes that have torch loaded already
            script = arguments.pop(0) if name == "python" else None
            run = _warm_server.run(*arguments, cwd=folder, environment=environment, together=True, script=script)
        else:
            run = subprocess.run(
                ["bash", "-c", f"{command} 2>&1"], cwd=folder, capture_output=True, text=True, check=False
            )
        runs.append(run)
    return folder, runs


def spoken(line, *, exact):
    """Give what of a line must be as the page says: all but the spaces, and the numbers of what is trained or drawn."""
    told = " ".join(line.split())
    return told if exact else NUMBER.sub("#", told)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(steps())), ids=[command[:40] for command, _ in steps()])
def test_a_command_prints_what_the_page_says(session, number):
    command, told = steps()[number]
    printed = session[1][number].stdout
    assert session[1][number].returncode == 0, printed
    exact = command.startswith(EXACT)
    lines = iter([spoken(line, exact=exact) for line in printed.splitlines()])
    for line in told:
        wanted = spoken(line, exact=exact)
        if wanted and wanted != LEFT_OUT:
            assert any(wanted == found for found in lines), f"not printed, or not in this order: {line!r}\n{printed}"


@pytest.mark.slow
def test_what_the_page_names_is_there(session):
    folder, _ = session
    for name in (
        "rollouts.html",
        "dpo_val.jsonl",
        "runs/first/metrics.jsonl",
        "runs/first/report.html",
        "runs/first/health.json",
        "evals/first/samples.jsonl",
        "evals/first/report.html",
        "compare.html",
    ):
        assert (folder / name).is_file(), name
        assert Path(name).name in PAGE, name


def test_every_option_on_the_page_is_one():
    commands = typer.main.get_command(cli.app).commands
    known = {name for command in commands.values() for option in command.params for name in option.opts}
    for block in (*blocks("console"), *blocks("bash")):
        for line in block.replace("\\\n", "").splitlines():
            words = line.removeprefix("$ ").partition("#")[0].split()
            if words[:1] == ["dpo"]:
                own = {name for option in commands[words[1]].params for name in option.opts}
                assert {word for word in words if word.startswith("-")} <= own, line
    named = set(re.findall(r"`(?:dpo [\w-]+ (?:… )?)?(--[a-z][\w-]*)", PAGE))
    assert len(named) > 15
    assert named - known == set()


def test_every_setting_on_the_page_is_one():
    keys = {option.key for option in list_options()}
    named = set(SETTING.findall(PAGE))
    assert len(named) >= 20
    assert named - keys == set()


def test_every_warning_of_a_run_is_on_the_page():
    monitoring = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    warnings = set(re.findall(r"^\| `(\w+)` \| ", monitoring.split("## Answers during", 1)[0], flags=re.MULTILINE))
    assert len(warnings) == 9
    assert {warning for warning in warnings if f"`{warning}`" not in PAGE} == set()


def test_links_within_the_page_lead_somewhere():
    headings = re.findall(r"^#+ (.+)$", PAGE, flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    wanted = set(re.findall(r"\]\(#([^)]+)\)", PAGE))
    assert wanted
    assert wanted - anchors == set()
