"""Lengths in tokens: counted by the user's tokenizer, by the engine's tokens where a row has them, never guessed."""

import json
import math
import sys

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from pipeline.gate.pair.token_bounds import NOT_KNOWN, Growth, growth_of
from pipeline.gate.pair.tokens import token_counter, too_long
from pipeline.gate.pair.view import view_of
from pipeline.gate.rules import Rule, Severity
from pipeline.gate.run import Machinery, check_files
from pipeline.gate.settings import GateSettings, severities_of
from schemas.errors import UsageError
from schemas.preference import pair_of
from schemas.validation import Kind

CORPUS = ["the quick brown fox jumps over the lazy dog", "a cat sat on the mat; naïve café, ½ ﬁne"] * 20
SPECIAL = ["<unk>", "<s>", "\n\n"]


def letters():
    """Make a tokenizer that cuts between all characters, so that counts are worked out by hand."""
    alphabet = {char: number for number, char in enumerate("abcdefghijklmnopqrstuvwxyz ?.")}
    return Tokenizer(models.BPE(vocab=alphabet, merges=[]))


def byte_level():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, special_tokens=SPECIAL, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def byte_level_with_spaces():
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.NFC()
    cut = pre_tokenizers.Split("e", "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=True)])
    return tokenizer


def byte_fallback():
    """Make one as Llama 2 has it: blanks are marks, and bytes stand for what is not in the vocabulary."""
    tokens = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdefgh", "▁a"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("▁", "a")], byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.ByteFallback()
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def unigram(*normalizer):
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), *normalizer])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=60, unk_token="<unk>", special_tokens=SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def word_piece():
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=80, special_tokens=SPECIAL, show_progress=False)
    )
    return tokenizer


MADE = {
    "letters": letters,
    "byte level": byte_level,
    "byte level with spaces": byte_level_with_spaces,
    "byte fallback": byte_fallback,
    "unigram": unigram,
    "unigram that replaces": lambda: unigram(normalizers.Replace("a", "aaaa"), normalizers.Prepend("bb")),
    "unigram that decomposes": lambda: unigram(normalizers.NFKD()),
    "word piece": word_piece,
}


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """Make all tokenizers once, as files."""
    folder = tmp_path_factory.mktemp("tokenizers")
    for name, make in MADE.items():
        make().save(str(folder / f"{name}.json"))
    return folder


def counter_of(folder, name, most=10):
    counter = token_counter(GateSettings(tokenizer=folder / f"{name}.json", max_tokens=most))
    assert counter is not None
    return counter


def found_in(row, folder, most, name="letters"):
    view = view_of(row, pair_of(row, Kind.BINARY_PREFERENCE, source=""))
    limits = GateSettings(tokenizer=folder / f"{name}.json", max_tokens=most)
    return list(too_long(view, limits, counter_of(folder, name, most)))


ROW = {"prompt": "abc", "chosen": "de", "rejected": "fghi"}
LONG_TEXTS = st.text(st.sampled_from("ae é½ﬁﷺ\u0344\U0001d160İȺ가日😀<s>\n▁\u0301"), max_size=30) | st.text(max_size=30)


def test_prompt_and_longer_response_are_counted(tokenizers):
    assert found_in(ROW, tokenizers, 7) == []
    (problem,) = found_in(ROW, tokenizers, 6)
    assert problem == (Rule.TOO_LONG, "/rejected", "7 tokens (prompt 3, rejected 4)", "at most 6", 0)
    (problem,) = found_in(ROW | {"chosen": "d" * 2000}, tokenizers, 6)
    assert problem == (Rule.TOO_LONG, "/chosen", "2,003 tokens (prompt 3, chosen 2,000)", "at most 6", 0)


def test_the_texts_of_all_messages_count_and_nothing_else(tokenizers):
    talk = [{"role": "system", "content": "ab"}, {"role": "user", "content": "c"}]
    row = {
        "prompt": talk,
        "chosen": [{"role": "assistant", "content": "de"}],
        "rejected": [{"role": "assistant", "content": "f"}],
    }
    assert found_in(row, tokenizers, 5) == []
    assert found_in(row, tokenizers, 4)[0].got == "5 tokens (prompt 3, chosen 2)"


def test_rows_with_the_engines_tokens_are_counted_by_these(tokenizers):
    row = ROW | {"prompt_token_ids": [7] * 10, "chosen_token_ids": [1] * 5, "rejected_token_ids": [1] * 4}
    assert found_in(row, tokenizers, 15) == []
    assert found_in(row, tokenizers, 14)[0].got == "15 tokens (prompt 10, chosen 5)"
    del row["chosen_token_ids"]  # of the other side the text counts
    assert found_in(row, tokenizers, 13)[0].got == "14 tokens (prompt 10, rejected 4)"


def test_what_a_file_says_of_cutting_and_filling_up_is_left_out(tokenizers, tmp_path):
    tokenizer = letters()
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=50)
    tokenizer.save(str(tmp_path / "letters.json"))
    assert found_in(ROW, tmp_path, 6)[0].got == "7 tokens (prompt 3, rejected 4)"


@pytest.mark.parametrize("name", MADE)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(text=LONG_TEXTS)
@example(text="ﷺ" * 5)  # 18 characters by NFKC
@example(text="\u0344" * 5)  # 4 bytes from 2, by NFC
@example(text="\U0001d160" * 5)  # 12 bytes from 4, by NFC
@example(text="e" * 30)
def test_no_text_has_more_tokens_than_its_bound(name, tokenizers, text):
    counter = counter_of(tokenizers, name)
    assert counter.count(text) <= counter.bound(text)


@pytest.mark.parametrize("name", MADE)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(texts=st.tuples(LONG_TEXTS, LONG_TEXTS, LONG_TEXTS), most=st.integers(0, 80))
def test_the_short_way_finds_what_counting_finds(name, tokenizers, texts, most):

    row = dict(zip(("prompt", "chosen", "rejected"), texts, strict=True))
    plain = Tokenizer.from_file(str(tokenizers / f"{name}.json"))
    counts = [len(plain.encode(text, add_special_tokens=False).ids) for text in texts]
    longer = max(counts[1:])
    expected = []
    if counts[0] + longer > most:
        side = "chosen" if counts[1] == longer else "rejected"
        expected = [
            f"{counts[0] + longer} token{'s' * (counts[0] + longer != 1)} (prompt {counts[0]}, {side} {longer})"
        ]
    assert [problem.got for problem in found_in(row, tokenizers, most, name)] == expected


def test_bounds_are_close_where_that_is_known(tokenizers):
    """Otherwise all texts would be counted, at a hundred times the price."""
    english = "the quick brown fox " * 50  # 1,000 bytes
    bounds = {name: counter_of(tokenizers, name).bound(english) for name in MADE}
    assert bounds["letters"] == bounds["byte level"] == bounds["word piece"] == 1000
    assert bounds["byte level with spaces"] == bounds["byte fallback"] == bounds["unigram"] == 2001
    assert counter_of(tokenizers, "word piece").bound("é") == math.inf
    assert counter_of(tokenizers, "byte level").bound("é") == 2


@pytest.mark.parametrize(
    "parts",
    [
        {"model": {"type": "Future", "vocab": {}}},
        {"model": {"type": "BPE", "vocab": {}}, "normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}},
        {"model": {"type": "BPE", "vocab": {}}, "pre_tokenizer": {"type": "Future"}},
        {
            "model": {"type": "BPE", "vocab": {}},
            "normalizer": {"type": "Replace", "pattern": {"Regex": "a?"}, "content": "x"},
        },
        {"model": {"type": "BPE", "vocab": {}, "byte_fallback": True}, "pre_tokenizer": {"type": "ByteLevel"}},
    ],
    ids=str,
)
def test_of_what_is_not_known_nothing_is_said(parts):
    assert growth_of(parts) == NOT_KNOWN
    assert NOT_KNOWN.bound("") == math.inf  # which is no number of nothing
    assert growth_of({"model": {"type": "BPE", "vocab": {}}}) == Growth()


@pytest.mark.forks
def test_files_are_checked_in_several_processes_without_a_word(tokenizers, tmp_path, capfd):
    path = tmp_path / "rows.jsonl"
    rows = [ROW | {"prompt": "abc"[: number % 3 + 1] * 5, "agent": str(number)} for number in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = tmp_path / "policy"
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes((tokenizers / "letters.json").read_bytes())
    only = {rule: Severity.IGNORE for rule in Rule if rule is not Rule.TOO_LONG}
    limits = GateSettings(tokenizer=folder, max_tokens=18, severities=severities_of(only))
    one, two = (
        check_files([path], limits, machinery=Machinery(num_workers=number, chunk_bytes=500)).findings
        for number in (1, 2)
    )
    assert [finding.line for finding in one] == list(range(3, 61, 3))  # 15 + 4 tokens; the others have 5 or 10, and 4
    assert one == two
    assert capfd.readouterr().err == ""  # the package warns of forks where it has threads


def test_nothing_is_loaded_where_nothing_is_asked(tmp_path):
    absent = tmp_path / "absent.json"
    assert token_counter(GateSettings()) is None
    assert token_counter(GateSettings(tokenizer=absent)) is None
    ignored = severities_of({Rule.TOO_LONG: Severity.IGNORE})
    assert token_counter(GateSettings(tokenizer=absent, max_tokens=5, severities=ignored)) is None


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, r"no such file: expected tokenizer.json, or a folder that has one$"),
        (b"", r"no tokenizer.json: EOF while parsing"),
        (b"{}", r"no tokenizer.json: Model missing"),
        (b'{"model": 5}', r"no tokenizer.json: "),
        (b"\x0a\x0e\xff\xfe", r"no tokenizer.json: not UTF-8; a tokenizer.model is not read"),
    ],
    ids=str,
)
def test_what_is_no_tokenizer_is_told(tmp_path, content, told):
    path = tmp_path / "odd.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=told) as raised:
        token_counter(GateSettings(tokenizer=path, max_tokens=5))
    assert str(raised.value).startswith(f"--tokenizer {path}: ")


def test_a_folder_without_a_tokenizer_and_a_name_of_the_hub_are_told(tmp_path, monkeypatch):
    with pytest.raises(UsageError, match=r"expected tokenizer.json, or a folder that has one"):
        token_counter(GateSettings(tokenizer=tmp_path, max_tokens=5))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"org/model: no such file: .*names of the hub are not looked up"):
        token_counter(GateSettings(tokenizer=tmp_path.relative_to(tmp_path) / "org" / "model", max_tokens=5))


def test_a_missing_package_is_named_with_its_extra(tokenizers, monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UsageError, match=r"--tokenizer needs the package tokenizers, .* extra tokenizer: pip install"):
        token_counter(GateSettings(tokenizer=tokenizers / "letters.json", max_tokens=5))
