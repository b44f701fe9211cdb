"""Log-probabilities of responses: the one thing that a loss is made of.

How they are computed (shared prompts, packed rows, a tiled head) is the scorer's affair; what a loss is given is this.

Legend: `S` responses, `N` their trained tokens, `K` values of each token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainer.model.batch import TokenRows, moved
from trainer.model.head import Measure


@dataclass(frozen=True)
class ResponseLogps:
    """Log-probabilities of the trained tokens of some responses, in float32, response after response."""

    tokens: Tensor  # (N,)
    lengths: tuple[int, ...]  # (S,), trained tokens of each response; they sum up to N
    mean_logits: Tensor | None = None  # (N,), without gradient: the mean over the vocabulary
    log_squares: Tensor | None = None  # (N,), without gradient: log sum_v p(v)^2

    @property
    def per_response(self) -> tuple[Tensor, ...]:
        """Split into the responses."""
        return torch.split(self.tokens, list(self.lengths))

    @property
    def sums(self) -> Tensor:
        """Sum over each response's tokens: (S,)."""
        return self.response_sums(self.tokens[None])[0]

    def response_sums(self, values: Tensor) -> Tensor:
        """Sum values of the tokens, laid out as these are, over each response: (K, N) -> (K, S)."""
        parts = torch.split(values, list(self.lengths), dim=1)
        return torch.stack([part.sum(dim=1) for part in parts], dim=1)

    @property
    def num_tokens(self) -> Tensor:
        """Count each response's tokens: (S,), at least 1, so that a mean can be taken."""
        return moved(torch.tensor(self.lengths), self.tokens.device).clamp(min=1)

    @property
    def measured(self) -> Tensor:
        """Give the log-probs and what was measured beside them: (K, N)."""
        beside = [each for each in (self.mean_logits, self.log_squares) if each is not None]
        return torch.stack([self.tokens, *beside])


def response_logps(scorer: Any, rows: TokenRows, measures: Sequence[Measure] = ()) -> ResponseLogps:
    """Compute the log-prob of each trained token of the rows, and what else is to be measured of it."""
    if not measures:
        return ResponseLogps(scorer(rows), rows.lengths)
    return with_measures(scorer(rows, tuple(measures)), rows.lengths, measures)


def with_measures(values: Tensor, lengths: tuple[int, ...], measures: Sequence[Measure]) -> ResponseLogps:
    """Name the rows of (K, N): the log-probs, then the measures in their order."""
    beside = {measure.value: row.detach() for measure, row in zip(measures, values[1:], strict=True)}
    return ResponseLogps(values[0], lengths, **beside)
