"""Attention masks of a row, made from its segment table: dense, additive, by blocks, by segments.

Legend: `T` tokens of the row, `W` sliding window, `Q` and `K` blocks of queries and keys.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from trainer.model.batch import moved
from trainer.model.segments import NO_PARENT, Segment, SegmentTable

BLOCK = 128
"""Tokens of a FlexAttention block; rows are padded to a multiple of it."""


def dense_mask(table: SegmentTable, window: int | None, device: torch.device) -> Tensor:
    """Say which token (row) sees which (column): (1, 1, T, T), bool. A window counts positions, not places."""
    owners = moved(torch.from_numpy(table.owners()), device)
    parents = moved(torch.from_numpy(table.parents()), device)
    positions = moved(torch.from_numpy(table.positions()), device)
    places = torch.arange(table.num_tokens, device=device)
    mask = _sees(owners, parents, positions, window)(places[:, None], places[None, :])
    return mask[None, None]


def additive_mask(table: SegmentTable, window: int | None, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Give the dense mask as what eager attention adds to its scores: 0, or the type's lowest value."""
    hidden = ~dense_mask(table, window, device)
    return torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, torch.finfo(dtype).min)


def _sees(owners: Tensor, parents: Tensor, positions: Tensor, window: int | None) -> Callable[[Tensor, Tensor], Tensor]:
    """Make the rule: not what comes later, only one's own segment and its parent, only within the window."""

    def sees(query: Tensor, key: Tensor) -> Tensor:
        is_related = (owners[query] == owners[key]) | (parents[query] == owners[key])
        is_near = query >= key if window is None else (query >= key) & (positions[query] - positions[key] < window)
        return is_related & is_near

    return sees


def block_mask(table: SegmentTable, window: int | None, device: torch.device) -> BlockMask:
    """Make FlexAttention's mask of a row whose length is a multiple of `BLOCK`, from blocks, never from T x T."""
    some, every = visible_blocks(table, window)
    owners = moved(torch.from_numpy(table.owners()), device)
    parents = moved(torch.from_numpy(table.parents()), device)
    positions = moved(torch.from_numpy(table.positions()), device)
    sees = _sees(owners, parents, positions, window)

    def mask_mod(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return sees(query, key)

    partial_counts, partial_indices = _block_lists(some & ~every, device)
    full_counts, full_indices = _block_lists(every, device)
    return BlockMask.from_kv_blocks(
        partial_counts,
        partial_indices,
        full_counts,
        full_indices,
        BLOCK_SIZE=BLOCK,
        mask_mod=mask_mod,
        seq_lengths=(table.num_tokens, table.num_tokens),
    )


def visible_blocks(table: SegmentTable, window: int | None) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Say of each block of queries and of keys whether a token of the one sees a token of the other, and whether each
    does: 2 x (Q, K). The first may say so in vain, the second never does."""
    num_blocks = table.num_tokens // BLOCK
    some = np.zeros((num_blocks, num_blocks), dtype=bool)
    seen = np.zeros((num_blocks, num_blocks), dtype=np.int64)  # queries of the block that see all of the keys' block
    for segment in table.segments:
        for block in range(segment.start // BLOCK, (segment.end - 1) // BLOCK + 1):
            first, last = max(segment.start, block * BLOCK), min(segment.end, (block + 1) * BLOCK) - 1
            for start, end in _seen_by_some(table, segment, first, last, window):
                some[block, start // BLOCK : (end - 1) // BLOCK + 1] |= start < end
            fully = np.zeros(num_blocks, dtype=bool)
            for start, end in _seen_by_all(table, segment, first, last, window):
                fully[-(-start // BLOCK) : max(end, 0) // BLOCK] = True
            seen[block, fully] += last - first + 1
    return some, seen == BLOCK


def _seen_by_some(
    table: SegmentTable, segment: Segment, first: int, last: int, window: int | None
) -> list[tuple[int, int]]:
    """Give the ranges of places that one of the tokens first to last of a segment sees."""
    reach = 0 if window is None else table.offset(segment) + first - segment.start - window + 1  # lowest position seen
    ranges = [(max(segment.start, segment.start + reach - table.offset(segment)), last + 1)]
    if segment.parent != NO_PARENT:
        parent = table.segments[segment.parent]
        ranges.append((parent.start + max(reach, 0), parent.end))
    return [(start, end) for start, end in ranges if start < end]


def _seen_by_all(
    table: SegmentTable, segment: Segment, first: int, last: int, window: int | None
) -> list[tuple[int, int]]:
    """Give the ranges of places that each of the tokens first to last of a segment sees: the last one's window goes
    least far back, the first one sees least of its own segment."""
    return _seen_by_some(table, segment, last, first, window)


def _block_lists(blocks: NDArray[np.bool_], device: torch.device) -> tuple[Tensor, Tensor]:
    """List for each block of queries its blocks of keys: counts (1, 1, Q) and indices (1, 1, Q, K)."""
    counts = blocks.sum(axis=1, dtype=np.int32)
    indices = np.argsort(~blocks, axis=1, kind="stable").astype(np.int32)
    return moved(torch.from_numpy(counts)[None, None], device), moved(torch.from_numpy(indices)[None, None], device)


@dataclass(frozen=True)
class SegmentQueries:
    """A segment of a row with what it sees: its parent's places, then its own."""

    segment: slice
    parent: slice
    mask: Tensor | None  # (queries, keys), bool; None where it is causal and nothing else


def segment_queries(table: SegmentTable, window: int | None, device: torch.device) -> tuple[SegmentQueries, ...]:
    """Cut a row into its segments, each with the mask for the keys that it sees at all."""
    return tuple(_segment_queries(table, segment, window, device) for segment in table.segments)


def _segment_queries(table: SegmentTable, segment: Segment, window: int | None, device: torch.device) -> SegmentQueries:
    offset, length = table.offset(segment), segment.end - segment.start
    parent = slice(0, 0) if segment.parent == NO_PARENT else slice(*table.segments[segment.parent][:2])
    if not offset and (window is None or window >= length):
        return SegmentQueries(slice(segment.start, segment.end), parent, None)
    query = torch.arange(offset, offset + length, device=device)[:, None]
    key = torch.arange(offset + length, device=device)[None, :]
    mask = key <= query
    if window is not None:
        mask &= query - key < window
    return SegmentQueries(slice(segment.start, segment.end), parent, mask)


def carrier(queries: tuple[SegmentQueries, ...]) -> Tensor:
    """Wrap segments in what transformers takes for a finished mask and hands on as it is: a tensor of four dimensions.

    It has no content of its own; `segment_attention` reads the segments off it.
    """
    mask: Any = torch.zeros(1, 1, 1, 1, dtype=torch.bool)
    mask.segment_queries = queries
    return mask  # type: ignore[no-any-return]
