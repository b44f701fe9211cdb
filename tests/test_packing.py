"""Rows: every response once, none too long, as many for each process, and level."""

from collections import Counter
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.pairwise import random_group
from trainer.data.plan import PairRef, ResponseRef, Step
from trainer.data.tokenize import TokenizedGroup
from trainer.model.batch import token_rows
from trainer.model.packing import Fragment, Layout, Packer, Row, share
from trainer.run.rows import idle_notes

Pack = Callable[..., list[Row]]


def group_of(prompt: int, *lengths: int) -> TokenizedGroup:
    return random_group(prompt, lengths, [])


def refs_of(groups: Sequence[TokenizedGroup]) -> list[ResponseRef]:
    return [ResponseRef(number, place) for number, group in enumerate(groups) for place in range(len(group.responses))]


groups_strategy = st.lists(
    st.builds(
        lambda prompt, lengths: group_of(prompt, *lengths),
        st.integers(1, 20),
        st.lists(st.integers(1, 15), min_size=1, max_size=8),
    ),
    min_size=1,
    max_size=8,
)
methods = st.sampled_from([Packer.rows, Packer.windowed_rows])


def computed_tokens(packer: Packer, row: Row) -> int:
    """Count by laying the row out, padding included."""
    return token_rows(row, packer.groups, packer.layout).input_ids.numel()


@given(
    groups=groups_strategy,
    pack=methods,
    layout=st.sampled_from(Layout),
    room=st.integers(0, 60),
    num_processes=st.integers(1, 5),
    data=st.data(),
)
def test_rows_hold_every_response_once_and_no_row_too_much(
    groups: list[TokenizedGroup], pack: Pack, layout: Layout, room: int, num_processes: int, data: st.DataObject
) -> None:
    refs = data.draw(st.permutations(refs_of(groups)))
    refs = refs[: data.draw(st.integers(1, len(refs)))]  # a step needs some of the responses, in any order
    budget = 35 + room  # the longest prompt and response have 35
    packer = Packer(groups, layout, budget)
    rows = pack(packer, refs, num_processes=num_processes)
    assert Counter(ref for row in rows if not row.is_filler for ref in row.refs()) == Counter(refs)
    for row in rows:
        assert row.fragments
        assert packer.num_tokens(row) == computed_tokens(packer, row) <= budget
    # as many rows for each process, and the fillers, fewer than processes, behind all others
    shares = [share(rows, process=process, num_processes=num_processes) for process in range(num_processes)]
    assert {len(each) for each in shares} == {len(rows) // num_processes}
    fillers = [row.is_filler for row in rows]
    assert fillers == sorted(fillers)
    assert sum(fillers) < num_processes
    # a group stands in a row at most once, so that each row has one copy of its prompt
    for row in rows:
        members = [fragment.group for fragment in row.fragments]
        assert layout is Layout.ROWS or len(members) == len({*members}) or _is_split(packer, refs, row)
    # and so each time
    assert pack(Packer(groups, layout, budget), refs, num_processes=num_processes) == rows


def _is_split(packer: Packer, refs: Sequence[ResponseRef], row: Row) -> bool:
    """Say whether a group that stands in a row twice had to be split, being too large for one row."""
    members = Counter(fragment.group for fragment in row.fragments)
    twice = [group for group, count in members.items() if count > 1]
    return all(
        packer.size(Fragment(group, tuple(ref.response for ref in refs if ref.group == group))).tree_tokens
        > packer.max_tokens
        for group in twice
    )


@given(groups=groups_strategy, pack=methods, layout=st.sampled_from(Layout))
def test_what_fits_into_one_row_is_one_row(groups: list[TokenizedGroup], pack: Pack, layout: Layout) -> None:
    (row,) = pack(Packer(groups, layout, 100_000), refs_of(groups))
    assert len(row.fragments) == len(groups)


def test_nothing_to_pack_is_no_row() -> None:
    packer = Packer([group_of(3, 2)], Layout.TREE, 10)
    assert packer.rows([]) == packer.windowed_rows([]) == []


def test_a_group_too_large_for_a_row_repeats_its_prompt() -> None:
    """4 of prompt and 3 + 3 + 2 + 1 of responses are 13: in rows of 10, two pieces with the prompt in each."""
    groups = [group_of(4, 3, 1, 3, 2)]
    rows = Packer(groups, Layout.TREE, 10).rows(refs_of(groups))
    # by falling length: 3 and 3 fill a row of 10; 2 and 1 make the second, of 7
    assert [row.fragments for row in rows] == [(Fragment(0, (0, 2)),), (Fragment(0, (3, 1)),)]
    prompt = torch.tensor(groups[0].prompt)
    assert all(torch.equal(token_rows(row, groups, Layout.TREE).input_ids[0, :4], prompt) for row in rows)


def test_first_fit_decreasing_by_hand() -> None:
    """Groups of 6, 5, 4, 3, 2 tokens in rows of 10: 6 + 4 and 5 + 3 + 2."""
    groups = [group_of(1, length) for length in (2, 5, 1, 4, 3)]  # and 1 of prompt
    rows = Packer(groups, Layout.TREE, 10).windowed_rows(refs_of(groups))
    assert [[fragment.group for fragment in row.fragments] for row in rows] == [[1, 4], [3, 0, 2]]


def test_padding_counts_in_the_rows_layout() -> None:
    """Sequences of 9, 5 and 5 tokens are 27 when padded, too many for a row of 20: first-fit joins 9 and 5, padded to
    18; levelled, the two of 5 stand together."""
    groups = [group_of(4, 1), group_of(3, 2), group_of(4, 5)]
    packer = Packer(groups, Layout.ROWS, 20)
    assert [packer.num_tokens(row) for row in packer.windowed_rows(refs_of(groups))] == [18, 5]
    assert [packer.num_tokens(row) for row in packer.rows(refs_of(groups))] == [10, 9]


@given(num_processes=st.integers(2, 8), sizes=st.lists(st.integers(1, 20), min_size=30, max_size=60))
def test_the_load_is_level(num_processes: int, sizes: list[int]) -> None:
    """Rows that are computed side by side differ by one fragment at most, so that no process waits for long."""
    groups = [group_of(1, size) for size in sizes]
    packer = Packer(groups, Layout.TREE, 60)
    rows = packer.rows(refs_of(groups), num_processes=num_processes)
    if any(row.is_filler for row in rows):
        pytest.fail("there are more fragments than rows, so none has to be empty")
    loads = [packer.num_tokens(row) for row in rows]
    assert loads == sorted(loads, reverse=True)
    if max(loads) < 60 - 21:  # far from full, nothing stands in the way of levelling
        assert max(loads) - min(loads) <= 21


def test_levelling_by_hand() -> None:
    """First-fit would make rows of 10 and 3 tokens; on two processes that is a wait of 7."""
    groups = [group_of(1, length) for length in (3, 3, 1, 2)]  # 4 + 4 + 2 + 3 = 13
    packer = Packer(groups, Layout.TREE, 10)
    for num_processes in (1, 2):
        loads = [packer.num_tokens(row) for row in packer.rows(refs_of(groups), num_processes=num_processes)]
        assert loads == [7, 6]
    assert [packer.num_tokens(row) for row in packer.windowed_rows(refs_of(groups))] == [10, 3]


def test_a_filler_has_what_another_row_has() -> None:
    groups = [group_of(3, 4)]
    rows = Packer(groups, Layout.TREE, 10).rows(refs_of(groups), num_processes=3)
    assert [row.is_filler for row in rows] == [False, True, True]
    assert {row.fragments for row in rows} == {(Fragment(0, (0,)),)}


def test_windows_keep_like_with_like() -> None:
    """Of very many responses, those of one size are packed together, and a window is a bounded amount of work."""
    groups = [group_of(1 + number % 9, 1 + number * 7 % 13) for number in range(700)]
    packer = Packer(groups, Layout.ROWS, 60)
    rows = packer.windowed_rows(refs_of(groups))
    assert Counter(ref for row in rows for ref in row.refs()) == Counter(refs_of(groups))
    padded = sum(packer.num_tokens(row) for row in rows)
    tokens = sum(len(group.prompt) + len(group.responses[0].ids) for group in groups)
    assert padded < 1.05 * tokens


# What is laid out.


@given(groups=groups_strategy, layout=st.sampled_from(Layout), pads_to=st.sampled_from([1, 8, 128]))
def test_predictors_point_at_what_stands_before_each_trained_token(
    groups: list[TokenizedGroup], layout: Layout, pads_to: int
) -> None:
    """Of each trained token, its place, position and what stands before it, found independently of the layout."""
    masked = [random_group(len(g.prompt), [len(r.ids) for r in g.responses], [], masked=True) for g in groups]
    (row,) = Packer(masked, layout, 100_000).rows(refs_of(masked))
    rows = token_rows(row, masked, layout, pads_to=pads_to)
    assert rows.input_ids.shape == rows.position_ids.shape
    if layout is Layout.TREE:
        assert rows.input_ids.shape[1] % pads_to == 0
    ids, positions = rows.input_ids.flatten().tolist(), rows.position_ids.flatten().tolist()
    parts = zip(
        rows.responses, rows.predictors.split(list(rows.lengths)), rows.targets.split(list(rows.lengths)), strict=True
    )
    for ref, places, targets in parts:
        group, response = masked[ref.group], masked[ref.group].responses[ref.response]
        sequence = [*group.prompt, *response.ids]
        trained = [len(group.prompt) + place for place, is_trained in enumerate(response.loss_mask) if is_trained]
        assert targets.tolist() == [sequence[place] for place in trained]
        assert [ids[place] for place in places.tolist()] == [sequence[place - 1] for place in trained]
        assert [positions[place] for place in places.tolist()] == [place - 1 for place in trained]


def test_processes_without_work_are_told() -> None:
    """Two prompts of two responses each, 20 tokens: a row of 20 has one of them, a row of 10 one response."""
    groups = [random_group(10, (5, 5), [(0, 1)]) for _ in range(2)]
    step = Step(0, (PairRef(0, 0), PairRef(1, 0)))

    def told(row_tokens: int, num_processes: int) -> list[str]:
        return idle_notes(Packer(groups, Layout.TREE, row_tokens), [step], num_processes)

    (note,) = told(20, 8)
    assert note.startswith("the first step has work for 2 of 8 processes, the others only wait: ")
    assert told(20, 3) == told(20, 2) == told(20, 1) == told(15, 7) == []
    assert idle_notes(Packer(groups, Layout.TREE, 20), [], 8) == []
