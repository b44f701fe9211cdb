"""`dpo train --dry-run`: what a run would do and take, from the pairs and the model's configuration alone.

The pairs are tokenised, the steps planned and the rows of an epoch packed by the code that trains; no weight is loaded
and nothing is written.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from typing import Any

import torch
from accelerate import Accelerator

from schemas.terminal import counted, printable, progress, stderr_console
from trainer.checkpoint.checkpoints import Checkpoints, most_bytes
from trainer.config.sections import TrainConfig
from trainer.cost.memory import MemoryEstimate, RowShape, estimate_memory
from trainer.cost.out_of_memory import remedies
from trainer.cost.shares import shared_memory
from trainer.cost.throughput import Work, work_of
from trainer.data.plan import Step
from trainer.data.tokenize import TokenizedPairs
from trainer.launch.number import planned_processes
from trainer.loss.objective import objective_of
from trainer.model.attention import Attention, Backend, choose_attention
from trainer.model.batch import num_trained
from trainer.model.lora import add_lora
from trainer.model.packing import Layout, Packer, Row
from trainer.model.policy import load_shape
from trainer.model.segments import row_segments
from trainer.run.schedule import Schedule, schedule_of
from trainer.run.start import load_groups, plan, start_accelerator, tokenize
from trainer.run.state import policy_bytes, state_bytes
from trainer.run.validation import ValidationData, leak_notes, load_validation
from trainer.watch.report import RunReport

PARTS = {
    "weights": "weights",
    "copies": "their copies in bfloat16",
    "gradients": "gradients, float32",
    "optimizer": "optimizer",
    "activations": "activations of the largest row",
    "head": "the head's tiles and gradients, or one layer's backward pass",
    "reference": "reference model",
    "total": "total",
}
"""What each part of the memory estimate is called."""


@dataclass(frozen=True)
class Packed:
    """The rows of some steps, counted."""

    steps: int
    rows: int  # of one process, all steps together
    most_rows: int  # of one process in a step
    work: Work
    largest: RowShape  # as large as the largest row of a step in each respect


@dataclass(frozen=True)
class DryRun:
    """What a run would do and take."""

    config: TrainConfig  # with the precision of this machine
    data: TokenizedPairs
    validation: Sequence[ValidationData]
    schedule: Schedule
    num_processes: int
    device: str
    attention: Attention
    reason: str  # why this attention
    packed: Packed  # the first epoch
    memory: MemoryEstimate
    gpu_memory: int | None  # of the device, in bytes; None on a CPU
    policy_bytes: int  # of a saved policy
    state_bytes: int  # of what a checkpoint has beside it, to go on from

    @property
    def steps(self) -> int:
        """Count the optimizer steps of the whole run."""
        return self.schedule.num_steps

    @property
    def disk_bytes(self) -> int:
        """Give the most that checkpoints and policy take at once."""
        number, options = self.schedule.num_checkpoints, self.config.checkpointing
        return most_bytes(number, options, policy=self.policy_bytes, state=self.state_bytes)

    def as_dict(self) -> dict[str, object]:
        """Give the plan as JSON types; docs/training.md explains the keys."""
        packed = self.packed
        return {
            **_counts(self.data),
            "validation": {each.name: _counts(each.data) for each in self.validation},
            "steps": self.steps,
            "validations": self.schedule.num_validations,
            "checkpoints": self.schedule.num_checkpoints,
            "disk": self.disk_bytes,
            "processes": self.num_processes,
            "device": self.device,
            "precision": self.config.policy.precision,
            "attention": {"backend": str(self.attention.backend), "reason": self.reason},
            "counted_steps": packed.steps,
            "rows_per_step": {"mean": packed.rows / packed.steps, "max": packed.most_rows},
            "tokens": asdict(packed.work),
            "dedup_factor": packed.work.dedup_factor,
            "sharing_factor": packed.work.sharing_factor,
            "largest_row_tokens": packed.largest.tokens,
            "memory": self.memory.as_dict(),
            "gpu_memory": self.gpu_memory,
        }

    def show(self) -> None:
        """Print the plan for people, on stderr."""
        report = RunReport(num_steps=self.steps, shown=True)
        report.start(self.config, self.data, num_processes=self.num_processes)
        report.held_out(self.validation, self.schedule)
        report.saving(Checkpoints(self.config), self.schedule, policy=self.policy_bytes, state=self.state_bytes)
        for note in leak_notes(self.data.groups, self.validation):
            report.say(note)
        console = stderr_console()
        for line in [*self._work_lines(), *self._memory_lines(), "dry run: nothing was trained or written"]:
            console.print(printable(line), soft_wrap=True)

    def _work_lines(self) -> list[str]:
        packed, work = self.packed, self.packed.work
        return [
            f"rows of at most {self.config.policy.row_tokens:,} tokens: {packed.rows / packed.steps:.1f} in a step on "
            f"each process, at most {packed.most_rows:,}",
            f"{work.tokens:,} tokens in an epoch of {counted(packed.steps, 'step')}, {work.trained_tokens:,} of them "
            "trained on",
            f"pair by pair it would be {work.pair_tokens:,} tokens: {work.dedup_factor:.2f} times for responses in "
            f"several pairs, {work.sharing_factor:.2f} times for shared prompts",
            f"attention {self.attention.backend}: {self.reason}",
            f"disk: {_gigabytes(self.disk_bytes)}, for the policy of {_gigabytes(self.policy_bytes)}"
            f"{' and its checkpoints' if self.schedule.num_checkpoints else ''}",
        ]

    def _memory_lines(self) -> list[str]:
        parts = {PARTS[name]: amount for name, amount in self.memory.as_dict().items() if amount}
        width = max(map(len, parts))
        lines = [f"memory of one process on {self.device}, estimated:"]
        lines += [f"  {part:<{width}}  {_gigabytes(amount):>10}" for part, amount in parts.items()]
        if self.gpu_memory is not None:
            lines.append(f"  {'the GPU has':<{width}}  {_gigabytes(self.gpu_memory):>10}")
            if self.memory.total > self.gpu_memory:
                helps = "; ".join(remedies(self.config, "training", has_gpu=True))
                lines.append(f"that does not fit; what helps, the most useful first: {helps}")
        return lines


def dry_run(config: TrainConfig) -> DryRun | None:
    """Plan a run; return the plan on the main process, None on the others.

    Raises:
        InputError: pairs, tokenizer or the model's configuration can't be read.
        UsageError: model and tokenizer can't serve.
        DpoError: no pair is left to train on.
    """
    accelerator, config = start_accelerator(config)
    try:
        return _plan(config, accelerator) if accelerator.is_main_process else None
    finally:
        accelerator.end_training()


def _plan(config: TrainConfig, accelerator: Accelerator) -> DryRun:
    groups = load_groups(config.data.train, shown=True)
    model, tokenizer = load_shape(
        config.policy.model_name, tokenizer=config.policy.tokenizer, overrides=config.policy.hf_config_overrides
    )
    data = tokenize(config, groups, model, tokenizer, shown=True)
    validation = load_validation(config, model, tokenizer, shown=True)
    objective_of(config, data.groups, validation=[group for each in validation for group in each.data.groups])
    num_bytes = policy_bytes(model)
    if config.policy.lora.rank:
        with torch.device("meta"):
            model = add_lora(model, config.policy.lora)
    steps = plan(config, data)
    device = accelerator.device
    attention = choose_attention(model, config.policy.attention, device)
    packer = Packer(data.groups, attention.layout, config.policy.row_tokens)
    first_epoch = [step for step in steps if step.epoch == 0]
    num_processes = planned_processes(config)
    packed = pack_steps(first_epoch, packer, pads_to=attention.pads_to, num_processes=num_processes)
    memory = estimate_memory(model, config, attention, packed.largest, reference=_second_model(config))
    return DryRun(
        config=config,
        data=data,
        validation=validation,
        schedule=schedule_of(config, len(steps)),
        num_processes=num_processes,
        device=device.type,
        attention=attention,
        reason=_reason(config, attention, device),
        packed=packed,
        memory=shared_memory(memory, model, config, num_processes),
        gpu_memory=torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None,
        policy_bytes=num_bytes,
        state_bytes=state_bytes(model, config.policy.optimizer.name),
    )


def pack_steps(steps: Sequence[Step], packer: Packer, *, pads_to: int, num_processes: int) -> Packed:
    """Pack the rows of steps, as training does, and count them."""
    works: list[Work] = []
    numbers: list[int] = []
    shapes: list[RowShape] = []
    with progress("packing", total=len(steps), unit="steps") as advance:
        for step in steps:
            rows = packer.rows(step.responses(packer.groups), num_processes=num_processes)
            works.append(work_of(step.pairs, rows, packer))
            numbers.append(len(rows) // num_processes)
            shapes.append(row_shape(rows[0], packer, pads_to))  # the first is the largest
            advance(1)
    return Packed(
        len(steps), sum(numbers), max(numbers), reduce(Work.__add__, works), reduce(RowShape.covering, shapes)
    )


def row_shape(row: Row, packer: Packer, pads_to: int) -> RowShape:
    """Measure what decides about the memory of a row."""
    groups = packer.groups
    trained = sum(num_trained(groups[ref.group], ref.response) for ref in row.refs())
    if packer.layout is Layout.TREE:
        return RowShape.of(row_segments(row, groups).padded(pads_to), trained)
    sizes = [packer.size(fragment) for fragment in row.fragments]
    return RowShape.of_sequences(len(row.refs()), max(size.longest for size in sizes), trained)


def _counts(data: TokenizedPairs) -> dict[str, object]:
    """Count the pairs of a set, what they are made of, and those that are not used."""
    return {
        "pairs": data.num_pairs,
        "responses": sum(len(group.responses) for group in data.groups),
        "prompts": len(data.groups),
        "dropped": {str(reason): count for reason, count in data.dropped.items()},
    }


def _second_model(config: TrainConfig) -> Any:
    """Load the shape of a reference of its own that stays in memory, if there is one."""
    name = config.reference.model_name
    return load_shape(name)[0] if config.reference_mode == "online" and name is not None else None


def _reason(config: TrainConfig, attention: Attention, device: torch.device) -> str:
    """Say why this back end computes attention."""
    if config.policy.attention != "auto":
        return f"policy.attention={config.policy.attention}"
    match attention.backend:
        case Backend.FLEX:
            return "a GPU, and the model supports FlexAttention"
        case Backend.SEGMENTS:
            return "the best on a CPU; prompts are shared"
        case Backend.ROWS:
            return "the model has layers that can't share a prompt by a mask; each response has a row of its own"
        case Backend.DENSE if attention.implementation == "eager":
            return "the model's attention is more than SDPA computes; a mask of tokens by tokens"
        case Backend.DENSE:
            return f"no FlexAttention for this model on {device.type}; a mask of tokens by tokens"


def _gigabytes(amount: int) -> str:
    """Show bytes as megabytes (10^6) or, from one on, gigabytes."""
    return f"{amount / 1e9:,.1f} GB" if amount >= 1e9 else f"{amount / 1e6:,.1f} MB"
