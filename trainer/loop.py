"""`dpo train`: the way from preference pairs to a trained policy, on one process or many.

Run by the command line, or the same command under `accelerate launch` or `torchrun`.
"""

import os
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from transformers import get_scheduler

from schemas.errors import DpoError
from schemas.preference import PreferencePair, read_pairs
from schemas.terminal import progress
from trainer.config import OptimizerSection, SchedulerSection, TrainConfig
from trainer.groups import group_pairs
from trainer.plan import Step, plan_steps
from trainer.policy import load_policy
from trainer.reference import compute_reference
from trainer.report import RunReport
from trainer.run_folder import RunFolder
from trainer.step import Training, check_start, train_step
from trainer.tokenize import TokenizedPairs, end_of_turn_ids, tokenize_groups

SETTLE_SECONDS = 0.5


@dataclass(frozen=True)
class RunResult:
    """What a finished run has to say."""

    policy_dir: Path
    steps: int
    pairs: int
    seconds: float
    metrics: dict[str, float]  # of the last step

    def as_dict(self) -> dict[str, object]:
        """Give the result as JSON types."""
        return {**asdict(self), "policy_dir": str(self.policy_dir)}


def train(config: TrainConfig) -> RunResult | None:
    """Train a policy; return the result on the main process, None on the others.

    Raises:
        InputError: pairs or model can't be read.
        UsageError: model and tokenizer can't serve.
        DpoError: nothing to train on, or the training went wrong.
    """
    started = time.perf_counter()
    accelerator, config = _start_accelerator(config)
    pairs = _read(config.data.train.data_path, shown=accelerator.is_main_process)
    model, tokenizer = load_policy(config.policy.model_name)
    data = _tokenize(config, pairs, model, tokenizer, shown=accelerator.is_main_process)
    steps = plan_steps(
        data.groups,
        seed=config.dpo.seed,
        global_batch_size=config.policy.train_global_batch_size,
        num_epochs=config.dpo.max_num_epochs,
        max_steps=config.dpo.max_num_steps,
    )
    folder = RunFolder(config.output_dir, writes=accelerator.is_main_process)
    folder.create(config)
    report = RunReport(num_steps=len(steps), shown=accelerator.is_main_process)
    report.start(config, data, num_processes=accelerator.num_processes)
    training = _set_up(config, accelerator, model, data, num_steps=len(steps))
    metrics: dict[str, float] = {}
    with report.live() as show:
        for number, step in enumerate(steps, start=1):
            metrics = train_step(training, step)
            if number == 1:
                _check_start(config, metrics)
            folder.log(_line(number, step, metrics))
            show(number, metrics)
    state_dict = accelerator.get_state_dict(training.model)  # on all processes: sharded weights are gathered
    model = accelerator.unwrap_model(training.model)
    _leave_group(accelerator)
    if not accelerator.is_main_process:
        return None
    folder.save_policy(model, tokenizer, state_dict, config)
    result = RunResult(folder.policy_dir, len(steps), data.num_pairs, time.perf_counter() - started, metrics)
    report.finish(result.seconds, folder.policy_dir)
    return result


def _start_accelerator(config: TrainConfig) -> tuple[Accelerator, TrainConfig]:
    """Start Accelerate in the wanted precision; name the precision in the configuration where it was auto."""
    precision = config.policy.precision
    if precision == "auto":
        has_bfloat16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        precision = "bfloat16" if has_bfloat16 else "float32"
    accelerator = Accelerator(
        mixed_precision="bf16" if precision == "bfloat16" else "no",
        cpu=not torch.accelerator.is_available(),  # else Accelerate passes over the launcher's processes on a CPU
    )
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != launched:
        raise DpoError(f"the launcher started {launched} processes, and Accelerate found {accelerator.num_processes}")
    set_seed(config.dpo.seed)
    policy = config.policy.model_copy(update={"precision": precision})
    return accelerator, config.model_copy(update={"policy": policy})


def _read(path: Path, *, shown: bool) -> list[PreferencePair]:
    with progress("reading", total=path.stat().st_size, unit="bytes", shown=shown) as advance:
        return read_pairs(path, advance)


def _tokenize(
    config: TrainConfig, pairs: list[PreferencePair], model: Any, tokenizer: Any, *, shown: bool
) -> TokenizedPairs:
    groups = group_pairs(pairs)
    end_ids = end_of_turn_ids(tokenizer, model.generation_config)
    with progress("tokenising", total=len(groups), unit="prompts", shown=shown) as advance:
        return tokenize_groups(
            groups, tokenizer, max_tokens=config.policy.max_total_sequence_length, end_ids=end_ids, advance=advance
        )


def _set_up(
    config: TrainConfig, accelerator: Accelerator, model: Any, data: TokenizedPairs, *, num_steps: int
) -> Training:
    """Take the reference log-probs, then build what updates the policy."""
    policy = config.policy
    model.train()
    optimizer = _optimizer(model, policy.optimizer)
    model, optimizer = accelerator.prepare(model, optimizer)
    num_responses = sum(len(group.responses) for group in data.groups)
    shown = accelerator.is_main_process
    with progress("reference", total=num_responses, unit="responses", shown=shown) as advance:
        reference = compute_reference(
            model, data.groups, accelerator, batch_size=2 * policy.train_micro_batch_size, advance=advance
        )
    scheduler = _scheduler(optimizer.optimizer, policy.scheduler, num_steps=num_steps)
    return Training(config, accelerator, model, optimizer, scheduler, data.groups, reference)


def _optimizer(model: Any, options: OptimizerSection) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        model.parameters(),
        lr=options.lr,
        betas=options.betas,
        eps=options.eps,
        weight_decay=options.weight_decay,
    )


def _scheduler(optimizer: torch.optim.Optimizer, options: SchedulerSection, *, num_steps: int) -> Any:
    """Make the learning rate's schedule, one place ahead: at place 0 the rate is 0, and a step would do nothing."""
    scheduler = get_scheduler(
        options.name,
        optimizer,
        num_warmup_steps=round(options.warmup_ratio * num_steps),
        num_training_steps=num_steps + 1,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*lr_scheduler.step.*before.*optimizer.step.*")
        scheduler.step()
    return scheduler


def _check_start(config: TrainConfig, metrics: dict[str, float]) -> None:
    check_start(
        metrics["preference_loss"],
        beta=config.dpo.reference_policy_kl_penalty,
        precision=config.policy.precision,
    )


def _leave_group(accelerator: Accelerator) -> None:
    """End the communication between the processes, once its threads are at rest.

    Gloo's threads drop the tensors of finished collectives and need Python's lock for that. A process group destroyed
    at that moment, by a thread that holds the lock, waits for them for ever (seen with torch 2.13). Sleeping gives the
    lock away.
    """
    if accelerator.num_processes > 1:
        accelerator.wait_for_everyone()
        time.sleep(SETTLE_SECONDS)
    accelerator.end_training()


def _line(number: int, step: Step, metrics: dict[str, float]) -> dict[str, float]:
    """Make a line of metrics.jsonl, with NeMo RL's prefix."""
    return {"step": number, "epoch": step.epoch + 1} | {f"train/{name}": value for name, value in metrics.items()}
