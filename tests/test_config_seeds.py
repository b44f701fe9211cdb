"""What NeMo RL's quickstart, guide and tutorial and NeMo Gym's page tell people to write, as they write it."""

import json
from pathlib import Path

import pytest

from schemas.errors import UsageError
from schemas.validation import Kind, row_findings
from trainer.config.sections import TrainConfig
from trainer.config.settings import resolve
from trainer.imports.importing import Imported, import_config, imported_yaml

# NeMo Gym, DPO training: "Example NeMo RL configuration for DPO"
GYM = """
data:
  dataset_name: BinaryPreferenceDataset
  train_data_path: "dpo_train.jsonl"
  prompt_key: "prompt"
  chosen_key: "chosen"
  rejected_key: "rejected"

model:
  pretrained_model: "Qwen/Qwen2.5-1.5B-Instruct"

training:
  algorithm: "dpo"
  num_epochs: 3
  train_micro_batch_size: 4
  train_global_batch_size: 256
"""

# NeMo Gym, DPO training: "Collection Strategy"
GYM_COLLECTION = """
# Optimize for diversity and multiple samples
num_repeats: 2  # Or more for better pairing options
responses_create_params:
  temperature: 0.7  # Higher for variation
"""

# NeMo RL's DPO tutorial: "Configuration Setup"
TUTORIAL = """
# dpo_config.yaml
model:
  name: "path/to/sft_model"
  max_length: 512

training:
  batch_size: 2
  learning_rate: 1e-5
  num_epochs: 2
  warmup_steps: 100
  beta: 0.1  # DPO temperature parameter

data:
  train_file: "path/to/train.json"
  validation_file: "path/to/val.json"
  max_seq_length: 512
"""

# NeMo RL's DPO tutorial: "DPO-Specific Parameters"
TUTORIAL_PARAMETERS = {
    "beta": 0.1,
    "loss_type": "sigmoid",
    "reference_free": False,
    "gradient_checkpointing": True,
}

# NeMo RL's DPO guide: PreferenceDataset
GUIDE_PREFERENCE = """
data:
  dataset_name: PreferenceDataset
  train_data_path: <PathToTrainingDataset>  # e.g., /path/to/local/dataset.jsonl or hf_org/hf_dataset_name (HuggingFace)
  # multiple validation sets is supported
  val_data_paths:
    <NameOfValidationDataset>: <PathToValidationDataset1>
    <NameOfValidationDataset2>: <PathToValidationDataset2>
  train_split: <TrainSplit>, default is None  # used for HuggingFace datasets
  val_split: <ValSplit>, default is None  # used for HuggingFace datasets
"""

# NeMo RL's DPO guide: BinaryPreferenceDataset
GUIDE_BINARY = """
data:
  dataset_name: BinaryPreferenceDataset
  train_data_path: <PathToTrainingDataset>  # e.g., /path/to/local/dataset.jsonl or hf_org/hf_dataset_name (HuggingFace)
  val_data_path: <PathToValidationDataset>
  prompt_key: <PromptKey>, default is "prompt"
  chosen_key: <ChosenKey>, default is "chosen"
  rejected_key: <RejectedKey>, default is "rejected"
  train_split: <TrainSplit>, default is None  # used for HuggingFace datasets
  val_split: <ValSplit>, default is None  # used for HuggingFace datasets
"""

# The overrides of their command lines; `uv run examples/run_dpo.py` is `dpo train`
QUICKSTART_BETA = ["loss_fn.reference_policy_kl_penalty=0.1"]
QUICKSTART_WEIGHTS = ["loss_fn.preference_loss_weight=1.0", "loss_fn.sft_loss_weight=0.1"]
GUIDE_OVERRIDES = [
    "cluster.gpus_per_node=8",
    "dpo.sft_loss_weight=0.1",
    "dpo.preference_average_log_probs=True",
    'logger.wandb.name="dpo-dev-8-gpu"',
]


def imported(folder: Path, text: str) -> tuple[Imported, TrainConfig]:
    """Import a text, and read what comes out."""
    (folder / "old.yaml").write_text(text)
    result = import_config(folder / "old.yaml")
    (folder / "new.yaml").write_text(imported_yaml(result))
    pairs = [] if "train" in result.tree.get("data", {}) else [Path("pairs.jsonl")]
    return result, resolve(config_file=folder / "new.yaml", train_data_path=pairs)


def test_gyms_example(tmp_path: Path) -> None:
    result, config = imported(tmp_path, GYM)
    assert result.summary == "0 carried, 10 renamed, 0 not needed, 0 lost"
    (train,) = config.data.train
    assert (train.dataset_name, train.data_path) == ("BinaryPreferenceDataset", Path("dpo_train.jsonl"))
    assert (train.prompt_key, train.chosen_key, train.rejected_key) == ("prompt", "chosen", "rejected")
    assert config.policy.model_name == "Qwen/Qwen2.5-1.5B-Instruct"
    assert (config.loss.name, config.dpo.max_num_epochs) == ("sigmoid", 3)
    assert (config.policy.train_micro_batch_size, config.policy.train_global_batch_size) == (4, 256)


def test_gyms_example_as_a_file_for_training_is_answered_key_by_key(tmp_path: Path) -> None:
    (tmp_path / "gym.yaml").write_text(GYM)
    with pytest.raises(UsageError) as caught:
        resolve(config_file=tmp_path / "gym.yaml")
    for answer in (
        "gym.yaml:4: data.train_data_path: is data.train.data_path here",
        "gym.yaml:10: model.pretrained_model: is policy.model_name here",
        "gym.yaml:14: training.num_epochs: is dpo.max_num_epochs here",
        "dpo config import FILE turns a YAML of NeMo RL",
    ):
        assert answer in str(caught.value)


def test_gyms_collection_is_no_configuration_of_training(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text(GYM_COLLECTION)
    result = import_config(tmp_path / "old.yaml")
    assert result.settings == {}
    assert {note.remark for note in result.notes} == {"it belongs to a collection of rollouts"}


def test_the_tutorials_file(tmp_path: Path) -> None:
    result, config = imported(tmp_path, TUTORIAL)
    assert result.lost == []
    assert config.policy.model_name == "path/to/sft_model"
    assert config.policy.max_total_sequence_length == 512
    assert (config.policy.train_global_batch_size, config.policy.optimizer.lr) == (2, 1e-5)
    assert (config.dpo.max_num_epochs, config.policy.scheduler.warmup_steps) == (2, 100)
    assert config.dpo.reference_policy_kl_penalty == 0.1
    assert config.data.train[0].data_path == Path("path/to/train.json")
    assert config.data.validation.data_path == Path("path/to/val.json")


@pytest.mark.parametrize(
    "text", [json.dumps(TUTORIAL_PARAMETERS), "\n".join(f"{k}: {v}" for k, v in TUTORIAL_PARAMETERS.items())]
)
def test_the_tutorials_parameters(tmp_path: Path, text: str) -> None:
    result, config = imported(tmp_path, text)
    assert config.dpo.reference_policy_kl_penalty == 0.1
    assert (config.loss.name, config.reference_mode) == ("sigmoid", "cached")
    assert config.policy.gradient_checkpointing is True
    assert result.summary == "0 carried, 3 renamed, 1 not needed, 0 lost"  # reference_free: false is the default


def test_the_guides_preference_dataset(tmp_path: Path) -> None:
    result, config = imported(tmp_path, GUIDE_PREFERENCE)
    assert config.data.train[0].dataset_name == "PreferenceDataset"
    assert config.data.train[0].data_path == Path("<PathToTrainingDataset>")
    assert {name: each.data_path for name, each in config.data.validation_sets.items()} == {
        "NameOfValidationDataset": Path("<PathToValidationDataset1>"),
        "NameOfValidationDataset2": Path("<PathToValidationDataset2>"),
    }
    assert config.data.train[0].split is None
    assert sum("a placeholder; name your file" in note.remark for note in result.notes) == 3
    assert result.lost == []


def test_the_guides_binary_preference_dataset(tmp_path: Path) -> None:
    result, config = imported(tmp_path, GUIDE_BINARY)
    for each in (config.data.train[0], config.data.validation):
        assert (each.dataset_name, each.prompt_key, each.split) == ("BinaryPreferenceDataset", "prompt", None)
    assert config.data.validation.data_path == Path("<PathToValidationDataset>")
    assert result.lost == []


def test_the_guides_name_of_a_metric(tmp_path: Path) -> None:
    """`validation-<NameOfValidationDataset1>_loss`, in words that a shell takes."""
    overrides = ["data.val_data_paths.hard=h.jsonl", "checkpointing.metric_name=validation-hard_loss"]
    config = resolve(overrides, train_data_path=Path("pairs.jsonl"))
    assert config.checkpointing.metric_name == "validation-hard_loss"


def test_the_basic_command_has_all_defaults() -> None:
    config = resolve([], train_data_path=Path("pairs.jsonl"))
    assert config.dpo.reference_policy_kl_penalty == 0.05
    with pytest.raises(UsageError, match="no pairs to train on"):  # the one thing that it can't know
        resolve([])


@pytest.mark.parametrize("overrides", [QUICKSTART_BETA, QUICKSTART_WEIGHTS])
def test_the_quickstarts_overrides(overrides: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(overrides, train_data_path=Path("pairs.jsonl"))
    for override in overrides:
        name = override.partition("=")[0].removeprefix("loss_fn.")
        assert f"loss_fn.{name}: is dpo.{name} here" in str(caught.value)
    settings = import_config(None, overrides).settings
    assert settings == {
        f"dpo.{key.removeprefix('loss_fn.')}": float(value)
        for key, _, value in (text.partition("=") for text in overrides)
    }
    resolve([f"{key}={value}" for key, value in settings.items()], train_data_path=Path("pairs.jsonl"))


def test_the_guides_overrides(tmp_path: Path) -> None:
    """`--config <PATH TO YAML CONFIG> <OVERRIDES>` with the guide's overrides, which are ours too."""
    (tmp_path / "run.yaml").write_text("dpo: {sft_loss_weight: 0.5, max_num_epochs: 2}\n")
    config = resolve(GUIDE_OVERRIDES, config_file=tmp_path / "run.yaml", train_data_path=Path("pairs.jsonl"))
    assert config.cluster.gpus_per_node == 8
    assert (config.dpo.sft_loss_weight, config.dpo.max_num_epochs) == (0.1, 2)
    assert config.dpo.preference_average_log_probs is True
    assert config.logger.wandb.name == "dpo-dev-8-gpu"


ROWS = [  # the rows that the four documents show, by the kind that they are
    (
        Kind.BINARY_PREFERENCE,
        {"prompt": "What is the capital of France?", "chosen": "Paris.", "rejected": "I don't know."},
    ),
    (Kind.BINARY_PREFERENCE, {"prompt": "Your instruction", "chosen": "Preferred", "rejected": "Non-preferred"}),
    (Kind.BINARY_PREFERENCE, {"prompt": "What is 47 x 23?", "chosen": "47 * 23 = 1,081", "rejected": "around 1,000"}),
    (
        Kind.PREFERENCE,
        {
            "context": [{"role": "user", "content": "What's the capital of France?"}],
            "completions": [
                {"rank": 0, "completion": [{"role": "assistant", "content": "Berlin."}]},
                {"rank": 1, "completion": [{"role": "assistant", "content": "Munich."}]},
            ],
        },
    ),
]


@pytest.mark.parametrize(("kind", "row"), ROWS)
def test_the_rows_are_valid(kind: Kind, row: dict[str, object]) -> None:
    assert list(row_findings(row, kind)) == []
