"""The samples: rows as NeMo Gym writes them, a policy right half of the time, and the proof that training helps."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

SAMPLES = Path(__file__).parents[1] / "data" / "samples"
sys.path.insert(0, str(SAMPLES))  # its scripts import one another as files of one folder

import collect  # noqa: E402
from sort_task import SortTask, extract_answer, verify  # noqa: E402


def rows_of(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (SAMPLES / name).read_text(encoding="utf-8").splitlines()]


ROWS = rows_of("rollouts.jsonl")
HELDOUT = rows_of("heldout.jsonl")
MAX_POLICY_BYTES = 3_000_000

GYM_KEYS = [
    "responses_create_params",
    "response",
    "reward",
    "expected_answer",
    "extracted_answer",
    "_ng_task_index",
    "_ng_rollout_index",
    "agent_ref",
]
"""Of a row that NeMo Gym 0.4.0's collector wrote for a verifier with these two fields, in its order."""


def text_of(row: dict[str, Any]) -> str:
    (item,) = row["response"]["output"]
    (part,) = item["content"]
    assert (item["type"], item["role"], part["type"]) == ("message", "assistant", "output_text")
    return str(part["text"])


def digits_of(row: dict[str, Any]) -> str:
    return "".join(sorted(char for char in row["responses_create_params"]["input"][-1]["content"] if char.isdigit()))


def test_rows_are_those_of_gym() -> None:
    for row in ROWS:
        assert list(row) == GYM_KEYS
        assert {"id", "created_at", "incomplete_details", "model", "object", "usage"} <= row["response"].keys()
        assert row["agent_ref"].keys() == {"name"}


def test_there_are_eight_rollouts_of_each_prompt_in_mixed_order() -> None:
    keys = [(row["_ng_task_index"], row["_ng_rollout_index"]) for row in ROWS]
    assert set(Counter(task for task, _ in keys).values()) == {8}
    assert len(set(keys)) == len(keys)
    assert keys != sorted(keys)
    prompts = {(row["_ng_task_index"], json.dumps(row["responses_create_params"]["input"])) for row in ROWS}
    assert len(prompts) == len({task for task, _ in prompts})


def test_rewards_are_the_verifiers() -> None:
    for row in ROWS:
        verdict = verify(text_of(row), row["expected_answer"])
        assert (row["reward"], row["extracted_answer"]) == (verdict.reward, verdict.extracted_answer)
    assert 0.4 < sum(row["reward"] for row in ROWS) / len(ROWS) < 0.6


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"It is \boxed{0179}", "0179"),
        (r"It is \boxed{0179}.", "0179"),
        (r"\boxed{0179} or so", None),  # not at the end
        (r"\boxed{1} \boxed{0179}", None),  # two answers
        (r"\boxed{}", None),
        ("0179", None),
    ],
)
def test_verifier(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


def test_expected_answer() -> None:
    assert SortTask("3701", descending=False, messages=()).expected_answer == "0137"
    assert SortTask("3701", descending=True, messages=()).expected_answer == "7310"


def test_held_out_prompts_are_held_out() -> None:
    assert len(HELDOUT) >= 128
    trained = {row["responses_create_params"]["input"][-1]["content"] for row in ROWS}
    assert not trained & {row["responses_create_params"]["input"][-1]["content"] for row in HELDOUT}
    for row in HELDOUT:
        assert sorted(row["expected_answer"]) == list(digits_of(row))


def test_the_policy_is_small_and_loads() -> None:
    assert sum(path.stat().st_size for path in (SAMPLES / "policy").iterdir()) <= MAX_POLICY_BYTES
    model = AutoModelForCausalLM.from_pretrained(SAMPLES / "policy")
    tokenizer = AutoTokenizer.from_pretrained(SAMPLES / "policy")
    assert model.config.model_type == "qwen3"
    for text in ["Sort 3 1 2", "any text: ä, 漢字, 🙂, \x00\n\t", "<think>"]:
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@pytest.mark.slow
def test_the_demo_ends_with_a_better_policy(dpo: Any, tmp_path: Path) -> None:
    """From rollouts to a policy that is better on prompts it has not seen: the interval's lower end is above 0."""
    result = subprocess.run(
        ["bash", str(SAMPLES / "demo.sh"), str(Path(sys.executable).parent), str(tmp_path / "demo")],
        env=os.environ | {"OMP_NUM_THREADS": "1", "DPO_REPORT": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    demo = tmp_path / "demo"
    assert result.stdout.splitlines()[-3:] == [
        "Pages to open in a browser:",
        f"  the training      {demo}/run/report.html",
        f"  before and after  {demo}/compare.html",
    ]
    assert "Finished: 84 steps" in (demo / "run" / "report.html").read_text(encoding="utf-8")
    assert "AFTER is better: the whole interval is above zero." in result.stdout
    assert "Traceback" not in result.stderr
    collecting = [sys.executable, str(SAMPLES / "collect.py"), str(SAMPLES / "policy"), str(demo / "run" / "policy")]
    files = [str(demo / name) for name in ("again_before.jsonl", "again_after.jsonl")]
    subprocess.run([*collecting, "--seed", "1", "--num-repeats", "4", "-o", *files], check=True)  # other samples
    told = dpo("compare", *files, "--json").stdout
    reward = json.loads(told)["overall"]["reward"]
    assert reward["change"]["low"] > 0.05
    assert 0.4 < reward["before"] < 0.6


@pytest.mark.parametrize(
    ("tasks", "output", "told"),
    [
        ("\n", "new.jsonl", "tasks.jsonl: no tasks"),
        ("\n[1]\n", "new.jsonl", "tasks.jsonl:2: no task of the samples"),
        ('{"expected_answer": "1"}', "new.jsonl", "tasks.jsonl:1: no task of the samples"),
        (None, "missing/new.jsonl", "missing/new.jsonl"),
    ],
)
def test_what_collect_cannot_do_is_told_before_torch_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tasks: str | None, output: str, told: str
) -> None:
    given = SAMPLES / "heldout.jsonl"
    if tasks is not None:
        given = tmp_path / "tasks.jsonl"
        given.write_text(tasks)
    assert collect.main([str(SAMPLES / "policy"), "--input", str(given), "-o", str(tmp_path / output)]) == 3
    assert told in capsys.readouterr().err
