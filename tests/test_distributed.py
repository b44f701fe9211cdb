"""Two processes against one, over gloo on the CPU: the same pairs in the same steps give the same weights."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from schemas.preference import write_rows
from tests.tiny_models import save_tiny_policy
from tests.training_runs import STEPS_OF_EIGHT

REPOSITORY = Path(__file__).parents[1]

# 5 steps of 8 pairs. A group has five responses of 3 to 7 tokens behind 29 of its prompt, 55 in all. The rows of 4 x 36
# tokens hold two groups; those of 36 hold one response or two, so that most pairs reach from one row, and from one
# process, into another.
SETTINGS = [
    "policy.train_global_batch_size=8",
    "policy.max_total_sequence_length=36",
    "reference.cache_dir=null",  # else the second run would have the reference log-probs of the first
    "policy.optimizer.lr=1e-3",
    "policy.optimizer.eps=1e-3",  # so that Adam does not blow rounding errors of tiny gradients up to whole steps
    "policy.max_grad_norm=0.5",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_rows(tmp_path / "pairs.jsonl", STEPS_OF_EIGHT)
    save_tiny_policy(tmp_path / "policy")
    return tmp_path


def train(dpo: Any, folder: Path, output: str, *, num_processes: int, settings: tuple[str, ...] = ()) -> Path:
    """Train with `warm_dpo`, whose processes find one another as those of a launcher do."""
    result = dpo(
        *("train", "pairs.jsonl", "--model", "policy", "-o", output, *SETTINGS, *settings),
        cwd=folder,
        num_processes=num_processes,
    )
    return checked(result, folder, output, num_processes)


def train_by_torchrun(folder: Path, output: str, *, num_processes: int) -> Path:
    command = [sys.executable, "-m", *TORCHRUN, f"--nproc-per-node={num_processes}", "-m", "cli", "train"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [*command, "pairs.jsonl", "--model", "policy", "-o", output, *SETTINGS],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    return checked(result, folder, output, num_processes)


def checked(result: Any, folder: Path, output: str, num_processes: int) -> Path:
    assert result.returncode == 0, result.stderr
    assert f"{num_processes} process" in result.stderr
    assert result.stdout.strip() == f"{output}/policy"
    return folder / output


TORCHRUN = ("torch.distributed.run", "--standalone")

OTHERWISE = {
    f"train/{name}" for name in ("step_seconds", "pairs_per_second", "tokens_per_second", "sharing_factor", "memory_gb")
} | {
    *("timing/train/total_step_time", "timing/train/valid_tokens_per_sec_per_gpu"),
    *("timing/validation-default/total_validation_time", "timing/validation/total_validation_time"),
    "timing/elapsed_seconds",
    *("train/accuracy", "validation-default/accuracy"),  # of the untrained policy, rounding decides it
}
"""Metrics that the number of processes may change."""

SPLIT = "policy.tokens_per_microbatch=36"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_processes", "settings"),
    [
        (2, ()),  # by torchrun itself
        (3, (SPLIT, "data.order=pairs", "dpo.weighting=prompt")),
        (2, (SPLIT, "policy.attention=rows", "reference=online")),
        (2, (SPLIT, 'loss.mix={"aot": 0.5, "sigmoid": 0.5}', "loss.ld_alpha=0.5")),
        (2, (SPLIT, "loss.wpo_weighting=true")),
    ],
)
def test_processes_change_nothing_but_rounding(
    warm_dpo: Any, folder: Path, num_processes: int, settings: tuple[str, ...]
) -> None:
    others = tuple(setting for setting in settings if setting != SPLIT)  # one process computes it all at once
    alone = train(warm_dpo, folder, "alone", num_processes=1, settings=others)
    if settings:
        together = train(warm_dpo, folder, "together", num_processes=num_processes, settings=settings)
    else:
        together = train_by_torchrun(folder, "together", num_processes=num_processes)
    expected = load_file(alone / "policy" / "model.safetensors")
    found = load_file(together / "policy" / "model.safetensors")
    start = load_file(folder / "policy" / "model.safetensors")
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6)
    assert max((expected[name] - start[name]).abs().max() for name in start if name in expected) > 1e-3
    lines = [(run / "metrics.jsonl").read_text().splitlines() for run in (alone, together)]
    assert len(lines[0]) == 5
    for one, two in zip(*(map(json.loads, run) for run in lines), strict=True):
        assert one.keys() == two.keys()
        for name in one.keys() - OTHERWISE:
            assert one[name] == pytest.approx(two[name], rel=1e-4, abs=1e-5), name


@pytest.mark.slow
def test_validation_and_checkpoints_are_the_same_on_two_processes(warm_dpo: Any, folder: Path) -> None:
    """Four steps with two checkpoints, each validated, on rows so short that pairs reach from one into another."""
    rows = [{"prompt": f"Other {number}", "chosen": "yes" * (number % 3 + 1), "rejected": "no"} for number in range(7)]
    write_rows(folder / "held_out.jsonl", rows)
    settings = (
        *("data.validation.data_path=held_out.jsonl", "checkpointing.save_period=2", "dpo.max_num_steps=5"),
        "checkpointing.checkpoint_must_save_by=1:00:00:00",  # so that the processes agree on it in each step
    )
    alone = train(warm_dpo, folder, "alone", num_processes=1, settings=settings)
    together = train(warm_dpo, folder, "together", num_processes=2, settings=(*settings, SPLIT))
    lines = [
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (alone, together)
    ]
    assert [line["step"] for line in lines[0]] == [0, 1, 2, 2, 3, 4, 4, 5, 5]
    for one, two in zip(*lines, strict=True):
        assert one.keys() == two.keys()
        for name in one.keys() - OTHERWISE:
            assert one[name] == pytest.approx(two[name], rel=1e-4, abs=1e-5), name
    for step in (2, 4):
        path = f"checkpoints/step_{step}/policy/model.safetensors"
        expected, found = load_file(alone / path), load_file(together / path)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_a_process_without_a_part_in_split_pairs_keeps_step_with_the_others(warm_dpo: Any, folder: Path) -> None:
    """Steps of two pairs on three processes: one whole in a row, the other's sides in two. Who has no part in one of
    them still has to run what the others run, policy and reference, for under FSDP2 they put weights together."""
    rows = [
        {"prompt": f"{n}", "chosen": "y" * 30, "rejected": "n" * 25}
        if n % 2
        else {"prompt": f"{n}", "chosen": "a" * 8, "rejected": "b" * 9}
        for n in range(12)
    ]  # 21 tokens of prompt, so a row of 60 has room for one long response or for two short ones
    write_rows(folder / "pairs.jsonl", rows)
    settings = (
        "policy.train_global_batch_size=2",
        "policy.max_total_sequence_length=60",
        "policy.tokens_per_microbatch=60",
        "cluster.accelerate_config=fsdp2",
        "reference=online",
        "data.validation.data_path=held_out.jsonl",
        "dpo.val_period=3",
    )
    write_rows(folder / "held_out.jsonl", rows[1:2])  # in one row of one process
    alone = train(warm_dpo, folder, "alone", num_processes=1, settings=settings)
    together = train(warm_dpo, folder, "together", num_processes=3, settings=settings)
    found = load_file(together / "policy" / "model.safetensors")
    for name, value in load_file(alone / "policy" / "model.safetensors").items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_a_process_that_fails_ends_the_run(folder: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable,
        "-m",
        *TORCHRUN,
        "--nproc-per-node=2",
        "-m",
        "cli",
        "train",
        "missing.jsonl",
        "--model",
        "policy",
        "-o",
        "run",
    ]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode != 0
    # each process tells it; torchrun ends the other one, which may not have come so far
    assert re.search(r"^dpo: error( \(rank 1\))?: missing\.jsonl: no such file$", result.stderr, re.MULTILINE)
    assert "fault of dpo" not in result.stderr
    assert not (folder / "run").exists()
