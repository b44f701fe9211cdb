"""Job files run on one machine with dpo itself: two tasks of Slurm's over two starts, two pods of Kubernetes."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

import cli
from tests.slurm_stubs import SCRIPT, Cluster, child_of, wait_for, write_script
from tests.training_runs import USUAL, filled, lines_of

REPOSITORY = Path(__file__).parents[1]
DPO_ITSELF = "#!{python}\nimport cli\n\ncli.main()\n"


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


@pytest.mark.slow
def test_a_pod_that_is_evicted_ends_all_pods_with_75(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """A pod that ends with 0 would be done, and never be started again with the others."""
    monkeypatch.chdir(filled(tmp_path))
    asked = ("--nodes", "2", "--gpus-per-node", "none", "--image", "i", "--cpus-per-task", "1")
    cli.app(["cluster", "k8s", "pairs.jsonl", "--model", "policy", "-o", "x", *asked, *USUAL], standalone_mode=False)
    job = list(yaml.safe_load_all(capsys.readouterr().out))[-1]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    told = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    told |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}  # there is no DNS of a service here
    told |= {name: str(tmp_path / "cache") for name in ("HF_HOME", "XDG_CACHE_HOME")}
    command = [sys.executable, "-m", "cli", *container["command"][1:]]
    pods = [
        subprocess.Popen(
            command,
            env=os.environ | told | {"NODE_RANK": str(rank), "PYTHONPATH": str(REPOSITORY)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    metrics = tmp_path / "x" / "metrics.jsonl"
    until = time.monotonic() + 120
    while not (metrics.exists() and metrics.stat().st_size):
        assert all(pod.poll() is None for pod in pods), [pod.communicate() for pod in pods]
        assert time.monotonic() < until
        time.sleep(0.05)
    pods[1].send_signal(signal.SIGTERM)  # not the one with the main process
    errors = [pod.communicate(timeout=120)[1] for pod in pods]
    assert [pod.returncode for pod in pods] == [75, 75], errors
    assert errors[0].count("dpo: stopped: ") == 1


@pytest.mark.slow
def test_two_processes_train_over_two_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way with dpo itself: signalled, saved, queued again, gone on with, finished."""
    cluster = Cluster(filled(tmp_path))
    cluster.install(dpo=False)
    cluster.put_on_path("dpo", DPO_ITSELF)
    monkeypatch.chdir(tmp_path)
    on_cpu = ("--gpus-per-node", "none", "cluster.cpu_processes=2")
    write_script("pairs.jsonl", "--model", "policy", "-o", "runs/x", *on_cpu, *USUAL)  # 9 times 3 steps
    metrics = tmp_path / "runs" / "x" / "metrics.jsonl"

    process = cluster.start(SCRIPT, PYTHONPATH=str(REPOSITORY))
    wait_for(lambda: metrics.exists() and metrics.stat().st_size > 0, process)
    os.kill(child_of(process), signal.SIGUSR1)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "2 processes" in errors
    assert "by SIGUSR1" in errors
    assert cluster.requeued == ["1234567"]
    num_before = len(lines_of(metrics.parent))
    assert 0 < num_before < 27

    code, errors = cluster.run(SCRIPT, restarts=1, PYTHONPATH=str(REPOSITORY))
    assert code == 0, errors
    assert [line["step"] for line in lines_of(metrics.parent)] == [*range(1, 28)]
    assert (metrics.parent / "policy" / "model.safetensors").is_file()
    assert cluster.requeued == ["1234567"]
