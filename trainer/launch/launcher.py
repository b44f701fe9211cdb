"""`dpo train` on what there is: one process for each GPU of this node, or this process alone.

Under torchrun, `accelerate launch` or srun the processes are there already; then this one takes its place among them.
Those that are started here get the variables that torchrun would set, and run the same command; how they share the
model, each of them learns from profiles.py.
"""

import os
import shlex
import stat
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from schemas.errors import UsageError
from schemas.secrets import without_secrets
from schemas.streams import STDIN
from schemas.terminal import counted, path_text, printable, stderr_console
from trainer.config.cluster import ClusterSection
from trainer.config.sections import TrainConfig
from trainer.launch.gpus import hide_gpus, num_gpus
from trainer.launch.number import known_node
from trainer.launch.parent import end_with_parent, of_this_process
from trainer.launch.ports import held_port
from trainer.launch.processes import Node, Place, place_of, seeing
from trainer.launch.profiles import accelerate_environment
from trainer.launch.supervise import run_processes

THIS_MACHINE = "127.0.0.1"
TOLD = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables that torch and Accelerate read."""


def launch(
    config: TrainConfig,
    arguments: Sequence[str],
    *,
    meanwhile: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> int | None:
    """Start the processes of this node and wait for them; give their exit code. None where this process has to train.

    `take_place` comes before, for it says whether there is a launcher.

    Args:
        arguments: Of `dpo`, for the line that would start the same with a launcher.
        meanwhile: What leaves signals to the processes while they run.

    Raises:
        UsageError: there are fewer GPUs than asked for, or the processes can't work as configured.
        DpoError: a process was ended by a signal.
    """
    place = place_of()
    if place is not None:
        end_with_parent()
        _refuse_missing_gpu(place)
        return None
    node = known_node(config.cluster)
    here, is_on_gpus = _processes_here(config.cluster)
    world_size = here * (node.count if node is not None else 1)
    accelerate_environment(config, num_processes=world_size)  # a mistake in it is told once, before there are many
    if here == 1:
        if node is not None:
            os.environ.update(node.place(0, 1).variables)
        return None
    _refuse_pipes(config, here)
    with held_port() as port:
        first = node or Node(0, 1, THIS_MACHINE, port, "this machine")
        line = launch_line(first, here, arguments, is_on_gpus=is_on_gpus)
        stderr_console().print(f"starting {here} processes: {line}", soft_wrap=True)
        shared = {**os.environ, **of_this_process(), "OMP_NUM_THREADS": _threads(here)}
        shared |= _slow_links() if is_on_gpus else {}
        places = [first.place(number, here) for number in range(here)]
        with meanwhile():
            return run_processes(_command(), [{**shared, **place.variables} for place in places])


def take_place(config: TrainConfig) -> None:
    """Put this process where it belongs before torch is loaded: on the CPU if so told, and in srun's place for it.

    Raises:
        UsageError: what srun has set is not enough.
    """
    if config.cluster.gpus_per_node == "none":
        hide_gpus()
    for name in TOLD:  # a blank one, as a pod's description may have it, says nothing
        if not os.environ.get(name, "0").strip():
            del os.environ[name]
    place = place_of()
    if place is None or "LOCAL_RANK" in os.environ or place.world_size == 1:
        return
    if place.local_rank > 0 and config.cluster.gpus_per_node != "none":
        place = seeing(place, num_gpus())
    os.environ.update(place.variables)


def launch_line(node: Node, processes: int, arguments: Sequence[str], *, is_on_gpus: bool) -> str:
    """Give the line that starts the same on this node with Accelerate's launcher, or torch's where there is no GPU.

    It is to be shown: keys and passwords are hidden in it.
    """
    if is_on_gpus:
        words = ["accelerate", "launch", "--multi_gpu", "--num_processes", str(processes * node.count)]
        if node.count > 1:
            words += ["--num_machines", str(node.count), "--machine_rank", str(node.rank)]
            words += ["--main_process_ip", node.master_addr, "--main_process_port", str(node.master_port)]
    else:
        words = ["torchrun", "--nproc-per-node", str(processes)]
        if node.count > 1:
            words += ["--nnodes", str(node.count), "--node-rank", str(node.rank)]
            words += ["--master-addr", node.master_addr, "--master-port", str(node.master_port)]
    # not `-m cli`, which in a folder with a cli.py of its own would run that one
    words += ["--no_python" if is_on_gpus else "--no-python", "dpo", *arguments]
    return printable(without_secrets(shlex.join(words)))


def _refuse_missing_gpu(place: Place) -> None:
    """Say so where a launcher has started more processes than there are GPUs; all on the CPU may be as many as any."""
    if place.local_rank > 0 and (found := num_gpus()) and place.local_rank >= found:
        raise UsageError(
            f"{place.local_world_size} processes on this node, which has {counted(found, 'GPU')}: start one for each"
        )


def _processes_here(cluster: ClusterSection) -> tuple[int, bool]:
    """Count the processes of this node, and say whether they are on GPUs.

    Raises:
        UsageError: more GPUs are asked for than there are.
    """
    wanted = cluster.gpus_per_node
    if wanted == "none":
        return cluster.cpu_processes, False
    found = num_gpus()
    if wanted == "auto":
        return (found, True) if found else (cluster.cpu_processes, False)
    if wanted <= found:
        return wanted, True
    asked = f"cluster.gpus_per_node={wanted} (--gpus {wanted})"
    if not found:
        raise UsageError(
            f"{asked}: there is no GPU here; --gpus none trains on the CPU, with cluster.cpu_processes={wanted} "
            "on as many processes"
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    why = f" (CUDA_VISIBLE_DEVICES={printable(visible)})" if visible is not None else ""
    raise UsageError(f"{asked}: this node has {counted(found, 'GPU')}{why}; give --gpus {found} or --gpus auto")


def _refuse_pipes(config: TrainConfig, processes: int) -> None:
    """Keep several processes from sharing what can be read once."""
    for each in (*config.data.train, *config.data.validation_sets.values()):
        path = each.data_path
        if path is not None and _is_pipe(path):
            name = "stdin" if path == STDIN else path_text(path)
            raise UsageError(f"{name}: {processes} processes can't each read it; write the pairs to a file first")


def _is_pipe(path: Path) -> bool:
    try:
        return path == STDIN or stat.S_ISFIFO(path.stat().st_mode)
    except OSError:  # a name of the hub, or a file that is missing, which is told elsewhere
        return False


def _slow_links() -> dict[str, str]:
    """Keep NCCL from links that some GPUs with an old driver don't have, as Accelerate's launcher does."""
    from accelerate.utils import check_cuda_p2p_ib_support

    if check_cuda_p2p_ib_support():
        return {}
    return {name: os.environ.get(name, "1") for name in ("NCCL_P2P_DISABLE", "NCCL_IB_DISABLE")}


def _command() -> list[str]:
    """Give the command that has started this process, with the same interpreter."""
    return [sys.executable, *sys.orig_argv[1:]]


def _threads(processes: int) -> str:
    """Share the cores among the processes, unless the user has said how many threads each gets."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // processes))
