"""The memory estimate against what autograd keeps, and what is said when memory does not suffice."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from schemas.errors import DpoError
from schemas.preference import write_rows
from tests.tiny_models import save_tiny_policy, tiny_qwen3
from trainer.config.policy import LoraSection
from trainer.config.sections import TrainConfig
from trainer.config.settings import resolve
from trainer.cost.dry_run import row_shape
from trainer.cost.memory import MemoryEstimate, RowShape, estimate_memory
from trainer.cost.out_of_memory import explain_out_of_memory
from trainer.data.groups import GroupPair
from trainer.data.plan import ResponseRef
from trainer.data.tokenize import TokenizedGroup, TokenizedResponse
from trainer.model.attention import choose_attention
from trainer.model.batch import token_rows
from trainer.model.lora import add_lora
from trainer.model.packing import Layout, Packer
from trainer.model.scorer import ResponseScorer
from trainer.model.segments import NO_PARENT, Segment, SegmentTable

CPU = torch.device("cpu")
SMALL = {
    "vocab_size": 259,
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
WIDE = SMALL | {"hidden_size": 192, "intermediate_size": 384, "num_key_value_heads": 4, "head_dim": 64}
DEEP = SMALL | {"hidden_size": 96, "intermediate_size": 400, "num_attention_heads": 6, "num_hidden_layers": 4}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig, {}),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config, {}),
    "qwen3_moe": (Qwen3MoeForCausalLM, Qwen3MoeConfig, EXPERTS),
    "gemma3": (Gemma3ForCausalLM, Gemma3TextConfig, {"sliding_window": 32}),
}


def config_of(*overrides: str) -> TrainConfig:
    usual = ("policy.precision=float32",)
    return resolve([*usual, *overrides], train_data_path=Path("x"), model_name="m", output_dir=Path("y"))


def ragged_groups(prompt: int, longest: int, number: int) -> list[TokenizedGroup]:
    """Make two groups whose responses are of several lengths."""
    responses = tuple(
        TokenizedResponse([(7 * place) % 250 for place in range(length)], [1] * length)
        for length in (longest - 3 * (each % 3) for each in range(number))
    )
    return [TokenizedGroup([one + 1] * prompt, responses, (GroupPair(0, 1, "x:1"),)) for one in range(2)]


def kept_bytes(model: Any, groups: list[TokenizedGroup], config: TrainConfig) -> tuple[int, MemoryEstimate]:
    """Measure what autograd keeps of a row's forward pass, each storage once and no weights, and estimate it."""
    attention = choose_attention(model, config.policy.attention, CPU)
    scorer = ResponseScorer(model, attention)
    packer = Packer(groups, attention.layout, 1 << 30)
    refs = [ResponseRef(g, r) for g, group in enumerate(groups) for r in range(len(group.responses))]
    (row,) = packer.rows(refs)
    rows = token_rows(row, groups, attention.layout)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    is_lower = config.policy.precision == "bfloat16"
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_lower), saved_tensors_hooks(keep, lambda one: one):
        logps = scorer(rows)
    assert logps.requires_grad
    return sum(kept.values()), estimate_memory(model, config, attention, row_shape(row, packer, attention.pads_to))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [SMALL, WIDE, DEEP], ids=["small", "wide", "deep"])
@pytest.mark.parametrize("kind", MODELS)
def test_what_autograd_keeps_is_estimated_within_a_fifth(kind: str, shape: dict[str, Any], precision: str) -> None:
    model_class, config_class, more = MODELS[kind]
    model = model_class(config_class(**shape, **more))
    config = config_of(f"policy.precision={precision}")
    kept, estimate = kept_bytes(model, ragged_groups(prompt=60, longest=40, number=6), config)
    assert estimate.activations + estimate.copies == pytest.approx(kept, rel=0.2)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("attention", ["dense", "rows"])
def test_the_other_back_ends_are_estimated_too(attention: str, precision: str) -> None:
    model = Qwen3ForCausalLM(Qwen3Config(**SMALL))
    config = config_of(f"policy.precision={precision}", f"policy.attention={attention}")
    kept, estimate = kept_bytes(model, ragged_groups(prompt=60, longest=40, number=6), config)
    assert estimate.activations + estimate.copies == pytest.approx(kept, rel=0.2)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_adapters_are_estimated_too(precision: str) -> None:
    model = add_lora(LlamaForCausalLM(LlamaConfig(**WIDE)), LoraSection(rank=4))
    kept, estimate = kept_bytes(model, ragged_groups(60, 40, 6), config_of(f"policy.precision={precision}"))
    assert estimate.activations + estimate.copies == pytest.approx(kept, rel=0.2)
    assert estimate.gradients * 10 < estimate.weights


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
def test_with_checkpoints_the_inputs_of_layers_are_kept() -> None:
    model = LlamaForCausalLM(LlamaConfig(**DEEP))
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    kept, estimate = kept_bytes(model, ragged_groups(60, 40, 6), config_of("policy.gradient_checkpointing=true"))
    assert estimate.activations == pytest.approx(kept, rel=0.2)


def test_weights_gradients_and_moments() -> None:
    """26,912 weights: 259 x 32 embeddings, tied; in each of 2 layers 3,072 of attention, 6,144 of the MLP and 80 of
    norms; 32 of the last norm."""
    model = tiny_qwen3()
    attention = choose_attention(model, "auto", CPU)
    estimate = estimate_memory(model, config_of(), attention)
    assert (estimate.weights, estimate.gradients, estimate.optimizer) == (107_648, 107_648, 215_296)
    assert (estimate.copies, estimate.reference) == (0, 0)
    assert estimate.total == sum(value for name, value in estimate.as_dict().items() if name != "total")
    eight_bit = estimate_memory(model, config_of("policy.optimizer.name=adamw_8bit"), attention)
    assert eight_bit.optimizer == 53_824
    assert estimate_memory(model, config_of("policy.optimizer.name=sgd"), attention).optimizer == 0
    online = estimate_memory(model, config_of("reference=online", "policy.precision=bfloat16"), attention)
    assert online.reference == 107_648
    assert online.copies == 2 * 2 * (3_072 + 6_144)  # the matrices of two layers, two bytes each


def test_the_head_of_a_large_vocabulary() -> None:
    """Tiles of 2,048 tokens by 8,192 words at most; the gradients of 3,000 hidden states and of 10,000 rows."""
    model = tiny_qwen3(vocab_size=10_000)
    row = RowShape(tokens=4_000, trained=3_000, prompt_tokens=1_000, keys=4_000, mask=0)
    estimate = estimate_memory(model, config_of(), choose_attention(model, "auto", CPU), row)
    assert estimate.head == 3 * 2_048 * 8_192 * 4 + 3_000 * 32 * 4 + 10_000 * 32 * 4


def test_the_meta_device_gives_the_same_estimate() -> None:
    with torch.device("meta"):
        shape = tiny_qwen3()
    attention = choose_attention(shape, "auto", CPU)
    assert estimate_memory(shape, config_of(), attention) == estimate_memory(tiny_qwen3(), config_of(), attention)


def test_shapes_of_rows() -> None:
    prompt, short, long = Segment(0, 3, NO_PARENT), Segment(3, 5, 0), Segment(5, 9, 0)  # 3 + 2 + 4 tokens
    measured = RowShape.of(SegmentTable((prompt, short, long)), trained=6)
    assert measured == RowShape(tokens=9, trained=6, prompt_tokens=3, keys=5 + 7, mask=2 * 5 + 4 * 7)
    assert RowShape.of_sequences(2, 7, trained=6) == RowShape(14, 6, prompt_tokens=0, keys=14, mask=98)
    assert measured.covering(RowShape(1, 7, 4, 1, 1)) == RowShape(9, 7, 4, 12, 38)


def test_the_fullest_row_without_data() -> None:
    config = config_of("policy.max_total_sequence_length=100", "policy.tokens_per_microbatch=230")
    tree = RowShape.fullest(config, Layout.TREE)  # prompt 50, responses of 50, 50, 50 and 30
    assert tree == RowShape(230, 180, prompt_tokens=50, keys=3 * 100 + 80, mask=3 * 50 * 100 + 30 * 80)
    assert RowShape.fullest(config, Layout.ROWS) == RowShape(200, 100, prompt_tokens=0, keys=200, mask=20_000)


def explained(error: Exception, config: TrainConfig, phase: Any) -> str:
    with pytest.raises(DpoError) as caught, explain_out_of_memory(config, phase):
        raise error
    return str(caught.value)


def test_on_a_gpu_all_that_helps_is_named_in_order() -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of …")
    config = config_of("reference=online", "policy.train_micro_batch_size=3")
    message = explained(error, config, "training")
    assert message.startswith("out of GPU memory in training, trying to allocate 2.50 GiB; what helps")
    knobs = [
        "policy.tokens_per_microbatch=3072 (now 6144 by train_micro_batch_size=3; at least max_total",
        "policy.gradient_checkpointing=true",
        "policy.precision=bfloat16",
        "policy.optimizer.name=adamw_8bit",
        "policy.lora.rank=16",
        "reference=cached",
        "a lower policy.max_total_sequence_length (now 1024; ",
    ]
    places = [message.find(knob) for knob in knobs]
    assert -1 not in places
    assert places == sorted(places)


def test_what_is_done_already_is_not_advised() -> None:
    error = RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to")
    config = config_of("policy.tokens_per_microbatch=1024", "policy.gradient_checkpointing=true")
    message = explained(error, config, "training")
    assert message.startswith("out of memory in training; what helps")
    assert "tokens_per_microbatch=512" not in message
    assert "gradient_checkpointing" not in message
    assert "adamw_8bit" not in message  # there is no GPU
    assert "max_total_sequence_length (now 1024, which tokens_per_microbatch=1024 has room for once" in message


def test_the_reference_has_no_backward_pass() -> None:
    message = explained(MemoryError(), config_of("policy.tokens_per_microbatch=1500"), "reference")
    assert message.startswith("out of memory before the first step (self-check, reference log-probs); what helps")
    assert "policy.tokens_per_microbatch=1024 (now 1500; at least" in message  # not half, which is too short
    assert "gradient_checkpointing" not in message


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shapes"), explain_out_of_memory(config_of(), "training"):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")


@pytest.mark.slow
def test_a_run_without_memory_ends_with_one_line(tmp_path: Path) -> None:
    """A row of 64 prompts keeps more than 2 GB for the backward pass, and the process may have 1.4 GB more.

    Some of that is address space alone: each thread that digests weights or writes files reserves some.
    """
    save_tiny_policy(tmp_path / "policy", intermediate_size=1024, num_hidden_layers=12)
    rows = [{"prompt": f"{number:060}", "chosen": "y" * 60, "rejected": "n" * 60} for number in range(64)]
    write_rows(tmp_path / "pairs.jsonl", rows)
    script = (
        "import re, resource, cli, trainer.run.loop, trainer.cost.dry_run\n"
        "used = 1024 * int(re.search(r'VmSize:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 1_400_000_000,) * 2)\n"
        "cli.main()\n"
    )
    options = ["policy.tokens_per_microbatch=16384", "policy.precision=float32", "reference.cache_dir=null"]
    result = subprocess.run(
        [sys.executable, "-c", script, "train", "pairs.jsonl", "--model", "policy", "-o", "run", *options],
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (result.returncode, result.stdout) == (1, ""), result.stderr
    assert "Traceback" not in result.stderr
    last = result.stderr.splitlines()[-1]
    assert re.match(r"dpo: error: out of memory in training, trying to allocate \d+\.\d MB; what helps", last), last
    assert "policy.tokens_per_microbatch=8192 (now 16384; at least max_total_sequence_length=1024)" in last
