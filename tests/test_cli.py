"""The command line of collect-pairs, inspect and validate: misuse and its exit codes, help, what goes where."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from cli import _fail
from schemas.errors import EXIT_INTERNAL, DpoError, InputError, UsageError

FAILED, MISUSE, UNREADABLE = DpoError.exit_code, UsageError.exit_code, InputError.exit_code
ROOT = Path(__file__).resolve().parent.parent
PAIR = {"prompt": "Q", "chosen": "A", "rejected": "B"}


@pytest.fixture
def files(tmp_path, rollout, write_jsonl):
    """Lay out the files that the tables below name, and give their folder."""
    write_jsonl(tmp_path / "good.jsonl", [rollout(reward=1), rollout(response="B", reward=0)])
    write_jsonl(tmp_path / "equal.jsonl", [rollout(), rollout(response="B")])
    write_jsonl(tmp_path / "pairs.jsonl", [PAIR])
    write_jsonl(tmp_path / "bad_pairs.jsonl", [PAIR, {**PAIR, "chosen": ""}])
    write_jsonl(tmp_path / "malformed.jsonl", [b'{"a":', b"<PLACEHOLDER ROW>"])
    write_jsonl(tmp_path / "mixed.jsonl", [b"{", rollout(reward=1), rollout(response="B", reward=0)])
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "loop.jsonl").symlink_to("loop.jsonl")
    return tmp_path


def snapshot(folder):
    return {path.name: path.read_bytes() if path.is_file() else None for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("args", "exit_code", "message"),
    [
        # options
        ("--nope", MISUSE, "No such option"),
        ("nope", MISUSE, "No such command 'nope'"),
        ("collect-pairs", MISUSE, "Missing argument"),
        ("collect-pairs good.jsonl --nope", MISUSE, "No such option"),
        ("collect-pairs good.jsonl --min-margin x", MISUSE, "--min-margin"),
        ("collect-pairs good.jsonl --min-margin -0.1", MISUSE, "--min-margin"),
        ("collect-pairs good.jsonl --min-margin nan", MISUSE, "--min-margin"),
        ("collect-pairs good.jsonl -o", MISUSE, "-o"),
        ("collect-pairs good.jsonl --format parquet", MISUSE, "'binary', 'preference', 'trl'"),
        ("collect-pairs good.jsonl --strategy best", MISUSE, "'best-worst'"),
        ("collect-pairs good.jsonl --strategy random", MISUSE, "--strategy random needs --num-pairs N"),
        ("collect-pairs good.jsonl --num-pairs 2", MISUSE, "with all use --max-pairs-per-prompt"),
        ("collect-pairs good.jsonl --strategy top --num-pairs 0", MISUSE, "--num-pairs"),
        ("collect-pairs good.jsonl --max-pairs-per-prompt 0", MISUSE, "--max-pairs-per-prompt"),
        ("collect-pairs good.jsonl --max-pairs-per-agent 0", MISUSE, "--max-pairs-per-agent"),
        ("collect-pairs good.jsonl --max-length-ratio 0.5", MISUSE, "--max-length-ratio 0.5: expected at least 1"),
        ("collect-pairs good.jsonl --threshold nan", MISUSE, "expected numbers, got nan"),
        ("collect-pairs good.jsonl --reward-field a..b", MISUSE, "--reward-field a..b: expected a field"),
        ("collect-pairs good.jsonl --reasoning drop", MISUSE, "'keep', 'strip', 'require-both'"),
        ("collect-pairs good.jsonl --validation-fraction 1", MISUSE, "--validation-fraction"),
        ("collect-pairs good.jsonl --max-line-mb 0", MISUSE, "--max-line-mb"),
        ("collect-pairs good.jsonl --workers 0", MISUSE, "--workers"),
        ("collect-pairs good.jsonl -o out.csv", MISUSE, "out.csv: can't tell how to write it; expected one of .jsonl"),
        ("collect-pairs good.jsonl -o a.jsonl --rejects folder/../a.jsonl", MISUSE, "name two files"),
        ("collect-pairs good.jsonl --rejects good.jsonl", MISUSE, "good.jsonl: is an input too"),
        ("inspect", MISUSE, "Missing argument"),
        ("inspect good.jsonl --workers 0", MISUSE, "--workers"),
        ("inspect good.jsonl --threshold nan", MISUSE, "expected numbers, got nan"),
        ("inspect good.jsonl --reward-field +", MISUSE, "--reward-field +: expected a field"),
        ("validate", MISUSE, "no files; name rollouts or preference pairs"),
        ("validate pairs.jsonl --max-findings 0", MISUSE, "--max-findings"),
        # the rollouts would be gone
        ("collect-pairs good.jsonl -o good.jsonl", MISUSE, "good.jsonl"),
        ("collect-pairs equal.jsonl good.jsonl -o folder/../good.jsonl", MISUSE, "good.jsonl"),
        # inputs
        ("collect-pairs absent.jsonl", UNREADABLE, "absent.jsonl: no such file"),
        ("collect-pairs good.jsonl absent.jsonl", UNREADABLE, "absent.jsonl: no such file"),
        ("collect-pairs folder", UNREADABLE, "folder: a folder without .jsonl, .jsonl.gz, .jsonl.zst files"),
        ("collect-pairs loop", UNREADABLE, "loop"),
        ("collect-pairs no*.jsonl", UNREADABLE, "no*.jsonl: no file matches"),
        ("inspect absent.jsonl", UNREADABLE, "absent.jsonl: no such file"),
        ("collect-pairs " + "a" * 300, UNREADABLE, "aaa"),
        ("collect-pairs file\x1b[31m", UNREADABLE, r"file\x1b[31m: no"),
        ("collect-pairs fi\nle", UNREADABLE, "no such file"),
        ("validate absent.jsonl", UNREADABLE, "absent.jsonl: no such file"),
        ("validate folder", UNREADABLE, "folder: a folder without .jsonl, .jsonl.gz, .jsonl.zst, .parquet files"),
        ("validate " + "a" * 300, UNREADABLE, "aaa"),
    ],
    ids=lambda value: ascii(value)[:60],
)  # fmt: skip
def test_misuse_is_one_line_on_stderr_and_an_exit_code(dpo, files, args, exit_code, message):
    before = snapshot(files)
    run = dpo(*args.split(" "))
    assert run.returncode == exit_code, run.stderr
    assert run.stdout == ""
    (line,) = run.stderr.rstrip("\n").split("\n")
    assert line.startswith("dpo: error: ")
    assert message in line
    assert snapshot(files) == before


@pytest.mark.parametrize(
    ("args", "exit_code", "message"),
    [
        ("collect-pairs empty.jsonl", FAILED, "no pairs: the input has no rows"),
        ("collect-pairs malformed.jsonl", FAILED, "no pairs"),
        ("collect-pairs pairs.jsonl", FAILED, "none of the files holds rollouts"),
        ("collect-pairs equal.jsonl", FAILED, "2 of 2 rows are equal_rewards"),
        ("collect-pairs good.jsonl --min-margin 2", FAILED, "least margin 2"),
        ("collect-pairs good.jsonl -o folder", FAILED, "folder: is a directory; name the file to write"),
        ("collect-pairs good.jsonl -o good.jsonl/out.jsonl", FAILED, "good.jsonl/out.jsonl: can't be written: "),
        ("collect-pairs good.jsonl -o loop.jsonl", FAILED, "loop.jsonl: can't be written"),
    ],
)
def test_a_collection_that_fails_ends_with_one_line_and_leaves_nothing(dpo, files, args, exit_code, message):
    before = snapshot(files)
    run = dpo(*args.split(" "))
    assert run.returncode == exit_code, run.stderr
    assert run.stdout == ""
    errors = [line for line in run.stderr.split("\n") if "dpo: error: " in line]
    assert len(errors) == 1
    assert run.stderr.endswith(errors[0] + "\n")
    assert errors[0].startswith("dpo: error: ")
    assert message in errors[0]
    assert "Traceback" not in run.stderr
    assert snapshot(files) == before


@pytest.mark.parametrize(
    ("name", "exit_code", "message"),
    [
        ("pairs.jsonl", 0, "pairs.jsonl: 1 row of binary_preference, all valid"),
        ("good.jsonl", 0, "good.jsonl: 2 rows of rollout, all valid"),
        (
            "bad_pairs.jsonl",
            FAILED,
            "bad_pairs.jsonl:2: error: schema: /chosen: got an empty string, expected a length of at least 1",
        ),
        ("malformed.jsonl", FAILED, "malformed.jsonl:2:1: error: malformed-json: got '<PLACEHOLDER ROW>', expected "),
        ("empty.jsonl", FAILED, "empty.jsonl: error: empty-file: got an empty file, expected at least one row"),
    ],
)
def test_validate_says_what_it_found_on_stderr(dpo, files, name, exit_code, message):
    run = dpo("validate", name)
    assert run.returncode == exit_code, run.stderr
    assert run.stdout == ""
    assert message in run.stderr
    assert "Traceback" not in run.stderr


def test_validate_looks_at_all_files_and_tells_how_many_findings_are_hidden(dpo, files, write_jsonl):
    write_jsonl(files / "many.jsonl", [{**PAIR, "chosen": ""}] * 5)
    run = dpo("validate", "many.jsonl", "pairs.jsonl", "--max-findings", "2")
    assert run.returncode == FAILED
    lines = run.stderr.split("\n")
    assert lines[:3] == [
        "many.jsonl:1: error: schema: /chosen: got an empty string, expected a length of at least 1",
        "many.jsonl:2: error: schema: /chosen: got an empty string, expected a length of at least 1",
        "… and 3 more findings in many.jsonl (--max-findings shows more)",
    ]
    assert lines[-4:] == [
        "many.jsonl: 5 rows of binary_preference, 5 invalid, 5 errors",
        "pairs.jsonl: 1 row of binary_preference, all valid",
        "failed: 5 errors",
        "",
    ]


def test_validate_checks_the_others_where_a_file_is_missing(dpo, files):
    run = dpo("validate", "absent.jsonl", "pairs.jsonl")
    assert run.returncode == UNREADABLE
    assert run.stderr.split("\n") == [
        "pairs.jsonl: 1 row of binary_preference, all valid",
        "incomplete: nothing found",
        "dpo: error: absent.jsonl: no such file",
        "",
    ]


def test_validate_can_require_a_kind(dpo, files):
    assert dpo("validate", "pairs.jsonl", "--kind", "binary_preference").returncode == 0
    run = dpo("validate", "good.jsonl", "--kind", "binary_preference")
    assert run.returncode == FAILED
    assert "good.jsonl:1: error: schema: got an object with keys" in run.stderr
    assert dpo("validate", "pairs.jsonl", "--kind", "poem").returncode == MISUSE


def test_collect_writes_the_pairs_and_tells_of_them_on_stderr(dpo, files):
    run = dpo("collect-pairs", "mixed.jsonl")
    assert run.returncode == 0, run.stderr
    assert run.stdout == ""
    row = json.loads((files / "dpo_train.jsonl").read_text())
    assert (row["prompt"], row["chosen"], row["rejected"]) == ("Q", "A", "B")
    assert run.stderr.split("\n") == [
        " 3  rows read",
        "-1  not_json  the line is no valid JSON",
        " 2  rows in pairs",
        "3 rows → 2 rollouts → 2 usable ones → 1 prompt, 1 with different rewards, 1 with pairs → 1 pair",
        "wrote 1 pair to dpo_train.jsonl",
        "",
    ]


def test_collect_shows_an_example_of_each_reason_if_asked(dpo, files):
    run = dpo("collect-pairs", "equal.jsonl", "mixed.jsonl", "-v")
    assert run.returncode == 0, run.stderr
    lines = [" ".join(line.split()) for line in run.stderr.split("\n")]
    assert lines[1] == "-1 not_json the line is no valid JSON"
    assert lines[2].startswith("for example mixed.jsonl:1: ")
    assert lines[3:5] == [
        "-2 equal_rewards all rollouts of its prompt have the same reward",
        "for example equal.jsonl:1",
    ]


def test_collect_says_what_it_left_out_and_why(dpo, files, rollout, write_jsonl):
    cut = rollout("P", "cut", 2)
    cut["response"]["incomplete_details"] = {"reason": "max_output_tokens"}
    rows = [rollout("P", "A", 1), rollout("P", "B", 0), rollout("P", "C", 0), rollout("P", "D", 0.95), cut]
    write_jsonl(files / "more.jsonl", rows)
    write_jsonl(files / "more_failures.jsonl", [{"_ng_failure_class": "x"}])
    args = ["--allow-truncated-rejected", "--strategy", "best-worst", "--rejects", "no.jsonl"]
    run = dpo("collect-pairs", "more.jsonl", "more_failures.jsonl", *args)
    assert run.returncode == 0, run.stderr
    # 2 with each of 4; 1 with 0.95, which is too near; then 1-0, 1-0, 0.95-0, 0.95-0, of which one is taken
    for line in (
        "left out more_failures.jsonl: failures, with placeholder rewards, no rollouts",
        "1 possible pair left out: below_margin",
        "4 possible pairs left out: chosen_truncated",
        "3 possible pairs left out: not_selected",
        "wrote 1 pair to dpo_train.jsonl",
        "wrote 3 rejected rows to no.jsonl",
    ):
        assert line in run.stderr.split("\n")


def test_collect_reads_folders_globs_and_stdin(dpo, files):
    (files / "folder" / "a.jsonl").write_bytes((files / "good.jsonl").read_bytes())
    for place in ("folder", "fold*/*.jsonl", "-"):
        run = dpo("collect-pairs", place, "--json", "-o", "out.jsonl", stdin=(files / "good.jsonl").read_text())
        assert run.returncode == 0, run.stderr
        assert json.loads(run.stdout)["rows"] == 2


def test_collect_json_is_alone_on_stdout(dpo, files):
    run = dpo("collect-pairs", "mixed.jsonl", "--json", "-o", "out.jsonl")
    assert (run.returncode, run.stderr) == (0, "")
    assert json.loads(run.stdout) == {
        "rows": 3,
        "dropped": {"not_json": 1},
        "parsed": 2,
        "eligible": 2,
        "groups": 1,
        "varied_groups": 1,
        "paired_groups": 1,
        "paired_rollouts": 2,
        "pairs": 1,
        "left_out_pairs": {},
        "pairs_of_several_messages": 0,
        "left_out": [],
        "missing_rollouts": {},
        "outputs": [{"path": "out.jsonl", "pairs": 1}],
    }


def test_collect_json_without_pairs_names_no_output(dpo, files):
    run = dpo("collect-pairs", "equal.jsonl", "--json", "-o", "out.jsonl")
    assert run.returncode == FAILED
    assert json.loads(run.stdout)["outputs"] == []
    assert run.stderr.count("\n") == 1
    assert not (files / "out.jsonl").exists()


def test_validate_json_is_alone_on_stdout(dpo, files):
    run = dpo("validate", "pairs.jsonl", "bad_pairs.jsonl", "malformed.jsonl", "--json")
    assert (run.returncode, run.stderr) == (FAILED, "")
    report = json.loads(run.stdout)
    assert [(file["path"], file["errors"]) for file in report["files"]] == [
        ("pairs.jsonl", 0),
        ("bad_pairs.jsonl", 1),
        ("malformed.jsonl", 2),
    ]
    assert [(finding["path"], finding["line"], finding["rule"]) for finding in report["findings"]] == [
        ("malformed.jsonl", 1, "malformed-json"),
        ("malformed.jsonl", 2, "malformed-json"),
        ("bad_pairs.jsonl", 2, "schema"),
        ("bad_pairs.jsonl", 1, "duplicate-row"),  # of the row in pairs.jsonl
    ]


@pytest.mark.parametrize(
    "command",
    [
        "collect-pairs",
        "inspect",
        "validate",
        "train",
        "export",
        "schema",
        "config show",
        "config list",
        "config import",
    ],
)
def test_the_help_of_each_command_has_an_example(dpo, command):
    run = dpo(*command.split(), "--help")
    assert (run.returncode, run.stderr) == (0, "")
    assert f"Example: dpo {command} " in " ".join(run.stdout.split())
    assert dpo(*command.split(), "-h").stdout == run.stdout


def test_the_help_names_commands_and_exit_codes(dpo):
    run = dpo("--help")
    assert run.returncode == 0
    commands = [
        line.split()[1]
        for line in run.stdout.split("Commands")[1].split("\n")
        if line.startswith("│ ") and line[2] != " "
    ]
    data, training = ["collect-pairs", "inspect", "validate"], ["train", "cluster"]
    assert commands == [*data, *training, "report", "eval", "compare", "review", "export", "schema", "config"]
    for word in ("collect-pairs", "inspect", "validate", "train", "cluster", "Exit codes", "--version"):
        assert word in run.stdout


def test_the_options_of_a_collection(dpo):
    """A new option is meant; one that goes is somebody's script that breaks."""
    words = dpo("collect-pairs", "--help", COLUMNS="200").stdout.split()
    assert {word for word in words if word.startswith("--")} >= {
        "--output",
        "--format",
        "--strategy",
        "--num-pairs",
        "--min-margin",
        "--threshold",
        "--min-chosen-reward",
        "--max-rejected-reward",
        "--max-length-ratio",
        "--max-pairs-per-prompt",
        "--max-pairs-per-agent",
        "--reward-field",
        "--seed",
        "--reasoning",
        "--allow-truncated-rejected",
        "--across-files",
        "--across-agents",
        "--duplicate-keys",
        "--validation-fraction",
        "--test-fraction",
        "--rejects",
        "--dry-run",
        "--verbose",
        "--json",
        "--max-line-mb",
        "--workers",
        "--scratch",
        "--token-ids",
    }


def test_the_options_of_training(dpo):
    """Settings are declared elsewhere; these are the short forms of the usual ones, and they stay few."""
    words = dpo("train", "--help", COLUMNS="200").stdout.split()
    assert {word for word in words if word.startswith("--")} == {
        "--config",
        "--output",
        "--model",
        "--validation",
        "--loss",
        "--beta",
        "--lr",
        "--epochs",
        "--max-steps",
        "--batch-size",
        "--max-length",
        "--push-to-hub",
        "--resume",
        "--resume-anyway",
        "--gpus",
        "--accelerate-config",
        "--self-check",
        "--no-self-check",
        "--dry-run",
        "--json",
        "--help",
    }


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["config", "--help"], ["schema", "trl"]])
def test_help_and_schemas_load_nothing_of_a_stage(arguments):
    script = (
        "import sys; sys.argv = ['dpo', *sys.argv[1:]]\n"
        "try:\n    import cli; cli.main()\n"
        "finally:\n"
        "    assert not {'torch', 'yaml', 'trainer.config.sections', 'schemas.preference'} & sys.modules.keys()\n"
        "    assert len(sys.argv) > 2 or sys.argv[1] != '--help' or 'pydantic' not in sys.modules"
    )
    command = [sys.executable, "-c", script, *arguments]
    run = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")


def test_without_arguments_the_help_is_shown_and_nothing_empty_is_reported(dpo):
    run = dpo()
    assert run.returncode == MISUSE
    assert "collect-pairs" in run.stdout + run.stderr
    assert "dpo: error:  " not in run.stderr


def test_the_version(dpo):
    run = dpo("--version")
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("dpo 0.")


def test_rollouts_come_from_a_pipe(dpo, files):
    rollouts = (files / "good.jsonl").read_text()
    run = dpo("collect-pairs", "/dev/stdin", "-o", "out.jsonl", stdin=rollouts)
    assert run.returncode == 0, run.stderr
    assert json.loads((files / "out.jsonl").read_text())["chosen_source"] == "/dev/stdin:1"
    assert dpo("validate", "/dev/stdin", stdin=rollouts).returncode == 0


def test_pairs_go_to_a_pipe(dpo, files):
    run = dpo("collect-pairs", "good.jsonl", "-o", "/dev/stdout")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["chosen"] == "A"


@pytest.mark.parametrize("name", ["a\nb.jsonl", "a\x1b[31m.jsonl", "a\u202eb.jsonl", "[bold]a.jsonl", "ä 🙂.jsonl"])
def test_a_file_of_any_name_is_read_and_its_name_shown_harmlessly(dpo, files, name):
    (files / name).write_bytes((files / "mixed.jsonl").read_bytes())
    run = dpo("collect-pairs", name, "-o", "out.jsonl")
    assert run.returncode == 0, run.stderr
    assert "\x1b" not in run.stderr
    assert "\u202e" not in run.stderr
    checked = dpo("validate", name)
    assert checked.returncode == FAILED
    assert not {"\x1b", "\u202e"} & set(checked.stderr)
    shown = [line for line in checked.stderr.split("\n") if ".jsonl:" in line]
    assert len(shown) == 2  # one finding, and what the file holds; each on one line


def test_a_file_name_that_is_no_utf_8_is_read(dpo, files):
    name = os.fsdecode(b"a\xff.jsonl")
    (files / name).write_bytes((files / "good.jsonl").read_bytes())
    run = dpo("collect-pairs", name, "-o", "out.jsonl")
    assert run.returncode == 0, run.stderr
    assert dpo("validate", "out.jsonl").returncode == 0


def test_it_works_where_the_terminal_knows_no_unicode(dpo, files):
    run = dpo(
        "validate", "bad_pairs.jsonl", "--max-findings", "1", LC_ALL="C", PYTHONIOENCODING="ascii", PYTHONUTF8="0"
    )
    assert run.returncode == FAILED
    assert "Traceback" not in run.stderr


def test_a_reader_that_goes_away_is_no_fault_of_ours(tmp_path, files):
    read_end, write_end = os.pipe()
    os.close(read_end)  # `dpo ... --json | true`
    command = [sys.executable, "-m", "cli", "collect-pairs", "good.jsonl", "--json", "-o", "out.jsonl"]
    run = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=write_end,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write_end)
    assert run.returncode != EXIT_INTERNAL
    assert run.stderr == ""


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_collection_leaves_nothing(tmp_path, number, exit_code):
    os.mkfifo(tmp_path / "rollouts")  # never closed by its writer: the command waits for more
    command = [sys.executable, "-m", "cli", "collect-pairs", "rollouts", "-o", "out.jsonl"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    with process, (tmp_path / "rollouts").open("wb") as writer:  # opens once the command reads
        writer.write(b"{}\n")
        writer.flush()
        time.sleep(0.3)  # until it waits for the next row
        process.send_signal(number)
        try:
            _, errors = process.communicate(timeout=5)
        finally:
            process.kill()
    assert process.returncode == exit_code, errors
    assert "Traceback" not in errors
    assert [path.name for path in tmp_path.iterdir()] == ["rollouts"]


def test_a_message_is_written_as_a_whole_for_other_processes_write_there_too(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(write=written.append, flush=lambda: None))
    with pytest.raises(SystemExit):
        _fail("one\ntwo", 1)
    assert "".join(written) == written[0] == "dpo: error: one\ntwo\n"
