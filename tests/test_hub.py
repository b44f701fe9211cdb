"""Data sets of the hub, by the code that reads them there, from local folders of the same layout."""

import gzip
import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pyarrow as pa
import pytest
from pyarrow import parquet

from schemas.errors import InputError
from trainer.config.data import DatasetSection, TrainDatasetSection
from trainer.data.hub import hub_rows
from trainer.run.start import load_groups

REPOSITORY = Path(__file__).parents[1]


def asked(text):
    return {"role": "user", "content": text}


def said(text):
    return {"role": "assistant", "content": text}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def helpsteer3(tmp_path):
    """A folder as the hub's nvidia/HelpSteer3: two subsets, gzipped JSONL for each split."""
    folder = tmp_path / "HelpSteer3"
    (folder / "preference").mkdir(parents=True)
    (folder / "feedback").mkdir()
    (folder / "README.md").write_text(
        "---\nconfigs:\n"
        "- config_name: preference\n  data_files:\n"
        "  - split: train\n    path: preference/train.jsonl.gz\n"
        "  - split: validation\n    path: preference/validation.jsonl.gz\n"
        "- config_name: feedback\n  data_files:\n"
        "  - split: train\n    path: feedback/train.jsonl.gz\n"
        "---\n# Invented rows\n"
    )
    rows = [
        {
            "domain": "general",
            "language": "english",
            "context": [asked("Hello"), said("Hi"), asked(f"Question {number}")],
            "response1": "one",
            "response2": "two",
            "overall_preference": preference,
            "individual_preference": [{"score": preference, "reasoning": "why", "feedback1": None}],
        }
        for number, preference in enumerate((-2, 0, 3))
    ]
    for split, kept in (("train", rows), ("validation", rows[2:])):
        lines = "".join(json.dumps(row) + "\n" for row in kept)
        (folder / "preference" / f"{split}.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (folder / "feedback" / "train.jsonl.gz").write_bytes(gzip.compress(b'{"feedback": "none"}\n'))
    return folder


@pytest.fixture
def tulu3(tmp_path):
    """A folder as the hub's allenai/llama-3.1-tulu-3-8b-preference-mixture: Parquet in two parts."""
    folder = tmp_path / "tulu"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*\n---\n"
    )
    for part in range(2):
        rows = [{"id": f"{part}", "source": "x"} | {s: [asked(f"Q{part}"), said(s)] for s in ("chosen", "rejected")}]
        parquet.write_table(pa.Table.from_pylist(rows), folder / "data" / f"train-0000{part}-of-00002.parquet")
    return folder


def load(**options):
    return load_groups([TrainDatasetSection(**options)], shown=False)


def test_helpsteer3_is_read_with_its_ties_counted(helpsteer3):
    loaded = load(data_path=helpsteer3, dataset_name="HelpSteer3")
    assert dict(loaded.dropped) == {"tie": 1}
    first, second = loaded.groups
    assert first.prompt == (asked("Hello"), said("Hi"), asked("Question 0"))
    assert first.responses[first.pairs[0].chosen].messages == (said("one"),)
    assert second.responses[second.pairs[0].chosen].messages == (said("two"),)
    assert second.pairs[0].source == f"{helpsteer3}[preference/train]:3"


def test_a_split_and_a_subset_are_taken(helpsteer3):
    (group,) = load(data_path=helpsteer3, subset="preference", split="validation").groups  # told by its keys
    assert group.prompt[-1] == asked("Question 2")


def test_tulu3_is_read_from_all_its_parts(tulu3):
    for name in ("Tulu3Preference", None):
        groups = load(data_path=tulu3, dataset_name=name).groups
        assert [group.prompt for group in groups] == [(asked("Q0"),), (asked("Q1"),)]
        assert [group.responses[0].messages for group in groups] == [(said("chosen"),)] * 2
        assert groups[1].pairs[0].source == f"{tulu3}[train]:2"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"subset": "preference", "split": "test"}, "has no split test; it has 'train', 'validation', name one with"),
        ({"subset": "edits"}, "has no subset edits; it has 'preference', 'feedback', name one with subset="),
        ({}, "has several subsets, 'preference', 'feedback'; name one with subset="),
    ],
)
def test_a_wrong_split_or_subset_is_told_with_those_there(helpsteer3, options, problem):
    with pytest.raises(InputError) as raised:
        load(data_path=helpsteer3, **options)
    assert str(raised.value).startswith(f"data set {helpsteer3}: {problem}")


def test_what_can_not_be_loaded_is_told_in_a_line(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "train.jsonl").write_text('{"prompt": "Q"\n')
    for name in ("empty", "broken"):
        with pytest.raises(InputError) as raised:
            load(data_path=tmp_path / name)
        message = str(raised.value)
        assert message.startswith(f"data set {tmp_path / name}: can't be loaded: ")
        assert "\n" not in message


def asked_in_another_process(name, home, **env):
    """Ask for a data set; the settings are read when the library is imported."""
    script = (
        "from trainer.data.hub import hub_rows\n"
        "from schemas.errors import InputError\n"
        f"try: next(hub_rows({name!r}, None, None))\n"
        "except InputError as error: print(error)\n"
    )
    env = {**os.environ, "HF_HOME": str(home), "PYTHONPATH": str(REPOSITORY), **env}
    result = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)
    (line,) = result.stdout.splitlines()
    return line


def test_without_the_hub_the_remedy_is_told(tmp_path):
    line = asked_in_another_process("nobody/nothing", tmp_path, HF_HUB_OFFLINE="1")
    assert line.startswith("data set nobody/nothing: can't be loaded: ")
    assert "HF_HUB_OFFLINE=1 only what was loaded before is there" in line


class _NothingThere(BaseHTTPRequestHandler):
    """Answers as the hub answers for a repository that is not there, or not for the one who asks."""

    def do_GET(self):
        self.send_response(404 if "nothing" in self.path else 403)
        self.send_header("X-Error-Code", "RepoNotFound" if "nothing" in self.path else "GatedRepo")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *parts):
        pass


@pytest.mark.parametrize("name", ["nobody/nothing", "nobody/gated"])
def test_a_name_that_the_hub_does_not_have_is_told_at_once(tmp_path, name):
    with HTTPServer(("127.0.0.1", 0), _NothingThere) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        env = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_OFFLINE": "0"}
        line = asked_in_another_process(name, tmp_path, **env)
        server.shutdown()
    assert line.startswith(f"data set {name}: no such folder, and the hub has no such data set, or not for you; name a")
    assert "hf auth login" in line


def test_rows_have_no_keys_that_are_null(tmp_path):
    (tmp_path / "set").mkdir()
    rows = [{"prompt": "Q", "chosen": "A", "rejected": "B", "tools": None}, {"prompt": "Q", "chosen": None, "x": 1}]
    (tmp_path / "set" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert list(hub_rows(str(tmp_path / "set"), None, None)) == [
        (1, {"prompt": "Q", "chosen": "A", "rejected": "B"}),
        (2, {"prompt": "Q", "x": 1}),
    ]


def test_a_validation_set_is_read_by_the_same_function(helpsteer3):
    section = DatasetSection(data_path=helpsteer3, dataset_name="HelpSteer3", split="validation")
    assert len(load_groups((section,), shown=False).groups) == 1
