"""A batch script for Slurm: one task for each process, queued again when its time is up."""

import shlex
from collections.abc import Iterator

from schemas.errors import EXIT_STOPPED
from trainer.jobs.job import MAX_RESTARTS, WARNING_SECONDS, Job
from trainer.jobs.template import Values, filled

USUAL_TIME = "24:00:00"


def slurm_script(job: Job) -> str:
    """Write the batch script."""
    asked = job.asked
    values: Values = {
        "shape": job.shape,
        "stopped": EXIT_STOPPED,
        "name": asked.name,
        "num_nodes": job.num_nodes,
        "for_each_gpu": ", and there is one for each GPU" if job.has_gpus else "",
        "processes_per_node": job.processes_per_node,
        "resources": [f"#SBATCH --{line}" for line in _resources(job)],
        "place": [f"#SBATCH --{name}={value}" for name, value in _place(job)],
        "time": asked.time or USUAL_TIME,
        "warning_seconds": WARNING_SECONDS,
        "max_restarts": MAX_RESTARTS,
        "setup": [*_setup(job)],
        "command": [shlex.quote(argument) for argument in job.command],
    }
    return filled("slurm.sh", values)


def _setup(job: Job) -> Iterator[str]:
    if job.asked.setup:
        yield "# What dpo needs to be found. Scripts of conda and of modules use variables that may not be set."
        yield "set +u"
        yield from job.asked.setup
        yield "set -u"
        yield ""


def _resources(job: Job) -> Iterator[str]:
    if job.has_gpus:
        kind = f"{job.asked.gpu}:" if job.asked.gpu else ""
        yield f"gpus-per-node={kind}{job.processes_per_node}"
    yield f"cpus-per-task={job.asked.cpus_per_task}"
    if job.asked.mem is not None:
        yield f"mem={job.asked.mem}G"


def _place(job: Job) -> Iterator[tuple[str, str]]:
    for name, value in (("partition", job.asked.partition), ("account", job.asked.account)):
        if value is not None:
            yield name, value
