"""`dpo train`: the way from preference pairs to a trained policy, on one process or many.

Run by the command line, or the same command under `accelerate launch` or `torchrun`.
"""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from trainer.config.sections import TrainConfig
from trainer.data.plan import Step
from trainer.model.lora import add_lora, merged
from trainer.model.policy import load_policy
from trainer.model.scorer import is_lora
from trainer.run.out_of_memory import explain_out_of_memory
from trainer.run.report import RunReport
from trainer.run.run_folder import RunFolder
from trainer.run.setup import set_up
from trainer.run.start import load_groups, plan, start_accelerator, tokenize
from trainer.run.step import Training, check_start, train_step

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
    accelerator, config = start_accelerator(config)
    groups = load_groups(config.data.train, shown=accelerator.is_main_process)
    model, tokenizer = load_policy(config.policy.model_name)
    data = tokenize(config, groups, model, tokenizer, shown=accelerator.is_main_process)
    if config.policy.lora.rank:
        model = add_lora(model, config.policy.lora)
    steps = plan(config, data)
    folder = RunFolder(config.output_dir, writes=accelerator.is_main_process)
    folder.create(config)
    report = RunReport(num_steps=len(steps), shown=accelerator.is_main_process)
    report.start(config, data, num_processes=accelerator.num_processes)
    with folder.given_back(), explain_out_of_memory(config, "reference"):
        training = set_up(config, accelerator, model, data, steps, say=report.say)
    metrics: dict[str, float] = {}
    with explain_out_of_memory(config, "training"), report.live() as show:
        for number, step in enumerate(steps, start=1):
            metrics = train_step(training, step)
            if number == 1 and starts_as_reference(config):
                _check_start(config, metrics)
            folder.log(_line(number, step, metrics))
            show(number, metrics)
    state_dict = _weights(training)
    _leave_group(accelerator)
    if not accelerator.is_main_process:
        return None
    if is_lora(model):
        model = merged(model)
        state_dict = model.state_dict()
    folder.save_policy(model, tokenizer, state_dict, config)
    result = RunResult(folder.policy_dir, len(steps), data.num_pairs, time.perf_counter() - started, metrics)
    report.finish(result.seconds, folder.policy_dir)
    return result


def _weights(training: Training) -> dict[str, Any]:
    """Give the policy's weights by their own names; on all processes, because sharded weights are gathered."""
    state_dict = training.accelerator.get_state_dict(training.scorer)
    return {name.removeprefix("model."): value for name, value in state_dict.items()}


def starts_as_reference(config: TrainConfig) -> bool:
    """Say whether the policy is its own reference at the start."""
    return config.reference_mode != "none" and config.reference.model_name is None


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
