"""Preference data in the forms and packings that other tools write, read into the same pairs."""

import gzip
import json
import re
from collections import Counter
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
import yaml
from pyarrow import parquet
from trl import extract_prompt

from schemas.errors import DpoError, InputError, UsageError
from schemas.forms import DEFAULT_KEYS, PairKeys, named_form
from schemas.preference import pairs_of_rows
from schemas.rows import read_rows
from tests.gate_runs import checked
from trainer.config.data import HUB_SETS, NAMED_SETS, DatasetSection, TrainDatasetSection
from trainer.config.sections import TrainConfig
from trainer.data.sources import Account, Origin, check_dataset, iter_dataset, origin_of
from trainer.run.start import load_groups

REPOSITORY = Path(__file__).parents[1]

datasets.disable_progress_bars()


def asked(text):
    return {"role": "user", "content": text}


def said(text):
    return {"role": "assistant", "content": text}


SYSTEM = {"role": "system", "content": "S"}
TURNS = [asked("Hello"), said("Hi"), asked("2+2?")]
ROW = {"prompt": "Q", "chosen": "A", "rejected": "B"}


def pairs_of(*rows, name=None, keys=DEFAULT_KEYS, **options):
    form = named_form(name, keys) if name else None
    return list(pairs_of_rows(enumerate(rows, start=1), shown="set", form=form, keys=keys, **options))


def parts(pair):
    return [list(pair.prompt), list(pair.chosen), list(pair.rejected)]


def read(path=None, *, number=0, **options):
    section = DatasetSection(data_path=path, **options)
    account = Account()
    pairs = list(iter_dataset(section, number=number, account=account, advance=lambda amount: None))
    return pairs, account


QAB = [[asked("Q")], [said("A")], [said("B")]]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (ROW, QAB),
        ({"prompt": [SYSTEM, asked("Q")], "chosen": "A", "rejected": "B"}, [[SYSTEM, asked("Q")], *QAB[1:]]),
        ({"prompt": "Q", "chosen": [said("A")], "rejected": [said("B")]}, QAB),
        ({"prompt": "Q", "chosen": [said("A")], "rejected": "B"}, QAB),  # one side as text
        ({"prompt": [asked("Q")], "chosen": "A", "rejected": [said("B")]}, QAB),
        ({**ROW, "task_name": "mine"}, QAB),
        # of UltraFeedback's kind: the prompt once more, as text
        ({"prompt": "Q", "chosen": [asked("Q"), said("A")], "rejected": [asked("Q"), said("B")]}, QAB),
        # TRL, without a prompt
        ({"chosen": [asked("Q"), said("A")], "rejected": [asked("Q"), said("B")]}, QAB),
        ({"chosen": [*TURNS, said("4")], "rejected": [*TURNS, said("5")]}, [TURNS, [said("4")], [said("5")]]),
        (
            {"chosen": [asked("Q"), said("A"), asked("and?"), said("C")], "rejected": [asked("Q"), said("B")]},
            [[asked("Q")], [said("A"), asked("and?"), said("C")], [said("B")]],
        ),
        # NeMo RL up to 0.3
        ({"prompt": "Q", "chosen_response": "A", "rejected_response": "B"}, QAB),
        # NeMo RL
        (
            {
                "context": TURNS,
                "completions": [{"rank": 7, "completion": [said("5")]}, {"rank": -0.5, "completion": [said("4")]}],
                "task_name": "arithmetic",
            },
            [TURNS, [said("4")], [said("5")]],
        ),
    ],
)
def test_each_form_is_told_by_its_keys(row, expected):
    (pair,) = pairs_of(row)
    assert parts(pair) == expected
    assert pair.source == "set:1"


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [
        ([*TURNS, said("4")], [*TURNS, said("5")]),
        ([asked("Q"), said("A"), asked("and?"), said("C")], [asked("Q"), said("B")]),
        ([*TURNS, said("4")], [*TURNS, said("4"), asked("sure?"), said("5")]),  # one is the beginning of the other
        ([*TURNS, said("4")], [*TURNS, said("4")]),
    ],
)
def test_a_conversation_is_cut_where_trl_cuts_it(chosen, rejected):
    (pair,) = pairs_of({"chosen": chosen, "rejected": rejected})
    theirs = extract_prompt({"chosen": chosen, "rejected": rejected})
    assert parts(pair) == [theirs["prompt"], theirs["chosen"], theirs["rejected"]]


@pytest.mark.parametrize(
    ("chosen", "rejected", "cut"),
    [
        ("2+2? It is 4", "2+2? It is 5", ["2+2? It is", " 4", " 5"]),
        ("Name it: apple", "Name it: apricot", ["Name it:", " apple", " apricot"]),  # no word is torn
        ("Q: 4", "Q: 4 maybe", ["Q:", " 4", " 4 maybe"]),
        (
            "\n\nHuman: Hi\n\nAssistant: I am well",
            "\n\nHuman: Hi\n\nAssistant: I am not",
            ["\n\nHuman: Hi\n\nAssistant:", " I am well", " I am not"],
        ),
    ],
)
def test_whole_texts_are_cut_between_words(chosen, rejected, cut):
    (pair,) = pairs_of({"chosen": chosen, "rejected": rejected})
    assert [messages[0]["content"] for messages in parts(pair)] == cut


def test_a_prompt_that_the_first_row_lacks_is_told():
    whole = {"chosen": [asked("Q"), said("A")], "rejected": [asked("Q"), said("B")]}
    with pytest.raises(InputError, match=r"set:2: /prompt: got a prompt, expected none: the first row has none"):
        pairs_of(whole, ROW)


def test_a_prompt_that_stands_in_both_sides_too_is_taken_off_once():
    whole = {side: [asked("Q"), said("hm"), asked("go on"), said(side)] for side in ("chosen", "rejected")}
    (pair,) = pairs_of({"prompt": [asked("Q")], **whole})
    assert [len(part) for part in parts(pair)] == [1, 3, 3]
    (pair,) = pairs_of({"prompt": [asked("other")], **whole})  # then it is not theirs
    assert [len(part) for part in parts(pair)] == [1, 4, 4]
    with pytest.raises(
        InputError,
        match=r"set:1: /prompt: got 'other', which is none of the messages .* see each with: dpo validate set$",
    ):
        pairs_of({"prompt": "other", **whole})


def test_keys_may_be_called_otherwise():
    keys = PairKeys("question", "good", "bad")
    row = {"question": "Q", "good": "A", "bad": "B", "prompt": "another column", "chosen_reward": 1.0}
    for name in (None, "BinaryPreferenceDataset"):
        (pair,) = pairs_of(row, name=name, keys=keys)
        assert parts(pair) == QAB
        assert pair.chosen_reward == 1.0
    with pytest.raises(InputError, match=r"set:1: \(row\): got an object with keys prompt, .*expected a key question"):
        pairs_of(ROW, keys=keys)
    options = "--prompt-key question --chosen-key good --rejected-key bad"
    message = r"set:2: /good: got 1, expected string; 1 of 2 rows are no preference pairs, see each with: dpo validate"
    with pytest.raises(InputError, match=f"{message} set {options}$"):
        pairs_of(row, {**row, "good": 1}, keys=keys)


def helpsteer3(preference, **changes):
    row = {
        "domain": "code",
        "language": "python",
        "context": TURNS,
        "response1": "first",
        "response2": "second",
        "overall_preference": preference,
        "individual_preference": [],
    }
    return row | changes


@pytest.mark.parametrize("name", [None, "HelpSteer3"])
def test_helpsteer3s_sign_tells_the_better_response_and_0_is_a_tie(name):
    ties = []
    rows = [helpsteer3(score) for score in (-3, 1, 0, -1)]
    pairs = pairs_of(*rows, name=name, count_tie=lambda: ties.append(1))
    assert [pair.chosen[0]["content"] for pair in pairs] == ["first", "second", "first"]
    assert [pair.rejected[0]["content"] for pair in pairs] == ["second", "first", "second"]
    assert [pair.source for pair in pairs] == ["set:1", "set:2", "set:4"]
    assert list(pairs[0].prompt) == TURNS
    assert len(ties) == 1


def test_ties_alone_are_no_data():
    with pytest.raises(DpoError, match="set: no pairs: in all 2 rows neither response is the better one"):
        pairs_of(helpsteer3(0), helpsteer3(0))


def test_tulu3s_conversations_are_cut_before_the_last_message():
    row = {"id": "1", "source": "x", "chosen": [*TURNS, said("4")], "rejected": [*TURNS, said("5")]}
    (pair,) = pairs_of(row, name="Tulu3Preference")
    assert parts(pair) == [TURNS, [said("4")], [said("5")]]


@pytest.mark.parametrize(
    ("row", "name", "problem"),
    [
        ({"context": TURNS, "completions": []}, None, "/completions: got 0, expected two; keep the best"),
        (
            {"context": TURNS, "completions": [{"rank": n, "completion": [said("A")]} for n in range(3)]},
            "PreferenceDataset",
            "/completions: got 3, expected two; keep the best and another one, or make a row of each pair",
        ),
        (helpsteer3("-1"), None, "/overall_preference: got no number"),
        (helpsteer3(True), None, "/overall_preference: got no number"),
        (helpsteer3(1, response2=7), None, "/response2: got 7, expected text"),
        ({"chosen": [asked("Q"), said("A")], "rejected": "B"}, "Tulu3Preference", "got no conversation"),
        (
            {"chosen": [asked("Q"), said("A")], "rejected": [asked("R"), said("B")]},
            "Tulu3Preference",
            "/chosen: got another context than in /rejected",
        ),
        (
            {"chosen": [asked("Q"), said("A")], "rejected": [asked("R"), said("B")]},
            None,
            "begins otherwise than /rejected",
        ),
        ({"chosen": "yes", "rejected": "no"}, None, "no words in common at the beginning of 'yes' and 'no'"),
        (
            {"question": "Q", "chosen": "It is 4", "rejected": "It is 5"},
            None,
            "got no key prompt, but a key question; say prompt_key=question",
        ),
        ({"prompt": "Q", "chosen_response": "A", "rejected_response": 2}, None, "/rejected_response: got 2"),
        ({"context": TURNS}, "BinaryPreferenceDataset", "expected a key prompt"),
    ],
)
def test_what_is_wrong_with_a_row_is_told_in_its_own_words(row, name, problem):
    with pytest.raises(InputError) as raised:
        pairs_of(row, name=name)
    message = str(raised.value)
    assert message.startswith("set:1: ")
    assert problem in message


# packings


ROWS = [
    {"prompt": "Q1", "chosen": 'A, "quoted"\nand a line', "rejected": "B", "chosen_reward": 1.0},
    {"prompt": "[1, 2] sorted?", "chosen": "3", "rejected": "true", "chosen_reward": None},
    {"prompt": "naïve \u2028 🙂", "chosen": "[x]", "rejected": "5", "chosen_reward": 0.5},
]
EXPECTED = [(row["prompt"], row["chosen"], row["rejected"], row["chosen_reward"]) for row in ROWS]


def write_csv(path, rows):
    datasets.Dataset.from_list(rows).to_csv(path, index=False)


def write_arrow_file(path, rows):
    table = pa.Table.from_pylist(rows)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def write_arrow_stream(path, rows):
    table = pa.Table.from_pylist(rows)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


WRITERS = {
    "pairs.jsonl": write_lines,
    "lines.json": write_lines,
    "array.json": lambda path, rows: path.write_text("\n " + json.dumps(rows, indent=2)),
    "array.json.gz": lambda path, rows: path.write_bytes(gzip.compress(json.dumps(rows).encode())),
    "pairs.parquet": lambda path, rows: parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=2),
    "file.arrow": write_arrow_file,
    "stream.arrow": write_arrow_stream,
    "pairs.csv": write_csv,
    "saved": lambda path, rows: datasets.Dataset.from_list(rows).save_to_disk(path),
    "several": lambda path, rows: datasets.DatasetDict(
        {"test": datasets.Dataset.from_list(rows[:1]), "train": datasets.Dataset.from_list(rows)}
    ).save_to_disk(path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_each_packing_gives_the_same_pairs(tmp_path, name):
    WRITERS[name](tmp_path / name, ROWS)
    pairs, _ = read(tmp_path / name, number=3)
    found = [
        (pair.prompt[0]["content"], pair.chosen[0]["content"], pair.rejected[0]["content"], pair.chosen_reward)
        for pair in pairs
    ]
    assert found == EXPECTED
    folder = tmp_path / name / "train" if name == "several" else tmp_path / name
    assert [pair.source for pair in pairs] == [f"{folder}:{number}" for number in (1, 2, 3)]
    assert {pair.dataset for pair in pairs} == {3}


@pytest.mark.parametrize("name", ["array.json", "pairs.parquet", "file.arrow", "stream.arrow", "pairs.csv", "saved"])
def test_messages_stand_in_each_packing(tmp_path, name):
    rows = [{"prompt": TURNS, "chosen": [said("4")], "rejected": [said("5")]}]
    if name == "pairs.csv":
        rows = [{key: json.dumps(value) for key, value in row.items()} for row in rows]
    WRITERS[name](tmp_path / name, rows)
    (pair,), _ = read(tmp_path / name)
    assert parts(pair) == [TURNS, [said("4")], [said("5")]]


def test_a_split_of_a_saved_folder_is_taken(tmp_path):
    WRITERS["several"](tmp_path / "several", ROWS)
    assert len(read(tmp_path / "several", split="test")[0]) == 1
    with pytest.raises(InputError, match=r"has no split dev; it has test, train, name one with split="):
        read(tmp_path / "several", split="dev")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("array.json", b'[{"prompt": "Q"},\n', "begins with [, and is no JSON array"),
        ("file.arrow", b"ARROW1\0\0rest", "can't be read as Arrow"),
        ("stream.arrow", b"no arrow", "can't be read as Arrow"),
        ("pairs.parquet", b"PAR1", "can't be read as Parquet"),
        ("pairs.csv", b'prompt,chosen,rejected\n"Q,A,B\n', "can't be read as CSV"),
        ("pairs.csv", b"prompt,chosen,rejected\nQ,\xff,B\n", "can't be read as CSV"),
        ("pairs.csv", b"prompt,chosen,rejected\n,A,B\n", ":1: /prompt: got an empty string"),
        ("pairs.csv", b"prompt,chosen,rejected\nQ,A,B\nQ,A,B,C\n", ":2: got 4 cells, expected 3"),
        ("array.json", b'[{"prompt": "Q", "chosen": "A", "rejected": "B"}, 7]', ":2: (row): got 7, expected object"),
    ],
)
def test_what_is_broken_is_told_in_a_line(tmp_path, name, content, problem):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as raised:
        read(path)
    assert str(raised.value).startswith(str(path))
    assert problem in str(raised.value)
    assert "\n" not in str(raised.value)


def test_parquet_is_not_read_by_url():
    with pytest.raises(InputError, match=r"s3://bucket/a.parquet: Parquet is not read by URL; fetch the file first"):
        read("s3://bucket/a.parquet")


def test_a_file_that_is_not_there_is_told_before_what_is_asked_of_it(tmp_path):
    for name in ("absent.jsonl", "x" * 300):
        with pytest.raises(InputError, match=r"no such file|File name too long"):
            check_dataset(DatasetSection(data_path=tmp_path / name, split="test"))


def test_a_cell_of_csv_may_be_long(tmp_path):
    write_csv(tmp_path / "pairs.csv", [{**ROW, "chosen": "x" * 200_000}])
    (pair,), _ = read(tmp_path / "pairs.csv")
    assert len(pair.chosen[0]["content"]) == 200_000


def test_parquet_of_one_row_group_is_not_decoded_at_once(tmp_path):
    parquet.write_table(pa.Table.from_pylist([ROW] * 5000), tmp_path / "pairs.parquet")
    advanced = []
    rows = read_rows(tmp_path / "pairs.parquet", advanced.append)
    assert next(rows) == (1, ROW)
    assert sum(1 for _ in rows) == 4999
    assert len(advanced) == 1


# what a set is read from


def test_a_set_is_a_file_a_folder_or_a_name_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "file").write_text("")
    WRITERS["saved"](tmp_path / "org" / "saved", ROWS)
    assert origin_of(DatasetSection(data_path="org/file")) is Origin.FILE  # what is there is not asked for
    assert origin_of(DatasetSection(data_path="org/saved")) is Origin.SAVED
    assert origin_of(DatasetSection(data_path="org")) is Origin.HUB  # a folder of the hub's layout
    for name in ("nvidia/HelpSteer3", "allenai/llama-3.1-tulu-3-8b-preference-mixture"):
        assert origin_of(DatasetSection(data_path=name)) is Origin.HUB
    for name in ("org/typo.jsonl", "org/pairs.json.gz", "../org/set", "a/b/c", "set", "-", "s3://bucket/set"):
        assert origin_of(DatasetSection(data_path=name)) is Origin.FILE, name
    with pytest.raises(InputError, match=r"org/typo\.jsonl: no such file"):
        check_dataset(DatasetSection(data_path="org/typo.jsonl"))


@pytest.mark.parametrize(("option", "value"), [("split", "validation"), ("subset", "x")])
def test_a_file_has_no_splits(tmp_path, option, value):
    write_lines(tmp_path / "pairs.jsonl", ROWS)
    with pytest.raises(UsageError, match=f"is a file, and has no {option}"):
        check_dataset(DatasetSection(data_path=tmp_path / "pairs.jsonl", **{option: value}))
    check_dataset(DatasetSection(data_path=tmp_path / "pairs.jsonl", split="train"))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"dataset_name": "HelpSteer"}, "no such kind of data set; did you mean HelpSteer3"),
        ({"dataset_name": "zzz"}, "there are HelpSteer3, Tulu3Preference, BinaryPreferenceDataset, PreferenceDataset"),
        ({"dataset_name": "PreferenceDataset"}, "no data: give data_path"),
        ({"data_path": "x", "prompt_key": "chosen"}, "are three different keys"),
        ({"dataset_name": "HelpSteer3", "prompt_key": "question"}, "name keys of BinaryPreference rows, not of Help"),
    ],
)
def test_an_impossible_set_is_refused_at_once(options, problem):
    with pytest.raises(ValueError, match=problem):
        DatasetSection(**options)


# classes of the user's own


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "my_preferences.py").write_text(
        "from types import SimpleNamespace\n"
        "def row(text):\n"
        "    return {'context': [{'role': 'user', 'content': text}], 'task_name': 'mine', 'completions': [\n"
        "        {'rank': 1, 'completion': [{'role': 'assistant', 'content': 'worse'}]},\n"
        "        {'rank': 0, 'completion': [{'role': 'assistant', 'content': 'better'}]}]}\n"
        "class Mine:\n"
        "    def __init__(self, data_path, split=None):\n"
        "        self.formatted_ds = {'train': [row(data_path)], 'validation': [row(f'held out {split}')]}\n"
        "        self.task_spec = SimpleNamespace(task_name='mine', prompt='Solve: {}', system_prompt=None)\n"
        "class Newer:\n"
        "    def __init__(self, **options):\n"
        "        self.dataset = [row(','.join(sorted(options)))]\n"
        "class Broken:\n"
        "    def __init__(self):\n"
        "        raise KeyError('nothing')\n"
        "class Empty:\n"
        "    formatted_ds = {'train': None, 'validation': None}\n"
        "class Number:\n"
        "    formatted_ds = 3\n"
        "class Stops:\n"
        "    def __init__(self):\n"
        "        self.dataset = map(row, iter(lambda: 1 / 0, 1))\n"
        "class NoPlace:\n"
        "    formatted_ds = [row('x')]\n"
        "    task_spec = SimpleNamespace(prompt='Think!', system_prompt=None)\n"
        "class NoText:\n"
        "    formatted_ds = [row('x')]\n"
        "    task_spec = SimpleNamespace(prompt=None, system_prompt=3)\n"
    )
    (tmp_path / "my_broken_preferences.py").write_text("def (:\n")
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("own_module")
def test_a_class_of_nemo_rls_kind_is_read():
    options = {"dataset_name": "my_preferences.Mine", "data_path": "where"}
    (group,) = load_groups([TrainDatasetSection(**options)], shown=False).groups
    assert group.prompt == (asked("Solve: where"),)  # with the text of its task_spec
    assert [response.messages[0]["content"] for response in group.responses] == ["better", "worse"]
    assert group.pairs[0].source == "my_preferences.Mine:1"
    (pair,), _ = read("where", dataset_name="my_preferences.Mine")  # no set to train on
    assert pair.prompt == (asked("Solve: held out None"),)
    (pair,), _ = read(dataset_name="my_preferences.Newer", subset="s")
    assert pair.prompt == (asked("chosen_key,prompt_key,rejected_key,subset"),)


@pytest.mark.usefixtures("own_module")
@pytest.mark.parametrize(
    ("name", "problem", "kind"),
    [
        ("no_such.Class", "No module named 'no_such'; its folder must be on PYTHONPATH", UsageError),
        ("my_preferences.Other", "has no attribute 'Other'", UsageError),
        ("my_preferences.Broken", "can't be made: KeyError: 'nothing'", InputError),
        ("my_preferences.Mine", "can't be made: TypeError: .*data_path", InputError),
        ("my_preferences.Empty", "has no set validation; it has none", InputError),
        ("my_broken_preferences.Any", "can't be imported: SyntaxError: invalid syntax", UsageError),
        ("my_preferences.Number", "formatted_ds is int, expected rows, or sets of rows by name", InputError),
        ("my_preferences.Stops", "stopped in the middle of its rows: ZeroDivisionError: division by zero", InputError),
        ("my_preferences.NoPlace", "prompt of its task_spec: has {} 0 times, expected once", UsageError),
        ("my_preferences.NoText", "prompt and system_prompt of its task_spec are texts or None", UsageError),
    ],
)
def test_what_is_wrong_with_a_class_is_told(name, problem, kind):
    with pytest.raises(kind, match=f"dataset_name={name}: .*{problem}"):
        read(dataset_name=name)


@pytest.mark.usefixtures("own_module")
def test_a_module_that_is_not_there_is_told_before_anything_loads():
    check_dataset(DatasetSection(dataset_name="my_preferences.Mine"))
    with pytest.raises(
        UsageError, match=r"dataset_name=no_such.Class: there is no module no_such; its folder must be on"
    ):
        check_dataset(DatasetSection(dataset_name="no_such.Class"))


def test_ties_and_sets_come_with_the_groups(tmp_path):
    write_lines(tmp_path / "one.jsonl", [helpsteer3(0), helpsteer3(2)])
    write_lines(tmp_path / "two.jsonl", ROWS)
    sections = [TrainDatasetSection(data_path=tmp_path / name) for name in ("one.jsonl", "two.jsonl")]
    loaded = load_groups(sections, shown=False)
    assert dict(loaded.dropped) == {"tie": 1}
    assert [pair.dataset for group in loaded.groups for pair in group.pairs] == [0, 1, 1, 1]
    assert [pair.number for group in loaded.groups for pair in group.pairs] == [0, 1, 2, 3]
    assert load_groups(sections[1:], shown=False).dropped == Counter()


def test_no_rows_name_the_set(tmp_path):
    (tmp_path / "one.jsonl").write_text("")
    with pytest.raises(DpoError, match=r"one.jsonl: has no rows"):
        load_groups([TrainDatasetSection(data_path=tmp_path / "one.jsonl")], shown=False)


# docs/datasets.md


def test_every_row_of_the_docs_is_read():
    page = (REPOSITORY / "docs" / "datasets.md").read_text()
    blocks = re.findall(r"```json\n(.*?)```", page, flags=re.DOTALL)
    assert len(blocks) == 7
    for block in blocks:
        (pair,) = pairs_of(json.loads(block))
        texts = ["".join(message["content"].strip() for message in side) for side in parts(pair)]
        assert texts[0] in ("2+2?", "Be brief.2+2?", "Human: 2+2?\n\nAssistant:")
        assert texts[1:] == ["4", "5"]


def test_every_name_and_packing_is_documented():
    page = (REPOSITORY / "docs" / "datasets.md").read_text()
    for name in NAMED_SETS:
        assert f"| `{name}` |" in page
    for place in HUB_SETS.values():
        assert f"`{place}`" in page
    assert re.search(r"\*\.parquet`, `\*\.arrow`, `\*\.csv`", page)


def test_the_mixture_of_the_docs_is_a_configuration():
    page = (REPOSITORY / "docs" / "datasets.md").read_text()
    (block,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    config = TrainConfig.model_validate({**yaml.safe_load(block), "output_dir": "run"})
    assert [each.weight for each in config.data.train] == [2.0, 0.5]


@pytest.mark.parametrize("name", ["array.json", "pairs.parquet", "file.arrow", "saved"])
def test_each_packing_can_be_validated(tmp_path, name):
    WRITERS[name](tmp_path / name, ROWS)
    report = checked(tmp_path / name)
    assert [(file.form, file.rows, file.invalid_rows) for file in report.files] == [("binary_preference", 3, 0)]
