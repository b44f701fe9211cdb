"""Where this process stands: alone, one of a launcher's processes, or alone on one of several nodes.

Launchers tell by environment variables. torchrun and `accelerate launch` set RANK, WORLD_SIZE and LOCAL_RANK. srun
sets those of a job step; a script that sbatch runs, or a shell of `srun --pty`, has nearly the same ones without being
one of several processes. What is started once on each node has the node's number alone.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace

from schemas.errors import UsageError
from schemas.terminal import printable
from trainer.launch.variables import FIRST_OWN_STEP, first_host, needed, number, tasks_of_nodes

OF_ACCELERATE = "ACCELERATE_MIXED_PRECISION"
"""Set by whatever way Accelerate's launcher starts a process."""

OF_MPIRUN = ("OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
OF_HYDRA = "PMI_SIZE"  # of MPICH's and Intel's mpirun, and of srun --mpi=pmi2 too
"""Numbers of processes that were started by mpirun."""

DEFAULT_PORT = 29500
FIRST_SLURM_PORT, SLURM_PORTS = 15_000, 15_000
"""Ports for Slurm's jobs: below those that Linux gives to outgoing connections."""


@dataclass(frozen=True)
class Place:
    """One process among those of a run, as torch wants it told."""

    rank: int
    world_size: int
    local_rank: int  # also the number of the process's GPU among those that it sees
    local_world_size: int
    master_addr: str
    master_port: int

    @property
    def variables(self) -> dict[str, str]:
        """Give the environment variables that torch and Accelerate read."""
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.world_size),
            "LOCAL_RANK": str(self.local_rank),
            "LOCAL_WORLD_SIZE": str(self.local_world_size),
            "MASTER_ADDR": self.master_addr,
            "MASTER_PORT": str(self.master_port),
        }


@dataclass(frozen=True)
class Node:
    """One node of several, on which this process is the first."""

    rank: int
    count: int
    master_addr: str
    master_port: int
    told_by: str  # the variables, or the program, that it is known from

    def place(self, local_rank: int, local_world_size: int) -> Place:
        """Say where a process of this node stands; all nodes have as many."""
        return Place(
            rank=self.rank * local_world_size + local_rank,
            world_size=self.count * local_world_size,
            local_rank=local_rank,
            local_world_size=local_world_size,
            master_addr=self.master_addr,
            master_port=self.master_port,
        )


def place_of(environment: Mapping[str, str] = os.environ) -> Place | None:
    """Say where a launcher has put this process; None where none has.

    Raises:
        UsageError: what the environment says is not enough.
    """
    if environment.get("LOCAL_RANK", "").strip():
        world_size = needed(environment, "WORLD_SIZE", beside="LOCAL_RANK", least=1)
        return Place(
            rank=needed(environment, "RANK", beside="LOCAL_RANK"),
            world_size=world_size,
            local_rank=needed(environment, "LOCAL_RANK", beside="LOCAL_RANK"),
            local_world_size=number(environment, "LOCAL_WORLD_SIZE", least=1) or world_size,
            master_addr=environment.get("MASTER_ADDR") or "127.0.0.1",
            master_port=number(environment, "MASTER_PORT", least=1) or DEFAULT_PORT,
        )
    if environment.get(OF_ACCELERATE):  # `accelerate launch` with one process says no more
        return Place(0, 1, 0, 1, "127.0.0.1", DEFAULT_PORT)
    step = _slurm_step(environment)
    _refuse_mpi(environment, is_srun=step is not None)
    if step is None or step.num_tasks == step.num_nodes:
        return None
    return Place(
        rank=step.task,
        world_size=step.num_tasks,
        local_rank=needed(environment, "SLURM_LOCALID", beside="SLURM_STEP_ID"),
        local_world_size=step.tasks_here,
        master_addr=step.master_addr,
        master_port=step.master_port,
    )


def node_of(environment: Mapping[str, str] = os.environ, *, num_nodes: int = 1) -> Node | None:
    """Say which of several nodes this is; None where there is one.

    Args:
        num_nodes: As configured, for an environment that says which node this is and not how many there are.

    Raises:
        UsageError: what the environment says is not enough.
    """
    node = _told_node(environment, num_nodes)
    return node if node is not None and node.count > 1 else None


def seeing(place: Place, num_gpus: int) -> Place:
    """Give a task of srun the number of its GPU among those that it sees: Slurm may show each task its own alone."""
    return replace(place, local_rank=0) if num_gpus == 1 else place


@dataclass(frozen=True)
class _Step:
    """A step of a Slurm job."""

    task: int
    num_tasks: int
    node: int
    num_nodes: int
    tasks_here: int
    master_addr: str
    master_port: int


def _slurm_step(environment: Mapping[str, str]) -> _Step | None:
    """Read the job step of several tasks that srun has started this process in."""
    step = number(environment, "SLURM_STEP_ID", "SLURM_STEPID")
    if step is None or step >= FIRST_OWN_STEP or _is_shell(environment):
        return None
    num_tasks = number(environment, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS") or 1
    if num_tasks == 1:
        return None
    num_nodes = number(environment, "SLURM_STEP_NUM_NODES", "SLURM_NNODES", least=1) or 1
    node = number(environment, "SLURM_NODEID") or 0
    told = environment.get("SLURM_STEP_TASKS_PER_NODE") or environment.get("SLURM_TASKS_PER_NODE") or ""
    tasks = tasks_of_nodes(told)
    hosts = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST") or ""
    job = number(environment, "SLURM_JOB_ID", "SLURM_JOBID") or 0
    return _Step(
        task=needed(environment, "SLURM_PROCID", beside="SLURM_STEP_ID"),
        num_tasks=num_tasks,
        node=node,
        num_nodes=num_nodes,
        tasks_here=tasks[node] if node < len(tasks) else -(-num_tasks // num_nodes),
        master_addr=environment.get("MASTER_ADDR") or first_host(hosts) or "127.0.0.1",
        master_port=number(environment, "MASTER_PORT", least=1) or FIRST_SLURM_PORT + (7 * job + step) % SLURM_PORTS,
    )


def _is_shell(environment: Mapping[str, str]) -> bool:
    """Say whether this runs in a shell of `srun --pty`, whose other tasks have ended; its variables are still there."""
    return "SLURM_PTY_PORT" in environment and any(stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr))


def _refuse_mpi(environment: Mapping[str, str], *, is_srun: bool) -> None:
    """Say so where mpirun has started this process beside others: each would take itself for the whole run."""
    if "NODE_RANK" in environment:  # set by a script of the user's, on each of several nodes
        return
    for name in OF_MPIRUN if is_srun else (*OF_MPIRUN, OF_HYDRA):
        if (count := number(environment, name) or 1) > 1:
            raise UsageError(
                f"the environment variable {name}={count}: mpirun has started {count} processes, which know nothing of "
                "one another here; start dpo train by itself, or with torchrun, accelerate launch or srun"
            )


def _told_node(environment: Mapping[str, str], num_nodes: int) -> Node | None:
    """Find out which node this is, from the first that says so."""
    step = _slurm_step(environment)
    if step is not None:
        return Node(step.node, step.num_nodes, step.master_addr, step.master_port, "srun")
    if "PET_NODE_RANK" in environment and environment.get("PET_NNODES", "1").isdigit():
        count = number(environment, "PET_NNODES", least=1) or num_nodes
        return _node(environment, "PET_NODE_RANK", count, "PET_MASTER_ADDR", "PET_MASTER_PORT")
    if "NODE_RANK" in environment and num_nodes > 1:
        return _node(environment, "NODE_RANK", number(environment, "NNODES", least=1) or num_nodes)
    if "SKYPILOT_NODE_RANK" in environment:
        hosts = environment.get("SKYPILOT_NODE_IPS", "").split()
        count = number(environment, "SKYPILOT_NUM_NODES", least=1) or len(hosts) or 1
        return _node({"MASTER_ADDR": hosts[0] if hosts else "", **environment}, "SKYPILOT_NODE_RANK", count)
    if "RANK" in environment and "WORLD_SIZE" in environment:  # of a pod: an older PyTorchJob says no more
        return _node(environment, "RANK", needed(environment, "WORLD_SIZE", beside="RANK", least=1))
    return None


def _node(
    environment: Mapping[str, str], name: str, count: int, address: str = "MASTER_ADDR", port: str = "MASTER_PORT"
) -> Node | None:
    if count == 1:
        return None
    rank = needed(environment, name, beside=name)
    if rank >= count:
        raise UsageError(f"the environment variable {name}={rank}: of {count} nodes the last is {count - 1}")
    host = environment.get(address) or environment.get("MASTER_ADDR", "")
    if not host.strip():
        raise UsageError(f"the environment has {name}, and no MASTER_ADDR: set it to the name or address of node 0")
    return Node(
        rank=rank,
        count=count,
        master_addr=printable(host.strip()),
        master_port=number(environment, port, "MASTER_PORT", least=1) or DEFAULT_PORT,
        told_by=name,
    )
