"""YAML files of settings: what is read as what, and one clear line with file and line for each mistake."""

from pathlib import Path

import pytest

from schemas.errors import InputError, UsageError
from trainer.config.sections import TrainConfig
from trainer.config.settings import resolve
from trainer.config.yaml_file import read_yaml


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def write(text: str | bytes) -> Path:
        path = Path("run.yaml")
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


def config_of(path: Path, *overrides: str) -> TrainConfig:
    return resolve(overrides, config_file=path, train_data_path=Path("pairs.jsonl"), model_name="m")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-7", 5e-7),  # text in YAML 1.1
        ("5.0e-7", 5e-7),
        (".5", 0.5),
        ("1_000", 1000),
        ("-3", -3),
        ("007", "007"),
        ("1:30", "1:30"),  # 90 in YAML 1.1
        ("no", "no"),  # false in YAML 1.1
        ("2024-01-01", "2024-01-01"),  # a date in YAML 1.1
        ("True", True),
        ("~", None),
        ("", None),
        ("'5'", "5"),
        ("[a, 1]", ["a", 1]),
    ],
)
def test_plain_words_are_read_as_in_yaml_1_2(write, text: str, value: object) -> None:
    found = read_yaml(write(f"a: {text}\n")).tree["a"]
    assert (found, type(found)) == (value, type(value))


def test_every_key_has_its_line(write) -> None:
    file = read_yaml(write("# a comment\npolicy:\n  optimizer:\n    lr: 1\ndata:\n  train:\n    - data_path: x\n"))
    assert file.places["policy.optimizer.lr"] == "run.yaml:4"
    assert file.places["data.train.0.data_path"] == "run.yaml:7"


def test_anchors_and_merges_are_read(write) -> None:
    text = "data:\n  train: &set {data_path: a.jsonl, prompt_key: q}\n  validation: {<<: *set, data_path: b.jsonl}\n"
    config = resolve(config_file=write(text))
    assert (config.data.train[0].prompt_key, config.data.validation.prompt_key) == ("q", "q")
    assert config.data.validation.data_path == Path("b.jsonl")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dpo:\n  seed: 1\n  seed: 2\n", "run.yaml:3: dpo.seed stands there twice, in line 2 too"),
        ("- a\n", "run.yaml:1: expected a mapping of sections (policy:, dpo:, ...), got a list"),
        ("just text", "run.yaml:1: expected a mapping of sections (policy:, dpo:, ...), got 'just text'"),
        ("dpo:\n\tseed: 1\n", "run.yaml:2: indented with a tab; YAML wants spaces"),
        ("dpo: [1\n", "run.yaml:2: no YAML: expected ',' or ']', but got '<stream end>'"),
        ("dpo: {seed: 1}\n---\ndpo: {}\n", "run.yaml:2: no YAML: but found another document"),
        ("a: !!python/object:os.system x\n", "run.yaml:1: the tag 'tag:yaml.org,2002:python/object:os.system'; only"),
        ("dpo:\n  seed: !!timestamp soon\n", "run.yaml:2: the tag 'tag:yaml.org,2002:timestamp'; only plain values"),
        ("dpo:\n  seed: !!int one\n", "run.yaml:2: 'one' is tagged as int, and is none"),
        ("dpo:\n  val_at_end: !!bool perhaps\n", "run.yaml:2: 'perhaps' is tagged as bool, and is none"),
        (f"dpo:\n  seed: {'9' * 5000}\n", "is an integer of more than 4,000 digits"),
        ('policy: {model_name: "a\\0b"}\n', "run.yaml:1: a text with a NUL character"),
        ("dpo:\n  <<: {seed: 1, seed: 2}\n", "run.yaml:2: dpo.seed stands there twice, in line 2 too"),
        ("dpo:\n  <<: {seed: 1}\n  <<: {seed: 2}\n", "run.yaml:3: dpo.<< stands there twice, in line 2 too"),
        ("? [a]\n: 1\n", "run.yaml:1: the key a list is no text"),
        ("a: *b\n", "run.yaml:1: no YAML: found undefined alias 'b'"),
        ("a: &x [*x]\n", "run.yaml:1: an anchor that holds itself"),
        ("1: x\n", "run.yaml:1: the key '1' is no text; put it in quotes"),
        ("dpo:\n  true: x\n", "run.yaml:2: the key 'true' is no text; put it in quotes"),
        (b"a: \xff\n", "run.yaml: no YAML: byte 3 is no UTF-8"),
        (b"a: \x07\n", "run.yaml: no YAML: special characters are not allowed"),
        ("[" * 3000, "run.yaml: no settings: nested too deeply"),
    ],
)
def test_what_is_no_file_of_settings(write, text: str | bytes, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_yaml(write(text))
    assert message in str(caught.value)


def test_anchors_of_anchors_are_not_followed_for_ever(write) -> None:
    levels = "".join(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 9))
    with pytest.raises(UsageError, match=r"run\.yaml: no settings: 100,000 keys and more"):
        read_yaml(write(f"a0: &a0 [x]\n{levels}"))


def test_a_file_that_can_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no.yaml: no such file; expected a YAML file of settings"):
        read_yaml(tmp_path / "no.yaml")
    with pytest.raises(InputError, match="can't be read: Is a directory"):
        read_yaml(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("policy:\n  optimizer:\n    lr: -1\n", "run.yaml:3: policy.optimizer.lr=-1: Input should be greater than 0"),
        ("dpo:\n  sed: 1\n", "run.yaml:2: dpo.sed: no such setting; did you mean dpo.seed?"),
        ("dpo: 3\n", "run.yaml:1: dpo=3: is a section; set one of its keys, dpo.KEY"),
        ("policy:\n  lora: {save: adapter}\n", "run.yaml:2: policy.lora: save needs adapters"),
        ("dpo:\n  <<: {sed: 1}\n", "run.yaml:2: dpo.sed: no such setting; did you mean dpo.seed?"),
        ("dpo.seed: 1\n", "run.yaml:1: dpo.seed: is one key with dots in it; write sections, dpo: {seed: …}"),
        (
            "policy:\n  optimizer: {betas: [0.9]}\n",
            "run.yaml:2: policy.optimizer.betas=[0.9]: Input has too few values",
        ),
        ("data:\n  val_data_paths: {mine: null}\n", "run.yaml:2: data.val_data_paths.mine=None: is a section"),
        ("data:\n  train:\n    prompt: q\n", "run.yaml:3: data.train.prompt: no such setting"),
        ("policy:\n  model_name: ${oc.env:M}\n", "run.yaml:2: policy.model_name='${oc.env:M}': interpolations are not"),
        ("loss_fn:\n  sft_loss_weight: 1\n", "run.yaml:2: loss_fn.sft_loss_weight: is dpo.sft_loss_weight here"),
        ("defaults: dpo.yaml\n", "run.yaml:1: defaults: has no place here: a file inherits nothing"),
        ("policy:\n  megatron_cfg:\n    a: 1\n", "run.yaml:3: policy.megatron_cfg: has no place here: there is no Meg"),
        ("hub:\n  repo_id: 3\n", "run.yaml:2: hub.repo_id=3: Input should be a valid string; put it in quotes"),
    ],
)
def test_a_wrong_setting_is_told_with_its_line(write, text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        config_of(write(text))
    assert message in str(caught.value)


def test_all_that_is_wrong_is_told_at_once_and_each_thing_once(write) -> None:
    text = "policy:\n  megatron_cfg: {a: 1, b: {c: 2}}\n  precision: int8\ndpo:\n  sed: 3\n"
    with pytest.raises(UsageError) as caught:
        config_of(write(text), "dpo.sft_loss_weight=-1")
    lines = str(caught.value).splitlines()
    assert len(lines) == 1 + 4 + 1  # the head, the four, and where to go with a file of another tool
    assert lines[-1] == ("  (dpo config import FILE turns a YAML of NeMo RL or an older tutorial into one for dpo)")


def test_an_empty_file_and_empty_sections_are_the_defaults(write) -> None:
    texts = (
        "",
        "# nothing\n",
        "policy:\ndpo:\nloss:\n  mix:\n",
        "data:\n  train:\n",
        "output_dir:\npolicy:\n  lora:\n",
    )
    plain = resolve([], train_data_path=Path("pairs.jsonl"), model_name="m", output_dir=Path("o"))
    for text in texts:
        config = resolve(
            [], config_file=write(text), train_data_path=Path("pairs.jsonl"), model_name="m", output_dir=Path("o")
        )
        assert config == plain


def test_null_is_a_value_where_it_is_one(write) -> None:
    config = config_of(write("policy:\n  max_grad_norm: null\n  tokenizer: {chat_template: null}\n"))
    assert config.policy.max_grad_norm is None
    assert config.policy.tokenizer.chat_template is None


def test_later_wins(write) -> None:
    path = write("dpo:\n  seed: 1\n  max_num_epochs: 5\npolicy:\n  optimizer: {lr: 1e-6}\n")
    config = config_of(path, "dpo.seed=2", "dpo.seed=3")
    assert (config.dpo.seed, config.dpo.max_num_epochs, config.policy.optimizer.lr) == (3, 5, 1e-6)
    assert config.policy.optimizer.eps == 1e-5
    given = resolve(["~dpo.max_num_epochs"], config_file=path, train_data_path=Path("p"), options={"dpo.seed": 9})
    assert (given.dpo.seed, given.dpo.max_num_epochs) == (9, 1)


def test_a_setting_of_the_command_line_has_no_line_of_the_file(write) -> None:
    with pytest.raises(UsageError) as caught:
        config_of(write("dpo:\n  seed: 1\n"), "dpo.seed=-1")
    assert str(caught.value) == "dpo.seed=-1: Input should be greater than or equal to 0"


SET = "data:\n  train:\n    data_path: of_yaml.jsonl\n    prompt_key: q\n    weight: 2\n"


def test_pairs_of_the_command_line_take_the_place_of_the_files(write) -> None:
    (only,) = resolve(config_file=write(SET), train_data_path=Path("a.jsonl")).data.train
    assert (only.data_path, only.prompt_key, only.weight) == (Path("a.jsonl"), "q", 2)
    both = resolve(config_file=write(SET), train_data_path=[Path("a.jsonl"), Path("b.jsonl")]).data.train
    assert [(each.data_path, each.prompt_key) for each in both] == [(Path("a.jsonl"), "q"), (Path("b.jsonl"), "q")]


def test_pairs_of_the_command_line_have_no_split_of_a_data_set_of_the_hub(write) -> None:
    text = "data:\n  train: {dataset_name: HelpSteer3, split: train}\n"
    assert resolve(config_file=write(text)).data.train[0].dataset_name == "HelpSteer3"
    (only,) = resolve(config_file=write(text), train_data_path=Path("a.jsonl")).data.train
    assert (only.data_path, only.dataset_name, only.split) == (Path("a.jsonl"), None, None)


def test_data_may_be_a_path_or_a_list(write) -> None:
    config = resolve(config_file=write("data:\n  train: [a.jsonl, {data_path: b.jsonl, weight: 2}]\n  validation: v\n"))
    assert [(each.data_path, each.weight) for each in config.data.train] == [(Path("a.jsonl"), 1), (Path("b.jsonl"), 2)]
    assert config.data.validation.data_path == Path("v")
    weighted = resolve(["data.train.1.weight=3", "data.train.prompt_key=q"], config_file=Path("run.yaml"))
    assert [(each.weight, each.prompt_key) for each in weighted.data.train] == [(1, "q"), (3, "q")]


def test_the_configuration_that_a_run_saves_is_a_file_too(write) -> None:
    config = resolve(["loss.mix={sigmoid: 1, ipo: 2}"], train_data_path=[Path("a"), Path("b")], output_dir=Path("o"))
    assert resolve(config_file=write(config.model_dump_json())) == config
