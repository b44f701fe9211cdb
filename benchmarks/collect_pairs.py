"""`dpo collect-pairs` against the pure-Python recipe of NeMo Gym's DPO page, as whole processes on the same file.

    python benchmarks/collect_pairs.py                      # 200 MB of 3 kB rows, 1 GB of 10 kB rows with token ids
    python benchmarks/collect_pairs.py --sizes small:50     # 50 MB of small rows; tokens:10000 is 10 GB

Writes seeded rollouts to a folder (kept, and used again), runs each contestant in turn, checks that the pairs are the
same, and prints ratios of wall time and the peak memory of each process tree.
"""

import argparse
import hashlib
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from importlib.metadata import version
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
ROLLOUTS_PER_TASK = 8
TASKS_AT_ONCE = 512  # rollouts come in the order in which they are finished: these tasks are interleaved
MB = 10**6
PARAMS_NULLS = [
    "background",
    "include",
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "metadata",
    "model",
    "previous_response_id",
    "prompt",
    "reasoning",
    "service_tier",
    "store",
    "text",
    "top_logprobs",
    "top_p",
    "truncation",
    "user",
    "stream",
]
RESPONSE_NULLS = [
    "error",
    "incomplete_details",
    "instructions",
    "metadata",
    "top_p",
    "background",
    "conversation",
    "max_output_tokens",
    "max_tool_calls",
    "previous_response_id",
    "prompt",
    "prompt_cache_key",
    "reasoning",
    "safety_identifier",
    "service_tier",
    "status",
    "text",
    "top_logprobs",
    "truncation",
    "user",
]

WORDS = [
    "the",
    "answer",
    "follows",
    "from",
    "a",
    "short",
    "look",
    "at",
    "each",
    "case",
    "so",
    "we",
    "first",
    "write",
    "down",
    "what",
    "is",
    "known",
    "and",
    "then",
    "check",
    "whether",
    "every",
    "step",
    "holds",
    "for",
    "all",
    "values",
    "of",
    "the",
    "integer",
    "in",
    "question",
    "because",
    "otherwise",
    "the",
    "bound",
    "would",
    "fail",
    "at",
    "once",
]


def text(draw: random.Random, num_chars: int) -> str:
    """Make prose of about that length."""
    words = draw.choices(WORDS, k=num_chars // 5)
    return " ".join(words).replace(" so ", ".\n").replace(" at ", ' "é" ')


def rollout(draw: random.Random, task: int, prompt: str, repeat: int, *, share: float, with_tokens: bool) -> dict:
    """Make a row with all the keys that Gym's collector writes; `share` is how often the task is solved."""
    message: dict[str, object] = {
        "id": f"msg_{draw.getrandbits(128):032x}",
        "content": [{"annotations": [], "text": text(draw, 800), "type": "output_text", "logprobs": None}],
        "role": "assistant",
        "status": "completed",
        "type": "message",
    }
    if with_tokens:
        message["prompt_token_ids"] = [draw.randrange(150_000) for _ in range(280)]
        message["generation_token_ids"] = [draw.randrange(150_000) for _ in range(260)]
        message["generation_log_probs"] = [-draw.random() for _ in range(180)]
    is_solved = draw.random() < share
    return {
        "responses_create_params": {
            **dict.fromkeys(PARAMS_NULLS),
            "input": [{"content": prompt, "role": "user", "type": "message"}],
            "parallel_tool_calls": True,
            "temperature": 1.0,
            "tool_choice": "auto",
            "tools": [],
        },
        "response": {
            "id": f"resp_{draw.getrandbits(128):032x}",
            "created_at": 1795186948.0,
            "model": "policy",
            "object": "response",
            "output": [message],
            "parallel_tool_calls": True,
            "temperature": 1.0,
            "tool_choice": "auto",
            "tools": [],
            **dict.fromkeys(RESPONSE_NULLS),
            "usage": {
                "input_tokens": 280,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": 260,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": 540,
            },
        },
        "reward": float(is_solved),
        "expected_answer": "F",
        "extracted_answer": "F" if is_solved else None,
        "_ng_task_index": task,
        "_ng_rollout_index": repeat,
        "agent_ref": {"name": "bench_agent"},
    }


def write_rollouts(path: Path, num_bytes: int, *, with_tokens: bool) -> None:
    """Write seeded rollouts until the file has that size."""
    draw = random.Random(20261121)
    written = task = 0
    with path.with_suffix(".unfinished").open("wb") as stream:
        while written < num_bytes:
            prompts = {task + offset: f"Task {task + offset}. {text(draw, 600)}" for offset in range(TASKS_AT_ONCE)}
            shares = {number: draw.random() for number in prompts}
            pieces = [(number, repeat) for number in prompts for repeat in range(ROLLOUTS_PER_TASK)]
            draw.shuffle(pieces)
            for number, repeat in pieces:
                row = rollout(draw, number, prompts[number], repeat, share=shares[number], with_tokens=with_tokens)
                line = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
                stream.write(line)
                written += len(line)
            task += TASKS_AT_ONCE
    path.with_suffix(".unfinished").rename(path)


def peak_memory(process: subprocess.Popen, done: threading.Event, peaks: list[int]) -> None:
    """Watch the resident memory of a process and all that it started, in bytes."""
    page = os.sysconf("SC_PAGE_SIZE")
    while not done.is_set():
        children: dict[int, list[int]] = {}
        resident: dict[int, int] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                    resident[int(entry.name)] = int((entry / "statm").read_text().split()[1]) * page
                except (OSError, IndexError, ValueError):
                    continue
                children.setdefault(parent, []).append(int(entry.name))
        tree, waiting = 0, [process.pid]
        while waiting:
            number = waiting.pop()
            tree += resident.get(number, 0)
            waiting += children.get(number, [])
        peaks.append(tree)
        done.wait(0.02)


def run(command: list[str], *, limit: float) -> tuple[float, int]:
    """Run a command; give its wall time in seconds and the peak memory of its process tree in bytes."""
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    done, peaks = threading.Event(), [0]
    watcher = threading.Thread(target=peak_memory, args=(process, done, peaks))
    watcher.start()
    try:
        _, errors = process.communicate(timeout=limit)
    finally:
        done.set()
        watcher.join()
    seconds = time.perf_counter() - started
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{errors.decode()[-2000:]}")
    return seconds, max(peaks)


def digest_of_pairs(path: Path) -> tuple[int, str]:
    """Give the number of pairs and a digest that does not depend on their order."""
    total = number = 0
    with path.open("rb") as stream:
        for line in stream:
            row = json.loads(line)
            pair = json.dumps([row["prompt"], row["chosen"], row["rejected"]]).encode()
            total = (total + int.from_bytes(hashlib.blake2b(pair, digest_size=16).digest(), "big")) % 2**128
            number += 1
    return number, f"{total:032x}"


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["small:200", "tokens:1000"], help="small:MB or tokens:MB")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "dpo-benchmark")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only-dpo", action="store_true", help="leave the recipes out, for inputs beyond memory")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    packages = ", ".join(f"{name} {version(name)}" for name in ("polars", "msgspec"))
    print(f"{len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}, {packages}")
    recipe = str(REPOSITORY / "benchmarks" / "recipe.py")
    for size in arguments.sizes:
        kind, _, megabytes = size.partition(":")
        rollouts = arguments.folder / f"{kind}-{megabytes}.jsonl"
        if not rollouts.exists():
            write_rollouts(rollouts, int(megabytes) * MB, with_tokens=kind == "tokens")
        dpo = [sys.executable, "-m", "cli", "collect-pairs", str(rollouts), "--strategy", "all", "--min-margin", "0.1"]
        contestants = {"dpo collect-pairs": [*dpo, "-o"]}
        if not arguments.only_dpo:
            contestants["recipe"] = [sys.executable, recipe, str(rollouts)]
            contestants["thrifty recipe"] = [sys.executable, recipe, "--thrifty", str(rollouts)]
        seconds: dict[str, list[float]] = {name: [] for name in contestants}
        memory: dict[str, int] = dict.fromkeys(contestants, 0)
        digests = {}
        for repeat in range(arguments.repeats):
            for name, command in contestants.items():
                output = arguments.folder / "pairs.jsonl"
                wall, peak = run([*command, str(output)], limit=3600)
                seconds[name].append(wall)
                memory[name] = max(memory[name], peak)
                if repeat == 0:
                    digests[name] = digest_of_pairs(output)
                output.unlink()
        if len(set(digests.values())) != 1:
            raise SystemExit(f"the pairs differ: {digests}")
        ours = statistics.median(seconds["dpo collect-pairs"])
        print(f"\n{size} MB, {digests['dpo collect-pairs'][0]:,} pairs, median of {arguments.repeats}")
        print(f"{'':20} {'seconds':>8} {'ratio':>7} {'peak MB':>8}")
        for name, walls in seconds.items():
            median = statistics.median(walls)
            print(f"{name:20} {median:8.2f} {median / ours:6.1f}x {memory[name] / MB:8.0f}")


if __name__ == "__main__":
    main()
