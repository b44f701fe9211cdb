"""Cutting inputs into pieces: whatever the size of a piece, all lines come once, in order, with their numbers."""

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.chunks import chunks_of, lines_of
from pipeline.sources import Source
from schemas.lines import numbered_lines, without_margin
from schemas.streams import open_stream

UNLIMITED = 1 << 20


def source_of(path, *, is_plain=True):
    return Source(0, path, 0, is_plain)


def lines_in_chunks(source, chunk_bytes, max_line_bytes=UNLIMITED):
    """Give the numbered lines as a collection reads them."""
    lines, num_before = [], 0
    for chunk in chunks_of(source, chunk_bytes=chunk_bytes, max_line_bytes=max_line_bytes):
        number = 0
        for number, content in lines_of(chunk, max_line_bytes=max_line_bytes):
            lines.append((num_before + number, content))
        num_before += number
    return lines


def lines_at_once(path, max_line_bytes=UNLIMITED):
    """Give the same, read from beginning to end."""
    with open_stream(path) as stream:
        return [
            (number, None if content is None else without_margin(content, number))
            for number, content in enumerate(numbered_lines(stream, max_line_bytes), start=1)
        ]


@pytest.mark.parametrize("chunk_bytes", [1, 2, 3, 4, 5, 8, 100])
@pytest.mark.parametrize("is_plain", [True, False])
def test_lines_by_hand(tmp_path, chunk_bytes, is_plain):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbfab\n\r\n cd \r\n\nefghijkl\nm")
    expected = [(1, b"ab"), (2, b""), (3, b"cd"), (4, b""), (5, b"efghijkl"), (6, b"m")]
    assert lines_in_chunks(source_of(path, is_plain=is_plain), chunk_bytes) == expected


@pytest.mark.parametrize("chunk_bytes", [1, 2, 3, 4, 5, 8, 100])
@pytest.mark.parametrize("is_plain", [True, False])
def test_lines_that_are_too_long_by_hand(tmp_path, chunk_bytes, is_plain):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"abc\nabcd\na\n\nabcdefghij\nabc\nabcde")
    expected = [(1, b"abc"), (2, None), (3, b"a"), (4, b""), (5, None), (6, b"abc"), (7, None)]
    assert lines_in_chunks(source_of(path, is_plain=is_plain), chunk_bytes, max_line_bytes=4) == expected


@pytest.mark.parametrize("chunk_bytes", [1, 3, 4, 5, 100])
def test_a_last_line_of_just_the_limit_is_read(tmp_path, chunk_bytes):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"abcd")
    assert lines_in_chunks(source_of(path), chunk_bytes, max_line_bytes=4) == [(1, b"abcd")]


CONTENTS = st.lists(
    st.sampled_from([b"\n", b"\r\n", b"a", b"bc", b"\xef\xbb\xbf", b" ", b"\xe2\x80\xa8", b"0123456789"]), max_size=30
).map(b"".join)


@given(CONTENTS, st.integers(1, 40))
def test_any_chunk_size_gives_the_same_lines(tmp_path_factory, content, chunk_bytes):
    path = tmp_path_factory.getbasetemp() / "chunks.jsonl"
    path.write_bytes(content)
    expected = lines_at_once(path)
    assert lines_in_chunks(source_of(path), chunk_bytes) == expected
    assert lines_in_chunks(source_of(path, is_plain=False), chunk_bytes) == expected


@given(CONTENTS, st.integers(1, 40), st.integers(1, 20))
def test_any_chunk_size_finds_the_same_lines_too_long(tmp_path_factory, content, chunk_bytes, max_line_bytes):
    path = tmp_path_factory.getbasetemp() / "chunks.jsonl"
    path.write_bytes(content)
    expected = lines_at_once(path, max_line_bytes)
    assert lines_in_chunks(source_of(path), chunk_bytes, max_line_bytes) == expected
    assert lines_in_chunks(source_of(path, is_plain=False), chunk_bytes, max_line_bytes) == expected


@given(CONTENTS, st.integers(1, 40))
def test_chunks_of_a_plain_file_cover_it(tmp_path_factory, content, chunk_bytes):
    path = tmp_path_factory.getbasetemp() / "chunks.jsonl"
    path.write_bytes(content)
    chunks = list(chunks_of(source_of(path), chunk_bytes=chunk_bytes, max_line_bytes=UNLIMITED))
    assert sum(chunk.num_bytes for chunk in chunks) == len(content)
    assert [chunk.start for chunk in chunks[1:]] == [chunk.end for chunk in chunks[:-1]]


def test_blocks_of_a_packed_file(tmp_path):
    """They hold the lines themselves, since no other process can begin in the middle."""
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(b"ab\ncd\nef\n"))
    source = source_of(path, is_plain=False)
    chunks = list(chunks_of(source, chunk_bytes=6, max_line_bytes=UNLIMITED))
    assert [chunk.lines for chunk in chunks] == [[b"ab", b"cd"], [b"ef"]]


@pytest.mark.parametrize("is_plain", [True, False])
def test_an_empty_file_has_no_lines(tmp_path, is_plain):
    path = tmp_path / "rows.jsonl"
    path.touch()
    assert lines_in_chunks(source_of(path, is_plain=is_plain), 4) == []
