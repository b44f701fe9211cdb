"""Where a process stands, by the variables of each launcher, and what of cluster.* fits that."""

import os
import socket
import sys
from pathlib import Path

import pytest

from schemas.errors import UsageError
from trainer.config.sections import TrainConfig
from trainer.config.settings import resolve
from trainer.launch.launcher import launch, launch_line, take_place
from trainer.launch.number import known_node, refuse_wrong_number_of_processes
from trainer.launch.ports import held_port
from trainer.launch.processes import Node, Place, node_of, place_of, seeing
from trainer.launch.variables import first_host, tasks_of_nodes

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "node-a",
    "MASTER_PORT": "1234",
}
BATCH_SCRIPT = {
    "SLURM_JOB_ID": "77",
    "SLURM_NTASKS": "8",
    "SLURM_NNODES": "2",
    "SLURM_JOB_NODELIST": "gpu[07-08]",
    "SLURM_TASKS_PER_NODE": "4(x2)",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}
"""What sbatch sets for its script: task 0 of 8, though it is the only process."""

SRUN = BATCH_SCRIPT | {
    "SLURM_STEP_ID": "3",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_PROCID": "6",
    "SLURM_LOCALID": "2",
    "SLURM_NODEID": "1",
}
"""Task 6 of 8 on two nodes."""

SRUN_ON_NODES = SRUN | {
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}
"""The second of two tasks, each on its node."""

POD = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "job-master-0", "MASTER_PORT": "23456"}
NAMES = {*TORCHRUN, *SRUN, "NODE_RANK", "NNODES", "CUDA_VISIBLE_DEVICES", "DPO_LAUNCHED_BY"}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch):
    """Give the environment of a process that nothing has started; what is set in a test is taken back."""
    for name in [*os.environ]:
        if name in NAMES or name.startswith(("SLURM_", "SKYPILOT_", "PET_", "ACCELERATE_", "FSDP_")):
            monkeypatch.delenv(name)

    def put(variables: dict[str, str]) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    for name in TORCHRUN:  # so that what the code sets is taken back too
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return put


def configuration(*settings: str) -> TrainConfig:
    return resolve(settings, train_data_path=Path("pairs.jsonl"))


def test_torchrun_and_accelerate_say_it_all() -> None:
    assert place_of(TORCHRUN) == Place(5, 8, 1, 4, "node-a", 1234)
    assert place_of({**TORCHRUN, **SRUN}) == Place(5, 8, 1, 4, "node-a", 1234)  # torchrun in a step of Slurm's
    assert Place(5, 8, 1, 4, "node-a", 1234).variables == TORCHRUN


def test_a_task_of_srun_is_a_process() -> None:
    # 15000 + (7 * 77 + 3) % 15000: the port is the same on all tasks, and another for another step or job
    assert place_of(SRUN) == Place(6, 8, 2, 4, "gpu07", 15542)
    told = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29501"}
    assert place_of(SRUN | told) == Place(6, 8, 2, 4, "10.0.0.1", 29501)
    uneven = SRUN | {"SLURM_STEP_TASKS_PER_NODE": "5,3", "SLURM_LOCALID": "1"}
    assert place_of(uneven) == Place(6, 8, 1, 3, "gpu07", 15542)


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"WORLD_SIZE": "8"},
        BATCH_SCRIPT,
        SRUN | {"SLURM_STEP_NUM_TASKS": "1"},
        {"OMPI_COMM_WORLD_SIZE": "1", "PMI_SIZE": "1"},
        {"OMPI_COMM_WORLD_SIZE": "2", "NODE_RANK": "1"},
        SRUN | {"SLURM_STEP_ID": "4294967290"},  # of the shell that salloc starts
        SRUN | {"SLURM_STEP_ID": "4294967291"},  # of a batch script
    ],
)
def test_a_process_of_its_own(variables: dict[str, str]) -> None:
    assert place_of(variables) is None
    assert node_of(variables) is None


def test_a_shell_of_srun_has_no_other_tasks_though_its_variables_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = SRUN | {"SLURM_PTY_PORT": "41771"}
    assert place_of(shell) == place_of(SRUN)  # a step that was started from the shell: nothing of it is a terminal
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    assert place_of(shell) is None
    assert node_of(SRUN_ON_NODES | {"SLURM_PTY_PORT": "41771"}) is None
    assert place_of(SRUN) is not None


def test_srun_s_own_mpi_and_a_launcher_inside_of_mpirun_are_no_mpirun() -> None:
    assert place_of(SRUN | {"PMI_SIZE": SRUN["SLURM_STEP_NUM_TASKS"]}) == place_of(SRUN)
    assert place_of(TORCHRUN | {"OMPI_COMM_WORLD_SIZE": "2"}) == place_of(TORCHRUN)


def test_accelerate_with_one_process_is_a_launcher_too() -> None:
    assert place_of({"ACCELERATE_MIXED_PRECISION": "no"}) == Place(0, 1, 0, 1, "127.0.0.1", 29500)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"LOCAL_RANK": "0"}, "the environment has LOCAL_RANK, and no WORLD_SIZE"),
        ({**TORCHRUN, "RANK": "x"}, "the environment variable RANK='x': expected a whole number from 0 on"),
        ({**TORCHRUN, "WORLD_SIZE": "0"}, "WORLD_SIZE='0': expected a whole number from 1 on"),
        ({name: value for name, value in SRUN.items() if name != "SLURM_LOCALID"}, "and no SLURM_LOCALID"),
        ({**SRUN, "MASTER_PORT": "http"}, "MASTER_PORT='http'"),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1"}, "mpirun has started 2 processes"),
        ({**BATCH_SCRIPT, "PMI_SIZE": "4", "PMI_RANK": "0"}, "PMI_SIZE=4: mpirun has started 4 processes"),
        ({**SRUN, "SLURM_STEP_NUM_TASKS": "1", "OMPI_COMM_WORLD_SIZE": "8"}, "mpirun has started 8 processes"),
    ],
)
def test_half_an_environment_is_refused(variables: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        place_of(variables)


SKYPILOT = {
    "SKYPILOT_NODE_RANK": "1",
    "SKYPILOT_NUM_NODES": "2",
    "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2\n",
    "SKYPILOT_NUM_GPUS_PER_NODE": "8",
}


@pytest.mark.parametrize(
    ("variables", "num_nodes", "expected"),
    [
        (SRUN_ON_NODES, 1, Node(1, 2, "gpu07", 15542, "srun")),
        (SKYPILOT, 1, Node(1, 2, "10.0.0.1", 29500, "SKYPILOT_NODE_RANK")),
        (SKYPILOT | {"SKYPILOT_NUM_NODES": "1"}, 1, None),
        (
            {"NODE_RANK": "2", "MASTER_ADDR": "a", "MASTER_PORT": "9"},
            3,
            Node(2, 3, "a", 9, "NODE_RANK"),
        ),
        ({"NODE_RANK": "2", "MASTER_ADDR": "a"}, 1, None),  # left over from something else: nothing asks for nodes
        (
            {"PET_NODE_RANK": "1", "PET_NNODES": "4", "PET_MASTER_ADDR": "b", "PET_MASTER_PORT": "8", **POD},
            1,
            Node(1, 4, "b", 8, "PET_NODE_RANK"),
        ),
        (POD, 1, Node(1, 2, "job-master-0", 23456, "RANK")),
        (POD | {"WORLD_SIZE": "1", "RANK": "0"}, 1, None),
    ],
)
def test_the_node_of_a_process(variables: dict[str, str], num_nodes: int, expected: Node | None) -> None:
    assert place_of(variables) is None
    assert node_of(variables, num_nodes=num_nodes) == expected


def test_each_process_of_a_node_has_its_place() -> None:
    assert Node(1, 3, "a", 9, "").place(2, 4) == Place(6, 12, 2, 4, "a", 9)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"NODE_RANK": "3", "MASTER_ADDR": "a"}, "NODE_RANK=3: of 2 nodes the last is 1"),
        ({"NODE_RANK": "1"}, "the environment has NODE_RANK, and no MASTER_ADDR"),
        ({"NODE_RANK": "-1", "MASTER_ADDR": "a"}, "NODE_RANK='-1'"),
    ],
)
def test_half_a_node_is_refused(variables: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        node_of(variables, num_nodes=2)


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("gpu07", "gpu07"),
        ("gpu[07-09,12],login", "gpu07"),
        ("gpu[12,14]", "gpu12"),
        ("r[1-2]n[03-04].cluster", "r1n03.cluster"),
        ("b,a", "b"),
        ("", ""),
    ],
)
def test_the_first_of_slurms_hosts(hosts: str, first: str) -> None:
    assert first_host(hosts) == first


def test_slurms_tasks_of_each_node() -> None:
    assert tasks_of_nodes("4(x2),1") == [4, 4, 1]
    assert tasks_of_nodes("") == []


def test_a_task_that_sees_one_gpu_uses_that() -> None:
    place = Place(6, 8, 2, 4, "a", 1)
    assert seeing(place, 1).local_rank == 0
    assert seeing(place, 4) == place
    assert seeing(place, 0) == place


def test_srun_s_place_is_put_into_the_variables_of_torch(environment) -> None:
    environment(SRUN)
    take_place(configuration("cluster.gpus_per_node=none"))
    expected = Place(6, 8, 2, 4, "gpu07", 15542).variables
    assert {name: os.environ[name] for name in expected} == expected
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "-1"


def test_what_is_blank_says_nothing(environment) -> None:
    environment({"RANK": "", "LOCAL_RANK": " ", "MASTER_ADDR": "node-a"})
    take_place(configuration())
    assert {name: os.environ.get(name) for name in TORCHRUN if name in os.environ} == {"MASTER_ADDR": "node-a"}


def test_alone_nothing_is_put_anywhere(environment) -> None:
    environment(BATCH_SCRIPT)
    take_place(configuration())
    assert "RANK" not in os.environ


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("cluster.gpus_per_node=3",), r"cluster.gpus_per_node=3 \(--gpus 3\): this node has 2 GPUs; give --gpus 2"),
        (
            ("cluster.num_nodes=2",),
            "cluster.num_nodes=2: nothing says which of the nodes this is; start the same line on each node",
        ),
        (("data.train.data_path=-",), "stdin: 2 processes can't each read it"),
    ],
)
def test_what_can_t_be_started(settings: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.launch.launcher.num_gpus", lambda: 2)
    with pytest.raises(UsageError, match=message):
        launch(resolve(settings, train_data_path=() if "data" in settings[0] else Path("p.jsonl")), [])


def test_a_gpu_that_is_asked_for_has_to_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.launch.launcher.num_gpus", lambda: 0)
    with pytest.raises(UsageError, match="there is no GPU here; --gpus none trains on the CPU"):
        launch(configuration("cluster.gpus_per_node=1"), [])


def test_one_process_is_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.launch.launcher.num_gpus", lambda: 1)
    assert launch(configuration(), []) is None
    monkeypatch.setattr("trainer.launch.launcher.num_gpus", lambda: 0)
    assert launch(configuration(), []) is None
    assert "RANK" not in os.environ


def test_one_process_on_each_of_two_nodes_is_this_one_too(environment) -> None:
    environment(SRUN_ON_NODES)
    assert launch(configuration("cluster.gpus_per_node=none"), []) is None
    expected = Place(1, 2, 0, 1, "gpu07", 15542).variables
    assert {name: os.environ[name] for name in expected} == expected


def test_the_processes_of_the_second_node(environment, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    monkeypatch.setattr("trainer.launch.launcher.num_gpus", lambda: 4)
    monkeypatch.setattr("trainer.launch.launcher._slow_links", dict)
    monkeypatch.setattr("trainer.launch.launcher.run_processes", lambda command, each: started.extend(each) or 75)
    environment(SKYPILOT)
    assert launch(configuration("cluster.gpus_per_node=2", "cluster.num_nodes=2"), ["train"]) == 75
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    assert [tuple(each[name] for name in names) for each in started] == [
        ("2", "4", "0", "2", "10.0.0.1", "29500"),
        ("3", "4", "1", "2", "10.0.0.1", "29500"),
    ]
    assert {each["OMP_NUM_THREADS"] for each in started} == {os.environ["OMP_NUM_THREADS"]}


def test_the_line_that_starts_the_same() -> None:
    here = Node(0, 1, "127.0.0.1", 1234, "")
    there = Node(1, 2, "node-a", 1234, "")
    arguments = ["train", "it's.jsonl", "-o", "a b"]
    rest = """dpo train 'it'"'"'s.jsonl' -o 'a b'"""
    assert launch_line(here, 8, arguments, is_on_gpus=True) == (
        f"accelerate launch --multi_gpu --num_processes 8 --no_python {rest}"
    )
    assert launch_line(here, 2, arguments, is_on_gpus=False) == f"torchrun --nproc-per-node 2 --no-python {rest}"
    assert launch_line(there, 8, arguments, is_on_gpus=True) == (
        "accelerate launch --multi_gpu --num_processes 16 --num_machines 2 --machine_rank 1 --main_process_ip node-a "
        f"--main_process_port 1234 --no_python {rest}"
    )
    assert launch_line(there, 2, ["train"], is_on_gpus=False) == (
        "torchrun --nproc-per-node 2 --nnodes 2 --node-rank 1 --master-addr node-a --master-port 1234 --no-python dpo "
        "train"
    )


def test_the_line_that_starts_the_same_tells_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "canary-of-a-password")
    arguments = ["train", "s3://me:canary@host/p.jsonl?signature=canary", "logger.wandb.name=canary-of-a-password"]
    line = launch_line(Node(0, 1, "127.0.0.1", 1234, ""), 2, arguments, is_on_gpus=False)
    assert line.endswith("dpo train 's3://***@host/p.jsonl?***' logger.wandb.name=***")


def test_a_held_port_is_free_for_who_asks_for_it() -> None:
    with held_port() as port, held_port() as other:
        assert port != other
        with socket.socket(socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET) as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(("", port))
            server.listen()


@pytest.mark.parametrize(
    ("cluster", "world_size", "is_right"),
    [
        ([], 1, True),
        ([], 5, True),
        (["cluster.gpus_per_node=1"], 1, True),
        (["cluster.gpus_per_node=4"], 4, True),
        (["cluster.gpus_per_node=4"], 8, False),
        (["cluster.gpus_per_node=4", "cluster.num_nodes=2"], 8, True),
        (["cluster.num_nodes=2"], 8, True),
        (["cluster.num_nodes=2"], 7, False),
        (["cluster.num_nodes=2"], 1, False),
        (["cluster.gpus_per_node=none"], 3, True),
        (["cluster.gpus_per_node=none", "cluster.cpu_processes=2"], 3, False),
        (["cluster.cpu_processes=2"], 3, True),  # where there are GPUs, they count
    ],
)
def test_the_number_of_processes(cluster: list[str], world_size: int, is_right: bool, environment) -> None:
    environment(TORCHRUN | {"WORLD_SIZE": str(world_size), "RANK": "0"})
    config = configuration(*cluster)
    if is_right:
        refuse_wrong_number_of_processes(config, starts_processes=True)
    else:
        with pytest.raises(UsageError, match=f"got {world_size} from the launcher"):
            refuse_wrong_number_of_processes(config, starts_processes=True)


def test_a_program_is_told_how_to_be_started() -> None:
    refuse_wrong_number_of_processes(configuration("cluster.gpus_per_node=8"), starts_processes=True)
    refuse_wrong_number_of_processes(configuration("cluster.gpus_per_node=1"), starts_processes=False)
    with pytest.raises(UsageError, match=r"expected 8 processes, .* torchrun --nproc-per-node 8 PROGRAM"):
        refuse_wrong_number_of_processes(configuration("cluster.gpus_per_node=8"), starts_processes=False)


@pytest.mark.parametrize(
    ("cluster", "variables", "message"),
    [
        (["cluster.num_nodes=3"], SKYPILOT, "SKYPILOT_NODE_RANK says that there are 2 nodes; set cluster.num_nodes=2"),
        (["cluster.gpus_per_node=8"], SRUN_ON_NODES, "srun says that there are 2 nodes"),
        (["cluster.num_nodes=2"], BATCH_SCRIPT, "start it with: srun --ntasks-per-node=1 dpo train"),
    ],
)
def test_the_number_of_nodes(cluster: list[str], variables: dict[str, str], message: str, environment) -> None:
    environment(variables)
    with pytest.raises(UsageError, match=message):
        known_node(configuration(*cluster).cluster)


def test_the_environment_s_number_of_nodes_counts_where_none_is_told(environment) -> None:
    environment(SKYPILOT)
    assert known_node(configuration().cluster) == known_node(configuration("cluster.num_nodes=2").cluster)
