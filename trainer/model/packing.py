"""From the responses of a step to rows: prompt once, responses behind it, several groups in a row, no padding.

A row is what a process computes at once (a micro-batch). Rows are made for all processes at once, deterministically,
so that each process has the same number of them, which the collectives of distributed training need, and about the
same number of tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from trainer.data.plan import ResponseRef
from trainer.data.tokenize import TokenizedGroup

WINDOW = 256
"""Fragments that are packed against one another where there is no end of them, as in the reference pass."""


class Layout(StrEnum):
    """How the responses of a prompt lie in memory."""

    TREE = "tree"  # the prompt once, its responses behind it, all groups in one sequence
    ROWS = "rows"  # each response behind a prompt of its own, in a padded sequence of its own


class Fragment(NamedTuple):
    """Responses of one group that are computed together, behind one copy of their prompt."""

    group: int
    responses: tuple[int, ...]  # positions in the group

    def refs(self) -> list[ResponseRef]:
        """Name the responses."""
        return [ResponseRef(self.group, response) for response in self.responses]


@dataclass(frozen=True)
class Row:
    """What one process computes at once. A filler is there for its collectives and counts for nothing."""

    fragments: tuple[Fragment, ...]
    is_filler: bool = False

    def refs(self) -> list[ResponseRef]:
        """Name the responses of the row, in the order in which they lie."""
        return [ref for fragment in self.fragments for ref in fragment.refs()]


class Size(NamedTuple):
    """How large some responses lie in a row."""

    num_responses: int
    longest: int  # tokens of prompt and response together
    tree_tokens: int  # tokens of each prompt once and of all responses

    def plus(self, other: "Size") -> "Size":
        """Add other groups to the row."""
        return Size(
            self.num_responses + other.num_responses,
            max(self.longest, other.longest),
            self.tree_tokens + other.tree_tokens,
        )

    def tokens(self, layout: Layout) -> int:
        """Count the tokens that a model computes, padding included."""
        return self.tree_tokens if layout is Layout.TREE else self.num_responses * self.longest


class _Bin:
    """A row that is being filled."""

    def __init__(self) -> None:
        self.fragments: list[Fragment] = []
        self.size = Size(0, 0, 0)

    def add(self, fragment: Fragment, size: Size) -> None:
        self.fragments.append(fragment)
        self.size = self.size.plus(size)


@dataclass(frozen=True)
class Packer:
    """Packs responses into rows of at most `max_tokens` tokens; a response with its prompt must fit into one."""

    groups: Sequence[TokenizedGroup]
    layout: Layout
    max_tokens: int

    def rows(self, responses: Sequence[ResponseRef], *, num_processes: int = 1) -> list[Row]:
        """Pack responses, the largest fragments first; the number of rows is a multiple of the processes."""
        fragments = self._fragments(responses)
        bins = self._first_fit(fragments)
        num_rows = -(-len(bins) // num_processes) * num_processes
        bins = self._levelled(fragments, num_rows) or bins
        return self._filled_up(bins, num_rows)

    def windowed_rows(self, responses: Sequence[ResponseRef], *, num_processes: int = 1) -> list[Row]:
        """Pack very many responses: those of about one size together, a window at a time."""
        fragments = self._fragments(responses)
        bins: list[_Bin] = []
        for start in range(0, len(fragments), WINDOW):
            bins += self._first_fit(fragments[start : start + WINDOW])
        return self._filled_up(bins, -(-len(bins) // num_processes) * num_processes)

    def size(self, fragment: Fragment) -> Size:
        """Measure a fragment."""
        group = self.groups[fragment.group]
        lengths = [len(group.responses[response].ids) for response in fragment.responses]
        return Size(len(lengths), len(group.prompt) + max(lengths), len(group.prompt) + sum(lengths))

    def num_tokens(self, row: Row) -> int:
        """Count the tokens that a row makes a model compute, padding included."""
        size = Size(0, 0, 0)
        for fragment in row.fragments:
            size = size.plus(self.size(fragment))
        return size.tokens(self.layout)

    def _filled_up(self, bins: list[_Bin], num_rows: int) -> list[Row]:
        bins = sorted(bins, key=lambda one: -one.size.tokens(self.layout))
        rows = [Row(tuple(one.fragments)) for one in bins]
        return rows + [Row(rows[-1].fragments, is_filler=True) for _ in range(num_rows - len(rows))]

    def _fragments(self, responses: Sequence[ResponseRef]) -> list[tuple[Fragment, Size]]:
        """Gather the responses by group, split what does not fit into a row, and sort by falling size."""
        members: dict[int, list[int]] = {}
        for group, response in responses:
            members.setdefault(group, []).append(response)
        sized = [
            (piece, self.size(piece))
            for group, positions in members.items()
            for piece in self._split(Fragment(group, tuple(positions)))
        ]
        return sorted(sized, key=lambda one: -one[1].tokens(self.layout))

    def _split(self, whole: Fragment) -> list[Fragment]:
        if self._fits(self.size(whole)):
            return [whole]
        group = whole.group
        singles = sorted((Fragment(group, (one,)) for one in whole.responses), key=lambda one: -self.size(one).longest)
        pieces: list[Fragment] = []
        for single in singles:
            for place, piece in enumerate(pieces):
                joined = Fragment(group, (*piece.responses, *single.responses))
                if self._fits(self.size(joined)):
                    pieces[place] = joined
                    break
            else:
                pieces.append(single)
        return pieces

    def _fits(self, size: Size) -> bool:
        return size.tokens(self.layout) <= self.max_tokens

    def _first_fit(self, fragments: Sequence[tuple[Fragment, Size]]) -> list[_Bin]:
        """Put each fragment into the first row that has room (first-fit decreasing, as they come sorted)."""
        bins: list[_Bin] = []
        for fragment, size in fragments:
            room = next((one for one in bins if self._fits(one.size.plus(size))), None)
            if room is None:
                room = _Bin()
                bins.append(room)
            room.add(fragment, size)
        return bins

    def _levelled(self, fragments: Sequence[tuple[Fragment, Size]], num_rows: int) -> list[_Bin] | None:
        """Spread the fragments evenly over so many rows, each to the emptiest; None where that overfills one."""
        if len(fragments) < num_rows:
            return None
        bins = [_Bin() for _ in range(num_rows)]
        for fragment, size in fragments:
            emptiest = min(bins, key=lambda one: one.size.tokens(self.layout))
            emptiest.add(fragment, size)
            if not self._fits(emptiest.size):
                return None
        return bins


def share(rows: Sequence[Row], *, process: int, num_processes: int) -> list[Row]:
    """Give one process its rows; side by side, the processes have rows of about one length."""
    return list(rows[process::num_processes])
