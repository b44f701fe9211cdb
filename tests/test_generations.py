"""Answers during training: right ones, in the right places, and training goes on as if there had been none."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from transformers import GPT2Config, GPT2LMHeadModel

from tests.architectures import build
from tests.tiny_models import byte_tokenizer, tiny_qwen3
from trainer.config.policy import LoraSection
from trainer.config.sections import TrainConfig
from trainer.data.groups import GroupPair
from trainer.data.plan import ResponseRef
from trainer.data.tokenize import TokenizedGroup, TokenizedResponse
from trainer.model.attention import choose_attention
from trainer.model.batch import token_rows
from trainer.model.lora import add_lora
from trainer.model.packing import Layout, Packer
from trainer.model.policy import disable_dropout
from trainer.model.scorer import ResponseScorer
from trainer.watch.samples import Samples, start_samples

END = 256  # <|im_end|> of the byte tokenizer
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def response(text: str, *, ended: bool = True) -> TokenizedResponse:
    ids = [*byte_tokenizer().encode(text, add_special_tokens=False), *([END] if ended else [])]
    return TokenizedResponse(ids, [1] * len(ids))


def group(prompt: str, chosen: str = "yes", rejected: str = "no") -> TokenizedGroup:
    ids = byte_tokenizer().encode(prompt, add_special_tokens=False)
    pair = GroupPair(0, 1, f"{prompt}.jsonl:1")
    return TokenizedGroup(ids, (response(chosen), response(rejected, ended=False)), (pair,))


GROUPS = [group("What is 2 + 2?", "4"), group("Hi"), group("Name a colour, please.", "red\nor blue", "no " * 60)]


def config_of(tmp_path: Path, *, has_sets: bool = False, val_period: int = 25, **keys: Any) -> TrainConfig:
    held_out = {"validation": {"data_path": "held_out.jsonl"}} if has_sets else {}
    settings = {
        "data": {"train": {"data_path": "train.jsonl"}} | held_out,
        "dpo": {"val_period": val_period},
        "output_dir": str(tmp_path),
        "policy": {"precision": "float32", "train_global_batch_size": 2},
        "reference": {"cache_dir": None},
        "logger": {"num_val_samples_to_print": 3, "sample_max_new_tokens": 6} | keys,
    }
    return TrainConfig.model_validate(settings)


def scorer_of(model: Any, attention: str = "auto") -> ResponseScorer:
    return ResponseScorer(model, choose_attention(model, attention, CPU))


def samples_of(tmp_path: Path, scorer: Any, said: list[str] | None = None, **keys: Any) -> Samples:
    return start_samples(
        config_of(tmp_path, **keys),
        Accelerator(cpu=True),
        scorer,
        byte_tokenizer(),
        end_ids=frozenset({END}),
        sets={"default": GROUPS} if keys.get("has_sets", True) else {},
        training=GROUPS,
        path=tmp_path / "samples.jsonl",
        say=(said if said is not None else []).append,
    )


def greedy(model: Any, prompt: list[int], steps: int) -> list[int]:
    """Take the likeliest token again and again, each from the whole sequence: what generation must come to."""
    ids = list(prompt)
    for _ in range(steps):
        with torch.no_grad():
            token = int(model(torch.tensor([ids])).logits[0, -1].argmax())
        if token == END:
            break
        ids.append(token)
    return ids[len(prompt) :]


def greedy_texts(model: Any, groups: Sequence[TokenizedGroup] = GROUPS, *, steps: int = 6) -> list[str]:
    return [byte_tokenizer().decode(greedy(model, list(each.prompt), steps)) for each in groups]


@pytest.mark.parametrize("attention", ["segments", "dense", "rows"])
def test_answers_are_the_greedy_ones(tmp_path: Path, attention: str) -> None:
    scorer = scorer_of(tiny_qwen3(), attention)
    answers = samples_of(tmp_path, scorer).take(5)
    assert [each.response for each in answers] == greedy_texts(tiny_qwen3())
    assert [each.chosen for each in answers] == ["4", "yes", "red\nor blue"]
    assert answers[2].rejected == "no " * 60
    assert answers[0].prompt == "What is 2 + 2?"
    assert {(each.step, each.set) for each in answers} == {(5, "default")}


@pytest.mark.parametrize("name", ["qwen3_5", "nemotron_h"])
def test_hybrid_models_answer_too(tmp_path: Path, name: str) -> None:
    """Their layers must not see the padding of shorter prompts."""
    model = build(name).eval()  # of 64 words, so that only some bytes stand for one
    small = [replace(each, prompt=[token % 64 for token in each.prompt]) for each in GROUPS]
    samples = replace(samples_of(tmp_path, scorer_of(model), sample_max_new_tokens=3), groups=tuple(small))
    answers = samples.take(1)
    assert [each.response for each in answers] == greedy_texts(model, small, steps=3)


def test_places_that_end_are_not_passed(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model: Any = GPT2LMHeadModel(GPT2Config(vocab_size=259, n_embd=16, n_layer=1, n_head=2, n_positions=25))
    disable_dropout(model)
    longest = max(len(each.prompt) for each in GROUPS)
    assert longest == 22
    wanted = greedy_texts(model, steps=25 - longest)
    said: list[str] = []
    answers = samples_of(tmp_path, scorer_of(model), said).take(1)
    assert [each.response for each in answers] == wanted
    assert not any("warning" in line for line in said)


def test_generation_settings_of_the_model_don_t_count_and_stay(tmp_path: Path) -> None:
    model = tiny_qwen3()
    wanted = greedy_texts(model)
    model.generation_config.update(do_sample=True, temperature=5.0, repetition_penalty=3.0, max_new_tokens=1)
    before = model.generation_config.to_dict()
    assert [each.response for each in samples_of(tmp_path, scorer_of(model)).take(1)] == wanted
    assert model.generation_config.to_dict() == before


def test_what_is_shown_and_written(tmp_path: Path) -> None:
    said: list[str] = []
    samples = samples_of(tmp_path, scorer_of(tiny_qwen3()), said, num_val_samples_to_print=2)
    first = samples.take(10)
    samples.take(20)
    lines = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert lines[:2] == [each.as_dict() for each in first]
    assert list(lines[0]) == ["step", "set", "prompt", "response", "chosen", "rejected"]
    assert [each["step"] for each in lines] == [10, 10, 20, 20]
    assert said[0] == "sample after step 10, set default"
    assert said[1] == "  prompt    What is 2 + 2?"
    assert said[3] == "  chosen    4"
    assert len(said) == 16


def test_how_long_answers_are(tmp_path: Path) -> None:
    for most in (1, 3):
        samples = samples_of(tmp_path, scorer_of(tiny_qwen3()), sample_max_new_tokens=most)
        assert [each.response for each in samples.take(1)] == greedy_texts(tiny_qwen3(), steps=most)


def test_long_texts_are_cut_on_stderr_and_whole_in_the_file(tmp_path: Path) -> None:
    prompt = "Once upon a time " * 20 + "the end?"
    samples = start_samples(
        config_of(tmp_path),
        Accelerator(cpu=True),
        scorer_of(tiny_qwen3()),
        byte_tokenizer(),
        end_ids=frozenset({END}),
        sets={},
        training=[group(prompt)],
        path=tmp_path / "samples.jsonl",
        say=(said := []).append,
    )
    samples.take(1)
    assert said[1].endswith("the end?")
    assert "…" in said[1]
    assert len(said[1]) == 96 + 12
    line = json.loads((tmp_path / "samples.jsonl").read_text())
    assert line["prompt"] == prompt
    assert line["set"] == "train"


def test_which_prompts(tmp_path: Path) -> None:
    def chosen_set(*names: str) -> str:
        config, accelerator = config_of(tmp_path, num_val_samples_to_print=1), Accelerator(cpu=True)
        sets = {name: [group(name)] for name in names}
        path = tmp_path / "samples.jsonl"
        scorer = scorer_of(tiny_qwen3())
        samples = start_samples(
            config, accelerator, scorer, byte_tokenizer(), end_ids=frozenset(), sets=sets, training=GROUPS, path=path
        )
        (sample,) = samples.take(1)
        return sample.set

    assert chosen_set("math", "default") == "default"
    assert chosen_set("math", "code") == "math"
    assert chosen_set() == "train"


def test_when(tmp_path: Path) -> None:
    scorer = scorer_of(tiny_qwen3())
    at_validation = samples_of(tmp_path, scorer, has_sets=True)
    assert at_validation.is_due(7, validated=True)
    assert not at_validation.is_due(7, validated=False)
    often = samples_of(tmp_path, scorer, sample_period=3)
    assert [step for step in range(1, 8) if often.is_due(step, validated=step == 5)] == [3, 6]
    said: list[str] = []
    without_sets = samples_of(tmp_path, scorer, said, has_sets=False, val_period=20)
    assert [step for step in range(60) if without_sets.is_due(step, validated=False)] == [0, 20, 40]
    assert said == []
    never = samples_of(tmp_path, scorer, said, has_sets=False, val_period=0)
    assert not any(never.is_due(step, validated=False) for step in range(60))
    assert said == ["samples: none, for there are no validations; logger.sample_period=50 takes every 50th step"]
    off = samples_of(tmp_path, scorer, num_val_samples_to_print=0)
    assert not off.is_due(7, validated=True)
    assert off.take(7) == []


def test_sharded_policies_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accelerator = Accelerator(cpu=True)
    monkeypatch.setitem(accelerator.state.__dict__, "distributed_type", DistributedType.FSDP)
    monkeypatch.setitem(accelerator.state.__dict__, "fsdp_plugin", SimpleNamespace(fsdp_version=1))
    said: list[str] = []
    samples = start_samples(
        config_of(tmp_path),
        accelerator,
        object(),
        byte_tokenizer(),
        end_ids=frozenset(),
        sets={"default": GROUPS},
        training=GROUPS,
        path=tmp_path / "samples.jsonl",
        say=said.append,
    )
    assert said == ["samples: none under FSDP, where no process has the whole policy"]
    assert samples.take(1) == []


def test_a_model_that_can_t_generate_costs_no_run(tmp_path: Path) -> None:
    scorer = scorer_of(tiny_qwen3())
    said: list[str] = []
    samples = samples_of(tmp_path, scorer, said)

    def generate(**keys: Any) -> None:
        raise NotImplementedError("no cache for these layers")

    scorer.base.generate = generate
    assert samples.take(1) == []
    assert said == ["warning: samples: NotImplementedError: no cache for these layers; there will be none in this run"]
    assert not samples.is_due(2, validated=True)
    assert scorer.training
    assert scorer.base.config._attn_implementation == scorer.attention.implementation


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_training_goes_on_bit_by_bit(tmp_path: Path, rank: int, precision: str) -> None:
    def trained(*, samples_taken: bool) -> tuple[dict[str, torch.Tensor], list[float], torch.Tensor]:
        AcceleratorState._reset_state(reset_partial_state=True)
        accelerator = Accelerator(cpu=True, mixed_precision=precision)
        model = tiny_qwen3()
        if rank:
            torch.manual_seed(1)
            model = add_lora(model, LoraSection(rank=rank))
        scorer = scorer_of(model).train()
        scorer.base.activation_checkpointing_enable({"use_reentrant": False})
        optimizer = torch.optim.AdamW([each for each in scorer.parameters() if each.requires_grad], lr=1e-2)
        wrapped, optimizer = accelerator.prepare(scorer, optimizer)
        samples = samples_of(tmp_path, wrapped)
        (row,) = Packer(GROUPS, Layout.TREE, 1000).rows([ResponseRef(0, 0), ResponseRef(1, 1), ResponseRef(2, 0)])
        losses = []
        for step in range(3):
            loss = -wrapped(token_rows(row, GROUPS, Layout.TREE)).mean()
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            if samples_taken:
                assert len(samples.take(step)) == 3
                assert all(module.training for module in scorer.modules())
        return scorer.state_dict(), losses, torch.get_rng_state()

    without, losses, random = trained(samples_taken=False)
    with_samples, same_losses, same_random = trained(samples_taken=True)
    assert without.keys() == with_samples.keys()
    assert all(torch.equal(without[name], with_samples[name]) for name in without)
    assert losses == same_losses
    assert torch.equal(random, same_random)


def test_adapters_are_part_of_the_answer(tmp_path: Path) -> None:
    model = add_lora(tiny_qwen3(), LoraSection(rank=4))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    answers = samples_of(tmp_path, scorer_of(model)).take(1)
    model.get_base_model().set_attn_implementation("sdpa")
    assert [each.response for each in answers] == greedy_texts(model)
    assert [each.response for each in answers] != greedy_texts(tiny_qwen3())
