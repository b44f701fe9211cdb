"""A policy in parts, looked at from within two processes: precision, what stays whole, what is gathered."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


@pytest.mark.slow
def test_a_policy_in_parts_computes_as_a_whole_one(tmp_path: Path) -> None:
    launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node=2")
    result = subprocess.run(
        [sys.executable, "-m", *launcher, str(REPOSITORY / "tests" / "sharded_processes.py")],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("is content") == 2
