"""Log-probs of the reference policy, by the same code, precision and layout as the policy's.

Cached: computed once for each distinct response before training starts, and kept on disk for other runs. Without a
reference of its own a run compares the policy with its own start, so that needs no second model. Online: computed in
each step by a second model. None: zero, for losses without a reference.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from schemas.errors import DpoError
from trainer.data.plan import ResponseRef
from trainer.data.tokenize import TokenizedGroup
from trainer.model.batch import TokenRows, num_trained, token_rows
from trainer.model.logps import ResponseLogps, response_logps
from trainer.model.packing import Packer, share
from trainer.model.reference_cache import ReferenceCache

TOKENS_PER_REDUCTION = 1 << 24
"""All processes exchange the log-probs in pieces, so that a device never holds those of the whole data."""


class Reference(Protocol):
    """Gives the reference log-probs of the trained tokens of rows."""

    def of(self, rows: TokenRows) -> ResponseLogps:
        """Give the log-probs, without gradient, on the rows' device."""
        ...


@dataclass(frozen=True)
class CachedReference:
    """The reference log-prob of every trained token of the data, on the CPU."""

    tokens: Tensor  # (all trained tokens,), float32
    index: "ResponseIndex"
    num_from_cache: int = 0  # responses that were not computed
    cache_problem: str = ""  # why they were not kept for other runs, where that failed

    def of(self, rows: TokenRows) -> ResponseLogps:
        """Look the log-probs up."""
        parts = [self.tokens[self.index.span(response)] for response in rows.responses]
        return ResponseLogps(torch.cat(parts).to(rows.input_ids.device, non_blocking=True), rows.lengths)


@dataclass(frozen=True)
class OnlineReference:
    """A second model that computes the log-probs when they are needed."""

    scorer: Any

    @torch.no_grad()
    def of(self, rows: TokenRows) -> ResponseLogps:
        """Compute the log-probs."""
        return response_logps(self.scorer, rows)


class NoReference:
    """What losses without a reference are given."""

    def of(self, rows: TokenRows) -> ResponseLogps:
        """Give zeros, so that a log-ratio is a log-prob."""
        return ResponseLogps(torch.zeros(len(rows.targets), device=rows.targets.device), rows.lengths)


class ResponseIndex:
    """Numbers all responses of the data, and says where each one's trained tokens lie among those of all."""

    def __init__(self, groups: Sequence[TokenizedGroup]) -> None:
        self.refs = [ResponseRef(g, r) for g, group in enumerate(groups) for r in range(len(group.responses))]
        self._first = np.cumsum([0, *(len(group.responses) for group in groups)])  # number of each group's first
        self._ends: NDArray[np.int64] = np.cumsum([num_trained(groups[ref.group], ref.response) for ref in self.refs])

    @property
    def num_tokens(self) -> int:
        """Count the trained tokens of all responses."""
        return int(self._ends[-1])

    def number(self, ref: ResponseRef) -> int:
        """Give a response's number."""
        return int(self._first[ref.group]) + ref.response

    def span(self, ref: ResponseRef) -> slice:
        """Give the place of a response's trained tokens."""
        number = self.number(ref)
        return slice(int(self._ends[number - 1]) if number else 0, int(self._ends[number]))


@torch.no_grad()
def compute_reference(
    scorer: Any,
    packer: Packer,
    accelerator: Accelerator,
    *,
    cache: ReferenceCache | None = None,
    pads_to: int = 1,
    advance: Callable[[int], None] = lambda amount: None,
) -> CachedReference:
    """Compute the log-probs of all responses but those in the cache, each process its share, and give all of them to
    every process."""
    groups = packer.groups
    index = ResponseIndex(groups)
    tokens = torch.zeros(index.num_tokens)
    is_known = torch.zeros(len(index.refs))
    if cache is not None and accelerator.is_main_process:
        for ref, known in cache.load(index.refs, groups):
            tokens[index.span(ref)] = torch.from_numpy(known)
            is_known[index.number(ref)] = 1
    is_known = accelerator.reduce(is_known.to(accelerator.device), reduction="sum").cpu()
    missing = [ref for ref in index.refs if not is_known[index.number(ref)]]
    advance(len(index.refs) - len(missing))
    num_processes = accelerator.num_processes
    rows = packer.windowed_rows(missing, num_processes=num_processes)
    for row in share(rows, process=accelerator.process_index, num_processes=num_processes):
        batch = token_rows(row, groups, packer.layout, pads_to=pads_to).to(accelerator.device)
        logps = response_logps(scorer, batch)
        if not row.is_filler:
            for ref, values in zip(batch.responses, torch.split(logps.tokens.cpu(), list(batch.lengths)), strict=True):
                tokens[index.span(ref)] = values
        advance(len(batch.responses) * num_processes)
    reference = CachedReference(_gathered(tokens, accelerator), index, len(index.refs) - len(missing))
    if cache is not None and accelerator.is_main_process and missing:
        try:
            cache.store(((ref, reference.tokens[index.span(ref)].numpy()) for ref in missing), groups)
        except DpoError as error:  # hours of work are at hand, and other runs only lose time
            return replace(reference, cache_problem=str(error))
    return reference


def _gathered(tokens: Tensor, accelerator: Accelerator) -> Tensor:
    """Add up what the processes have: each value is there on one of them and 0 on the others."""
    pieces = [
        accelerator.reduce(piece.to(accelerator.device), reduction="sum").cpu()
        for piece in torch.split(tokens, TOKENS_PER_REDUCTION)
    ]
    return torch.cat(pieces)
