"""A job for Kubernetes: a pod for each node, started again when it was evicted or has failed by chance."""

from collections.abc import Iterator

from schemas.errors import EXIT_STOPPED, InputError, UsageError
from trainer.config.show import scalar
from trainer.jobs.job import WARNING_SECONDS, Job
from trainer.jobs.template import Values, filled

MOUNT = "/workspace"
USUAL_CLAIM = "dpo"
PORT = 29500
SHARED_MEMORY = "16Gi"

FAILURES_OF_A_NODE = 6
"""How often each node's pod may fail."""

SPARE_SECONDS = 30
"""For the processes to end, once they have saved."""


def kubernetes_job(job: Job) -> str:
    """Write the job, and on several nodes the service by which its pods find one another.

    Raises:
        UsageError: no image is named, or the run would be written into a pod.
    """
    asked = job.asked
    if asked.image is None:
        raise UsageError("k8s needs --image: a container image with dpo in it, such as registry.example.com/dpo:1")
    job.refuse_outside(MOUNT, start=MOUNT)
    values: Values = {
        "shape": job.shape,
        "stopped": EXIT_STOPPED,
        "misuse": UsageError.exit_code,
        "unreadable": InputError.exit_code,
        "name": scalar(asked.name),
        "num_nodes": job.num_nodes,
        "service": _service(job) if job.num_nodes > 1 else [],
        "backoff_limit": FAILURES_OF_A_NODE * job.num_nodes,
        "grace_seconds": WARNING_SECONDS + SPARE_SECONDS,
        "subdomain": [f"subdomain: {scalar(asked.name)}"] if job.num_nodes > 1 else [],
        "image": scalar(asked.image),
        "mount": MOUNT,
        "command": [f"- {scalar(_unexpanded(argument))}" for argument in job.command],
        "meeting": [*_meeting(job)],
        "cpus_per_task": asked.cpus_per_task,
        "resources": [*_resources(job)],
        "volume": scalar(asked.volume or USUAL_CLAIM),
        "shared_memory": SHARED_MEMORY,
    }
    return filled("kubernetes.yaml", values)


def _service(job: Job) -> list[str]:
    return filled("kubernetes_service.yaml", {"name": scalar(job.asked.name)}).splitlines()


def _meeting(job: Job) -> Iterator[str]:
    if job.num_nodes == 1:
        return
    yield "# Where the processes of all nodes meet: the first pod."
    yield "- name: NODE_RANK"
    yield "  valueFrom:"
    yield "    fieldRef: {fieldPath: \"metadata.annotations['batch.kubernetes.io/job-completion-index']\"}"
    yield f"- {{name: MASTER_ADDR, value: {scalar(f'{job.asked.name}-0.{job.asked.name}')}}}"
    yield f'- {{name: MASTER_PORT, value: "{PORT}"}}'


def _resources(job: Job) -> Iterator[str]:
    yield "requests:"
    yield f"  cpu: {job.asked.cpus_per_task * job.processes_per_node}"
    if job.asked.mem is not None:
        yield f"  memory: {job.asked.mem}Gi"
    if job.has_gpus:
        yield "limits:"
        yield f"  nvidia.com/gpu: {job.processes_per_node}"


def _unexpanded(argument: str) -> str:
    """Keep Kubernetes from putting variables into a command: to it, $$ is a dollar sign and nothing more."""
    return argument.replace("$", "$$")
