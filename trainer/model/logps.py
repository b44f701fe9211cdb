"""Log-probabilities of responses: the one thing that a loss is made of.

How they are computed (shared prompts, packed rows, a tiled head) is the scorer's affair; what a loss is given is this.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainer.model.batch import TokenRows, moved


@dataclass(frozen=True)
class ResponseLogps:
    """Log-probabilities of the trained tokens of some responses, in float32, response after response."""

    tokens: Tensor  # (N,)
    lengths: tuple[int, ...]  # (S,), trained tokens of each response; they sum up to N

    @property
    def per_response(self) -> tuple[Tensor, ...]:
        """Split into the responses."""
        return torch.split(self.tokens, list(self.lengths))

    @property
    def sums(self) -> Tensor:
        """Sum over each response's tokens: (S,)."""
        return torch.stack([tokens.sum() for tokens in self.per_response])

    @property
    def num_tokens(self) -> Tensor:
        """Count each response's tokens: (S,), at least 1, so that a mean can be taken."""
        return moved(torch.tensor(self.lengths), self.tokens.device).clamp(min=1)


def response_logps(scorer: Any, rows: TokenRows) -> ResponseLogps:
    """Compute the log-prob of each trained token of the rows."""
    return ResponseLogps(scorer(rows), rows.lengths)
