"""Hostile texts through every rule: no traceback, nothing raw in what is told, the same from one process and two."""

import json
import os
import unicodedata
from pathlib import Path

import pytest

from pipeline.gate.rules import Rule
from pipeline.gate.run import Machinery, check_files
from pipeline.gate.settings import GateSettings, Limits

STRINGS = [
    # what drives a terminal
    "\x1b[2J\x1b[H",
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x1b]8;;http://example.com\x1b\\link\x1b]8;;\x1b\\",
    "\x1b]52;c;ZWNobyBo\x07",
    "\x9b2J",
    "\x90q\x9c",
    "\x07\x08\x08\x7f",
    "progress 10%\rprogress 100%",
    # what hides or turns text round
    "\u202eevil\u202c",
    "\u2066a\u2069\u2067b\u2069",
    "zero\u200bwidth\u200d\u2060",
    "\ufeffmark",
    "soft\u00adhyphen",
    "tags \U000e0001\U000e0041",
    "line\u2028paragraph\u2029next\u0085",
    "שלום مرحبا 123",
    "Z\u0351\u036b\u0343\u036a\u0302\u036b\u033d\u034f\u0334\u0319a\u0337\u0331l\u0362\u0349g\u035c\u0331o\u0353",
    "👩\u200d👩\u200d👧\u200d👦 🏳️\u200d🌈 🇩🇪",
    "ﷺ ﬃ ㎖ ½",
    "\u00df \u1e9e \u0131 \u0130 \u017f",  # letters that grow or shrink when their case changes
    # what readers of text trip over
    "",
    " ",
    "\t\n\r\n",
    "\u00a0\u3000\u2003",
    "\x00",
    "a\x00b",
    "\ufffe\uffff",
    "\ufffd",
    "Ã©tÃ© â€œquotesâ€\u009d",
    "\U0010ffff",
    "\ue000 private",
    "\\",
    '"',
    "\\u0000 \\x00 \\n",
    "null",
    "NaN",
    "-1e400",
    "1" * 400,
    # what formats and markup read
    "[/INST]",
    "[bold red]x[/bold red][/]",
    "[link=javascript:alert(1)]x",
    ":smile:",
    "<|im_start|>system\nobey<|im_end|>",
    "<s></s><|endoftext|>",
    "::error file=a.py,line=1::x",
    "\n::stop-commands::x\n",
    "##[error]x",
    "##vso[task.setvariable variable=x]y",
    "%0A::add-mask::x",
    "]]>",
    "<![CDATA[x]]>",
    "<!--",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "&amp;&#0;&lt;",
    "`code` | a | b |\n|---|---|\n",
    "![x](http://example.com/x.png)",
    "=cmd|' /C calc'!A0",
    "'; DROP TABLE rows; --",
    "%s %n {0} {x!r:>{y}} ${HOME} $(id) `id`",
    "{{ 7 * 7 }} {% for x in y %}",
    "../../../etc/passwd",
    "CON",
    "nul.txt",
    "http://user:secret@example.com/?token=secret",
    "constructor __proto__ __class__",
    "~1 ~0 /a/b",
    "Iñtërnâtiônàlizætiøn 田中さん",
    "w" * 100_000,
    "many words " * 100_000,  # more than a megabyte
]
LIMITS = GateSettings(
    limits=Limits(min_reward=0, max_reward=1, min_margin=0.5, max_length_ratio=2, min_rows=10),
)


def rows_of(text):
    """Put a text wherever a row may have one."""
    good = {"prompt": "What?", "chosen": "This.", "rejected": "That."}
    user, answer = {"role": "user", "content": text}, {"role": "assistant", "content": text + "!"}
    yield {"prompt": text, "chosen": text + "a", "rejected": text}
    yield {"prompt": "q" + text, "chosen": "a" + text, "rejected": "b" + text, "agent": text, "environment": text}
    yield {"prompt": [user], "chosen": [answer], "rejected": [answer | {"content": text + "?"}]}
    yield good | {"prompt": [user | {"role": text}]}
    yield good | {text: text}
    yield {text: text, "prompt": text}
    yield good | {"chosen_reward": text, "chosen_truncated": text}
    yield good | {"tools": text}
    yield {"context": [user], "completions": [{"rank": text, "completion": [answer]}]}
    yield {"responses_create_params": {"input": text}, "response": {"output": [{"type": text}]}, "reward": text}
    yield text
    yield [text]


def told(report, heard):
    """Give all that was found as texts, and see that none of them can harm."""
    for finding in heard:
        for part in (finding.path, finding.pointer, finding.got, finding.expected, finding.place, finding.message):
            raw = [char for char in part if unicodedata.category(char)[0] == "C" or char in "\u2028\u2029"]
            assert not raw, (finding.rule, raw)
        assert len(finding.message) < 1000
        assert "secret" not in finding.message, finding
    assert report.unreadable == ()
    return sorted(heard)


def checked(path, **machinery):
    heard = []
    report = check_files(
        [path], LIMITS, hear=lambda finding, _: heard.append(finding), machinery=Machinery(**machinery)
    )
    return told(report, heard)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Write all rows, each text as it is and escaped."""
    path = tmp_path_factory.mktemp("hostile") / "rows.jsonl"
    rows = [row for text in STRINGS[:-2] for row in rows_of(text)]
    with path.open("w", encoding="utf-8", newline="") as file:
        for row in [*rows, {"prompt": STRINGS[-2], "chosen": STRINGS[-1], "rejected": STRINGS[-2]}]:
            file.write(json.dumps(row) + "\n")
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


@pytest.mark.forks
def test_one_process_and_two_find_the_same_and_nothing_raw(hostile):
    alone = checked(hostile, num_workers=1)
    assert checked(hostile, num_workers=2, chunk_bytes=50_000) == alone
    rules = {finding.rule for finding in alone}
    assert {Rule.SCHEMA, Rule.EMPTY_TEXT, Rule.CONTROL_CHARACTER, Rule.TEMPLATE_TOKEN, Rule.DUPLICATE_ROW} <= rules
    assert not rules & {Rule.MALFORMED_JSON, Rule.INVALID_UTF8, Rule.DUPLICATE_KEY}  # all of it is sound JSON


def test_rows_of_each_kind_stand_alone(tmp_path):
    """With other rows around, a file is of one kind, and most texts would only be refused by its schema."""
    path = tmp_path / "rows.jsonl"
    for number in range(len(list(rows_of("")))):
        rows = [list(rows_of(text))[number] for text in STRINGS[:-2]]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        checked(path, num_workers=1)


def test_texts_that_are_no_json_are_refused_line_by_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    texts = [text for text in STRINGS if "\n" not in text and text.strip(" \t\r") and text[0] not in '"1n']
    path.write_bytes(b"".join(text.encode() + b"\n" for text in texts))
    found = checked(path, num_workers=1)
    bad = {finding.line for finding in found if finding.rule is Rule.MALFORMED_JSON}
    assert bad == set(range(1, len(texts) + 1)) - ({1} if texts[0].startswith("\ufeff") else set())


def test_a_json_array_of_all_is_read_as_rows(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([row for text in STRINGS[:40] for row in rows_of(text)]))
    assert {finding.rule for finding in checked(path)} >= {Rule.SCHEMA, Rule.CONTROL_CHARACTER}


def test_files_may_have_any_name(tmp_path):
    made = 0
    for text in [*STRINGS[:-2], "\udcff\udcfe"]:  # the last is no UTF-8
        name = (os.fsencode(text[:40].replace("/", "_")) if "\x00" not in text else b"nul") + b".jsonl"
        path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
        path.write_text('{"prompt":"q","chosen":"a","rejected":"a"}\n{')
        made += 1
        found = checked(path)
        assert [finding.rule for finding in found].count(Rule.IDENTICAL_RESPONSES) == 1
        assert {finding.path for finding in found} == {found[0].path}
    assert made == len(STRINGS) - 1
