"""The segment table of a row: which token may see which.

A row is a sequence of prompts, each followed by its responses. A response sees its prompt and what it wrote itself,
never another response, and its positions go on from the prompt's end, so that it is computed as if it stood behind its
prompt alone. Every mask, dense or by blocks, is made from this table.

Legend: `T` tokens of the row, `G` segments.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainer.data.tokenize import TokenizedGroup
from trainer.model.packing import Row

NO_PARENT = -1


class Segment(NamedTuple):
    """A prompt, or a response with its prompt as parent."""

    start: int
    end: int
    parent: int  # number of the segment that it sees beside itself, or NO_PARENT


@dataclass(frozen=True)
class SegmentTable:
    """The segments of a row, in order and without gaps."""

    segments: tuple[Segment, ...]

    @property
    def num_tokens(self) -> int:
        """Count the tokens of the row: T."""
        return self.segments[-1].end

    def padded(self, multiple: int) -> "SegmentTable":
        """Round the length up with a tail that sees itself alone, so that no softmax is empty."""
        tail = -self.num_tokens % multiple
        if not tail:
            return self
        return SegmentTable((*self.segments, Segment(self.num_tokens, self.num_tokens + tail, NO_PARENT)))

    def positions(self) -> NDArray[np.int64]:
        """Number the tokens from the start of their prompt: (T,)."""
        return np.concatenate([np.arange(one.end - one.start) + self.offset(one) for one in self.segments])

    def offset(self, segment: Segment) -> int:
        """Give the position of a segment's first token."""
        if segment.parent == NO_PARENT:
            return 0
        parent = self.segments[segment.parent]
        return parent.end - parent.start

    def owners(self) -> NDArray[np.int64]:
        """Give each token's segment: (T,)."""
        return np.repeat(np.arange(len(self.segments)), [one.end - one.start for one in self.segments])

    def parents(self) -> NDArray[np.int64]:
        """Give the parent of each token's segment: (T,)."""
        return np.array([one.parent for one in self.segments])[self.owners()]

    def num_visible(self, window: int | None = None) -> int:
        """Count the pairs of a token and one that it sees."""
        total = 0
        for segment in self.segments:
            reach = np.arange(1, segment.end - segment.start + 1) + self.offset(segment)  # itself and all before
            total += int((reach if window is None else np.minimum(reach, window)).sum())
        return total


def row_segments(row: Row, groups: Sequence[TokenizedGroup]) -> SegmentTable:
    """Lay out a row: each fragment's prompt, then its responses."""
    segments: list[Segment] = []
    for start, parent, length in _lengths(row, groups):
        segments.append(Segment(start, start + length, parent))
    return SegmentTable(tuple(segments))


def _lengths(row: Row, groups: Sequence[TokenizedGroup]) -> Iterator[tuple[int, int, int]]:
    """Yield start, parent and length of each segment."""
    start, number = 0, 0
    for fragment in row.fragments:
        group = groups[fragment.group]
        prompt = number
        yield start, NO_PARENT, len(group.prompt)
        start, number = start + len(group.prompt), number + 1
        for response in fragment.responses:
            length = len(group.responses[response].ids)
            yield start, prompt, length
            start, number = start + length, number + 1
