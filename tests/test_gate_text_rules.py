"""The gate's rules on what is written in texts. Keys are put together here, so that no scanner takes them for real."""

import re
import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.gate.pair.screen import screen, sets_of
from pipeline.gate.pair.text_rules import BIDIRECTIONAL, C0, C1
from pipeline.gate.rules import Rule
from tests.gate_pairs import binary, call, conversation, found, message, told


def got(text, rule):
    """Give what a rule says of a chosen response."""
    problems = told(binary(chosen=text), rule)
    assert all(pointer == "/chosen" for pointer, _ in problems)
    assert len(problems) < 2
    return problems[0][1] if problems else None


# --- tokens of templates


@pytest.mark.parametrize(
    "token",
    [
        "<|im_start|>",
        "<|im_end|>",
        "<|endoftext|>",
        "<|begin_of_text|>",
        "<|start_header_id|>",
        "<|eot_id|>",
        "<|python_tag|>",
        "<|reserved_special_token_17|>",
        "<|header_start|>",
        "<|eot|>",
        "[INST]",
        "[/INST]",
        "<<SYS>>",
        "<</SYS>>",
        "[TOOL_CALLS]",
        "[/AVAILABLE_TOOLS]",
        "<start_of_turn>",
        "<end_of_turn>",
        "<|user|>",
        "<|assistant|>",
        "<|end|>",
        "<\uff5cbegin\u2581of\u2581sentence\uff5c>",
        "<\uff5cUser\uff5c>",
        "<|start_of_role|>",
        "<|end_of_text|>",
        "<extra_id_0>",
        "<SPECIAL_11>",
        "<|start|>",
        "<|channel|>",
        "<|return|>",
        "<|START_OF_TURN_TOKEN|>",
        "[gMASK]",
    ],
)
def test_tokens_of_templates_are_found_anywhere(token):
    for text in (token, f"{token}Hi", f"Hi {token} there", f"Hi\n{token}\n"):
        assert got(text, Rule.TEMPLATE_TOKEN) == repr(token)


@pytest.mark.parametrize(
    "text",
    [
        "let f = g <| h |> k",  # F#
        "p <|> q",  # Haskell
        "<|x|> is the mean of |x|",
        "a[INSTANCE] and [INS]",
        "<think>\nso\n</think>\n\nYes.",  # belongs to the answer
        "<tool_call>{}</tool_call>",
        "<|some_other_word|>",
        "<s>wrong</s> right",  # struck out
        "right <s>wrong</s>",
        "a <s>wrong</s> b",
        "<strong>bold</strong>",
        "x</span>",
        "cos> pathos>",
        "| a | b |\n|---|---|",
    ],
)
def test_other_brackets_are_no_tokens(text):
    assert got(text, Rule.TEMPLATE_TOKEN) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<s>Hi", "'<s>' at the beginning"),
        (" \n<bos>Hi", "'<bos>' at the beginning"),
        ("<s> <s>Hi", "'<s> <s>' at the beginning"),
        ("<s>Hi</s>", "'<s>' at the beginning"),  # of a sequence as a whole
        ("Hi</s>", "'</s>' at the end"),
        ("Hi<eos> \n", "'<eos>' at the end"),
        ("</s>", "'</s>' at the end"),
    ],
)
def test_beginnings_and_ends_of_sequences(text, said):
    assert got(text, Rule.TEMPLATE_TOKEN) == said


def test_the_first_message_of_each_part_is_told():
    chosen = [call("a"), message("tool", "<|im_end|>"), message("assistant", "<|im_start|>")]
    row = conversation(message("system"), message("user", "[INST]"), chosen=chosen)
    assert told(row, Rule.TEMPLATE_TOKEN) == [("/prompt/1/content", "'[INST]'"), ("/chosen/1/content", "'<|im_end|>'")]


# --- characters that nobody sees


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\x1b[31mred\x1b[0m", "2 such characters, first U+001B"),
        ("a\x00b", "1 such character, first U+0000"),
        ("a\x08\x7f", "2 such characters, first U+0008"),
        ("a\x0c", "1 such character, first U+000C"),
        ("é\x9b2J", "1 such character, first U+009B"),
        ("admin\u202e gpj.exe", "1 such character, first U+202E"),
        ("\u2066a\u2069", "2 such characters, first U+2066"),
    ],
)
def test_control_characters(text, said):
    assert got(text, Rule.CONTROL_CHARACTER) == said


@pytest.mark.parametrize(
    "text",
    [
        "a\tb\r\nc\n",
        "\U0001f469\u200d\U0001f52c and \u2764\ufe0f",  # joined emoji
        "a\u2028b\u00a0c\u00ad\ufeff",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian needs its non-joiner
        "\u200f\u05e9\u05dc\u05d5\u05dd",
    ],
)
def test_tabs_line_ends_and_joiners_are_no_control_characters(text):
    assert got(text, Rule.CONTROL_CHARACTER) is None


def is_control(character):
    """Say it as Unicode does: by category, and by the class of what turns the direction of writing."""
    turns = unicodedata.bidirectional(character) in {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    return turns or (unicodedata.category(character) == "Cc" and character not in "\t\r\n")


def test_control_characters_are_what_unicode_says():
    assert set(C0 + C1 + BIDIRECTIONAL) == {chr(code) for code in range(0x110000) if is_control(chr(code))}


TRICKY = st.characters(codec="utf-8") | st.sampled_from(C0 + C1 + BIDIRECTIONAL + "\t\r\n\u2027\u202f\u2065\u206a\xa0")


@given(st.text(TRICKY, min_size=1, max_size=12), st.sampled_from(["", "a" * 70, "\u4e00" * 70, "\U0001f600" * 40]))
def test_the_screens_pass_no_control_character(text, around):
    count = sum(map(is_control, text))
    said = got(f"{around}{text}{around}", Rule.CONTROL_CHARACTER)
    assert said is None if count == 0 else said is not None and said.startswith(f"{count} such character")


# --- lost characters

MISREAD = [
    "it\u2019s",
    "\u201cyes\u201d",
    "a \u2014 b",
    "caf\u00e9",
    "na\u00efve",
    "Stra\u00dfe",
    "20 \u00b0C",
    "\U0001f600",
]
MISREAD += ["\u041f\u0440\u0438\u0432\u0435\u0442", "\u30a2\u30a4\u30f3", "\ufeffHi", "10\u00a0%", "\ufffd"]


@pytest.mark.parametrize("text", MISREAD)
@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
def test_utf8_that_was_read_otherwise(text, encoding):
    misread = "".join(_read(bytes([byte]), encoding) for byte in text.encode())
    assert got(f"So {misread} it is", Rule.BROKEN_ENCODING)
    if text != "\ufffd":
        assert got(f"So {text} it is", Rule.BROKEN_ENCODING) is None


def _read(byte, encoding):
    """Read a byte; those that Windows-1252 has no character for become what browsers make of them."""
    try:
        return byte.decode(encoding)
    except UnicodeDecodeError:
        return byte.decode("latin-1")


def test_lost_characters_are_counted():
    assert got("a\ufffdb\ufffd", Rule.BROKEN_ENCODING) == "2 replacement characters (U+FFFD)"
    assert got("it\u00e2\u20ac\u2122s", Rule.BROKEN_ENCODING) == "'\u00e2\u20ac\u2122'"


@pytest.mark.parametrize(
    "text",
    [
        "\u00abMA\u00c7\u00c3\u00bb, N\u00c3O e S\u00c3O\u00a0PAULO",  # Portuguese in capitals
        "\u00c2ge, \u00e2me, \u00c2\u00a0la",  # told apart below
        "\u0110\u00c3 \u0110\u1ebeN",  # Vietnamese
        "ESPA\u00d1A, DO\u00d1\u2026, \u00d0\u00f3r",
        "2 \u20ac, 3 \u00a3, \u2018a\u2019 \u201cb\u201d \u2026",
        "\u00f0 \u00e3 \u00e2 \u00ef",
    ],
)
def test_letters_that_look_alike_are_left_alone(text):
    text = text.replace("\u00c2\u00a0", "\u00c2 \u00a0")  # directly before a no-break space it is a misread one
    assert got(text, Rule.BROKEN_ENCODING) is None


# --- keys

BODY = "aB3dE5gH7jK9mN1pQ2rS4tU6vW8xY0zAbCdEfGhIjKlMnOpQrStUvWxYz"
BASE32 = "ABCDEFGH234567IJ"
PEM = "-----BEGIN {}PRIVATE KEY-----"
BASE64 = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQ"


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("AKIA" + BASE32, "an AWS access key of 20 characters"),
        ("ASIA" + BASE32, "an AWS access key of 20 characters"),
        ("ghp_" + BODY[:36], "a GitHub token of 40 characters"),
        ("github_pat_" + BODY[:22] + "_" + (BODY * 2)[:59], "a GitHub token of 93 characters"),
        ("glpat-" + BODY[:20], "a GitLab token of 26 characters"),
        ("sk-ant-" + "api03-" + BODY, "an Anthropic key of 70 characters"),
        ("sk-" + BODY[:48], "an OpenAI key of 51 characters"),
        ("sk-proj-" + BODY, "an OpenAI key of 65 characters"),
        ("sk_live_" + BODY[:24], "a Stripe key of 32 characters"),
        ("hf_" + BODY[:34], "a Hugging Face token of 37 characters"),
        ("xoxb-" + "1234567890-" + BODY[:24], "a Slack token of 40 characters"),
        ("AIza" + BODY[:35], "a Google API key of 39 characters"),
        ("nvapi-" + (BODY * 2)[:64], "an NVIDIA key of 70 characters"),
        ("npm_" + BODY[:36], "an npm token of 40 characters"),
        ("eyJ" + BODY[:20] + ".eyJ" + BODY[:30] + "." + BODY[:43], "a JSON Web Token of 101 characters"),
        (PEM.format("") + "\n" + BASE64, "a private key"),
        (PEM.format("RSA ") + "\\n" + BASE64, "a private key"),  # as JSON in a text has it
        (PEM.format("OPENSSH ") + "\nProc-Type: 4,ENCRYPTED\n\n" + BASE64, "a private key"),
    ],
)
def test_keys_are_named_and_never_shown(key, said):
    for text in (key, f"key={key}", f"The key '{key}', you know.", f"\u4e2d {key} \U0001f600"):
        (problem,) = found(binary(rejected=text), Rule.SECRET)
        assert (problem.pointer, problem.got) == ("/rejected", said)
        assert not any(key[8:16] in part for part in problem if isinstance(part, str))


@pytest.mark.parametrize(
    "text",
    [
        "AKIA" + "IOSFODNN7EXAMPLE",  # of the documentation
        "ghp_" + "x" * 36,
        "sk-" + "0123" * 12,  # four characters over and over
        "a task-based, risk-averse, disk-resident approach-to-everything-that-is-known-so-far",
        "sk-estimator-doc-link-and-more-of-the-classes-of-scikit-learn",
        "hf_hub_download(repo_id, filename) and hf_transformers_language_model_config",
        "xoxb-" + "your-token-here",
        "prefixAKIA" + BASE32,  # in the middle of something else
        "AKIA" + BASE32 + "KLMNOP",
        PEM.format("") + "\n...\n-----END PRIVATE KEY-----",
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4ifQ." + BODY[:43],  # of jwt.io
        "-----BEGIN CERTIFICATE-----\n" + BASE64,
        "ASIA and AKIA are prefixes",
    ],
)
def test_placeholders_and_words_are_no_keys(text):
    assert got(text, Rule.SECRET) is None


def test_a_key_behind_a_placeholder_is_found():
    assert got(f"ghp_{'x' * 36} is not ghp_{BODY[:36]}", Rule.SECRET) == "a GitHub token of 40 characters"


# --- screens


@given(st.text(st.characters(codec="utf-8") | st.sampled_from("abc<|>")))
def test_a_screen_finds_what_re_finds(text):
    patterns = ("<[|]ab", "[b-c]c{2}", "\u00e9|>>")
    assert screen(*patterns)(text) == any(re.search(pattern, text) is not None for pattern in patterns)


def test_sets_of_characters_are_cut():
    assert sets_of("abc", 2) == ("[\\u0061\\u0062]", "[\\u0063]")


@pytest.mark.parametrize(
    "text",
    [
        "eyJ" * 100_000 + ".eyJ" + BODY + "." + BODY,
        "</s>" * 100_000 + "x",
        "<s>" * 100_000,
        PEM.format("") * 20_000 + BASE64,
        "-----BEGIN " * 60_000 + "PRIVATE KEY",
        "<\uff5c" + "a" * 500_000 + "<\uff5c",
        "sk-" * 200_000 + BODY,
        "\u00d0\u0178" * 200_000,
        " " * 500_000 + "<s>",
    ],
    ids=lambda text: text[:12],
)
def test_long_texts_take_no_longer_than_their_length(text):
    started = time.process_time()
    for rule in (Rule.TEMPLATE_TOKEN, Rule.CONTROL_CHARACTER, Rule.BROKEN_ENCODING, Rule.SECRET):
        got(text, rule)
    assert time.process_time() - started < 5  # a search that begins again at each place takes minutes
