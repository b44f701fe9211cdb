"""Log-probs of the reference policy, by the same code, precision and layout as the policy's.

Cached: computed once for each distinct response before training starts, and kept on disk for other runs. Without a
reference of its own a run compares the policy with its own start, so that needs no second model. Online: computed in
each step by a second model. None: zero, for losses without a reference.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
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
from trainer.model.packing import Packer, Row, share
from trainer.model.reference_cache import ReferenceCache, plan_digest, response_keys

TOKENS_PER_REDUCTION = 1 << 24
"""All processes exchange the log-probs in pieces, so that a device never holds those of the whole data."""

STORE_SECONDS = 300
"""How much work an interruption may cost; each piece is a file in the cache."""

ROWS_PER_LOOK = 8
"""After how many rows of each process they agree on whether so much time has passed."""


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
    """Numbers the distinct responses of the data, and says where each one's trained tokens lie among those of all.

    Responses are the same where a model can't tell them apart: two prompts may differ in what no token shows. They
    have one log-prob then, as they have in the cache.
    """

    def __init__(self, groups: Sequence[TokenizedGroup]) -> None:
        self._first_of_group = np.cumsum([0, *(len(group.responses) for group in groups)])
        self._numbers: list[int] = []  # of each response
        self.refs: list[ResponseRef] = []  # the first of each number
        numbers: dict[bytes, int] = {}
        for place, group in enumerate(groups):
            for response, key in enumerate(response_keys(group)):
                if key not in numbers:
                    numbers[key] = len(self.refs)
                    self.refs.append(ResponseRef(place, response))
                self._numbers.append(numbers[key])
        self.keys = list(numbers)
        self.lengths = [num_trained(groups[ref.group], ref.response) for ref in self.refs]
        self._ends: NDArray[np.int64] = np.cumsum([0, *self.lengths])

    @property
    def num_responses(self) -> int:
        """Count all responses, the same ones too."""
        return len(self._numbers)

    @property
    def num_tokens(self) -> int:
        """Count the trained tokens of the distinct responses."""
        return int(self._ends[-1])

    def number(self, ref: ResponseRef) -> int:
        """Give a response's number."""
        return self._numbers[int(self._first_of_group[ref.group]) + ref.response]

    def span(self, ref: ResponseRef) -> slice:
        """Give the place of a response's trained tokens."""
        return self.span_of(self.number(ref))

    def span_of(self, number: int) -> slice:
        """Give the place of the trained tokens of the responses with a number."""
        return slice(int(self._ends[number]), int(self._ends[number + 1]))


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
    every process.

    The main process alone has a cache. It is given what is done every few minutes, so that a pass that was interrupted
    goes on from there. Rounding hangs on what else is in a row; so the rows are those of an uninterrupted pass,
    whatever of them is done, and what was once kept is not replaced.
    """
    index = ResponseIndex(packer.groups)
    store = _Store(cache, index, plan_digest(index.keys, packer.max_tokens))
    tokens, origins = store.load(accelerator)
    missing = {number for number, origin in enumerate(origins) if origin is _Origin.MISSING}
    advance(index.num_responses - len(missing))
    rows = _rows_to_compute(packer, index, origins, accelerator.num_processes)
    num_rows = num_exchanged = 0
    for row in share(rows, process=accelerator.process_index, num_processes=accelerator.num_processes):
        batch = token_rows(row, packer.groups, packer.layout, pads_to=pads_to).to(accelerator.device)
        logps = response_logps(scorer, batch).tokens.cpu()
        for ref, values in zip(batch.responses, torch.split(logps, list(batch.lengths)), strict=True):
            if index.number(ref) in missing and not row.is_filler:
                tokens[index.span(ref)] = values
        num_rows += accelerator.num_processes
        advance(len(batch.responses) * accelerator.num_processes)
        if num_rows == len(rows) or store.is_due(num_rows, accelerator):
            refs = [ref for one in rows[num_exchanged:num_rows] if not one.is_filler for ref in one.refs()]
            numbers = [number for number in map(index.number, refs) if number in missing]
            _exchange(tokens, index, numbers, accelerator)
            store.add(tokens, numbers)
            num_exchanged = num_rows
    return CachedReference(tokens, index, len(index.refs) - len(missing), store.problem)


class _Origin(IntEnum):
    """Where a response's log-probs are from before the pass starts."""

    MISSING = 0
    OWN_ROWS = 1  # this very pass, before it was interrupted
    OTHER_ROWS = 2  # other data, or rows of other lengths


def _rows_to_compute(packer: Packer, index: ResponseIndex, origins: Sequence[_Origin], num_processes: int) -> list[Row]:
    """Pack what other passes have not computed, and leave out the rows that this one has; as many for each process."""
    own = [ref for ref, origin in zip(index.refs, origins, strict=True) if origin is not _Origin.OTHER_ROWS]
    missing = {ref for ref, origin in zip(index.refs, origins, strict=True) if origin is _Origin.MISSING}
    rows = [row for row in packer.windowed_rows(own) if not missing.isdisjoint(row.refs())]
    return rows + [replace(row, is_filler=True) for row in rows[-1:] * (-len(rows) % num_processes)]


class _Store:
    """Reads the cache, and adds to it piece by piece; without one, on the other processes, it does nothing.

    What can't be written is tried again with the next piece: hours of work are at hand, and only other runs lose time.
    """

    def __init__(self, cache: ReferenceCache | None, index: ResponseIndex, plan: str) -> None:
        self.cache = cache
        self.index = index
        self.plan = plan
        self.problem = ""  # why not all was written
        self._unwritten: list[int] = []  # numbers of responses
        self._last = time.monotonic()

    def load(self, accelerator: Accelerator) -> tuple[Tensor, list[_Origin]]:
        """Give every process what is in the cache: all trained tokens, 0 where they are missing, and their origins."""
        index = self.index
        tokens = torch.zeros(index.num_tokens)
        origins = torch.full((len(index.refs),), _Origin.MISSING, dtype=torch.int32)
        if self.cache is not None:
            numbers = {key: number for number, key in enumerate(index.keys)}
            for found in self.cache.load(dict(zip(index.keys, index.lengths, strict=True)), plan=self.plan):
                number = numbers[found.key]
                tokens[index.span_of(number)] = torch.from_numpy(found.logps)
                origins[number] = _Origin.OWN_ROWS if found.is_of_plan else _Origin.OTHER_ROWS
        origins = accelerator.reduce(origins.to(accelerator.device), reduction="sum").cpu()
        _exchange(tokens, index, origins.nonzero().flatten().tolist(), accelerator)
        return tokens, [_Origin(origin) for origin in origins.tolist()]

    def is_due(self, num_rows: int, accelerator: Accelerator) -> bool:
        """Say whether it is time to store, on all processes alike: the main one's clock decides."""
        if num_rows % (ROWS_PER_LOOK * accelerator.num_processes):
            return False
        is_due = self.cache is not None and time.monotonic() - self._last >= STORE_SECONDS
        answer = torch.tensor(int(is_due), device=accelerator.device)
        return bool(accelerator.reduce(answer, reduction="sum"))

    def add(self, tokens: Tensor, numbers: Sequence[int]) -> None:
        """Add the log-probs of some responses."""
        self._last = time.monotonic()
        if self.cache is None:
            return
        self._unwritten += numbers
        keys, spans = self.index.keys, self.index.span_of
        try:
            self.cache.store(((keys[each], tokens[spans(each)].numpy()) for each in self._unwritten), plan=self.plan)
        except DpoError as error:
            self.problem = str(error)
        else:
            self.problem, self._unwritten = "", []


def _exchange(tokens: Tensor, index: ResponseIndex, numbers: Sequence[int], accelerator: Accelerator) -> None:
    """Give every process the log-probs of some responses: each is there on one of them, and 0 on the others."""
    if accelerator.num_processes == 1 or not numbers:
        return
    parts = [tokens[index.span_of(number)] for number in numbers]  # views
    pieces = [
        accelerator.reduce(piece.to(accelerator.device), reduction="sum").cpu()
        for piece in torch.split(torch.cat(parts), TOKENS_PER_REDUCTION)
    ]
    for part, values in zip(parts, torch.split(torch.cat(pieces), list(map(len, parts))), strict=True):
        part.copy_(values)
