"""`dpo` in processes that are forked from one which has torch loaded, so that a test does not wait for that each time.

    python -m tests.warm < requests > answers

The server loads packages and nothing of ours: no thread of Polars is in it, and each forked process imports `cli` anew,
runs `cli.main` and ends by itself. So exit codes and messages are those that a user gets.
"""

import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
MOST_SECONDS = 240


class WarmServer:
    """A server, and the way to it."""

    def __init__(self) -> None:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.warm"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what packages say when they are loaded
            text=True,
        )

    def run(
        self,
        *arguments: object,
        cwd: Path,
        stdin: str = "",
        num_processes: int = 1,
        environment: Mapping[str, str] | None = None,
        together: bool = False,
        script: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run `dpo ARGUMENTS...`, on several processes as a launcher does; the first exit code that is not 0 counts.

        What it says on stderr is told with what it says on stdout if that is wanted: `together`. A `script` is run as
        `python SCRIPT ARGUMENTS...` would, in place of `dpo`.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with tempfile.TemporaryDirectory() as scratch:
            places = [str(Path(scratch) / name) for name in ("stdin", "stdout", "stderr")]
            Path(places[0]).write_text(stdin)
            Path(places[2]).touch()
            writes = [places[1], places[1]] if together else places[1:]
            ranks = [{}] if num_processes == 1 else _ranks(num_processes)
            request = {
                "arguments": [str(each) for each in arguments],
                "cwd": str(cwd),
                "script": script,
                "places": [places[0], *writes],
                "environments": [{**(environment or {}), **rank} for rank in ranks],
            }
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            codes = json.loads(self._process.stdout.readline())
            stdout, stderr = (Path(place).read_text() for place in places[1:])
        code = next((code for code in codes if code), 0)
        return subprocess.CompletedProcess(request["arguments"], code, stdout, stderr)

    def end(self) -> None:
        """End the server."""
        self._process.communicate()


def _ranks(num_processes: int) -> list[dict[str, str]]:
    from tests.torture import free_port

    port = free_port()
    return [
        {
            **{"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
            **{"WORLD_SIZE": str(num_processes), "LOCAL_WORLD_SIZE": str(num_processes)},
        }
        for rank in range(num_processes)
    ]


def _serve() -> None:
    import accelerate  # noqa: F401
    import peft  # noqa: F401
    import transformers  # noqa: F401

    for line in sys.stdin:
        request = json.loads(line)
        children = []
        for environment in request["environments"]:
            child = os.fork()
            if child == 0:
                _become(request, environment)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        sys.stdout.write(json.dumps(codes) + "\n")
        sys.stdout.flush()


def _become(request: dict[str, Any], environment: Mapping[str, str]) -> NoReturn:
    """Be `dpo` in a process of its own."""
    signal.alarm(MOST_SECONDS)  # what hangs ends, and its test tells that
    os.chdir(request["cwd"])
    os.environ.update(environment)
    reads, *writes = request["places"]
    _put(0, os.open(reads, os.O_RDONLY))
    for number, place in zip((1, 2), writes, strict=True):
        _put(number, os.open(place, os.O_WRONLY | os.O_CREAT | os.O_APPEND))
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
    script = request["script"]
    sys.argv = [script or "dpo", *request["arguments"]]
    code: Any = 4
    try:
        if script is None:
            import cli

            cli.main()
        else:
            sys.path[0] = str(Path(script).resolve().parent)
            runpy.run_path(script, run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _put(number: int, opened: int) -> None:
    os.dup2(opened, number)
    os.close(opened)


if __name__ == "__main__":
    _serve()
