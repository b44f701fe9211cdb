"""Keys of NeMo RL in all its generations, of NeMo Gym's example, of the older tutorial and of TRL, and ours for them.

A key that is set by an old name is answered with the new one; `dpo config import` carries its value over.
"""

from trainer.config.loss import DpoSection

BETA = "dpo.reference_policy_kl_penalty"
BATCH = "policy.train_global_batch_size"
MICRO_BATCH = "policy.train_micro_batch_size"
LENGTH = "policy.max_total_sequence_length"
LR = "policy.optimizer.lr"

_NEMO_RL = {
    **{f"loss_fn.{name}": f"dpo.{name}" for name in DpoSection.model_fields},
    "loss_fn.preference_loss": "loss.name",
    "loss_fn.gt_reward_scale": "loss.reward.scale",
    "dpo.preference_loss": "loss.name",
    "dpo.gt_reward_scale": "loss.reward.scale",
    "data.dataset_name": "data.train.dataset_name",
    "data.train_data_path": "data.train.data_path",
    "data.train_split": "data.train.split",
    "data.subset": "data.train.subset",
    "data.prompt_key": "data.train.prompt_key",
    "data.chosen_key": "data.train.chosen_key",
    "data.rejected_key": "data.train.rejected_key",
    "data.prompt_file": "data.train.prompt_file",
    "data.system_prompt_file": "data.train.system_prompt_file",
    "data.val_data_path": "data.validation.data_path",
    "data.val_split": "data.validation.split",
    "data.max_input_seq_length": LENGTH,
    "policy.optimizer.kwargs.lr": LR,
    "policy.optimizer.kwargs.weight_decay": "policy.optimizer.weight_decay",
    "policy.optimizer.kwargs.betas": "policy.optimizer.betas",
    "policy.optimizer.kwargs.eps": "policy.optimizer.eps",
    "policy.dtensor_cfg.activation_checkpointing": "policy.gradient_checkpointing",
    "policy.dtensor_cfg.lora_cfg.enabled": "policy.lora.rank",
    "policy.dtensor_cfg.lora_cfg.dim": "policy.lora.rank",
    "policy.dtensor_cfg.lora_cfg.alpha": "policy.lora.alpha",
    "policy.dtensor_cfg.lora_cfg.target_modules": "policy.lora.target_modules",
    "policy.dtensor_cfg.lora_cfg.exclude_modules": "policy.lora.exclude_modules",
    "policy.megatron_cfg.activation_checkpointing": "policy.gradient_checkpointing",
    "policy.megatron_cfg.peft.enabled": "policy.lora.rank",
    "policy.megatron_cfg.peft.dim": "policy.lora.rank",
    "policy.megatron_cfg.peft.alpha": "policy.lora.alpha",
    "policy.megatron_cfg.optimizer.lr": LR,
    "policy.megatron_cfg.optimizer.weight_decay": "policy.optimizer.weight_decay",
    "policy.megatron_cfg.optimizer.adam_eps": "policy.optimizer.eps",
    "policy.megatron_cfg.scheduler.lr_warmup_iters": "policy.scheduler.warmup_steps",
    "policy.activation_checkpointing_enabled": "policy.gradient_checkpointing",
    "logger.tensorboard.log_dir": "logger.log_dir",
}
_OF_SECTIONS = {  # what may stand below training:, model: and trainer:, or alone
    "algorithm": "loss.name",
    "batch_size": BATCH,
    "beta": BETA,
    "epochs": "dpo.max_num_epochs",
    "global_batch_size": BATCH,
    "gradient_checkpointing": "policy.gradient_checkpointing",
    "learning_rate": LR,
    "loss_type": "loss.name",
    "lr": LR,
    "max_epochs": "dpo.max_num_epochs",
    "max_grad_norm": "policy.max_grad_norm",
    "max_num_epochs": "dpo.max_num_epochs",
    "max_num_steps": "dpo.max_num_steps",
    "max_steps": "dpo.max_num_steps",
    "micro_batch_size": MICRO_BATCH,
    "num_epochs": "dpo.max_num_epochs",
    "precision": "policy.precision",
    "reference_free": "reference.mode",
    "reference_policy_kl_penalty": BETA,
    "seed": "dpo.seed",
    "train_global_batch_size": BATCH,
    "train_micro_batch_size": MICRO_BATCH,
    "warmup_ratio": "policy.scheduler.warmup_ratio",
    "warmup_steps": "policy.scheduler.warmup_steps",
    "weight_decay": "policy.optimizer.weight_decay",
}
_TUTORIALS = {
    **{f"training.{name}": new for name, new in _OF_SECTIONS.items()},
    "model.name": "policy.model_name",
    "model.model_name": "policy.model_name",
    "model.pretrained_model": "policy.model_name",
    "model.max_length": LENGTH,
    "model.precision": "policy.precision",
    "model.gradient_checkpointing": "policy.gradient_checkpointing",
    "data.train_file": "data.train.data_path",
    "data.validation_file": "data.validation.data_path",
    "data.max_seq_length": LENGTH,
}
_TRL = {
    "adam_epsilon": "policy.optimizer.eps",
    "attn_implementation": "policy.attention",
    "bf16": "policy.precision",
    "dataset_name": "data.train.data_path",
    "dtype": "policy.precision",
    "discopop_tau": "loss.discopop_temperature",
    "eval_steps": "dpo.val_period",
    "f_alpha_divergence_coef": "loss.f_alpha",
    "f_divergence_type": "loss.f_divergence",
    "hub_model_id": "hub.repo_id",
    "hub_private_repo": "hub.private",
    "label_smoothing": "loss.label_smoothing",
    "ld_alpha": "loss.ld_alpha",
    "load_in_4bit": "policy.lora.quantization",
    "load_in_8bit": "policy.lora.quantization",
    "logging_dir": "logger.log_dir",
    "lora_alpha": "policy.lora.alpha",
    "lora_r": "policy.lora.rank",
    "lora_target_modules": "policy.lora.target_modules",
    "lr_scheduler_type": "policy.scheduler.name",
    "max_length": LENGTH,
    "metric_for_best_model": "checkpointing.metric_name",
    "greater_is_better": "checkpointing.higher_is_better",
    "model": "policy.model_name",
    "model_init_kwargs.dtype": "policy.precision",
    "model_init_kwargs.torch_dtype": "policy.precision",
    "model_name": "policy.model_name",
    "model_name_or_path": "policy.model_name",
    "num_train_epochs": "dpo.max_num_epochs",
    "optim": "policy.optimizer.name",
    "per_device_eval_batch_size": "dpo.val_micro_batch_size",
    "per_device_train_batch_size": MICRO_BATCH,
    "precompute_ref_log_probs": "reference.mode",
    "ref_model": "reference.model_name",
    "rpo_alpha": "dpo.sft_loss_weight",
    "run_name": "logger.wandb.name",
    "save_steps": "checkpointing.save_period",
    "save_total_limit": "checkpointing.keep_top_k",
    "simpo_gamma": "loss.simpo_gamma",
    "torch_dtype": "policy.precision",
    "torch_compile": "policy.compile",
    "use_rslora": "policy.lora.rank_stabilized",
    "use_weighting": "loss.wpo_weighting",
}

RENAMED: dict[str, str] = {**_NEMO_RL, **_TUTORIALS, **_OF_SECTIONS, **_TRL}
"""Old dotted key -> ours."""

REMARKS: dict[str, str] = {
    "data.dataset_name": "a validation set has its own, data.validation.dataset_name",
    "data.prompt_key": "a validation set has its own, data.validation.prompt_key",
    "data.chosen_key": "a validation set has its own, data.validation.chosen_key",
    "data.rejected_key": "a validation set has its own, data.validation.rejected_key",
    "policy.dtensor_cfg.lora_cfg.enabled": "rank 0 is off",
    "policy.megatron_cfg.peft.enabled": "rank 0 is off",
    "reference_free": "reference_free=true is reference.mode=none",
    "training.reference_free": "reference_free=true is reference.mode=none",
    "precompute_ref_log_probs": "true is reference.mode=cached, which is the default",
    "per_device_train_batch_size": f"together with {BATCH}, the pairs of one step",
    "rpo_alpha": "with dpo.sft_average_log_probs=true",
    "dtype": "weights stay in float32",
    "torch_dtype": "weights stay in float32",
    "model_init_kwargs.dtype": "weights stay in float32",
    "model_init_kwargs.torch_dtype": "weights stay in float32",
    "bf16": "bf16=true is policy.precision=bfloat16",
    "load_in_4bit": "true is policy.lora.quantization=nf4",
    "load_in_8bit": "true is policy.lora.quantization=int8",
    "logger.tensorboard.log_dir": "all trackers share it",
    "attn_implementation": "and seldom needs to be set",
}
"""What else is to be known of some of them."""

LOSS_NAMES: dict[str, str] = {
    "dpo": "sigmoid",
    "dpo_loss": "sigmoid",
    "rpo_sq": "reward_sq",
    "rpo_bwd_kl": "reward_kl",
    "rpo_fwd_kl": "reward_fwd_kl",
    "bco_pair": "bco",
    "exo_pair": "exo",
    "nca_pair": "nca",
    "sppo_hard": "sppo",
}
"""What others call losses that are there."""

OTHER_LOSSES: dict[str, str] = {
    "rpo": "reward_kl, reward_fwd_kl or reward_sq (NVIDIA's), or sigmoid with dpo.sft_loss_weight (TRL's rpo_alpha)",
    "sft": "dpo.sft_loss_weight",
}
"""What others call losses, where ours is more than another name."""


def new_name(old: str) -> str | None:
    """Say what an old key is called here, in a sentence; None where it is no old key."""
    if old not in RENAMED:
        return None
    remark = f"; {REMARKS[old]}" if old in REMARKS else ""
    return f"is {RENAMED[old]} here{remark}"
