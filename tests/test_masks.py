"""Masks: dense, additive, by blocks and by segments, all against one definition written down by itself."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import BloomConfig, GPTNeoConfig, MptConfig

from schemas.errors import UsageError
from tests.architectures import HYBRID, SHARING, WINDOW, build
from tests.pairwise import CPU, all_pairs, random_group
from trainer.data.tokenize import TokenizedGroup
from trainer.model.attention import FULL, SLIDING, Attention, Backend, choose_attention, shared_windows
from trainer.model.batch import token_rows
from trainer.model.masks import BLOCK, additive_mask, block_mask, dense_mask, segment_queries, visible_blocks
from trainer.model.packing import Fragment, Layout, Row
from trainer.model.scorer import ResponseScorer
from trainer.model.segments import SegmentTable, row_segments

WINDOWS = [None, 16, 100, 300]


def row_of(groups: list[TokenizedGroup]) -> Row:
    return Row(tuple(Fragment(number, tuple(range(len(group.responses)))) for number, group in enumerate(groups)))


def defined_mask(groups: list[TokenizedGroup], num_tokens: int, window: int | None) -> NDArray[np.bool_]:
    """Say token by token what is seen: each response is taken with its prompt as the sequence that it stands for, and
    in there a token sees itself and those before it, no further back than the window."""
    mask = np.zeros((num_tokens, num_tokens), dtype=bool)
    start = 0
    for group in groups:
        prompt = [*range(start, start + len(group.prompt))]
        start += len(prompt)
        branches = []
        for response in group.responses:
            branches.append([*range(start, start + len(response.ids))])
            start += len(response.ids)
        for branch in ([], *branches):
            sequence = prompt + branch
            for position, query in enumerate(sequence):
                for distance in range(position + 1 if window is None else min(window, position + 1)):
                    mask[query, sequence[position - distance]] = True
    tail = [*range(start, num_tokens)]  # sees itself alone
    for position, query in enumerate(tail):
        for key in tail[: position + 1]:
            mask[query, key] = window is None or query - key < window
    return mask


def defined_positions(groups: list[TokenizedGroup]) -> list[int]:
    positions: list[int] = []
    for group in groups:
        positions += range(len(group.prompt))
        for response in group.responses:
            positions += range(len(group.prompt), len(group.prompt) + len(response.ids))
    return positions


small_groups = st.lists(
    st.builds(
        lambda prompt, lengths: random_group(prompt, lengths, []),
        st.integers(1, 9),
        st.lists(st.integers(1, 9), min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=4,
)

large_groups = st.lists(
    st.builds(
        lambda prompt, lengths: random_group(prompt, lengths, []),
        st.integers(1, 400),
        st.lists(st.integers(1, 300), min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=3,
)


@given(small_groups, st.none() | st.integers(1, 12), st.sampled_from([1, 4, 16]))
def test_the_dense_mask_is_as_defined(groups: list[TokenizedGroup], window: int | None, pads_to: int) -> None:
    unpadded = row_segments(row_of(groups), groups)
    table = unpadded.padded(pads_to)
    assert table.num_tokens % pads_to == 0
    assert table.num_tokens - unpadded.num_tokens < pads_to
    assert unpadded.positions().tolist() == defined_positions(groups)
    expected = defined_mask(groups, table.num_tokens, window)
    found = dense_mask(table, window, CPU)
    assert found.shape == (1, 1, table.num_tokens, table.num_tokens)
    assert (found[0, 0].numpy() == expected).all()
    assert expected.any(axis=1).all()  # no softmax is empty
    assert table.num_visible(window) == expected.sum()


@given(small_groups, st.none() | st.integers(1, 12))
def test_the_additive_mask_hides_what_the_dense_one_does(groups: list[TokenizedGroup], window: int | None) -> None:
    table = row_segments(row_of(groups), groups)
    seen = torch.from_numpy(defined_mask(groups, table.num_tokens, window))
    for dtype in (torch.float32, torch.bfloat16):
        added = additive_mask(table, window, CPU, dtype)
        assert added.dtype == dtype
        assert torch.equal(added[0, 0] == 0, seen)
        assert torch.equal(added[0, 0] == torch.finfo(dtype).min, ~seen)


@given(small_groups, st.none() | st.integers(1, 12))
def test_segments_see_what_is_defined(groups: list[TokenizedGroup], window: int | None) -> None:
    table = row_segments(row_of(groups), groups)
    found = np.zeros((table.num_tokens, table.num_tokens), dtype=bool)
    for part in segment_queries(table, window, CPU):
        keys = [*range(table.num_tokens)[part.parent], *range(table.num_tokens)[part.segment]]
        length = part.segment.stop - part.segment.start
        mask = torch.ones(length, len(keys)).tril().bool() if part.mask is None else part.mask
        found[np.ix_(range(part.segment.start, part.segment.stop), keys)] = mask.numpy()
    assert (found == defined_mask(groups, table.num_tokens, window)).all()


@pytest.mark.parametrize("window", WINDOWS)
@settings(max_examples=40)
@given(groups=large_groups)
def test_blocks_cover_the_mask(groups: list[TokenizedGroup], window: int | None) -> None:
    """No block with a visible pair is left out, and none is called full that isn't; and both are sharp enough."""
    table = row_segments(row_of(groups), groups).padded(BLOCK)
    dense = dense_mask(table, window, CPU)[0, 0].numpy()
    num_blocks = table.num_tokens // BLOCK
    blocks = dense.reshape(num_blocks, BLOCK, num_blocks, BLOCK).transpose(0, 2, 1, 3)
    some, every = visible_blocks(table, window)
    assert (some >= blocks.any(axis=(2, 3))).all()
    assert (every <= blocks.all(axis=(2, 3))).all()
    assert (every <= some).all()
    if window is None:
        assert (some == blocks.any(axis=(2, 3))).all()


def test_the_block_mask_lists_the_blocks() -> None:
    """FlexAttention's own view of the mask: the partial blocks by its rule, the full ones whole."""
    groups = [random_group(137, (123, 31, 209), []), random_group(5, (3, 1), []), random_group(300, (10, 90), [])]
    table = row_segments(row_of(groups), groups).padded(BLOCK)
    for window in WINDOWS:
        mask = block_mask(table, window, CPU)
        assert mask.shape == (1, 1, table.num_tokens, table.num_tokens)
        found = np.zeros((table.num_tokens, table.num_tokens), dtype=bool)
        places = torch.arange(table.num_tokens)
        rule = mask.mask_mod(torch.tensor(0), torch.tensor(0), places[:, None], places[None, :]).numpy()
        for block in range(table.num_tokens // BLOCK):
            rows = slice(block * BLOCK, (block + 1) * BLOCK)
            for number in mask.kv_indices[0, 0, block, : mask.kv_num_blocks[0, 0, block]].tolist():
                columns = slice(number * BLOCK, (number + 1) * BLOCK)
                found[rows, columns] = rule[rows, columns]
            assert mask.full_kv_num_blocks is not None
            assert mask.full_kv_indices is not None
            for number in mask.full_kv_indices[0, 0, block, : mask.full_kv_num_blocks[0, 0, block]].tolist():
                found[rows, number * BLOCK : (number + 1) * BLOCK] = True
        assert (found == defined_mask(groups, table.num_tokens, window)).all()


def test_a_shared_prompt_saves_blocks() -> None:
    """A prompt of 512 and 8 responses of 128: causal alone is 78 blocks, the tree 10 + 8 x (4 + 1) = 50."""
    groups = [random_group(512, (128,) * 8, [])]
    table = row_segments(row_of(groups), groups)
    some, every = visible_blocks(table, None)
    assert int(some.sum()) == 10 + 8 * 5
    assert int(every.sum()) == 6 + 8 * 4  # all but those on the diagonal


def test_a_tail_that_nobody_needs_sees_and_is_seen_by_itself() -> None:
    groups = [random_group(100, (20,), [])]
    dense = dense_mask(row_segments(row_of(groups), groups).padded(BLOCK), None, CPU)[0, 0]
    assert not dense[:120, 120:].any()
    assert not dense[120:, :120].any()


LONG = [
    random_group(37, (23, 131, 9, 40), all_pairs(4)),
    random_group(5, (3, 1, 7), []),
    random_group(120, (14, 15), []),
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch's compiler
@pytest.mark.parametrize("name", ["llama", "mistral_window", "gemma3"])
def test_flex_attention_equals_sdpa_without_gradient(name: str) -> None:
    model = build(name)
    row = row_of(LONG)
    with torch.no_grad():
        dense = ResponseScorer(model, choose_attention(model, "dense", CPU))(token_rows(row, LONG, Layout.TREE))
        windows = shared_windows(model.config)
        assert windows is not None
        flex = ResponseScorer(model, Attention(Backend.FLEX, "flex_attention", "sdpa", windows))
        rows = token_rows(row, LONG, Layout.TREE, pads_to=flex.attention.pads_to)
        assert rows.input_ids.shape[1] == 512  # 404 tokens, rounded up
        torch.testing.assert_close(flex(rows), dense, rtol=0, atol=2e-5)


# Which back end serves a model.


@pytest.mark.parametrize("name", SHARING)
def test_windows_of_models_that_share(name: str) -> None:
    expected: dict[str, dict[str, int | None]] = {
        "mistral_window": {FULL: WINDOW},
        **{name: {FULL: None, SLIDING: WINDOW} for name in ("gemma2", "gemma3", "gpt_oss", "cohere2", "qwen2_window")},
    }
    assert shared_windows(build(name).config) == expected.get(name, {FULL: None})


@pytest.mark.parametrize("name", HYBRID)
def test_models_with_other_layers_share_nothing(name: str) -> None:
    model = build(name)
    assert shared_windows(model.config) is None
    assert choose_attention(model, "auto", CPU).backend is Backend.ROWS
    for wanted in ("segments", "dense"):
        with pytest.raises(
            UsageError, match=rf"policy\.attention={wanted}: {model.config.model_type} .*attention=rows"
        ):
            choose_attention(model, wanted, CPU)


@pytest.mark.parametrize(
    ("name", "wanted", "message"),
    [
        ("llama", "flex", "no backward pass on a CPU; use policy.attention=segments"),
        ("gpt_oss", "segments", "use policy.attention=dense"),
        ("gemma2", "segments", "use policy.attention=dense"),
    ],
)
def test_a_back_end_that_does_not_serve_is_refused(name: str, wanted: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        choose_attention(build(name), wanted, CPU)


def test_unknown_kinds_of_places_and_layers_share_nothing() -> None:
    for change in (
        {"layer_types": ["chunked_attention", "full_attention"]},
        {"alibi": True},
        {"attn_layer_indices": [1]},
    ):
        config: Any = build("llama").config
        for key, value in change.items():
            setattr(config, key, value)
        assert shared_windows(config) is None


def test_a_graphics_processor_gets_flex_attention() -> None:
    model = build("llama")
    cuda = torch.device("cuda")
    assert choose_attention(model, "auto", cuda).backend is Backend.FLEX
    assert choose_attention(model, "auto", CPU).backend is Backend.SEGMENTS
    assert choose_attention(build("gpt_oss"), "auto", CPU).backend is Backend.DENSE


def test_segment_attention_refuses_what_it_does_not_compute() -> None:
    """A model that hands its attention a soft-cap or sinks gets an error, not attention without them."""
    model = build("llama")
    scorer = ResponseScorer(model, choose_attention(model, "segments", CPU))
    layer = model.model.layers[0].self_attn
    forward = layer.forward
    rows = token_rows(row_of(LONG), LONG, Layout.TREE)
    for extra in ({"softcap": 5.0}, {"s_aux": torch.zeros(4)}, {"position_bias": torch.zeros(1)}):
        layer.forward = lambda *given, extra=extra, **options: forward(*given, **options, **extra)
        with pytest.raises(UsageError, match=rf"needs {next(iter(extra))}; use policy\.attention=dense"):
            scorer(rows)


def test_segment_attention_refuses_a_mask_that_is_not_its_own() -> None:
    """A model that makes its layers' mask anew (Doge) would see what it must not."""
    model = build("llama")
    ResponseScorer(model, choose_attention(model, "segments", CPU))
    with pytest.raises(UsageError, match=r"another mask than the model; use policy\.attention=rows"):
        model(torch.tensor([[1, 2, 3]]))


@pytest.mark.parametrize(
    "config",
    [
        BloomConfig(vocab_size=64, hidden_size=32, n_layer=1, n_head=4),
        MptConfig(d_model=32, n_layers=1, n_heads=4),
        GPTNeoConfig(hidden_size=32, num_layers=2, num_heads=4, attention_types=[[["global", "local"], 1]]),
    ],
    ids=lambda config: config.model_type,
)
def test_biases_by_place_share_nothing(config: Any) -> None:
    assert shared_windows(config) is None


def test_positions_of_the_table_start_again_with_each_prompt() -> None:
    table = SegmentTable(row_segments(row_of(LONG), LONG).segments)
    runs = [0, *itertools.accumulate(len(g.prompt) + sum(len(r.ids) for r in g.responses) for g in LONG)]
    assert [int(table.positions()[start]) for start in runs[:-1]] == [0, 0, 0]
