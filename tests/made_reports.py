"""Every kind of report, of the samples and of hostile texts, made by the commands that people use."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

from tests.hostile_texts import TEXTS, pairs, rollouts, write
from tests.tiny_models import save_tiny_policy

SAMPLES = Path(__file__).resolve().parent.parent / "data" / "samples"
KINDS = ("rollouts", "pairs", "comparison", "run", "runs", "evaluation")
ODD_NAME = "b <img src=x onerror=alert(1)> \N{RIGHT-TO-LEFT OVERRIDE}&"
"""Of a folder."""

Dpo = Callable[..., CompletedProcess[str]]


def make_of_samples(folder: Path, dpo: Dpo) -> dict[str, Path]:
    """Make a report of each kind of data/samples; the trainings have few pairs."""
    rows = (SAMPLES / "rollouts.jsonl").read_text().splitlines(keepends=True)
    (folder / "before.jsonl").write_text("".join(rows))
    better = [
        json.dumps(row | {"reward": min(1.0, row["reward"] + (number % 5 == 0))}) + "\n"
        for number, row in enumerate(map(json.loads, rows))
    ]
    (folder / "after.jsonl").write_text("".join(better))
    done(dpo("collect-pairs", "before.jsonl", "-o", "pairs.jsonl"))
    with (folder / "pairs.jsonl").open() as lines:
        few = [next(lines) for _ in range(128)]
    (folder / "train.jsonl").write_text("".join(few[:96]))
    (folder / "validate.jsonl").write_text("".join(few[96:]))
    return _make(folder, dpo, policy=SAMPLES / "policy", other_run="second")


def make_of_hostile_texts(folder: Path, dpo: Dpo) -> dict[str, Path]:
    """Make a report of each kind with these texts wherever foreign text may stand; trainings have them shortened."""
    rows = rollouts()
    write(folder / "before.jsonl", rows)
    write(
        folder / "after.jsonl",
        [row | {"reward": row["reward"] / (1 + place // 4 % 2)} for place, row in enumerate(rows)],
    )
    write(folder / "pairs.jsonl", pairs())
    short = {name: text[:150] for name, text in TEXTS.items() if text[:150].strip()}
    write(folder / "train.jsonl", pairs(short))
    write(folder / "validate.jsonl", pairs(dict([*short.items()][:40])))
    save_tiny_policy(folder / "policy")
    return _make(folder, dpo, policy=folder / "policy", other_run=ODD_NAME)


def _make(folder: Path, dpo: Dpo, *, policy: Path, other_run: str) -> dict[str, Path]:
    made = {kind: folder / f"{kind}.html" for kind in KINDS}
    done(dpo("report", "before.jsonl", "-o", made["rollouts"]))
    done(dpo("report", "pairs.jsonl", "-o", made["pairs"]))
    done(dpo("compare", "before.jsonl", "after.jsonl", "-o", made["comparison"]))
    told = ["train.jsonl", "--validation", "validate.jsonl", "--model", policy, "-o", "run", "--batch-size", 32]
    done(dpo("train", *told, "--epochs", 1, "dpo.val_at_start=true", "logger.num_val_samples_to_print=4"))
    shutil.copytree(folder / "run", folder / other_run)
    done(dpo("report", "run", "-o", made["run"]))
    done(dpo("report", "run", other_run, "-o", made["runs"]))
    answers = ["--generate", "validate.jsonl", "--max-new-tokens", 8, "--seed", 0]
    done(dpo("eval", "run", "validate.jsonl", "-o", "evaluation", *answers))
    made["evaluation"] = folder / "evaluation" / "report.html"
    return made


def done(process: CompletedProcess[str]) -> CompletedProcess[str]:
    """See that a command has done what it was asked."""
    assert process.returncode == 0, process.stderr[-3_000:]
    return process
