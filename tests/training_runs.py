"""Short training runs on a random model, for tests that look at what a run leaves."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from schemas.preference import write_rows
from tests.tiny_models import save_tiny_policy
from trainer.config.settings import resolve
from trainer.run.loop import RunResult, train

ROWS = [
    {"prompt": f"Question {prompt}?", "chosen": f"yes {chosen}", "rejected": "no, never" + "!" * rejected}
    for prompt in range(4)
    for chosen in range(2)
    for rejected in range(3)
]
"""Four prompts of five responses: 24 pairs of 20 distinct responses; the longest takes 30 + 12 tokens."""

HELD_OUT = [
    {"prompt": f"Other {prompt}?", "chosen": f"yes {number}", "rejected": "no"}
    for prompt in range(3)
    for number in range(3)
]
"""Three prompts with three pairs each."""

STEPS_OF_EIGHT = [
    {"prompt": f"Question {prompt}", "chosen": "yes" * (chosen + 1), "rejected": "no" * (rejected + 1)}
    for prompt in range(6)
    for chosen in range(2)
    for rejected in range(3)
]
"""36 pairs: four steps of 8 and one of 4, in which processes run dry."""

USUAL = (
    "policy.train_global_batch_size=8",
    "policy.train_micro_batch_size=4",
    "policy.optimizer.lr=1e-3",
    "policy.scheduler.name=constant_with_warmup",  # so that a step does not depend on how many follow
    "policy.scheduler.warmup_ratio=0",
    "policy.self_check=false",
    "dpo.max_num_epochs=9",
)


def filled(folder: Path) -> Path:
    """Put pairs, pairs to validate on and a policy into a folder."""
    write_rows(folder / "pairs.jsonl", ROWS)
    write_rows(folder / "held_out.jsonl", HELD_OUT)
    save_tiny_policy(folder / "policy")
    return folder


def held_out(folder: Path) -> str:
    """Give the setting that validates on such a folder's pairs."""
    return f"data.validation.data_path={folder / 'held_out.jsonl'}"


def run(folder: Path, name: str, *overrides: str, num_steps: int = 7) -> RunResult:
    """Train on pairs.jsonl of a folder, from the policy in there; on the CPU in some tenths of a second."""
    settings = [*USUAL, f"dpo.max_num_steps={num_steps}", *overrides]
    config = resolve(
        settings,
        train_data_path=folder / "pairs.jsonl",
        model_name=str(folder / "policy"),
        output_dir=folder / name,
    )
    result = train(config)
    assert result is not None
    return result


def lines_of(run_folder: Path) -> list[dict[str, Any]]:
    """Read metrics.jsonl."""
    return [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]


def weights_of(policy: Path) -> dict[str, torch.Tensor]:
    """Read the weights of a saved policy."""
    return load_file(policy / "model.safetensors")


def are_equal(policy: Path, other: Path) -> bool:
    """Say whether two policies have the same weights, to the last bit."""
    one, two = weights_of(policy), weights_of(other)
    return one.keys() == two.keys() and all(torch.equal(value, two[name]) for name, value in one.items())
