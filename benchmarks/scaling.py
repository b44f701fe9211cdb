"""The time of a step over one process and over two, on a CPU, each process with one thread.

    python benchmarks/scaling.py                   # results in benchmarks/results/scaling_cpu.json
    python benchmarks/scaling.py --real-time       # as root, where other work is running

The same random model takes the same steps of the same pairs each time. All contestants are started at first, and then
take turns, a step each:

    one       a process alone
    apart     two such processes at once that know nothing of one another: what the machine itself loses with two
    ddp       two processes that share a step, whole weights on both
    fsdp2     two processes that share a step, half of the weights on each

What a second process gains is the time of `one` over that of `ddp` or `fsdp2`; twice `one` over `apart` is the most
that it could. The slower process counts. For many GPUs see scaling_model.py.
"""

import argparse
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from itertools import cycle
from pathlib import Path
from typing import Any

from made_pairs import SHAPES, write_inputs

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results"
SHAPE, MODEL = "best_worst", "small"
BATCH_SIZE, ROW_TOKENS = 4, 1280
"""A prompt has 192 tokens and two responses of 128 to 256, so that a step has two rows of two prompts each."""

CONTESTANTS = {"one": [("ddp", 1)], "apart": [("ddp", 1)] * 2, "ddp": [("ddp", 2)], "fsdp2": [("fsdp2", 2)]}
"""The worlds of each: how a world shares the model, and over how many processes."""

WARM_UP = 2
"""Turns that aren't counted."""

KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "68719476736"}
"""glibc keeps freed memory instead of handing it back and fetching it again for each tensor."""


def work(profile: str, folder: Path, *, is_first: bool) -> None:
    """Set up with the parts that `dpo train` is made of; then train a step for each line on stdin and tell of it."""
    warnings.simplefilter("ignore")
    from trainer.config.settings import resolve
    from trainer.data.plan import plan_steps
    from trainer.model.policy import load_policy
    from trainer.run.setup import set_up
    from trainer.run.start import load_groups, start_accelerator, tokenize
    from trainer.run.step import train_step

    config = resolve(
        [
            f"policy.train_global_batch_size={BATCH_SIZE}",
            f"policy.tokens_per_microbatch={ROW_TOKENS}",
            "policy.self_check=false",
            "reference.cache_dir=null",
            f"cluster.accelerate_config={profile}",
            "cluster.gpus_per_node=none",
        ],
        train_data_path=folder / "pairs.jsonl",
        model_name=str(folder / "policy"),
        output_dir=folder / "unused",
    )
    accelerator, config = start_accelerator(config)
    model, tokenizer = load_policy(config.policy.model_name)
    data = tokenize(config, load_groups(config.data.train, shown=False), model, tokenizer, shown=False)
    steps = plan_steps(data.groups, seed=1, global_batch_size=BATCH_SIZE, num_epochs=1, max_steps=None)
    training = set_up(config, accelerator, model, data, steps)
    for _, step in zip(sys.stdin, cycle(steps), strict=False):
        with _first_in_line(is_first=is_first):
            accelerator.wait_for_everyone()
            started = time.perf_counter()
            found = train_step(training, step)
            seconds = time.perf_counter() - started
        tokens = found["tokens_per_second"] * found["step_seconds"]
        print("FIGURES " + json.dumps({"seconds": seconds, "tokens": tokens, "loss": found["loss"]}), flush=True)
    accelerator.end_training()


@contextmanager
def _first_in_line(*, is_first: bool) -> Iterator[None]:
    """Let all threads of this process go before other work while the block runs."""
    if is_first:
        _set_scheduler(os.SCHED_RR, 1)
    try:
        yield
    finally:
        if is_first:
            _set_scheduler(os.SCHED_OTHER, 0)


def _set_scheduler(policy: int, priority: int) -> None:
    for thread in Path("/proc/self/task").iterdir():
        os.sched_setscheduler(int(thread.name), policy, os.sched_param(priority))


class World:
    """Processes that train together, and wait in between."""

    def __init__(self, profile: str, num_processes: int, folder: Path, *options: str) -> None:
        command = [sys.executable, __file__, "--work", profile, str(folder), *options]
        environment = os.environ | KEEP_MEMORY | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.processes: list[Any] = [
            subprocess.Popen(command, env=environment | place, **pipes) for place in _places(num_processes)
        ]

    def go(self) -> None:
        """Let the processes begin a step."""
        for process in self.processes:
            process.stdin.write("step\n")
            process.stdin.flush()

    def figures(self) -> dict[str, float]:
        """Wait for the end of the step; give the figures of the slower process."""
        return max((self._told(process) for process in self.processes), key=lambda one: one["seconds"])

    def end(self) -> None:
        """End the processes."""
        for process in self.processes:
            process.stdin.close()
        for process in self.processes:
            process.wait()

    def _told(self, process: Any) -> dict[str, float]:
        for line in process.stdout:
            if line.startswith("FIGURES "):
                return dict(json.loads(line.removeprefix("FIGURES ")))
        raise SystemExit("a process has ended; what it said stands above")


def _places(num_processes: int) -> list[dict[str, str]]:
    """Give the variables that a launcher would set, for each process of a world."""
    if num_processes == 1:
        return [{}]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        world = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    world |= {"WORLD_SIZE": str(num_processes), "LOCAL_WORLD_SIZE": str(num_processes)}
    return [world | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(num_processes)]


def compare(num_turns: int, *options: str) -> dict[str, Any]:
    """Let the contestants take turns; give the median step of each, and the ratios turn by turn."""
    turns: list[dict[str, dict[str, float]]] = []
    with tempfile.TemporaryDirectory() as scratch:
        write_inputs(Path(scratch), SHAPES[SHAPE], MODEL, "cpu")
        contestants = {
            name: [World(*each, Path(scratch), *options) for each in worlds] for name, worlds in CONTESTANTS.items()
        }
        for number in range(WARM_UP + num_turns):
            turns.append({name: _step(worlds) for name, worlds in contestants.items()})
            told = ", ".join(f"{name} {found['seconds']:.2f} s" for name, found in turns[-1].items())
            print(f"  turn {number + 1}: {told}", file=sys.stderr, flush=True)
        for worlds in contestants.values():
            for world in worlds:
                world.end()
    difference = max(abs(found["loss"] - turn["one"]["loss"]) for turn in turns for found in turn.values())
    assert difference < 1e-4, f"the contestants don't train the same: their losses are up to {difference} apart"
    counted = turns[WARM_UP:]
    gains = {
        name: [(1 + (name == "apart")) * turn["one"]["seconds"] / turn[name]["seconds"] for turn in counted]
        for name in ("apart", "ddp", "fsdp2")
    }
    return {
        "tokens_per_step": statistics.fmean(turn["one"]["tokens"] for turn in counted),
        "seconds": {name: statistics.median(turn[name]["seconds"] for turn in counted) for name in CONTESTANTS},
        "gain": {name: statistics.median(each) for name, each in gains.items()},
        "quartiles_of_gain": {name: statistics.quantiles(each, n=4)[::2] for name, each in gains.items()},
        "largest_difference_of_losses": difference,
        "turns": [{name: found["seconds"] for name, found in turn.items()} for turn in counted],
    }


def _step(worlds: list[World]) -> dict[str, float]:
    for world in worlds:
        world.go()
    return max((world.figures() for world in worlds), key=lambda one: one["seconds"])


def main() -> None:
    """Measure, print a table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, choices=range(2, 1000), metavar="TURNS", default=10)
    parser.add_argument("--real-time", action="store_true", help="steps go before all other work of the machine")
    parser.add_argument("--output", type=Path, default=RESULTS / "scaling_cpu.json")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        profile, folder = args.work
        work(profile, Path(folder), is_first=args.real_time)
        return
    result = compare(args.turns, *(["--real-time"] if args.real_time else []))
    report = {
        "device": f"{os.cpu_count()} CPU cores",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "transformers", "accelerate")},
        "date": time.strftime("%Y-%m-%d"),
        "model": MODEL,
        "batch_size": BATCH_SIZE,
        "row_tokens": ROW_TOKENS,
        **result,
    }
    print("| | seconds a step | gain, with its quartiles |\n|---|---|---|")
    for name, seconds in result["seconds"].items():
        quartiles = [f"{each:.2f}" for each in result["quartiles_of_gain"].get(name, [])]
        gain = f"{result['gain'][name]:.2f}x ({' to '.join(quartiles)})" if quartiles else ""
        print(f"| {name} | {seconds:.2f} | {gain} |")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
