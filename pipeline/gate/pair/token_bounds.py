"""How many tokens a text can have at most, by its length and the tokenizer's parts: most texts are far from a limit.

A token stands for at least one byte of what the model is given, so only parts that make a text longer matter: forms of
Unicode, what is put before each piece, what is put in the place of a blank. Where a part is not known, nothing is said.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

UNICODE_GROWTH = {"NFC": 3, "NFD": 3, "NFKC": 11, "NFKD": 11}
"""The most bytes of UTF-8 that a byte becomes, of texts that are not ASCII (Unicode's FAQ on normalization)."""
ASCII_KEEPERS = ("Lowercase", "StripAccents", "BertNormalizer", "Nmt")
"""Normalizers that make no ASCII text longer."""
SHORTENERS = ("Strip",)
CUTTERS = (
    "Split",
    "Whitespace",
    "WhitespaceSplit",
    "Punctuation",
    "Digits",
    "BertPreTokenizer",
    "CharDelimiterSplit",
    "UnicodeScripts",
    "FixedLength",
)
"""Pre-tokenizers that cut a text and add nothing."""
MODELS = ("BPE", "Unigram", "WordPiece", "WordLevel")


@dataclass(frozen=True)
class Growth:
    """The most tokens for each byte of a text, and besides."""

    of_ascii: float = 1
    of_others: float = 1  # texts that are not ASCII
    besides: float = 0  # what is put before a text

    def bound(self, text: str) -> float:
        """Give the most tokens that a text can have; infinity where that is not known."""
        growth = self.of_ascii if text.isascii() else self.of_others
        return math.inf if math.isinf(growth) else growth * len(text.encode()) + self.besides


NOT_KNOWN = Growth(math.inf, math.inf)


@dataclass(frozen=True)
class _PutIn:
    """How many tokens there can be in a text that a part of the tokenizer puts in."""

    known: frozenset[str]  # the vocabulary
    are_bytes: bool  # each byte may be a token
    has_fallback: bool  # each byte of a character that is not in the vocabulary

    def tokens(self, text: str) -> int:
        """Count them."""
        if self.are_bytes:
            return len(text.encode())
        return sum(len(char.encode()) if self.has_fallback and char not in self.known else 1 for char in text)


def growth_of(parts: dict[str, Any]) -> Growth:
    """Tell the growth by the parts of a tokenizer, as tokenizer.json has them."""
    model = parts.get("model") or {}
    if model.get("type") not in MODELS:
        return NOT_KNOWN
    cutters = list(_flat(parts.get("pre_tokenizer"), "pretokenizers"))
    vocabulary = model.get("vocab") or ()
    put_in = _PutIn(
        frozenset(entry[0] for entry in vocabulary) if isinstance(vocabulary, list) else frozenset(vocabulary),
        are_bytes=any(part["type"] == "ByteLevel" for part in cutters),
        has_fallback=bool(model.get("byte_fallback")),
    )
    if put_in.are_bytes and put_in.has_fallback:
        return NOT_KNOWN
    growth = _normalized(parts.get("normalizer"), put_in)
    before = 0
    for part in cutters:
        match part["type"]:
            case "ByteLevel":
                before += bool(part.get("add_prefix_space", True))
            case "Metaspace" if put_in.tokens(part["replacement"]) == 1:
                before += 1
            case kind if kind not in CUTTERS:
                return NOT_KNOWN
    pieces = 1 + before  # each of them has at least one byte, before which something is put
    return Growth(growth.of_ascii * pieces, growth.of_others * pieces, growth.besides * pieces + before)


def _normalized(normalizer: dict[str, Any] | None, put_in: _PutIn) -> Growth:
    """Tell the growth by a normalizer, which sees the pieces of a text between special tokens."""
    of_ascii, of_others, before, is_ascii = 1.0, 1.0, 0.0, True
    for part in _flat(normalizer, "normalizers"):
        growth = 1.0
        match part["type"]:
            case "NFC" | "NFD" | "NFKC" | "NFKD":
                growth = UNICODE_GROWTH[part["type"]]
                of_ascii *= 1 if is_ascii else growth
            case kind if kind in ASCII_KEEPERS:
                growth = math.inf
                of_ascii *= 1 if is_ascii else growth
            case "Prepend":
                before += put_in.tokens(part["prepend"])
                is_ascii &= part["prepend"].isascii()
            case "Replace" if pattern := part["pattern"].get("String"):
                growth = max(1.0, put_in.tokens(part["content"]) / len(pattern.encode()))
                of_ascii *= growth
                is_ascii &= part["content"].isascii()
            case kind if kind not in SHORTENERS:
                return NOT_KNOWN
        of_others *= growth
        before *= growth if before else 1
    return Growth(of_ascii + before, of_others + before, before)


def _flat(part: dict[str, Any] | None, inner: str) -> Iterable[dict[str, Any]]:
    """Give the parts of a sequence, and of those in it."""
    if part is None:
        return
    if part["type"] == "Sequence":
        for each in part[inner]:
            yield from _flat(each, inner)
    else:
        yield part
