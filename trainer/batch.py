"""From planned pairs to tensors: each distinct response of a micro-batch is one row, prompt first.

Legend: `S` sequences (distinct responses), `T` tokens of the longest, `N` response tokens of all rows, `B` pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.plan import PairRef, ResponseRef
from trainer.tokenize import TokenizedGroup


@dataclass(frozen=True)
class Sequences:
    """Padded rows of prompt and response, and where in them the response tokens are predicted."""

    input_ids: Tensor  # (S, T), padded on the right with 0
    attention_mask: Tensor  # (S, T), 0 on padding
    predictors: Tensor  # (N,), places in the flattened (S * T) whose output predicts a response token
    targets: Tensor  # (N,), those response tokens, row after row
    lengths: tuple[int, ...]  # (S,), response tokens of each row; they sum up to N

    def to(self, device: torch.device) -> "Sequences":
        """Move the tensors to a device."""
        return Sequences(
            self.input_ids.to(device, non_blocking=True),
            self.attention_mask.to(device, non_blocking=True),
            self.predictors.to(device, non_blocking=True),
            self.targets.to(device, non_blocking=True),
            self.lengths,
        )


@dataclass(frozen=True)
class PairBatch:
    """The responses of some pairs, each once, and the pairs as positions among them."""

    responses: tuple[ResponseRef, ...]  # (S,)
    chosen: Tensor  # (B,), positions in `responses`
    rejected: Tensor  # (B,)
    sources: tuple[str, ...]  # (B,), file:line


def pair_batch(pairs: Sequence[PairRef], groups: Sequence[TokenizedGroup]) -> PairBatch:
    """Name each response that the pairs need once."""
    rows: dict[ResponseRef, int] = {}
    chosen, rejected, sources = [], [], []
    for reference in pairs:
        pair = groups[reference.group].pairs[reference.pair]
        chosen.append(rows.setdefault(ResponseRef(reference.group, pair.chosen), len(rows)))
        rejected.append(rows.setdefault(ResponseRef(reference.group, pair.rejected), len(rows)))
        sources.append(pair.source)
    return PairBatch(tuple(rows), torch.tensor(chosen), torch.tensor(rejected), tuple(sources))


def sequences_of(responses: Sequence[ResponseRef], groups: Sequence[TokenizedGroup]) -> Sequences:
    """Lay responses out behind their prompts, one row each."""
    rows = [(groups[group].prompt, groups[group].responses[position]) for group, position in responses]
    longest = max(len(prompt) + len(response) for prompt, response in rows)
    input_ids = torch.zeros(len(rows), longest, dtype=torch.long)  # (S, T)
    attention_mask = torch.zeros(len(rows), longest, dtype=torch.long)  # (S, T)
    predictors: list[int] = []
    targets: list[int] = []
    for row, (prompt, response) in enumerate(rows):
        length = len(prompt) + len(response)
        assert prompt  # else the response's first token would be predicted by the row before
        input_ids[row, :length] = torch.tensor(prompt + response)
        attention_mask[row, :length] = 1
        first = row * longest + len(prompt) - 1  # the prompt's last token predicts the response's first
        predictors += range(first, first + len(response))
        targets += response
    lengths = tuple(len(response) for _, response in rows)
    return Sequences(
        input_ids,
        attention_mask,
        torch.tensor(predictors, dtype=torch.long),
        torch.tensor(targets, dtype=torch.long),
        lengths,
    )
