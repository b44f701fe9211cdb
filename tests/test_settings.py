"""The configuration of a run: from the command line to values, every error at once, each option read."""

import ast
import re
from pathlib import Path

import pytest

from schemas.errors import UsageError
from trainer.config.keys import options
from trainer.config.sections import TrainConfig
from trainer.config.settings import resolve

REPOSITORY = Path(__file__).parents[1]
CHECKS = {"preflight.py", "environment.py"}
"""What of trainer/config acts on options."""
DECLARATIONS = ("data.py", "loss.py", "policy.py", "records.py", "sections.py")


def config_of(*overrides: str) -> TrainConfig:
    return resolve(overrides, train_data_path=Path("pairs.jsonl"), model_name="m", output_dir=Path("out"))


def test_defaults() -> None:
    config = resolve([], train_data_path=Path("pairs.jsonl"))
    assert config.policy.model_name == "Qwen/Qwen2.5-1.5B-Instruct"
    assert config.output_dir.parent == Path("runs")
    assert config.dpo.reference_policy_kl_penalty == 0.05


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("dpo.seed=7", "dpo.seed", 7),
        ("policy.optimizer.lr=5e-7", "policy.optimizer.lr", 5e-7),
        ("policy.optimizer.betas=[0.8, 0.9]", "policy.optimizer.betas", (0.8, 0.9)),
        ("dpo.preference_average_log_probs=true", "dpo.preference_average_log_probs", True),
        ("dpo.preference_average_log_probs=True", "dpo.preference_average_log_probs", True),
        ("dpo.max_num_steps=null", "dpo.max_num_steps", None),
        ("policy.scheduler.name=cosine", "policy.scheduler.name", "cosine"),
        ("policy.max_grad_norm=null", "policy.max_grad_norm", None),
        ("policy.max_grad_norm=None", "policy.max_grad_norm", None),
        ("+dpo.seed=7", "dpo.seed", 7),
        ("++dpo.seed=7", "dpo.seed", 7),
        ("dpo.val_at_end=False", "dpo.val_at_end", False),
        ("policy.optimizer.betas=[0.8,0.9]", "policy.optimizer.betas", (0.8, 0.9)),
        ('loss.mix={"sigmoid": 1, "nca": 0.5}', "loss.mix", {"sigmoid": 1.0, "nca": 0.5}),
        ("loss.mix={sigmoid: 1, nca: 0.5}", "loss.mix", {"sigmoid": 1.0, "nca": 0.5}),
        ("loss.mix.nca=0.5", "loss.mix", {"nca": 0.5}),
        (
            'policy.tokenizer.chat_template_kwargs={"enable_thinking":false}',
            "policy.tokenizer.chat_template_kwargs",
            {"enable_thinking": False},
        ),
        (
            "policy.tokenizer.chat_template_kwargs.enable_thinking=false",
            "policy.tokenizer.chat_template_kwargs",
            {"enable_thinking": False},
        ),
        ("policy.tokenizer.chat_template=null", "policy.tokenizer.chat_template", None),
        ("policy.tokenizer.chat_template=None", "policy.tokenizer.chat_template", None),
        ("policy.tokenizer.chat_template={{ x }}", "policy.tokenizer.chat_template", "{{ x }}"),
        ('logger.wandb.name="dpo-dev-8-gpu"', "logger.wandb.name", "dpo-dev-8-gpu"),
        ("logger.wandb.name=[a]", "logger.wandb.name", "[a]"),
        ("checkpointing.checkpoint_must_save_by=1:03:45:00", "checkpointing.checkpoint_must_save_by", "1:03:45:00"),
        ("reference=none", "reference.mode", "none"),
        ("reference.mode=none", "reference.mode", "none"),
        ("reference.cache_dir=null", "reference.cache_dir", None),
        ("hub.repo_id=me/it=x", "hub.repo_id", "me/it=x"),
    ],
)
def test_values(override: str, key: str, value: object) -> None:
    found: object = config_of(override)
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value


@pytest.mark.parametrize("text", ["[q_proj,v_proj]", '["q_proj", "v_proj"]', "['q_proj', v_proj]"])
def test_lists_of_names(text: str) -> None:
    config = config_of("policy.lora.rank=8", f"policy.lora.target_modules={text}")
    assert config.policy.lora.target_modules == ("q_proj", "v_proj")


def test_names_and_paths_are_taken_as_they_stand() -> None:
    config = resolve(["policy.model_name=123", "output_dir=2024"], train_data_path=Path("pairs.jsonl"))
    assert (config.policy.model_name, config.output_dir) == ("123", Path("2024"))


def test_validation_sets_by_name() -> None:
    config = config_of(
        "data.val_data_paths.hard=h.jsonl",
        "data.val_data_paths.v1.5=five.jsonl",
        "data.val_data_paths.hub.data_path=org/name",
        "data.val_data_paths.hub.split=test",
        "data.validation=v.jsonl",
    )
    assert {name: (each.data_path, each.split) for name, each in config.data.validation_sets.items()} == {
        "default": (Path("v.jsonl"), None),
        "hard": (Path("h.jsonl"), None),
        "v1.5": (Path("five.jsonl"), None),
        "hub": (Path("org/name"), "test"),
    }


def test_pairs_may_be_told_as_a_setting() -> None:
    assert resolve(["data.train.data_path=a.jsonl"]).data.train[0].data_path == Path("a.jsonl")
    assert resolve(["data.train=a.jsonl", "data.train.weight=2"]).data.train[0].weight == 2
    mixture = resolve(["data.train=[a.jsonl,{data_path: b.jsonl, weight: 2}]"]).data.train
    assert [(each.data_path, each.weight) for each in mixture] == [(Path("a.jsonl"), 1), (Path("b.jsonl"), 2)]
    assert resolve(["data.train.dataset_name=HelpSteer3"]).data.train[0].data_path is None


def test_without_pairs_the_remedy_is_told() -> None:
    with pytest.raises(UsageError, match=r"no pairs to train on: name a file of pairs, such as dpo_train\.jsonl"):
        resolve([])


def test_a_setting_without_a_value_is_no_file() -> None:
    with pytest.raises(UsageError, match=r"^dpo\.seed: is a setting, and has no value; write dpo\.seed=VALUE$"):
        resolve([], train_data_path=[Path("pairs.jsonl"), Path("dpo.seed")])


@pytest.mark.parametrize("back", ["~dpo.seed", "~dpo.seed=7", "~dpo"])
def test_a_setting_can_be_given_back(back: str) -> None:
    assert config_of("dpo.seed=7", back).dpo.seed == 42


def test_the_last_setting_wins() -> None:
    assert config_of("dpo.seed=1", "dpo.seed=2").dpo.seed == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("nonsense", "'nonsense': not of the form key=value"),
        ("=3", "'=3': not of the form key=value"),
        ("dpo.sed=4", "dpo.sed: no such setting; did you mean dpo.seed?"),
        ("~dpo.sed", "~dpo.sed: no such setting; did you mean dpo.seed?"),
        ("~", "'~': not of the form key=value"),
        ("++=3", "'++=3': not of the form key=value"),
        ("beta=0.1", "beta: is dpo.reference_policy_kl_penalty here"),
        ("dpo.beta=0.1", "dpo.beta: no such setting; did you mean dpo.reference_policy_kl_penalty?"),
        ("lr=1", "lr: is policy.optimizer.lr here"),
        ("policy.lr=1", "policy.lr: no such setting; did you mean policy.optimizer.lr?"),
        ("zzzz=1", "zzzz: no such setting"),
        ("loss.name=dpoo", "loss.name='dpoo': Input should be 'sigmoid'"),
        ("loss.mix.dpoo=1", "loss.mix.dpoo='dpoo': Input should be 'sigmoid'"),
        ("loss.mix=3", "loss.mix=3: Input should be a mapping"),
        ("loss.mix=[a", "loss.mix='[a': Input should be a mapping"),
        ("loss.name=dpo", "'mmpo'; did you mean sigmoid?"),
        ("loss.name=IPO", "'mmpo'; did you mean ipo?"),
        ("reference=onlin", "'none'; did you mean online?"),
        ("dpo.seed=true", "dpo.seed: got true, expected a number"),
        ("policy.max_grad_norm=false", "policy.max_grad_norm: got false, expected a number"),
        ("reference.model_name=", "reference.model_name: is empty; leave it out for the default"),
        ("logger.log_dir=", "logger.log_dir: is empty; leave it out for the default"),
        ("data.train.split=", "data.train.split: is empty; leave it out for the default"),
        ("cluster.timeout_minutes=1e300", "cluster.timeout_minutes=1e+300: Input should be less than or equal to"),
        ("data.train.weight=1e9", "data.train.weight=1000000000.0: Input should be less than or equal to 1000"),
        ("dpo.seed=[!!int x]", "dpo.seed='[!!int x]': Input should be a valid integer"),
        ("policy.lora.target_modules=q_proj", "Input should be a list, such as [a, b]"),
        ("checkpointing.checkpoint_must_save_by=99999999999:0:0:0", "String should match pattern"),
        ("data=x", "data: is a section; set one of its keys, data.KEY="),
        ("data.train.data_path=x", "data.train.data_path: given as an option and as data.train.data_path=; give one"),
        ("data.train=x", "data.train: given as an option and as data.train=; give one"),
        ("data.train.promptkey=x", "data.train.promptkey: no such setting; did you mean data.train.prompt_key?"),
        ("data.train.5.weight=2", "data.train.5.weight: no such setting; data.train has 1 set, numbered from 0"),
        ("data.val_data_paths.a b=x", "data.val_data_paths.a b='a b': String should match pattern"),
        (
            "checkpointing.metric_name=val:loss",
            "checkpointing.metric_name=val:validation-default_loss needs a validation",
        ),
        ("loss.name=rpo", "loss.name='rpo': is reward_kl, reward_fwd_kl or reward_sq (NVIDIA's), or sigmoid with"),
        ("loss.f_alpha=0.2", "f_alpha is for f_divergence=alpha"),
        ("policy.optimizer.lr=-1", "policy.optimizer.lr=-1: Input should be greater than 0"),
        ("policy.optimizer.lr=nan", "policy.optimizer.lr='nan'"),
        ("policy.optimizer.lr=Infinity", "policy.optimizer.lr=inf: Input should be a finite number"),
        ("policy.optimizer.betas=[0.9, 1.0]", "policy.optimizer.betas.1=1.0: Input should be less than 1"),
        ("policy.precision=int8", "policy.precision='int8': Input should be 'auto', 'float32' or 'bfloat16'"),
        ("dpo=3", "dpo: is a section; set one of its keys, dpo.KEY="),
        ("policy.optimizer={}", "policy.optimizer: is a section"),
        ("dpo.seed=-1", "dpo.seed=-1: Input should be greater than or equal to 0"),
        ("policy.optimizer.lr=1e38", "policy.optimizer.lr=1e+38: Input should be less than or equal to 1"),
        ("dpo.preference_loss_weight=0", "dpo: preference_loss_weight and sft_loss_weight are both 0"),
        ("dpo.seed=x", "dpo.seed='x': Input should be a valid integer"),
        ("dpo.seed.x=1", "dpo.seed"),
        ("policy.model_name=x", "policy.model_name: given as an option and as policy.model_name=; give one"),
    ],
)
def test_each_error_names_key_value_and_remedy(override: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        config_of(override)
    assert message in str(caught.value)


def test_all_errors_are_told_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        config_of(
            "dpo.sed=4", "policy.optimizer.lr=-1", "foo", "dpo.seed=1", "dpo.seed.x=1", "loss_fn.sft_loss_weight=1"
        )
    assert len(str(caught.value).splitlines()) == 6


def test_what_can_not_be_together_is_told_with_the_keys_that_are_unknown() -> None:
    with pytest.raises(UsageError) as caught:
        config_of("dpo.sed=4", "data.train.wight=2", "checkpointing.metric_name=val:loss", "loss.label_smoothing=0.1")
    lines = [line.strip() for line in str(caught.value).splitlines()[1:]]
    assert [line.partition(":")[0] for line in lines[:3]] == ["data.train.wight", "dpo.sed", "loss"]
    assert len(lines) == 3  # the metric needs a loss that is known, to be looked at
    with pytest.raises(
        UsageError, match=r"(?s)dpo\.sed: .*metric_name=val:validation-default_loss needs a validation set"
    ):
        config_of("dpo.sed=4", "checkpointing.metric_name=val:loss")


def test_all_that_needs_adapters_is_told_at_once() -> None:
    with pytest.raises(UsageError, match=r"policy\.lora: alpha, quantization, save need adapters; .* rank=16"):
        config_of("policy.lora.alpha=3", "policy.lora.quantization=nf4", "policy.lora.save=both")


def test_a_path_may_begin_in_the_users_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    told = ["data.train=~/pairs.jsonl", "output_dir=~/run", "data.val_data_paths.mine=~nobody-at-all/x"]
    config = resolve([*told, "data.train.prompt_key=~"])
    assert (config.data.train[0].data_path, config.output_dir) == (Path("/home/me/pairs.jsonl"), Path("/home/me/run"))
    assert config.data.val_data_paths["mine"].data_path == Path("~nobody-at-all/x")
    assert config.data.train[0].prompt_key == "~"


def test_null_is_a_value_of_the_users_own_mappings(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "policy:\n  hf_config_overrides: {sliding_window: null}\n  tokenizer: {chat_template_kwargs: {a: }}\n"
    )
    config = resolve(train_data_path=Path("pairs.jsonl"), config_file=path)
    assert config.policy.hf_config_overrides == {"sliding_window": None}
    assert config.policy.tokenizer.chat_template_kwargs == {"a": None}


def test_pairs_by_an_old_name_are_not_missed_too() -> None:
    with pytest.raises(UsageError) as caught:
        resolve(["data.train_data_path=pairs.jsonl"])
    assert str(caught.value) == "data.train_data_path: is data.train.data_path here"


def test_nothing_is_put_where_the_policy_goes() -> None:
    def told(key: str, folder: str) -> None:
        resolve([f"{key}={folder}"], train_data_path=Path("pairs.jsonl"), output_dir=Path("run"))

    for key in ("checkpointing.checkpoint_dir", "logger.log_dir", "reference.cache_dir"):
        for folder in ("run/policy", "run/./policy/steps"):
            with pytest.raises(
                UsageError, match=f"{key}={Path(folder)} is where the policy goes; name a folder beside"
            ):
                told(key, folder)
        told(key, "run/policy_steps")


def test_the_configuration_does_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        config_of().dpo.seed = 3  # type: ignore[misc]


def attributes_read(source: str) -> set[str]:
    """Name the attributes that code reads, as patterns; what stands in comments and texts does not count."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        if (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) == "getattr"
            and isinstance(node.args[1], ast.JoinedStr)
        ):
            parts = node.args[1].values  # getattr(self, f"{name}_enabled")
            found.add("".join(str(part.value) if isinstance(part, ast.Constant) else r"\w+" for part in parts))
    return found


def test_every_option_has_a_meaning_and_is_read() -> None:
    trainer = REPOSITORY / "trainer"
    read: set[str] = set()
    for path in trainer.rglob("*.py"):
        if path.parent.name not in ("config", "imports") or path.name in CHECKS:
            read |= attributes_read(path.read_text())
    derived = [  # what the declarations make of options, with these
        (function.name, attributes_read(ast.unparse(function)))
        for name in DECLARATIONS
        for function in ast.walk(ast.parse((trainer / "config" / name).read_text()))
        if isinstance(function, ast.FunctionDef) and not function.name.startswith("_")
    ]
    for _ in derived:  # one may be made of another
        read = read.union(*(made_of for name, made_of in derived if name in read))
    for key, field in options():
        assert field.description, f"{key} has no meaning"
        name = key.rpartition(".")[2]
        assert any(re.fullmatch(pattern, name) for pattern in read), f"{key} is declared and never read"


def test_the_resolved_configuration_survives_json() -> None:
    config = config_of("policy.optimizer.betas=[0.8, 0.9]")
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config
