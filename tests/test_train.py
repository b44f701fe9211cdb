"""Training end to end on a random model: what a run leaves, what stops it, and that its numbers are right."""

import json
import math
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, MixtralConfig
from transformers.models.qwen3.modeling_qwen3 import Qwen3MLP

from schemas.errors import DpoError, InputError, UsageError
from schemas.preference import write_rows
from tests.architectures import HYBRID, SHARING, WIDTHS, build
from tests.tiny_models import byte_tokenizer, save_tiny_policy, tiny_qwen3
from tests.training_runs import ROWS
from trainer.config.sections import TrainConfig
from trainer.config.settings import resolve
from trainer.data.tokenize import TokenizedGroup, TokenizedResponse
from trainer.model.attention import choose_attention
from trainer.model.batch import token_rows
from trainer.model.logps import response_logps
from trainer.model.packing import Fragment, Layout, Packer, Row
from trainer.model.policy import disable_dropout, load_policy
from trainer.model.reference import compute_reference
from trainer.model.scorer import ResponseScorer
from trainer.run.loop import RunResult, train
from trainer.run.step import check_start

LN_2 = math.log(2)


@pytest.fixture(scope="session")
def policy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> Iterator[None]:
    """Accelerate keeps the precision of a process; a command line never changes it, these tests do."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def usual_run(policy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that others are compared with."""
    folder = tmp_path_factory.mktemp("usual")
    write_rows(folder / "pairs.jsonl", ROWS)
    run(folder / "pairs.jsonl", policy_folder, folder / "run")
    return folder / "run"


@pytest.fixture
def pairs_file(tmp_path: Path) -> Path:
    write_rows(tmp_path / "pairs.jsonl", ROWS)
    return tmp_path / "pairs.jsonl"


def run(pairs: Path, policy: Path, output: Path, *overrides: str) -> RunResult:
    usual = ("policy.train_global_batch_size=8", "policy.train_micro_batch_size=4", "policy.optimizer.lr=1e-3")
    config = resolve([*usual, *overrides], train_data_path=pairs, model_name=str(policy), output_dir=output)
    result = train(config)
    assert result is not None
    return result


def group_of(prompt: tuple[int, ...], *responses: tuple[int, ...]) -> TokenizedGroup:
    return TokenizedGroup(prompt, tuple(TokenizedResponse(ids, (1,) * len(ids)) for ids in responses), ())


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def metrics_of(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def weights_of(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "policy" / "model.safetensors")


def test_a_run_leaves_policy_tokenizer_configuration_and_metrics(
    pairs_file: Path, policy_folder: Path, tmp_path: Path
) -> None:
    result = run(pairs_file, policy_folder, tmp_path / "run", "dpo.max_num_epochs=2")
    assert (result.steps, result.pairs, result.policy_dir) == (6, 24, tmp_path / "run" / "policy")
    model = AutoModelForCausalLM.from_pretrained(result.policy_dir)
    tokenizer = AutoTokenizer.from_pretrained(result.policy_dir)
    assert tokenizer("yes")["input_ids"] == byte_tokenizer()("yes")["input_ids"]
    assert tokenizer.chat_template == byte_tokenizer().chat_template
    assert model.config.model_type == "qwen3"
    for folder in (tmp_path / "run", result.policy_dir):
        config = TrainConfig.model_validate_json((folder / "train_config.json").read_text())
        assert config.policy.precision == "float32"  # auto is resolved
    lines = metrics_of(tmp_path / "run")
    assert [(line["step"], line["epoch"]) for line in lines] == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2)]
    assert lines[0]["train/preference_loss"] == pytest.approx(LN_2, abs=1e-5)
    assert lines[-1]["train/preference_loss"] < 0.6
    assert lines[-1]["train/accuracy"] > 0.9
    assert not list(tmp_path.glob("run/.*"))
    assert {path.stat().st_mode & 0o777 for path in result.policy_dir.iterdir()} == {0o666 & ~current_umask()}


def test_the_same_command_gives_the_same_weights(pairs_file: Path, policy_folder: Path, tmp_path: Path) -> None:
    run(pairs_file, policy_folder, tmp_path / "a")
    run(pairs_file, policy_folder, tmp_path / "b")
    assert all(
        torch.equal(value, weights_of(tmp_path / "b")[name]) for name, value in weights_of(tmp_path / "a").items()
    )


@pytest.mark.parametrize(
    "settings",
    [
        ("policy.tokens_per_microbatch=42",),  # room for one prompt and one response, or a few short ones
        ("policy.tokens_per_microbatch=100",),
        ("policy.train_micro_batch_size=1",),  # 2 x 42 tokens
        ("policy.train_micro_batch_size=8",),
        ("policy.attention=dense",),
        ("policy.attention=rows",),
        ("policy.attention=rows", "policy.tokens_per_microbatch=42"),
        ("policy.gradient_checkpointing=true",),
        ("policy.gradient_checkpointing=true", "policy.attention=dense"),
        ("reference=online",),
        ("reference=online", "policy.tokens_per_microbatch=42"),
        ("reference.cache_dir=null",),
        ("policy.self_check=false",),
    ],
    ids=" ".join,
)
def test_how_it_is_computed_changes_nothing_but_rounding(
    pairs_file: Path, policy_folder: Path, tmp_path: Path, settings: tuple[str, ...]
) -> None:
    always = ("policy.optimizer.eps=1e-3", "policy.max_total_sequence_length=42")
    run(pairs_file, policy_folder, tmp_path / "a", *always)
    run(pairs_file, policy_folder, tmp_path / "b", *always, *settings)
    for name, value in weights_of(tmp_path / "a").items():
        torch.testing.assert_close(value, weights_of(tmp_path / "b")[name], rtol=0, atol=1e-6)
    for one, two in zip(metrics_of(tmp_path / "a"), metrics_of(tmp_path / "b"), strict=True):
        assert one["train/loss"] == pytest.approx(two["train/loss"], abs=1e-5)


def test_the_log_tells_what_sharing_saves(pairs_file: Path, policy_folder: Path, tmp_path: Path) -> None:
    """A step of all 24 pairs: 2 x 24 sequences pair by pair, 20 distinct responses, 4 prompts."""
    lengths = {"yes 0": 6, "no, never": 10, "no, never!": 11, "no, never!!": 12}  # with the end of turn
    prompt = 30
    of_pairs = 4 * sum(2 * prompt + lengths["yes 0"] + lengths["no, never" + "!" * n] for n in range(3) for _ in "01")
    of_responses = 4 * (5 * prompt + 2 * lengths["yes 0"] + 10 + 11 + 12)
    computed = of_responses - 4 * 4 * prompt
    one_step = ("policy.train_global_batch_size=24", "dpo.max_num_steps=1", "policy.max_total_sequence_length=42")
    run(pairs_file, policy_folder, tmp_path / "a", *one_step, "policy.tokens_per_microbatch=1000")
    (line,) = metrics_of(tmp_path / "a")
    assert line["train/dedup_factor"] == pytest.approx(of_pairs / of_responses)
    assert line["train/sharing_factor"] == pytest.approx(of_responses / computed)
    assert line["train/tokens_per_second"] == pytest.approx(computed / line["train/step_seconds"])
    assert line["train/pairs_per_second"] == pytest.approx(24 / line["train/step_seconds"])
    run(pairs_file, policy_folder, tmp_path / "b", *one_step, "policy.attention=rows")
    assert metrics_of(tmp_path / "b")[0]["train/sharing_factor"] == 1.0


def test_a_line_says_how_far_the_run_is(pairs_file: Path, policy_folder: Path, tmp_path: Path) -> None:
    """Three steps of eight pairs an epoch, each pair with two responses of 6 to 12 trained tokens."""
    result = run(pairs_file, policy_folder, tmp_path / "run", "dpo.max_num_epochs=2")
    lines = metrics_of(tmp_path / "run")
    assert [line["train/consumed_samples"] for line in lines] == [8, 16, 24, 32, 40, 48]
    assert sum(line["train/global_valid_toks"] for line in lines) == 2 * sum(
        6 + len(str(row["rejected"])) + 1 for row in ROWS
    )
    peaks = [line["train/memory_gb"] for line in lines]
    assert 0.05 < peaks[0] <= peaks[-1] < 100
    for line in lines:
        seconds = line["timing/train/total_step_time"]
        assert seconds >= line["train/step_seconds"]
        speed = line["train/global_valid_toks"] / seconds
        assert line["timing/train/valid_tokens_per_sec_per_gpu"] == pytest.approx(speed)
    assert result.finished
    assert (result.validation, result.best) == ({}, None)
    assert result.metrics["consumed_samples"] == 48


def test_what_listens_to_a_run_is_told(
    pairs_file: Path, policy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers, the model card, the hub: each has its own tests, here they are called, and in time."""
    published: list[tuple[Path, str, bool]] = []

    def push(folder: Path, repo_id: str, *, private: bool) -> str:
        assert (folder / "README.md").exists()
        published.append((folder, repo_id, private))
        return "https://hub/me/mine"

    monkeypatch.setattr("trainer.run.loop.push", push)
    told: list[tuple[int, bool]] = []
    monkeypatch.setattr(
        "trainer.watch.trackers.Trackers.log", lambda trackers, line, step: told.append((step, "train/loss" in line))
    )
    held_out = f"data.validation.data_path={pairs_file}"
    always = ("dpo.max_num_epochs=2", "logger.num_val_samples_to_print=2", "logger.sample_max_new_tokens=4")
    result = run(
        *(pairs_file, policy_folder, tmp_path / "run", held_out, *always),
        *("dpo.val_period=3", "checkpointing.save_period=4", "hub.repo_id=me/mine", "hub.private=false"),
    )
    samples = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert [sample["step"] for sample in samples] == [0, 0, 3, 3, 4, 4, 6, 6]
    assert [step for step, is_trained in told if is_trained] == [1, 2, 3, 4, 5, 6]
    assert [step for step, is_trained in told if not is_trained] == [0, 3, 4, 6]
    assert published == [(result.policy_dir, "me/mine", False)]
    for folder in (result.policy_dir, tmp_path / "run" / "checkpoints" / "step_4" / "policy"):
        assert "## Metrics" in (folder / "README.md").read_text()


@pytest.mark.parametrize("backend", ["segments", "dense", "rows"])
def test_the_report_names_the_back_end(
    pairs_file: Path, policy_folder: Path, tmp_path: Path, backend: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run(pairs_file, policy_folder, tmp_path / "run", f"policy.attention={backend}", "dpo.max_num_steps=1")
    assert f"attention: {backend}" in capsys.readouterr().err


def test_gradient_checkpointing_computes_each_layer_again(
    pairs_file: Path, policy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Counter[str] = Counter()
    forward = Qwen3MLP.forward
    for value in ("false", "true"):
        monkeypatch.setattr(Qwen3MLP, "forward", lambda *given, value=value: calls.update([value]) or forward(*given))
        setting = f"policy.gradient_checkpointing={value}"
        run(pairs_file, policy_folder, tmp_path / value, setting, "dpo.max_num_steps=1", "reference.cache_dir=null")
    assert calls["true"] == calls["false"] + 2  # of two layers, in the one row of the one step


def test_weighting_by_prompt_changes_the_weights_where_prompts_have_different_numbers_of_pairs(
    policy_folder: Path, tmp_path: Path
) -> None:
    for name, rows in (("even", ROWS), ("uneven", ROWS[:-4])):
        write_rows(tmp_path / f"{name}.jsonl", rows)
        settings = ("policy.train_global_batch_size=24", "dpo.max_num_epochs=2")
        for weighting in ("pair", "prompt"):
            output = tmp_path / f"{name} {weighting}"
            run(tmp_path / f"{name}.jsonl", policy_folder, output, *settings, f"dpo.weighting={weighting}")
    name = "model.layers.0.mlp.up_proj.weight"
    by_pair, by_prompt = weights_of(tmp_path / "even pair")[name], weights_of(tmp_path / "even prompt")[name]
    torch.testing.assert_close(by_pair, by_prompt, rtol=0, atol=1e-5)
    assert not torch.allclose(
        weights_of(tmp_path / "uneven pair")[name], weights_of(tmp_path / "uneven prompt")[name], rtol=0, atol=1e-5
    )


def test_a_reference_model_of_its_own_changes_the_weights(
    pairs_file: Path, policy_folder: Path, tmp_path: Path, usual_run: Path
) -> None:
    other = save_tiny_policy(tmp_path / "other", seed=9)
    for mode in ("cached", "online"):
        run(pairs_file, policy_folder, tmp_path / mode, f"reference.model_name={other}", f"reference={mode}")
    assert metrics_of(tmp_path / "cached")[0]["train/preference_loss"] != pytest.approx(LN_2, abs=1e-3)
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(weights_of(usual_run)[name], weights_of(tmp_path / "cached")[name])
    torch.testing.assert_close(
        weights_of(tmp_path / "cached")[name], weights_of(tmp_path / "online")[name], rtol=0, atol=1e-5
    )


def test_a_wrong_mask_stops_the_run_unless_it_may_not(
    pairs_file: Path, policy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # positions do not go on
    monkeypatch.setattr("trainer.model.segments.SegmentTable.offset", lambda table, segment: 0)
    with pytest.raises(DpoError, match="self-check"):
        run(pairs_file, policy_folder, tmp_path / "run", "policy.attention=dense")
    assert not (tmp_path / "run" / "policy").exists()
    settings = ("policy.attention=dense", "policy.self_check=false", "reference.cache_dir=null")
    run(pairs_file, policy_folder, tmp_path / "all the same", *settings)
    assert (tmp_path / "all the same" / "policy").exists()


@pytest.mark.parametrize(
    "override",
    [
        "dpo.seed=7",
        "dpo.max_num_epochs=2",
        "dpo.max_num_steps=2",
        "dpo.reference_policy_kl_penalty=0.5",
        "dpo.preference_loss_weight=0.5",
        "dpo.sft_loss_weight=0.5",
        "dpo.preference_average_log_probs=true",
        "policy.train_global_batch_size=6",
        "policy.max_total_sequence_length=41",
        "policy.precision=bfloat16",
        "policy.max_grad_norm=0.01",
        "policy.optimizer.lr=1e-4",
        "policy.optimizer.weight_decay=0.5",
        "policy.optimizer.betas=[0.5,0.6]",
        "policy.optimizer.eps=0.1",
        "policy.scheduler.name=cosine",
        "policy.scheduler.warmup_ratio=0.9",
        "policy.lora.rank=4",
        "reference=none",
        "data.order=pairs",
        "data.loss_mask=nemo_rl",
    ],
)
def test_each_option_changes_the_weights(
    pairs_file: Path, policy_folder: Path, tmp_path: Path, usual_run: Path, override: str
) -> None:
    run(pairs_file, policy_folder, tmp_path / "changed", override)
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(weights_of(usual_run)[name], weights_of(tmp_path / "changed")[name])


def test_averaging_the_sft_term_changes_it(pairs_file: Path, policy_folder: Path, tmp_path: Path) -> None:
    for name, average in (("a", "false"), ("b", "true")):
        sft = ("dpo.sft_loss_weight=1", f"dpo.sft_average_log_probs={average}")
        run(pairs_file, policy_folder, tmp_path / name, *sft, "dpo.max_num_steps=1")
    summed, averaged = metrics_of(tmp_path / "a")[0], metrics_of(tmp_path / "b")[0]
    assert averaged["train/sft_loss"] == pytest.approx(summed["train/sft_loss"] / 6, rel=1e-4)  # "yes 0" and its end
    assert summed["train/loss"] == pytest.approx(summed["train/preference_loss"] + summed["train/sft_loss"])


def test_the_schedule_wastes_no_step(pairs_file: Path, policy_folder: Path, tmp_path: Path) -> None:
    run(pairs_file, policy_folder, tmp_path / "run", "policy.scheduler.warmup_ratio=0.5", "dpo.max_num_epochs=2")
    rates = [line["train/lr"] for line in metrics_of(tmp_path / "run")]
    assert rates == pytest.approx([1e-3 / 3, 2e-3 / 3, 1e-3, 0.75e-3, 0.5e-3, 0.25e-3])  # 3 up, 4 down, none at 0


@pytest.mark.parametrize("attention", ["auto", "rows"])
def test_reference_equals_the_live_policy_for_each_response(policy_folder: Path, attention: str) -> None:
    model, _ = load_policy(str(policy_folder))
    groups = [group_of((1, 2, 3), (4, 5, 256), (6, 256), (7,)), group_of((8,), (9, 10))]
    scorer = ResponseScorer(model, choose_attention(model, attention, torch.device("cpu")))
    packer = Packer(groups, scorer.attention.layout, 8)
    reference = compute_reference(scorer, packer, Accelerator())
    for group, members in enumerate(groups):
        for position in range(len(members.responses)):
            alone = token_rows(Row((Fragment(group, (position,)),)), groups, packer.layout)
            expected = response_logps(scorer, alone).tokens.detach()
            torch.testing.assert_close(reference.of(alone).tokens, expected, rtol=1e-5, atol=1e-5)


def test_logps_are_those_of_a_plain_softmax() -> None:
    model = tiny_qwen3()
    groups = [group_of((1, 2, 3), (4, 5), (6, 7, 8, 9))]
    by_hand: list[float] = []
    with torch.no_grad():
        for response in groups[0].responses:
            probabilities = torch.softmax(model(torch.tensor([[1, 2, 3, *response.ids]])).logits[0].double(), dim=-1)
            by_hand += [math.log(probabilities[2 + place, token]) for place, token in enumerate(response.ids)]
        scorer = ResponseScorer(model, choose_attention(model, "auto", torch.device("cpu")))
        rows = token_rows(Row((Fragment(0, (0, 1)),)), groups, Layout.TREE)
        logps = response_logps(scorer, rows)
    assert logps.lengths == (2, 4)
    assert logps.tokens.tolist() == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.parametrize("name", [*SHARING, *HYBRID])
@pytest.mark.parametrize("attention", ["auto", "rows"])
def test_neighbours_change_no_logps(name: str, attention: str) -> None:
    """Responses of different lengths in one row, packed or padded, give what each gives alone, in any architecture."""
    model = build(name)
    groups = [group_of((1, 2, 3, 4, 5), (6,), (7, 8, 9, 10, 11, 12)), group_of((13,), (14, 15))]
    alone = []
    with torch.no_grad():
        for group in groups:
            for response in group.responses:
                ids = torch.tensor([[*group.prompt, *response.ids]])
                logps = torch.log_softmax(model(ids).logits[0].double(), dim=-1)
                places = torch.arange(len(group.prompt) - 1, ids.shape[1] - 1)
                alone.append(logps[places, ids[0, len(group.prompt) :]])
        scorer = ResponseScorer(model, choose_attention(model, attention, torch.device("cpu")))
        row = Row((Fragment(0, (0, 1)), Fragment(1, (0,))))
        together = response_logps(scorer, token_rows(row, groups, scorer.attention.layout)).per_response
    for found, expected in zip(together, alone, strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=2e-5)


def test_dropout_is_off(tmp_path: Path) -> None:
    folder = save_tiny_policy(tmp_path / "model", attention_dropout=0.5)
    model, _ = load_policy(str(folder))
    model.train()
    ids = torch.tensor([[1, 2, 3, 4]])
    assert torch.equal(model(ids).logits, model(ids).logits)
    assert model.config.attention_dropout == 0.5  # what is saved with the policy stays as it was


def test_dropout_modules_are_turned_off() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.5))
    disable_dropout(module)
    assert module(torch.ones(1, 2)).count_nonzero() == 2


def test_a_first_loss_that_is_not_ln_2_stops_the_run() -> None:
    check_start(LN_2 + 9e-6, beta=0.1, precision="float32")
    check_start(LN_2 + 1e-2, beta=0.1, precision="bfloat16")
    with pytest.raises(DpoError, match=r"preference loss of step 1 is 0\.69316.*expected ln 2 = 0\.69314718"):
        check_start(LN_2 + 2e-5, beta=0.1, precision="float32")
    with pytest.raises(DpoError):
        check_start(math.nan, beta=0.1, precision="float32")


def test_a_policy_that_is_not_its_own_reference_stops_the_run(
    pairs_file: Path, policy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def noisy(model: Any) -> None:
        model.get_decoder().register_forward_pre_hook(
            lambda module, inputs: [p.data.mul_(1.001) for p in module.parameters()] and None
        )

    monkeypatch.setattr("trainer.model.policy.disable_dropout", noisy)
    with pytest.raises(DpoError, match="self-check"):  # it is noticed there already
        run(pairs_file, policy_folder, tmp_path / "checked")
    with pytest.raises(DpoError, match="ln 2"):
        run(pairs_file, policy_folder, tmp_path / "run", "policy.self_check=false", "reference.cache_dir=null")
    assert not (tmp_path / "run" / "policy").exists()


def test_not_a_number_stops_the_run_and_names_the_rows(pairs_file: Path, policy_folder: Path, tmp_path: Path) -> None:
    """The embedding of one byte is NaN, and one response has that byte: all pairs with that response are named."""
    rows = [dict(row) for row in ROWS]
    rows[4]["rejected"] = "~"
    write_rows(pairs_file, rows)
    folder = save_tiny_policy(tmp_path / "broken", tie_word_embeddings=False)
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"][byte_tokenizer()("~")["input_ids"][0]] = math.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DpoError, match=r"not finite for the pairs .*pairs\.jsonl:5;") as caught:
        run(pairs_file, folder, tmp_path / "run", "policy.train_global_batch_size=24")
    assert str(caught.value).count("pairs.jsonl:") == 1


def test_missing_weights_are_refused(pairs_file: Path, tmp_path: Path) -> None:
    folder = save_tiny_policy(tmp_path / "half")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"weights are missing \(model\.layers\.1\.mlp\.up_proj\.weight"):
        run(pairs_file, folder, tmp_path / "run")


def test_a_tokenizer_of_another_model_is_refused(pairs_file: Path, tmp_path: Path) -> None:
    folder = save_tiny_policy(tmp_path / "small", vocab_size=100, eos_token_id=1, pad_token_id=2)
    with pytest.raises(UsageError, match="has 259 tokens, the model 100"):
        run(pairs_file, folder, tmp_path / "run")


def test_a_run_that_cannot_start_gives_its_folder_back(pairs_file: Path, policy_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="FlexAttention has no backward pass on a CPU"):
        run(pairs_file, policy_folder, tmp_path / "run", "policy.attention=flex")
    assert not (tmp_path / "run").exists()
    run(pairs_file, policy_folder, tmp_path / "run", "dpo.max_num_steps=1")


def test_compiling_by_segments_is_refused(pairs_file: Path, policy_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"policy\.compile=true: attention by segments"):
        run(pairs_file, policy_folder, tmp_path / "run", "policy.compile=true")


def test_8_bit_adam_learns_much_the_same(
    pairs_file: Path, policy_folder: Path, tmp_path: Path, usual_run: Path
) -> None:
    run(pairs_file, policy_folder, tmp_path / "run", "policy.optimizer.name=adamw_8bit")
    for name, value in weights_of(usual_run).items():
        start = load_file(policy_folder / "model.safetensors")[name]
        found = weights_of(tmp_path / "run")[name]
        assert torch.cosine_similarity((found - start).flatten(), (value - start).flatten(), dim=0) > 0.5, name


def test_the_noise_of_routers_is_off() -> None:
    options = {"num_local_experts": 4, "num_experts_per_tok": 2, "router_jitter_noise": 0.3}
    model = AutoModelForCausalLM.from_config(MixtralConfig(**WIDTHS, **options)).train()
    assert not torch.equal(model(torch.tensor([[1, 2]])).logits, model(torch.tensor([[1, 2]])).logits)
    disable_dropout(model)
    ids = torch.tensor([[1, 2, 3, 4]])
    assert torch.equal(model(ids).logits, model(ids).logits)
