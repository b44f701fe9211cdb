"""What a step, a validation and a save work with."""

from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator

from trainer.config.sections import TrainConfig
from trainer.cost.throughput import FlopCounter
from trainer.loss.objective import Objective
from trainer.model.packing import Packer
from trainer.model.reference import Reference


@dataclass(frozen=True)
class Training:
    """What a step works with; the same objects for the whole run."""

    config: TrainConfig
    accelerator: Accelerator
    scorer: Any  # a ResponseScorer, as Accelerate wrapped it
    objective: Objective
    optimizer: Any
    scheduler: Any
    packer: Packer
    pads_to: int
    reference: Reference
    flops: FlopCounter
    start_digest: str  # of the weights that the run began with, without adapters
    reference_digest: str | None = None  # of the reference's, where it is another model
    validation_references: tuple[Reference, ...] = ()  # of each validation set, in their order
    notes: tuple[str, ...] = ()  # what the set-up found worth telling
