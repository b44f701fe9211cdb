"""Log-probs of the reference policy: computed once for each distinct response, before training starts.

The reference is the start policy, so it needs no second model: its log-probs are taken from the same weights, through
the same forward pass, before the first update.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from trainer.batch import sequences_of
from trainer.logps import ResponseLogps, response_logps
from trainer.plan import ResponseRef, chunked, share
from trainer.tokenize import TokenizedGroup

TOKENS_PER_REDUCTION = 1 << 24
"""All processes exchange the log-probs in pieces, so that a device never holds those of the whole data."""


@dataclass(frozen=True)
class ReferenceLogps:
    """The reference log-prob of every response token of the data, on the CPU."""

    tokens: Tensor  # (all response tokens,), float32
    starts: dict[ResponseRef, int]
    lengths: dict[ResponseRef, int]

    def of(self, responses: Sequence[ResponseRef], device: torch.device) -> ResponseLogps:
        """Give the log-probs of some responses, on a device."""
        lengths = tuple(self.lengths[response] for response in responses)
        parts = [
            self.tokens[self.starts[response] : self.starts[response] + length]
            for response, length in zip(responses, lengths, strict=True)
        ]
        return ResponseLogps(torch.cat(parts).to(device, non_blocking=True), lengths)


@torch.no_grad()
def compute_reference(
    model: Any,
    groups: Sequence[TokenizedGroup],
    accelerator: Accelerator,
    *,
    batch_size: int,
    advance: Callable[[int], None] = lambda amount: None,
) -> ReferenceLogps:
    """Compute the log-probs of all responses, each process its share, and give every process all of them."""
    responses = [ResponseRef(g, r) for g, group in enumerate(groups) for r in range(len(group.responses))]
    lengths = {ref: len(groups[ref.group].responses[ref.response]) for ref in responses}
    ends = list(accumulate(lengths.values()))
    starts = {ref: end - lengths[ref] for ref, end in zip(responses, ends, strict=True)}
    tokens = torch.zeros(ends[-1])
    longest_first = sorted(responses, key=lambda ref: -len(groups[ref.group].prompt) - lengths[ref])
    batches = share(
        chunked(longest_first, batch_size),
        process=accelerator.process_index,
        num_processes=accelerator.num_processes,
    )
    for batch, is_filler in batches:
        logps = response_logps(model, sequences_of(batch, groups).to(accelerator.device))
        if not is_filler:
            for ref, values in zip(batch, logps.per_response, strict=True):
                tokens[starts[ref] : starts[ref] + len(values)] = values
        advance(len(batch) * accelerator.num_processes)
    return ReferenceLogps(_gathered(tokens, accelerator), starts, lengths)


def _gathered(tokens: Tensor, accelerator: Accelerator) -> Tensor:
    """Add up what the processes computed: each value is there on one of them and 0 on the others."""
    pieces = [
        accelerator.reduce(piece.to(accelerator.device), reduction="sum").cpu()
        for piece in torch.split(tokens, TOKENS_PER_REDUCTION)
    ]
    return torch.cat(pieces)
