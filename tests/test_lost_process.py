"""A process that dies, or stands still, ends the run on the others: soon, with a reason, and with no traceback."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from schemas.errors import DpoError
from schemas.preference import write_rows
from tests.tiny_models import save_tiny_policy
from trainer.run.processes import lost_process

REPOSITORY = Path(__file__).parents[1]
MINUTES = 0.1  # six seconds


def start(folder: Path, name: str, port: int, rank: int) -> "subprocess.Popen[str]":
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    environment = os.environ | {key: str(value) for key, value in places.items()}
    environment |= {"MASTER_ADDR": "127.0.0.1", "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(REPOSITORY / "tests" / "losing_process.py"), name, str(MINUTES), str(folder)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGKILL", "SIGSTOP"])
def test_the_others_end_with_a_reason(tmp_path: Path, name: str) -> None:
    write_rows(tmp_path / "pairs.jsonl", [{"prompt": f"{n}", "chosen": "yes", "rejected": "no"} for n in range(40)])
    save_tiny_policy(tmp_path / "policy")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    first, second = (start(tmp_path, name, port, rank) for rank in range(2))
    try:
        assert first.stderr is not None
        told = ""
        while "step" not in told.rpartition("\n")[0].rpartition("\n")[2]:  # the first step's line
            line = first.stderr.readline()
            assert line, told
            told += line
        started = time.monotonic()
        told += first.communicate(timeout=60)[1]
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()
    assert first.returncode == 1, told
    assert "another process has ended or does not answer" in told
    assert "Traceback" not in told
    assert time.monotonic() - started < 60 * MINUTES + 20


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes"), lost_process():
        raise RuntimeError("shapes don't fit")
    with pytest.raises(DpoError, match="no pairs"), lost_process():
        raise DpoError("no pairs: connection closed by peer")
