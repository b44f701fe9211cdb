"""Processes that die, that can't start, that are interrupted or orphaned: a message and an exit code, never a hang."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from pipeline.workers import Workers, default_num_processes
from schemas.errors import DpoError, InputError

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_SECONDS = 20  # for what takes half of one; a hang lasts for ever


def square(offset, number):
    return number * number + offset


def slow_first(offset, number):
    time.sleep(0.2 if number == 0 else 0)
    return number


def die(offset, number):
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def fail(offset, number):
    raise DpoError(f"task {number} failed")


def run_out_of_memory(offset, number):
    raise MemoryError


def no_state():
    raise OSError(28, "No space left on device")


@pytest.fixture
def workers():
    """Start workers with a state, and end them whatever becomes of the test."""
    started = []

    def start(num_processes, set_up=int, *arguments):
        started.append(Workers(num_processes, set_up, *arguments))
        return started[-1]

    yield start
    for each in started:
        each.stop()


@pytest.mark.parametrize("num_processes", [1, 2])
def test_results_come_in_the_order_of_the_tasks(workers, num_processes):
    running = workers(num_processes, int, 100)
    assert list(running.run(square, range(20))) == [number * number + 100 for number in range(20)]
    assert list(running.run(slow_first, range(5))) == [0, 1, 2, 3, 4]
    assert list(running.run(square, [])) == []


def test_tasks_are_asked_for_as_they_are_needed(workers):
    """Else a file of 100 GB on stdin would be in memory before the first result is taken."""
    running = workers(2, int, 0)
    asked = []

    def tasks():
        for number in range(100):
            asked.append(number)
            yield number

    results = running.run(square, tasks())
    assert next(results) == 0
    assert len(asked) <= running.tasks_ahead
    assert sum(results) == sum(number * number for number in range(100))


def test_a_worker_that_is_killed_ends_the_run(workers):
    running = workers(2, int, 0)
    with pytest.raises(DpoError, match=r"a worker process died .*try again with --workers 1"):
        list(running.run(die, range(50)))


@pytest.mark.parametrize("num_processes", [1, 2])
def test_an_error_of_a_task_comes_through(workers, num_processes):
    running = workers(num_processes, int, 0)
    with pytest.raises(DpoError, match="task 0 failed"):
        list(running.run(fail, range(50)))


@pytest.mark.parametrize("num_processes", [1, 2])
def test_a_worker_without_memory_ends_the_run(workers, num_processes):
    running = workers(num_processes, int, 0)
    with pytest.raises(DpoError, match="out of memory"):
        list(running.run(run_out_of_memory, range(50)))


def test_a_worker_that_can_not_be_set_up_ends_the_run(workers, capfd):
    with pytest.raises(DpoError):
        list(workers(2, no_state).run(square, range(5)))
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(("num_bytes", "expected"), [(0, 1), (99, 1), (199, 1), (10**9, None)])
def test_small_inputs_are_read_by_one_process(num_bytes, expected):
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert default_num_processes(num_bytes, bytes_each=100) == (expected or cores)


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """About 30 MB of rollouts: 2,000 prompts of 8, which keep two processes busy for a while."""
    path = tmp_path_factory.mktemp("big") / "rollouts.jsonl"
    text = "lorem ipsum dolor sit amet " * 60
    row = (
        '{"responses_create_params": {"input": "Prompt %d"}, "reward": %d, "response": {"output": [{"type": "message", '
        '"role": "assistant", "content": [{"type": "output_text", "text": "%s"}]}]}}\n'
    )
    path.write_text("".join(row % (number // 8, number % 3, f"{text}{number}") for number in range(16_000)))
    return path


@pytest.fixture
def endless(tmp_path):
    """A pipe that is never closed by its writer, so that a run waits in the middle of its work."""
    os.mkfifo(tmp_path / "rollouts.jsonl")
    return tmp_path / "rollouts.jsonl"


def started(folder, *args):
    return subprocess.Popen(
        [sys.executable, "-m", "cli", "collect-pairs", *map(str, args), "-o", "out.jsonl"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def children_of(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")


@on_linux
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_collection_whose_worker_is_killed_ends_with_a_message(tmp_path, endless, number):
    with started(tmp_path, endless, "--workers", "2") as process, endless.open("wb") as writer:
        writer.write(b"{}\n")
        writer.flush()
        children = wait_until(lambda: len(found := children_of(process.pid)) == 2 and found)
        os.kill(children[0], number)
        writer.write(b'{"a": "' + b"x" * (12 << 20) + b'"}\n')  # the next chunk, which nobody can take
        writer.flush()
        writer.close()
        try:
            _, errors = process.communicate(timeout=PATIENCE_SECONDS)
        finally:
            process.kill()
    assert process.returncode == DpoError.exit_code
    assert "dpo: error: a worker process died" in errors
    assert "Traceback" not in errors
    assert [path.name for path in tmp_path.iterdir()] == ["rollouts.jsonl"]
    assert not any(map(is_running, children))


@on_linux
@pytest.mark.parametrize("delay", [0, 0.1, 0.3])
def test_a_worker_may_die_at_any_moment(tmp_path, big, delay):
    with started(tmp_path, big, "--workers", "2") as process:
        children = wait_until(lambda: process.poll() is not None or children_of(process.pid))
        time.sleep(delay)
        if isinstance(children, list) and is_running(children[0]):
            os.kill(children[0], signal.SIGKILL)
        try:
            _, errors = process.communicate(timeout=PATIENCE_SECONDS)
        finally:
            process.kill()
    assert "Traceback" not in errors
    if process.returncode == 0:  # it came too late
        assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "out.jsonl.manifest.json"]
    else:
        assert process.returncode == DpoError.exit_code, errors
        assert "dpo: error: a worker process died" in errors
        assert [path.name for path in tmp_path.iterdir()] == []


@on_linux
@pytest.mark.parametrize("to_group", [False, True])  # a shell sends Ctrl-C to all processes of the run
def test_ctrl_c_ends_all_processes(tmp_path, endless, to_group):
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", "collect-pairs", endless.name, "-o", "out.jsonl", "--workers", "2"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process, endless.open("wb") as writer:
        writer.write(b"{}\n")
        writer.flush()
        children = wait_until(lambda: len(found := children_of(process.pid)) == 2 and found)
        time.sleep(0.5)  # until it waits for the next row
        (os.killpg if to_group else os.kill)(process.pid, signal.SIGINT)
        try:
            _, errors = process.communicate(timeout=PATIENCE_SECONDS)
        finally:
            process.kill()
    assert process.returncode == 130, errors
    assert errors == "dpo: error: interrupted\n"
    assert [path.name for path in tmp_path.iterdir()] == ["rollouts.jsonl"]
    assert not any(map(is_running, children))


@on_linux
def test_orphaned_workers_leave(tmp_path, endless):
    with started(tmp_path, endless, "--workers", "2") as process, endless.open("wb") as writer:
        writer.write(b"{}\n")
        writer.flush()
        children = wait_until(lambda: len(found := children_of(process.pid)) == 2 and found)
        time.sleep(0.3)  # until they know their parent
        process.kill()
        process.wait(timeout=PATIENCE_SECONDS)
        wait_until(lambda: not any(map(is_running, children)))


def run_python(code, folder):
    """Run a program; one that hangs is ended with all its children."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        _, errors = process.communicate()
        pytest.fail(f"the run hangs, after saying: {errors}")
    return process.returncode, errors


@on_linux
@pytest.mark.parametrize("num_started", [0, 1, 2])
def test_a_process_that_can_not_start_ends_the_run(tmp_path, rollout, write_jsonl, num_started):
    """The system refuses a further process (a limit of the user or the container), after some were started."""
    write_jsonl(tmp_path / "in.jsonl", [rollout(), rollout(response="B", reward=0)])
    code = f"""
        import errno, os, sys
        import cli
        fork, forks = os.fork, []
        def refused_fork():
            if len(forks) == {num_started}:
                raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
            forks.append(1)
            return fork()
        os.fork = refused_fork
        sys.argv = ["dpo", "collect-pairs", "in.jsonl", "-o", "out.jsonl", "--workers", "3"]
        cli.main()
    """
    exit_code, errors = run_python(code, tmp_path)
    assert exit_code == DpoError.exit_code, errors
    assert "dpo: error: a worker process could not start: Resource temporarily unavailable" in errors
    assert "Traceback" not in errors
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


@on_linux
@pytest.mark.parametrize("limit", range(9, 16))
def test_too_few_open_files_end_the_run(tmp_path, rollout, write_jsonl, limit):
    """Each of these limits is met at another point: at a pipe to a worker, in a worker, while writing."""
    write_jsonl(tmp_path / "in.jsonl", [rollout(), rollout(response="B", reward=0)])
    code = f"""
        import resource, sys
        import cli, pipeline.collect, pipeline.show  # what is imported needs no file any more
        resource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))
        sys.argv = ["dpo", "collect-pairs", "in.jsonl", "-o", "out.jsonl", "--workers", "2"]
        cli.main()
    """
    exit_code, errors = run_python(code, tmp_path)
    if "panicked" in errors:
        pytest.skip("Polars itself found no file left")
    assert exit_code in {0, DpoError.exit_code, InputError.exit_code}, errors
    if exit_code:
        assert "dpo: error: " in errors
        assert "Traceback" not in errors
        assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


@on_linux
def test_too_little_memory_is_no_hang(tmp_path, rollout, write_jsonl):
    write_jsonl(tmp_path / "in.jsonl", [rollout(response=f"{number}" * 100_000) for number in range(200)])
    code = """
        import resource, sys
        import cli
        from pathlib import Path
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (24 << 20), used + (24 << 20)))
        sys.argv = ["dpo", "collect-pairs", "in.jsonl", "-o", "out.jsonl", "--workers", "2"]
        cli.main()
    """
    exit_code, errors = run_python(code, tmp_path)
    assert exit_code != 0
    assert errors
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


KILLED_WHILE_SENDING = """
import os, signal, threading, time
from pipeline.workers import Workers
from schemas.errors import DpoError

if __name__ == "__main__":
    workers = Workers(2, os.getpid)
    worker = int(open(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read().split()[0])
    threading.Timer(DELAY, os.kill, (worker, signal.SIGKILL)).start()
    try:
        for _ in workers.run(send, range(1000)):
            pass
    except DpoError as error:
        print(error)
    workers.stop()
"""


@on_linux
@pytest.mark.parametrize("delay", [0.5, 0.9, 1.7])
def test_a_worker_that_is_killed_while_it_sends_leaves_nobody_waiting(delay):
    """Half of a result is in the pipe then, for most of the time goes into sending: 200 MB in a result."""
    script = KILLED_WHILE_SENDING.replace("DELAY", str(delay)).replace(
        "\nif __name__", "\ndef send(state, task):\n    return b'x' * 200_000_000\n\nif __name__"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("a worker process died")


def test_processes_that_end_at_once_are_told_and_can_be_stopped():
    """Many times, since two threads have to do with the same pipe then."""
    for _ in range(5):
        workers = Workers(2, os._exit, 3)
        with pytest.raises(DpoError, match="a worker process died"):
            list(workers.run(max, range(10)))
        workers.stop()
