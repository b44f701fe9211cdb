"""Makes everything in this folder that is not source: `policy/`, `rollouts.jsonl` and `heldout.jsonl`.

    python data/samples/make_samples.py [--out DIR] [--seed N]

It trains the sample policy, then lets it answer every training prompt eight times and writes the scored
answers as NeMo Gym writes rollouts. The same seed on the same machine gives the same bytes. Takes a few
minutes on two cores; progress goes to stderr.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import statistics
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from sampling import Answer, Policy, sample_answers
from sort_task import SortTask, Verdict, distinct_tasks, verify
from tiny_policy import train_policy
from transformers.utils import logging as transformers_logging

SEED = 20
TRAIN_PROMPTS = 96
HELDOUT_PROMPTS = 160
SAMPLES_PER_PROMPT = 8
# Fixed, so that a rerun gives the same bytes: 2026-01-01 00:00:00 UTC.
CREATED_AT = 1767225600.0
MODEL_NAME = "sample-policy"
AGENT_NAME = "sort_digits_simple_agent"

EXIT_OK = 0
EXIT_BAD_PATH = 3

Json = dict[str, object]


def request_params(task: SortTask) -> Json:
    """The request as the collector records it: every field of the Responses API, most of them null."""
    messages = [{"content": m.content, "role": m.role, "type": "message"} for m in task.messages]
    return {
        "background": None,
        "include": None,
        "input": messages,
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "metadata": None,
        "model": None,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "prompt": None,
        "reasoning": None,
        "service_tier": None,
        "store": None,
        "temperature": 1.0,
        "text": None,
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": None,
        "top_p": None,
        "truncation": None,
        "user": None,
        "stream": None,
    }


def response_body(answer: Answer, digest: str) -> Json:
    """The model server's response. A cut answer is still `completed`; only `incomplete_details` tells."""
    part: Json = {"annotations": [], "text": answer.text, "type": "output_text", "logprobs": None}
    message = {
        "id": f"msg_{digest[32:]}",
        "content": [part],
        "role": "assistant",
        "status": "completed",
        "type": "message",
    }
    return {
        "id": f"resp_{digest[:32]}",
        "created_at": CREATED_AT,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if answer.truncated else None,
        "instructions": None,
        "metadata": None,
        "model": MODEL_NAME,
        "object": "response",
        "output": [message],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "background": None,
        "conversation": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "previous_response_id": None,
        "prompt": None,
        "prompt_cache_key": None,
        "reasoning": None,
        "safety_identifier": None,
        "service_tier": None,
        "status": None,
        "text": None,
        "top_logprobs": None,
        "truncation": None,
        "usage": usage(answer),
        "user": None,
    }


def usage(answer: Answer) -> Json:
    """Token counts as the model server reports them."""
    return {
        "input_tokens": answer.input_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": answer.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": answer.input_tokens + answer.output_tokens,
    }


def rollout_row(task: SortTask, answer: Answer, verdict: Verdict, index: tuple[int, int], seed: int) -> Json:
    """One line of `rollouts.jsonl`; `index` is the task's number and the number of its rollout."""
    digest = hashlib.sha256(f"{seed}/{index[0]}/{index[1]}".encode()).hexdigest()
    return {
        "responses_create_params": request_params(task),
        "response": response_body(answer, digest),
        "reward": verdict.reward,
        "expected_answer": task.expected_answer,
        "extracted_answer": verdict.extracted_answer,
        "_ng_task_index": index[0],
        "_ng_rollout_index": index[1],
        "agent_ref": {"name": AGENT_NAME},
    }


def collect_rollouts(policy: Policy, tasks: list[SortTask], seed: int) -> list[Json]:
    """Sample, verify, and shuffle: the collector writes rows as they finish, not by task."""
    answers = sample_answers(policy, [task.chat() for task in tasks], SAMPLES_PER_PROMPT, seed)
    rows = [
        rollout_row(task, answer, verify(answer.text, task.expected_answer), (number, k), seed)
        for number, (task, sampled) in enumerate(zip(tasks, answers, strict=True))
        for k, answer in enumerate(sampled)
    ]
    random.Random(f"{seed}-order").shuffle(rows)
    return rows


def heldout_row(task: SortTask, number: int) -> Json:
    """One line of `heldout.jsonl`, in the format of a NeMo Gym data set."""
    return {
        "responses_create_params": {"input": task.chat()},
        "expected_answer": task.expected_answer,
        "uuid": f"heldout-{number}",
        "agent_ref": {"name": AGENT_NAME},
    }


def write_jsonl(path: Path, rows: Iterable[Json]) -> None:
    """Compact JSON, one row to a line."""
    lines = [json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8", newline="\n")


def save_policy(policy: Policy, folder: Path) -> None:
    """Save model and tokenizer so that the Auto classes of transformers load them."""
    policy.model.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)
    for file in folder.iterdir():
        # safetensors creates its file for the owner only, and a checkout should not depend on who made it.
        file.chmod(0o644)


def make_samples(out: Path, seed: int) -> None:
    """Make the prompts, the policy and the rollouts, and write all of them under `out`."""
    started = time.monotonic()
    tasks = distinct_tasks(f"{seed}-tasks", TRAIN_PROMPTS + HELDOUT_PROMPTS)
    training, heldout = tasks[:TRAIN_PROMPTS], tasks[TRAIN_PROMPTS:]
    write_jsonl(out / "heldout.jsonl", [heldout_row(task, number) for number, task in enumerate(heldout)])
    policy = train_policy(seed, reserved=frozenset(task.digits for task in tasks))
    save_policy(policy, out / "policy")
    rows = collect_rollouts(policy, training, seed)
    write_jsonl(out / "rollouts.jsonl", rows)
    mean = statistics.mean(float(str(row["reward"])) for row in rows)
    print(
        f"{len(rows)} rollouts, mean reward {mean:.3f}, in {time.monotonic() - started:.0f} s: {out}",
        file=sys.stderr,
    )


def main(argv: list[str] | None = None) -> int:
    """Make the samples and return the exit code."""
    parser = argparse.ArgumentParser(description="Make the sample policy, rollouts and held-out prompts.")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent, help="default: this folder")
    parser.add_argument("--seed", type=int, default=SEED)
    args = parser.parse_args(argv)
    try:
        (args.out / "policy").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"cannot write to {args.out}: {error.strerror}; give a folder you can write to", file=sys.stderr)
        return EXIT_BAD_PATH
    torch.use_deterministic_algorithms(True)
    # Numbers next to zero are many times slower than others on most processors.
    torch.set_flush_denormal(True)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    make_samples(args.out, args.seed)
    return EXIT_OK


if __name__ == "__main__":
    raise SystemExit(main())
