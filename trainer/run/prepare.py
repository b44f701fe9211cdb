"""Everything before the first step: pairs, model, plan, folder, and what a step, a validation and a save work with."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator

from trainer.checkpoint.checkpoints import Checkpoints
from trainer.config.sections import TrainConfig
from trainer.cost.out_of_memory import explain_out_of_memory
from trainer.data.plan import Step
from trainer.data.tokenize import TokenizedPairs, end_of_turn_ids
from trainer.model.lora import add_lora
from trainer.model.policy import disable_dropout, load_policy
from trainer.model.quantized import load_kwargs
from trainer.run.clock import RunClock
from trainer.run.given import NOTHING, Given
from trainer.run.schedule import Schedule, schedule_of
from trainer.run.setup import set_up
from trainer.run.start import load_groups, plan, start_accelerator, tokenize
from trainer.run.state import policy_bytes
from trainer.run.training import Training
from trainer.run.validation import ValidationData, ValidationSet, leak_notes, load_validation, validation_sets
from trainer.save.run_folder import SAMPLES_FILE, RunFolder
from trainer.watch.health import Health, start_health
from trainer.watch.known_metrics import refuse_unknown_metric
from trainer.watch.report import RunReport
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
    steps: Sequence[Step]
    training: Training
    validation: Sequence[ValidationSet]
    schedule: Schedule
    checkpoints: Checkpoints
    folder: RunFolder
    report: RunReport
    trackers: Trackers
    samples: Samples
    health: Health
    clock: RunClock


@dataclass(frozen=True)
class _Inputs:
    """What a run reads."""

    model: Any  # with its adapters, where it has some
    tokenizer: Any
    data: TokenizedPairs
    held_out: Sequence[ValidationData]
    num_bytes: int  # of the policy as it is saved

    @property
    def notes(self) -> Iterator[str]:
        """Give what was met while the pairs were read, and what is in training and validation both."""
        yield from self.data.notes
        for each in self.held_out:
            yield from each.notes
        yield from leak_notes(self.data.groups, self.held_out)


def prepare(config: TrainConfig, given: Given = NOTHING) -> Run:
    """Load what is not given, tokenise, plan and set up.

    Raises:
        InputError: pairs or model can't be read.
        UsageError: model and tokenizer can't serve, or an option does not fit them.
        DpoError: nothing to train on, or the set-up went wrong.
    """
    clock = RunClock(config.checkpointing.must_save_by)
    accelerator, config = start_accelerator(config)
    is_main = accelerator.is_main_process
    checkpoints = Checkpoints(config)
    if is_main:
        checkpoints.refuse_unfit_folder()
    inputs = _read(config, given, shown=is_main)
    model, tokenizer, data, held_out = inputs.model, inputs.tokenizer, inputs.data, inputs.held_out
    clock.expect_save_of(inputs.num_bytes)
    steps = plan(config, data)
    schedule = schedule_of(config, len(steps))
    folder = RunFolder(config.output_dir, writes=is_main)
    folder.create(config)
    report = RunReport(num_steps=len(steps), shown=is_main)
    report.start(config, data, num_processes=accelerator.num_processes)
    report.held_out(held_out, schedule)
    report.saving(checkpoints, schedule, inputs.num_bytes)
    for note in inputs.notes:
        report.say(note)
    with folder.given_back(), explain_out_of_memory(config, "reference"):
        others = [each.data.groups for each in held_out]
        training = set_up(config, accelerator, model, data, steps, validation=others, say=report.say)
        sets = validation_sets(config, training, held_out)
        refuse_unknown_metric(checkpoints.metric, training, sets, steps[0])
    return Run(
        config=config,
        accelerator=accelerator,
        model=model,
        tokenizer=tokenizer,
        data=data,
        steps=steps,
        training=training,
        validation=sets,
        schedule=schedule,
        checkpoints=checkpoints,
        folder=folder,
        report=report,
        trackers=start_trackers(config, folder.path, is_main=is_main, say=report.say),
        samples=start_samples(
            config,
            accelerator,
            training.scorer,
            tokenizer,
            end_ids=end_of_turn_ids(tokenizer, model.generation_config),
            sets={each.name: each.packer.groups for each in sets},
            training=data.groups,
            path=folder.path / SAMPLES_FILE,
            say=report.say,
        ),
        health=start_health(config, num_steps=len(steps), steps_in_epoch=sum(step.epoch == 0 for step in steps)),
        clock=clock,
    )


def _read(config: TrainConfig, given: Given, *, shown: bool) -> _Inputs:
    """Read and tokenise the pairs, and load the model."""
    groups = given.train or load_groups(config.data.train, shown=shown)
    model, tokenizer = _load(config, given)
    data = tokenize(config, groups, model, tokenizer, shown=shown)
    held_out = load_validation(config, model, tokenizer, given=given.validation, shown=shown)
    num_bytes = policy_bytes(model)
    if config.policy.lora.rank:
        model = add_lora(model, config.policy.lora)
    return _Inputs(model, tokenizer, data, held_out, num_bytes)


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
