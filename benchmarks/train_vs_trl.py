"""One epoch of DPO over the same pair file: `dpo`'s trainer against TRL's DPOTrainer with its best settings.

    python benchmarks/train_vs_trl.py                          # the device's usual model and shapes
    python benchmarks/train_vs_trl.py --shapes all_pairs --repeats 1 --model small
    python benchmarks/train_vs_trl.py --model 0.6b 1.7b        # on a GPU, in bfloat16

Both train the same random model on the same token ids in the same precision, with the same optimizer and the same
number of pairs a step, without gradient checkpointing, with reference log-probs that were computed before (what that
took is told apart). TRL has its fused head, and the micro-batch size that was fastest among those tried. Each process
trains one epoch to warm up and a second one that is timed, wall clock, data loading and logging included. Contestants
take turns. Results go to benchmarks/results/ as JSON.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from made_pairs import MODELS, SHAPES, Shape, write_inputs

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results"
TRL_MICRO_BATCHES = {"cpu": 4, "cuda": 64}
"""The largest that is tried; each that divides a step's pairs is, until one runs out of memory."""
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "68719476736"}
"""glibc keeps freed memory instead of handing it back and fetching it again for each tensor; both contestants gain."""


def run_ours(folder: Path, shape: Shape, precision: str, tokens: int) -> dict[str, float]:
    """Train two epochs with the parts that `dpo train` is made of; time the second."""
    from trainer.config.settings import resolve
    from trainer.data.plan import plan_steps
    from trainer.model.policy import load_policy
    from trainer.run.setup import set_up
    from trainer.run.start import load_groups, start_accelerator, tokenize
    from trainer.run.step import train_step

    config = resolve(
        [
            f"policy.train_global_batch_size={shape.batch_size}",
            f"policy.tokens_per_microbatch={tokens}",
            "policy.max_total_sequence_length=2048",
            f"policy.precision={precision}",
            "reference.cache_dir=null",
        ],
        train_data_path=folder / "pairs.jsonl",
        model_name=str(folder / "policy"),
        output_dir=folder / "unused",
    )
    accelerator, config = start_accelerator(config)
    model, tokenizer = load_policy(config.policy.model_name)
    data = tokenize(config, load_groups(config.data.train, shown=False), model, tokenizer, shown=False)
    steps = plan_steps(data.groups, seed=1, global_batch_size=shape.batch_size, num_epochs=2, max_steps=None)
    started = time.perf_counter()
    training = set_up(config, accelerator, model, data, steps)
    set_up_seconds = time.perf_counter() - started
    epochs = []
    for epoch in range(2):
        started = time.perf_counter()
        metrics = [train_step(training, step) for step in steps if step.epoch == epoch]
        epochs.append(time.perf_counter() - started)
    mean = {name: statistics.fmean(step[name] for step in metrics) for name in metrics[0]}
    return {
        "seconds": epochs[1],
        "reference_seconds": set_up_seconds,
        "loss": metrics[-1]["loss"],
        **{name: mean[name] for name in ("tokens_per_second", "dedup_factor", "sharing_factor", "mfu") if name in mean},
    }


def run_trl(
    folder: Path, shape: Shape, precision: str, micro_batch: int, max_pairs: int | None = None
) -> dict[str, float]:
    """Train two epochs with TRL; time the second."""
    import torch
    from datasets import Dataset, disable_caching, disable_progress_bars
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    disable_caching()
    disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(folder / "policy")
    tokenizer.chat_template = None
    model = AutoModelForCausalLM.from_pretrained(folder / "policy", dtype=torch.float32)
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()][:max_pairs]
    config = DPOConfig(
        output_dir=str(folder / "trl"),
        beta=0.05,
        num_train_epochs=2,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=max(1, shape.batch_size // micro_batch),
        precompute_ref_log_probs=True,
        precompute_ref_batch_size=2 * micro_batch,
        bf16=precision == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        optim="adamw_torch_fused" if torch.cuda.is_available() else "adamw_torch",
        gradient_checkpointing=False,
        max_length=None,
        logging_steps=1000,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.times: list[float] = []

        def on_epoch_begin(self, *args: object, **kwargs: object) -> None:
            self.times.append(_now())

        def on_epoch_end(self, *args: object, **kwargs: object) -> None:
            self.times.append(_now())

    clock = Clock()
    started = _now()
    trainer = DPOTrainer(
        model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, callbacks=[clock]
    )
    reference_seconds = _now() - started
    output = trainer.train()
    return {
        "seconds": clock.times[3] - clock.times[2],
        "reference_seconds": reference_seconds,
        "loss": output.training_loss,
    }


def _now() -> float:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def contestant(name: str, folder: Path, shape: str, setting: int, device: str) -> None:
    """Run one contestant in this process and print its figures."""
    warnings.simplefilter("ignore")
    precision = "bfloat16" if device == "cuda" else "float32"
    kind = SHAPES[shape]
    if name == "dpo":
        figures = run_ours(folder, kind, precision, setting)
    else:  # a trial is of one step's pairs
        figures = run_trl(folder, kind, precision, setting, kind.batch_size if name == "trial" else None)
    import torch

    if torch.cuda.is_available():
        figures["peak_mb"] = torch.cuda.max_memory_allocated() / 1e6
    else:
        figures["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print("FIGURES " + json.dumps(figures))


def measure(name: str, folder: Path, shape: str, setting: int, device: str) -> dict[str, float] | None:
    """Run one contestant in a process of its own; None where it ran out of memory."""
    command = [sys.executable, __file__, "--contestant", name, str(folder), shape, str(setting), device]
    environment = os.environ | KEEP_MEMORY | {"PYTHONPATH": str(REPOSITORY), "TOKENIZERS_PARALLELISM": "false"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    for line in result.stdout.splitlines():
        if line.startswith("FIGURES "):
            return dict(json.loads(line.removeprefix("FIGURES ")))
    if "out of memory" in result.stderr.lower():
        return None
    raise SystemExit(result.stderr)


def compare(shape: str, model: str, device: str, repeats: int, row_tokens: int) -> dict[str, Any]:
    """Measure both on one shape, in turn; TRL with the micro-batch size that is fastest for it."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_inputs(folder, SHAPES[shape], model, device)
        tried = {}
        sizes = [size for size in range(1, TRL_MICRO_BATCHES[device] + 1) if SHAPES[shape].batch_size % size == 0]
        for size in sizes:
            if figures := measure("trial", folder, shape, size, device):
                tried[size] = figures["seconds"]
                print(f"  TRL, a step in micro-batches of {size}: {figures['seconds']:.2f} s", file=sys.stderr)
        best = min(tried, key=lambda size: tried[size])
        runs: dict[str, list[dict[str, float]]] = {"dpo": [], "trl": []}
        for _ in range(repeats):
            for name, setting in (("dpo", row_tokens), ("trl", best)):
                figures = measure(name, folder, shape, setting, device)
                assert figures is not None, f"{name} ran out of memory"
                runs[name].append(figures)
        num_pairs = len((folder / "pairs.jsonl").read_text().splitlines())
    medians = {
        name: {key: statistics.median(run[key] for run in of_name) for key in of_name[0]}
        for name, of_name in runs.items()
    }
    ratio = statistics.median(
        theirs["seconds"] / ours["seconds"] for ours, theirs in zip(runs["dpo"], runs["trl"], strict=True)
    )
    return {
        "shape": asdict(SHAPES[shape]),
        "model": model,
        "pairs": num_pairs,
        "ratio": ratio,
        "bound": SHAPES[shape].bound[device],
        "trl_micro_batch": best,
        "trl_tried": tried,
        "row_tokens": row_tokens,
        **medians,
        "runs": runs,
    }


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--model", nargs="+", choices=MODELS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--row-tokens", type=int, help="policy.tokens_per_microbatch of dpo")
    parser.add_argument("--output", type=Path, help="JSON file (default: benchmarks/results/train_vs_trl_DEVICE.json)")
    parser.add_argument("--contestant", nargs=5, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.contestant:
        name, folder, shape, setting, device = args.contestant
        contestant(name, Path(folder), shape, int(setting), device)
        return
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    models = args.model or (["0.6b", "1.7b"] if device == "cuda" else ["small"])
    row_tokens = args.row_tokens or (16384 if device == "cuda" else 2560)
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device == "cuda" else f"{os.cpu_count()} CPU cores",
        "precision": "bfloat16" if device == "cuda" else "float32",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "transformers", "accelerate", "trl")},
        "date": time.strftime("%Y-%m-%d"),
        "results": [],
    }
    for model in models:
        for shape in args.shapes:
            result = compare(shape, model, device, args.repeats, row_tokens)
            report["results"].append(result)
            print(_line(result), flush=True)
    output = args.output or RESULTS / f"train_vs_trl_{device}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=1) + "\n")


def _line(result: dict[str, Any]) -> str:
    ours, theirs = result["dpo"], result["trl"]
    mfu = f", MFU {ours['mfu']:.0%}" if "mfu" in ours else ""
    return (
        f"{result['model']:6} {result['shape']['about']:20} dpo {ours['seconds']:7.2f} s "
        f"({result['pairs'] / ours['seconds']:,.1f} pairs/s, {ours['tokens_per_second']:,.0f} tokens/s{mfu}, "
        f"{ours['peak_mb']:,.0f} MB)  TRL {theirs['seconds']:7.2f} s (micro-batch {result['trl_micro_batch']}, "
        f"{theirs['peak_mb']:,.0f} MB)  ratio {result['ratio']:.1f}x (aim {result['bound']:g}x)  "
        f"reference {ours['reference_seconds']:.1f} s against {theirs['reference_seconds']:.1f} s"
    )


if __name__ == "__main__":
    main()
