"""A task for SkyPilot, to be launched as a managed job: started again elsewhere when its machines are taken away."""

import shlex
from collections.abc import Iterator

from schemas.errors import EXIT_STOPPED, UsageError
from trainer.config.show import scalar
from trainer.jobs.job import Job
from trainer.jobs.template import Values, filled

MOUNT = "/storage"
USUAL_GPU = "H100"
PORT = 29500

MEETING = (
    "# Where the processes of all nodes meet: the first node.",
    'export NODE_RANK="$SKYPILOT_NODE_RANK"',
    "export MASTER_ADDR=\"${SKYPILOT_NODE_IPS%%$'\\n'*}\"",
    f"export MASTER_PORT={PORT}",
)


def skypilot_task(job: Job) -> str:
    """Write the task.

    Raises:
        UsageError: nothing says where dpo comes from, or where the run can be kept.
    """
    asked = job.asked
    if asked.image is None and not asked.setup:
        raise UsageError(
            "skypilot starts on a bare machine: name --image, a container image with dpo in it, or --setup, the "
            "command that installs it, such as --setup \"pip install -e '.[train]'\" in the clone"
        )
    values: Values = {
        "shape": job.shape,
        "stopped": EXIT_STOPPED,
        "name": scalar(asked.name),
        "num_nodes": job.num_nodes,
        "resources": [*_resources(job)],
        "storage": [*_storage(job)],
        "setup": ["setup: |", *(f"  {line}" for line in asked.setup), ""] if asked.setup else [],
        "meeting": MEETING if job.num_nodes > 1 else [],
        "caches": [*_caches(job)],
        "command": [shlex.quote(argument) for argument in job.command],
    }
    return filled("skypilot.yaml", values)


def _resources(job: Job) -> Iterator[str]:
    asked = job.asked
    if job.has_gpus:
        yield f"accelerators: {scalar(f'{asked.gpu or USUAL_GPU}:{job.processes_per_node}')}"
    yield f'cpus: "{asked.cpus_per_task * job.processes_per_node}+"'
    if asked.mem is not None:
        yield f'memory: "{asked.mem}+"'
    if asked.image is not None:
        yield f"image_id: {scalar(f'docker:{asked.image}')}"
    if asked.spot:
        yield "# Cheaper, and taken away without a warning that a process could hear: save often."
        yield "use_spot: true"
    if job.num_nodes > 1:
        yield "# The fastest network that there is between the nodes."
        yield "network_tier: best"


def _storage(job: Job) -> Iterator[str]:
    """Mount what outlives the machines.

    A bucket can't serve several nodes: each would see what the others have written only later, and a checkpoint is
    written by all of them.
    """
    asked = job.asked
    if (asked.bucket is None) == (asked.volume is None):
        raise UsageError(
            "skypilot: name what the run is kept on: --bucket, which serves one node, or --volume, a volume of "
            "SkyPilot; one of them"
        )
    if asked.bucket is not None and job.num_nodes > 1:
        raise UsageError(
            f"--bucket with {job.num_nodes} nodes: all nodes write into one checkpoint, and a bucket shows them what "
            "the others wrote too late; name a volume that they share (ReadWriteMany) with --volume"
        )
    job.refuse_outside(MOUNT, start="/root/sky_workdir")
    if asked.volume is not None:
        yield "# Outlives the machines: the run and the caches. On several nodes it has to be ReadWriteMany."
        yield "volumes:"
        yield f"  {MOUNT}: {scalar(asked.volume)}"
        return
    yield "# Outlives the machine: the run, and the log-probs of the reference."
    yield "file_mounts:"
    yield f"  {MOUNT}:"
    yield f"    source: {scalar(asked.bucket)}"
    yield "    # Written to the disk first and then to the bucket; MOUNT can't append to files or rename folders."
    yield "    mode: MOUNT_CACHED"


def _caches(job: Job) -> Iterator[str]:
    if job.asked.volume is not None:
        yield "# Shared by all nodes and starts: what comes from the hub."
        yield f"export HF_HOME={MOUNT}/cache/huggingface"
    yield "# Kept for the next start: the log-probs of the reference (dpo/reference in here)."
    yield f"export XDG_CACHE_HOME={MOUNT}/cache"
    yield f"export OMP_NUM_THREADS={job.asked.cpus_per_task}"
