"""The run's report.html, made anew while it trains by a process of its own: `dpo report RUN`.

It is a guest of the run: it has no part of the run's environment, lock or output, gives way to whatever else computes,
and where it fails the run goes on. At most one is made at a time.
"""

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from schemas.errors import DpoError
from schemas.extras import install_command
from schemas.terminal import one_line, path_text, printable
from trainer.save.run_folder import CONFIG_FILE, PAGE_FILE
from trainer.watch.health import Health
from trainer.watch.run_facts import End, write_begin, write_end, write_health

SWITCH = "DPO_REPORT"
"""Environment variable: with 0 no run makes a page, whatever its configuration says."""

LAST_SECONDS: dict[End, float] = {"finished": 60.0, "stopped": 10.0, "failed": 10.0}
"""The longest wait for the last page; who stops a run may have little time."""

LEAVING_SECONDS = 2.0
"""What a process gets to clean up that is ended."""

PAUSE_SECONDS = 30.0
"""Between the beginnings of two pages: a run that validates every few seconds would make pages all the time."""

NICENESS = 10
PACKAGES = ("jinja2", "matplotlib")
NOT_INHERITED = (
    *("RANK", "LOCAL_", "WORLD_SIZE", "GROUP_", "ROLE_", "MASTER_", "NODE_RANK", "NNODES"),
    *("ACCELERATE_", "FSDP_", "DEEPSPEED_", "TORCH", "PARALLELISM_", "DPO_LAUNCHED_BY"),
)
"""Beginnings of the variables by which launchers tell a process that it is one of several."""

ROOT = Path(__file__).parents[2]
CHILD = "import sys; sys.path.append(sys.argv.pop(1)); import cli; sys.argv[0] = 'dpo'; cli.main()"
"""`python -m cli` would run a cli.py that lies where the run was started."""


@dataclass
class RunPage:
    """Keeps run.json, health.json and report.html; on all processes but the main one it does nothing."""

    folder: Path
    health: Health
    say: Callable[[str], None]
    writes: bool
    draws: bool  # makes pages too
    child: "subprocess.Popen[bytes] | None" = None
    has_ended: bool = field(default=False, init=False)
    started: float = field(default=-math.inf, init=False)  # when the last child was

    def begin(self, facts: Callable[[], Mapping[str, Any]], *, steps_done: int) -> None:
        """Write down what the run is; `facts` has files digested, so it is called on the main process alone."""
        if self.writes:
            with self._guarded():
                write_begin(self.folder, facts(), steps_done=steps_done)
                write_health(self.folder, self.health)

    def note_health(self) -> None:
        """Write down what was seen so far."""
        if self.writes:
            with self._guarded():
                write_health(self.folder, self.health)

    def update(self) -> None:
        """Begin to make the page anew, unless that is being done, or was just now."""
        self.note_health()
        is_idle = self.child is None or self.child.poll() is not None
        if self.draws and is_idle and time.monotonic() - self.started > PAUSE_SECONDS:
            self._start()

    def end(self, how: End, why: str = "", *, waits: bool = True) -> None:
        """Write down how the run ended, make the last page, and wait for it for a while."""
        if not self.writes or self.has_ended:
            return
        self.has_ended = True
        self.note_health()
        with self._guarded():
            write_end(self.folder, how, why)
        if not self.draws:
            return
        self._end_child()  # what it makes would be old
        if self._start() and waits:
            self._tell(self._waited(LAST_SECONDS[how]))

    def _tell(self, exit_code: int | None) -> None:
        run, page = path_text(self.folder), path_text(self.folder / PAGE_FILE)
        if exit_code is None:
            self.say(f"no report was made in time; dpo report {run} makes {page}")
        elif exit_code:
            self.say(f"the report could not be made, or not whole; dpo report {run} says why")
        else:
            self.say(f"report: {page}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Tell of a run that fails, unless its folder was given back."""
        if error is None or self.has_ended or not self.writes or not (self.folder / CONFIG_FILE).exists():
            return
        if isinstance(error, KeyboardInterrupt):  # who interrupts a run does not want to wait
            self.end("stopped", "by Ctrl-C", waits=False)
            return
        why = one_line(error) if isinstance(error, DpoError) else f"{type(error).__name__}: {error}"
        self.end("failed", why, waits=isinstance(error, Exception))

    def _start(self) -> bool:
        """Start the process that makes the page; say whether it could be."""
        self.started = time.monotonic()
        with self._guarded():
            self.child = subprocess.Popen(
                [sys.executable, "-c", CHILD, str(ROOT), "report", str(self.folder.absolute())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=child_environment(os.environ),
                start_new_session=True,  # signals to the run are none of its business
            )
            with suppress(OSError):  # it has ended already
                os.setpriority(os.PRIO_PROCESS, self.child.pid, NICENESS)
            return True
        return False

    def _waited(self, seconds: float) -> int | None:
        """Wait for the page that is being made, and end it where it takes too long; give its exit code."""
        if self.child is None:
            return None
        try:
            return self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            self._end_child()
            return None

    def _end_child(self) -> None:
        """End the process that makes a page; it cleans up where it can."""
        if self.child is None or self.child.poll() is not None:
            return
        self.child.terminate()
        try:
            self.child.wait(LEAVING_SECONDS)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Say what has failed; a page is not worth a run."""
        try:
            yield
        except (DpoError, OSError) as error:
            self.say(f"warning: report: {one_line(error)}")


def start_page(folder: Path, health: Health, *, is_enabled: bool, is_main: bool, say: Callable[[str], None]) -> RunPage:
    """Say what will be made of a run's page: none where it is not wanted, or what it takes is not installed."""
    draws = is_enabled and is_main and os.environ.get(SWITCH) != "0"
    missing = [name for name in PACKAGES if draws and find_spec(name) is None]
    if missing:
        say(
            f"no report is made, for {printable(' and '.join(missing))} is not installed; it comes with the extra "
            f"report: {install_command('report')}; logger.report_enabled=false makes none"
        )
    return RunPage(folder, health, say, writes=is_main, draws=draws and not missing)


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Give the environment of a process that is no part of the run, and sees no GPU."""
    kept = {name: value for name, value in environment.items() if not name.startswith(NOT_INHERITED)}
    return {**kept, "CUDA_VISIBLE_DEVICES": "", "PYTHONSAFEPATH": "1", "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"}
