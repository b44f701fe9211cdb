"""The rules on what is written in a pair's texts: tokens of templates, characters nobody sees, lost characters, keys.

Each looks at all texts at once through a screen; in those that don't pass it searches message by message. A part gives
one finding for each rule, at its first message that has what the rule looks for.
"""

import contextlib
import re
from collections.abc import Callable, Iterator

from pipeline.gate.finding import Problem
from pipeline.gate.pair.pointers import Part, message_pointer, messages_of
from pipeline.gate.pair.screen import screen, sets_of
from pipeline.gate.pair.secret_patterns import KEYS, has_key, secret_in
from pipeline.gate.pair.view import PairView
from pipeline.gate.rules import Rule
from pipeline.gate.settings import GateSettings
from schemas.terminal import counted, excerpt

Search = Callable[[str], str]
"""Says what was found in a text, in words that are safe to show; nothing where there is nothing."""

PIPED = (
    # ChatML, Qwen, Kimi, Phi
    *("im_start", "im_end", "im_sep", "im_user", "im_assistant", "im_system", "im_middle", "endoftext", "endofprompt"),
    # Llama 3 and 4
    *("begin_of_text", "end_of_text", "start_header_id", "end_header_id", "eot_id", "eom_id", "python_tag"),
    *("header_start", "header_end", "eot", "eom", "python_start", "python_end", "startoftext"),
    # Granite, Zephyr, GLM
    *("start_of_role", "end_of_role", "system", "user", "assistant", "tool", "observation", "end", "EOT"),
    # Harmony, Command R
    *("start", "message", "channel", "constrain", "return", "call"),
    *("START_OF_TURN_TOKEN", "END_OF_TURN_TOKEN", "SYSTEM_TOKEN", "USER_TOKEN", "CHATBOT_TOKEN"),
)
"""What stands between <| and |> in the tokens of templates. Other words there are mostly no tokens, but code."""
WIDE_BAR = "\uff5c"  # of DeepSeek's tokens
BARE = (
    *(r"\[INST\]", r"\[/INST\]", "<<SYS>>", "<</SYS>>"),
    *(r"\[/?AVAILABLE_TOOLS\]", r"\[/?TOOL_RESULTS\]", r"\[TOOL_CALLS\]", r"\[/?SYSTEM_PROMPT\]", r"\[gMASK\]"),
    *("<start_of_turn>", "<end_of_turn>", "<extra_id_[0-9]+>", "<SPECIAL_[0-9]+>"),
    *(f"<{WIDE_BAR}[^{WIDE_BAR}<>]{{1,40}}{WIDE_BAR}>", r"<\|reserved_special_token_[0-9]+\|>"),
)
BEGINNINGS, ENDS = ("<s>", "<bos>"), ("</s>", "<eos>")
"""Of sequences; <s> is a tag of HTML too, so they count where a text begins and ends alone."""

_token = re.compile("|".join((*BARE, rf"<\|(?:{'|'.join(PIPED)})\|>")))
_beginning = re.compile(rf"\s*((?:(?:{'|'.join(BEGINNINGS)})\s*)+)")
TOKENS = "|".join((*BARE, r"<\|[A-Za-z_]{2,24}\|>", *BEGINNINGS, *ENDS))
_may_hold_token = screen(TOKENS)

C0 = "".join(chr(code) for code in (*range(0x20), 0x7F) if chr(code) not in "\t\n\r")
C1 = "".join(map(chr, range(0x80, 0xA0)))
BIDIRECTIONAL = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_control = re.compile(f"[{re.escape(C0 + C1 + BIDIRECTIONAL)}]")
ASCII_CONTROLS = sets_of(C0)
OTHER_CONTROLS = (*sets_of(C1), *sets_of(BIDIRECTIONAL))
_has_c0 = screen(*ASCII_CONTROLS)
_has_other_control = screen(*OTHER_CONTROLS)

REPLACEMENT = "\ufffd"
CYRILLIC = "[\u00d0\u00d1]"  # the first of both bytes, misread


def _misread(character: str) -> Iterator[str]:
    """Write a character as it looks once its UTF-8 was read as Windows-1252, and as Latin-1."""
    for encoding in ("cp1252", "latin-1"):
        with contextlib.suppress(UnicodeDecodeError):  # Windows-1252 has no characters for five bytes
            yield character.encode().decode(encoding)


def _pairs(first: str, characters: str) -> str:
    """Write a pattern for characters of two bytes or more, misread; they begin alike, and the second tells them."""
    return f"{first}[{''.join(sorted({each[1] for character in characters for each in _misread(character)}))}]"


MISREAD = "|".join(
    (
        _pairs("\u00e2", "\u2019"),  # quotes, dashes, dots
        _pairs("\u00f0", "\U0001f600"),  # emoji
        _pairs("\u00e3", "\u3042\u30a2\u30f3"),  # Japanese
        *_misread("\ufeff"),
        *_misread(REPLACEMENT),
        # without what right words have too: a capital A with tilde stands before no-break spaces and closing quotes
        _pairs("\u00c3", "áâãäåæçèéêëìíîïñòóôõöøùúüýß"),
        _pairs("\u00c2", "\u00a0\u00b4°£©®±·²³µ¡¿§¢¥"),
        f"(?:{_pairs(CYRILLIC, ''.join(map(chr, range(0x400, 0x440))))}){{4}}",  # Cyrillic
    )
)
_misread_text = re.compile(f"(?:{MISREAD})[^\x00-\x7f]{{0,2}}")
DAMAGES = f"{REPLACEMENT}|{MISREAD}"
_may_be_damaged = screen(DAMAGES)


SUSPICIOUS = (TOKENS, *ASCII_CONTROLS, *OTHER_CONTROLS, DAMAGES, KEYS)
"""Patterns of which at least one is in each text in which a rule of this file finds something."""


def template_token(view: PairView, settings: GateSettings) -> Iterator[Problem]:
    """Find tokens that chat templates put around messages, and those that begin and end a sequence."""
    if _may_hold_token(view.text):
        yield from _found(view, Rule.TEMPLATE_TOKEN, _token_in, "text, around which the template puts its tokens")


def control_character(view: PairView, settings: GateSettings) -> Iterator[Problem]:
    """Find control characters but for tabs and line ends, and those that turn the direction of writing."""
    if _has_c0(view.text) or (not view.text.isascii() and _has_other_control(view.text)):
        yield from _found(view, Rule.CONTROL_CHARACTER, _control_in, "characters that are seen")


def broken_encoding(view: PairView, settings: GateSettings) -> Iterator[Problem]:
    """Find characters that were lost on the way, or taken apart."""
    if not view.text.isascii() and _may_be_damaged(view.text):
        yield from _found(view, Rule.BROKEN_ENCODING, _damage_in, "the characters that were written")


def secret(view: PairView, settings: GateSettings) -> Iterator[Problem]:
    """Find access keys; what is said of them is their kind and length."""
    if has_key(view.text):
        yield from _found(view, Rule.SECRET, secret_in, "a placeholder")


def _found(view: PairView, rule: Rule, search: Search, expected: str) -> Iterator[Problem]:
    for part in Part:
        for index, message in enumerate(messages_of(view, part)):
            if got := search(message["content"]):
                yield Problem(rule, message_pointer(view, part, index), got, expected)
                break


def _token_in(text: str) -> str:
    if found := _token.search(text):
        return excerpt(found[0])
    begins = _beginning.match(text)
    if begins and not any(each in text[begins.end() :].rstrip()[: -len(each)] for each in ENDS):
        return f"{excerpt(begins[1].strip())} at the beginning"
    ends = next((each for each in ENDS if text.rstrip().endswith(each)), "")
    if ends and not any(each in text for each in BEGINNINGS):
        return f"{excerpt(ends)} at the end"
    return ""


def _control_in(text: str) -> str:
    found = _control.findall(text)
    return f"{counted(len(found), 'such character')}, first U+{ord(found[0]):04X}" if found else ""


def _damage_in(text: str) -> str:
    if REPLACEMENT in text:
        return counted(text.count(REPLACEMENT), "replacement character") + " (U+FFFD)"
    if found := _misread_text.search(text):
        return excerpt(found[0])
    return ""
