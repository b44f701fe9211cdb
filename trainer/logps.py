"""Log-probabilities of responses: the one thing that a loss is made of.

How they are computed may change (packed, shared prompts, tiled head); what a loss is given does not.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from trainer.batch import Sequences


@dataclass(frozen=True)
class ResponseLogps:
    """Log-probabilities of the tokens of some responses, in float32, response after response."""

    tokens: Tensor  # (N,)
    lengths: tuple[int, ...]  # (S,), tokens of each response; they sum up to N

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
        return torch.tensor(self.lengths, device=self.tokens.device).clamp(min=1)


def response_logps(model: Any, sequences: Sequences) -> ResponseLogps:
    """Compute the log-probability of each response token under the model.

    Padding stands on the right, so causal attention keeps it from every token that counts. Only the outputs that
    predict a response token go through the softmax, which is taken in float32 whatever the model computes in.
    """
    outputs = model(
        input_ids=sequences.input_ids,  # (S, T)
        attention_mask=sequences.attention_mask,
        use_cache=False,
    )
    logits = outputs.logits.flatten(0, 1)[sequences.predictors]  # (S, T, V) -> (N, V)
    logps = -cross_entropy(logits.float(), sequences.targets, reduction="none")  # (N,)
    return ResponseLogps(logps, sequences.lengths)
