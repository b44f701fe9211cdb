"""`dpo config import`: NeMo RL's YAML of each generation and TRL's settings, key by key, and what is told of them."""

from pathlib import Path
from typing import Any

import pytest

from schemas.errors import InputError, UsageError
from trainer.config.from_python import configuration
from trainer.config.sections import TrainConfig
from trainer.config.settings import resolve
from trainer.imports.carry import Outcome
from trainer.imports.importing import Imported, import_config, imported_yaml

# What NeMo RL's examples/configs/dpo.yaml sets, with the defaults of 2026-08.
NEMO_RL = """
dpo:
  max_num_epochs: 1
  max_num_steps: 150
  val_period: 25
  val_batches: 8
  val_global_batch_size: 8
  val_micro_batch_size: 1
  val_at_start: true
  val_at_end: false
  seed: 42
  reference_policy_kl_penalty: 0.05
  preference_average_log_probs: False
  sft_average_log_probs: ${.preference_average_log_probs}
  preference_loss_weight: 1
  sft_loss_weight: 0
checkpointing:
  enabled: true
  checkpoint_dir: "results/dpo"
  metric_name: "val:validation-default_loss"
  higher_is_better: false
  keep_top_k: 3
  save_period: 50
  checkpoint_must_save_by: null
  save_optimizer: true
policy:
  model_name: "meta-llama/Llama-3.2-1B-Instruct"
  tokenizer:
    name: ${policy.model_name}
    chat_template_kwargs: null
  train_global_batch_size: 128
  train_micro_batch_size: 2
  max_total_sequence_length: 1024
  precision: "bfloat16"
  offload_optimizer_for_logprob: false
  dtensor_cfg:
    env_vars:
      PYTORCH_CUDA_ALLOC_CONF: ""
    enabled: true
    cpu_offload: False
    sequence_parallel: false
    activation_checkpointing: true
    tensor_parallel_size: 1
    context_parallel_size: 1
    custom_parallel_plan: null
    clear_cache_every_n_steps: null
    lora_cfg:
      enabled: False
      target_modules: []
      match_all_linear: true
      dim: 8
      alpha: 32
      dropout: 0.0
      use_triton: true
  megatron_cfg:
    enabled: false
    activation_checkpointing: false
    tensor_model_parallel_size: 2
    peft: {enabled: false, dim: 8}
    optimizer: {optimizer: adam, lr: 5.0e-6}
  dynamic_batching: {enabled: false}
  sequence_packing: {enabled: false}
  make_sequence_length_divisible_by: ${policy.dtensor_cfg.tensor_parallel_size}
  max_grad_norm: 1.0
  optimizer:
    name: "torch.optim.AdamW"
    kwargs: {lr: 5.0e-6, weight_decay: 0.1, betas: [0.9, 0.98], eps: 1e-5, foreach: False, fused: False}
  scheduler:
    - name: "torch.optim.lr_scheduler.LinearLR"
      kwargs: {start_factor: 0.1, end_factor: 1.0, total_iters: 20}
    - name: "torch.optim.lr_scheduler.ConstantLR"
      kwargs: {factor: 1.0, total_iters: 10000000000}
    - milestones: [20]
data:
  max_input_seq_length: ${policy.max_total_sequence_length}
  add_bos: true
  shuffle: true
  num_workers: 1
  train: {dataset_name: HelpSteer3, split: train}
  validation: {dataset_name: HelpSteer3, split: validation}
  default: {prompt_file: null, system_prompt_file: null}
logger:
  log_dir: "logs"
  wandb_enabled: false
  tensorboard_enabled: true
  mlflow_enabled: false
  swanlab_enabled: false
  monitor_gpus: true
  num_val_samples_to_print: 0
  wandb: {project: "dpo-dev", name: "dpo"}
  swanlab: {project: "dpo-dev", name: "dpo"}
  tensorboard: {log_dir: "tb_logs-dpo"}
  mlflow: {experiment_name: "dpo-dev", run_name: "dpo"}
  gpu_monitoring: {collection_interval: 10, flush_interval: 10}
cluster:
  gpus_per_node: 1
  num_nodes: 1
  segment_size: null
"""


@pytest.fixture
def imported(tmp_path: Path):
    """Import a text as a file, and check that what comes out is a configuration."""

    def imported(text: str, *settings: str) -> Imported:
        (tmp_path / "old.yaml").write_text(text)
        return import_config(tmp_path / "old.yaml", settings)

    return imported


def config_of(result: Imported, folder: Path) -> TrainConfig:
    (folder / "new.yaml").write_text(imported_yaml(result))
    pairs = [] if "data" in result.tree and "train" in result.tree["data"] else [Path("pairs.jsonl")]
    return resolve(config_file=folder / "new.yaml", train_data_path=pairs)


def outcomes(result: Imported) -> dict[str, str]:
    return {note.old: note.outcome.value for note in result.notes}


def test_nemo_rls_own_file(imported, tmp_path: Path) -> None:
    result = imported(NEMO_RL)
    config = config_of(result, tmp_path)
    assert result.lost == []
    assert config.dpo.max_num_steps == 150
    assert (config.dpo.val_batches, config.dpo.val_at_end) == (8, False)
    assert config.dpo.sft_average_log_probs is False
    assert config.policy.model_name == "meta-llama/Llama-3.2-1B-Instruct"
    assert config.policy.tokenizer.name is None  # it is the policy's
    assert config.policy.precision == "bfloat16"
    assert config.policy.gradient_checkpointing is True
    assert config.policy.lora.rank == 0
    assert config.policy.optimizer.model_dump() == {
        **config.policy.optimizer.model_dump(),
        "name": "adamw",
        "lr": 5e-6,
        "weight_decay": 0.1,
        "betas": (0.9, 0.98),
        "eps": 1e-5,
    }
    assert (config.policy.scheduler.name, config.policy.scheduler.warmup_steps) == ("constant_with_warmup", 20)
    assert (config.data.train[0].dataset_name, config.data.train[0].split) == ("HelpSteer3", "train")
    assert (config.data.validation.dataset_name, config.data.validation.split) == ("HelpSteer3", "validation")
    assert config.checkpointing.metric_name == "val:validation-default_loss"
    assert config.checkpointing.checkpoint_dir == Path("results/dpo")
    assert (config.logger.wandb.project, config.logger.mlflow.run_name) == ("dpo-dev", "dpo")
    assert config.logger.trackers == ("tensorboard",)
    assert config.cluster.gpus_per_node == 1


def test_every_key_of_it_is_told_of(imported) -> None:
    told = outcomes(imported(NEMO_RL))
    assert told["dpo.seed"] == "carried"
    assert told["policy.optimizer.kwargs.lr"] == "renamed"
    assert told["policy.dtensor_cfg.activation_checkpointing"] == "renamed"
    for key in (
        "policy.megatron_cfg",
        "policy.dtensor_cfg.lora_cfg",
        "policy.dtensor_cfg.tensor_parallel_size",
        "policy.dtensor_cfg.cpu_offload",
        "policy.sequence_packing.enabled",
        "policy.make_sequence_length_divisible_by",
        "policy.tokenizer.chat_template_kwargs",
        "policy.tokenizer.name",
        "policy.optimizer.kwargs.foreach",
        "data.num_workers",
        "data.add_bos",
        "logger.monitor_gpus",
        "checkpointing.save_optimizer",
        "cluster.segment_size",
    ):
        assert told[key] == "not needed", key


def test_settings_of_its_command_line_are_carried_too(imported, tmp_path: Path) -> None:
    result = imported(
        NEMO_RL,
        "policy.dtensor_cfg.tensor_parallel_size=4",
        "++policy.dtensor_cfg._v2=true",
        "policy.dtensor_cfg.lora_cfg.enabled=true",
        "policy.model_name=Qwen/Qwen3-0.6B",
        "cluster.gpus_per_node=8",
    )
    config = config_of(result, tmp_path)
    assert (config.policy.lora.rank, config.policy.lora.alpha, config.cluster.gpus_per_node) == (8, 32, 8)
    assert config.policy.model_name == "Qwen/Qwen3-0.6B"
    assert config.policy.tokenizer.name is None  # the interpolation follows the model
    assert outcomes(result)["policy.dtensor_cfg.tensor_parallel_size"] == "lost"
    assert outcomes(result)["policy.dtensor_cfg._v2"] == "not needed"


# One of each generation of data:


def test_v03(imported, tmp_path: Path) -> None:
    result = imported(
        "data: {dataset_name: DPO, train_data_path: t.jsonl, val_data_path: v.jsonl, max_input_seq_length: 2048}\n"
        "checkpointing: {metric_name: val_loss}\n"
    )
    config = config_of(result, tmp_path)
    assert config.data.train[0].data_path == Path("t.jsonl")
    assert config.data.train[0].dataset_name is None  # chosen_response is told by its key
    assert config.data.validation.data_path == Path("v.jsonl")
    assert config.policy.max_total_sequence_length == 2048
    assert config.checkpointing.metric_name == "val:loss"
    assert result.lost == []


def test_v04_with_several_validation_sets(imported, tmp_path: Path) -> None:
    text = """
data:
  dataset_name: PreferenceDataset
  train_data_path: org/pairs
  train_split: train_prefs
  val_data_paths: {easy: e.jsonl, hard: h.jsonl}
  val_split: null
checkpointing: {metric_name: validation-hard_loss}
"""
    config = config_of(imported(text), tmp_path)
    assert (config.data.train[0].data_path, config.data.train[0].split) == (Path("org/pairs"), "train_prefs")
    assert {name: each.data_path for name, each in config.data.validation_sets.items()} == {
        "easy": Path("e.jsonl"),
        "hard": Path("h.jsonl"),
    }
    assert config.checkpointing.metric_name == "validation-hard_loss"


def test_v04_with_keys_of_its_own(imported, tmp_path: Path) -> None:
    text = """
data:
  dataset_name: BinaryPreferenceDataset
  train_data_path: t.jsonl
  val_data_path: v.jsonl
  val_split: test
  prompt_key: question
"""
    config = config_of(imported(text), tmp_path)
    assert (config.data.train[0].prompt_key, config.data.validation.prompt_key) == ("question", "question")
    assert config.data.validation.split == "test"


def test_v04_helpsteer3_brings_its_validation_split(imported, tmp_path: Path) -> None:
    config = config_of(imported("data: {dataset_name: HelpSteer3}\n"), tmp_path)
    assert config.data.train[0].dataset_name == "HelpSteer3"
    assert (config.data.validation.dataset_name, config.data.validation.split) == ("HelpSteer3", "validation")


def test_v06_inherits_from_default(imported, tmp_path: Path) -> None:
    text = """
data:
  train: {data_path: t.jsonl}
  validation: {data_path: v.jsonl, prompt_key: ask}
  default: {dataset_name: BinaryPreferenceDataset, prompt_key: question, processor: preference}
"""
    config = config_of(imported(text), tmp_path)
    assert (config.data.train[0].dataset_name, config.data.train[0].prompt_key) == (
        "BinaryPreferenceDataset",
        "question",
    )
    assert (config.data.validation.dataset_name, config.data.validation.prompt_key) == (
        "BinaryPreferenceDataset",
        "ask",
    )


def test_v06_with_several_sets(imported, tmp_path: Path) -> None:
    sets = "[{data_path: a.jsonl}, {data_path: b.jsonl, dataset_name: PreferenceDataset}]"
    text = f"data:\n  train: {sets}\n  validation: null\n"
    config = config_of(imported(text), tmp_path)
    assert [each.data_path for each in config.data.train] == [Path("a.jsonl"), Path("b.jsonl")]
    assert config.data.validation is None


def test_a_metric_without_its_validation_set_is_lost(imported, tmp_path: Path) -> None:
    result = imported(
        "data: {train: {data_path: t}, validation: null}\ncheckpointing: {metric_name: 'val:validation-default_loss'}\n"
    )
    assert config_of(result, tmp_path).checkpointing.metric_name is None
    assert [note.old for note in result.lost] == ["checkpointing.metric_name"]


# Optimizers and schedules


TORCH = "torch.optim.lr_scheduler"


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        (
            f"[{{name: {TORCH}.LinearLR, kwargs: {{start_factor: 1e-9, end_factor: 1.0, total_iters: 211}}}},"
            f"{{name: {TORCH}.LinearLR, kwargs: {{start_factor: 1.0, end_factor: 0.0, total_iters: 1899}}}},"
            "{milestones: [211]}]",
            {"name": "linear", "warmup_steps": 211},
        ),
        (
            f"[{{name: {TORCH}.LinearLR, kwargs: {{total_iters: 10}}}},"
            f"{{name: {TORCH}.CosineAnnealingLR, kwargs: {{T_max: 90, eta_min: 1e-6}}}}, {{milestones: [10]}}]",
            {"name": "cosine", "warmup_steps": 10, "min_lr_ratio": 0.1},
        ),
        (f"{{name: {TORCH}.ConstantLR, kwargs: {{factor: 1.0}}}}", {"name": "constant_with_warmup"}),
        (f"{{name: {TORCH}.CosineAnnealingLR, kwargs: {{T_max: 9}}}}", {"name": "cosine", "warmup_steps": 0}),
        (f"{{name: {TORCH}.StepLR, kwargs: {{step_size: 9}}}}", None),
        (f"[{{name: {TORCH}.ExponentialLR}}, {{milestones: [1]}}]", None),
        ("{name: linear, warmup_ratio: 0.5}", {"name": "linear", "warmup_ratio": 0.5}),  # ours already
    ],
)
def test_schedules(imported, tmp_path: Path, scheduler: str, expected: dict[str, Any] | None) -> None:
    result = imported(f"policy:\n  optimizer: {{kwargs: {{lr: 1e-5}}}}\n  scheduler: {scheduler}\n")
    config = config_of(result, tmp_path)
    if expected is None:
        assert [note.old for note in result.lost] == ["policy.scheduler"]
    else:
        assert result.lost == []
        assert expected.items() <= config.policy.scheduler.model_dump().items()


@pytest.mark.parametrize(("name", "ours"), [("torch.optim.AdamW", "adamw"), ("torch.optim.SGD", "sgd")])
def test_optimizers(imported, tmp_path: Path, name: str, ours: str) -> None:
    config = config_of(imported(f"policy: {{optimizer: {{name: {name}, kwargs: {{lr: 1e-5}}}}}}\n"), tmp_path)
    assert (config.policy.optimizer.name, config.policy.optimizer.lr) == (ours, 1e-5)


def test_an_optimizer_that_is_not_there_is_lost_and_its_rate_is_not(imported, tmp_path: Path) -> None:
    result = imported("policy: {optimizer: {name: torch.optim.Adagrad, kwargs: {lr: 1e-5, lr_decay: 0.1}}}\n")
    assert config_of(result, tmp_path).policy.optimizer.lr == 1e-5
    assert [note.old for note in result.lost] == ["policy.optimizer.name", "policy.optimizer.kwargs.lr_decay"]


def test_megatron_where_it_is_on(imported, tmp_path: Path) -> None:
    text = """
policy:
  optimizer: {name: torch.optim.AdamW, kwargs: {lr: 1e-5}}
  dtensor_cfg: {enabled: false, tensor_parallel_size: 8}
  megatron_cfg:
    enabled: true
    tensor_model_parallel_size: 4
    pipeline_model_parallel_size: 1
    activation_checkpointing: true
    peft: {enabled: true, dim: 32, alpha: 64, dropout: 0.0}
    optimizer: {lr: 1e-6, weight_decay: 0.01, adam_beta2: 0.95}
    scheduler: {lr_decay_style: cosine, lr_warmup_iters: 5}
"""
    result = imported(text)
    config = config_of(result, tmp_path)
    assert (config.policy.optimizer.lr, config.policy.optimizer.betas) == (1e-6, (0.9, 0.95))
    assert (config.policy.scheduler.name, config.policy.scheduler.warmup_steps) == ("cosine", 5)
    assert (config.policy.lora.rank, config.policy.lora.alpha) == (32, 64)
    assert config.policy.gradient_checkpointing
    assert [str(note) for note in result.lost] == [
        "lost        policy.megatron_cfg: there is no such back end; its tensor_model_parallel_size"
    ]


# Inheritance and interpolation


def test_parents_are_read_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "base.yaml").write_text(
        "dpo: {seed: 1, val_period: 5}\n"
        "policy: {max_total_sequence_length: 512, train_micro_batch_size: 4, lora: {rank: 8, alpha: 16}}\n"
    )
    (tmp_path / "recipes" / "middle.yaml").write_text("defaults: ../base.yaml\ndpo: {seed: 2}\n")
    (tmp_path / "recipes" / "top.yaml").write_text(
        "defaults: [middle.yaml]\n"
        "policy:\n"
        "  train_global_batch_size: ${mul:${policy.train_micro_batch_size}, 8}\n"
        "  tokens_per_microbatch: ${max:${.max_total_sequence_length}, 100}\n"
        "  lora: {_override_: true, rank: 4}\n"
        "dpo: {val_batches: '${div:${add:${.val_period},5},2}'}\n"
    )
    config = config_of(import_config(tmp_path / "recipes" / "top.yaml"), tmp_path)
    assert (config.dpo.seed, config.dpo.val_period, config.dpo.val_batches) == (2, 5, 5)
    assert (config.policy.train_global_batch_size, config.policy.tokens_per_microbatch) == (32, 512)
    assert (config.policy.lora.rank, config.policy.lora.alpha) == (4, None)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("${policy.nothing}", "there is no key policy.nothing"),
        ("${oc.env:HOME}", "${oc.env:...} can't be resolved here"),
        ("${div:1,0}", "division by zero"),
        ("${dpo.seed}", "goes round"),
        ("${mul:a,2}", "could not convert string to float"),
    ],
)
def test_what_can_not_be_resolved_is_lost(imported, value: str, reason: str) -> None:
    result = imported(f"dpo:\n  seed: {value}\n  val_period: 7\n")
    assert result.settings == {"dpo.val_period": 7}
    (note,) = result.lost
    assert note.old == "dpo.seed"
    assert reason in note.remark


def test_a_parent_that_is_not_there_and_one_that_is_its_own_child(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("defaults: none.yaml\n")
    with pytest.raises(
        InputError, match=r"a\.yaml: its parent under defaults: can't be had: .*none\.yaml: no such file"
    ):
        import_config(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text("defaults: b.yaml\n")
    with pytest.raises(UsageError, match=r"b\.yaml: is its own parent"):
        import_config(tmp_path / "b.yaml")


# TRL


def test_trls_settings(imported, tmp_path: Path) -> None:
    text = """
model_name_or_path: org/model
dataset_name: org/pairs
loss_type: [sigmoid]
label_smoothing: 0.1
beta: 0.1
learning_rate: 1e-6
lr_scheduler_type: cosine
per_device_train_batch_size: 4
gradient_accumulation_steps: 8
num_train_epochs: 2
max_length: 2048
max_prompt_length: 512
precompute_ref_log_probs: true
bf16: true
use_peft: true
lora_r: 16
lora_alpha: 32
lora_target_modules: all-linear
adam_beta2: 0.95
rpo_alpha: 0.5
report_to: [wandb, comet_ml]
fp16: false
load_in_4bit: false
logging_steps: 1
"""
    result = imported(text)
    config = config_of(result, tmp_path)
    assert config.policy.model_name == "org/model"
    assert config.data.train[0].data_path == Path("org/pairs")
    assert (config.loss.name, config.loss.label_smoothing) == ("cdpo", 0.1)
    assert (config.dpo.reference_policy_kl_penalty, config.policy.optimizer.lr) == (0.1, 1e-6)
    assert (config.policy.train_micro_batch_size, config.policy.train_global_batch_size) == (4, 32)
    assert (config.policy.scheduler.name, config.dpo.max_num_epochs) == ("cosine", 2)
    assert (config.policy.max_total_sequence_length, config.policy.precision) == (2048, "bfloat16")
    assert (config.reference.mode, config.policy.lora.rank, config.policy.lora.alpha) == ("cached", 16, 32)
    assert config.policy.optimizer.betas == (0.9, 0.95)
    assert (config.dpo.sft_loss_weight, config.dpo.sft_average_log_probs) == (0.5, True)
    assert config.logger.trackers == ("wandb",)
    assert [note.old for note in result.lost] == ["report_to"]


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("loss_type: sppo_hard", "loss.name", "sppo"),
        ("dpo: {preference_loss: rpo_bwd_kl}", "loss.name", "reward_kl"),
        ("dpo: {val_period: -1}", "dpo.val_period", 0),
        ("max_steps: -1", "dpo.max_num_steps", None),
        ("reference_free: true", "reference.mode", "none"),
        ("f_divergence_type: js_divergence", "loss.f_divergence", "js"),
        ("load_in_4bit: true\nuse_peft: true\nlora_r: 4", "policy.lora.quantization", "nf4"),
        ("policy: {precision: bf16}", "policy.precision", "bfloat16"),
        ("model: {max_length: 512}\ndata: {max_seq_length: 256}", "policy.max_total_sequence_length", 256),
        ("data: {train_data_path: a, val_data_paths: {'my set!': b}}", "data.val_data_paths.myset", "b"),
    ],
)
def test_values_that_changed_with_their_keys(imported, tmp_path: Path, text: str, key: str, value: object) -> None:
    result = imported(text + "\n")
    assert result.settings[key] == value
    config_of(result, tmp_path)


@pytest.mark.parametrize(
    ("text", "old"),
    [
        ("training: {algorithm: grpo}", "training.algorithm"),
        ("policy: {precision: float16}", "policy.precision"),
        ("policy: {optimizer: {kwargs: {lr: 7}}}", "policy.optimizer.kwargs.lr"),
        ("fp16: true", "fp16"),
        ("dpo: {frobnicate: 3}", "dpo.frobnicate"),
        ("policy: {dtensor_cfg: {cpu_offload: true}}", "policy.dtensor_cfg.cpu_offload"),
        ("data: {train: {data_path: x, dataset_name: Unheard}}", "data.train.dataset_name"),
        ("loss_type: exo_pair", "loss_type"),
        ("loss_type: rpo", "loss_type"),
        ("dtype: float16", "dtype"),
        ("push_to_hub: true", "push_to_hub"),
        ("push_to_hub: false\nhub: {repo_id: me/mine}", "hub.repo_id"),
        ("loss_type: [sigmoid, unheard]", "loss_type"),
        ("loss_type: [sigmoid, bco_pair]\nloss_weights: [1.0]", "loss_type"),
    ],
)
def test_what_would_change_the_run_is_lost(imported, tmp_path: Path, text: str, old: str) -> None:
    result = imported(text + "\n")
    assert [note.old for note in result.lost] == [old]
    config_of(result, tmp_path)


@pytest.mark.parametrize("text", ["hub_model_id: me/mine", "hub_model_id: me/mine\npush_to_hub: false"])
def test_what_trl_would_not_publish_is_not_published(imported, tmp_path: Path, text: str) -> None:
    result = imported(text + "\n")
    assert config_of(result, tmp_path).hub.repo_id is None
    assert "push_to_hub was off; hub.repo_id=me/mine would publish" in str(result.notes[0])
    assert set(outcomes(result).values()) == {"not needed"}
    settings = dict(line.split(": ") for line in text.splitlines())
    settings = {key: value == "true" if key == "push_to_hub" else value for key, value in settings.items()}
    assert configuration(settings, {"data.train": "pairs.jsonl"}).hub.repo_id is None


def test_what_trl_would_publish_is_published(imported, tmp_path: Path) -> None:
    result = imported("hub_model_id: me/mine\npush_to_hub: true\n")
    assert (config_of(result, tmp_path).hub.repo_id, result.lost) == ("me/mine", [])
    pushed = {"hub_model_id": "me/mine", "push_to_hub": True, "data.train": "pairs.jsonl"}
    assert configuration(pushed, {}).hub.repo_id == "me/mine"
    with pytest.raises(UsageError, match=r"push_to_hub: name the repository with hub\.repo_id"):
        configuration({"push_to_hub": True, "data.train": "pairs.jsonl"}, {})


@pytest.mark.parametrize(
    ("text", "pairs", "remark"),
    [
        (
            "per_device_train_batch_size: 4",
            4,
            "4 pairs a step, 4 x 1 (1 without gradient_accumulation_steps), per process",
        ),
        ("per_device_train_batch_size: 4\ngradient_accumulation_steps: 8", 32, "32 pairs a step, 4 x 8, per process"),
        ("gradient_accumulation_steps: 2", 16, "16 pairs a step, 8 x 2, per process"),
        ("per_device_train_batch_size: 4\nbatch_size: 64", 64, ""),
        ("micro_batch_size: 4", 128, ""),
    ],
)
def test_trls_batch(imported, tmp_path: Path, text: str, pairs: int, remark: str) -> None:
    result = imported(text + "\n")
    config = config_of(result, tmp_path)
    assert (config.policy.train_global_batch_size, result.lost) == (pairs, [])
    assert not remark or any(remark in note.remark for note in result.notes)
    assert config.policy.train_micro_batch_size == (4 if "batch_size: 4" in text else 2)


@pytest.mark.parametrize(
    ("text", "weights", "preference", "sft"),
    [
        ("loss_type: [sigmoid, bco_pair]\nloss_weights: [0.7, 0.3]", {"sigmoid": 0.7, "bco": 0.3}, 1, 0),
        ("loss_type: [sigmoid, bco_pair, sft]\nloss_weights: [0.8, 0.2, 1]", {"sigmoid": 0.8, "bco": 0.2}, 1, 1),
        ("loss_type: [sigmoid, sft]", {"sigmoid": 1}, 1, 1),
        ("loss_type: [hinge, sft]\nloss_weights: [2, 0]", {"hinge": 2}, 1, 0),
        ("loss_type: sft", {"sigmoid": 1}, 0, 1),
        ("loss_weights: [0.5]", {"sigmoid": 0.5}, 1, 0),
        ("loss: {name: hinge}\nloss_weights: [0.5]", {"hinge": 0.5}, 1, 0),
        ("loss_type: [sigmoid, hinge]\nlabel_smoothing: 0.1", {"cdpo": 1, "hinge": 1}, 1, 0),
    ],
)
def test_trls_mixed_losses(
    imported, tmp_path: Path, text: str, weights: dict[str, float], preference: float, sft: float
) -> None:
    result = imported(text + "\n")
    config = config_of(result, tmp_path)
    assert result.lost == []
    assert config.loss.weights == weights
    assert (config.dpo.preference_loss_weight, config.dpo.sft_loss_weight) == (preference, sft)
    assert config.dpo.sft_average_log_probs == bool(sft)


def test_a_loss_that_has_two_meanings_is_told_with_both(imported) -> None:
    for text in ("loss_type: rpo\n", "loss: {name: rpo}\n", "loss_type: [sigmoid, rpo]\n"):
        (note,) = imported(text).lost
        assert "reward_kl, reward_fwd_kl or reward_sq (NVIDIA's), or sigmoid with dpo.sft_loss_weight" in note.remark


@pytest.mark.parametrize(
    "text",
    [
        "eval_strategy: steps",
        "eval_strategy: epoch",
        "use_liger_kernel: true",
        "logging_first_step: true",
        "bf16: true\ndtype: float32",
    ],
)
def test_what_trl_says_and_a_run_does_not_need(imported, text: str) -> None:
    result = imported(text + "\n")
    assert outcomes(result)[text.split("\n")[-1].partition(":")[0]] == "not needed"
    assert result.lost == []


def test_no_validation_in_trl_is_none_here(imported, tmp_path: Path) -> None:
    result = imported("eval_strategy: 'no'\neval_steps: 50\n")
    dpo = config_of(result, tmp_path).dpo
    assert (dpo.val_period, dpo.val_at_start, dpo.val_at_end, result.lost) == (0, False, False, [])


@pytest.mark.parametrize(
    ("text", "precision"),
    [
        ("dtype: float32", "float32"),
        ("torch_dtype: bfloat16", "bfloat16"),
        ("model_init_kwargs: {dtype: bfloat16}", "bfloat16"),
        ("model_init_kwargs: {torch_dtype: torch.float32}", "float32"),
        ("bf16: true\ndtype: float32", "bfloat16"),
        ("dtype: null", "auto"),
    ],
)
def test_trls_dtypes(imported, tmp_path: Path, text: str, precision: str) -> None:
    result = imported(text + "\n")
    assert (config_of(result, tmp_path).policy.precision, result.lost) == (precision, [])


def test_the_file_is_in_the_order_of_the_declarations(imported) -> None:
    text = imported_yaml(imported("policy: {precision: float32}\ndpo: {seed: 1}\ndata: {train_data_path: a}\n"))
    assert text == (
        "# Made by `dpo config import`; keys that are not here have their defaults.\n"
        "data:\n  train:\n    data_path: a\ndpo:\n  seed: 1\npolicy:\n  precision: float32\n"
    )


def test_several_sets_with_a_default_each_have_it(imported, tmp_path: Path) -> None:
    result = imported(
        "data:\n  default: {prompt_key: q}\n  train: [{data_path: a.jsonl}, {data_path: b.jsonl, prompt_key: z}]\n"
        "  validation: {data_path: c.jsonl}\n"
    )
    data = config_of(result, tmp_path).data
    assert [each.prompt_key for each in data.train] == ["q", "z"]
    assert data.validation is not None
    assert data.validation.prompt_key == "q"
    assert result.lost == []


def test_our_own_short_forms_are_carried(imported, tmp_path: Path) -> None:
    config = config_of(imported("reference: online\ndata: {train: a.jsonl}\n"), tmp_path)
    assert (config.reference.mode, config.data.train[0].data_path) == ("online", Path("a.jsonl"))
    config = config_of(imported("data: {train: [a.jsonl, {data_path: b.jsonl, weight: 2}]}\n"), tmp_path)
    assert [(each.data_path, each.weight) for each in config.data.train] == [(Path("a.jsonl"), 1), (Path("b.jsonl"), 2)]


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("policy: {scheduler: [1, {milestones: 20}]}", {"policy.scheduler"}),
        (
            "policy:\n  optimizer: {kwargs: {lr: x}}\n"
            "  scheduler: [{name: torch.optim.lr_scheduler.CosineAnnealingLR, kwargs: {eta_min: 1e-7}}]",
            {"policy.scheduler", "policy.optimizer.kwargs.lr"},
        ),
        ("policy: {optimizer: {name: [a]}}", {"policy.optimizer.name"}),
        ("report_to: 3", {"report_to"}),
        ("gradient_accumulation_steps: 4\nper_device_train_batch_size: '2'", {"gradient_accumulation_steps"}),
        ("checkpointing: {metric_name: [a]}", {"checkpointing.metric_name"}),
        ("data: {val_data_paths: x.jsonl}", {"data.val_data_paths"}),
        ("max_length: true\ndata: {max_seq_length: 3}", {"max_length"}),
        ("loss_type: hinge\nlabel_smoothing: 0.1", {"label_smoothing"}),
        ("policy: {dtensor_cfg: {lora_cfg: {enabled: true, dropout: 0.1}}}", {"policy.dtensor_cfg.lora_cfg.dropout"}),
        ("policy: {model_name: ''}", set()),
    ],
)
def test_values_of_the_wrong_kind_are_lost_and_not_a_fault(imported, text: str, lost: set[str]) -> None:
    result = imported(text)
    assert {note.old for note in result.lost} == lost
    assert result.settings.get("loss.name") in (None, "hinge")


def test_the_summary_counts(imported) -> None:
    result = imported("dpo: {seed: 1}\nbeta: 0.1\nlogging_steps: 1\nfp16: true\n")
    assert result.summary == "1 carried, 1 renamed, 1 not needed, 1 lost"
    assert {note.outcome for note in result.notes} == set(Outcome)
