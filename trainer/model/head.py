"""The head: log-probs of response tokens from hidden states, without ever holding the logits of all tokens.

Tiles of some tokens by some of the vocabulary are computed, used and forgotten; the backward pass computes them again.
Softmax and sums are taken in float32 whatever the model computes in, and both gradients are summed up in float32:
rounding the part of each tile to bfloat16 before the sum would bias training.

Legend: `N` response tokens, `H` hidden size, `V` vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn

from schemas.errors import UsageError
from schemas.terminal import printable

TILE_TOKENS = 2048
TILE_VOCABULARY = 8192
"""At most TILE_TOKENS x TILE_VOCABULARY float32 values of logits (64 MiB), and their gradient, live at one time."""

INVERSE_SCALES = ("granite", "granitemoe", "granitemoeshared", "granitemoehybrid", "granite_swa", "granitemoe_swa")
"""Model types that divide by `logits_scaling`; others multiply."""


class Measure(StrEnum):
    """What can be taken of a token's logits beside the log-prob, without gradient."""

    MEAN_LOGITS = "mean_logits"  # over the vocabulary
    LOG_SQUARES = "log_squares"  # log sum_v p(v)^2


@dataclass(frozen=True)
class LogitTransform:
    """What a model does with the output of its last matrix: `scale * z`, then `softcap * tanh(z / softcap)`."""

    scale: float = 1.0
    softcap: float | None = None

    def apply_(self, logits: Tensor) -> Tensor:
        """Transform in place."""
        if self.scale != 1.0:
            logits.mul_(self.scale)
        if self.softcap is not None:
            logits.div_(self.softcap).tanh_().mul_(self.softcap)
        return logits

    def pull_back_(self, gradient: Tensor, logits: Tensor) -> Tensor:
        """Turn the gradient of the transformed logits, in place, into that of the matrix' output."""
        if self.softcap is not None:
            gradient.mul_(1 - (logits / self.softcap).square())
        if self.scale != 1.0:
            gradient.mul_(self.scale)
        return gradient


def logit_transform(config: Any) -> LogitTransform:
    """Read the transform off a model's configuration (Gemma's soft-capping, Cohere's, Granite's, Falcon-H1's scale)."""
    config = config.get_text_config()
    scale = 1.0
    for name in ("logit_scale", "lm_head_multiplier", "logits_scaling"):
        factor = getattr(config, name, None)
        if factor is not None:
            divides = name == "logits_scaling" and config.model_type in INVERSE_SCALES
            scale = scale / factor if divides else scale * factor
    for name in ("final_logit_softcapping", "logits_soft_cap", "softcap"):
        softcap = getattr(config, name, None)
        if softcap is not None:
            return LogitTransform(scale, float(softcap))
    return LogitTransform(scale)


def plain_head(model: Any) -> nn.Linear:
    """Give the last matrix of a model.

    Raises:
        UsageError: the head is something else than one matrix.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear) or type(head).forward is not nn.Linear.forward:
        raise UsageError(
            f"model {printable(model.config.name_or_path)}: its head is a {type(head).__name__}, not one matrix, "
            "so log-probs can't be computed in tiles; train without an adapter or a quantisation on it"
        )
    return head


def token_scores(
    hidden: Tensor, head: nn.Linear, targets: Tensor, transform: LogitTransform, measures: Sequence[Measure] = ()
) -> tuple[Tensor, ...]:
    """Give log softmax(head(hidden))[target] of each token, then each measure: (N, H) -> (N,) each, float32.

    Only the log-probs are differentiable. `hidden` is in the type in which the matrix products are taken; the weight is
    brought to it tile by tile.
    """
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    with torch.autocast(device, enabled=False):
        scores: tuple[Tensor, ...] = _TiledLogps.apply(  # type: ignore[no-untyped-call]
            hidden.to(dtype), head.weight, head.bias, targets, transform, tuple(measures)
        )
    return scores


class _TiledLogps(torch.autograd.Function):
    """Online log-sum-exp over tiles of the vocabulary; the backward pass recomputes each tile."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        transform: LogitTransform,
        measures: tuple[Measure, ...],
    ) -> tuple[Tensor, ...]:
        log_sums = hidden.new_full((len(hidden),), -torch.inf, dtype=_wide(hidden))  # (N,)
        chosen = hidden.new_zeros((len(hidden),), dtype=_wide(hidden))  # (N,), logits of the targets
        beside = {measure: _Measured(measure, hidden, transform) for measure in measures}
        for words in _tiles(len(weight), TILE_VOCABULARY):
            tile_weight, tile_bias = weight[words].to(hidden.dtype), None if bias is None else bias[words]
            for measured in beside.values():
                measured.add_words(tile_weight, tile_bias)
            for tokens in _tiles(len(hidden), TILE_TOKENS):
                logits = transform.apply_(_logits(hidden[tokens], tile_weight, tile_bias))
                log_sums[tokens] = torch.logaddexp(log_sums[tokens], torch.logsumexp(logits, dim=-1))
                places, is_here = _places(targets[tokens], words)
                found = logits.gather(1, places).squeeze(1)
                chosen[tokens] += torch.where(is_here, found, 0.0)
                for measured in beside.values():
                    measured.add_logits(logits, tokens)
        values = tuple(measured.result(len(weight), log_sums) for measured in beside.values())
        ctx.save_for_backward(hidden, weight, bias, targets, log_sums)
        ctx.transform = transform
        ctx.mark_non_differentiable(*values)
        return chosen - log_sums, *values

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, log_sums = ctx.saved_tensors
        transform = ctx.transform
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        wide = _wide(hidden)
        grad = grad.to(wide)
        grad_hidden = torch.zeros_like(hidden, dtype=wide) if needs_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=wide) if needs_weight else None
        grad_bias = torch.zeros_like(bias, dtype=wide) if needs_bias else None
        for words in _tiles(len(weight), TILE_VOCABULARY):
            tile_weight, tile_bias = weight[words].to(hidden.dtype), None if bias is None else bias[words]
            for tokens in _tiles(len(hidden), TILE_TOKENS):
                logits = transform.apply_(_logits(hidden[tokens], tile_weight, tile_bias))
                # d log softmax(z)[target] / dz = onehot(target) - softmax(z)
                slope = torch.exp(logits - log_sums[tokens, None]).mul_(-grad[tokens, None])
                places, is_here = _places(targets[tokens], words)
                slope.scatter_add_(1, places, torch.where(is_here, grad[tokens], 0.0)[:, None])
                slope = transform.pull_back_(slope, logits)
                if grad_bias is not None:
                    grad_bias[words] += slope.sum(dim=0)
                slope = slope.to(hidden.dtype)
                if grad_hidden is not None:
                    grad_hidden[tokens] += _product(slope, tile_weight)
                if grad_weight is not None:
                    grad_weight[words] += _product(slope.t(), hidden[tokens])
        return (
            None if grad_hidden is None else grad_hidden.to(hidden.dtype),
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None else grad_bias.to(bias.dtype),
            None,
            None,
            None,
        )


class _Measured:
    """A measure that is gathered while the tiles go by."""

    def __init__(self, measure: Measure, hidden: Tensor, transform: LogitTransform) -> None:
        self.measure, self.hidden, self.transform = measure, hidden, transform
        is_sum = measure is Measure.MEAN_LOGITS
        self.values = hidden.new_full((len(hidden),), 0.0 if is_sum else -torch.inf, dtype=_wide(hidden))  # (N,)
        # without a soft cap the mean of logits is the hidden state times the mean of the weight's rows
        self.is_linear = is_sum and transform.softcap is None
        self.weight_sum = hidden.new_zeros(hidden.shape[1], dtype=_wide(hidden))  # (H,)
        self.bias_sum = hidden.new_zeros((), dtype=_wide(hidden))

    def add_words(self, weight: Tensor, bias: Tensor | None) -> None:
        """Add a tile of the vocabulary."""
        if self.is_linear:
            self.weight_sum += weight.sum(dim=0, dtype=self.weight_sum.dtype)
            if bias is not None:
                self.bias_sum += bias.sum(dtype=self.bias_sum.dtype)

    def add_logits(self, logits: Tensor, tokens: slice) -> None:
        """Add a tile of logits."""
        if self.measure is Measure.LOG_SQUARES:
            doubled = torch.logsumexp(2 * logits, dim=-1)
            self.values[tokens] = torch.logaddexp(self.values[tokens], doubled)
        elif not self.is_linear:
            self.values[tokens] += logits.sum(dim=-1)

    def result(self, num_words: int, log_sums: Tensor) -> Tensor:
        """Give the measure of each token: (N,)."""
        if self.measure is Measure.LOG_SQUARES:
            return self.values - 2 * log_sums
        if self.is_linear:
            high = self.weight_sum.to(self.hidden.dtype)
            low = (self.weight_sum - high).to(self.hidden.dtype)  # what bfloat16 rounded off
            sums = _product(self.hidden, torch.stack([high, low], dim=1)).sum(dim=1) + self.bias_sum
            return self.transform.scale * sums / num_words
        return self.values / num_words


def _tiles(total: int, size: int) -> Iterator[slice]:
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    logits = _product(hidden, weight.t())
    return logits if bias is None else logits.add_(bias.to(logits.dtype))


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Multiply matrices into float32: the sums of low-precision products are never rounded to that precision."""
    if left.dtype in (torch.float32, torch.float64):
        return left @ right
    if left.is_cuda:
        return torch.mm(left, right, out_dtype=torch.float32)
    return left.float() @ right.float()


def _wide(hidden: Tensor) -> torch.dtype:
    """Give the type of sums: float32, but for hidden states that are wider themselves."""
    return torch.promote_types(hidden.dtype, torch.float32)


def _places(targets: Tensor, words: slice) -> tuple[Tensor, Tensor]:
    """Say where in the tile each target is (N, 1), and whether it is there at all (N,)."""
    places = targets - words.start
    is_here = (places >= 0) & (places < words.stop - words.start)
    return torch.where(is_here, places, 0)[:, None], is_here
