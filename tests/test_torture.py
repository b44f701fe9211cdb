"""kill -9 at points drawn over the whole of a run: each ends, once it is gone on with, as one that was not killed.

`make torture` draws DPO_TORTURE_KILLS points (200); CI draws twenty. What a long run has shown is in
docs/reliability.md.
"""

import os
import random
import shutil
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.torture import Job, Kill, outcome
from tests.training_runs import USUAL, filled, held_out

KILLS = int(os.environ.get("DPO_TORTURE_KILLS", "20"))
SEED = int(os.environ.get("DPO_TORTURE_SEED", "0"))


pytestmark = [pytest.mark.slow, pytest.mark.forks]


def job_of(folder: Path, *settings: str) -> Job:
    filled(folder)
    keeps = ("checkpointing.save_period=2", "checkpointing.keep_top_k=1", "checkpointing.keep_states=1")
    return Job(folder, (*USUAL, "dpo.max_num_steps=7", held_out(folder), *keeps, *settings), "whole")


def test_a_killed_run_ends_as_one_that_was_not(tmp_path: Path) -> None:
    """Saving and pruning are most of the operations; one run in four is killed a second time on its way on."""
    job = job_of(tmp_path)
    operations = job.count_operations()
    expected, files = outcome(job.run), sorted(path.relative_to(job.run) for path in job.run.rglob("*"))
    assert operations > 100
    draw = random.Random(SEED)
    kills = resumes = 0
    for number in range(KILLS):
        job = Job(job.folder, job.settings, f"run_{number}")
        points = [draw.randint(1, operations)] + ([draw.randint(1, operations // 2)] if number % 4 == 3 else [])
        for point in points:
            code = job.start(kill=Kill(at_operation=point))
            assert code in (-signal.SIGKILL, 0), job.log.read_text()
            kills += code != 0
        assert job.start() == 0, job.log.read_text()
        resumes += "resume: after step" in job.log.read_text()
        assert outcome(job.run) == expected, (points, job.log.read_text())
        assert sorted(path.relative_to(job.run) for path in job.run.rglob("*")) == files, points
        shutil.rmtree(job.run)
    print(f"{kills} kills, {resumes} runs gone on with from a checkpoint, 0 mismatches, {operations} operations")  # noqa: T201
    assert resumes > KILLS // 4


@pytest.mark.parametrize("profile", ["ddp", "fsdp2"])
def test_other_numbers_of_processes_go_on_with_the_same_pairs(tmp_path: Path, profile: str) -> None:
    """Two steps on 2 processes, two on 1, three on 4, against 1 process; SGD, so that rounding is not blown up."""
    settings = (
        *("policy.optimizer.name=sgd", "policy.optimizer.lr=0.05"),
        *(
            "policy.tokens_per_microbatch=60",
            "policy.max_total_sequence_length=60",
            f"cluster.accelerate_config={profile}",
        ),
    )
    job = job_of(tmp_path, *settings)
    assert job.start() == 0, job.log.read_text()
    expected_weights = load_file(job.run / "policy" / "model.safetensors")
    _, expected_lines = outcome(job.run)
    job = Job(job.folder, job.settings, "run")
    stop = "checkpointing.checkpoint_must_save_by=0:0:0:0"
    for num_processes in (2, 2, 1, 1):
        assert set(job.start_many(num_processes, stop)) == {75}, job.log.read_text()
    assert job.start_many(4) == [0, 0, 0, 0], job.log.read_text()
    found = load_file(job.run / "policy" / "model.safetensors")
    assert found.keys() == expected_weights.keys()
    for name, value in expected_weights.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6)
    _, lines = outcome(job.run)
    assert [line["step"] for line in lines] == [line["step"] for line in expected_lines]
    for line, expected in zip(lines, expected_lines, strict=True):
        for key in ("train/consumed_samples", "train/global_valid_toks", "validation-default/num_valid_samples"):
            assert line.get(key) == expected.get(key)
        for key in ("train/loss", "train/grad_norm", "validation-default/loss"):
            assert line.get(key) == pytest.approx(expected.get(key), abs=1e-5)
