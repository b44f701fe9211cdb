"""The schedulers that there are job files for, and the options that only some of them have a place for."""

from typing import Literal

Scheduler = Literal["slurm", "skypilot", "k8s"]

OF_SCHEDULER: dict[str, tuple[Scheduler, ...]] = {
    "--time": ("slurm",),
    "--partition": ("slurm",),
    "--account": ("slurm",),
    "--gpu": ("slurm", "skypilot"),
    "--setup": ("slurm", "skypilot"),
    "--image": ("skypilot", "k8s"),
    "--bucket": ("skypilot",),
    "--volume": ("skypilot", "k8s"),
    "--spot": ("skypilot",),
}
"""The other options of a job have a meaning in all of them."""
