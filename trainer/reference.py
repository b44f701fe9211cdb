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
from trainer.tokenize import TokenizedGroup

ResponseRef = tuple[int, int]
"""A response, by the position of its group and its position in there."""


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
    responses = [(g, r) for g, group in enumerate(groups) for r in range(len(group.responses))]
    lengths = {(g, r): len(groups[g].responses[r]) for g, r in responses}
    ends = list(accumulate(lengths.values()))
    starts = {response: end - lengths[response] for response, end in zip(responses, ends, strict=True)}
    tokens = torch.zeros(ends[-1], device=accelerator.device)
    for batch, is_filler in _share(responses, groups, batch_size, accelerator):
        logps = response_logps(model, sequences_of(batch, groups).to(accelerator.device))
        if not is_filler:
            for response, values in zip(batch, logps.per_response, strict=True):
                tokens[starts[response] : starts[response] + len(values)] = values
        advance(len(batch) * accelerator.num_processes)
    # each value was filled in by one process and is 0 on the others, so the sum is the value itself
    tokens = accelerator.reduce(tokens, reduction="sum")
    return ReferenceLogps(tokens.cpu(), starts, lengths)


def _share(
    responses: Sequence[ResponseRef],
    groups: Sequence[TokenizedGroup],
    batch_size: int,
    accelerator: Accelerator,
) -> list[tuple[list[ResponseRef], bool]]:
    """Give the batches of this process, longest first, with fillers so that each process has as many."""
    by_length = sorted(responses, key=lambda ref: -len(groups[ref[0]].prompt) - len(groups[ref[0]].responses[ref[1]]))
    batches = [(by_length[start : start + batch_size], False) for start in range(0, len(by_length), batch_size)]
    missing = -len(batches) % accelerator.num_processes
    batches += [(batches[-1][0], True)] * missing
    return batches[accelerator.process_index :: accelerator.num_processes]
