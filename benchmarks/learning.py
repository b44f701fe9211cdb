"""Does the order of the pairs change what is learnt? Ours by groups, ours by pairs, and TRL, over several seeds.

    python benchmarks/learning.py                 # 5 seeds; about six minutes on two cores
    python benchmarks/learning.py --seeds 1 2     # fewer

All start from the sample policy and train on the same pairs, for the same number of steps of the same size, with the
same optimizer, learning rate and schedule; the seed decides the order of the pairs. Each trained policy answers the
held-out prompts (same random numbers for all), and the verifier scores the answers. The interval is a 95 % t interval
of the mean over seeds. TRL computes all 32 pairs of a step at once.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
SAMPLES = REPOSITORY / "data" / "samples"
RESULTS = Path(__file__).resolve().parent / "results"
CONTESTANTS = ("dpo, order=groups", "dpo, order=pairs", "dpo, groups, weighting=prompt", "TRL")
BATCH, EPOCHS, LR, BETA = 32, 2, 6e-5, 0.1
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""Student's t for a two-sided 95 % interval, by the number of seeds."""


def train_ours(pairs: Path, output: Path, seed: int, *options: str) -> None:
    """Train with the command line."""
    command = [sys.executable, "-m", "cli", "train", str(pairs), "--model", str(SAMPLES / "policy"), "-o", str(output)]
    settings = [
        f"dpo.reference_policy_kl_penalty={BETA}",
        f"dpo.max_num_epochs={EPOCHS}",
        f"dpo.seed={seed}",
        f"policy.train_global_batch_size={BATCH}",
        f"policy.train_micro_batch_size={BATCH}",
        f"policy.optimizer.lr={LR}",
        "reference.cache_dir=null",
    ]
    _run([*command, *settings, *options])


def train_trl(pairs: Path, output: Path, seed: int) -> None:
    """Train with TRL in a process of its own."""
    _run([sys.executable, __file__, "--trl", str(pairs), str(output), str(seed)])


def _run(command: list[str]) -> None:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(result.stderr)


def run_trl(pairs: Path, output: Path, seed: int) -> None:
    """Train with TRL's DPOTrainer, with the settings of `dpo train`."""
    import torch
    from datasets import Dataset, disable_caching
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    disable_caching()
    tokenizer = AutoTokenizer.from_pretrained(SAMPLES / "policy")
    model = AutoModelForCausalLM.from_pretrained(SAMPLES / "policy", dtype=torch.float32)
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    rows = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in rows]
    config = DPOConfig(
        output_dir=str(output / "trl"),
        beta=BETA,
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH,
        precompute_ref_log_probs=True,
        learning_rate=LR,
        lr_scheduler_type="linear",
        warmup_steps=round(0.1 * EPOCHS * math.ceil(len(rows) / BATCH)),
        adam_beta1=0.9,
        adam_beta2=0.98,
        adam_epsilon=1e-5,
        weight_decay=0.1,
        max_grad_norm=1.0,
        seed=seed,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        max_length=None,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = DPOTrainer(model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    trainer.train()
    trainer.model.save_pretrained(output / "policy")
    tokenizer.save_pretrained(output / "policy")


def train(contestant: str, folder: Path, output: Path, seed: int) -> None:
    """Train one policy."""
    if contestant == "TRL":
        train_trl(folder / "trl.jsonl", output, seed)
    else:
        order = "pairs" if contestant.endswith("pairs") else "groups"
        weighting = "prompt" if contestant.endswith("prompt") else "pair"
        train_ours(folder / "pairs.jsonl", output, seed, f"data.order={order}", f"dpo.weighting={weighting}")


def collect_both(folder: Path) -> None:
    """Make the pairs of the samples, in both forms."""
    for name, form in (("pairs.jsonl", "binary"), ("trl.jsonl", "trl")):
        rollouts, output = str(SAMPLES / "rollouts.jsonl"), str(folder / name)
        _run([sys.executable, "-m", "cli", "collect-pairs", rollouts, "--format", form, "-o", output])


def mean_reward(policy: Path, num_samples: int) -> float:
    """Let a policy answer the held-out prompts, and score its answers."""
    from collect import DEFAULT_INPUT, collect, read_tasks

    rows = collect(policy, read_tasks(DEFAULT_INPUT), num_samples, 0)
    return statistics.fmean(float(str(row["reward"])) for row in rows)


def measure(seeds: list[int], num_samples: int) -> dict[str, Any]:
    """Train and score every contestant with every seed."""
    sys.path.insert(0, str(SAMPLES))
    start = mean_reward(SAMPLES / "policy", num_samples)
    results: dict[str, dict[str, list[float]]] = {name: {"reward": [], "seconds": []} for name in CONTESTANTS}
    with tempfile.TemporaryDirectory() as scratch:
        collect_both(Path(scratch))
        for seed in seeds:
            for number, name in enumerate(CONTESTANTS):
                output = Path(scratch) / f"{seed}-{number}"
                started = time.perf_counter()
                train(name, Path(scratch), output, seed)
                results[name]["seconds"].append(time.perf_counter() - started)
                reward = mean_reward(output / "policy", num_samples)
                results[name]["reward"].append(reward)
                print(f"seed {seed}  {name:30} {reward:.3f}  {results[name]['seconds'][-1]:.0f} s", file=sys.stderr)
    return {"start": start, "seeds": seeds, "results": results}


def interval(values: list[float]) -> tuple[float, float]:
    """Give the 95 % t interval of the mean."""
    mean, half = statistics.fmean(values), T_95[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    return mean - half, mean + half


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--samples", type=int, default=8, help="answers to each held-out prompt")
    parser.add_argument("--output", type=Path, default=RESULTS / "learning.json")
    parser.add_argument("--trl", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.trl:
        pairs, output, seed = args.trl
        run_trl(Path(pairs), Path(output), int(seed))
        return
    report = measure(args.seeds, args.samples)
    report["versions"] = {name: version(name) for name in ("torch", "transformers", "trl")}
    report["date"] = time.strftime("%Y-%m-%d")
    print(f"before: {report['start']:.3f}")
    groups = report["results"][CONTESTANTS[0]]["reward"]
    for name, figures in report["results"].items():
        low, high = interval(figures["reward"])
        behind = [mine - theirs for mine, theirs in zip(figures["reward"], groups, strict=True)]
        print(
            f"{name:30} {statistics.fmean(figures['reward']):.3f} [{low:.3f}, {high:.3f}]  "
            f"against groups {statistics.fmean(behind):+.3f}  {statistics.median(figures['seconds']):.1f} s"
        )
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
