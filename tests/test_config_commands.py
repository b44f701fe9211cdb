"""`dpo config show|list|import` and `dpo schema`, as a user meets them; and the files made of the declarations."""

import json
from pathlib import Path

import jsonschema_rs
import pytest
import yaml
from typer.testing import CliRunner, Result

import cli
from schemas.errors import DpoError, UsageError
from trainer.commands import told_apart
from trainer.config.keys import option_keys, options
from trainer.config.listing import generated_files, list_options, train_config_schema
from trainer.config.sections import TrainConfig
from trainer.config.settings import resolve
from trainer.config.show import default_tree, scalar
from trainer.config.yaml_file import read_yaml

REPOSITORY = Path(__file__).parents[1]
DEFAULTS = REPOSITORY / "configs" / "dpo.yaml"
OLD = "data: {train_data_path: t.jsonl}\nloss_fn: {reference_policy_kl_penalty: 0.1}\npolicy: {precision: float16}\n"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run a command in a folder of its own; its errors are what it raises."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(cli.app, arguments)

    return run


def refusal(result: Result) -> str:
    assert isinstance(result.exception, DpoError)
    assert result.stdout == ""
    return str(result.exception)


# Files made of the declarations


@pytest.mark.parametrize("path", generated_files(), ids=str)
def test_what_is_made_of_the_declarations_is_up_to_date(path: Path) -> None:
    remedy = "run: python -m trainer.config.listing"
    assert (REPOSITORY / path).read_text() == generated_files()[path], remedy


def test_the_shipped_file_has_the_defaults() -> None:
    told = {"train_data_path": Path("pairs.jsonl"), "output_dir": Path("out")}
    assert resolve(config_file=DEFAULTS, **told) == resolve(**told)


def test_the_shipped_file_has_every_key_and_above_each_its_meaning() -> None:
    lines = DEFAULTS.read_text().splitlines()
    assert lines[0] == "# yaml-language-server: $schema=../schemas/train_config.schema.json"
    places = {key: int(place.rpartition(":")[2]) for key, place in read_yaml(DEFAULTS).places.items()}
    for key, field in options():
        if not key.startswith("data.validation."):  # none by default
            assert lines[places[key] - 2].strip() == f"# {field.description}", key
    assert all(len(line) <= 126 for line in lines)


def test_the_schema_is_one_and_knows_what_a_file_may_hold() -> None:
    schema = train_config_schema()
    jsonschema_rs.meta.validate(schema)
    valid = jsonschema_rs.validator_for(schema).is_valid
    assert valid(read_yaml(DEFAULTS).tree)
    assert valid({})
    assert valid({"data": {"train": ["a.jsonl", {"data_path": "b", "weight": 2}], "validation": "v"}})
    assert valid(json.loads(resolve(train_data_path=Path("p")).model_dump_json()))
    for wrong in (
        {"dpo": {"sed": 1}},
        {"policy": {"optimizer": {"lr": -1}}},
        {"loss": {"name": "x"}},
        {"nope": {}},
        [],
    ):
        assert not valid(wrong), wrong


def test_defaults_survive_any_reader_of_yaml() -> None:
    assert yaml.safe_load(DEFAULTS.read_text()) == read_yaml(DEFAULTS).tree == default_tree()


@pytest.mark.parametrize(
    "text", ["no", "1e5", "007", "1:30", "2024-01-01", "null", "~", "", "a: b", "5e-7", "ä\n{{ x }}"]
)
def test_text_is_written_so_that_it_is_read_as_text(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.yaml").write_text(f"a: {scalar(text)}\n")
    assert read_yaml(tmp_path / "x.yaml").tree == {"a": text} == yaml.safe_load((tmp_path / "x.yaml").read_text())


# dpo config show


def test_show_marks_what_differs(run, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("policy: {optimizer: {lr: 1e-6}}\n")
    arguments = [
        "pairs.jsonl",
        "--config",
        "run.yaml",
        "dpo.seed=7",
        "data.val_data_paths.hard=h.jsonl",
        "loss.mix.ipo=2",
    ]
    result = run("config", "show", *arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    marked = [line.strip() for line in result.stdout.splitlines() if "#" in line]
    assert marked == [
        "data_path: pairs.jsonl  # default: null",
        "val_data_paths: {hard: h.jsonl}  # default: {}",
        "seed: 7  # default: 42",
        "mix: {ipo: 2.0}  # default: {}",
        "lr: 1.0e-06  # default: 5.0e-06",
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["a.jsonl"],
        ["a.jsonl", "b.jsonl", "data.train.1.weight=2", "-c", str(DEFAULTS)],
        ["a.jsonl", "data.validation=v.jsonl", "output_dir=x"],
        ["a.jsonl", "data.val_data_paths.x.data_path=org/n", "data.val_data_paths.x.split=test"],
        ["a.jsonl", "policy.tokenizer.chat_template={% for m in ms %}\n{{ m }}{% endfor %}", "logger.wandb.name=1e5"],
        ["a.jsonl", "policy.tokenizer.chat_template_kwargs={a: {b: [1, null]}}", "policy.max_grad_norm=null"],
    ],
)
def test_what_show_prints_is_a_file_that_says_the_same(run, tmp_path: Path, arguments: list[str]) -> None:
    first = run("config", "show", *arguments)
    assert first.exit_code == 0, first.exception
    (tmp_path / "shown.yaml").write_text(first.stdout)
    assert run("config", "show", "--config", "shown.yaml").stdout == first.stdout
    as_json = run("config", "show", "--config", "shown.yaml", "--json")
    assert yaml.safe_load(first.stdout) == json.loads(as_json.stdout)


def test_show_without_pairs_needs_none_and_with_errors_tells_all(run) -> None:
    assert json.loads(run("config", "show", "--json").stdout) == default_tree()
    message = refusal(run("config", "show", "dpo.sed=1", "beta=2"))
    assert message.splitlines()[1:] == [
        "  beta: is dpo.reference_policy_kl_penalty here",
        "  dpo.sed: no such setting; did you mean dpo.seed?",
    ]


# dpo config list


def test_list_has_every_setting(run) -> None:
    listed = json.loads(run("config", "list", "--json").stdout)
    assert [each["key"] for each in listed] == option_keys()
    assert {each["key"]: (each["default"], each["values"]) for each in listed}.items() >= {
        "policy.optimizer.lr": ("5e-06", "number > 0, ≤ 1"),
        "policy.optimizer.betas": ("[0.9, 0.98]", "[number ≥ 0, < 1, number ≥ 0, < 1]"),
        "data.order": ("groups", "groups, pairs"),
        "dpo.max_num_steps": ("null", "integer > 0 or null"),
        "policy.lora.target_modules": ("[]", "list of text"),
        "dpo.val_at_start": ("true", "true, false"),
        "output_dir": ("null", "text or null"),
    }.items()
    assert all(each["meaning"] and each["values"] for each in listed)


def test_list_finds_by_words_and_globs(run) -> None:
    assert [option.key for option in list_options("policy.scheduler.*")] == [
        "policy.scheduler.name",
        "policy.scheduler.warmup_ratio",
        "policy.scheduler.warmup_steps",
        "policy.scheduler.min_lr_ratio",
    ]
    assert "policy.scheduler.warmup_steps" in {option.key for option in list_options("STEPS rate")}
    result = run("config", "list", "beta")
    assert "dpo.reference_policy_kl_penalty" in result.stdout
    assert "policy.lora.rank" not in result.stdout
    assert (
        refusal(run("config", "list", "zzz"))
        == "no setting has 'zzz' in its key or meaning; dpo config list has them all"
    )


# dpo config import


def test_import_prints_yaml_on_stdout_and_each_key_on_stderr(run, tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text(OLD)
    result = run("config", "import", "old.yaml")
    assert result.exit_code == 0
    assert yaml.safe_load(result.stdout) == {
        "data": {"train": {"data_path": "t.jsonl"}},
        "dpo": {"reference_policy_kl_penalty": 0.1},
    }
    assert result.stderr.splitlines() == [
        "renamed     data.train_data_path -> data.train.data_path",
        "renamed     loss_fn.reference_policy_kl_penalty -> dpo.reference_policy_kl_penalty",
        "lost        policy.precision: there are float32 and bfloat16 (it was float16)",
        "0 carried, 2 renamed, 0 not needed, 1 lost",
    ]


def test_import_writes_a_file_that_resolves(run, tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text(OLD)
    result = run("config", "import", "old.yaml", "beta=0.3", "-o", "new.yaml")
    assert (result.exit_code, result.stdout) == (0, "")
    shown = run("config", "show", "--config", "new.yaml")
    assert "data_path: t.jsonl  # default: null" in shown.stdout
    again = refusal(run("config", "import", "old.yaml", "-o", "new.yaml"))
    assert again == "new.yaml: exists; name a new file with -o"


def test_import_is_strict_where_it_is_told(run, tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text(OLD)
    assert run("config", "import", "old.yaml", "--strict").exit_code == 1
    (tmp_path / "old.yaml").write_text("data: {num_workers: 1}\nbeta: 0.1\n")
    assert run("config", "import", "old.yaml", "--strict").exit_code == 0


@pytest.mark.parametrize(
    ("text", "arguments", "exit_code", "message"),
    [
        ("num_repeats: 2\n", ["old.yaml"], 1, "nothing was carried"),
        ("", ["old.yaml"], 1, "nothing was carried"),
        ("", ["none.yaml"], 3, "none.yaml: no such file"),
        ("- a\n", ["old.yaml"], 2, "old.yaml:1: expected a mapping"),
        ("a: 1\n", ["old.yaml", "old.yaml"], 2, "2 files to import; expected one"),
        ("beta: 1\n", ["old.yaml", "-o", "none/new.yaml"], 1, "none/new.yaml: can't be written: No such file"),
    ],
)
def test_imports_that_fail(run, tmp_path: Path, text: str, arguments: list[str], exit_code: int, message: str) -> None:
    (tmp_path / "old.yaml").write_text(text)
    result = run("config", "import", *arguments)
    assert message in refusal(result)
    assert result.exception.exit_code == exit_code


# dpo schema


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("rollout", "rollout"),
        ("binary", "binary_preference"),
        ("preference", "preference"),
        ("trl", "trl"),
        ("train-config", "train_config"),
    ],
)
def test_schema_prints_each(run, kind: str, name: str) -> None:
    result = run("schema", kind)
    assert result.stdout == (REPOSITORY / "schemas" / f"{name}.schema.json").read_text()


def test_an_empty_argument_is_not_this_folder(run) -> None:
    for command in (["train"], ["config", "show"]):
        assert "an argument is empty" in refusal(run(*command, ""))


def test_settings_and_files_are_told_apart(run, tmp_path: Path) -> None:
    (tmp_path / "a.b=c").write_text("")
    assert told_apart(
        ["p.jsonl", "dpo.seed=7", "++x.y=1", "~dpo.seed", "s3://b/x?y=z", "a.b=c", "./x=y.jsonl", "-"]
    ) == (
        [Path("p.jsonl"), Path("s3://b/x?y=z"), Path("a.b=c"), Path("./x=y.jsonl"), Path("-")],
        ["dpo.seed=7", "++x.y=1", "~dpo.seed"],
    )


def test_the_configuration_that_is_shown_is_the_one_that_runs() -> None:
    """Every value of the tree comes back as the same configuration."""
    tree = {**default_tree(), "output_dir": "out"}
    tree["data"]["train"]["data_path"] = "p"
    told = {"train_data_path": Path("p"), "output_dir": Path("out")}
    assert TrainConfig.model_validate(tree) == resolve(**told)
    with pytest.raises(UsageError, match="no pairs"):
        resolve()
