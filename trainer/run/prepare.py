"""Everything before the first step: pairs, model, plan, folder, and what a step, a validation and a save work with."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator

from schemas.errors import UsageError
from schemas.terminal import path_text
from trainer.checkpoint.checkpoints import Checkpoints
from trainer.checkpoint.identity import identity_of
from trainer.checkpoint.places import is_finished, is_run
from trainer.checkpoint.resume import ResumePoint, find_resume_point, settle
from trainer.checkpoint.tensors import read_tensors
from trainer.config.sections import TrainConfig
from trainer.cost.out_of_memory import explain_out_of_memory
from trainer.data.digest import data_digest
from trainer.data.plan import Step
from trainer.data.tokenize import TokenizedPairs, end_of_turn_ids
from trainer.model.lora import add_lora
from trainer.model.policy import disable_dropout, load_policy
from trainer.model.quantized import load_kwargs
from trainer.run.clock import RunClock
from trainer.run.given import Given
from trainer.run.processes import refuse_different
from trainer.run.requests import Requests
from trainer.run.schedule import Schedule, schedule_of
from trainer.run.setup import set_up
from trainer.run.signals import Signals
from trainer.run.start import load_groups, plan, start_accelerator, steps_in_epoch, tokenize
from trainer.run.state import RunState, policy_bytes, state_bytes
from trainer.run.together import of_main, on_main, together
from trainer.run.training import Training
from trainer.run.validation import ValidationData, ValidationSet, leak_notes, load_validation, validation_sets
from trainer.save.run_folder import SAMPLES_FILE, RunFolder
from trainer.watch.health import Health, start_health
from trainer.watch.known_metrics import refuse_unknown_metric
from trainer.watch.report import RunReport
from trainer.watch.run_facts import TRAINING, data_facts
from trainer.watch.run_page import RunPage, start_page
from trainer.watch.samples import Samples, start_samples
from trainer.watch.trackers import Trackers, start_trackers


@dataclass(frozen=True)
class Run:
    """A run that is set up; the same objects from its first step to its last."""

    config: TrainConfig  # with the precision of this machine
    accelerator: Accelerator
    model: Any  # the policy, with its adapters where it has some, as it is trained
    tokenizer: Any
    data: TokenizedPairs
    steps: Sequence[Step]  # that are to be done; a resumed run has done others
    training: Training
    validation: Sequence[ValidationSet]
    schedule: Schedule
    checkpoints: Checkpoints
    folder: RunFolder
    report: RunReport
    trackers: Trackers
    samples: Samples
    health: Health
    page: RunPage
    clock: RunClock
    requests: Requests
    identity: Mapping[str, str]  # digests of what a resume must find again
    state: RunState  # where the run stands before its first step here
    is_saved: bool  # whether its folder has a checkpoint of that state


@dataclass(frozen=True)
class _Inputs:
    """What a run reads."""

    model: Any  # with its adapters, where it has some
    tokenizer: Any
    data: TokenizedPairs
    held_out: Sequence[ValidationData]
    num_bytes: int  # of the policy as it is saved
    num_state_bytes: int  # of what a checkpoint has beside it

    @property
    def notes(self) -> Iterator[str]:
        """Give what was met while the pairs were read, and what is in training and validation both."""
        yield from self.data.notes
        for each in self.held_out:
            yield from each.notes
        yield from leak_notes(self.data.groups, self.held_out)


def prepare(config: TrainConfig, given: Given, signals: Signals) -> Run:
    """Load what is not given, tokenise, plan and set up; go on from a checkpoint where the configuration says so.

    Raises:
        InputError: pairs, model or checkpoint can't be read.
        UsageError: model and tokenizer can't serve, an option does not fit them, or the checkpoint is another run's.
        DpoError: nothing to train on, or the set-up went wrong.
    """
    clock = RunClock(config.checkpointing.must_save_by)
    accelerator, config = start_accelerator(config)
    # runs/<time> is of another time on each process
    config = config.model_copy(update={"output_dir": of_main(accelerator, config.output_dir)})
    folder = RunFolder(config.output_dir, writes=accelerator.is_main_process)
    with folder.closed_on_failure():
        return _prepared(config, given, signals, clock=clock, accelerator=accelerator, folder=folder)


def _prepared(
    config: TrainConfig,
    given: Given,
    signals: Signals,
    *,
    clock: RunClock,
    accelerator: Accelerator,
    folder: RunFolder,
) -> Run:
    """Do that in a folder that is closed where it fails."""
    is_main, num_processes = accelerator.is_main_process, accelerator.num_processes
    checkpoints = Checkpoints(config)
    point, found = on_main(accelerator, lambda: _resume_point(config, checkpoints, folder))
    done = RunState() if point is None else point.record.state
    inputs = together(accelerator, lambda: _read(config, given, shown=is_main))
    model, data, held_out = inputs.model, inputs.data, inputs.held_out
    digest = data_digest(data.groups)
    digests = {"pairs": digest, **{f"pairs of {each.name}": data_digest(each.data.groups) for each in held_out}}
    refuse_different(accelerator, {**digests, "model configuration": str(model.config.to_dict())})
    identity: dict[str, str] = {}

    def identified(start: str, reference: str | None) -> None:
        identity.update(identity_of(config, data=digest, model=start, reference=reference))
        if point is not None:
            notes = on_main(accelerator, lambda: settle(point, config, identity, num_processes=num_processes))
            for note in notes:
                report.say(note)

    steps = plan(config, data, steps_done=done.step, consumed_samples=done.consumed_samples)
    num_steps = done.step + len(steps)
    schedule = schedule_of(config, num_steps)
    clock.expect_save_of(inputs.num_bytes + inputs.num_state_bytes)
    report = RunReport(num_steps=num_steps, shown=is_main)
    if point is None:
        together(accelerator, lambda: folder.create(config))
    _tell(report, config, inputs, checkpoints, schedule, found=found, num_processes=num_processes)
    with folder.given_back() if point is None else nullcontext(), explain_out_of_memory(config, "reference"):
        others = [each.data.groups for each in held_out]
        training = set_up(
            config,
            accelerator,
            model,
            data,
            steps,
            validation=others,
            steps_done=done.step,
            say=report.say,
            identified=identified,
        )
        sets = validation_sets(config, training, held_out)
        refuse_unknown_metric(checkpoints.metric, training, sets, steps)
    signals.say = report.say
    health = start_health(config, num_steps=num_steps, steps_in_epoch=min(num_steps, steps_in_epoch(config, data)))
    if point is not None:
        together(accelerator, lambda: read_tensors(training, point.tensors, point.record.numbers))
        for note in on_main(accelerator, lambda: _take_up(point, config, folder, checkpoints, health)):
            report.say(note)
        clock.seconds_before = point.record.seconds
    page = start_page(folder.path, health, is_enabled=config.logger.report_enabled, is_main=is_main, say=report.say)
    page.begin(
        lambda: _facts(config, inputs, digests, num_steps=num_steps, num_processes=num_processes),
        steps_done=done.step,
    )
    return Run(
        config=config,
        accelerator=accelerator,
        model=model,
        tokenizer=inputs.tokenizer,
        data=data,
        steps=steps,
        training=training,
        validation=sets,
        schedule=schedule,
        checkpoints=checkpoints,
        folder=folder,
        report=report,
        trackers=start_trackers(config, folder.path, is_main=is_main, resumed_at=done.step, say=report.say),
        samples=start_samples(
            config,
            accelerator,
            training.scorer,
            inputs.tokenizer,
            end_ids=end_of_turn_ids(inputs.tokenizer, model.generation_config),
            sets={each.name: each.packer.groups for each in sets},
            training=data.groups,
            path=folder.path / SAMPLES_FILE,
            say=report.say,
        ),
        health=health,
        page=page,
        clock=clock,
        requests=Requests(folder.path, clock, accelerator, signals, report.say),
        identity=identity,
        state=done,
        is_saved=point is not None
        and os.path.realpath(point.folder) == os.path.realpath(checkpoints.folder_of(done.step)),
    )


def _resume_point(
    config: TrainConfig, checkpoints: Checkpoints, folder: RunFolder
) -> tuple[ResumePoint | None, Sequence[str]]:
    """Look where the run goes on, on the main process, and clear away what an attempt without checkpoint has left.

    Beside the checkpoint comes what is to be told of that.
    """
    if config.checkpointing.resume != "never":
        folder.take()  # before anything is looked at, which another run might change
    if is_finished(config):
        raise UsageError(f"{path_text(config.output_dir)}: another run has just finished there")
    point = find_resume_point(config)
    notes = [] if point is None else list(point.notes)
    if point is None and config.checkpointing.resume == "auto":
        if is_run(config.output_dir):
            notes.append(f"resume: {path_text(config.output_dir)} has no checkpoint yet, so the run begins again")
        folder.start_over(checkpoints.folder)
    checkpoints.refuse_unfit_folder()
    return point, notes


def _tell(
    report: RunReport,
    config: TrainConfig,
    inputs: _Inputs,
    checkpoints: Checkpoints,
    schedule: Schedule,
    *,
    found: Sequence[str],
    num_processes: int,
) -> None:
    """Say what is trained on, and what was met on the way to it."""
    for note in found:
        report.say(note)
    report.start(config, inputs.data, num_processes=num_processes)
    report.held_out(inputs.held_out, schedule)
    report.saving(checkpoints, schedule, policy=inputs.num_bytes, state=inputs.num_state_bytes)
    for note in inputs.notes:
        report.say(note)


def _take_up(
    point: ResumePoint, config: TrainConfig, folder: RunFolder, checkpoints: Checkpoints, health: Health
) -> list[str]:
    """Make the folder what it was when the checkpoint was saved, and know what the run knew of its steps then; give
    what is to be told of that."""
    notes = folder.resume(config, point.run_folder, point.record.log_bytes)
    for line in folder.lines():
        health.recall(line)
    return notes + checkpoints.take_up(point.record)


def _facts(
    config: TrainConfig, inputs: _Inputs, digests: Mapping[str, str], *, num_steps: int, num_processes: int
) -> dict[str, Any]:
    """Say what is trained on what."""
    sets = config.data.validation_sets
    return {
        "planned_steps": num_steps,
        "num_processes": num_processes,
        "data": [
            data_facts(TRAINING, inputs.data, digests["pairs"], config.data.train),
            *(
                data_facts(each.name, each.data, digests[f"pairs of {each.name}"], [sets[each.name]])
                for each in inputs.held_out
            ),
        ],
    }


def _read(config: TrainConfig, given: Given, *, shown: bool) -> _Inputs:
    """Read and tokenise the pairs, and load the model."""
    groups = given.train or load_groups(config.data.train, shown=shown)
    model, tokenizer = _load(config, given)
    data = tokenize(config, groups, model, tokenizer, shown=shown)
    held_out = load_validation(config, model, tokenizer, given=given.validation, shown=shown)
    num_bytes = policy_bytes(model)
    if config.policy.lora.rank:
        model = add_lora(model, config.policy.lora)
    return _Inputs(model, tokenizer, data, held_out, num_bytes, state_bytes(model, config.policy.optimizer.name))


def _load(config: TrainConfig, given: Given) -> tuple[Any, Any]:
    """Load model and tokenizer as the configuration says."""
    policy = config.policy
    if given.model is not None:
        disable_dropout(given.model)
        return given.model, given.tokenizer
    return load_policy(
        policy.model_name,
        tokenizer=policy.tokenizer,
        overrides=policy.hf_config_overrides,
        load_kwargs=load_kwargs(policy.lora, policy.precision),
    )
