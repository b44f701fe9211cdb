"""The batch script of `dpo cluster slurm`, run with stand-ins for srun and scontrol."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.slurm_stubs import SCRIPT, Cluster, child_of, wait_for, write_script

HOSTILE = (
    "with space",
    "it's",
    'a "quote"',
    "$HOME",
    "$(touch pwned)",
    "`touch pwned`",
    "back\\slash",
    "*",
    "a;b&c|d",
    "!history",
    "#comment",
    "~",
    "ünï",
)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.chdir(tmp_path)
    cluster = Cluster(tmp_path)
    cluster.install()
    return cluster


def write_usual() -> None:
    write_script("pairs.jsonl", "--model", "m", "-o", "runs/x", "--gpus-per-node", "2")


def test_a_job_that_stops_with_a_checkpoint_is_queued_again_until_it_has_finished(cluster: Cluster) -> None:
    write_usual()
    cluster.plan([(0, 75), (0, 75)], [(0, 0), (0, 0)])
    assert cluster.run(SCRIPT) == (0, "")
    assert cluster.requeued == ["1234567"]
    assert cluster.run(SCRIPT, restarts=1) == (0, "")
    assert cluster.requeued == ["1234567"]  # once: the second start has trained to the end
    line = ["train", "pairs.jsonl", "cluster.gpus_per_node=2", "--output=runs/x", "--model=m", "--resume=auto"]
    assert [cluster.told(start, rank)["argv"] for start in (0, 1) for rank in (0, 1)] == [line] * 4
    assert not list(cluster.folder.glob(".dpo-stopped*"))


def test_processes_are_told_where_they_meet_and_where_caches_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(tmp_path, num_nodes=2, hosts="node07,node11")
    monkeypatch.chdir(tmp_path)
    cluster.install()
    write_script("pairs.jsonl", "--model", "m", "-o", "runs/x", "--nodes", "2", "--gpus-per-node", "1")
    cluster.plan([(0, 0), (0, 0)])
    assert cluster.run(SCRIPT, HOME="/home/me") == (0, "")
    for rank in (0, 1):
        assert cluster.told(0, rank)["environment"] == {
            "MASTER_ADDR": "node07",
            "MASTER_PORT": "24567",  # 20000 + 1234567 mod 10000
            "HF_HOME": f"{tmp_path}/cache/huggingface",
            "HF_TOKEN_PATH": "/home/me/.cache/huggingface/token",
            "XDG_CACHE_HOME": f"{tmp_path}/cache",
            "TRITON_CACHE_DIR": "/tmp/dpo-1234567/triton",
            "OMP_NUM_THREADS": "1",
        }
    assert (tmp_path / "srun.jsonl").read_text() == '["--kill-on-bad-exit=1", "--wait=0"]\n'


def test_caches_that_are_told_stay(cluster: Cluster) -> None:
    write_usual()
    cluster.plan([(0, 0), (0, 0)])
    assert cluster.run(SCRIPT, HF_HOME="/shared/hf", SLURM_TMPDIR="/scratch")[0] == 0
    environment = cluster.told(0, 1)["environment"]
    assert (environment["HF_HOME"], environment["TRITON_CACHE_DIR"]) == ("/shared/hf", "/scratch/dpo-1234567/triton")
    assert environment["HF_TOKEN_PATH"] == "/shared/hf/token"


@pytest.mark.parametrize(
    ("plan", "code", "queued_again"),
    [
        ([(0, 0), (0, 0)], 0, False),
        ([(0, 75), (0, 75)], 0, True),
        ([(0, 0), (0.5, 75)], 0, True),
        ([(0.5, 75), (0, 1)], 137, False),  # rank 0 is killed
        ([(0, 75), (0.5, 1)], 1, False),  # though one has saved: its checkpoint is not whole, and 75 > 1
        ([(0, 3), (0, 3)], 3, False),
        ([(0, 143), (60, 0)], 143, False),
    ],
)
def test_other_codes_fail_the_job(cluster: Cluster, plan, code: int, queued_again: bool) -> None:
    write_usual()
    cluster.plan(plan)
    started = time.monotonic()
    found, errors = cluster.run(SCRIPT)
    assert time.monotonic() - started < 20  # nobody waits for who has failed
    assert found in ({code, 137} if code not in (0, 1) else {code})  # 137: killed before its own code
    assert (f"dpo ended with code {found}: the job has failed, and is not queued again" in errors) == (found != 0)
    assert cluster.requeued == (["1234567"] if queued_again else [])
    assert not list(cluster.folder.glob(".dpo-stopped*"))


@pytest.mark.parametrize("code", [0, 75])
def test_a_process_that_ends_well_leaves_the_others_their_time(cluster: Cluster, code: int) -> None:
    """The main process saves the policy, or tells trackers, when the others have ended."""
    write_usual()
    cluster.plan([(1.5, code), (0, code)])
    assert cluster.run(SCRIPT)[0] == 0
    assert cluster.ended(0, 0) == "by itself"
    assert bool(cluster.requeued) == (code == 75)


def test_a_process_that_fails_ends_the_others_at_once(cluster: Cluster) -> None:
    write_usual()
    cluster.plan([(60, 0), (0.2, 1)])
    assert cluster.run(SCRIPT)[0] == 137
    assert cluster.ended(0, 0) is None
    assert cluster.requeued == []


def test_the_signal_before_the_time_is_up_reaches_each_process(cluster: Cluster) -> None:
    """It goes to all processes of the job step, so to the shell of each task too, which has to stay."""
    write_usual()
    cluster.plan([(60, 1), (60, 1)])
    process = cluster.start(SCRIPT)
    wait_for(lambda: all((cluster.folder / f"dpo-0-{rank}.json").exists() for rank in (0, 1)), process)
    os.kill(child_of(process), signal.SIGUSR1)
    process.communicate(timeout=20)
    assert process.returncode == 0
    assert [cluster.ended(0, rank) for rank in (0, 1)] == ["signalled", "signalled"]
    assert cluster.requeued == ["1234567"]


def test_a_job_is_not_queued_again_for_ever(cluster: Cluster) -> None:
    write_usual()
    cluster.plan(*[[(0, 75), (0, 75)]] * 101)
    code, errors = cluster.run(SCRIPT, restarts=100)
    assert (code, cluster.requeued) == (75, [])
    assert "after 100 restarts: not queued again; sbatch goes on from there" in errors
    assert cluster.run(SCRIPT, restarts=99)[0] == 0
    assert cluster.requeued == ["1234567"]


def test_a_job_that_slurm_does_not_queue_again_says_so(cluster: Cluster) -> None:
    write_usual()
    cluster.plan([(0, 75), (0, 75)])
    (cluster.folder / "no-requeue").touch()
    code, errors = cluster.run(SCRIPT)
    assert code == 75
    assert "Slurm does not queue the job again; sbatch goes on from there" in errors


def test_arguments_come_through_the_shell_as_they_were_given(cluster: Cluster) -> None:
    pairs = [f"{name}.jsonl" for name in HOSTILE]
    folder = "runs/" + " ".join(HOSTILE)
    system = f"data.train.0.system_prompt_file={HOSTILE[4]}"
    write_script(*pairs, system, "--model", folder, "-o", folder, "--gpus-per-node", "2")
    cluster.plan([(0, 0), (0, 0)])
    assert cluster.run(SCRIPT) == (0, "")
    options = [f"--output={folder}", f"--model={folder}", "--resume=auto"]
    assert cluster.told(0, 0)["argv"] == ["train", *pairs, system, "cluster.gpus_per_node=2", *options]
    assert not (cluster.folder / "pwned").exists()


def test_pairs_that_look_like_options_come_after_two_dashes(cluster: Cluster) -> None:
    write_script("--model", "m", "-o", "x", "--gpus-per-node", "2", "--", "-pairs.jsonl")
    cluster.plan([(0, 0), (0, 0)])
    assert cluster.run(SCRIPT) == (0, "")
    line = ["train", "--output=x", "--model=m", "--resume=auto", "--", "-pairs.jsonl", "cluster.gpus_per_node=2"]
    assert cluster.told(0, 1)["argv"] == line


def test_setup_runs_before_all_else(cluster: Cluster) -> None:
    """Without it there is no dpo on the PATH of the script; and it may use what is not set, as conda's scripts do."""
    (cluster.folder / "bin" / "dpo").rename(cluster.folder / "bin" / "moved")
    setup = 'dpo() { moved "$@"; }; export -f dpo'
    write_script("p.jsonl", "--model", "m", "--gpus-per-node", "2", "--setup", setup, "--setup", "export A=$UNSET")
    cluster.plan([(0, 0), (0, 0)])
    assert cluster.run(SCRIPT) == (0, "")
    assert cluster.told(0, 0)["argv"][0] == "train"


@pytest.mark.parametrize(
    "options", [(), ("--nodes", "2", "--gpu", "h100", "--setup", "true"), ("--gpus-per-node=none",)]
)
def test_the_script_is_bash(cluster: Cluster, options: tuple[str, ...]) -> None:
    write_script("p.jsonl", "--model", "m", *options)
    checked = subprocess.run(["bash", "-n", SCRIPT], cwd=cluster.folder, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
