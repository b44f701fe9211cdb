"""Saving: during the run a checkpoint, by all processes together, and at its end the policy."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from schemas.errors import DpoError
from schemas.terminal import path_text, reason
from trainer.checkpoint.checkpoints import INFO_FILE
from trainer.checkpoint.manifest import write_manifest
from trainer.checkpoint.places import STATE_FOLDER
from trainer.checkpoint.record import Record
from trainer.checkpoint.retention import Standing
from trainer.checkpoint.tensors import Numbers, numbers_of, write_tensors
from trainer.config.sections import POLICY_FOLDER
from trainer.model.merged import save_weights
from trainer.model.sharded import full_weights, is_sharded
from trainer.model.zero import gathered_weights, zero_stage
from trainer.run.prepare import Run
from trainer.run.state import RunState
from trainer.run.together import on_main, together
from trainer.run.training import Training
from trainer.save.card import write_run_card
from trainer.save.card_data import PairCounts
from trainer.save.run_folder import config_text, write_config
from trainer.save.whole_folder import name_folder, remove_folder, sync_tree, unfinished_folder


def policy_weights(training: Training) -> dict[str, Any]:
    """Give the policy's weights by their own names; on all processes, because sharded weights are gathered.

    Of sharded ones the main process alone has a copy, in the memory of the CPU, and the others have nothing.
    """
    accelerator, scorer = training.accelerator, training.scorer
    if is_sharded(accelerator):
        weights = full_weights(scorer, keeps=accelerator.is_main_process)
    elif zero_stage(accelerator):
        weights = gathered_weights(scorer.module, keeps=accelerator.is_main_process)
    else:
        weights = accelerator.get_state_dict(scorer)
    return {name.removeprefix("model."): value for name, value in weights.items()}


def save_checkpoint(run: Run, state: RunState) -> None:
    """Save a checkpoint; where that fails on one process, all of them end.

    Each process writes what it holds; the main one adds the policy, and the manifest when all is there.

    Raises:
        DpoError: it can't be written, and nothing of it is left; or it is there, and older ones can't be removed.
    """
    accelerator, checkpoints = run.accelerator, run.checkpoints
    target = checkpoints.folder_of(state.step)
    unfinished = unfinished_folder(target)
    standing = checkpoints.standing_of(state.step, state.comparable)
    numbers = numbers_of(run.training)
    weights = policy_weights(run.training)
    try:
        on_main(accelerator, partial(_writing, target, partial(_begin, unfinished)))
        together(accelerator, partial(_writing, target, partial(_write_state, run, unfinished)))
        on_main(
            accelerator,
            partial(_writing, target, partial(_write_rest, run, unfinished, state, standing, weights, numbers)),
        )
        on_main(accelerator, partial(_writing, target, partial(_finish, target)))
        on_main(accelerator, partial(_writing, checkpoints.folder, partial(checkpoints.add, standing)))
    except DpoError as error:
        if accelerator.is_main_process:
            shutil.rmtree(unfinished, ignore_errors=True)
        told = type(error)(
            f"{error}; make room, keep fewer with checkpointing.keep_top_k (now {checkpoints.options.keep_top_k}), or "
            "save none on the way with checkpointing.enabled=false; --resume auto goes on from the last whole one"
        )
        told.is_told_elsewhere = error.is_told_elsewhere
        raise told from error


def save_policy(run: Run, weights: dict[str, Any]) -> None:
    """Save the run's policy, on the main process.

    Raises:
        DpoError: it can't be written.
    """
    run.folder.save_policy(lambda folder: _write_policy(run, folder, weights))


def _writing(target: Path, write: Any) -> None:
    """Write a part of a checkpoint; whatever a library raises is told as what it means."""
    try:
        write()
    except DpoError:
        raise
    except Exception as error:  # safetensors and tokenizers raise their own for a full disk
        raise DpoError(f"{path_text(target)}: can't be written: {reason(error)}") from error


def _begin(unfinished: Path) -> None:
    shutil.rmtree(unfinished, ignore_errors=True)  # of a run that was killed here
    (unfinished / STATE_FOLDER).mkdir(parents=True)


def _write_state(run: Run, unfinished: Path) -> None:
    folder = unfinished / STATE_FOLDER
    if not folder.is_dir():
        raise DpoError(
            f"{path_text(folder)}: is not seen here; the run's folder must lie on a file system that all nodes share"
        )
    write_tensors(run.training, folder)


def _write_rest(
    run: Run, unfinished: Path, state: RunState, standing: Standing, weights: dict[str, Any], numbers: Numbers
) -> None:
    policy = unfinished / POLICY_FOLDER
    policy.mkdir()
    _write_policy(run, policy, weights, last_step=state.step)
    write_config(run.config, unfinished)
    known = {} if standing.value is None else {str(run.checkpoints.metric): standing.value}
    info = json.dumps({**state.training_info(), **known}, indent=2) + "\n"
    (unfinished / INFO_FILE).write_text(info, encoding="utf-8")
    standings = (*(each for each in run.checkpoints.saved if each.step != state.step), standing)
    record = Record(
        state=state,
        seconds=run.clock.seconds,
        metric=run.checkpoints.metric_text,
        standings=standings,
        log_bytes=run.folder.log_bytes(),
        numbers=numbers,
    )
    record.write(unfinished)
    write_manifest(
        unfinished,
        step=state.step,
        num_processes=run.accelerator.num_processes,
        config_json=config_text(run.config),
        identity=run.identity,
    )


def _finish(target: Path) -> None:
    """Bring all to the disk and give it its name; a damaged checkpoint of that name goes."""
    unfinished = unfinished_folder(target)
    sync_tree(unfinished)
    if target.exists():
        remove_folder(target)
    name_folder(unfinished, target)


def _write_policy(run: Run, folder: Path, weights: dict[str, Any], *, last_step: int | None = None) -> None:
    """Write what `from_pretrained` loads, the configuration and the model card; the model itself stays as it is."""
    save_weights(run.model, folder, weights, save=run.config.policy.lora.save)
    run.tokenizer.save_pretrained(folder)
    write_config(run.config, folder)
    counts, verdicts = PairCounts.of(run.data), run.health.verdicts()
    write_run_card(folder, run.config, counts=counts, verdicts=verdicts, last_step=last_step)
