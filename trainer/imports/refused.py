"""Keys of NeMo RL and TRL that have no place here, each with the reason or with what does its work.

A key stands for all keys below it. Taking one and doing nothing would be worse than to refuse it: a run would not be
what its configuration says.
"""

from typing import NamedTuple


class Refusal(NamedTuple):
    """Why a key has no place here."""

    reason: str
    is_harmless: bool  # a run is the same without it


def _harmless(reason: str) -> Refusal:
    return Refusal(reason, True)


def _missed(reason: str) -> Refusal:
    return Refusal(reason, False)


NO_MEGATRON = "there is no Megatron back end; dpo train starts the processes itself (--gpus)"
SHARDING = "how weights are spread over GPUs is cluster.accelerate_config's to say: --accelerate-config fsdp2"
NO_PADDING = "rows have no padding"
PACKED = "rows are always packed, of policy.tokens_per_microbatch tokens"
NO_GENERATION = "nothing is generated for training: pairs come from files"
NO_WORKERS = "pairs are tokenised once, before training"
TEMPLATE = "the chat template decides"
SAFETENSORS = "weights are always saved as safetensors that from_pretrained loads"

REFUSED: dict[str, Refusal] = {
    "policy.megatron_cfg": _missed(NO_MEGATRON),
    "policy.dtensor_cfg": _missed(SHARDING),
    "policy.dtensor_cfg.enabled": _harmless(SHARDING),
    "policy.dtensor_cfg._v2": _harmless("there is one trainer"),
    "policy.dtensor_cfg.env_vars": _missed("set environment variables where the run is started"),
    "policy.dtensor_cfg.clear_cache_every_n_steps": _harmless("rows are of one size, so memory does not fragment"),
    "policy.dtensor_cfg.lora_cfg": _missed("adapters are policy.lora.*"),
    "policy.dtensor_cfg.lora_cfg.use_triton": _harmless("adapters are peft's"),
    "policy.dtensor_cfg.lora_cfg.match_all_linear": _harmless(
        "every linear layer but the head gets adapters unless policy.lora.target_modules names some"
    ),
    "policy.dtensor_cfg.lora_cfg.dropout": _missed("adapters have no dropout"),
    "policy.dtensor_cfg.lora_cfg.dropout_position": _harmless("adapters have no dropout"),
    "policy.dtensor_cfg.lora_cfg.lora_A_init": _harmless("adapters start as peft starts them: at 0 in effect"),
    "policy.dynamic_batching": _harmless(PACKED),
    "policy.sequence_packing": _harmless(PACKED),
    "policy.make_sequence_length_divisible_by": _harmless(NO_PADDING),
    "policy.logprob_batch_size": _harmless("log-probs are computed in the rows of policy.tokens_per_microbatch"),
    "policy.logprob_chunk_size": _harmless("the head works in tiles, always"),
    "policy.offload_optimizer_for_logprob": _harmless("the reference is computed before there is an optimizer"),
    "policy.refit_buffer_size_gb": _harmless(NO_GENERATION),
    "policy.generation": _harmless(NO_GENERATION),
    "policy.generation_batch_size": _harmless(NO_GENERATION),
    "policy.fsdp_offload_enabled": _missed(SHARDING),
    "policy.optimizer.kwargs": _missed("the optimizer's keys are policy.optimizer.lr, weight_decay, betas and eps"),
    "policy.optimizer.kwargs.foreach": _harmless("the fastest form that serves is taken"),
    "policy.optimizer.kwargs.fused": _harmless("the fastest form that serves is taken"),
    "policy.scheduler.kwargs": _missed("the schedule's keys are policy.scheduler.name, warmup_steps and warmup_ratio"),
    "data.default": _missed("a set inherits nothing; write its keys in data.train and in data.validation"),
    "data.num_workers": _harmless(NO_WORKERS),
    "data.train.processor": _harmless("a set is read by its keys"),
    "data.train.env_name": _harmless(NO_GENERATION),
    "data.validation.processor": _harmless("a set is read by its keys"),
    "data.validation.env_name": _harmless(NO_GENERATION),
    "data.add_bos": _harmless(TEMPLATE),
    "data.add_eos": _harmless("the end of a turn is trained where the response ended"),
    "data.add_generation_prompt": _harmless("a response stands behind the generation prompt, always"),
    "data.add_system_prompt": _harmless(TEMPLATE),
    "data.env_name": _harmless(NO_GENERATION),
    "data.seed": _harmless("dpo.seed decides the order"),
    "dpo.ft_save_period": _missed("checkpoints are checkpointing.save_period's"),
    "checkpointing.save_optimizer": _harmless("a checkpoint has the optimizer, so that a run resumes exactly"),
    "checkpointing.save_consolidated": _harmless(SAFETENSORS),
    "checkpointing.model_save_format": _harmless(SAFETENSORS),
    "checkpointing.model_cache_dir": _harmless("HF_HOME says where models are kept"),
    "checkpointing.model_repo_id": _harmless("policy.model_name says it"),
    "checkpointing.is_peft": _harmless("policy.lora.save says what is saved"),
    "checkpointing.peft_config": _harmless("policy.lora.* says it"),
    "checkpointing.is_async": _harmless("a checkpoint is there whole before the next step"),
    "checkpointing.ft_save_period": _missed("save_period and checkpoint_must_save_by are what there is"),
    "checkpointing.ft_keep_latest_k": _missed("keep_top_k is what there is; the newest is kept in any case"),
    "checkpointing.pretrained_checkpoint": _missed(NO_MEGATRON),
    "logger.monitor_gpus": _harmless("memory is in the metrics of each step, always"),
    "logger.gpu_monitoring": _harmless("memory is in the metrics of each step, always"),
    "cluster.segment_size": _harmless("nodes are the launcher's"),
    "cluster.master_port_range_low": _harmless("the port is the launcher's"),
    "cluster.master_port_range_high": _harmless("the port is the launcher's"),
    "cluster.enabled": _harmless("the launcher starts the processes"),
    "env": _harmless(NO_GENERATION),
    "num_repeats": _harmless("it belongs to a collection of rollouts"),
    "responses_create_params": _harmless("it belongs to a collection of rollouts"),
    "defaults": _missed("a file inherits nothing; dpo config import reads the parents and writes one file"),
    # TRL
    "gradient_accumulation_steps": _missed(
        "policy.train_global_batch_size says the pairs of a step; it is per_device_train_batch_size x "
        "gradient_accumulation_steps x processes"
    ),
    "max_prompt_length": _harmless("nothing is ever cut; longer pairs are dropped and counted"),
    "max_completion_length": _harmless("nothing is ever cut; longer pairs are dropped and counted"),
    "truncation_mode": _harmless("nothing is ever cut; longer pairs are dropped and counted"),
    "padding_free": _harmless(NO_PADDING),
    "pad_token": _harmless(NO_PADDING),
    "dataset_num_proc": _harmless(NO_WORKERS),
    "dataloader_num_workers": _harmless(NO_WORKERS),
    "disable_dropout": _harmless("the policy is trained without dropout, always"),
    "sync_ref_model": _missed("the reference does not change in a run; train again from the policy"),
    "fp16": _missed("policy.precision is float32 or bfloat16"),
    "packing": _harmless(PACKED),
    "logging_steps": _harmless("every step is in metrics.jsonl"),
    "logging_first_step": _harmless("every step is in metrics.jsonl"),
    "eval_strategy": _harmless("validation is every dpo.val_period steps, at the start and at the end"),
    "evaluation_strategy": _harmless("validation is every dpo.val_period steps, at the start and at the end"),
    "use_liger_kernel": _harmless("the head works in tiles, always"),
    "push_to_hub": _missed("name the repository with hub.repo_id"),
    "report_to": _missed("trackers are logger.wandb_enabled, logger.tensorboard_enabled, ..."),
    "loss_weights": _missed("several losses with weights are loss.mix"),
    "use_peft": _missed("adapters are on where policy.lora.rank is above 0"),
    "lora_dropout": _missed("adapters have no dropout"),
    "use_logits_to_keep": _harmless("only the tokens that are trained on go through the head, always"),
    "reference_model": _missed("reference.model_name names another reference"),
    "training": _missed("no such key of training is known here"),
    "model": _missed("no such key of model is known here"),
}


def refusal_of(key: str) -> tuple[str, Refusal] | None:
    """Find the entry of a key or of what it lies below, the nearest first."""
    parts = key.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        if prefix in REFUSED:
            return prefix, REFUSED[prefix]
    return None
