"""Lets policies answer the held-out prompts, as `gym eval run` would: rollouts in NeMo Gym's rows, with rewards.

    python data/samples/collect.py POLICY -o before.jsonl [--input FILE] [--num-repeats 8] [--seed 0]
    python data/samples/collect.py BEFORE AFTER -o before.jsonl after.jsonl

It stands for a model server, an agent and a verifier, which the sample task does without, so that `dpo compare` has two
files to compare. The same seed gives two policies the same random numbers.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path

from sort_task import Message, SortTask, verify

DEFAULT_INPUT = Path(__file__).resolve().parent / "heldout.jsonl"
EXIT_OK = 0
EXIT_BAD_PATH = 3


def read_task(line: str) -> SortTask:
    """Read a row of NeMo Gym's data set format; its expected answer has the digits, and tells the direction."""
    row = json.loads(line)
    expected = str(row["expected_answer"])
    messages = [Message(str(each["role"]), str(each["content"])) for each in row["responses_create_params"]["input"]]
    return SortTask(expected, expected == "".join(sorted(expected, reverse=True)), tuple(messages))


def read_tasks(path: Path) -> list[SortTask]:
    """Read the tasks of a file.

    Raises:
        OSError: it can't be read.
        ValueError: it has none, or a row is no task.
    """
    tasks = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        try:
            tasks += [read_task(line)] if line.strip() else []
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}:{number}: no task of the samples (expected_answer, responses_create_params.input): {error!r}"
            ) from error
    if not tasks:
        raise ValueError(f"{path}: no tasks")
    return tasks


def collect(policy: Path, tasks: list[SortTask], num_repeats: int, seed: int) -> list[dict[str, object]]:
    """Sample the policy in a folder, score its answers; rows lie by task."""
    # Imported late: torch takes seconds, and neither --help nor a wrong path should wait for it.
    from make_samples import rollout_row
    from sampling import load_policy, sample_answers

    answers = sample_answers(load_policy(policy), [task.chat() for task in tasks], num_repeats, seed)
    rows: list[dict[str, object]] = []
    for number, (task, sampled) in enumerate(zip(tasks, answers, strict=True)):
        for repeat, answer in enumerate(sampled):
            row = rollout_row(task, answer, verify(answer.text, task.expected_answer), (number, repeat), seed)
            digest = hashlib.sha256(f"{policy.name}/{seed}/{number}/{repeat}".encode()).hexdigest()
            response = {**row["response"], "id": f"resp_{digest[:32]}", "model": policy.name}  # type: ignore[dict-item]
            rows.append({**row, "response": response})
    return rows


def main(argv: list[str] | None = None) -> int:
    """Collect, and return the exit code."""
    parser = argparse.ArgumentParser(description="Collect rollouts of the sample task from a policy.")
    parser.add_argument("policies", type=Path, nargs="+", metavar="POLICY", help="the folder of a saved policy")
    parser.add_argument("--input", type=Path, default=DEFAULT_INPUT, help="default: heldout.jsonl beside me")
    parser.add_argument("--output", "-o", type=Path, nargs="+", required=True, help="a file for each policy")
    parser.add_argument("--num-repeats", type=int, default=8, help="answers to each prompt (default 8)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if args.num_repeats < 1 or args.seed < 0:
        parser.error("--num-repeats must be at least 1, --seed at least 0")
    if len(args.policies) != len(args.output):
        parser.error(f"{len(args.policies)} policies and {len(args.output)} files: name a file for each policy")
    try:
        tasks = read_tasks(args.input)
        for policy in args.policies:
            if not (policy / "config.json").is_file():
                raise FileNotFoundError(2, "no config.json in the folder", str(policy))
        for output in args.output:
            with output.open("ab"):  # before minutes of sampling
                pass
    except (OSError, ValueError) as error:
        print(f"collect.py: {error}", file=sys.stderr)
        return EXIT_BAD_PATH
    for policy, output in zip(args.policies, args.output, strict=True):
        rows = collect(policy, tasks, args.num_repeats, args.seed)
        output.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        mean = sum(float(str(row["reward"])) for row in rows) / len(rows)
        print(f"{len(rows)} rollouts of {len(tasks)} tasks, mean reward {mean:.3f}: {output}", file=sys.stderr)
    return EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main())
