"""`dpo export`: from runs, checkpoints and adapters to folders that load, and what can't be exported."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from typer.testing import CliRunner

from schemas.errors import DpoError, InputError, UsageError
from schemas.preference import write_rows
from tests.tiny_models import CHAT_TEMPLATE, byte_tokenizer, save_tiny_policy
from trainer.config.sections import TrainConfig
from trainer.config.settings import resolve
from trainer.export_command import export_command
from trainer.model.lora import add_lora, load_adapter
from trainer.model.merged import merged_state_dict, save_weights
from trainer.model.quantized import load_kwargs
from trainer.save.export import export, find_source
from trainer.save.run_folder import write_config

APP = typer.Typer()
APP.command()(export_command)
LORA = ("policy.lora.rank=2", "policy.lora.alpha=3")


@pytest.fixture(scope="module")
def base(tmp_path_factory: Any) -> Path:
    folder = save_tiny_policy(tmp_path_factory.mktemp("base"))
    GenerationConfig(eos_token_id=[256], temperature=0.5, do_sample=True).save_pretrained(folder)
    return folder


def config_of(run: Path, base: Path, *settings: str) -> TrainConfig:
    pairs = run.parent / "pairs.jsonl"
    write_rows(pairs, [{"prompt": "Q", "chosen": "yes", "rejected": "no"}])
    return resolve(settings, train_data_path=pairs, model_name=str(base), output_dir=run)


def save(folder: Path, config: TrainConfig, *, change: float) -> dict[str, torch.Tensor]:
    """Write a policy as a run does, its weights changed by training; return the merged weights."""
    options = config.policy.lora
    kwargs = load_kwargs(options, "float32")
    model = AutoModelForCausalLM.from_pretrained(config.policy.model_name, dtype=torch.float32, **kwargs)
    torch.manual_seed(0)
    if options.rank:
        model = add_lora(model, options)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or (not options.rank and parameter.dim() == 2):
            parameter.data.add_(change * torch.randn_like(parameter))
    folder.mkdir(parents=True)
    save_weights(model, folder, model.state_dict(), save=options.save)
    byte_tokenizer().save_pretrained(folder)
    write_config(config, folder)
    return {name: value.clone() for name, value in merged_state_dict(model).items()}


@pytest.fixture
def run(tmp_path: Path, base: Path) -> Path:
    """A run with checkpoints at the steps 2 and 4, of which 2 is the best, and its last policy, all without cards."""
    run = tmp_path / "run"
    config = config_of(run, base)
    for step, change in ((2, 0.1), (4, 0.2)):
        save(run / "checkpoints" / f"step_{step}" / "policy", config, change=change)
    save(run / "policy", config, change=0.3)
    best = {"step": 2, "metric": "val:validation-default_loss", "value": 0.5, "path": "step_2/policy"}
    (run / "checkpoints" / "best.json").write_text(json.dumps(best))
    lines = [{"step": step, "train/loss": 0.7 - step / 10} for step in range(1, 5)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_config(config, run)
    return run


def exported(*arguments: object) -> Any:
    """Run the command; give what it printed on stdout."""
    result = CliRunner().invoke(APP, [str(each) for each in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout.rstrip("\n")


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_equal(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def test_a_policy_is_exported_whole(run: Path, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out"
    assert exported(run, "-o", target) == str(target)
    assert {path.name for path in target.iterdir()} == {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "train_config.json",
    }
    assert_equal(weights_of(target), weights_of(run / "policy"))
    assert AutoTokenizer.from_pretrained(target).chat_template == CHAT_TEMPLATE
    assert GenerationConfig.from_pretrained(target).temperature == 0.5
    assert (target / "train_config.json").read_text() == (run / "train_config.json").read_text()
    card = ModelCard.load(target / "README.md")
    assert card.data.to_dict()["library_name"] == "transformers"
    assert "| loss | 0.6 | 0.3 |" in card.text
    assert 'from_pretrained("out")' in card.text


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_weights_are_rounded_and_load_in_that_type(run: Path, tmp_path: Path, dtype: str) -> None:
    exported(run, "-o", tmp_path / "out", "--dtype", dtype)
    kind = getattr(torch, dtype)
    expected = {name: weight.to(kind) for name, weight in weights_of(run / "policy").items()}
    assert_equal(weights_of(tmp_path / "out"), expected)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert {parameter.dtype for parameter in model.parameters()} == {kind}


def test_checkpoints_by_name(run: Path, tmp_path: Path) -> None:
    for name, folder in {"best": "step_2", "step_4": "step_4"}.items():
        exported(run, "-o", tmp_path / name, "--checkpoint", name)
        assert_equal(weights_of(tmp_path / name), weights_of(run / "checkpoints" / folder / "policy"))
    exported(run, "-o", tmp_path / "last", "--checkpoint", "last")
    assert_equal(weights_of(tmp_path / "last"), weights_of(run / "policy"))
    assert "| loss | 0.6 | 0.5 |" in (tmp_path / "best" / "README.md").read_text()  # up to step 2
    exported(run / "checkpoints" / "step_4", "-o", tmp_path / "by-folder")
    assert_equal(weights_of(tmp_path / "by-folder"), weights_of(run / "checkpoints" / "step_4" / "policy"))


def test_a_moved_run_has_its_best_with_it(run: Path, tmp_path: Path) -> None:
    moved = run.rename(tmp_path / "moved")
    assert find_source(moved, "best").policy == moved / "checkpoints" / "step_2" / "policy"


def test_the_run_s_own_card_is_kept_but_for_the_loading(run: Path, tmp_path: Path) -> None:
    (run / "policy" / "README.md").write_text("# Told by the run\n\n## Loading\n\nold\n")
    exported(run / "policy", "-o", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("# Told by the run\n\n## Loading\n\n```python")
    assert "\nold" not in card


def test_the_result_as_json(run: Path, tmp_path: Path) -> None:
    result = json.loads(exported(run, "-o", tmp_path / "out", "--json"))
    assert result == {
        "folder": str(tmp_path / "out"),
        "source": str(run / "policy"),
        "kind": "merged",
        "dtype": "float32",
        "bytes": sum(path.stat().st_size for path in (tmp_path / "out").iterdir()),
        "url": None,
    }


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_adapters_are_merged_into_their_base(tmp_path: Path, base: Path, quantization: str) -> None:
    settings = (*LORA, "policy.lora.save=adapter", f"policy.lora.quantization={quantization}")
    config = config_of(tmp_path / "run", base, *settings)
    expected = save(tmp_path / "run" / "policy", config, change=0.1)
    exported(tmp_path / "run", "-o", tmp_path / "out")
    model, loading = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(loading.values())
    assert_equal(model.state_dict(), expected)
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())
    assert weights_of(tmp_path / "out").keys() == weights_of(base).keys()  # tied weights stay one
    assert GenerationConfig.from_pretrained(tmp_path / "out").temperature == 0.5


def test_the_base_is_configured_as_the_run_had_it(tmp_path: Path, base: Path) -> None:
    settings = (*LORA, "policy.lora.save=adapter", 'policy.hf_config_overrides={"rms_norm_eps": 0.125}')
    save(tmp_path / "policy", config_of(tmp_path / "run", base, *settings), change=0.1)
    exported(tmp_path / "policy", "-o", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["rms_norm_eps"] == 0.125


@pytest.mark.parametrize("kept", ["adapter", "both"])
def test_adapters_alone(tmp_path: Path, base: Path, kept: str) -> None:
    config = config_of(tmp_path / "run", base, *LORA, f"policy.lora.save={kept}")
    expected = save(tmp_path / "run" / "policy", config, change=0.1)
    exported(tmp_path / "run", "-o", tmp_path / "out", "--adapter")
    assert not (tmp_path / "out" / "model.safetensors").exists()
    assert not (tmp_path / "out" / "adapter").exists()
    model = load_adapter(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), tmp_path / "out")
    assert_equal(merged_state_dict(model), expected)
    assert "from peft import" in (tmp_path / "out" / "README.md").read_text()
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == CHAT_TEMPLATE


def test_weights_that_float16_can_t_hold_are_not_exported(tmp_path: Path, run: Path) -> None:
    file = run / "policy" / "model.safetensors"
    weights = load_file(file)
    weights["model.norm.weight"][0] = 1e6  # float16 ends at 65,504
    model = AutoModelForCausalLM.from_pretrained(run / "policy")
    model.save_pretrained(run / "policy", state_dict=weights)
    with pytest.raises(
        DpoError, match=r"model.norm.weight has values that are not finite in torch.float16; export with"
    ):
        exported(run, "-o", tmp_path / "out", "--dtype", "float16")
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == []  # nothing half
    exported(run, "-o", tmp_path / "out", "--dtype", "bfloat16")


def refused(kind: type[DpoError], match: str, *arguments: object) -> None:
    with pytest.raises(kind, match=match) as caught:
        exported(*arguments)
    assert "\n" not in str(caught.value)


def test_what_is_asked_for_wrongly_is_told_in_one_line(run: Path, tmp_path: Path) -> None:
    out = ("-o", tmp_path / "out")
    refused(InputError, "no such folder; name a run's folder or a policy's", tmp_path / "nowhere", *out)
    refused(InputError, "neither a policy nor a run with one: no policy", tmp_path, *out)
    refused(UsageError, "no such checkpoint; there are last, best, step_2, step_4", run, *out, "--checkpoint", "step_3")
    refused(UsageError, "no such checkpoint", run, *out, "--checkpoint", "../policy")
    refused(UsageError, "is a policy, which has no checkpoints", run / "policy", *out, "--checkpoint", "best")
    refused(UsageError, "holds the model alone, no adapters", run, *out, "--adapter")
    refused(UsageError, "--dtype is about a whole model", run, *out, "--adapter", "--dtype", "float16")
    refused(UsageError, "exists and is not empty", run, "-o", run)
    refused(UsageError, "no name of a repository", run, *out, "--push-to-hub", "a/b/c")
    (run / "checkpoints" / "best.json").write_text("{}")
    refused(InputError, "best.json: can't be read, so no checkpoint is known", run, *out, "--checkpoint", "best")
    assert not (tmp_path / "out").exists()


def test_a_run_that_ended_before_its_last_step_offers_its_checkpoints(run: Path, tmp_path: Path) -> None:
    (run / "policy").rename(tmp_path / "gone")
    refused(InputError, "no policy; there are step_2, step_4, name one with --checkpoint", run, "-o", tmp_path / "out")


def test_a_base_that_is_gone_and_a_broken_tokenizer_are_told(tmp_path: Path, run: Path) -> None:
    base = save_tiny_policy(tmp_path / "gone")
    save(tmp_path / "policy", config_of(tmp_path / "x", base, *LORA, "policy.lora.save=adapter"), change=0.1)
    base.rename(tmp_path / "moved")
    refused(InputError, "gone: can't be loaded", tmp_path / "policy", "-o", tmp_path / "out")
    (run / "policy" / "tokenizer.json").write_text("{")
    refused(InputError, "its tokenizer can't be loaded", run, "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"base_model_name_or_path": null}'])
def test_a_broken_adapter_is_told(tmp_path: Path, base: Path, content: str) -> None:
    policy = tmp_path / "policy"
    save(policy, config_of(tmp_path / "x", base, *LORA, "policy.lora.save=adapter"), change=0.1)
    config = (policy / "adapter_config.json").read_text()
    for what in ("--merge", "--adapter"):
        (policy / "adapter_config.json").write_text(content)
        refused(
            InputError, "policy.*: (its adapters can't be loaded|names no base)", policy, "-o", tmp_path / "o", what
        )
        (policy / "adapter_config.json").write_text(config)
        (policy / "adapter_model.safetensors").rename(tmp_path / "weights")
        refused(InputError, "policy: its adapters can't be loaded", policy, "-o", tmp_path / "o", what)
        (tmp_path / "weights").rename(policy / "adapter_model.safetensors")
    assert not (tmp_path / "o").exists()


def test_a_policy_without_a_tokenizer_gets_no_empty_one(tmp_path: Path, run: Path) -> None:
    for path in (run / "policy").glob("tokenizer*"):
        path.unlink()
    refused(InputError, "policy: has no tokenizer", run, "-o", tmp_path / "out")


def test_a_card_is_not_worth_an_export(tmp_path: Path, run: Path) -> None:
    (run / "metrics.jsonl").write_text('{"step": 1, "train/lo')  # the disk was full
    exported(run, "-o", tmp_path / "torn")
    assert "This card could not be made: JSONDecodeError" in (tmp_path / "torn" / "README.md").read_text()
    (run / "policy" / "README.md").write_bytes(b"# \xff")
    exported(run, "-o", tmp_path / "mine")
    assert (tmp_path / "mine" / "README.md").read_text() == "# \N{REPLACEMENT CHARACTER}"


def test_a_policy_of_another_tool_has_no_card_and_no_configuration(tmp_path: Path, base: Path) -> None:
    export(find_source(base, None), tmp_path / "out", as_adapter=False, dtype="float32")
    assert_equal(weights_of(tmp_path / "out"), weights_of(base))
    assert not (tmp_path / "out" / "README.md").exists()
    assert not (tmp_path / "out" / "train_config.json").exists()


def test_help_comes_without_torch() -> None:
    code = (
        "import sys, typer; from trainer.export_command import export_command; app = typer.Typer(); "
        "app.command()(export_command); app(['--help'], standalone_mode=False); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
