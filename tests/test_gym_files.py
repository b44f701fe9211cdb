"""Real rollout files of NeMo Gym, where they are at hand: no crash, every sum holds, the pairs are the recipe's.

The files are not part of this repository. GYM_ROLLOUTS names a folder of Gym's example files (*.jsonl), GYM_COLLECTED
one with mcqa.jsonl, a collection of 120 tasks with 8 rollouts each.
"""

import json
import os
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path

import pytest

from pipeline.collect import collect_pairs
from schemas.validation import validate_file

ROLLOUTS = os.environ.get("GYM_ROLLOUTS")
COLLECTED = os.environ.get("GYM_COLLECTED")
FILES = sorted(Path(ROLLOUTS).glob("*.jsonl")) if ROLLOUTS else []
EACH_FILE = FILES or [Path("GYM_ROLLOUTS")]  # a place holder, so that the reason for skipping is the one below

with_rollouts = pytest.mark.skipif(
    not FILES, reason="the environment variable GYM_ROLLOUTS (folder of real rollout files) is not set"
)
with_collected = pytest.mark.skipif(
    not COLLECTED, reason="the environment variable GYM_COLLECTED (folder with a real mcqa.jsonl) is not set"
)


def rows_of(path):
    return sum(1 for line in path.read_bytes().split(b"\n") if line.strip())


def assert_sums(account, rows):
    assert account["rows"] == rows == sum(account["dropped"].values()) + account["paired_rollouts"]
    assert account["paired_groups"] <= account["groups"]
    assert account["pairs"] <= account["paired_rollouts"] * (account["paired_rollouts"] - 1) / 2


@with_rollouts
@pytest.mark.parametrize("path", EACH_FILE, ids=lambda path: path.stem)
def test_each_row_of_a_file_is_accounted_for(tmp_path, path):
    collection = collect_pairs([path], min_margin=0.1)
    assert_sums(collection.attrition.as_dict(), rows_of(path))
    collection.write(tmp_path / "pairs.jsonl")
    assert len((tmp_path / "pairs.jsonl").read_bytes().splitlines()) == collection.attrition.pairs


@with_rollouts
@pytest.mark.parametrize("path", EACH_FILE, ids=lambda path: path.stem)
def test_each_row_of_a_file_is_checked(path):
    report = validate_file(path, max_findings=1000)
    assert report.rows == rows_of(path)
    assert report.num_findings == len(report.findings)
    assert {finding.line for finding in report.findings} <= set(range(1, report.rows + 1))
    assert len({finding.line for finding in report.findings}) == report.invalid_rows


@with_rollouts
def test_all_files_at_once_are_the_sum_of_each(dpo):
    run = dpo("collect-pairs", *FILES, "--json")
    assert run.returncode in (0, 1)  # 1: no pairs
    assert "Traceback" not in run.stderr
    account = json.loads(run.stdout)
    assert_sums(account, sum(map(rows_of, FILES)))
    apart = [collect_pairs([path], min_margin=0.1).attrition for path in FILES]
    dropped = sum((attrition.dropped for attrition in apart), Counter())
    assert account["dropped"] == {reason.value: count for reason, count in dropped.items() if count}
    for key in ("paired_rollouts", "groups", "paired_groups", "pairs"):
        assert account[key] == sum(getattr(attrition, key) for attrition in apart)


@with_rollouts
def test_all_files_are_validated_without_a_crash(dpo):
    run = dpo("validate", *FILES, "--json")
    assert run.returncode in (0, 1)
    assert run.stderr == ""
    assert len(json.loads(run.stdout)["files"]) == len(FILES)


def recipe_pairs(rows):
    """NeMo Gym's recipe, but with tasks told apart by the whole input: (prompt messages, chosen, rejected)."""

    def text_of(row):
        return "".join(
            part["text"] for item in row["response"]["output"] if item["type"] == "message" for part in item["content"]
        )

    grouped = defaultdict(list)
    for row in rows:
        asked = [(item["role"], item["content"]) for item in row["responses_create_params"]["input"]]
        grouped[json.dumps(asked)].append(row)
    for asked, group in grouped.items():
        usable = [row for row in group if text_of(row).strip()]
        for high, low in combinations(sorted(usable, key=lambda row: row["reward"], reverse=True), 2):
            if high["reward"] - low["reward"] >= 0.1:
                yield asked, text_of(high), text_of(low)


@with_collected
def test_a_real_collection_gives_the_pairs_of_the_recipe(dpo, tmp_path):
    rollouts = Path(COLLECTED) / "mcqa.jsonl"
    output = tmp_path / "pairs.jsonl"
    run = dpo("collect-pairs", rollouts, "-o", output, "--json")
    assert run.returncode == 0, run.stderr
    account = json.loads(run.stdout)
    assert_sums(account, 960)
    assert {key: account[key] for key in ("rows", "groups", "paired_groups", "pairs")} == {
        "rows": 960,
        "groups": 120,
        "paired_groups": 73,
        "pairs": 740,
    }

    pairs = []
    for row in map(json.loads, output.read_text(encoding="utf-8").split("\n")[:-1]):
        text = isinstance(row["prompt"], str)
        messages = [{"role": "user", "content": row["prompt"]}] if text else row["prompt"]
        asked = json.dumps([(message["role"], message["content"]) for message in messages])
        pairs.append((asked, row["chosen"], row["rejected"]))
    rows = map(json.loads, rollouts.read_text(encoding="utf-8").split("\n")[:-1])
    assert Counter(pairs) == Counter(recipe_pairs(rows))
    assert {json.loads(asked)[0][0] for asked, _, _ in pairs} == {"system", "user"}

    checked = dpo("validate", output)
    assert checked.returncode == 0, checked.stderr
    assert checked.stderr == f"{output}: 740 rows of binary_preference, all valid\n"


@pytest.mark.slow
@with_collected
def test_a_policy_trains_on_the_pairs_of_a_real_collection(dpo, tmp_path):
    assert dpo("collect-pairs", Path(COLLECTED) / "mcqa.jsonl", "-o", "pairs.jsonl").returncode == 0
    policy = Path(__file__).parents[1] / "data" / "samples" / "policy"
    settings = ["policy.train_global_batch_size=370", "policy.train_micro_batch_size=64", "policy.optimizer.lr=1e-5"]
    run = dpo("train", "pairs.jsonl", "--model", policy, "-o", "run", *settings)
    assert run.returncode == 0, run.stderr
    assert "740 pairs of 584 distinct responses to 73 prompts" in run.stderr
    losses = [json.loads(line)["train/loss"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 2
    assert losses[0] == pytest.approx(0.693147, abs=1e-5)
    assert abs(losses[1] - losses[0]) > 1e-5
    assert (tmp_path / "run" / "policy" / "model.safetensors").is_file()
