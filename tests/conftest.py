"""Fixtures shared by all tests: the command in a new process or a forked one, makers of rollout rows and of JSONL."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from tests.warm import WarmServer

# The models of the tests are so small that a second thread only waits; on a busy machine it waits for long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Hundreds of runs: only tests of the report have them make their pages.
os.environ.setdefault("DPO_REPORT", "0")

# A shell starts what runs in the background with Ctrl-C ignored, nohup with SIGHUP, and children inherit that; the
# tests send both.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# How long an example takes says more of the machine than of the code.
settings.register_profile("dpo", deadline=None)
settings.load_profile("dpo")

ROOT = Path(__file__).resolve().parent.parent

pytest_plugins = ["tests.browser"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put tests that fork first: Polars' threads and what Accelerate knows of a run are no good in a forked process.

    Then come the files with slow tests, so that files are short at the end, where a process may have nothing to do. At
    the very end come those of the browser, which leave an event loop running in their thread.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(
        key=lambda item: (
            item.get_closest_marker("browser") is not None,
            item.get_closest_marker("forks") is None,
            item.path not in slow,
        )
    )


@pytest.fixture(scope="session", autouse=True)
def _caches_of_their_own(tmp_path_factory):
    """Keep the user's caches out of the tests, and the tests out of them."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("caches"))


@pytest.fixture
def dpo(tmp_path):
    """Run `dpo ARGS...` in `tmp_path` (or `cwd`) and give the completed process, its output as text."""

    def run(*args, cwd=None, stdin=None, timeout=120, **env):
        return subprocess.run(
            [sys.executable, "-m", "cli", *map(str, args)],
            cwd=cwd or tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), **env},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def _warm_server():
    server = WarmServer()
    yield server
    server.end()


@pytest.fixture
def warm_dpo(tmp_path, _warm_server):
    """Do as `dpo`, with torch loaded already; Hugging Face's hub is offline."""

    def run(*args, cwd=None, stdin="", num_processes=1, **env):
        return _warm_server.run(*args, cwd=cwd or tmp_path, stdin=stdin, num_processes=num_processes, environment=env)

    return run


@pytest.fixture
def rollout():
    """Make a minimal row of a NeMo Gym rollout file; keyword arguments become further top-level keys."""

    def make(prompt="Q", response="A", reward=1.0, *, params=None, **keys):
        given = [{"type": "message", "role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        part = {"type": "output_text", "text": response, "annotations": []}
        answer = {"type": "message", "role": "assistant", "content": [part]}
        return {
            "responses_create_params": {"input": given, **(params or {})},
            "response": {"output": [answer] if isinstance(response, str) else response},
            "reward": reward,
            **keys,
        }

    return make


@pytest.fixture
def write_jsonl():
    """Write rows as JSONL; a row that is bytes is written as it is. Gives the path."""

    def write(path, rows):
        path.write_bytes(
            b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)
        )
        return path

    return write
