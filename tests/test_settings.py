"""The configuration of a run: from the command line to values, every error at once, each option read."""

from pathlib import Path

import pytest

from schemas.errors import UsageError
from trainer.config.sections import TrainConfig
from trainer.config.settings import option_keys, resolve

REPOSITORY = Path(__file__).parents[1]


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
    ],
)
def test_values(override: str, key: str, value: object) -> None:
    found: object = config_of(override)
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value


def test_names_and_paths_are_taken_as_they_stand() -> None:
    config = resolve(["policy.model_name=123", "output_dir=2024"], train_data_path=Path("pairs.jsonl"))
    assert (config.policy.model_name, config.output_dir) == ("123", Path("2024"))


def test_the_last_setting_wins() -> None:
    assert config_of("dpo.seed=1", "dpo.seed=2").dpo.seed == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("nonsense", "'nonsense': not of the form key=value"),
        ("=3", "'=3': not of the form key=value"),
        ("dpo.sed=4", "dpo.sed: no such setting; did you mean dpo.seed?"),
        ("beta=0.1", "beta: no such setting; did you mean dpo.reference_policy_kl_penalty?"),
        ("dpo.beta=0.1", "dpo.beta: no such setting; did you mean dpo.reference_policy_kl_penalty?"),
        ("lr=1", "lr: no such setting; did you mean policy.optimizer.lr?"),
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
        config_of("dpo.sed=4", "policy.optimizer.lr=-1", "foo", "dpo.seed=1", "dpo.seed.x=1")
    assert len(str(caught.value).splitlines()) == 5


def test_the_configuration_does_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        config_of().dpo.seed = 3  # type: ignore[misc]


def test_every_option_has_a_meaning_and_is_read() -> None:
    trainer = REPOSITORY / "trainer"
    source = "".join(path.read_text() for path in trainer.rglob("*.py") if path.parent.name != "config")
    for key in option_keys():
        name = key.rpartition(".")[2]
        assert f".{name}" in source, f"{key} is declared and never read"


def test_the_resolved_configuration_survives_json() -> None:
    config = config_of("policy.optimizer.betas=[0.8, 0.9]")
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config
