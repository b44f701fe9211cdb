"""From packed rows to tensors.

Legend: `B` sequences, `T` tokens of each, `N` response tokens that are trained on, `S` responses, `P` pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.data.plan import PairRef, ResponseRef
from trainer.data.tokenize import TokenizedGroup
from trainer.model.packing import Layout, Row
from trainer.model.segments import SegmentTable, row_segments


@dataclass(frozen=True)
class TokenRows:
    """The tokens of a row, and where in them the trained tokens are predicted.

    In the tree layout B is 1 and `table` says what sees what; in the other layout each response has a sequence of its
    own, padded on the right, and `table` is None.
    """

    input_ids: Tensor  # (B, T)
    position_ids: Tensor  # (B, T)
    attention_mask: Tensor | None  # (B, T), 0 on padding; None in the tree layout
    table: SegmentTable | None
    predictors: Tensor  # (N,), places in the flattened (B * T) whose output predicts a trained token
    targets: Tensor  # (N,), those tokens, response after response
    responses: tuple[ResponseRef, ...]  # (S,)
    lengths: tuple[int, ...]  # (S,), trained tokens of each response; they sum up to N

    def to(self, device: torch.device) -> "TokenRows":
        """Move the tensors to a device."""
        return TokenRows(
            moved(self.input_ids, device),
            moved(self.position_ids, device),
            None if self.attention_mask is None else moved(self.attention_mask, device),
            self.table,
            moved(self.predictors, device),
            moved(self.targets, device),
            self.responses,
            self.lengths,
        )


@dataclass(frozen=True)
class PairBatch:
    """Some pairs as positions among the responses that they are made of."""

    chosen: Tensor  # (P,), positions in the responses
    rejected: Tensor  # (P,)
    weights: Tensor  # (P,), how much each pair counts
    sources: tuple[str, ...]  # (P,), file:line
    gaps: Tensor | None = None  # (P,), differences of rewards, normalised, where a loss needs them
    environments: Tensor | None = None  # (P,), numbers of the environments, where they are told apart

    def to(self, device: torch.device) -> "PairBatch":
        """Move the tensors to a device."""
        return PairBatch(
            moved(self.chosen, device),
            moved(self.rejected, device),
            moved(self.weights, device),
            self.sources,
            None if self.gaps is None else moved(self.gaps, device),
            None if self.environments is None else moved(self.environments, device),
        )


def token_rows(row: Row, groups: Sequence[TokenizedGroup], layout: Layout, *, pads_to: int = 1) -> TokenRows:
    """Lay out a row; in the tree layout its length is rounded up to a multiple of `pads_to`."""
    return _tree(row, groups, pads_to) if layout is Layout.TREE else _sequences(row, groups)


def pair_batch(
    pairs: Sequence[PairRef],
    groups: Sequence[TokenizedGroup],
    responses: Sequence[ResponseRef],
    weights: Sequence[float],
    *,
    gaps: Sequence[float] | None = None,
    environments: Sequence[int] | None = None,
) -> PairBatch:
    """Point the pairs at their responses."""
    places = {response: place for place, response in enumerate(responses)}
    members = [(reference.group, groups[reference.group].pairs[reference.pair]) for reference in pairs]
    return PairBatch(
        torch.tensor([places[ResponseRef(group, pair.chosen)] for group, pair in members], dtype=torch.long),
        torch.tensor([places[ResponseRef(group, pair.rejected)] for group, pair in members], dtype=torch.long),
        torch.tensor(weights, dtype=torch.float32),
        tuple(pair.source for _, pair in members),
        None if gaps is None else torch.tensor(gaps, dtype=torch.float32),
        None if environments is None else torch.tensor(environments, dtype=torch.long),
    )


def num_trained(group: TokenizedGroup, response: int) -> int:
    """Count the tokens of a response that are trained on."""
    return int(np.count_nonzero(np.asarray(group.responses[response].loss_mask)))


def _tree(row: Row, groups: Sequence[TokenizedGroup], pads_to: int) -> TokenRows:
    """Lay the fragments out one after the other, each prompt once."""
    ids: list[NDArray[np.int64]] = []
    predictors: list[NDArray[np.int64]] = []
    lengths: list[int] = []
    start = 0
    for fragment in row.fragments:
        group = groups[fragment.group]
        ids.append(_array(group.prompt))
        last_of_prompt = start + len(group.prompt) - 1
        start += len(group.prompt)
        for response in fragment.responses:
            tokens = group.responses[response]
            places = np.arange(start - 1, start - 1 + len(tokens.ids))
            places[0] = last_of_prompt  # of each response, the first token is predicted by the prompt's last
            ids.append(_array(tokens.ids))
            predictors.append(places[_array(tokens.loss_mask) > 0])
            lengths.append(len(predictors[-1]))
            start += len(tokens.ids)
    table = row_segments(row, groups).padded(pads_to)
    input_ids = np.zeros(table.num_tokens, dtype=np.int64)
    input_ids[:start] = np.concatenate(ids)
    return TokenRows(
        torch.from_numpy(input_ids)[None],
        torch.from_numpy(table.positions())[None],
        None,
        table,
        torch.from_numpy(np.concatenate(predictors)),
        _targets(row, groups),
        tuple(row.refs()),
        tuple(lengths),
    )


def _sequences(row: Row, groups: Sequence[TokenizedGroup]) -> TokenRows:
    """Lay each response out behind a prompt of its own, padded on the right."""
    members = [(groups[ref.group].prompt, groups[ref.group].responses[ref.response]) for ref in row.refs()]
    longest = max(len(prompt) + len(response.ids) for prompt, response in members)
    input_ids = np.zeros((len(members), longest), dtype=np.int64)  # (B, T)
    attention_mask = np.zeros((len(members), longest), dtype=np.int64)  # (B, T)
    predictors: list[NDArray[np.int64]] = []
    for number, (prompt, response) in enumerate(members):
        border, end = len(prompt), len(prompt) + len(response.ids)
        assert border  # else the response's first token would be predicted by the sequence before
        input_ids[number, :border] = prompt
        input_ids[number, border:end] = response.ids
        attention_mask[number, :end] = 1
        first = number * longest + border - 1
        predictors.append(first + np.flatnonzero(_array(response.loss_mask)))
    positions = np.broadcast_to(np.arange(longest), input_ids.shape).copy()
    return TokenRows(
        torch.from_numpy(input_ids),
        torch.from_numpy(positions),
        torch.from_numpy(attention_mask),
        None,
        torch.from_numpy(np.concatenate(predictors)),
        _targets(row, groups),
        tuple(row.refs()),
        tuple(map(len, predictors)),
    )


def _targets(row: Row, groups: Sequence[TokenizedGroup]) -> Tensor:
    """Give the trained tokens of all responses: (N,)."""
    responses = [groups[ref.group].responses[ref.response] for ref in row.refs()]
    return torch.from_numpy(
        np.concatenate([_array(response.ids)[_array(response.loss_mask) > 0] for response in responses])
    )


def _array(ids: Sequence[int]) -> NDArray[np.int64]:
    return np.asarray(ids, dtype=np.int64)


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to a device, without waiting where that is a GPU."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
