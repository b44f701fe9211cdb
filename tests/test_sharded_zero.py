"""DeepSpeed's ZeRO on two CPU processes, where the package is installed (the extra deepspeed)."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from schemas.preference import write_rows
from tests.tiny_models import save_tiny_policy
from tests.training_runs import STEPS_OF_EIGHT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed"),
]

REPOSITORY = Path(__file__).parents[1]
LAUNCHER = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def run(folder: Path, *command: str, **variables: str) -> str:
    usual = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    environment = os.environ | usual | variables
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("stage", [2, 3])
def test_zero_changes_nothing_but_rounding(tmp_path: Path, stage: int) -> None:
    write_rows(tmp_path / "pairs.jsonl", STEPS_OF_EIGHT)
    save_tiny_policy(tmp_path / "policy")
    settings = (
        "policy.train_global_batch_size=8",
        "policy.max_total_sequence_length=36",
        "reference.cache_dir=null",
        "policy.optimizer.lr=1e-3",
        "policy.optimizer.eps=1e-3",  # so that Adam does not blow rounding errors up to whole steps
        "policy.max_grad_norm=0.5",
        "logger.num_val_samples_to_print=2",
        "logger.sample_period=2",
        "logger.sample_max_new_tokens=6",
    )
    train = ("cli", "train", "pairs.jsonl", "--model", "policy", *settings)
    run(tmp_path, sys.executable, "-m", *train, "-o", "alone")
    # as `accelerate launch --use_deepspeed` says it
    switches = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage)}
    split = "policy.tokens_per_microbatch=36"
    run(tmp_path, *LAUNCHER, "-m", *train, "-o", "shared", split, **switches, ACCELERATE_DEEPSPEED_ZERO3_INIT="false")
    expected, found = (load_file(tmp_path / name / "policy" / "model.safetensors") for name in ("alone", "shared"))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6)
    assert (tmp_path / "alone/samples.jsonl").read_text() == (tmp_path / "shared/samples.jsonl").read_text()


@pytest.mark.parametrize("stage", ["2", "3"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_state_is_taken_up(tmp_path: Path, stage: str, optimizer: str) -> None:
    program = str(REPOSITORY / "tests" / "zero_processes.py")
    assert run(tmp_path, *LAUNCHER, program, stage, optimizer).count("content") == 2
