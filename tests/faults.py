"""`dpo train` in forked processes, and faults that strike one of them at a place that a test names.

A process runs the command itself, from `cli.main` on, so that exit codes and messages are those that a user gets. What
strikes is told by `strikes`, which each process calls with its rank before it starts.
"""

import ctypes
import faulthandler
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

import cli
from tests.torture import MOST_SECONDS, become, end, free_port
from tests.training_runs import USUAL, held_out
from trainer.checkpoint.manifest import check_files, read_manifest
from trainer.checkpoint.places import steps_in
from trainer.run import evaluation, loop

Act = Callable[[], object]
Strikes = Callable[[int], object]

EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "shutil.rmtree", "os.chmod")
SAVES = ("checkpointing.save_period=2", "checkpointing.keep_states=null", "reference.cache_dir=null")
CAPABILITIES_VERSION = 0x20080522
IDLE_SECONDS = 0.5


@dataclass
class Child:
    """A process that trains. What it says goes through a pipe, which has no end of a disk to meet."""

    number: int
    reads: int
    _told: bytes = b""
    _is_unread: bool = False

    @property
    def told(self) -> str:
        """Give what it has written so far."""
        with suppress(BlockingIOError):
            while not self._is_unread and (content := os.read(self.reads, 65536)):
                self._told += content
        return self._told.decode()

    @property
    def last_line(self) -> str:
        """Give the last line of what it has written."""
        return (self.told.splitlines() or [""])[-1]

    def send(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.number, number)

    def until(self, text: str, within: float = 60) -> None:
        """Wait until it has written something."""
        give_up = time.monotonic() + within
        while text not in self.told:
            assert time.monotonic() < give_up, self.told
            time.sleep(0.01)

    def until_it_waits(self, within: float = 60) -> None:
        """Wait until its main thread sleeps and it has used no time of a processor for a while."""
        give_up, used, since = time.monotonic() + within, "", time.monotonic()
        while time.monotonic() - since < IDLE_SECONDS:
            state, *rest = Path(f"/proc/{self.number}/stat").read_text().rpartition(") ")[2].split()
            now = " ".join(rest[10:12])  # utime and stime of all its threads
            if now != used or state != "S":
                used, since = now, time.monotonic()
            assert time.monotonic() < give_up, self.told
            time.sleep(0.02)

    def hang_up(self) -> None:
        """Read no longer what it says, so that it can't write it."""
        self._is_unread = True
        os.close(self.reads)

    def end(self, within: float = 60) -> int:
        """Wait for its end; give its exit code, below 0 where a signal ended it. Without an end in time it is killed.

        What it has told never has a traceback.
        """
        give_up = time.monotonic() + within
        while os.waitid(os.P_PID, self.number, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            if time.monotonic() > give_up:
                os.kill(self.number, signal.SIGKILL)
                end(self.number)
                pytest.fail(f"no end within {within} seconds:\n{self.told}")
            time.sleep(0.01)
        code = end(self.number)
        assert "Traceback" not in self.told, self.told
        if not self._is_unread:
            self.hang_up()
        return code


def start(
    folder: Path, *told: str, name: str = "run", pairs: str = "pairs.jsonl", strikes: Strikes = lambda rank: None
) -> Child:
    """Start `dpo train --resume auto` on a folder of `tests.training_runs.filled`."""
    return start_many(1, folder, *told, name=name, pairs=pairs, strikes=strikes)[0]


def start_many(
    num_processes: int,
    folder: Path,
    *told: str,
    name: str = "run",
    pairs: str = "pairs.jsonl",
    strikes: Strikes = lambda rank: None,
) -> list[Child]:
    """Start it on several processes, as a launcher does."""
    arguments = [str(folder / pairs), "--model", str(folder / "policy"), "-o", str(folder / name)]
    arguments += [] if any(each.startswith("checkpointing.resume=") for each in told) else ["--resume", "auto"]
    arguments += ["--gpus", "none", *USUAL, held_out(folder), *SAVES, "dpo.max_num_steps=5", *told]
    port = free_port()
    children = []
    for rank in range(num_processes):
        reads, writes = os.pipe()
        child = os.fork()
        if child == 0:
            become(rank, num_processes, port)
            _train_and_leave(arguments, writes, rank, strikes)
        os.close(writes)
        os.set_blocking(reads, False)
        children.append(Child(child, reads))
    return children


def _train_and_leave(arguments: list[str], output: int, rank: int, strikes: Strikes) -> NoReturn:
    """Run the command, and leave without a way back into the test that has forked."""
    code: Any = 4
    try:
        torch.set_num_threads(1)  # OpenMP's threads of the process that has forked are not here
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number in (1, 2):
            os.dup2(output, number)
        sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)  # pytest has its own
        faulthandler.dump_traceback_later(MOST_SECONDS, exit=True, file=sys.stderr)
        sys.argv = ["dpo", "train", *arguments]
        strikes(rank)
        cli.main()
    except SystemExit as leaving:
        code = leaving.code
    except BaseException:
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def at_file(ending: str, act: Act, *, count: int = 1, events: Sequence[str] = EVENTS) -> None:
    """Strike this process when it opens, makes, renames or removes a path with some ending for the count-th time."""
    seen = 0

    def hook(event: str, values: tuple[Any, ...]) -> None:
        nonlocal seen
        if event in events and isinstance(values[0], str | Path) and str(values[0]).endswith(ending):
            seen += 1
            if seen == count:
                act()

    sys.addaudithook(hook)


def in_step(number: int, act: Act) -> None:
    """Strike this process when it begins a step, of those that it does."""
    _before_call(loop, "train_step", number, act)


def in_row_of_validation(number: int, act: Act) -> None:
    """Strike this process when it computes a row of a validation."""
    _before_call(evaluation, "tokens_of", number, act)


def _before_call(module: Any, name: str, number: int, act: Act) -> None:
    function, calls = getattr(module, name), 0

    def struck(*inputs: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            act()
        return function(*inputs, **options)

    setattr(module, name, struck)


def signalled(number: int) -> Act:
    """Give what sends this process a signal."""
    return lambda: os.kill(os.getpid(), number)


def without_privileges() -> None:
    """Let this process be refused what a user would be; root's capabilities pass over the modes of files."""
    if os.geteuid() == 0:
        header, none = (ctypes.c_uint32 * 2)(CAPABILITIES_VERSION, 0), (ctypes.c_uint32 * 6)()
        assert ctypes.CDLL(None).capset(header, none) == 0


def without_room_for_files() -> None:
    """Let no file of this process get any longer; for one process of several, which share the disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[Path]:
    """Mount a disk of its own for some files; skip the test where that is not allowed."""
    folder.mkdir(exist_ok=True)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tmpfs", bytes(folder), b"tmpfs", ctypes.c_ulong(0), f"size={size}".encode()) != 0:
        pytest.skip(f"no tmpfs can be mounted here: {os.strerror(ctypes.get_errno())}")
    try:
        yield folder
    finally:
        libc.umount2(bytes(folder), 2)  # MNT_DETACH


def remount_read_only(folder: Path) -> None:
    """Let nothing be written on a mounted disk any more."""
    remount, read_only = 32, 1
    code = ctypes.CDLL(None).mount(b"tmpfs", bytes(folder), None, ctypes.c_ulong(remount | read_only), None)
    assert code == 0


def remount_writable(folder: Path) -> None:
    """Let a mounted disk be written on again."""
    assert ctypes.CDLL(None).mount(b"tmpfs", bytes(folder), None, ctypes.c_ulong(32), None) == 0


def fill(disk: Path) -> None:
    """Leave no room on a disk."""
    with (disk / "filler").open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(b"\0" * 4096)
        except OSError:
            pass


def whole_checkpoints(run: Path) -> list[int]:
    """Name the steps of a run's checkpoints, each of which must be whole, the newest first."""
    steps = steps_in(run / "checkpoints")
    for step in steps:
        checkpoint = run / "checkpoints" / f"step_{step}"
        check_files(checkpoint, read_manifest(checkpoint))
    return steps


def went_on(num_processes: int, folder: Path, *told: str, name: str = "run") -> str:
    """Start a run until its end, and see that nothing half written is left; give what the main process has told."""
    children = start_many(num_processes, folder, *told, name=name)
    codes = [child.end() for child in children]
    assert codes == [0] * num_processes, [child.told for child in children]
    assert leftovers(folder / name) == []
    return children[0].told


def leftovers(run: Path) -> list[Path]:
    """Give what is hidden in a run's folder: of something half written or half removed."""
    return [path for path in run.rglob("*") if path.name.startswith(".")]
