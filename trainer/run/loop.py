"""`dpo train`: the way from preference pairs to a trained policy, on one process or many.

Run by the command line, or the same command under `accelerate launch` or `torchrun`.
"""

import time
from collections.abc import Mapping

from accelerate import Accelerator

from trainer.config.sections import TrainConfig
from trainer.cost.out_of_memory import explain_out_of_memory
from trainer.data.plan import Step
from trainer.run.given import NOTHING, Given
from trainer.run.prepare import Run, prepare
from trainer.run.result import RunResult
from trainer.run.state import RunState, peak_memory_gb
from trainer.run.step import check_first_step, train_step
from trainer.run.validation import validate
from trainer.save.hub import push
from trainer.save.saving import of_main, policy_weights, save_checkpoint, save_policy

SETTLE_SECONDS = 0.5


def train(config: TrainConfig, given: Given = NOTHING) -> RunResult | None:
    """Train a policy; return the result on the main process, None on the others.

    Raises:
        InputError: pairs or model can't be read.
        UsageError: model and tokenizer can't serve.
        DpoError: nothing to train on, or the training went wrong.
    """
    run = prepare(config, given)
    must_stop = False
    with run.trackers:
        with explain_out_of_memory(run.config, "training"), run.report.live():
            with run.folder.given_back():
                state = _looked_at(run, RunState())
            for step in run.steps:
                state = _stepped(run, state, step)
                must_stop = _must_stop(run, state)
                state = _looked_at(run, state, saves=must_stop)
                if must_stop:
                    break
        return _finished(run, state, is_complete=not must_stop)


def _stepped(run: Run, state: RunState, step: Step) -> RunState:
    """Train on the pairs of a step, and tell its metrics."""
    started = time.perf_counter()
    found = train_step(run.training, step)
    seconds = time.perf_counter() - started
    run.clock.took("step", seconds)
    if state.step == 0 and starts_as_reference(run.config):
        check_first_step(run.config, found)
    num_tokens = int(found["global_valid_toks"])
    state = state.after(step, num_tokens)
    found |= {"consumed_samples": state.consumed_samples, "memory_gb": peak_memory_gb(run.accelerator.device)}
    state = state.with_metrics(
        {f"train/{name}": value for name, value in found.items()}
        | {
            "timing/train/total_step_time": seconds,
            "timing/train/valid_tokens_per_sec_per_gpu": num_tokens / seconds / run.accelerator.num_processes,
        }
    )
    _record(run, state, state.metrics)
    run.report.step(state.step, found)
    for warning in run.health.observe(state.step, found):
        run.report.say(warning)
    return state


def _looked_at(run: Run, state: RunState, *, saves: bool = False) -> RunState:
    """Validate, answer prompts and save where the schedule says so, or where the run can't go on."""
    saves = saves or run.schedule.saves(state.step)
    if run.schedule.validates(state.step) or (saves and run.schedule.validates_to_save):
        state = _validated(run, state)
    if run.samples.is_due(state.step, validated=state.is_validated):
        run.trackers.log_samples(run.samples.take(state.step), state.step)
    if saves:
        with run.clock.timed("save"):
            save_checkpoint(run, state)
    return state


def _validated(run: Run, state: RunState) -> RunState:
    """Validate the policy as it is, and tell what was found."""
    with run.clock.timed("validation"), explain_out_of_memory(run.config, "validation"):
        advance = run.report.validating({each.name: each.num_responses for each in run.validation})
        state = state.with_validation(validate(run.training, run.validation, advance))
    _record(run, state, state.validation)
    run.report.validated(state.step, state.validation, [each.name for each in run.validation])
    for warning in run.health.observe_validation(state.step, state.validation):
        run.report.say(warning)
    return state


def _record(run: Run, state: RunState, metrics: Mapping[str, float]) -> None:
    """Write a line of metrics.jsonl, and tell the trackers the same; the one place where metrics leave the loop."""
    line = {"step": state.step, "epoch": state.epoch + 1, **metrics, "timing/elapsed_seconds": run.clock.seconds}
    run.folder.log(line)
    run.trackers.log(line, state.step)


def _must_stop(run: Run, state: RunState) -> bool:
    """Say whether the run has to save and end, on all processes alike, because another step may take too long."""
    if run.clock.limit_seconds is None or state.step == len(run.steps):
        return False
    return bool(of_main(run.clock.must_save()))


def _finished(run: Run, state: RunState, *, is_complete: bool) -> RunResult | None:
    """Save the policy, where the run has come to its end, and say how it went."""
    weights = policy_weights(run.training) if is_complete else {}
    _leave_group(run.accelerator)
    if not run.accelerator.is_main_process:
        return None
    checkpoints = run.checkpoints
    best = checkpoints.finish(state.step, state.comparable) if is_complete else checkpoints.best()
    policy_dir = run.folder.policy_dir if is_complete else checkpoints.policy_dir(state.step)
    if is_complete:
        save_policy(run, weights)
        run.report.finish(run.clock.seconds, policy_dir, best=best if checkpoints.saved else None)
        hub = run.config.hub
        if hub.repo_id is not None:
            run.report.say(f"published: {push(policy_dir, hub.repo_id, private=hub.private)}")
    prefix = "train/"
    return RunResult(
        policy_dir=policy_dir,
        steps=state.step,
        planned_steps=len(run.steps),
        pairs=run.data.num_pairs,
        seconds=run.clock.seconds,
        metrics={name[len(prefix) :]: value for name, value in state.metrics.items() if name.startswith(prefix)},
        validation=dict(state.validation),
        best=best,
        finished=is_complete,
    )


def starts_as_reference(config: TrainConfig) -> bool:
    """Say whether the policy is its own reference at the start."""
    return config.reference_mode != "none" and config.reference.model_name is None


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
