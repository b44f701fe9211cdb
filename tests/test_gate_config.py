"""Where `dpo validate` finds its configuration, what each key means, and what is told of a wrong one."""

import dataclasses
import os
from pathlib import Path

import pytest

from pipeline.gate.config_file import READERS, find_config, read_config
from pipeline.gate.rules import ABOUT, Rule, Severity
from pipeline.gate.settings import LIMITS, Limits
from pipeline.gate.told import Told, laid_over, limit_told, limits_of, limits_told, settings_of, severities_told
from schemas.errors import UsageError
from schemas.forms import PairKeys
from schemas.validation import Kind


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with a folder in it, which is the working directory."""
    (tmp_path / ".git").mkdir()
    (tmp_path / "data" / "raw").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "data")
    return tmp_path


def refusal(text: str, path: Path) -> str:
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_config(path)
    return str(caught.value)


def told_by(text: str, path: Path) -> Told:
    path.write_text(text)
    return read_config(path).told


def test_every_key_says_what_its_option_says(repository):
    told = told_by(
        """
        ignore = ["secret", "broken-encoding,template-token"]
        error = "duplicate-row"
        warn = ["role-order"]
        fail-on = "warning"
        max-errors = 50
        max-findings = 5
        against = ["val.jsonl", "/elsewhere/test.jsonl", "s3://bucket/val.jsonl"]
        schema = "../own.schema.json"
        kind = "binary_preference"
        prompt-key = "question"
        chosen-key = "good"
        rejected-key = "bad"
        tokenizer = "policy"
        max-tokens = 4096
        balance-by = ["source", "domain"]
        baseline = "known.json"
        [limits]
        max-length-ratio = 3
        min-reward = -1.5
        max-chosen-longer = "none"
        """,
        repository / ".dpo-validate.toml",
    )
    assert told == Told(
        {
            Rule.SECRET: Severity.IGNORE,
            Rule.BROKEN_ENCODING: Severity.IGNORE,
            Rule.TEMPLATE_TOKEN: Severity.IGNORE,
            Rule.DUPLICATE_ROW: Severity.ERROR,
            Rule.ROLE_ORDER: Severity.WARNING,
        },
        {"max-length-ratio": 3, "min-reward": -1.5, "max-chosen-longer": None},
        Severity.WARNING,
        50,
        5,
        4096,
        repository / "policy",
        repository / "../own.schema.json",
        (repository / "val.jsonl", Path("/elsewhere/test.jsonl"), Path("s3://bucket/val.jsonl")),
        Kind.BINARY_PREFERENCE,
        "question",
        "good",
        "bad",
        ("source", "domain"),
        repository / "known.json",
    )
    settings = settings_of(told)
    assert settings.keys == PairKeys("question", "good", "bad")
    assert settings.limits == Limits(max_length_ratio=3, min_reward=-1.5, max_chosen_longer=1.0)
    assert (settings.max_tokens, settings.balance_keys, settings.folds_prompts) == (4096, ("source", "domain"), True)
    assert settings.severities[Rule.SECRET] is Severity.IGNORE
    assert settings.severities[Rule.TIE] is ABOUT[Rule.TIE].severity


def test_there_is_a_key_for_all_that_can_be_told():
    fields = {field.name.replace("_", "-") for field in dataclasses.fields(Told)} - {"severities"}
    assert set(READERS) == fields | {"ignore", "error", "warn"}


def test_the_nearest_file_counts_and_its_own_name_before_pyproject(repository):
    assert find_config() is None
    (repository / "pyproject.toml").write_text("[tool.dpo.validate]\nmax-errors = 1\n")
    found = find_config()
    assert (found.path, found.told) == (Path("../pyproject.toml"), Told(max_errors=1))
    (repository / ".dpo-validate.toml").write_text("max-errors = 2\nbaseline = 'known.json'\n")
    found = find_config()
    assert (found.path, found.told.max_errors) == (Path("../.dpo-validate.toml"), 2)
    assert found.told.baseline == Path("../known.json")
    Path("pyproject.toml").write_text("[project]\nname = 'without-our-table'\n")
    assert find_config().told.max_errors == 2
    Path("pyproject.toml").write_text("[tool.dpo.validate]\nmax-errors = 3\n")
    assert find_config() == (Path("pyproject.toml"), Told(max_errors=3))


def test_nothing_outside_of_the_repository_is_read(repository, monkeypatch):
    (repository / ".dpo-validate.toml").write_text("max-errors = 1\n")
    (repository / "data" / ".git").write_text("gitdir: elsewhere\n")  # a file, as in a worktree
    assert find_config() is None
    monkeypatch.chdir("raw")
    assert find_config() is None


def test_a_working_directory_that_is_gone_has_no_configuration(repository, monkeypatch):
    gone = repository / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert find_config() is None


def test_an_empty_file_says_nothing_and_still_is_the_nearest(repository):
    (repository / ".dpo-validate.toml").write_text("max-errors = 1\n")
    Path(".dpo-validate.toml").write_bytes(b"\xef\xbb\xbf# as the tools have it\r\n")
    assert find_config() == (Path(".dpo-validate.toml"), Told())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ignor = ['tie']", "ignor: no such key; did you mean ignore?"),
        ("max_errors = 3", "max_errors: no such key; did you mean max-errors?"),
        ("colour = 3", "colour: no such key; there are ignore, error, warn, fail-on, "),
        ("ignore = ['tei']", "ignore: tei: no such rule; did you mean tie?"),
        ("ignore = ['wobbly']", "ignore: wobbly: no such rule; dpo validate --list-rules shows them"),
        ("ignore = 3", "ignore: got 3, expected a list of texts"),
        ("ignore = [3]", "ignore: got [3], expected a list of texts"),
        ("ignore = ['tie']\nwarn = ['schema', 'tie']", "warn: tie: is named by ignore too"),
        ("fail-on = 'never'", 'fail-on: got "never", expected error or warning'),
        ("fail-on = 'ignore'", 'fail-on: got "ignore", expected error or warning'),
        ("max-errors = 0", "max-errors: got 0, expected a whole number of at least 1"),
        ("max-errors = true", "max-errors: got true, expected a whole number of at least 1"),
        ("max-errors = '3'", 'max-errors: got "3", expected a whole number of at least 1'),
        ("max-tokens = 1.5", "max-tokens: got 1.5, expected a whole number of at least 1"),
        ("kind = 'poem'", 'kind: got "poem", expected one of rollout, binary_preference, preference, trl'),
        ("kind = ['trl']", 'kind: got ["trl"], expected one of rollout, '),
        ("against = {}", "against: got {}, expected a list of texts"),
        ("against = ['']", 'against: got [""], expected a list of texts'),
        ("schema = ''", 'schema: got "", expected a text'),
        ("baseline = 2026-01-01", 'baseline: got "2026-01-01", expected a text'),
        ("limits = 3", "limits: got 3, expected a table of numbers, such as { max-length-ratio = 3 }"),
        ("[limits]\nmax-lenght-ratio = 3", "limits: max-lenght-ratio: no such limit; did you mean max-length-ratio?"),
        ("[limits]\nmax-length-ratio = 0.5", "max-length-ratio: got 0.5, expected a number of at least 1, or none"),
        ("[limits]\nmax-balance-share = true", "got true, expected a number from 0 to 1, or none"),
        ("[limits]\nmin-reward = nan", "min-reward: got nan, expected a number, or none"),
        ("[limits]\nmax-reward = inf", "max-reward: got inf, expected a number, or none"),
        (f"[limits]\nmax-reward = 1{'0' * 400}", "expected a number, or none"),
        ("[limits]\nmin-rows = 1.5", "min-rows: got 1.5, expected a whole number of at least 1"),
        ("[limits]\nmin-rows = 'none'", "min-rows: got none, expected a whole number of at least 1"),
        ("workers = 2", "workers: is an option of the command line alone"),
        ("output-format = 'json'", "output-format: is an option of the command line alone"),
        ("[tool.dpo.validate]\nmax-errors = 3", "keys stand at the top level, without [tool.dpo.validate]"),
        ("max-errors = 3\nmax-errors = 4", "is no TOML: "),
        ("max-errors = ", "is no TOML: "),
        ("'\x1b[31m' = 3", "is no TOML: "),
        ('"\\u001b[31m" = 3', r"\x1b[31m: no such key"),
        ("x = " + "[" * 100_000, "is no TOML: "),
        (f"x = 1{'0' * 10_000}", "is no TOML: "),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_what_is_wrong_is_told_with_file_and_key(tmp_path, text, message):
    told = refusal(text, tmp_path / "my.toml")
    assert told.startswith(f"{tmp_path / 'my.toml'}: ")
    assert message in told
    assert "\n" not in told
    assert "\x1b" not in told


def test_all_that_is_wrong_is_told_at_once(tmp_path):
    path = tmp_path / "pyproject.toml"
    told = refusal("[tool.dpo.validate]\nignor = ['tie']\nkind = 'poem'\nerror = ['x', 'y']\nmax-errors = 3\n", path)
    assert told.split("\n  ") == [
        f"{path}: [tool.dpo.validate] can't be used:",
        "ignor: no such key; did you mean ignore?",
        'kind: got "poem", expected one of rollout, binary_preference, preference, trl',
        "error: x: no such rule; dpo validate --list-rules shows them",
        "error: y: no such rule; dpo validate --list-rules shows them",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[project]\nname = 'x'", "has no table [tool.dpo.validate]"),
        ("[tool.dpo]\nvalidate = 3", "[tool.dpo.validate]: expected a table"),
        ("tool = 3", "[tool]: expected a table"),
        ("[[tool.dpo]]\nx = 1", "[tool.dpo]: expected a table"),
        ("[tool.dpo.validat]\nmax-errors = 3", "[tool.dpo.validat]: did you mean [tool.dpo.validate]?"),
        ("[tool.dpo.Validate]\nmax-errors = 3", "[tool.dpo.Validate]: did you mean [tool.dpo.validate]?"),
    ],
)
def test_a_pyproject_has_a_table_of_ours(tmp_path, text, message):
    assert refusal(text, tmp_path / "pyproject.toml") == f"{tmp_path / 'pyproject.toml'}: {message}"


def test_tables_of_other_commands_are_left_alone(repository):
    Path("pyproject.toml").write_text("[tool.dpo.train]\nx = 1\n[tool.other]\nvalidate = 3\n")
    assert find_config() is None


def test_a_file_that_can_not_be_read_is_not_passed_over(repository):
    Path("pyproject.toml").write_bytes(b"name = '\xff'")
    with pytest.raises(UsageError, match=r"^pyproject.toml: is no TOML: .*\(--no-config does without it\)$"):
        find_config()
    with pytest.raises(UsageError, match=r"^absent.toml: can't be read: No such file or directory"):
        read_config(Path("absent.toml"))
    with pytest.raises(UsageError, match=r"^raw: can't be read: Is a directory"):
        read_config(Path("raw"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_not_passed_over(repository):
    Path(".dpo-validate.toml").touch(mode=0)
    with pytest.raises(UsageError, match="Permission denied"):
        find_config()


def test_the_command_line_wins_key_by_key_rule_by_rule_and_limit_by_limit():
    file = Told(
        {Rule.TIE: Severity.IGNORE, Rule.SECRET: Severity.ERROR},
        {"min-margin": 0.5, "max-reward": 1},
        Severity.WARNING,
        max_errors=7,
        against=(Path("val.jsonl"),),
        prompt_key="question",
        balance_by=("source",),
    )
    line = Told(
        {Rule.TIE: Severity.WARNING},
        {"min-margin": None},
        max_errors=9,
        balance_by=("domain",),
        chosen_key="",
    )
    assert laid_over(line, file) == Told(
        {Rule.TIE: Severity.WARNING, Rule.SECRET: Severity.ERROR},
        {"min-margin": None, "max-reward": 1},
        Severity.WARNING,
        max_errors=9,
        against=(Path("val.jsonl"),),
        prompt_key="question",
        chosen_key="",
        balance_by=("domain",),
    )


def test_all_stands_for_the_rules_that_are_not_named():
    severities, problems = severities_told({"ignore": ["all"], "error": ["schema, tie"], "warn": []})
    assert problems == []
    assert severities == {**dict.fromkeys(Rule, Severity.IGNORE), Rule.SCHEMA: Severity.ERROR, Rule.TIE: Severity.ERROR}
    _, problems = severities_told({"ignore": ["all"], "error": ["all"], "warn": []}, dashes="--")
    assert problems == ["--error: all: is named by --ignore too"]


def test_the_same_rule_twice_with_one_severity_is_no_contradiction():
    severities, problems = severities_told({"ignore": ["tie,tie", "tie", " ", ","]})
    assert (severities, problems) == ({Rule.TIE: Severity.IGNORE}, [])


@pytest.mark.parametrize("name", LIMITS)
def test_every_limit_can_be_set_and_silenced_where_none_means_that(name):
    about = LIMITS[name]
    least = max(about.least, -5)
    assert limit_told(name, least) == (least, None)
    field = name.replace("-", "_")
    assert getattr(limits_of({name: least}), field) == least
    if name == "min-rows":
        assert isinstance(limits_of({name: 7.0}).min_rows, int)
    else:
        assert limit_told(name, "none") == (None, None)
        assert getattr(limits_of({name: None}), field) == about.silent
    assert about.rules
    if about.least > -1:
        assert limit_told(name, about.least - 0.5)[1]
    if about.most < 2:
        assert limit_told(name, about.most + 0.5)[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("min-margin", "expected NAME=VALUE, such as max-length-ratio=3"),
        ("min-margin=", "got , expected a number of at least 0, or none"),
        ("min-margin=x", "got x, expected a number of at least 0, or none"),
        ("min-margin=1_0", "got 1_0, expected a number of at least 0, or none"),
        ("min-margin=1e999", "got inf, expected a number of at least 0, or none"),
        ("min-magrin=1", "no such limit; did you mean min-margin?"),
        ("min_margin=1", "no such limit; did you mean min-margin?"),
    ],
)
def test_a_limit_of_the_command_line_that_is_none(text, message):
    assert limits_told([text])[1] == [f"--limit {text}: {message}"]


def test_a_limit_that_is_told_twice():
    assert limits_told(["min-margin=1", "max-reward = 2"]) == ({"min-margin": 1, "max-reward": 2}, [])
    assert limits_told(["min-margin=1", "min-margin=2"])[1] == ["--limit min-margin=2: is told twice"]


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (Told(max_tokens=3), "--max-tokens needs --tokenizer PATH"),
        (Told(tokenizer=Path("t")), "--tokenizer needs --max-tokens N"),
        (Told(prompt_key="x", chosen_key="x"), "name three keys, got x, x, rejected"),
        (Told(chosen_key="prompt"), "name three keys, got prompt, prompt, rejected"),
        (Told(chosen_key=""), "name keys, got an empty text"),
        (Told(chosen_key="x", kind=Kind.ROLLOUT), "of binary_preference and trl rows, not of rollout"),
        (Told(limits={"min-reward": 2, "max-reward": 1}), "--limit min-reward=2 is above max-reward=1"),
        (Told(limits={"min-chosen-longer": 0.7}), "--limit min-chosen-longer=0.7 is above max-chosen-longer=0.6"),
        (Told(limits={"min-mean-margin": 1, "max-mean-margin": 0}), "min-mean-margin=1 is above max-mean-margin=0"),
    ],
    ids=str,
)
def test_what_can_not_be_together(told, message):
    with pytest.raises(UsageError) as caught:
        settings_of(told)
    assert message in str(caught.value)


def test_what_can_be_together():
    assert settings_of(Told(chosen_key="x", kind=Kind.TRL)).keys.chosen == "x"
    assert settings_of(Told(limits={"min-chosen-longer": 0.7, "max-chosen-longer": None})).limits.max_chosen_longer == 1
    assert settings_of(Told(max_tokens=3, tokenizer=Path("t"))).max_tokens == 3
    assert not settings_of(Told()).folds_prompts
