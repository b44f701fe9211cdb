"""`dpo train`: the way from preference pairs to a trained policy, on one process or many.

Run by the command line, or the same command under `accelerate launch` or `torchrun`.
"""

import itertools
import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator

from schemas.errors import StoppedError
from schemas.terminal import path_text
from trainer.checkpoint.identity import refuse_another_finished
from trainer.checkpoint.places import CONFIG_FILE, is_finished
from trainer.config.sections import POLICY_FOLDER, TrainConfig
from trainer.cost.out_of_memory import explain_out_of_memory
from trainer.data.plan import Step
from trainer.run.given import NOTHING, Given
from trainer.run.prepare import Run, prepare
from trainer.run.processes import lost_process
from trainer.run.requests import Asked, StopAsked
from trainer.run.result import RunResult, read_result, remove_result
from trainer.run.signals import Signals, not_begun
from trainer.run.state import RunState, peak_memory_gb
from trainer.run.step import check_first_step, train_step
from trainer.run.together import on_main
from trainer.run.validation import validate
from trainer.save.hub import push
from trainer.save.saving import policy_weights, save_checkpoint, save_policy
from trainer.watch.report import RunReport

SETTLE_SECONDS = 0.5

ROWS_BETWEEN_LOOKS = 16
"""In a validation, after so many rows each time the processes tell one another of signals."""


def train(config: TrainConfig, given: Given = NOTHING, *, signals: Signals | None = None) -> RunResult | None:
    """Train a policy; return the result on the main process, None on the others.

    Who listens for signals while this runs may have them end the run behind the step that it is in.

    Raises:
        InputError: pairs, model or checkpoint can't be read.
        UsageError: model and tokenizer can't serve, or the checkpoint is another run's.
        StoppedError: the run was asked to end early; the main process has a result that says so instead.
        DpoError: nothing to train on, or the training went wrong.
    """
    if is_finished(config):
        return _found_finished(config)
    signals = signals or Signals()
    with lost_process():
        with signals.ending():
            run = prepare(config, given, signals)
            signals.wait_for_step()
        with closing(run.folder), run.trackers, run.page:
            with explain_out_of_memory(run.config, "training"), run.report.live():
                state, asked = _trained(run)
            return _finished(run, state, asked)


def _trained(run: Run) -> tuple[RunState, Asked]:
    """Do the steps that are left; say where the run stands then, and what has ended it before the last."""
    with run.folder.given_back() if run.state.step == 0 else nullcontext():
        state, asked = _looked_at(run, run.state, Asked())
        if asked.stops and state.step == 0:
            raise not_begun(asked.why, begins_again=run.config.checkpointing.resume == "auto")
    for step in run.steps:
        if asked.stops:
            break
        state = _stepped(run, state, step)
        state, asked = _looked_at(run, state, run.requests.agreed())
    return state, asked


def _stepped(run: Run, state: RunState, step: Step) -> RunState:
    """Train on the pairs of a step, and tell its metrics."""
    started = time.perf_counter()
    # Nothing draws random numbers in most models. Where one does, they are a function of seed and step, so that a
    # resumed run draws the same.
    torch.manual_seed(run.config.dpo.seed + state.step * run.accelerator.num_processes + run.accelerator.process_index)
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
    warnings = run.health.observe(state.step, found)
    for warning in warnings:
        run.report.say(warning)
    if warnings:
        run.page.note_health()
    return state


def _looked_at(run: Run, state: RunState, asked: Asked) -> tuple[RunState, Asked]:
    """Validate, answer prompts and save where the schedule says so, or where the run was asked to.

    A run that is asked to stop may have little time, so it saves at once; it validates when it is gone on with.
    """
    if not asked.stops:
        try:
            state = _judged(run, state, saves=asked.saves or run.schedule.saves(state.step))
        except StopAsked:
            asked = run.requests.agreed(looks=False)  # by the signal alone, which is told where there is no step yet
    is_last = state.step == run.schedule.num_steps
    is_whole = state.is_validated or not run.schedule.validates(state.step)
    is_branch = state.step == run.state.step > 0 and run.schedule.save_period > 0  # of a run in another folder
    if (asked.saves and not (is_last and is_whole)) or run.schedule.saves(state.step) or is_branch:
        _save(run, state)
    if asked.saves:
        run.requests.answered()
    if is_last and is_whole:
        asked = Asked()  # there is nothing left to go on with
    return state, asked


def _judged(run: Run, state: RunState, *, saves: bool) -> RunState:
    """Validate the policy and let it answer prompts, where that is due and not done.

    Raises:
        StopAsked: the run was asked to stop meanwhile.
    """
    schedule = run.schedule
    is_due = schedule.validates(state.step) or (saves and schedule.validates_to_save)
    if is_due and not state.is_validated:
        state = _validated(run, state)
        run.checkpoints.compare(run.checkpoints.standing_of(state.step, state.comparable))
    if state.sampled_at != state.step and run.samples.is_due(state.step, validated=state.is_validated):
        run.trackers.log_samples(run.samples.take(state.step), state.step)
        state = state.with_samples()
    if state.step > run.state.step and state.is_validated:  # before the first step there is nothing to see
        run.page.update()
    return state


def _save(run: Run, state: RunState) -> None:
    """Save a checkpoint, unless it is there because the run was gone on with from it."""
    if state.step == run.state.step and (run.is_saved or state.step == 0):
        return
    with run.clock.timed("save"):
        save_checkpoint(run, state)
    if not run.schedule.saves(state.step):
        run.report.say(f"saved, as asked: {path_text(run.checkpoints.folder_of(state.step))}")
    run.page.update()


def _validated(run: Run, state: RunState) -> RunState:
    """Validate the policy as it is, and tell what was found."""
    with run.clock.timed("validation"), explain_out_of_memory(run.config, "validation"):
        shown = run.report.validating({each.name: each.num_responses for each in run.validation})
        state = state.with_validation(validate(run.training, run.validation, _interruptible(run, shown)))
    _record(run, state, state.validation)
    run.report.validated(state.step, state.validation, [each.name for each in run.validation])
    for warning in run.health.observe_validation(state.step, state.validation):
        run.report.say(warning)
    return state


def _interruptible(run: Run, advance: Callable[[str, int], None]) -> Callable[[str, int], None]:
    """Let a long validation be ended by a signal, on all processes behind the same row."""
    rows = itertools.count(1)

    def passed(name: str, amount: int) -> None:
        if next(rows) % ROWS_BETWEEN_LOOKS == 0 and run.requests.agreed(looks=False).stops:
            raise StopAsked
        advance(name, amount)

    return passed


def _record(run: Run, state: RunState, metrics: Mapping[str, float]) -> None:
    """Write a line of metrics.jsonl, and tell the trackers the same; the one place where metrics leave the loop."""
    line = {"step": state.step, "epoch": state.epoch + 1, **metrics, "timing/elapsed_seconds": run.clock.seconds}
    run.folder.log(line)
    run.trackers.log(line, state.step)


def _finished(run: Run, state: RunState, asked: Asked) -> RunResult | None:
    """Save the policy, where the run has come to its end, and say how it went."""
    is_complete = not asked.stops
    result = on_main(run.accelerator, lambda: _result(run, state, asked))
    if is_complete:
        run.requests.answered()  # what came too late to be followed
        weights = policy_weights(run.training)
        on_main(run.accelerator, lambda: _save_result(run, result, weights))
    _leave_group(run.accelerator)
    if not run.accelerator.is_main_process:
        if is_complete:
            return None
        error = StoppedError(result.shortfall)
        error.is_told_elsewhere = True
        raise error
    if not is_complete:
        run.page.end("stopped", f"by {result.stopped_by}")
        return result
    run.report.finish(run.clock.seconds, result.policy_dir, best=result.best if run.checkpoints.saved else None)
    run.page.end("finished")
    return _published(run.config, result, say=run.report.say)


def _result(run: Run, state: RunState, asked: Asked) -> RunResult:
    """Sum a run up, on the main process."""
    checkpoints, is_complete = run.checkpoints, not asked.stops
    best = checkpoints.finish(state.step, state.comparable) if is_complete else checkpoints.best()
    prefix = "train/"
    return RunResult(
        policy_dir=run.folder.policy_dir if is_complete else checkpoints.policy_dir(state.step),
        steps=state.step,
        planned_steps=run.schedule.num_steps,
        pairs=run.data.num_pairs,
        seconds=run.clock.seconds,
        metrics={name[len(prefix) :]: value for name, value in state.metrics.items() if name.startswith(prefix)},
        validation=dict(state.validation),
        best=best,
        finished=is_complete,
        stopped_by=asked.why,
    )


def _save_result(run: Run, result: RunResult, weights: dict[str, Any]) -> None:
    """Save result and policy; the policy comes last, for where it is the run is finished."""
    result.write(run.folder.path)
    try:
        save_policy(run, weights)
    except BaseException:
        remove_result(run.folder.path)
        raise


def _found_finished(config: TrainConfig) -> RunResult | None:
    """Give the result of a run that has come to its end before."""
    if int(os.environ.get("RANK", "0")):
        return None
    report = RunReport(num_steps=0, shown=True)
    policy_dir = config.output_dir / POLICY_FOLDER
    result = read_result(config.output_dir, policy_dir)
    saved = json.loads((policy_dir / CONFIG_FILE).read_text(encoding="utf-8"))
    refuse_another_finished(saved, config)
    report.say(f"resume: the run is finished; the policy is in {path_text(policy_dir)}")
    return _published(config, result, say=report.say)


def _published(config: TrainConfig, result: RunResult, *, say: Callable[[str], None]) -> RunResult:
    """Publish the policy where that is wanted and not done."""
    hub = config.hub
    if hub.repo_id is None or result.published is not None:
        return result
    result = replace(result, published=push(result.policy_dir, hub.repo_id, private=hub.private))
    say(f"published: {result.published}")
    result.write(config.output_dir)
    return result


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
