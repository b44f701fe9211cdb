"""`dpo validate` against check-jsonschema and plain loops over JSON Schema, as whole processes on the same rows.

    python benchmarks/validate.py                          # 200 MB of preference pairs, 3 kB each
    python benchmarks/validate.py --megabytes 1000 --only-dpo

`dpo validate` does all its default rules; the others check each row against the schema of BinaryPreference and nothing
else. check-jsonschema reads no JSONL, so it gets the same rows as one JSON array. `--peers` names the Python in whose
environment check-jsonschema is.
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from collect_pairs import MB, REPOSITORY, run, text

PAIRS_PER_PROMPT = 4
LOOP = """
import json, sys, jsonschema
validator = jsonschema.Draft202012Validator(json.load(open(sys.argv[2])))
with open(sys.argv[1], encoding="utf-8") as lines:
    for number, line in enumerate(lines, start=1):
        for error in validator.iter_errors(json.loads(line)):
            print(number, error.message)
"""
FAST_LOOP = LOOP.replace("jsonschema", "jsonschema_rs")


def write_pairs(path: Path, num_bytes: int) -> None:
    """Write seeded pairs as `dpo collect-pairs` does, until the file has that size.

    One prompt in ten is not in English, and one in three has accents; the rest is ASCII.
    """
    draw = random.Random(20261121)
    written = prompt_number = 0
    with path.with_suffix(".unfinished").open("wb") as stream:
        while written < num_bytes:
            prompt_number += 1
            letters = draw.choices(["", "所以答案是。", "итак, ", "🙂 "], [90, 4, 4, 2])[0]
            accent = draw.choice("eeé")
            prompt = f"Task {prompt_number}. {letters}{text(draw, 600).replace('é', accent)}"
            for number in range(PAIRS_PER_PROMPT):
                row = {
                    "prompt": prompt,
                    "chosen": letters + text(draw, draw.randrange(800, 1500)).replace("é", accent),
                    "rejected": letters + text(draw, draw.randrange(800, 1500)).replace("é", accent),
                    "chosen_reward": 1.0,
                    "rejected_reward": round(draw.uniform(0, 0.8), 3),
                    "agent": draw.choice(["math", "code", "chat"]),
                    "chosen_source": f"rollouts.jsonl:{prompt_number * 8 + number}",
                }
                line = json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
                stream.write(line)
                written += len(line)
    path.with_suffix(".unfinished").rename(path)


def write_array(path: Path, array: Path) -> None:
    """Write the lines of a file as one JSON array."""
    with path.open("rb") as lines, array.open("wb") as stream:
        separator = b"["
        for line in lines:
            stream.write(separator + line.rstrip(b"\n"))
            separator = b",\n"
        stream.write(b"]\n")


def timed(command: list[str]) -> float:
    """Run a command; give its wall time in seconds."""
    started = time.perf_counter()
    subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "dpo-benchmark")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peers", default=sys.executable, help="a Python with check-jsonschema and jsonschema")
    parser.add_argument("--only-dpo", action="store_true")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    packages = ", ".join(f"{name} {version(name)}" for name in ("msgspec", "jsonschema-rs"))
    print(f"{len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}, {packages}")
    pairs = arguments.folder / f"preference-{arguments.megabytes}.jsonl"
    array, schema = pairs.with_suffix(".json"), REPOSITORY / "schemas" / "binary_preference.schema.json"
    of_array = arguments.folder / "array.schema.json"
    if not pairs.exists():
        write_pairs(pairs, arguments.megabytes * MB)
    dpo = [sys.executable, "-m", "cli", "validate", str(pairs)]
    contestants = {"dpo validate": dpo, "dpo validate --workers 1": [*dpo, "--workers", "1"]}
    if not arguments.only_dpo:
        write_array(pairs, array)
        of_array.write_text(json.dumps({"type": "array", "items": {"$ref": schema.as_uri()}}), encoding="utf-8")
        contestants |= {
            "jsonschema-rs loop": [sys.executable, "-c", FAST_LOOP, str(pairs), str(schema)],
            "jsonschema loop": [arguments.peers, "-c", LOOP, str(pairs), str(schema)],
            "check-jsonschema": [
                *(arguments.peers, "-m", "check_jsonschema", "--schemafile", str(of_array), str(array)),
            ],
        }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    memory: dict[str, int] = dict.fromkeys(contestants, 0)
    for repeat in range(arguments.repeats + 1):
        for name, command in contestants.items():
            if repeat:
                seconds[name].append(timed(command))
            else:  # to watch the memory takes a part of a core, which this run may have
                _, memory[name] = run(command, limit=3600)
    ours, megabytes = statistics.median(seconds["dpo validate"]), pairs.stat().st_size / MB
    with pairs.open("rb") as lines:
        num_rows = sum(1 for _ in lines)
    print(f"\n{megabytes:,.0f} MB, {num_rows:,} rows, median of {arguments.repeats}")
    print(f"{'':26} {'seconds':>8} {'ratio':>7} {'MB/s':>7} {'peak MB':>8}")
    for name, walls in seconds.items():
        median = statistics.median(walls)
        print(f"{name:26} {median:8.2f} {median / ours:6.1f}x {megabytes / median:7.0f} {memory[name] / MB:8.0f}")


if __name__ == "__main__":
    main()
