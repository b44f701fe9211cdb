"""`dpo train --dry-run`: numbers derived by hand, nothing written, no weights read, mistakes told as by a run."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from schemas.errors import UsageError
from schemas.preference import write_rows
from tests.tiny_models import save_tiny_policy
from trainer.config.settings import resolve
from trainer.cost.dry_run import dry_run, pack_steps
from trainer.cost.memory import RowShape
from trainer.cost.throughput import Work
from trainer.data.groups import GroupPair
from trainer.data.plan import PairRef, Step
from trainer.data.tokenize import TokenizedGroup, TokenizedResponse
from trainer.model.packing import Layout, Packer
from trainer.model.policy import load_policy, load_shape

ROWS = [
    # the prompt Q: <|im_start|>user\n Q <|im_end|>\n and <|im_start|>assistant\n: 6 + 1 + 2 + 11 = 20 tokens
    {"prompt": "Q", "chosen": "yes", "rejected": "no"},  # 4 and 3 tokens with the end of turn
    {"prompt": "Q", "chosen": "yes", "rejected": "never"},  # 4 and 6
    {"prompt": "Q", "chosen": "no", "rejected": "never"},  # so three responses: 4 + 3 + 6 = 13
    {"prompt": "RR", "chosen": "a", "rejected": "b"},  # 21, and twice 2
    {"prompt": "SSS", "chosen": "four", "rejected": "x"},  # 22, and 5 and 2
    {"prompt": "SSS", "chosen": "four", "rejected": "x" * 100},  # too long
]
"""Three prompts of 20 + 21 + 22 = 63 tokens, seven responses of 13 + 4 + 7 = 24 tokens; 5 pairs that fit in 40."""

OPTIONS = ("policy.max_total_sequence_length=40", "policy.train_global_batch_size=8", "policy.precision=float32")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_rows(tmp_path / "pairs.jsonl", ROWS)
    save_tiny_policy(tmp_path / "policy")
    return tmp_path


def plan_of(warm_dpo: Any, folder: Path, *options: str) -> dict[str, Any]:
    arguments = ("train", "pairs.jsonl", "--model", "policy", "--dry-run", "--json", *OPTIONS, *options)
    result = warm_dpo(*arguments, cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")
    plan: dict[str, Any] = json.loads(result.stdout)
    return plan


def test_the_numbers_of_a_small_file(warm_dpo, folder: Path) -> None:
    plan = plan_of(warm_dpo, folder)
    memory = plan.pop("memory")
    assert plan == {
        "pairs": 5,
        "responses": 7,
        "prompts": 3,
        "dropped": {"too_long": 1},
        "validation": {},
        "steps": 1,
        "validations": 0,
        "checkpoints": 0,
        "disk": 107_648,  # the policy
        "processes": 1,
        "device": "cpu",
        "precision": "float32",
        "attention": {"backend": "segments", "reason": "the best on a CPU; prompts are shared"},
        "counted_steps": 1,
        "rows_per_step": {"mean": 1.0, "max": 1},
        "tokens": {
            # prompt Q with 4 and 3, 4 and 6, 3 and 6; RR with 2 and 2; SSS with 5 and 2
            "pair_tokens": 6 * 20 + (4 + 3 + 4 + 6 + 3 + 6) + (2 * 21 + 4) + (2 * 22 + 7),
            "response_tokens": (3 * 20 + 13) + (2 * 21 + 4) + (2 * 22 + 7),
            "tokens": 63 + 24,
            "trained_tokens": 24,
            # a prompt of P sees P (P + 1) / 2, a response of R behind it P R + R (R + 1) / 2
            "visible": (210 + 20 * 13 + 10 + 6 + 21) + (231 + 21 * 4 + 3 + 3) + (253 + 22 * 7 + 15 + 3),
        },
        "dedup_factor": 243 / 170,
        "sharing_factor": 170 / 87,
        "largest_row_tokens": 87,
        "gpu_memory": None,
    }
    assert (memory["weights"], memory["optimizer"]) == (107_648, 215_296)  # as in test_memory.py
    assert memory["total"] == sum(value for part, value in memory.items() if part != "total")


def test_rows_that_are_not_shared(warm_dpo, folder: Path) -> None:
    """At most 80 tokens in a row, padding included: two sequences of up to 40, so seven responses take four rows."""
    plan = plan_of(warm_dpo, folder, "policy.attention=rows", "policy.tokens_per_microbatch=60")
    assert plan["attention"] == {"backend": "rows", "reason": "policy.attention=rows"}
    assert plan["rows_per_step"] == {"mean": 4.0, "max": 4}
    assert plan["sharing_factor"] == 1.0


def test_steps_of_several_epochs(warm_dpo, folder: Path) -> None:
    plan = plan_of(warm_dpo, folder, "policy.train_global_batch_size=2", "dpo.max_num_epochs=3")
    assert (plan["steps"], plan["counted_steps"]) == (9, 3)


def test_validation_and_checkpoints_are_planned(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nine steps: validated before the first, behind every fourth, behind the last, and behind each second to compare
    the checkpoints. Of four checkpoints the best stays; with the newest and one that is being written it is three. As
    many have weights and moments beside the policy, 12 bytes a weight where that has 4."""
    long = {"prompt": "new", "chosen": "a" * 99, "rejected": "b"}
    write_rows(folder / "held_out.jsonl", [ROWS[0], {"prompt": "new", "chosen": "a", "rejected": "b"}, long])
    options = (
        *("policy.train_global_batch_size=2", "dpo.max_num_epochs=3", "dpo.val_period=4"),
        *("checkpointing.save_period=2", "checkpointing.keep_top_k=1"),
        f"data.validation.data_path={folder / 'held_out.jsonl'}",
    )
    config = resolve(
        [setting for setting in OPTIONS if "batch_size" not in setting] + list(options),
        train_data_path=folder / "pairs.jsonl",
        model_name=str(folder / "policy"),
        output_dir=folder / "run",
    )
    planned = dry_run(config)
    assert planned is not None
    plan = planned.as_dict()
    assert plan["validation"] == {"default": {"pairs": 2, "responses": 4, "prompts": 2, "dropped": {"too_long": 1}}}
    counts = (plan["steps"], plan["validations"], plan["checkpoints"], plan["disk"])
    assert counts == (9, 6, 4, 3 * (1 + 3) * 107_648)  # validated at 0, 2, 4, 6, 8 and 9, saved at 2, 4, 6 and 8
    planned.show()
    lines = capsys.readouterr().err.splitlines()
    for line in (
        "validation default: 2 pairs to 2 prompts",
        "validation default: 1 pair dropped (33%): too_long; the longest has 122 tokens",
        "validation default: 1 of its 2 prompts is trained on too; dpo collect-pairs --validation-fraction splits by "
        "prompt",
        "6 validations of the set",
        f"4 checkpoints, every 2 steps, in {folder}/run/checkpoints; 1 with the lowest val:validation-default_loss and "
        "the newest are kept",
        "disk: 1.3 MB, for the policy of 0.1 MB and its checkpoints",
    ):
        assert line in lines


def test_in_a_pod_of_several_a_plan_waits_for_nobody(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a pod says of itself is about its node; no launcher has started processes there."""
    pod = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in pod.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    config = resolve(
        (*OPTIONS, "cluster.gpus_per_node=none", "cluster.timeout_minutes=0.1"),
        train_data_path=folder / "pairs.jsonl",
        model_name=str(folder / "policy"),
        output_dir=folder / "run",
    )
    plan = dry_run(config)
    assert plan is not None
    assert plan.data.num_pairs == 5
    assert {name: os.environ.get(name) for name in pod} == pod


def test_what_people_read(warm_dpo, folder: Path) -> None:
    result = warm_dpo("train", "pairs.jsonl", "--model", "policy", "--dry-run", *OPTIONS, cwd=folder)
    assert (result.returncode, result.stdout) == (0, "")
    for line in (
        "5 pairs of 7 distinct responses to 3 prompts",
        "1 pair dropped (17%): too_long; the longest has 123 tokens",  # 22 and 100 and the end of turn
        "rows of at most 160 tokens: 1.0 in a step on each process, at most 1",
        "87 tokens in an epoch of 1 step, 24 of them trained on",
        "pair by pair it would be 243 tokens: 1.43 times for responses in several pairs, 1.95 times for shared prompts",
        "attention segments: the best on a CPU; prompts are shared",
        "disk: 0.1 MB, for the policy of 0.1 MB",
        "memory of one process on cpu, estimated:",
        "dry run: nothing was trained or written",
    ):
        assert line in result.stderr.splitlines()


def test_nothing_is_written_and_no_weights_are_needed(warm_dpo, folder: Path) -> None:
    (folder / "policy" / "model.safetensors").unlink()
    before = set(folder.rglob("*"))
    result = warm_dpo("train", "pairs.jsonl", "--model", "policy", "-o", "run", "--dry-run", *OPTIONS, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert set(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (["missing.jsonl", "--model", "policy"], 3, "missing.jsonl: no such file"),
        (["pairs.jsonl", "--model", "./nowhere"], 3, "model ./nowhere: no such folder"),
        (["pairs.jsonl", "--model", "policy", "-o", "policy"], 2, "policy: exists and is not empty"),
        (["pairs.jsonl", "--model", "policy", "dpo.sed=3"], 2, "did you mean dpo.seed?"),
        (["pairs.jsonl", "--model", "policy", "policy.max_total_sequence_length=3"], 1, "no pair is left to train on"),
        (["pairs.jsonl", "--model", "policy", "policy.attention=flex"], 2, "no backward pass on a CPU"),
        (
            ["pairs.jsonl", "--model", "policy", "--no-self-check", "policy.self_check=true"],
            2,
            "policy.self_check: given as an option and as policy.self_check=; give one",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_mistakes_are_told_as_by_a_run(
    warm_dpo, folder: Path, arguments: list[str], exit_code: int, message: str
) -> None:
    result = warm_dpo("train", *arguments, "--dry-run", cwd=folder)
    assert (result.returncode, result.stdout) == (exit_code, ""), result.stderr
    (line,) = result.stderr.splitlines()
    assert message in line


@pytest.mark.parametrize(("given", "wanted"), [(None, True), (True, True), (False, False)])
def test_the_self_check_is_an_option(given: bool | None, wanted: bool) -> None:
    config = resolve([], train_data_path=Path("x"), output_dir=Path("y"), self_check=given)
    assert config.policy.self_check is wanted


def test_the_self_check_can_be_given_one_way_only() -> None:
    with pytest.raises(UsageError, match="given as an option"):
        resolve(["policy.self_check=false"], train_data_path=Path("x"), output_dir=Path("y"), self_check=False)


def test_the_shape_is_that_of_the_model(folder: Path) -> None:
    model, _ = load_policy(str(folder / "policy"))
    shape, tokenizer = load_shape(str(folder / "policy"))
    assert len(tokenizer) == 259
    assert {parameter.device.type for parameter in shape.parameters()} == {"meta"}
    sizes = [(name, parameter.shape, parameter.dtype) for name, parameter in shape.named_parameters()]
    assert sizes == [(name, parameter.shape, torch.float32) for name, parameter in model.named_parameters()]
    assert shape.generation_config.eos_token_id == model.generation_config.eos_token_id


def test_rows_are_counted_for_each_process() -> None:
    """Three groups of 2 + 3 + 3 tokens; one fits into a row, and two processes take two rows each, one a filler."""
    response = TokenizedResponse([1, 2, 3], [0, 1, 1])
    other = TokenizedResponse([1, 2, 4], [0, 1, 1])
    groups = [TokenizedGroup([7, 8], (response, other), (GroupPair(0, 1, "x:1"),)) for _ in range(3)]
    steps = [Step(0, tuple(PairRef(group, 0) for group in range(3)))]
    packed = pack_steps(steps, Packer(groups, Layout.TREE, 8), pads_to=1, num_processes=2)
    assert (packed.steps, packed.rows, packed.most_rows) == (1, 2, 2)
    visible = 3 + 2 * (3 * 2 + 6)
    assert packed.work == Work(3 * 10, 3 * 10, 3 * 8, 3 * 4, 3 * visible)
    assert packed.largest == RowShape(8, 4, prompt_tokens=2, keys=10, mask=30)
