"""`dpo validate` as a user meets it: options, exit codes, where each report goes, what is refused before the work."""

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

import cli
from pipeline.gate import listing
from pipeline.gate.config_file import READERS, read_config
from pipeline.gate.outputs import Output, Outputs, outputs_told, refuse_outputs
from pipeline.gate.reports.formats import OutputFormat
from pipeline.gate.rules import ABOUT, Rule
from pipeline.gate.settings import LIMITS, GateSettings, Limits
from pipeline.gate.told import settings_of
from schemas.errors import DpoError, InputError, UsageError

ROOT = Path(__file__).resolve().parent.parent
FAILED, MISUSE, UNREADABLE = DpoError.exit_code, UsageError.exit_code, InputError.exit_code
OPTIONS = {
    "--kind",
    "--schema",
    "--prompt-key",
    "--chosen-key",
    "--rejected-key",
    "--against",
    "--tokenizer",
    "--max-tokens",
    "--error",
    "--warn",
    "--ignore",
    "--limit",
    "--balance-by",
    "--list-rules",
    "--output-format",
    "--json",
    "--max-findings",
    "--fail-on",
    "--baseline",
    "--write-baseline",
    "--max-errors",
    "--config",
    "--no-config",
    "--workers",
}
PAIR = {"prompt": "Q", "chosen": "A", "rejected": "B"}
TIED = {**PAIR, "prompt": "P", "chosen_reward": 1.0, "rejected_reward": 1.0}
SWAPPED = {**PAIR, "prompt": "R", "chosen_reward": 0.0, "rejected_reward": 1.0}


@pytest.fixture
def files(tmp_path, write_jsonl):
    """A repository with files of pairs: a good one, one with a warning, one with an error and a warning."""
    (tmp_path / ".git").mkdir()
    write_jsonl(tmp_path / "good.jsonl", [PAIR])
    write_jsonl(tmp_path / "tied.jsonl", [TIED])
    write_jsonl(tmp_path / "bad.jsonl", [TIED, SWAPPED])
    return tmp_path


@pytest.fixture
def validate(files, monkeypatch, capsys):
    """Run `dpo validate ARGS...` in this process; give exit code and output."""

    def run(*args, cwd=files, **environment):
        monkeypatch.chdir(cwd)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        message = ""
        try:
            exit_code = cli.app(["validate", *args], standalone_mode=False, prog_name="dpo") or 0
        except Exception as error:
            if not hasattr(error, "exit_code"):  # neither ours nor Typer's
                raise
            exit_code, message = error.exit_code, getattr(error, "format_message", error.__str__)()
        out, err = capsys.readouterr()
        told = f"dpo: error: {message}\n" if message else ""
        return SimpleNamespace(returncode=exit_code, stdout=out, stderr=err + told)

    return run


def rules_of(run: SimpleNamespace) -> dict[str, int]:
    return {rule: about["findings"] for rule, about in json.loads(run.stdout)["rules"].items()}


@pytest.mark.parametrize(
    ("args", "exit_code"),
    [
        ("good.jsonl", 0),
        ("tied.jsonl", 0),
        ("tied.jsonl --fail-on warning", FAILED),
        ("tied.jsonl --error reward-tie", FAILED),
        ("tied.jsonl --error all --ignore reward-tie", 0),
        ("bad.jsonl", FAILED),
        ("bad.jsonl --warn reward-order", 0),
        ("bad.jsonl --ignore reward-order,reward-tie --fail-on warning", 0),
        ("bad.jsonl --ignore all --warn tie", 0),
        ("bad.jsonl good.jsonl absent.jsonl", UNREADABLE),
        ("good.jsonl --against absent.jsonl", UNREADABLE),
        ("good.jsonl --baseline absent.json", UNREADABLE),
        ("good.jsonl --limit min-margin=2", 0),
        ("tied.jsonl --ignore reward-tie --error small-margin --limit min-margin=2", FAILED),
        ("good.jsonl --against good.jsonl --ignore prompt-leak", 0),
        ("good.jsonl --against tied.jsonl", 0),
    ],
)
def test_exit_codes(validate, files, args, exit_code):
    run = validate(*args.split())
    assert run.returncode == exit_code, run.stderr
    assert run.stdout == ""
    assert "Traceback" not in run.stderr


def test_a_prompt_that_is_in_both_is_found(validate, files):
    run = validate("bad.jsonl", "--against", "tied.jsonl", "--against", "good.jsonl", "--json")
    assert run.returncode == FAILED, run.stderr
    assert rules_of(run)["prompt-leak"] == 1


def test_keys_of_pairs_can_be_called_otherwise(validate, files, write_jsonl):
    write_jsonl(files / "own.jsonl", [{"ask": "Q", "good": "A", "bad": "A"}])
    names = ["--prompt-key", "ask", "--chosen-key", "good", "--rejected-key", "bad"]
    run = validate("own.jsonl", "--json", *names)
    assert (run.returncode, rules_of(run)) == (FAILED, {"identical-responses": 1})


def test_reading_stops_at_so_many_errors(validate, files, write_jsonl):
    write_jsonl(files / "many.jsonl", [{**SWAPPED, "prompt": f"Q{number}"} for number in range(9)])
    run = validate("many.jsonl", "--max-errors", "4", "--json")
    report = json.loads(run.stdout)
    assert (run.returncode, report["errors"], report["is_stopped"]) == (FAILED, 4, True)


@pytest.mark.parametrize(
    ("args", "messages"),
    [
        ("", ["no files; name rollouts or preference pairs"]),
        ("good.jsonl --ignore tei", ["--ignore: tei: no such rule; did you mean tie?"]),
        ("good.jsonl --ignore tie --warn schema,tie", ["--warn: tie: is named by --ignore too"]),
        (
            "good.jsonl --error wobbly --limit max-reward=x --limit max-lenght-ratio=3",
            [
                "--error: wobbly: no such rule; dpo validate --list-rules shows them",
                "--limit max-reward=x: got x, expected a number, or none",
                "--limit max-lenght-ratio=3: no such limit; did you mean max-length-ratio?",
            ],
        ),
        ("good.jsonl --max-tokens 9", ["--max-tokens needs --tokenizer PATH"]),
        ("good.jsonl --max-tokens 0", ["--max-tokens"]),
        ("good.jsonl --fail-on never", ["--fail-on"]),
        ("good.jsonl --kind poem", ["--kind"]),
        ("good.jsonl --workers 0", ["--workers"]),
        ("good.jsonl --workers 100000", ["--workers"]),
        ("good.jsonl --balance-by=", ["--balance-by names a key, got an empty text"]),
        ("good.jsonl --config x.toml --no-config", ["--config and --no-config can't be together"]),
        ("good.jsonl --config x.toml", ["x.toml: can't be read: No such file or directory"]),
        ("good.jsonl --write-baseline b.json --max-errors 3", ["the baseline would not be whole"]),
        ("good.jsonl --output-format jsn", ["--output-format jsn: no such format; did you mean json?"]),
        ("good.jsonl --output-format json=", ["--output-format json=: expected a file behind the ="]),
        ("good.jsonl --output-format human=x.txt", ["the report for people goes to stderr alone"]),
        (
            "good.jsonl --json --output-format sarif",
            ["json and sarif can't both go to stdout; name a file: sarif=FILE"],
        ),
        ("good.jsonl --output-format json=good.jsonl", ["good.jsonl: is an input too, and would be lost"]),
        ("good.jsonl --against tied.jsonl --output-format json=tied.jsonl", ["tied.jsonl: is an input too"]),
        (". --output-format json=./bad.jsonl", ["bad.jsonl: is an input too"]),
        ("good.jsonl --output-format json=a --output-format sarif=./a", ["a: is to be written twice; name two files"]),
        ("good.jsonl --output-format json=a --write-baseline a", ["a: is to be written twice; name two files"]),
        ("good.jsonl --baseline b --output-format json=b", ["b: is an input too, and would be lost"]),
        ("good.jsonl --config own.toml --output-format json=own.toml", ["own.toml: is an input too"]),
        ("--list-rules --output-format sarif", ["--list-rules goes to stdout, for people or with --json"]),
        ("--list-rules --output-format json=rules.json", ["--list-rules goes to stdout, for people or with --json"]),
    ],
)
def test_misuse_is_told_before_anything_is_written(validate, files, args, messages):
    (files / "own.toml").touch()
    before = {path.name for path in files.iterdir()}
    run = validate(*args.split())
    assert (run.returncode, run.stdout) == (MISUSE, "")
    assert run.stderr.startswith("dpo: error: ")
    for message in messages:
        assert message in run.stderr
    assert len(run.stderr.rstrip("\n").split("\n")) == (1 if len(messages) == 1 else 1 + len(messages))
    assert {path.name for path in files.iterdir()} == before


def test_several_formats_go_to_files_and_people_are_still_told(validate, files):
    formats = [f"{form}=out/{form}" for form in OutputFormat if form is not OutputFormat.HUMAN]
    options = [word for form in formats for word in ("--output-format", form)]
    run = validate("bad.jsonl", "good.jsonl", *options, GITHUB_STEP_SUMMARY=str(files / "summary.md"))
    assert (run.returncode, run.stdout) == (FAILED, "")
    assert "bad.jsonl:2: error: reward-order: " in run.stderr
    for form in formats:
        name, _, place = form.partition("=")
        assert f"wrote {place} ({name})" in run.stderr
    out = {path.name: path.read_text() for path in (files / "out").iterdir()}
    assert set(out) == {form.partition("=")[0] for form in formats}
    assert json.loads(out["json"])["errors"] == 1
    assert [json.loads(line)["rule"] for line in out["jsonl"].splitlines()] == ["reward-tie", "reward-order"]
    assert json.loads(out["sarif"])["version"] == "2.1.0"
    assert ElementTree.fromstring(out["junit"]).tag == "testsuites"
    assert "::error " in out["github"]
    assert "reward-order" in out["markdown"]
    assert "reward-order" in (files / "summary.md").read_text()


@pytest.mark.parametrize(
    ("options", "on_stdout", "on_stderr"),
    [
        ([], False, True),
        (["--output-format", "human"], False, True),
        (["--json"], True, False),
        (["--output-format", "json=-"], True, False),
        (["--output-format", "jsonl"], True, False),
        (["--output-format", "github"], True, False),
        (["--json", "--output-format", "json"], True, False),
        (["--json", "--output-format", "human"], True, True),
        (["--output-format", "json=report.json"], False, True),
        (["--output-format", "json=report.json", "--output-format", "markdown"], True, False),
    ],
)
def test_what_goes_to_stdout_takes_the_place_of_the_report_for_people(validate, files, options, on_stdout, on_stderr):
    run = validate("tied.jsonl", *options)
    assert run.returncode == 0
    assert (bool(run.stdout), bool(run.stderr)) == (on_stdout, on_stderr)


def test_other_files_and_people_are_told_where_one_file_can_not_be_written(validate, files):
    formats = ["--output-format", "json=/dev/full", "--output-format", "markdown=report.md"]
    run = validate("good.jsonl", *formats)
    assert run.returncode == FAILED
    assert "good.jsonl: 1 row of binary_preference, all valid" in run.stderr
    assert f"dpo: error: /dev/full: can't be written: {os.strerror(errno.ENOSPC)}\n" in run.stderr
    assert (files / "report.md").exists()


def piped_to_nobody(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run with a stdout that nobody reads: `dpo ... | true`."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-m", "cli", "validate", *args]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    try:
        return subprocess.run(
            command, cwd=folder, env=environment, stdout=write_end, stderr=subprocess.PIPE, text=True, check=False
        )
    finally:
        os.close(write_end)


@pytest.mark.parametrize("form", ["json", "jsonl", "github"])
def test_a_reader_that_goes_away_ends_the_run_in_silence(files, form):
    run = piped_to_nobody(files, "bad.jsonl", "--output-format", form)
    assert (run.returncode, run.stderr) == (1, "")


def test_a_reader_that_goes_away_loses_no_other_report(files, write_jsonl):
    write_jsonl(files / "many.jsonl", [{**SWAPPED, "prompt": f"Q{number}"} for number in range(500)])
    run = piped_to_nobody(files, "many.jsonl", "--output-format", "jsonl", "--output-format", "sarif=x.sarif")
    assert (run.returncode, run.stderr) == (FAILED, "")
    assert json.loads((files / "x.sarif").read_text())["version"] == "2.1.0"


def test_a_closed_stdout_is_told_before_the_work(files):
    script = f"{sys.executable} -m cli validate good.jsonl --json >&-"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(["sh", "-c", script], cwd=files, env=environment, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (MISUSE, "dpo: error: stdout is closed; name a file: json=FILE\n")


def test_the_rules_need_a_stdout(files):
    script = f"{sys.executable} -m cli validate --list-rules >&-"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = subprocess.run(["sh", "-c", script], cwd=files, env=environment, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (MISUSE, "dpo: error: stdout is closed, where --list-rules goes to\n")


def test_stdout_is_utf_8_whatever_the_terminal_has(dpo, files, write_jsonl):
    write_jsonl(files / "ä🙂.jsonl", [SWAPPED])
    run = dpo(
        "validate", "ä🙂.jsonl", "--output-format", "markdown", PYTHONIOENCODING="ascii", PYTHONUTF8="0", LC_ALL="C"
    )
    assert run.returncode == FAILED, run.stderr


def test_a_baseline_makes_findings_known(validate, files, write_jsonl):
    written = validate("bad.jsonl", "--write-baseline", "known.json")
    assert written.returncode == 0, written.stderr
    assert "wrote 2 known findings to known.json" in written.stderr
    known = validate("bad.jsonl", "--baseline", "known.json", "--fail-on", "warning", "--json")
    assert known.returncode == 0
    assert json.loads(known.stdout)["known"] == 2
    write_jsonl(files / "bad.jsonl", [PAIR, SWAPPED, {**SWAPPED, "prompt": "new"}, TIED])  # rows may move
    new = validate("bad.jsonl", "--baseline", "known.json", "--json")
    assert (new.returncode, rules_of(new)) == (FAILED, {"reward-order": 1})
    assert json.loads(new.stdout)["findings"][0]["line"] == 3


def test_a_baseline_is_written_anew_with_all_that_is_found_now(validate, files):
    Path(files / ".dpo-validate.toml").write_text("baseline = 'known.json'\nmax-errors = 1\n")
    assert validate("tied.jsonl").returncode == UNREADABLE  # it is not there yet
    assert validate("tied.jsonl", "--write-baseline", "known.json").returncode == 0
    again = validate("bad.jsonl", "--write-baseline", "known.json", "--json")
    assert (again.returncode, json.loads(again.stdout)["known"]) == (0, 2)  # what is known already is written too
    assert len(json.loads((files / "known.json").read_text())["findings"]) == 2
    assert validate("bad.jsonl", "--fail-on", "warning").returncode == 0


def test_no_baseline_is_written_where_a_file_can_not_be_read(validate, files):
    run = validate("bad.jsonl", "absent.jsonl", "--write-baseline", "known.json")
    assert run.returncode == UNREADABLE
    assert "known.json: not written" in run.stderr
    assert not (files / "known.json").exists()


def test_the_configuration_is_used_named_and_overridden(validate, files):
    (files / "pyproject.toml").write_text("[tool.dpo.validate]\nwarn = ['reward-order']\nfail-on = 'error'\n")
    (files / "data").mkdir()
    run = validate("../bad.jsonl", cwd=files / "data")
    assert run.returncode == 0, run.stderr
    assert run.stderr.startswith("configuration: ../pyproject.toml\n")
    assert validate("bad.jsonl", "--fail-on", "warning").returncode == FAILED
    assert validate("bad.jsonl", "--no-config").returncode == FAILED
    assert validate("bad.jsonl", "--error", "reward-order").returncode == FAILED
    (files / "own.toml").write_text("ignore = ['reward-order']\n")
    own = validate("bad.jsonl", "--config", "own.toml", "--json")
    assert (own.returncode, rules_of(own)) == (0, {"reward-tie": 1})
    (files / "pyproject.toml").write_text("[tool.dpo.validate]\nwran = ['reward-order']\n")
    wrong = validate("bad.jsonl")
    assert (wrong.returncode, wrong.stdout) == (MISUSE, "")
    assert wrong.stderr == ("dpo: error: pyproject.toml: [tool.dpo.validate]: wran: no such key; did you mean warn?\n")


def test_a_rule_that_is_asked_for_and_can_find_nothing_is_told(validate, files):
    run = validate("good.jsonl", "--error", "prompt-leak,small-margin", "--limit", "min-margin=0")
    assert run.returncode == 0
    assert "prompt-leak: finds nothing without --against FILE" in run.stderr
    assert "small-margin" not in run.stderr
    assert "finds nothing" not in validate("good.jsonl", "--error", "all").stderr


def test_all_rules_are_listed_as_they_are_set(validate, files):
    run = validate("--list-rules", "--json", "--ignore", "secret", "--limit", "min-margin=0.5")
    assert (run.returncode, run.stderr) == (0, "")
    rules = {rule["name"]: rule for rule in json.loads(run.stdout)["rules"]}
    assert list(rules) == list(Rule)
    assert (rules["secret"]["severity"], rules["secret"]["default_severity"]) == ("ignore", "warning")
    assert rules["small-margin"]["limits"] == {"min-margin": 0.5}
    assert rules["small-margin"]["needs"] is None
    assert rules["length-ratio"]["needs"] == "--limit max-length-ratio=NUMBER"
    assert rules["prompt-leak"]["needs"] == "--against FILE"
    assert rules["too-long"]["needs"] == "--tokenizer PATH --max-tokens N"
    shown = validate("--list-rules", COLUMNS="80")
    assert (shown.returncode, shown.stderr) == (0, "")
    words = shown.stdout.split()
    assert {*Rule} <= {*words}
    assert max(map(len, shown.stdout.splitlines())) <= 110


def test_every_limit_is_of_a_rule_and_none_is_named_in_vain():
    assert {rule for about in LIMITS.values() for rule in about.rules} <= {*Rule}
    listed = listing.rules_as_json(GateSettings(limits=Limits(min_reward=-1)))
    named = {name for rule in listed for name in rule["limits"]}
    assert named == {*LIMITS}
    assert next(rule for rule in listed if rule["name"] == "reward-range")["needs"] is None


def test_the_page_has_the_rules_and_limits_as_they_are():
    page = listing.PAGE.read_text(encoding="utf-8")
    assert listing.page_with_tables(page) == page, "run python -m pipeline.gate.listing"
    for rule, about in ABOUT.items():
        assert f"| `{rule}` | {about.severity} | {about.finds} | {about.why} |" in page


def test_the_page_names_every_option_and_format(dpo):
    page = listing.PAGE.read_text(encoding="utf-8")
    words = dpo("validate", "--help", COLUMNS="200").stdout.split()
    options = {word for word in words if word.startswith("--")} - {"--help"}
    assert options == OPTIONS  # a new one is meant; one that goes is somebody's job that breaks
    assert {option for option in options if option not in page} == set()
    assert {form for form in OutputFormat if f"`{form}`" not in page} == set()
    prose = [line for line in page.splitlines() if not line.startswith("|")]
    assert max(map(len, prose)) <= 126


def test_the_configuration_of_the_page_can_be_used(tmp_path):
    page = listing.PAGE.read_text(encoding="utf-8")
    (block,) = re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "pyproject.toml").write_text(block)
    told = read_config(tmp_path / "pyproject.toml").told
    assert settings_of(told).limits.max_length_ratio == 4
    (keys,) = re.findall(r"Keys are options without.*?: (.*?)\.\n", page, flags=re.DOTALL)
    assert set(re.findall(r"`([\w-]+)`", keys)) == {*READERS}


def test_the_run_of_the_page_is_a_real_one(dpo):
    page = listing.PAGE.read_text(encoding="utf-8")
    commands = re.findall(r"^    \$ dpo (.*)$", page, flags=re.MULTILINE)
    for command in commands:
        run = dpo(*command.replace("data/samples", str(ROOT / "data" / "samples")).split())
        assert run.returncode == 0, run.stderr
    shown = page.split(f"    $ dpo {commands[-1]}\n")[1].split("\n\n(")[0].split("\n")
    real = [line.rstrip() for line in run.stderr.rstrip("\n").split("\n")]
    assert len(shown) == len(real)
    for line, real_line in zip(shown, real, strict=True):
        begin, cut, _ = line.removeprefix("    ").partition(" …")
        assert real_line.startswith(begin) if cut else real_line == begin


def test_the_help_fits_a_terminal_and_is_in_groups(dpo):
    text = dpo("validate", "--help", COLUMNS="80", TERM="dumb").stdout
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for panel in ("What the rows are", "What is found", "What is reported", "What fails", "How the work is done"):
        assert f" {panel} " in text


def test_help_starts_without_the_gate():
    script = (
        "import sys, cli\n"
        "heavy = {'polars', 'msgspec', 'jsonschema_rs', 'pipeline.gate.settings', 'pipeline.gate.run', 'tomllib'}\n"
        "assert 'pipeline.gate.command' in sys.modules\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


def test_misuse_and_the_rules_are_told_without_starting_the_work():
    script = (
        "import sys, cli\n"
        "sys.argv = ['dpo', 'validate', *sys.argv[1:]]\n"
        "try: cli.main()\n"
        "finally: assert not {'polars', 'pipeline.gate.run'} & set(sys.modules)\n"
    )
    for arguments, exit_code in ((["--list-rules", "--no-config"], 0), (["--ignore", "x"], MISUSE)):
        command = [sys.executable, "-c", script, *arguments]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert run.returncode == exit_code, run.stderr


def test_outputs_are_read_as_they_are_written():
    told = outputs_told(["sarif=a=b.sarif", "json", "human"], as_json=False)
    wanted = (Output(OutputFormat.SARIF, Path("a=b.sarif")), Output(OutputFormat.JSON))
    assert told == Outputs(wanted, shows_human=True)
    assert told.paths == (Path("a=b.sarif"),)
    assert outputs_told([], as_json=False) == Outputs((), shows_human=True)


def test_devices_may_be_written_to_twice_and_links_are_seen_through(tmp_path):
    refuse_outputs([Path("/dev/null"), Path("/dev/null")], [Path("/dev/null"), Path("-"), Path("s3://bucket/x")])
    (tmp_path / "data.jsonl").touch()
    (tmp_path / "link.json").symlink_to("data.jsonl")
    with pytest.raises(UsageError, match=r"link.json: is an input too"):
        refuse_outputs([tmp_path / "link.json"], [tmp_path / "data.jsonl"])
    with pytest.raises(DpoError, match="is a directory; name the file to write"):
        refuse_outputs([tmp_path], [])
