"""The tiled head: the values and gradients of a full softmax, in float32 sums, without the logits of all tokens."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    CohereConfig,
    FalconH1Config,
    Gemma2Config,
    Gemma3TextConfig,
    GraniteConfig,
    GraniteMoeConfig,
    LlamaConfig,
    Qwen3Config,
)

from schemas.errors import UsageError
from tests.architectures import HYBRID, SHARING, build
from trainer.model import head
from trainer.model.head import LogitTransform, Measure, logit_transform, plain_head, token_scores

TRANSFORMS = {
    "plain": LogitTransform(),
    "scale": LogitTransform(scale=0.3),
    "softcap": LogitTransform(softcap=2.0),
    "both": LogitTransform(scale=1.7, softcap=3.0),
}

NUM_TOKENS, HIDDEN, WORDS = 23, 8, 41


@pytest.fixture(autouse=True)
def _small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """So small that tokens and words take several tiles each, the last ones not full."""
    monkeypatch.setattr(head, "TILE_TOKENS", 5)
    monkeypatch.setattr(head, "TILE_VOCABULARY", 7)


def example(
    dtype: torch.dtype = torch.float64, *, bias: bool = True, num_tokens: int = NUM_TOKENS, words: int = WORDS
) -> tuple[Tensor, nn.Linear, Tensor]:
    torch.manual_seed(0)
    linear = nn.Linear(HIDDEN, words, bias=bias, dtype=dtype)
    linear.weight.data.normal_()
    hidden = torch.randn(num_tokens, HIDDEN, dtype=dtype, requires_grad=True)
    return hidden, linear, torch.randint(words, (num_tokens,))


def target_logps(hidden: Tensor, linear: nn.Linear, targets: Tensor, transform: LogitTransform) -> Tensor:
    return token_scores(hidden, linear, targets, transform)[0]


def full_logps(hidden: Tensor, linear: nn.Linear, targets: Tensor, transform: LogitTransform) -> Tensor:
    """Take the log-probs from the logits of all tokens, as autograd differentiates it."""
    logits = transform.scale * linear(hidden)
    if transform.softcap is not None:
        logits = transform.softcap * torch.tanh(logits / transform.softcap)
    return torch.log_softmax(logits, dim=-1).gather(1, targets[:, None]).squeeze(1)


def gradients(logps: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    slopes = torch.linspace(-1, 2, len(logps), dtype=logps.dtype)  # another one for each token, of both signs
    return torch.autograd.grad((logps * slopes).sum(), inputs)


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_tiles_equal_the_full_softmax(
    transform: LogitTransform, bias: bool, dtype: torch.dtype, tolerance: float
) -> None:
    hidden, linear, targets = example(dtype, bias=bias)
    inputs = [hidden, *linear.parameters()]
    found, expected = (compute(hidden, linear, targets, transform) for compute in (target_logps, full_logps))
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    for one, two in zip(gradients(found, *inputs), gradients(expected, *inputs), strict=True):
        torch.testing.assert_close(one, two, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_gradients_are_those_of_finite_differences(transform: LogitTransform) -> None:
    hidden, linear, targets = example(num_tokens=6, words=9)

    def compute(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(
            _Head(linear, targets, transform), {"linear.weight": weight, "linear.bias": bias}, (hidden,)
        )

    assert torch.autograd.gradcheck(compute, (hidden, linear.weight, linear.bias))


class _Head(nn.Module):
    def __init__(self, linear: nn.Linear, targets: Tensor, transform: LogitTransform) -> None:
        super().__init__()
        self.linear, self.targets, self.transform = linear, targets, transform

    def forward(self, hidden: Tensor) -> Tensor:
        return target_logps(hidden, self.linear, self.targets, self.transform)


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-5)])
def test_measures_are_those_of_the_full_logits(
    transform: LogitTransform, bias: bool, dtype: torch.dtype, tolerance: float
) -> None:
    """The mean of the logits and log sum p^2; neither has a gradient, and the log-probs are what they are without."""
    hidden, linear, targets = example(dtype, bias=bias)
    logits = transform.apply_(linear(hidden).detach().clone())
    expected = {
        Measure.MEAN_LOGITS: logits.mean(dim=-1),
        Measure.LOG_SQUARES: torch.log_softmax(logits, dim=-1).exp().square().sum(dim=-1).log(),
    }
    for measures in ([], [Measure.MEAN_LOGITS], [Measure.LOG_SQUARES], [*Measure]):
        logps, *found = token_scores(hidden, linear, targets, transform, measures)
        assert torch.equal(logps, target_logps(hidden, linear, targets, transform))
        for measure, values in zip(measures, found, strict=True):
            assert not values.requires_grad
            torch.testing.assert_close(values, expected[measure], rtol=tolerance, atol=tolerance)
        inputs = [hidden, *linear.parameters()]
        plain = gradients(target_logps(hidden, linear, targets, transform), *inputs)
        for one, two in zip(gradients(logps, *inputs), plain, strict=True):
            assert torch.equal(one, two)


def test_the_mean_of_logits_keeps_its_digits_in_bfloat16() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 1000, bias=False, dtype=torch.bfloat16)
    hidden = torch.randn(9, 64, dtype=torch.bfloat16)
    _, found = token_scores(hidden, linear, torch.zeros(9, dtype=torch.long), LogitTransform(), [Measure.MEAN_LOGITS])
    exact = (hidden.double() @ linear.weight.detach().double().t()).mean(dim=-1)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-5 * float(exact.abs().max()))


@given(num_tokens=st.integers(0, 12), words=st.integers(1, 16), tile_tokens=st.integers(1, 14), tile=st.integers(1, 18))
def test_the_size_of_tiles_changes_nothing(num_tokens: int, words: int, tile_tokens: int, tile: int) -> None:
    hidden, linear, targets = example(num_tokens=num_tokens, words=words)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head, "TILE_TOKENS", tile_tokens)
        patch.setattr(head, "TILE_VOCABULARY", tile)
        found = target_logps(hidden, linear, targets, LogitTransform())
        torch.testing.assert_close(found, full_logps(hidden, linear, targets, LogitTransform()), rtol=0, atol=1e-12)
        found.sum().backward()  # of no tokens too, as in a filler


def test_a_tied_embedding_gets_both_gradients() -> None:
    words = torch.randint(WORDS, (NUM_TOKENS,))
    found = []
    for compute in (target_logps, full_logps):
        _, linear, targets = example(bias=False)
        hidden = torch.tanh(nn.functional.embedding(words, linear.weight))
        compute(hidden, linear, targets, LogitTransform()).sum().backward()
        found.append(linear.weight.grad)
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


def test_what_needs_no_gradient_gets_none() -> None:
    hidden, linear, targets = example()
    linear.requires_grad_(False)
    target_logps(hidden, linear, targets, LogitTransform()).sum().backward()
    assert hidden.grad is not None
    assert linear.weight.grad is None
    frozen, linear, _ = example()
    target_logps(frozen.detach(), linear, targets, LogitTransform()).sum().backward()
    assert linear.weight.grad is not None
    with torch.no_grad():
        assert not target_logps(hidden, linear, targets, LogitTransform()).requires_grad


def test_far_out_logits_stay_finite() -> None:
    """A margin of 200 nats: e^-200 is 0 in float32, and the log-prob of the unlikely word is -200 all the same."""
    linear = nn.Linear(1, 2, bias=False)
    linear.weight.data.copy_(torch.tensor([[200.0], [0.0]]))
    hidden = torch.ones(2, 1, requires_grad=True)
    logps = target_logps(hidden, linear, torch.tensor([0, 1]), LogitTransform())
    assert logps.tolist() == [0.0, -200.0]
    logps.sum().backward()
    assert hidden.grad is not None
    assert hidden.grad.tolist() == [[0.0], [-200.0]]


@pytest.mark.parametrize("autocast", [True, False])
def test_bfloat16_is_summed_in_float32(autocast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the truth in float64, of the same bfloat16 values: log-probs hardly round at all, and gradients as often
    as they are handed on in bfloat16, but not once for each tile, which drifts."""
    monkeypatch.setattr(head, "TILE_VOCABULARY", 500)
    num_tokens, words = 600, 2000
    torch.manual_seed(0)
    hidden = torch.randn(num_tokens, HIDDEN).bfloat16()
    weight = torch.randn(words, HIDDEN).bfloat16()
    targets = torch.randint(words, (num_tokens,))
    slopes = 1 + torch.rand(num_tokens)  # all of one sign

    def outcome(
        dtype: torch.dtype, weight_dtype: torch.dtype, compute: Any, *, chunk: int = num_tokens
    ) -> list[Tensor]:
        linear = nn.Linear(HIDDEN, words, bias=False, dtype=weight_dtype)
        linear.weight.data.copy_(weight)
        states = hidden.to(dtype).requires_grad_()
        parts = []
        for some in torch.arange(num_tokens).split(chunk):
            parts.append(compute(states[some], linear, targets[some], LogitTransform()))
            (parts[-1] * slopes[some]).sum().backward()
        assert states.grad is not None
        assert linear.weight.grad is not None
        return [torch.cat(parts).detach().double(), states.grad.double(), linear.weight.grad.double()]

    def tiled(*given: Any) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            logps = target_logps(*given)
        assert logps.dtype == torch.float32
        return logps

    truth = outcome(torch.float64, torch.float64, full_logps)
    # under autocast the weights are float32, and so is their gradient
    ours = outcome(torch.bfloat16, torch.float32 if autocast else torch.bfloat16, tiled)
    naive = outcome(torch.bfloat16, torch.bfloat16, full_logps, chunk=head.TILE_TOKENS)
    ours, naive = (
        [float((one - true).norm() / true.norm()) for one, true in zip(outcome, truth, strict=True)]
        for outcome in (ours, naive)
    )
    half_a_digit = 2**-9
    assert ours[0] < 1e-6 < 1e-3 < naive[0]
    assert ours[1] < 1.5 * half_a_digit
    assert ours[2] < 1.5 * half_a_digit
    assert naive[2] > 5 * ours[2]


class Largest(TorchDispatchMode):
    """Looks at what every operation makes, and keeps the largest number of elements."""

    def __init__(self) -> None:
        super().__init__()
        self.num_elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        for output in tree_leaves(outputs):
            if isinstance(output, Tensor):
                self.num_elements = max(self.num_elements, output.untyped_storage().nbytes() // output.itemsize)
        return outputs


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_the_logits_of_all_tokens_are_never_there(transform: LogitTransform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "TILE_TOKENS", 32)
    monkeypatch.setattr(head, "TILE_VOCABULARY", 128)
    num_tokens, words = 200, 640
    with Largest() as ours:
        hidden, linear, targets = example(torch.float32, num_tokens=num_tokens, words=words)
        target_logps(hidden, linear, targets, transform).sum().backward()
    assert ours.num_elements == words * HIDDEN  # the weight itself; a tile has 32 x 128 = 4096, all logits 128000
    with Largest() as theirs:
        full_logps(hidden, linear, targets, transform).sum().backward()
    assert theirs.num_elements == num_tokens * words  # so the test would have seen them


def test_one_tile_of_logits_is_the_most_that_a_model_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real sizes of tiles: 64 MiB, whatever the vocabulary."""
    monkeypatch.undo()
    assert head.TILE_TOKENS * head.TILE_VOCABULARY * 4 == 64 * 2**20


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (LlamaConfig(), LogitTransform()),
        (Qwen3Config(), LogitTransform()),
        (Gemma2Config(), LogitTransform(softcap=30.0)),  # its own default
        (Gemma2Config(final_logit_softcapping=None), LogitTransform()),
        (Gemma3TextConfig(), LogitTransform()),
        (Gemma3TextConfig(final_logit_softcapping=20.0), LogitTransform(softcap=20.0)),
        (CohereConfig(logit_scale=0.25), LogitTransform(scale=0.25)),
        (GraniteConfig(logits_scaling=8.0), LogitTransform(scale=1 / 8)),  # Granite divides
        (GraniteMoeConfig(logits_scaling=4.0), LogitTransform(scale=1 / 4)),
        (FalconH1Config(lm_head_multiplier=0.5), LogitTransform(scale=0.5)),
    ],
    ids=lambda value: getattr(value, "model_type", ""),
)
def test_the_transform_is_read_off_the_configuration(config: Any, expected: LogitTransform) -> None:
    assert logit_transform(config) == expected


@pytest.mark.parametrize("name", [*SHARING, *HYBRID])
def test_the_transform_is_what_the_model_does(name: str) -> None:
    """The model's own logits, from its last hidden states by the head and the transform."""
    model = build(name)
    ids = torch.arange(10)[None]
    with torch.no_grad():
        hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
        logits = logit_transform(model.config).apply_(plain_head(model)(hidden))
        torch.testing.assert_close(logits, model(input_ids=ids, use_cache=False).logits, rtol=1e-5, atol=1e-5)


class Wrapped(nn.Linear):
    def forward(self, states: Tensor) -> Tensor:
        return super().forward(states) * 2


@pytest.mark.parametrize(
    "layers",
    [nn.Sequential(nn.Linear(32, 64)), nn.Bilinear(32, 32, 64), Wrapped(32, 64)],
    ids=lambda one: type(one).__name__,
)
def test_a_head_that_is_more_than_a_matrix_is_refused(layers: nn.Module) -> None:
    model = build("llama")
    model.set_output_embeddings(layers)
    model.config.name_or_path = "some/model"
    with pytest.raises(UsageError, match=f"some/model: its head is a {type(layers).__name__}, not one matrix"):
        plain_head(model)
