"""The model card: what it tells, what it keeps to itself, and that nothing in it becomes markup."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from schemas.preference import write_rows
from trainer.config.sections import TrainConfig
from trainer.config.settings import resolve
from trainer.save.card import Result, loading, model_card, with_loading, write_run_card
from trainer.save.card_data import PairCounts, source_of

LINES = [
    {"step": 0, "validation-default/loss": 0.6931, "timing/validation-default/total_validation_time": 1.0},
    {"step": 1, "train/loss": 0.6931, "train/accuracy": 0.0, "train/lr": 1e-6, "train/step_seconds": 2.0},
    {"step": 2, "train/loss": 0.5, "train/accuracy": None, "train/lr": 1e-6, "train/step_seconds": 2.0},
    {"step": 2, "validation-default/loss": 0.61},
]
BEST = {"step": 2, "metric": "val:validation-default_loss", "value": 0.61, "path": "step_2/policy"}
COUNTS = PairCounts(pairs=1325, prompts=95, responses=586, dropped={"too_long": 12})
TABLES = MarkdownIt("commonmark").enable("table")


def config_of(tmp_path: Path, *settings: str, pairs: Path | None = None, model: str = "org/base") -> TrainConfig:
    pairs = pairs or tmp_path / "pairs.jsonl"
    if pairs.parent.is_dir() and not pairs.exists():
        write_rows(pairs, [{"prompt": "Q", "chosen": "yes", "rejected": "no"}])
    return resolve(settings, train_data_path=pairs, model_name=model, output_dir=tmp_path / "my-run")


def card_of(config: TrainConfig, **options: Any) -> str:
    usual: dict[str, Any] = {"title": "my-run", "place": "me/policy", "kind": "merged", "result": Result(LINES, BEST)}
    return model_card(config, **(usual | options))


def rows_of(card: str, heading: str) -> dict[str, list[str]]:
    """Read the tables below a heading as a reader's program does: the cells by those of the first column."""
    cells = []
    tokens = TABLES.parse(card.split("---\n", 2)[2])
    inside = False
    for number, token in enumerate(tokens):
        if token.type == "heading_open":
            inside = tokens[number + 1].content == heading
        if inside and token.type == "tr_open":
            cells.append([])
        if inside and token.type == "inline" and tokens[number - 1].type in ("td_open", "th_open"):
            cells[-1].append("".join(child.content for child in token.children or []))
    return {first: rest for first, *rest in cells}


def test_the_front_matter_is_what_the_hub_reads(tmp_path: Path) -> None:
    card = ModelCard(card_of(config_of(tmp_path)))
    assert card.data.to_dict() == {
        "base_model": "org/base",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["dpo"],
    }
    adapter = ModelCard(card_of(config_of(tmp_path, "policy.lora.rank=4"), kind="adapter")).data.to_dict()
    assert (adapter["library_name"], adapter["tags"]) == ("peft", ["dpo", "lora"])


def test_a_base_in_a_folder_and_pairs_in_a_file_are_no_names_of_the_hub(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "tiny"
    folder.mkdir(parents=True)
    data = ModelCard(card_of(config_of(tmp_path, model=str(folder)))).data.to_dict()
    assert "base_model" not in data
    assert "datasets" not in data
    card = card_of(config_of(tmp_path, pairs=Path("org/pairs")))
    assert ModelCard(card).data.to_dict()["datasets"] == ["org/pairs"]
    gone = card_of(config_of(tmp_path, pairs=Path("mine/pairs.jsonl")))  # a file that was moved is none of the hub's
    assert "datasets" not in ModelCard(gone).data.to_dict()


def test_what_was_trained(tmp_path: Path) -> None:
    found = rows_of(card_of(config_of(tmp_path, "dpo.reference_policy_kl_penalty=0.2", "dpo.seed=7")), "Training")
    expected = {"trained": "all weights", "loss": "sigmoid", "beta": "0.2", "reference": "the base model", "steps": "2"}
    assert {name: cells[0] for name, cells in found.items()}.items() >= (expected | {"seed": "7"}).items()
    quantized = config_of(tmp_path, "policy.lora.rank=4", "policy.lora.quantization=nf4", "reference=none")
    found = rows_of(card_of(quantized), "Training")
    assert found["trained"] == ["adapters of rank 4 on weights in nf4"]
    assert found["reference"] == ["none"]


def test_the_pairs_are_named_with_their_digest_and_what_became_of_them(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    (tmp_path / "pairs.jsonl").write_bytes(b"")
    card = card_of(config, counts=COUNTS)
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # sha256 of nothing
    assert rows_of(card, "Data") == {
        "pairs": ["sha256"],
        "pairs.jsonl": [empty],
        "reason": ["pairs"],
        "too_long": ["12"],
    }
    assert "Trained on 1,325 pairs of 586 distinct responses to 95 prompts." in card


def manifest(pairs: Path, sha256: str) -> None:
    content = {
        "inputs": [{"path": "/home/someone/rollouts.jsonl", "bytes": 1, "sha256": "ab" * 32}],
        "outputs": [{"path": "/home/someone/pairs.jsonl", "pairs": 1, "bytes": 1, "sha256": sha256}],
        "attrition": {"rows": 768, "dropped": {"truncated": 9}, "left_out_pairs": {}, "pairs": 1325},
    }
    pairs.with_name(f"{pairs.name}.manifest.json").write_text(json.dumps(content))


def test_the_manifest_beside_the_pairs_tells_how_they_came_to_be(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    own = source_of(config.data.train[0]).sha256
    assert own is not None
    manifest(tmp_path / "pairs.jsonl", own)
    card = card_of(config)
    found = rows_of(card, "Data")
    assert found["rollouts.jsonl"] == ["ab" * 32]
    assert {name: found[name] for name in ("rows", "dropped: truncated", "pairs")} == {
        "rows": ["768"],
        "dropped: truncated": ["9"],
        "pairs": ["1,325"],
    }
    assert "/home/someone" not in card


@pytest.mark.parametrize("content", ["another", "[]", '{"outputs": 3}', "{", '{"outputs": [{"sha256": null}]}'])
def test_a_manifest_of_something_else_is_left_out(tmp_path: Path, content: str) -> None:
    config = config_of(tmp_path)
    if content == "another":
        manifest(tmp_path / "pairs.jsonl", "00" * 32)
    else:
        (tmp_path / "pairs.jsonl.manifest.json").write_text(content)
    assert source_of(config.data.train[0]).attrition == {}
    assert "From rollouts" not in card_of(config)


def test_settings_that_differ_are_listed_with_their_defaults(tmp_path: Path) -> None:
    settings = ["policy.optimizer.lr=1e-3", 'policy.lora.target_modules=["q_proj"]', "policy.lora.rank=4"]
    found = rows_of(card_of(config_of(tmp_path, *settings)), "Settings that differ from the defaults")
    assert found == {
        "key": ["value", "default"],
        "policy.model_name": ["org/base", "Qwen/Qwen2.5-1.5B-Instruct"],
        "policy.optimizer.lr": ["0.001", "5e-06"],
        "policy.lora.rank": ["4", "0"],
        "policy.lora.target_modules": ["q_proj", ""],
    }


def test_metrics_are_told_from_the_first_to_the_last(tmp_path: Path) -> None:
    card = card_of(config_of(tmp_path))
    assert rows_of(card, "Metrics") == {
        "training": ["first", "last"],
        "accuracy": ["0", "0"],  # the last one that is a number
        "loss": ["0.6931", "0.61"],  # of validation, whose table comes last
        "validation default": ["first", "last"],
    }
    assert "| loss | 0.6931 | 0.5 |" in card
    assert r"Best checkpoint: step 2, val:validation-default\_loss 0.61." in card
    assert "lr" not in rows_of(card, "Metrics")


def test_health_is_told_where_it_was_judged(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    assert "Health" not in card_of(config)
    assert "## Health of the run\n\nNothing stood out." in card_of(config, result=Result(LINES, verdicts=()))
    assert "- both sides fell" in card_of(config, result=Result(LINES, verdicts=("both sides fell",)))


def test_nothing_tells_where_things_lie_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    (tmp_path / "tokens").mkdir()
    settings = [
        f"reference.cache_dir={tmp_path / 'cache'}",
        f"checkpointing.checkpoint_dir={tmp_path / 'checkpoints'}",
        f"logger.log_dir={tmp_path / 'logs'}",
        f"policy.tokenizer.name={tmp_path / 'tokens'}",
        f"data.validation={tmp_path / 'pairs.jsonl'}",
        "reference.model_name=/home/someone/reference",
        "logger.wandb.project=0123456789abcdef",
        'policy.hf_config_overrides={"_name_or_path": "/home/someone/x", "key": "0123456789abcdef"}',
    ]
    card = card_of(config_of(tmp_path, *settings), counts=COUNTS)
    assert str(tmp_path.parent) not in card
    assert "someone" not in card
    assert "0123456789abcdef" not in card
    found = rows_of(card, "Settings that differ from the defaults")
    assert found["policy.tokenizer.name"][0] == "tokens"
    assert found["reference.model_name"][0] == "reference"


EVIL = "<img src=x onerror=alert(1)> | **b** `c` [d](http://e.f) \n# g"


def test_markup_in_names_values_and_words_stays_text(tmp_path: Path) -> None:
    pairs = tmp_path / "a|b <i>x [y](z).jsonl"
    config = config_of(tmp_path, f"policy.hf_config_overrides={json.dumps({'a': EVIL})}", pairs=pairs)
    counts = PairCounts(1, 1, 2, dropped={EVIL: 1})
    card = card_of(config, title=EVIL, counts=counts, result=Result(LINES, BEST | {"metric": EVIL}, verdicts=[EVIL]))
    tokens = [token for one in TABLES.parse(card.split("---\n", 2)[2]) for token in (one, *(one.children or []))]
    assert not {token.type for token in tokens} & {
        "html_inline",
        "html_block",
        "link_open",
        "strong_open",
        "code_inline",
    }
    headings = [tokens[n + 1].content for n, token in enumerate(tokens) if token.type == "heading_open"]
    assert headings[1:] == [
        "Training",
        "Data",
        "Settings that differ from the defaults",
        "Metrics",
        "Health of the run",
        "Versions",
        "Loading",
    ]
    assert pairs.name in rows_of(card, "Data")


def test_a_place_can_t_leave_the_code_that_loads_it() -> None:
    text = loading("merged", 'x"\n```\n<b>')
    (fence,) = [token for token in TABLES.parse(text) if token.type == "fence"]
    assert r'from_pretrained("x\"' in fence.content
    assert "html_block" not in {token.type for token in TABLES.parse(text)}


def test_the_card_of_an_export_differs_by_how_it_is_loaded(tmp_path: Path) -> None:
    card = card_of(config_of(tmp_path), place="my-run/policy", kind="both")
    assert 'AutoModelForCausalLM.from_pretrained("my-run/policy")' in card
    assert "folder `adapter`" in card
    other = with_loading(card, "adapter", "exported")
    same = card.partition("## Loading")[0].replace("library_name: transformers", "library_name: peft")
    assert other.startswith(same)
    assert with_loading(other, "merged", "my-run/policy").startswith(card.partition("## Loading")[0])
    assert "from peft import AutoPeftModelForCausalLM" in other
    assert "my-run/policy" not in other
    assert with_loading("of another tool", "merged", "x") == "of another tool"


def test_a_run_s_files_are_read_up_to_the_checkpoint_s_step(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    run = tmp_path / "my-run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    (run / "checkpoints" / "best.json").write_text(json.dumps(BEST))
    write_run_card(run, config, counts=COUNTS, verdicts=["fine"])
    card = (run / "README.md").read_text()
    assert rows_of(card, "Training")["steps"] == ["2"]
    assert "Best checkpoint: step 2" in card
    assert 'from_pretrained("my-run/policy")' in card
    write_run_card(run, config, last_step=1)
    assert rows_of((run / "README.md").read_text(), "Training")["steps"] == ["1"]


def test_a_card_that_can_t_be_made_costs_no_policy(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    (tmp_path / "my-run").mkdir()
    (tmp_path / "my-run" / "metrics.jsonl").write_text("{")
    write_run_card(tmp_path, config)
    assert "could not be made: JSONDecodeError" in (tmp_path / "README.md").read_text()


def test_the_front_matter_is_yaml_and_nothing_else(tmp_path: Path) -> None:
    text = card_of(config_of(tmp_path, pairs=Path("org/pairs")))
    assert yaml.safe_load(text.split("---\n")[1])["datasets"] == ["org/pairs"]
