"""Where the gate runs: the pre-commit hook, the GitHub Action, and what docs/ci.md says of other services.

The steps of the action are run as GitHub's runner does it: bash with its options, inputs as environment variables only.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import cli
from pipeline.gate.outputs import outputs_told
from schemas.errors import EXIT_INTERNAL, DpoError, InputError, UsageError

REPOSITORY = Path(__file__).parents[1]
PAGE = (REPOSITORY / "docs" / "ci.md").read_text()
ACTION = yaml.safe_load((REPOSITORY / "action.yml").read_text())
STEPS = {step["id"]: step for step in ACTION["runs"]["steps"]}
(HOOK,) = yaml.safe_load((REPOSITORY / ".pre-commit-hooks.yaml").read_text())
BIN = Path(sys.executable).parent
DPO = BIN / "dpo"
GOOD = {"prompt": "What is 2 + 2?", "chosen": "4", "rejected": "5"}
BAD = {"prompt": "What is 3 + 3?", "chosen": "", "rejected": "5"}


def write(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# the action


class Runner:
    """As much of GitHub's runner as a step of a composite action sees."""

    def __init__(self, folder):
        self.work, self.temp = folder / "work tree", folder / "runner temp"
        self.output, self.summary = folder / "output", folder / "summary"
        for place in (self.work, self.temp):
            place.mkdir()
        self.environment = {
            **os.environ,
            "GITHUB_ACTION_PATH": str(REPOSITORY),
            "GITHUB_OUTPUT": str(self.output),
            "GITHUB_STEP_SUMMARY": str(self.summary),
            "GITHUB_WORKSPACE": str(self.work),
            "RUNNER_TEMP": str(self.temp),
        }

    def run(self, step, inputs=None, outputs=None, **environment):
        """Run a step with inputs of the action, those that are not given by default, and outputs of other steps."""
        values = {f"inputs.{name}": str(each.get("default", "")) for name, each in ACTION["inputs"].items()}
        values |= {f"inputs.{name}": value for name, value in (inputs or {}).items()}
        values |= {f"steps.{name}": value for name, value in (outputs or {}).items()}

        def evaluated(match):
            first, _, default = match[1].partition(" || ")
            return values.get(first.strip(), "") or default.strip().strip("'")

        step = STEPS[step]
        told = {key: re.sub(r"\$\{\{(.*?)\}\}", evaluated, text) for key, text in step.get("env", {}).items()}
        folder = re.sub(r"\$\{\{(.*?)\}\}", evaluated, step.get("working-directory", "."))
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", step["run"]],
            cwd=self.work / folder,
            env=self.environment | told | environment,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def validate(self, **inputs):
        inputs = {name.replace("_", "-"): value for name, value in inputs.items()}
        return self.run("validate", inputs, {"install.outputs.dpo": str(DPO)})

    @property
    def outputs(self):
        return dict(line.split("=", 1) for line in self.output.read_text().splitlines())


@pytest.fixture
def runner(tmp_path):
    return Runner(tmp_path)


def heard(printed):
    """Give the lines in which GitHub looks for commands: not those between stop-commands and its token."""
    lines, token = [], None
    for line in printed.splitlines():
        if token is None and (match := re.fullmatch(r"::stop-commands::(\w{32})", line)):
            token = match[1]
        elif token is None:
            lines.append(line)
        elif line == f"::{token}::":
            token = None
    assert token is None, "commands were never listened to again"
    return lines


def test_no_input_of_the_action_is_written_into_a_script():
    assert ACTION["runs"]["using"] == "composite"
    scripts = [step["run"] for step in STEPS.values() if "run" in step]
    assert len(scripts) == 2
    for script in scripts:
        assert "${{" not in script
        assert "eval" not in script
    assert all(step["shell"] == "bash" for step in STEPS.values() if "run" in step)


def test_every_input_and_output_of_the_action_is_used():
    told = json.dumps(ACTION["runs"])
    for name, each in ACTION["inputs"].items():
        assert f"inputs.{name}" in told, name
        assert each.get("required", False) is not ("default" in each)
    for name, each in ACTION["outputs"].items():
        step, key = re.fullmatch(r"\$\{\{ steps\.(\w+)\.outputs\.([\w-]+) \}\}", each["value"]).groups()
        assert key == name
        assert f'echo "{name}=' in STEPS[step]["run"]


def test_the_action_uses_a_python_of_its_own():
    step = STEPS["python"]
    assert re.fullmatch(r"actions/setup-python@v\d+", step["uses"])
    assert step["with"] == {"python-version": "${{ inputs.python-version }}", "update-environment": False}


RECORDER = """#!/bin/bash
# stands for python: writes down what it is called with, and makes what `python -m venv` makes
printf '%s\\n' "$*" >> "$RECORD"
if [ "$1 $2" = "-m venv" ]; then
  mkdir -p "$3/bin"
  cp "$0" "$3/bin/python"
else
  printf '#!/bin/sh\\n' > "${0%/*}/dpo"
  chmod +x "${0%/*}/dpo"
fi
"""


def test_the_action_installs_itself_once_by_its_constraints(runner, tmp_path):
    python, record = tmp_path / "python", tmp_path / "record"
    python.write_text(RECORDER)
    python.chmod(0o755)
    outputs = {"python.outputs.python-path": str(python)}
    for _ in range(2):  # two steps of one job use the action
        result = runner.run("install", outputs=outputs, RECORD=str(record))
        assert (result.returncode, result.stderr) == (0, "")
    made, installed = record.read_text().splitlines()
    venv = made.removeprefix("-m venv ")
    assert Path(venv).parent == runner.temp
    assert installed == (
        "-m pip install --disable-pip-version-check --quiet "
        f"--constraint {REPOSITORY}/constraints.txt {REPOSITORY}"  # no extra: no torch
    )
    assert (REPOSITORY / "constraints.txt").is_file()
    assert runner.outputs == {"dpo": f"{venv}/bin/dpo"}
    result = runner.run("install", outputs=outputs, RECORD=str(record), GITHUB_ACTION_PATH="/actions/dpo/v9")
    assert result.returncode == 0
    assert record.read_text().count("-m venv") == 2  # another version of the action has another one
    assert runner.outputs["dpo"] != f"{venv}/bin/dpo"


def test_the_action_takes_the_runners_python_where_none_is_set_up(runner, tmp_path):
    python, record = tmp_path / "bin" / "python3", tmp_path / "record"
    python.parent.mkdir()
    python.write_text(RECORDER)
    python.chmod(0o755)
    path = f"{python.parent}:{os.environ['PATH']}"
    assert runner.run("install", {"python-version": ""}, PATH=path, RECORD=str(record)).returncode == 0
    assert record.read_text().startswith("-m venv ")


def test_the_action_passes_a_good_file(runner):
    write(runner.work / "pairs.jsonl", GOOD)
    result = runner.validate(files="pairs.jsonl", sarif="found.sarif")
    assert (result.returncode, result.stderr) == (0, "")
    assert not [line for line in heard(result.stdout) if line.startswith("::error")]
    assert runner.outputs == {"exit-code": "0", "sarif": str(runner.work / "found.sarif")}
    assert json.loads((runner.work / "found.sarif").read_text())["runs"][0]["results"] == []
    assert runner.summary.read_text()
    assert list(runner.temp.iterdir()) == []


def test_the_action_annotates_the_line_of_a_bad_row_and_fails(runner):
    write(runner.work / "data" / "pairs.jsonl", GOOD, BAD)
    result = runner.validate(files="data/pairs.jsonl", sarif="found.sarif")
    assert result.returncode == 1
    assert "data/pairs.jsonl:2" in result.stdout.split("::stop-commands::")[1]  # the report for people
    (error,) = [line for line in heard(result.stdout) if line.startswith("::error")]
    assert "file=data/pairs.jsonl,line=2" in error
    assert "/chosen" in error
    assert runner.outputs == {"exit-code": "1", "sarif": str(runner.work / "found.sarif")}
    assert len(json.loads((runner.work / "found.sarif").read_text())["runs"][0]["results"]) == 1
    assert "data/pairs.jsonl" in runner.summary.read_text()


def test_files_of_the_action_are_one_a_line_with_spaces_globs_and_folders(runner):
    names = [
        "a b/c  d.jsonl",
        "[1].jsonl",
        "more/x.jsonl",
        "more/y.jsonl",
        "folder/deep/z.jsonl",
        "--max-errors=0.jsonl",
    ]
    for number, name in enumerate(names):
        write(runner.work / name, {**GOOD, "prompt": str(number)}, {**BAD, "prompt": f"{number}?"})
    write(runner.work / "other.jsonl", BAD)
    result = runner.validate(
        files="a b/c  d.jsonl\r\n\n  \n[1].jsonl\nmore/*.jsonl\nfolder\n--max-errors=0.jsonl\n", sarif="found.sarif"
    )
    assert result.returncode == 1
    content = json.loads((runner.work / "found.sarif").read_text())
    places = [each["locations"][0]["physicalLocation"]["artifactLocation"] for each in content["runs"][0]["results"]]
    assert len(places) == len(names)
    assert {place["uri"] for place in places} >= {"a%20b/c%20%20d.jsonl", "more/x.jsonl", "more/y.jsonl"}


def test_args_of_the_action_are_words_with_quotes(runner):
    write(runner.work / "pairs.jsonl", GOOD, {**GOOD, "prompt": "Why?"})
    write(runner.work / "val set.jsonl", GOOD)
    args = "--against 'val set.jsonl'\n--fail-on  \"warning\"\n"
    result = runner.validate(files="pairs.jsonl", args=args)
    (error,) = [line for line in heard(result.stdout) if line.startswith("::error")]
    assert (result.returncode, "prompt-leak" in error) == (1, True)
    assert runner.validate(files="pairs.jsonl", args="--against 'val set.jsonl' --ignore prompt-leak").returncode == 0
    result = runner.validate(files="pairs.jsonl", args="--against 'val")  # an open quote
    assert (result.returncode, "quote" in result.stderr) == (2, True)  # misuse, and no finding
    assert "::error title=dpo validate::args: a quote is opened and not closed\n" in result.stdout


def test_the_severity_that_fails_the_action_is_an_input(runner):
    write(runner.work / "pairs.jsonl", {**GOOD, "chosen_reward": 1.0, "rejected_reward": 1.0})  # a tie warns
    assert runner.validate(files="pairs.jsonl").returncode == 0
    assert runner.validate(files="pairs.jsonl", fail_on="warning").returncode == 1
    (runner.work / ".dpo-validate.toml").write_text('fail-on = "warning"\n')
    assert runner.validate(files="pairs.jsonl").returncode == 1
    assert runner.validate(files="pairs.jsonl", fail_on="error").returncode == 0


@pytest.mark.parametrize(
    ("inputs", "exit_code"),
    [
        ({"files": ""}, "2"),
        ({"files": "nothing here.jsonl"}, "3"),
        ({"files": "nothing/*.jsonl"}, "3"),
        ({"files": "pairs.jsonl", "args": "--no-such-option"}, "2"),
        ({"files": "pairs.jsonl", "fail_on": "never"}, "2"),
        ({"files": "pairs.jsonl", "sarif": "pairs.jsonl"}, "2"),
    ],
    ids=str,
)
def test_what_the_action_can_not_do_is_an_error_that_it_shows(runner, inputs, exit_code):
    write(runner.work / "pairs.jsonl", GOOD)
    (runner.work / "found.sarif").write_text("of an earlier step")
    result = runner.validate(**{"sarif": "found.sarif", **inputs})
    assert result.returncode == int(exit_code)
    assert "dpo: error: " in result.stdout
    assert any(line.startswith("::error") for line in heard(result.stdout))
    assert runner.outputs["exit-code"] == exit_code


def test_an_old_sarif_file_is_not_taken_for_a_new_one(runner):
    (runner.work / "found.sarif").write_text("of an earlier step")
    assert runner.validate(files="pairs.jsonl", args="--no-such-option", sarif="found.sarif").returncode == 2
    assert runner.outputs == {"exit-code": "2"}


COMMANDS = [
    "$(touch ran) `touch ran`",
    "; touch ran; & touch ran &",
    '"; touch ran; $(touch ran) "',
    "'; touch ran; '\n touch ran\n",
]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "name", [name for name in ACTION["inputs"] if name not in ("python-version", "working-directory")]
)
def test_an_input_of_the_action_is_never_a_command(runner, name, command):
    write(runner.work / "pairs.jsonl", GOOD)
    inputs = {"files": "pairs.jsonl", name.replace("-", "_"): command}
    result = runner.validate(**inputs)
    assert (result.returncode != 0) == (name != "sarif" or "\n" in command), result.stdout
    assert not [path for path in runner.work.rglob("*") if path.name == "ran"]
    assert not [path for path in runner.temp.rglob("*") if path.name == "ran"]


def test_several_lines_for_sarif_can_not_set_outputs(runner):
    write(runner.work / "pairs.jsonl", GOOD)
    result = runner.validate(files="pairs.jsonl", sarif="a.sarif\nexit-code=0")
    assert (result.returncode, result.stderr) == (2, "sarif: expected one file, got several lines\n")
    assert not runner.output.exists()


def test_data_and_names_of_files_give_github_no_commands(runner):
    evil = "::error file=x::forged\n##[error]forged ::add-mask::x"
    write(runner.work / "::error::forged.jsonl", {**BAD, "prompt": [{"role": evil, "content": evil}], evil: evil})
    result = runner.validate(files="::error::forged.jsonl")
    assert result.returncode == 1
    lines = heard(result.stdout)
    commands = [line for line in lines if line.lstrip().startswith("::")]
    assert commands
    for line in commands:
        assert re.match(r"::(error|warning|notice) (file=%3A%3Aerror%3A%3Aforged\.jsonl,line=1,|title=)", line), line
    assert not [line for line in lines if "##[" in line]


def test_modules_of_the_job_are_not_those_of_dpo(runner):
    write(runner.work / "pairs.jsonl", GOOD)
    write(runner.work / "schemas" / "__init__.py")
    runner.environment |= {"PYTHONPATH": str(runner.work)}
    assert runner.validate(files="pairs.jsonl").returncode == 0


def test_the_action_runs_in_a_folder_of_the_repository(runner):
    write(runner.work / "data" / "pairs.jsonl", BAD)
    result = runner.validate(files="pairs.jsonl", working_directory="data", sarif="found.sarif")
    assert result.returncode == 1
    assert runner.outputs["sarif"] == str(runner.work / "data" / "found.sarif")


# the pre-commit hook


def test_the_hook_is_one_that_pre_commit_takes():
    manifest = REPOSITORY / ".pre-commit-hooks.yaml"
    result = subprocess.run(
        [sys.executable, "-m", "pre_commit", "validate-manifest", manifest], capture_output=True, text=True
    )
    assert (result.returncode, result.stdout) == (0, "")
    assert (HOOK["id"], HOOK["language"], HOOK["require_serial"]) == ("dpo-validate", "python", True)
    assert HOOK["args"][-1] == "--"


@pytest.mark.parametrize(
    ("name", "is_taken"),
    [
        ("pairs.jsonl", True),
        ("data/pairs.ndjson", True),
        ("pairs.jsonl.gz", True),
        ("pairs.jsonl.zst", True),
        ("pairs.ndjson.zst", True),
        ("pairs.json", False),
        ("pairs.jsonl.bz2", False),
        ("pairs.jsonl.manifest.json", False),
        ("pairsjsonl", False),
        ("pairs.jsonl.md", False),
        ("pairs.parquet", False),
    ],
)
def test_the_hook_takes_files_of_rows(name, is_taken):
    assert bool(re.search(HOOK["files"], name)) == is_taken


def hooked(names, folder, args=HOOK["args"]):
    """Run the hook's command on files as pre-commit does it, with the hook's environment in PATH."""
    taken = [name for name in names if re.search(HOOK["files"], name)]
    return subprocess.run(
        [*shlex.split(HOOK["entry"]), *args, *taken],
        cwd=folder,
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )


def test_the_hook_passes_good_files_and_fails_on_bad_ones(tmp_path):
    write(tmp_path / "good.jsonl", GOOD)
    write(tmp_path / "a bad one.ndjson", {**GOOD, "prompt": "Why?"}, BAD)
    (tmp_path / "README.md").write_text("no rows")
    assert hooked(["README.md", "good.jsonl"], tmp_path).returncode == 0
    result = hooked(["README.md", "good.jsonl", "a bad one.ndjson"], tmp_path)
    assert result.returncode == 1
    assert "a bad one.ndjson:2" in result.stderr


def test_no_name_of_a_file_is_an_option_of_the_hook(tmp_path):
    write(tmp_path / "--ignore=all.jsonl", BAD)
    result = hooked(["--ignore=all.jsonl"], tmp_path)
    assert (result.returncode, "--ignore=all.jsonl:1" in result.stderr) == (1, True)


def test_pre_commit_runs_the_hook_in_a_repository(tmp_path):
    """As a local hook, which is not installed; all else is as in a repository that names this one."""
    work = tmp_path / "work"
    write(work / "good.jsonl", GOOD)
    local = {**HOOK, "language": "system"}
    config = {"repos": [{"repo": "local", "hooks": [{key: local[key] for key in local if key != "description"}]}]}
    (work / ".pre-commit-config.yaml").write_text(yaml.safe_dump(config))
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "PRE_COMMIT_HOME": str(tmp_path / "cache")}

    def run(*command):
        return subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)

    assert run("git", "init", "--quiet").returncode == 0
    results = []
    for name, row in (("good", GOOD), ("bad", BAD)):
        write(work / f"{name}.jsonl", row)
        assert run("git", "add", ".").returncode == 0
        results.append(run(sys.executable, "-m", "pre_commit", "run", "--all-files", "--color", "never"))
    assert [(result.returncode, result.stdout.splitlines()[0][-6:]) for result in results] == [
        (0, "Passed"),
        (1, "Failed"),
    ]
    assert "bad.jsonl:1" in results[1].stdout


# docs/ci.md


def blocks_of(language):
    """Give the blocks of a language on the page, without the indentation of a list."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", PAGE, flags=re.DOTALL | re.MULTILINE)
    return [re.sub(f"^{indent}", "", block, flags=re.MULTILINE) for indent, block in found]


YAML = [yaml.safe_load(block) for block in blocks_of("yaml")]


def block_with(key: str) -> dict[str, Any]:
    (block,) = [each for each in YAML if isinstance(each, dict) and key in each]
    return block


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ("github-actions", (REPOSITORY / "action.yml").read_text()),
        ("github-workflows", next(block for block in blocks_of("yaml") if block.startswith("name: data"))),
        ("gitlab-ci", next(block for block in blocks_of("yaml") if block.startswith("validate-data:"))),
        ("azure-pipelines", next(block for block in blocks_of("yaml") if "PublishTestResults" in block)),
        ("buildkite", next(block for block in blocks_of("yaml") if "artifact_paths" in block)),
    ],
    ids=lambda value: value if "\n" not in value else "",
)
def test_files_of_services_fit_the_schemas_of_the_services(schema, text, tmp_path):
    path = tmp_path / "file.yml"
    path.write_text(text)
    result = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", path],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout


def test_the_inputs_of_the_page_are_those_of_the_action():
    rows = re.findall(r"^\| `([\w-]+)` \| (?:`(.+)`)? ?\| (.+) \|$", PAGE, flags=re.MULTILINE)
    assert rows == [
        (name, str(each.get("default", "")), each["description"]) for name, each in ACTION["inputs"].items()
    ]
    for name in ACTION["outputs"]:
        assert f"`{name}`" in PAGE
    job = block_with("jobs")["jobs"]["validate"]
    (used,) = [step["with"] for step in job["steps"] if step["uses"].startswith("OWNER/dpo@")]
    assert used.keys() <= ACTION["inputs"].keys()


def test_the_hooks_of_the_page_are_those_of_the_manifest():
    hooks = [hook for block in YAML if "repos" in block for repo in block["repos"] for hook in repo["hooks"]]
    assert len(hooks) == 2
    for hook in hooks:
        assert hook["id"] == HOOK["id"]
        assert (hook["args"][-1] == "--") == hook.get("pass_filenames", True)
    assert re.search(hooks[0]["files"], "data/train/x.jsonl")
    assert re.search(hooks[0]["files"], hooks[0]["args"][1])  # what nothing may leak from is checked itself as well


def commands_of_the_page():
    lines = [
        line.strip() for block in re.findall(r"```\w+\n(.*?)```", PAGE, flags=re.DOTALL) for line in block.split("\n")
    ]
    told = [line[line.index("dpo validate ") :] for line in lines if "dpo validate " in line]
    words = [shlex.split(re.split(r" [|]|' ?}|'$", line)[0]) for line in told]
    return [each[2:] for each in words] + [
        hook["args"] for block in YAML if "repos" in block for hook in block["repos"][0]["hooks"]
    ]


def test_the_commands_of_the_page_are_ones_that_dpo_takes():
    command = typer.main.get_command(cli.app).commands["validate"]  # type: ignore[attr-defined]
    commands = commands_of_the_page()
    assert len(commands) >= 10
    for words in commands:
        context = command.make_context("validate", list(words))  # refuses options that there are not
        outputs_told(context.params["output_format"] or (), as_json=False)
    assert any("--write-baseline" in words for words in commands)


def test_the_exit_codes_of_the_page_are_those_of_dpo():
    codes = [int(code) for code in re.findall(r"^\| (\d) \| ", PAGE, flags=re.MULTILINE)]
    assert codes == [0, DpoError.exit_code, UsageError.exit_code, InputError.exit_code, EXIT_INTERNAL]
