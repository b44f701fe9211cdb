"""The Python API does what the command line does, with what a program has at hand."""

import ast
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from schemas.errors import InputError, UsageError
from trainer import DPODataset, DPOTrainer, TrainConfig, evaluate
from trainer.config.from_python import configuration
from trainer.config.settings import resolve
from trainer.run.loop import train

REPOSITORY = Path(__file__).parents[1]
POLICY = REPOSITORY / "data" / "samples" / "policy"
QUICK = {"dpo.max_num_steps": 2, "policy.optimizer.lr": 1e-3, "policy.train_global_batch_size": 8}


def row(number: int, *, better: str = "01", worse: str = "10") -> dict[str, Any]:
    return {
        "prompt": f"Sort the digits 1 0 {number % 10} in ascending order.",
        "chosen": f"The answer is \\boxed{{{better}{number % 10}}}.",
        "rejected": f"The answer is \\boxed{{{worse}{number % 10}}}.",
    }


ROWS = [row(number) for number in range(10)]


@pytest.fixture
def pairs_file(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in ROWS))
    return path


def loaded() -> Any:
    model: Any = AutoModelForCausalLM
    return model.from_pretrained(POLICY, dtype=torch.float32)


def test_a_data_set_is_the_same_from_a_file_and_from_memory(pairs_file: Path) -> None:
    nemo_rl = SimpleNamespace(
        formatted_ds={
            "train": [
                {
                    "context": [{"role": "user", "content": each["prompt"]}],
                    "completions": [
                        {"rank": 1, "completion": [{"role": "assistant", "content": each["rejected"]}]},
                        {"rank": 0, "completion": [{"role": "assistant", "content": each["chosen"]}]},
                    ],
                }
                for each in ROWS
            ]
        },
        task_spec=SimpleNamespace(task_name="sorting"),
    )
    expected = [(pair.prompt, pair.chosen, pair.rejected) for pair in DPODataset(pairs_file)]
    assert len(expected) == 10
    for source in (str(pairs_file), ROWS, iter(ROWS), Dataset.from_list(ROWS), nemo_rl):
        dataset = DPODataset(source)
        assert [(pair.prompt, pair.chosen, pair.rejected) for pair in dataset] == expected
        assert len(dataset) == 10


def test_options_of_a_data_set_are_those_of_the_configuration() -> None:
    renamed = [{"question": each["prompt"], "good": each["chosen"], "bad": each["rejected"]} for each in ROWS]
    dataset = DPODataset(renamed, prompt_key="question", chosen_key="good", rejected_key="bad")
    assert next(iter(dataset)).prompt[0]["content"] == ROWS[0]["prompt"]
    with pytest.raises(UsageError, match="prompt_kee"):
        DPODataset(ROWS, prompt_kee="question")
    with pytest.raises(InputError, match=r"list:2: .*1 of 2 rows are no preference pairs"):
        DPODataset([ROWS[0], {"prompt": "x", "chosen": "y"}])


def test_a_trainer_trains_as_the_command_line_does(pairs_file: Path, tmp_path: Path) -> None:
    overrides = [f"{key}={value}" for key, value in QUICK.items()]
    config = resolve(overrides, train_data_path=pairs_file, model_name=str(POLICY), output_dir=tmp_path / "command")
    by_command = train(config)
    by_name = DPOTrainer(str(POLICY), pairs_file, config=QUICK, output_dir=tmp_path / "name").train()
    model = loaded()
    trainer = DPOTrainer(model, ROWS, config=QUICK, output_dir=tmp_path / "model")
    by_model = trainer.train()
    assert by_command is not None
    assert by_name is not None
    assert by_model is not None
    assert trainer.result is by_model
    expected = load_file(by_command.policy_dir / "model.safetensors")
    for result in (by_name, by_model):
        found = load_file(result.policy_dir / "model.safetensors")
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    weights = model.state_dict()  # trained in place
    assert all(torch.equal(weights[name], value) for name, value in expected.items())
    assert model.config._attn_implementation == "sdpa"


def test_the_settings_of_the_older_tutorial_are_taken(tmp_path: Path) -> None:
    config = {
        "model": {"name": "path/to/sft_model", "max_length": 512},
        "training": {"batch_size": 2, "learning_rate": 1e-5, "num_epochs": 2, "warmup_steps": 100, "beta": 0.1},
        "data": {"train_file": "path/to/train.json", "validation_file": "path/to/val.json", "max_seq_length": 512},
        "loss_type": "sigmoid",
        "reference_free": True,
        "gradient_checkpointing": True,
    }
    trainer = DPOTrainer(model=str(POLICY), train_dataset=ROWS, val_dataset=ROWS[:2], config=config)
    told = trainer.config
    assert told.policy.model_name == str(POLICY)
    assert told.dpo.reference_policy_kl_penalty == 0.1
    assert told.dpo.max_num_epochs == 2
    assert told.policy.optimizer.lr == 1e-5
    assert told.policy.scheduler.warmup_steps == 100
    assert told.policy.max_total_sequence_length == 512
    assert told.policy.gradient_checkpointing
    assert told.reference_mode == "none"
    assert list(told.data.validation_sets) == ["default"]


def test_what_a_trainer_is_told_is_checked_at_once(pairs_file: Path) -> None:
    with pytest.raises(UsageError, match="betta: no such setting"):
        DPOTrainer(str(POLICY), pairs_file, config={"betta": 0.1})
    with pytest.raises(UsageError, match=r"dpo.sed: no such setting.*did you mean dpo.seed\?"):
        DPOTrainer(str(POLICY), pairs_file, config={"dpo.sed": 1})
    with pytest.raises(UsageError, match="lr"):
        DPOTrainer(str(POLICY), pairs_file, config={"policy.optimizer.lr": -1})
    with pytest.raises(InputError, match="no such file"):
        DPOTrainer(str(POLICY), "nowhere.jsonl")


def test_a_trainer_does_not_mix_runs(pairs_file: Path, tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        DPOTrainer(str(POLICY), pairs_file, output_dir=tmp_path / "used").train()


def test_a_configuration_survives_being_handed_over(pairs_file: Path) -> None:
    config = resolve(["dpo.seed=7", "loss.mix.sigmoid=1"], train_data_path=pairs_file)
    assert isinstance(config, TrainConfig)
    assert configuration(config, {}) == config
    trainer = DPOTrainer(str(POLICY), ROWS, config=config)
    assert trainer.config.dpo.seed == 7
    assert trainer.config.loss.weights == {"sigmoid": 1.0}


def test_validation_sets_have_names(tmp_path: Path) -> None:
    result = DPOTrainer(
        str(POLICY),
        ROWS,
        val_dataset={"hard": ROWS[:3], "easy": DPODataset(ROWS[3:])},
        config=QUICK,
        output_dir=tmp_path / "run",
    ).train()
    assert result is not None
    assert {key.partition("/")[0] for key in result.validation if key.startswith("validation")} == {
        "validation-hard",
        "validation-easy",
    }


def test_an_evaluation_is_what_a_validation_finds(tmp_path: Path) -> None:
    """Beta and loss are those of the training, read from the policy's folder."""
    config = {**QUICK, "dpo.reference_policy_kl_penalty": 0.3, "loss.name": "ipo"}
    trainer = DPOTrainer(str(POLICY), ROWS, val_dataset=ROWS[:4], config=config, output_dir=tmp_path / "run")
    result = trainer.train()
    assert result is not None
    found = evaluate(result.policy_dir, ROWS[:4], reference=POLICY)
    for name in ("loss", "accuracy", "margin_mean", "kl", "num_valid_samples"):
        assert found[name] == pytest.approx(result.validation[f"validation-default/{name}"], rel=1e-5, abs=1e-6), name


def test_without_a_reference_the_more_probable_response_is_right() -> None:
    """The sums of each side's log-probs are what accuracy compares; swapped sides give what is left to 1."""
    found = evaluate(POLICY, ROWS)
    swapped = evaluate(POLICY, [{**each, "chosen": each["rejected"], "rejected": each["chosen"]} for each in ROWS])
    assert found["accuracy"] + swapped["accuracy"] == 1
    assert found["rewards_chosen_mean"] == found["logps_chosen_mean"] == pytest.approx(swapped["logps_rejected_mean"])
    assert "kl" not in found


def test_an_evaluation_leaves_the_model_as_it_was() -> None:
    model = loaded()
    model.eval()
    model.model.layers[0].self_attn.attention_dropout = 0.25
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert evaluate(model, ROWS)["num_valid_samples"] == 10
    assert not any(module.training for module in model.modules())
    assert model.model.layers[0].self_attn.attention_dropout == 0.25
    assert model.config._attn_implementation == "sdpa"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_what_is_dropped_is_counted() -> None:
    found = evaluate(POLICY, [*ROWS, {**ROWS[0], "rejected": ROWS[0]["chosen"]}])
    assert found["num_valid_samples"] == 10
    assert found["dropped/identical"] == 1


def test_importing_the_package_brings_no_torch() -> None:
    script = "import sys, trainer; trainer.TrainConfig; print('torch' in sys.modules, 'DPOTrainer' in dir(trainer))"
    result = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["False", "True"]


def test_the_page_names_what_there_is() -> None:
    """Each call of the page binds to the signature of what it calls."""
    page = (REPOSITORY / "docs" / "api.md").read_text()
    program = page.split("```python\n", 1)[1].split("```", 1)[0]
    known = {"DPODataset": DPODataset, "DPOTrainer": DPOTrainer, "evaluate": evaluate}
    calls = [node for node in ast.walk(ast.parse(program)) if isinstance(node, ast.Call)]
    named = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id in known]
    assert {call.func.id for call in named if isinstance(call.func, ast.Name)} == set(known)
    for call in named:
        assert isinstance(call.func, ast.Name)
        keywords = {str(each.arg): None for each in call.keywords}
        inspect.signature(known[call.func.id]).bind(*call.args, **keywords)
    for heading in re.findall(r"^## `(\w+)\((.*)\)`$", page, flags=re.MULTILINE):
        name, parameters = heading
        told = [each.strip().partition("=")[0].lstrip("*") for each in parameters.split(",")]
        assert [each for each in told if each] == list(inspect.signature(known[name]).parameters), name
