"""`cluster.*`: the processes of a run, and how they share the model."""

from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from trainer.config.base import Section

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
    timeout_minutes: PositiveFloat = 30.0
    """How long a process waits for the others before the run ends."""
