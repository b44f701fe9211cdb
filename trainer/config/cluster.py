"""`cluster.*`: the processes of a run, and how they share the model."""

from typing import Any, Literal

from pydantic import PositiveInt, field_validator

from schemas.terminal import excerpt
from trainer.config.base import Minutes, Section

PROFILES = ("ddp", "fsdp2", "hsdp", "zero2", "zero3")
"""Ways to share the model that come with the project; beside them a file of Accelerate's."""


class ClusterSection(Section):
    """The processes of a run, and how they share the model."""

    gpus_per_node: PositiveInt | Literal["auto", "none"] = "auto"
    """Processes on each node, one for each GPU; auto: as many as there are; none: the CPU."""
    num_nodes: PositiveInt = 1
    """Nodes of the run."""
    cpu_processes: PositiveInt = 1
    """Processes on each node where the run has no GPU."""
    accelerate_config: str | None = None
    """How processes share the model: ddp, fsdp2, hsdp, zero2, zero3, or a YAML file of Accelerate's; null: ddp."""
    cpu_offload: bool = False
    """Keep sharded weights and the optimizer's state in the memory of the CPU (fsdp2, hsdp, zero2, zero3)."""
    timeout_minutes: Minutes = 30.0
    """How long a process waits for the others before the run ends."""

    @field_validator("gpus_per_node", mode="before")
    @classmethod
    def _is_a_number_or_a_word(cls, value: Any) -> Any:
        """Say in one line what else than a number it may be, instead of one line for each."""
        text = str(value).strip()
        if text not in ("auto", "none") and not (text.isdecimal() and int(text) > 0):
            shown = "null" if value is None else excerpt(value)
            raise ValueError(f"got {shown}, expected auto, none, or a number of GPUs from 1 on")
        return value
