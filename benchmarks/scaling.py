"""The time of a step over one process and over two, on a CPU, each process with one thread.

    python benchmarks/scaling.py                       # results in benchmarks/results/scaling_cpu.json
    python benchmarks/scaling.py --repeats 9 --nice -20     # as root, where other work is running

The same random model takes the same steps of the same pairs each time. Contestants take turns:

    one       a process alone
    apart     two such processes at once that know nothing of one another: what the machine itself loses with two
    ddp       two processes that share a step, whole weights on both
    fsdp2     two processes that share a step, half of the weights on each

What a second process gains is the time of `one` over that of `ddp` or `fsdp2`; 2 x one / apart is the most that it
could. Steps are timed on the main process, the first epoch is left out. For many GPUs see scaling_model.py.
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
from importlib.metadata import version
from pathlib import Path
from typing import Any

from made_pairs import SHAPES, write_inputs

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results"
SHAPE, MODEL = "best_worst", "small"
BATCH_SIZE = 8
ROW_TOKENS = 1280
"""Of a row: two prompts of 192 tokens with two responses of 128 to 256 each, so that a step has four rows or so."""

CONTESTANTS = {"one": 1, "apart": 2, "ddp": 2, "fsdp2": 2}
"""Processes of each."""

KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "68719476736"}
"""glibc keeps freed memory instead of handing it back and fetching it again for each tensor."""


def contestant(name: str, folder: Path, num_epochs: int) -> None:
    """Train with the parts that `dpo train` is made of, as one process of however many; print the steps' seconds."""
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
            "policy.max_total_sequence_length=1024",
            "policy.self_check=false",
            "reference.cache_dir=null",
            f"cluster.accelerate_config={'fsdp2' if name == 'fsdp2' else 'ddp'}",
        ],
        train_data_path=folder / "pairs.jsonl",
        model_name=str(folder / "policy"),
        output_dir=folder / "unused",
    )
    accelerator, config = start_accelerator(config)
    model, tokenizer = load_policy(config.policy.model_name)
    data = tokenize(config, load_groups(config.data.train, shown=False), model, tokenizer, shown=False)
    steps = plan_steps(data.groups, seed=1, global_batch_size=BATCH_SIZE, num_epochs=num_epochs, max_steps=None)
    training = set_up(config, accelerator, model, data, steps)
    took, losses, tokens = [], [], []
    for step in steps:
        accelerator.wait_for_everyone()
        started = time.perf_counter()
        found = train_step(training, step)
        seconds = time.perf_counter() - started
        if step.epoch:
            took.append(seconds)
            tokens.append(found["tokens_per_second"] * found["step_seconds"])
        losses.append(found["loss"])
    if accelerator.is_main_process:
        print("FIGURES " + json.dumps({"seconds": took, "tokens": tokens, "losses": losses}))
    accelerator.end_training()


def measure(name: str, folder: Path, num_epochs: int) -> dict[str, Any]:
    """Run one contestant; the figures of its main process, or of the slower one of two that are apart."""
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "--contestant", name, str(folder), str(num_epochs)],
            env=os.environ | KEEP_MEMORY | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"} | place,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for place in _places(name)
    ]
    outputs = [process.communicate() for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("\n".join(errors for _, errors in outputs))
    lines = [line for output, _ in outputs for line in output.splitlines() if line.startswith("FIGURES ")]
    return max((json.loads(line.removeprefix("FIGURES ")) for line in lines), key=lambda one: sum(one["seconds"]))


def _places(name: str) -> list[dict[str, str]]:
    """Give the variables that a launcher would set, for each process."""
    count = CONTESTANTS[name]
    if name in ("one", "apart"):
        return [{}] * count
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    world = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
    return [world | {"MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def compare(repeats: int, num_epochs: int) -> dict[str, Any]:
    """Let the contestants take turns; the median step of each turn, and the ratios turn by turn."""
    turns: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    losses: dict[str, list[float]] = {}
    tokens: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_inputs(folder, SHAPES[SHAPE], MODEL, "cpu")
        for turn in range(repeats):
            for name in CONTESTANTS:
                figures = measure(name, folder, num_epochs)
                turns[name].append(statistics.median(figures["seconds"]))
                losses[name], tokens = figures["losses"], figures["tokens"]
            told = ", ".join(f"{name} {times[-1]:.2f} s" for name, times in turns.items())
            print(f"  turn {turn + 1}: {told}", file=sys.stderr, flush=True)
    apart = max(abs(a - b) for name in losses for a, b in zip(losses["one"], losses[name], strict=True))
    assert apart < 1e-4, f"the contestants did not train the same: their losses are up to {apart} apart"
    gains = {
        name: [one / two * (2 if name == "apart" else 1) for one, two in zip(turns["one"], turns[name], strict=True)]
        for name in ("apart", "ddp", "fsdp2")
    }
    return {
        "tokens_per_step": statistics.fmean(tokens),
        "seconds": {name: statistics.median(times) for name, times in turns.items()},
        "gain": {name: statistics.median(each) for name, each in gains.items()},
        "gain_range": {name: [min(each), max(each)] for name, each in gains.items()},
        "largest_difference_of_losses": apart,
        "turns": turns,
    }


def main() -> None:
    """Measure, print a table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=3, help="of two steps each; the first is not timed")
    parser.add_argument("--nice", type=int, default=0, help="priority, for a machine that is doing other work")
    parser.add_argument("--output", type=Path, default=RESULTS / "scaling_cpu.json")
    parser.add_argument("--contestant", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contestant:
        name, folder, num_epochs = args.contestant
        contestant(name, Path(folder), int(num_epochs))
        return
    os.nice(args.nice)
    result = compare(args.repeats, args.epochs)
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
    print("| | seconds a step | gain of the second process |\n|---|---|---|")
    for name, seconds in result["seconds"].items():
        gain = f"{result['gain'][name]:.2f}x" if name in result["gain"] else ""
        print(f"| {name} | {seconds:.2f} | {gain} |")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
