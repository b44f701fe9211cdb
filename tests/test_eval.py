"""`dpo eval`: numbers against plain transformers, intervals against plain loops, answers against their seeds."""

import dataclasses
import json
import math
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

import cli
from schemas.errors import DpoError, InputError, UsageError
from tests.tiny_models import byte_tokenizer, save_tiny_policy
from trainer.evaluation.abilities import compared_abilities
from trainer.evaluation.answers import compared
from trainer.evaluation.calibration import calibration
from trainer.evaluation.folder import write_folder
from trainer.evaluation.generation import choose, generate_answers, nucleus
from trainer.evaluation.intervals import intervals_by_prompt
from trainer.evaluation.measures import reward_correlation
from trainer.evaluation.policies import find_judged
from trainer.evaluation.prompts import read_prompts
from trainer.evaluation.question import Answer, Question
from trainer.evaluation.request import Generation, Request, make_request
from trainer.evaluation.result import result_of
from trainer.evaluation.run import Evaluation, run_evaluation
from trainer.evaluation.shown_pairs import most_wrong
from trainer.evaluation.vllm_generation import generate_with_vllm, uses_vllm
from views.evaluation.page import evaluation_page, write_evaluation_page

BETA = 0.5
HOSTILE = "<script>alert(1)</script></style>{{ 7*7 }} \x1b[31m \u202e \x00 $a$ " + "w" * 3000
PAIRS: list[dict[str, Any]] = [
    {"prompt": "Sort 3 1 2.", "chosen": "1 2 3", "rejected": "321", "chosen_reward": 1.0, "rejected_reward": 0.0},
    {"prompt": "Sort 3 1 2.", "chosen": "1 2 3", "rejected": "no idea", "chosen_reward": 1.0, "rejected_reward": 0.5},
    {"prompt": "Say hi.", "chosen": "hi", "rejected": "go away, please", "agent": "polite"},
    {"prompt": "Say hi.", "chosen": "hello there", "rejected": "no", "agent": "polite", "chosen_truncated": True},
    {"prompt": "Quote.", "chosen": HOSTILE, "rejected": "é" * 40, "agent": "<b>&"},
]
"""Prompts of two, two and one pairs; responses that stand in several pairs, one that was cut, hostile ones."""


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("eval")
    size = {"max_position_embeddings": 8192}
    policy = save_tiny_policy(folder / "policy", seed=1, **size)
    reference = save_tiny_policy(folder / "reference", seed=2, **size)
    pairs = folder / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    return {"policy": policy, "reference": reference, "pairs": pairs, "folder": folder}


def request(places: dict[str, Path], **options: Any) -> Request:
    judged = find_judged(str(places["policy"]), options.pop("reference", str(places["reference"])))
    settings = ["reference.cache_dir=null", "policy.max_total_sequence_length=8192", *options.pop("settings", [])]
    options.setdefault("output", places["folder"] / "new")
    return make_request(judged, [places["pairs"]], settings, beta=BETA, **options)


@pytest.fixture(scope="module")
def evaluated(places: dict[str, Path]) -> Evaluation:
    generation = Generation((places["pairs"],), samples_per_prompt=2, max_new_tokens=12, batch_size=4)
    return run_evaluation(request(places, generation=generation))


def plain_logps(folder: Path, row: dict[str, Any], side: str) -> list[float]:
    """The log-prob of each token of a response, by the model alone on one sequence."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    prompt = f"<|im_start|>user\n{row['prompt']}<|im_end|>\n<|im_start|>assistant\n"
    end = "" if row.get(f"{side}_truncated") else "<|im_end|>"
    before = tokenizer(prompt)["input_ids"]
    answer = tokenizer(row[side] + end)["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([before + answer])).logits[0]
    logps = torch.log_softmax(logits.double(), dim=-1)
    return [float(logps[len(before) - 1 + place, token]) for place, token in enumerate(answer)]


def test_numbers_are_those_of_the_models_pair_by_pair(places: dict[str, Path], evaluated: Evaluation) -> None:
    expected: dict[str, list[float]] = {}
    for row, found in zip(PAIRS, evaluated.scores.rows(), strict=True):
        logps = {
            (who, side): plain_logps(places[who], row, side)
            for who in ("policy", "reference")
            for side in ("chosen", "rejected")
        }
        for (who, side), values in logps.items():
            assert found[f"{who}_{side}_logps"] == pytest.approx(sum(values), abs=2e-3, rel=1e-6)
            assert found[f"{side}_tokens"] == len(values)
        ratios = {side: sum(logps["policy", side]) - sum(logps["reference", side]) for side in ("chosen", "rejected")}
        margin = BETA * (ratios["chosen"] - ratios["rejected"])
        assert found["margin"] == pytest.approx(margin, abs=2e-3)
        kls = [
            math.expm1(min(ours - theirs, 20)) - min(ours - theirs, 20)
            for side in ("chosen", "rejected")
            for ours, theirs in zip(logps["policy", side], logps["reference", side], strict=True)
        ]
        means = {
            who: {side: np.mean(logps[who, side]) for side in ("chosen", "rejected")}
            for who in places
            if who in ("policy", "reference")
        }
        values_of_pair = {
            "accuracy": float(margin > 0),
            "margin": margin,
            "loss": math.log1p(math.exp(-abs(margin))) + max(-margin, 0),
            "chosen_log_ratio": ratios["chosen"],
            "rejected_log_ratio_per_token": ratios["rejected"] / len(logps["policy", "rejected"]),
            "both_fell": float(max(ratios.values()) < 0),
            "kl": sum(kls) / 2,
            "accuracy_sum": float(sum(logps["policy", "chosen"]) > sum(logps["policy", "rejected"])),
            "accuracy_per_token": float(means["policy"]["chosen"] > means["policy"]["rejected"]),
            "reference_accuracy_per_token": float(means["reference"]["chosen"] > means["reference"]["rejected"]),
        }
        for name, value in values_of_pair.items():
            expected.setdefault(name, []).append(value)
    metrics = result_of(evaluated)["metrics"]
    for name, values in expected.items():
        assert metrics[name]["mean"] == pytest.approx(np.mean(values), rel=1e-4, abs=1e-3), name
    assert metrics["accuracy_per_token_gain"]["mean"] == pytest.approx(
        np.mean(expected["accuracy_per_token"]) - np.mean(expected["reference_accuracy_per_token"])
    )


def test_each_prompt_counts_once_by_prompt(evaluated: Evaluation) -> None:
    right = [float(row["margin"] > 0) for row in evaluated.scores.rows()]
    by_prompt = [(right[0] + right[1]) / 2, (right[2] + right[3]) / 2, right[4]]
    assert result_of(evaluated)["by_prompt"]["accuracy"]["mean"] == pytest.approx(np.mean(by_prompt))


def test_parts_are_those_of_the_rows(evaluated: Evaluation) -> None:
    result = result_of(evaluated)
    assert {(part["name"], part["num_pairs"]) for part in result["by_environment"]} == {
        ("(unnamed)", 2),
        ("polite", 2),
        ("<b>&", 1),
    }
    # tokens are bytes, one more for the end of the turn, none where it was cut
    assert [(part["name"], part["num_pairs"]) for part in result["by_longer_side"]] == [
        ("chosen is shorter", 2),
        ("chosen is longer", 3),
    ]
    assert [(part["name"], part["num_pairs"]) for part in result["by_length"]] == [
        ("up to 31 tokens", 4),
        ("2,048 to 4,095 tokens", 1),
    ]
    assert result["rewards"] is None  # of two pairs no correlation is told


def test_a_policy_that_is_the_reference_wins_nothing(places: dict[str, Path]) -> None:
    found = result_of(run_evaluation(request(places, reference=str(places["policy"]))))
    assert (found["metrics"]["accuracy"]["mean"], found["metrics"]["margin"]["mean"]) == (0.5, 0.0)
    assert found["metrics"]["loss"]["mean"] == pytest.approx(math.log(2))
    assert found["policy"]["weights_digest"] == found["reference"]["weights_digest"]


def test_without_a_reference_only_log_probs_are_told(places: dict[str, Path], tmp_path: Path) -> None:
    found = run_evaluation(request(places, reference="none"))
    result = result_of(found)
    assert "accuracy" not in result["metrics"]
    assert result["calibration"] is None
    write_folder(
        tmp_path, result, pairs=found.scores.rows(), shown=most_wrong(found.scores, found.groups, 5), samples=None
    )
    assert json.loads((tmp_path / "pairs.jsonl").read_text().splitlines()[0])["margin"] is None
    assert "right by log-probs per token" in evaluation_page(tmp_path)


def test_intervals_draw_prompts_not_pairs() -> None:
    """Against a loop: of each draw, the pairs of the drawn prompts, as often as these were drawn."""
    pairs = {0: [1.0, 1.0, 1.0, 0.0], 1: [0.0, 0.0], 2: [1.0], 3: [1.0, 0.0, 1.0], 4: [0.0]}
    values = np.array([[value] for each in pairs.values() for value in each])
    prompts = np.array([number for number, each in pairs.items() for _ in each])
    found = intervals_by_prompt(values, prompts)[0]
    assert found.mean == pytest.approx(6 / 11)
    draw = random.Random(1)
    means = []
    for _ in range(20_000):
        drawn = [value for number in draw.choices(list(pairs), k=5) for value in pairs[number]]
        means.append(sum(drawn) / len(drawn))
    assert found.low == pytest.approx(np.quantile(means, 0.025), abs=0.03)
    assert found.high == pytest.approx(np.quantile(means, 0.975), abs=0.03)
    shuffled = np.random.default_rng(0).permutation(len(values))
    assert intervals_by_prompt(values[shuffled], prompts[shuffled])[0] == found
    alone = intervals_by_prompt(values[:4], prompts[:4])[0]
    assert alone.mean == 0.75
    assert math.isnan(alone.low)


def test_intervals_of_many_prompts_are_those_of_draws() -> None:
    """Of more than a thousand prompts the interval is computed; drawn ones of the same data lie as wide."""
    source = np.random.default_rng(3)
    prompts = np.repeat(np.arange(1200), source.integers(1, 5, 1200))
    values = source.normal(size=(len(prompts), 1)) + source.normal(size=1200)[prompts][:, None]
    found = intervals_by_prompt(values, prompts)[0]
    sums, counts = np.bincount(prompts, values[:, 0]), np.bincount(prompts)
    picks = source.integers(0, 1200, (2000, 1200))
    low, high = np.quantile(sums[picks].sum(1) / counts[picks].sum(1), [0.025, 0.975])
    assert found.high - found.low == pytest.approx(high - low, rel=0.06)
    pairwise = 2 * 1.96 * values.std() / math.sqrt(len(values))
    assert found.high - found.low > 1.2 * pairwise  # what drawing pairs would claim


def test_calibration_by_hand() -> None:
    """Twenty pairs in two bins of confidences: 16 at 0.8, of which 12 are right; 4 at 0.6, of which 3 are."""
    sure, unsure = math.log(0.8 / 0.2), math.log(0.6 / 0.4)
    margins = np.array([sure] * 12 + [-sure] * 4 + [unsure] * 3 + [-unsure])
    found = calibration(margins, np.arange(20))
    assert [(one["num_pairs"], one["confidence"], one["accuracy"]["mean"]) for one in found["bins"]] == [
        (4, pytest.approx(0.6), 0.75),
        (16, pytest.approx(0.8), 0.75),
    ]
    assert found["expected_calibration_error"] == pytest.approx(0.2 * 0.15 + 0.8 * 0.05)
    assert found["overconfidence"] == pytest.approx(0.76 - 0.75)


def test_tokens_are_chosen_by_the_random_number() -> None:
    weights = torch.tensor([[0.5, 0.0, 0.3, 0.2]] * 4, dtype=torch.float64)
    assert choose(weights, torch.tensor([0.0, 0.49, 0.5, 0.999999])).tolist() == [0, 0, 2, 3]
    kept = nucleus(weights[:1], 0.6)  # 0.5 is not enough, so the next one is kept too
    assert kept.tolist() == [[0.5, 0.0, 0.3, 0.0]]
    assert choose(kept, torch.tensor([0.999999])).tolist() == [2]
    assert nucleus(weights[:1], 0.0001).tolist() == [[0.5, 0.0, 0.0, 0.0]]


def test_answers_hang_on_their_seeds_alone(places: dict[str, Path]) -> None:
    """The same seeds the same answers, in any batch; and they are draws from the model's distribution."""
    model: Any = AutoModelForCausalLM.from_pretrained(places["policy"], dtype=torch.float32)
    tokenizer: Any = AutoTokenizer.from_pretrained(places["policy"])
    model.generation_config.temperature = 3.0  # the model's own settings are not taken

    def answers(asked: list[Question], **options: Any) -> list[Answer]:
        wanted = Generation((), max_new_tokens=6, **options)
        return generate_answers(model, tokenizer, asked, wanted, end_ids=frozenset({256}), autocast=torch.no_grad)

    asked = [Question(place, tuple(range(20, 24 + place % 3)), seed=place) for place in range(9)]
    found = answers(asked, batch_size=9)
    assert answers(asked, batch_size=9) == found
    assert answers(asked, batch_size=2) == found
    assert answers(asked[::-1], batch_size=4) == found[::-1]
    assert len({one.text for one in found}) > 5
    assert model.generation_config.temperature == 3.0
    same = [Question(0, (20, 21, 22), seed=seed) for seed in range(4000)]
    with torch.no_grad():
        shares = torch.softmax(model(torch.tensor([[20, 21, 22]])).logits[0, -1].double() / 0.5, dim=-1)
    texts = [tokenizer.decode([token], skip_special_tokens=True) for token in range(len(shares))]
    wanted = texts[int(shares[:128].argmax())]
    share = sum(float(shares[token]) for token, text in enumerate(texts) if text == wanted)
    first = generate_answers(
        model,
        tokenizer,
        same,
        Generation((), max_new_tokens=1, temperature=0.5, batch_size=4000),
        end_ids=frozenset(),
        autocast=torch.no_grad,
    )
    assert sum(one.text == wanted for one in first) / len(same) == pytest.approx(share, abs=0.03)
    greedy = answers([same[0]], temperature=0.0)[0]
    expected = model.generate(
        torch.tensor([[20, 21, 22]]),
        max_new_tokens=6,
        do_sample=False,
        eos_token_id=256,
        temperature=1.0,
        pad_token_id=0,
    )
    ids = expected[0, 3:].tolist()
    assert greedy.text == tokenizer.decode([each for each in ids if each != 256], skip_special_tokens=True)


def test_both_policies_answer_each_prompt(evaluated: Evaluation) -> None:
    assert evaluated.sampled is not None
    rows = evaluated.sampled.rows
    assert [row["prompt"][0]["content"] for row in rows] == ["Sort 3 1 2."] * 2 + ["Say hi."] * 2 + ["Quote."] * 2
    assert len({row["seed"] for row in rows}) == 6
    assert any(row["before"] != row["after"] for row in rows)
    assert {"prompt", "before", "after", "seed", "before_truncated", "after_truncated"} == {*rows[0]}


def test_answers_are_compared() -> None:
    asked = [Question(0, (1,), 1), Question(0, (1,), 2), Question(1, (1,), 3)]
    before = [Answer("a", 2, False), Answer("b", 4, True), Answer("c", 6, False)]
    after = [Answer("a", 2, False), Answer("x", 8, True), Answer("y", 8, True)]
    found = compared(asked, before, after)
    means = {name: found[name]["mean"] for name in ("tokens_before", "tokens_difference", "same_text")}
    assert means == {"tokens_before": 4.0, "tokens_difference": 2.0, "same_text": pytest.approx(1 / 3)}
    assert (found["truncated_before"]["mean"], found["truncated_after"]["mean"]) == pytest.approx((1 / 3, 2 / 3))


def test_prompts_of_each_form(tmp_path: Path) -> None:
    tool = {"type": "function", "name": "add", "description": "adds", "parameters": {}, "strict": True}
    rows = [
        {"prompt": "one"},
        {"responses_create_params": {"input": "two", "instructions": "be brief", "tools": [tool]}, "agent_ref": {}},
        {"responses_create_params": {"input": [{"role": "user", "content": [{"type": "input_text", "text": "one"}]}]}},
        {"prompt": [{"role": "user", "content": "three"}]},
    ]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_prompts([path])
    assert [[message["content"] for message in one.messages] for one in found] == [
        ["one"],
        ["be brief", "two"],
        ["three"],
    ]
    assert found[1].tools[0]["function"] == {"name": "add", "description": "adds", "parameters": {}}


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"text": "x"}, "got the keys text"),
        ({"prompt": ""}, "without a text"),
        ({"prompt": []}, "an empty list"),
        (
            {"prompt": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]},
            "ends with the assistant",
        ),
        ({"prompt": [{"role": "boss", "content": "x"}]}, "got boss"),
        ({"responses_create_params": {"input": [{"type": "function_call", "name": "f"}]}}, "got function_call"),
        ({"responses_create_params": {"input": [{"role": "user", "content": [{"type": "input_image"}]}]}}, "no text"),
        ([1], "got list"),
    ],
)
def test_prompts_that_cannot_be_asked_are_told(row: object, told: str, tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "fine"}\n' + json.dumps(row) + "\n")
    with pytest.raises(InputError, match=rf"prompts\.jsonl:2: .*{told}.*; 1 row can't be asked"):
        read_prompts([path])
    path.write_text("\n")
    with pytest.raises(DpoError, match="no prompts"):
        read_prompts([path])


def test_a_run_names_its_policy_reference_and_settings(places: dict[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    save_tiny_policy(run / "policy", seed=1)
    told = {
        "data": {"train": [{"data_path": str(places["pairs"])}], "loss_mask": "nemo_rl"},
        "policy": {"model_name": str(places["reference"]), "max_total_sequence_length": 77},
        "dpo": {"reference_policy_kl_penalty": 0.3},
        "output_dir": str(run),
    }
    (run / "policy" / "train_config.json").write_text(json.dumps(told))
    for model in (run, run / "policy"):
        judged = find_judged(str(model), None)
        assert (judged.policy, judged.reference) == (str(run / "policy"), str(places["reference"]))
        config = make_request(judged, [places["pairs"]], output=tmp_path / "new").config
        assert config.dpo.reference_policy_kl_penalty == 0.3
        assert (config.policy.max_total_sequence_length, config.data.loss_mask) == (77, "nemo_rl")
        assert config.reference.model_name == str(places["reference"])
    longer = make_request(
        find_judged(str(run), None), [places["pairs"]], output=tmp_path / "new", max_length=5000
    ).config
    assert longer.policy.max_total_sequence_length == 5000
    told["policy"]["lora"] = {"rank": 4, "quantization": "nf4"}
    (run / "policy" / "train_config.json").write_text(json.dumps(told))
    assert find_judged(str(run), None).notes[0].startswith("the policy was trained on a copy of its reference in nf4")
    assert find_judged(str(run), str(places["reference"])).notes == ()
    told["policy"]["model_name"] = str(tmp_path / "gone" / "start")
    (run / "policy" / "train_config.json").write_text(json.dumps(told))
    with pytest.raises(InputError, match=r"was trained against .*gone.*--reference none"):
        find_judged(str(run), None)
    assert find_judged(str(run), "none").reference is None


def test_what_cannot_be_measured_is_told(places: dict[str, Path], tmp_path: Path) -> None:
    policy, pairs = str(places["policy"]), places["pairs"]
    with pytest.raises(InputError, match=r"MODEL: model .*no such folder"):
        find_judged(str(tmp_path / "nothing" / "here"), None)
    with pytest.raises(InputError, match="neither a policy"):
        find_judged(str(tmp_path), None)
    (tmp_path / "train_config.json").write_text("{}")
    with pytest.raises(InputError, match="a run without a policy"):
        find_judged(str(tmp_path), None)
    with pytest.raises(UsageError, match="empty"):
        find_judged("", None)
    judged = find_judged(policy, None)
    assert judged.reference is None
    with pytest.raises(UsageError, match="no pairs"):
        make_request(judged, [], output=tmp_path / "new")
    with pytest.raises(InputError, match="missing"):
        make_request(judged, [tmp_path / "missing.jsonl"], output=tmp_path / "new")
    with pytest.raises(UsageError, match="not empty"):
        make_request(judged, [pairs], output=tmp_path)
    with pytest.raises(UsageError, match="--generate compares"):
        make_request(judged, [pairs], output=tmp_path / "new", generation=Generation((pairs,)))
    with pytest.raises(DpoError, match=r"no pair is left .*too_long"):
        run_evaluation(make_request(judged, [pairs], output=tmp_path / "new", max_length=20))
    with pytest.raises(UsageError, match="vllm is not installed"):
        uses_vllm("vllm", is_on_gpu=False)


def test_too_long_pairs_are_counted(places: dict[str, Path], tmp_path: Path) -> None:
    judged = find_judged(str(places["policy"]), str(places["reference"]))
    wanted = make_request(
        judged, [places["pairs"]], ["reference.cache_dir=null"], output=tmp_path / "new", max_length=200
    )
    result = result_of(run_evaluation(wanted))
    assert result["data"]["dropped"] == {"too_long": 1}
    assert result["data"]["num_pairs"] == 4


def test_the_page_is_inert_and_whole(evaluated: Evaluation, tmp_path: Path) -> None:
    """Hostile texts stand in pairs, names and answers."""
    shown = most_wrong(evaluated.scores, evaluated.groups, 25)
    margins = [row["margin"] for row in evaluated.scores.rows()]
    worst = {min(margins[:2]), min(margins[2:4]), margins[4]}
    assert [row["margin"] for row in shown] == sorted(margin for margin in worst if margin < 0)
    assert evaluated.sampled is not None
    bad = shown[0] | {"environment": HOSTILE, "source": HOSTILE, "chosen": [{"role": "assistant", "content": HOSTILE}]}
    lone = evaluated.sampled.rows[0] | {"before": "half \ud800 a character", "after": HOSTILE}
    result = result_of(evaluated)
    result["policy"]["name"] = HOSTILE
    write_folder(
        tmp_path, result, pairs=evaluated.scores.rows(), shown=[bad, *shown], samples=[lone, *evaluated.sampled.rows]
    )
    write_evaluation_page(tmp_path, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert page.count("</style>") == 1
    assert "49" not in page.split("7*7")[1][:3]
    assert not {"\x1b", "\x00", "\u202e"} & {*page}
    assert "U+D800" in page
    assert "Most wrongly judged pairs" in page
    assert "style=" not in page.split("</head>")[1]


def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"eval\.json"):
        evaluation_page(tmp_path)
    (tmp_path / "eval.json").write_text('{"kind": "dpo_eval", "format": 99}')
    with pytest.raises(InputError, match="another kind or version"):
        evaluation_page(tmp_path)


@pytest.mark.slow
def test_the_command(places: dict[str, Path], tmp_path: Path, warm_dpo: Any) -> None:
    """Folder on stdout, table on stderr, the same bytes again; --json prints eval.json."""
    command = [
        "eval", places["policy"], places["pairs"], "--reference", places["reference"], "--generate", places["pairs"],
        "--max-new-tokens", "5", "--max-length", "8192", "reference.cache_dir=null",
    ]  # fmt: skip
    done = warm_dpo(*command, "-o", "one")
    assert (done.returncode, done.stdout) == (0, "one\n"), done.stderr
    assert "accuracy against the reference" in done.stderr
    again = warm_dpo(*command, "-o", "two", "--json")
    assert json.loads(again.stdout) == json.loads((tmp_path / "two" / "eval.json").read_text())
    for name in ("eval.json", "pairs.jsonl", "most_wrong.jsonl", "samples.jsonl", "report.html"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["policy.lora.rank=4"], r"policy\.lora\.rank: changes nothing in an evaluation"),
        (["reference.model_name=other"], r"reference\.model_name: changes nothing"),
        (["data.train.0.weight=2"], r"data\.train\.weight: changes nothing"),
        (["--max-new-tokens", "5"], "without prompts: name a file of them with --generate"),
        (["--lm-eval", ","], "without a task: name some with --lm-eval"),
        (["--lm-eval-limit", "5"], "without a task: name some with --lm-eval"),
    ],
)
def test_what_would_change_nothing_is_refused(places: dict[str, Path], options: list[str], told: str) -> None:
    command = ["eval", str(places["policy"]), str(places["pairs"]), "-o", str(places["folder"] / "new"), *options]
    with pytest.raises(UsageError, match=told):
        cli.app(command, standalone_mode=False)


def test_a_reference_has_to_read_the_policys_tokens(places: dict[str, Path], tmp_path: Path) -> None:
    """It is looked at before the policy is measured."""
    other = tmp_path / "other"
    shutil.copytree(places["reference"], other)
    told = json.loads((other / "tokenizer.json").read_text())
    numbers = told["model"]["vocab"]
    told["model"]["vocab"] = dict(zip(numbers, reversed(numbers.values()), strict=True))
    (other / "tokenizer.json").write_text(json.dumps(told))
    with pytest.raises(
        UsageError, match=r"^--reference: .*25\d of 259 tokens are others .* share the policy's tokenizer"
    ):
        run_evaluation(request(places, reference=str(other)))
    with pytest.raises(InputError, match=r"^--reference: model no/such.*; name a local folder or another hub name$"):
        run_evaluation(request(places, reference="no/such"))


def test_a_start_without_a_tokenizer_is_a_reference(places: dict[str, Path], tmp_path: Path) -> None:
    """A run may take its tokenizer from elsewhere (policy.tokenizer.name)."""
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(places["reference"] / name, bare)
    found = result_of(run_evaluation(request(places, reference=str(bare))))
    assert found["metrics"]["margin"]["mean"] != 0


def test_prompts_that_leave_no_place_are_told_before_the_work(places: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "gpt2"
    config = GPT2Config(vocab_size=259, n_positions=64, n_embd=8, n_layer=1, n_head=2, eos_token_id=256)
    GPT2LMHeadModel(config).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": "short"}) + "\n" + json.dumps({"prompt": "long " * 20}) + "\n")
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(json.dumps({"prompt": "Q", "chosen": "a", "rejected": "b"}) + "\n")
    said: list[str] = []
    for policy, reference in ((folder, places["reference"]), (places["policy"], folder)):
        judged = find_judged(str(policy), str(reference))
        wanted = make_request(judged, [pairs], output=tmp_path / "new", generation=Generation((prompts,)))
        with pytest.raises(UsageError, match=r"prompts\.jsonl:2: the prompt has 119 tokens, .* end at 64"):
            run_evaluation(wanted, said.append)
    assert said == []  # what is told of the pairs comes before they are measured


def test_several_files_are_not_a_mixture(places: dict[str, Path]) -> None:
    judged = find_judged(str(places["policy"]), "none")
    pairs, copied = places["pairs"], places["folder"] / "copied.jsonl"
    shutil.copy(pairs, copied)
    settings = ["policy.max_total_sequence_length=8192"]
    found = result_of(run_evaluation(make_request(judged, [pairs, copied], settings, output=places["folder"] / "new")))
    assert found["data"]["notes"] == []
    assert [part["num_pairs"] for part in found["by_file"]] == [5, 5]


def test_rewards_as_large_as_floats_are(evaluated: Evaluation) -> None:
    rewards = np.array([1e308, 1e307, 0.0, 5.0, -1e308])
    scores = dataclasses.replace(evaluated.scores, chosen_reward=rewards, rejected_reward=-rewards[::-1])
    with np.errstate(all="raise", under="ignore"):
        found = reward_correlation(scores)
    gaps = rewards / 1e308 + rewards[::-1] / 1e308
    assert found is not None
    assert found["pearson"]["mean"] == pytest.approx(np.corrcoef(gaps, scores.margin)[0, 1])


def test_evaluations_of_one_second_have_a_folder_each(places: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "evals" / "now"
    written = [write_folder(folder, {"number": number}, pairs=[], shown=[], samples=None) for number in range(3)]
    assert written == [folder, tmp_path / "evals" / "now-2", tmp_path / "evals" / "now-3"]
    assert [json.loads((place / "eval.json").read_text())["number"] for place in written] == [0, 1, 2]


def test_abilities_are_compared_by_document() -> None:
    """A mean of documents has an interval; what is none, as an F1 of all of them, has the difference alone."""

    def results(worth: list[float], f1: float) -> dict[str, Any]:
        samples = [{"doc_id": place, "filter": "none", "acc": each, "f1": each} for place, each in enumerate(worth)]
        told = {"alias": "t", "acc,none": sum(worth) / len(worth), "acc_stderr,none": "N/A", "f1,none": f1}
        return {"results": {"t": told}, "samples": {"t": samples}, "n-shot": {"t": 0}, "versions": {"t": 1.0}}

    accuracy, f1 = compared_abilities(results([0, 0, 1, 1], 0.3), results([1, 0, 1, 1], 0.9))
    assert (accuracy["metric"], accuracy["before"], accuracy["after"]) == ("acc", 0.5, 0.75)
    assert accuracy["difference"] == {"mean": 0.25, "low": 0.0, "high": 0.75}  # of 1, 0, 0, 0
    assert f1["difference"] == {"mean": pytest.approx(0.6), "low": None, "high": None}


VLLM = """
class SamplingParams:
    def __init__(self, **options):
        self.__dict__ |= options
class LLM:
    def __init__(self, *, model, dtype, seed, max_model_len, trust_remote_code):
        assert not trust_remote_code and max_model_len == 3 + 4, max_model_len
        self.model = model
    def generate(self, prompts, parameters):
        class Held:
            def __init__(self, **values):
                self.__dict__ |= values
        if self.model == "broken":
            raise RuntimeError("no GPU")
        return [
            Held(outputs=[Held(token_ids=one["prompt_token_ids"] + [each.seed, *each.stop_token_ids])])
            for one, each in zip(prompts, parameters, strict=True)
        ]
"""


@pytest.mark.slow
def test_vllm_is_asked_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a stand-in with the part of vLLM's interface that is used; the engine itself needs a GPU."""
    (tmp_path / "vllm.py").write_text(VLLM)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert uses_vllm("auto", is_on_gpu=True)
    assert not uses_vllm("auto", is_on_gpu=False)
    assert not uses_vllm("transformers", is_on_gpu=True)
    asked, options = [Question(0, (5, 6), 11), Question(1, (7, 8, 9), 12)], Generation((), max_new_tokens=4)
    found = generate_with_vllm("model", asked, options, end_ids=frozenset({2, 1}), dtype="float32")
    assert found == [[5, 6, 11, 1, 2], [7, 8, 9, 12, 1, 2]]
    with pytest.raises(DpoError, match=r"vLLM can't answer with broken: no GPU"):
        generate_with_vllm("broken", asked, options, end_ids=frozenset(), dtype="float32")
