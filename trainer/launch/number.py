"""Whether there are as many processes, on as many nodes, as cluster.* says."""

import os

from schemas.errors import UsageError
from schemas.terminal import counted
from trainer.config.cluster import ClusterSection
from trainer.config.sections import TrainConfig
from trainer.launch.gpus import num_gpus
from trainer.launch.processes import Node, node_of, place_of


def refuse_wrong_number_of_processes(config: TrainConfig, *, starts_processes: bool) -> None:
    """Keep a run that is meant for some number of processes from running on another.

    Args:
        starts_processes: The processes are yet to be started, where there is no launcher.

    Raises:
        UsageError: cluster.* says another number of processes than the launcher has started.
    """
    cluster = config.cluster
    place = place_of()
    if place is None:
        wanted = (_told_of_each_node(cluster) or 1) * cluster.num_nodes
        if wanted > 1 and not starts_processes:
            raise UsageError(
                f"{_told(cluster)}: expected {wanted} processes, and a program does not start them; start it with: "
                f"torchrun --nproc-per-node {wanted // cluster.num_nodes} PROGRAM"
            )
        return
    found, each = place.world_size, _told_of_each_node(cluster)
    wanted = (each or max(found // cluster.num_nodes, 1)) * cluster.num_nodes
    if found != wanted:
        raise UsageError(
            f"{_told(cluster)}: expected {wanted} processes, got {found} from the launcher; have it start {wanted}, or "
            "say with --gpus and cluster.num_nodes what this run is on"
        )


def known_node(cluster: ClusterSection) -> Node | None:
    """Say which of several nodes this is; None where there is one.

    Raises:
        UsageError: cluster.num_nodes is another number than the environment's, or nothing says which node this is.
    """
    node = node_of(num_nodes=cluster.num_nodes)
    if node is None and cluster.num_nodes > 1:
        if "SLURM_JOB_ID" in os.environ:
            remedy = "this is a Slurm job, so start it with: srun --ntasks-per-node=1 dpo train …"
        else:
            remedy = (
                "start the same line on each node with NODE_RANK (0, 1, …), MASTER_ADDR (the address of node 0) and "
                "MASTER_PORT set, or let srun or SkyPilot do so"
            )
        raise UsageError(f"cluster.num_nodes={cluster.num_nodes}: nothing says which of the nodes this is; {remedy}")
    is_told = cluster.num_nodes > 1 or isinstance(cluster.gpus_per_node, int)
    if node is not None and is_told and node.count != cluster.num_nodes:
        raise UsageError(
            f"{_told(cluster)}: {node.told_by} says that there are {counted(node.count, 'node')}; set "
            f"cluster.num_nodes={node.count}"
        )
    return node


def planned_processes(config: TrainConfig) -> int:
    """Count the processes that a run would have here: those that there are, or those that would be started.

    GPUs that were asked for in numbers count though they aren't there, as where a run is planned on another machine.
    """
    place, cluster = place_of(), config.cluster
    if place is not None:
        return place.world_size
    gpus = cluster.gpus_per_node
    each = gpus if isinstance(gpus, int) else (num_gpus() if gpus == "auto" else 0) or cluster.cpu_processes
    return each * cluster.num_nodes


def _told_of_each_node(cluster: ClusterSection) -> int | None:
    """Give the processes of a node that were asked for in numbers."""
    if isinstance(cluster.gpus_per_node, int):
        return cluster.gpus_per_node
    return cluster.cpu_processes if cluster.gpus_per_node == "none" and cluster.cpu_processes > 1 else None


def _told(cluster: ClusterSection) -> str:
    told = f"cluster.gpus_per_node={cluster.gpus_per_node}, cluster.num_nodes={cluster.num_nodes}"
    return f"{told}, cluster.cpu_processes={cluster.cpu_processes}" if cluster.gpus_per_node == "none" else told
