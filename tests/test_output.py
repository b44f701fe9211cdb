"""What is written: rows in each form and packing, the manifest, the rejects; and nothing where something goes wrong."""

import gzip
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from pipeline.attrition import Reason
from pipeline.collect import collect_pairs
from pipeline.intake import Machinery
from pipeline.reasoning import ReasoningPolicy
from pipeline.settings import Format, Settings
from schemas.errors import DpoError, UsageError

ROOT = Path(__file__).resolve().parent.parent
ALONE = Machinery(num_workers=1)
AGENT = {"agent_ref": {"type": "responses_api_agents", "name": "adder"}}
ADD = {"type": "function", "name": "add", "parameters": {"type": "object"}, "strict": True}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]


def called(arguments, result, text):
    """One tool call, its result, and the answer."""
    return [
        {"type": "function_call", "name": "add", "arguments": arguments, "call_id": "c1"},
        {"type": "function_call_output", "call_id": "c1", "output": result},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]},
    ]


@pytest.fixture
def rollouts(tmp_path, rollout, write_jsonl):
    """Two plain rollouts, and two that call a tool."""
    asked = {"tools": [ADD], "instructions": "Be exact."}
    rows = [
        rollout("Say hi", "hi", 1, **AGENT),
        rollout("Say hi", "ho \u2028 \u00e4", 0, **AGENT),
        rollout("1+2?", called('{"a": 1, "b": 2}', "3", "It is 3."), 1, params=asked, **AGENT),
        rollout("1+2?", called('{"numbers": [1, 2]}', "", "12"), 0.25, params=asked, **AGENT),
    ]
    return write_jsonl(tmp_path / "rollouts.jsonl", rows)


def rows_of(path):
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def without_group(row):
    group = row.pop("group")
    assert len(group) == 32
    assert int(group, 16) >= 0
    return row


def test_a_binary_row(tmp_path, rollouts):
    collection = collect_pairs([rollouts], tmp_path / "out.jsonl", Settings(), ALONE)
    (row,) = rows_of(tmp_path / "out.jsonl")
    assert without_group(row) == {
        "prompt": "Say hi",
        "chosen": "hi",
        "rejected": "ho \u2028 \u00e4",
        "chosen_reward": 1.0,
        "rejected_reward": 0.0,
        "chosen_truncated": False,
        "rejected_truncated": False,
        "chosen_source": f"{rollouts}:1",
        "rejected_source": f"{rollouts}:2",
        "margin": 1.0,
        "agent": "adder",
    }
    assert collection.attrition.dropped == {Reason.TOOL_USE: 2}


def test_a_binary_prompt_of_several_messages_is_their_list(tmp_path, rollout, write_jsonl):
    asked = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "Q"}]},
    ]
    source = write_jsonl(tmp_path / "in.jsonl", [rollout(asked, "A", 1), rollout(asked, "B", 0)])
    collect_pairs([source], tmp_path / "out.jsonl", Settings(), ALONE)
    (row,) = rows_of(tmp_path / "out.jsonl")
    assert row["prompt"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Q"}]
    assert row["agent"] is None


CALLED = [
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2}}},
        ],
    },
    {"role": "tool", "content": "3", "tool_call_id": "c1", "weight": 0},
    {"role": "assistant", "content": "It is 3."},
]
MISCALLED = [
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"numbers": [1, 2]}}},
        ],
    },
    {"role": "tool", "content": "", "tool_call_id": "c1", "weight": 0},
    {"role": "assistant", "content": "12"},
]
CONTEXT = [{"role": "system", "content": "Be exact."}, {"role": "user", "content": "1+2?"}]


def with_tools(rows):
    (row,) = (row for row in rows if "tools" in row)
    return without_group(row)


def test_a_preference_row(tmp_path, rollouts):
    collection = collect_pairs([rollouts], tmp_path / "out.jsonl", Settings(format=Format.PREFERENCE), ALONE)
    rows = rows_of(tmp_path / "out.jsonl")
    assert len(rows) == 2
    assert with_tools(rows) == {
        "context": CONTEXT,
        "completions": [
            {"rank": 0, "completion": CALLED, "reward": 1.0, "truncated": False, "source": f"{rollouts}:3"},
            {"rank": 1, "completion": MISCALLED, "reward": 0.25, "truncated": False, "source": f"{rollouts}:4"},
        ],
        "tools": TOOLS,
        "margin": 0.75,
        "agent": "adder",
    }
    assert collection.attrition.several_messages == 1


def test_a_trl_row(tmp_path, rollouts):
    collect_pairs([rollouts], tmp_path / "out.jsonl", Settings(format=Format.TRL), ALONE)
    rows = rows_of(tmp_path / "out.jsonl")
    (plain,) = (row for row in rows if "tools" not in row)
    assert plain["prompt"] == [{"role": "user", "content": "Say hi"}]
    assert plain["chosen"] == [{"role": "assistant", "content": "hi"}]
    row = with_tools(rows)
    assert json.loads(row.pop("tools")) == TOOLS  # a string: TRL decodes it itself
    assert row == {
        "prompt": CONTEXT,
        "chosen": CALLED,
        "rejected": MISCALLED,
        "chosen_reward": 1.0,
        "rejected_reward": 0.25,
        "chosen_truncated": False,
        "rejected_truncated": False,
        "chosen_source": f"{rollouts}:3",
        "rejected_source": f"{rollouts}:4",
        "margin": 0.75,
        "agent": "adder",
    }


def test_the_difference_of_the_greatest_rewards_is_a_number_too(tmp_path, rollout, write_jsonl):
    source = write_jsonl(tmp_path / "in.jsonl", [rollout(reward=1e308), rollout(response="B", reward=-1e308)])
    collect_pairs([source], tmp_path / "out.jsonl", Settings(), ALONE)
    (row,) = rows_of(tmp_path / "out.jsonl")
    assert isinstance(row["margin"], float)  # null is no margin, and JSON has no Infinity
    assert row["margin"] >= 1e308


@pytest.mark.parametrize("form", list(Format))
def test_without_sources_no_place_is_named(tmp_path, rollouts, form):
    collect_pairs([rollouts], tmp_path / "out.jsonl", Settings(format=form, sources=False), ALONE)
    content = (tmp_path / "out.jsonl").read_text()
    assert "source" not in content
    assert "rollouts.jsonl" not in content
    assert len(rows_of(tmp_path / "out.jsonl")) == (1 if form is Format.BINARY else 2)


def test_truncation_is_told_and_only_rejected(tmp_path, rollout, write_jsonl):
    cut = rollout(response="B", reward=0)
    cut["response"]["incomplete_details"] = {"reason": "max_output_tokens"}
    source = write_jsonl(tmp_path / "in.jsonl", [rollout(), cut])
    settings = Settings(allow_truncated_rejected=True)
    collect_pairs([source], tmp_path / "out.jsonl", settings, ALONE)
    (row,) = rows_of(tmp_path / "out.jsonl")
    assert (row["chosen_truncated"], row["rejected_truncated"]) == (False, True)


def test_stripped_reasoning_is_no_difference(tmp_path, rollout, write_jsonl):
    """Once it is stripped, both sides have one form, whether there was any or not."""
    thought = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "A"}]}
    rows = [rollout(response=[thought, said], reward=1), rollout(response="B", reward=0)]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    collection = collect_pairs([source], tmp_path / "out.jsonl", Settings(reasoning=ReasoningPolicy.STRIP), ALONE)
    assert collection.attrition.dropped == {}
    (row,) = rows_of(tmp_path / "out.jsonl")
    assert (row["chosen"], row["rejected"]) == ("A", "B")


def test_across_agents_both_are_named(tmp_path, rollout, write_jsonl):
    rows = [rollout(agent_ref={"name": "one"}), rollout(response="B", reward=0, agent_ref={"name": "two"})]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    collect_pairs([source], tmp_path / "out.jsonl", Settings(across_agents=True), ALONE)
    (row,) = rows_of(tmp_path / "out.jsonl")
    assert (row["chosen_agent"], row["rejected_agent"], "agent" in row) == ("one", "two", False)


def unpacked(path):
    content = path.read_bytes()
    if path.suffix == ".gz":
        return gzip.decompress(content)
    with pa.CompressedInputStream(pa.BufferReader(content), "zstd") as stream:
        return stream.read()


@pytest.mark.parametrize("form", list(Format))
@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst", ".JSONL.GZ"])
def test_packed_rows_are_the_same(tmp_path, rollouts, form, suffix):
    settings = Settings(format=form)
    collect_pairs([rollouts], tmp_path / "plain.jsonl", settings, ALONE)
    packed = tmp_path / f"packed{suffix}"
    collect_pairs([rollouts], packed, settings, ALONE)
    plain = (tmp_path / "plain.jsonl").read_bytes()
    assert packed.read_bytes() != plain
    assert (gzip.decompress(packed.read_bytes()) if suffix.lower().endswith("gz") else unpacked(packed)) == plain


def pruned(value):
    """Leave out what Parquet fills up: nulls."""
    if isinstance(value, dict):
        return {key: pruned(each) for key, each in value.items() if each is not None}
    return [pruned(each) for each in value] if isinstance(value, list) else value


def columnar(value):
    """Do as Parquet's columns need it: arguments are JSON in a string."""
    if isinstance(value, dict):
        return {
            key: json.dumps(each, ensure_ascii=False) if key == "arguments" else columnar(each)
            for key, each in value.items()
        }
    return [columnar(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize("form", list(Format))
def test_parquet_rows_are_the_same(tmp_path, rollouts, form):
    settings = Settings(format=form)
    collect_pairs([rollouts], tmp_path / "out.jsonl", settings, ALONE)
    collect_pairs([rollouts], tmp_path / "out.parquet", settings, ALONE)
    expected = rows_of(tmp_path / "out.jsonl")
    found = [pruned(row) for row in parquet.read_table(tmp_path / "out.parquet").to_pylist()]
    for row in expected:
        if isinstance(row.get("prompt"), str):  # a column has one type
            row["prompt"] = [{"role": "user", "content": row["prompt"]}]
    for row in (*expected, *found):
        if isinstance(row.get("tools"), str):
            row["tools"] = json.loads(row["tools"])
    assert found == columnar(expected)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet"])
def test_a_second_run_writes_the_same_bytes(tmp_path, rollouts, suffix):
    output = tmp_path / f"out{suffix}"
    manifest = tmp_path / f"out{suffix}.manifest.json"
    settings = Settings(format=Format.PREFERENCE)
    collect_pairs([rollouts], output, settings, ALONE)
    first = output.read_bytes(), manifest.read_bytes()
    collect_pairs([rollouts], output, settings, ALONE)
    assert (output.read_bytes(), manifest.read_bytes()) == first
    assert files_below(tmp_path) == [f"out{suffix}", f"out{suffix}.manifest.json", "rollouts.jsonl"]


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_manifest_names_settings_digests_attrition_and_versions(tmp_path, rollouts):
    packed = tmp_path / "more.jsonl.gz"
    packed.write_bytes(gzip.compress(rollouts.read_bytes().replace(b"Say hi", b"Say ho")))
    output = tmp_path / "dpo_train.jsonl.gz"
    settings = Settings(test_fraction=0.5, seed=3)
    collection = collect_pairs([rollouts, packed], output, settings, ALONE)
    manifest = json.loads((tmp_path / "dpo_train.jsonl.gz.manifest.json").read_text())
    assert manifest["settings"] == settings.as_dict()
    assert manifest["inputs"] == [
        {"path": str(path), "bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in (packed, rollouts)  # by name
    ]
    assert [entry["path"] for entry in manifest["outputs"]] == [str(output), str(tmp_path / "dpo_test.jsonl.gz")]
    for entry in manifest["outputs"]:
        path = Path(entry["path"])
        assert entry == {
            "path": str(path),
            "pairs": len(gzip.decompress(path.read_bytes()).splitlines()),
            "bytes": path.stat().st_size,
            "sha256": sha256(path),
        }
    assert manifest["attrition"] == collection.attrition.as_dict()
    assert manifest["attrition"]["rows"] == 8
    assert {"python", "dpo", "polars"} <= manifest["versions"].keys()


@pytest.mark.parametrize(
    ("output", "names"),
    [
        ("dpo_train.jsonl", ["dpo_test.jsonl", "dpo_train.jsonl", "dpo_train.jsonl.manifest.json", "dpo_val.jsonl"]),
        ("train.jsonl.gz", ["test.jsonl.gz", "train.jsonl.gz", "train.jsonl.gz.manifest.json", "val.jsonl.gz"]),
        ("v0.2.jsonl", ["v0.2.jsonl", "v0.2.jsonl.manifest.json", "v0.2_test.jsonl", "v0.2_val.jsonl"]),
        ("pairs.jsonl", ["pairs.jsonl", "pairs.jsonl.manifest.json", "pairs_test.jsonl", "pairs_val.jsonl"]),
        # "train" inside another word is no name of a part
        (
            "constraints.jsonl",
            ["constraints.jsonl", "constraints.jsonl.manifest.json", "constraints_test.jsonl", "constraints_val.jsonl"],
        ),
        (
            "training.parquet",
            ["training.parquet", "training.parquet.manifest.json", "training_test.parquet", "training_val.parquet"],
        ),
    ],
)
def test_the_files_of_a_split(tmp_path, rollout, write_jsonl, output, names):
    rows = [rollout(f"Q{number}", answer, reward) for number in range(9) for answer, reward in (("A", 1), ("B", 0))]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    folder = tmp_path / "out"
    folder.mkdir()
    collect_pairs([source], folder / output, Settings(validation_fraction=0.3, test_fraction=0.3), ALONE)
    assert files_below(folder) == names


@pytest.mark.parametrize(
    "name",
    ["out", "out.json", "out.csv", "-", "out.jsonl.bz2", "out.jsonl.xz", "out.zip", "out.arrow", "out.PARQUET.XZ"],
)
def test_a_packing_that_is_not_known_is_refused_before_the_work(tmp_path, rollouts, name):
    output = Path(name) if name == "-" else tmp_path / name
    with pytest.raises(UsageError, match=r"\.jsonl, \.jsonl\.gz, \.jsonl\.zst, \.parquet"):
        collect_pairs([rollouts], output, Settings(), ALONE)
    assert files_below(tmp_path) == ["rollouts.jsonl"]


def overwritten(tmp_path, rollout, write_jsonl, name):
    rows = [rollout(f"Q{number}", answer, reward) for number in range(9) for answer, reward in (("A", 1), ("B", 0))]
    source = write_jsonl(tmp_path / name, [*rows, rollout("alone")])
    return source, source.read_bytes()


@pytest.mark.parametrize(
    ("name", "rejects", "fraction"),
    [
        ("dpo_train.jsonl", None, 0),
        ("rejects.jsonl", "rejects.jsonl", 0),
        ("dpo_val.jsonl", None, 0.5),  # what a part of the split would overwrite
        ("dpo_train.jsonl.manifest.jsonl", None, 0),  # nothing does overwrite this one
    ],
)
def test_an_input_is_never_overwritten(tmp_path, rollout, write_jsonl, name, rejects, fraction):
    source, before = overwritten(tmp_path, rollout, write_jsonl, name)
    settings = Settings(validation_fraction=fraction)
    rejects_path = tmp_path / rejects if rejects else None
    if name == "dpo_train.jsonl.manifest.jsonl":
        collect_pairs([source], tmp_path / "dpo_train.jsonl", settings, ALONE, rejects=rejects_path)
    else:
        with pytest.raises(UsageError, match="is an input too"):
            collect_pairs([source], tmp_path / "dpo_train.jsonl", settings, ALONE, rejects=rejects_path)
        assert files_below(tmp_path) == [name]
    assert source.read_bytes() == before


def test_an_input_is_not_overwritten_by_another_name_of_it(tmp_path, rollouts):
    (tmp_path / "link.jsonl").symlink_to("rollouts.jsonl")
    os.link(rollouts, tmp_path / "hard.jsonl")
    for name in ("link.jsonl", "hard.jsonl"):
        with pytest.raises(UsageError, match="is an input too"):
            collect_pairs([rollouts], tmp_path / name, Settings(), ALONE)


@pytest.mark.parametrize("rejects", ["dpo_train.jsonl", "dpo_val.jsonl", "dpo_train.jsonl.manifest.json"])
def test_the_rejects_are_no_other_output(tmp_path, rollout, write_jsonl, rejects):
    source, _ = overwritten(tmp_path, rollout, write_jsonl, "in.jsonl")
    settings = Settings(validation_fraction=0.5)
    with pytest.raises(UsageError):
        collect_pairs([source], tmp_path / "dpo_train.jsonl", settings, ALONE, rejects=tmp_path / rejects)
    assert files_below(tmp_path) == ["in.jsonl"]


def test_a_split_does_not_go_to_a_pipe(dpo, rollouts):
    """There is one pipe, and a file beside /dev/stdout is in nobody's interest."""
    run = dpo("collect-pairs", rollouts, "-o", "/dev/stdout", "--validation-fraction", "0.5")
    beside = Path("/dev/stdout_val")
    is_written = beside.exists()
    if is_written:
        beside.unlink()
    assert not is_written
    assert run.returncode != 0


def test_rejects_are_the_rows_as_they_were_with_their_reasons(tmp_path, rollout, write_jsonl):
    alone, plain = rollout("alone"), rollout("Q", "A", 1)
    near = rollout("near", "A", 0.5), rollout("near", "B", 0.55)
    lines = [
        b"{",  # 1
        alone,  # 2
        b"",  # 3: blank, no row
        plain,  # 4
        rollout("Q", "B", 0),  # 5
        b'{"reward": NaN, "responses_create_params": {"input": "Q"}, "response": {"output": [1]}}',  # 6
        near[0],  # 7
        near[1],  # 8
        b'"\xff"',  # 9
        rollout("Q", "C", None),  # 10
    ]
    source = write_jsonl(tmp_path / "in.jsonl", lines)
    rejects = tmp_path / "rejects.jsonl"
    collection = collect_pairs([source], tmp_path / "out.jsonl", Settings(), ALONE, rejects=rejects)
    rows = rows_of(rejects)
    assert [(row["source"], row["reason"]) for row in rows] == [
        (f"{source}:1", "not_json"),
        (f"{source}:2", "single_rollout"),
        (f"{source}:6", "reward_not_a_number"),
        (f"{source}:7", "below_margin"),
        (f"{source}:8", "below_margin"),
        (f"{source}:9", "not_json"),
        (f"{source}:10", "reward_missing"),
    ]
    assert rows[0]["text"] == "{"
    assert rows[1]["row"] == alone
    assert rows[2]["text"] == lines[5].decode()
    assert (rows[3]["row"], rows[4]["row"]) == near
    assert rows[5]["text"] == '"\\xff"'
    assert len(rows) == collection.attrition.dropped.total()
    assert collection.attrition.rows == len(rows) + collection.attrition.paired_rollouts == 9


def test_rejects_can_be_collected_from_again(tmp_path, rollout, write_jsonl):
    """The rows are unchanged, byte for byte, so that a repaired one can take its place."""
    line = b'{"responses_create_params" : {"input":"Q"}, "reward":1e0, "response":{"output":"x"}, "x":1.50, "x":2}'
    source = write_jsonl(tmp_path / "in.jsonl", [line, rollout("Q", "A", 1), rollout("Q", "B", 0)])
    rejects = tmp_path / "rejects.jsonl"
    collect_pairs([source], tmp_path / "out.jsonl", Settings(), ALONE, rejects=rejects)
    assert b'"row":' + line in rejects.read_bytes()


def test_rejects_of_several_files_packed_or_not(tmp_path, rollout, write_jsonl):
    one = write_jsonl(tmp_path / "one.jsonl", [rollout("Q", "A", 1), rollout("Q", "B", 0), rollout("alone")])
    two = tmp_path / "two.jsonl.gz"
    two.write_bytes(gzip.compress(b"\xef\xbb\xbfx\r\n\r\n" + json.dumps(rollout("other")).encode()))
    rejects = tmp_path / "rejects.jsonl"
    collect_pairs([two, one], tmp_path / "out.jsonl", Settings(), Machinery(1, chunk_bytes=100), rejects=rejects)
    found = [(row["source"], row["reason"]) for row in rows_of(rejects)]
    assert found == [(f"{one}:3", "single_rollout"), (f"{two}:1", "not_json"), (f"{two}:3", "single_rollout")]


def test_rejects_are_written_also_where_there_are_no_pairs(tmp_path, rollout, write_jsonl):
    source = write_jsonl(tmp_path / "in.jsonl", [rollout()])
    collect_pairs([source], tmp_path / "out.jsonl", Settings(), ALONE, rejects=tmp_path / "rejects.jsonl")
    assert files_below(tmp_path) == ["in.jsonl", "rejects.jsonl"]


def test_packed_rejects_are_packed_or_refused(tmp_path, rollout, write_jsonl):
    source = write_jsonl(tmp_path / "in.jsonl", [rollout("Q", "A", 1), rollout("Q", "B", 0), rollout("alone")])
    rejects = tmp_path / "rejects.jsonl.gz"
    try:
        collect_pairs([source], tmp_path / "out.jsonl", Settings(), ALONE, rejects=rejects)
    except UsageError:
        assert not rejects.exists()
    else:
        assert json.loads(gzip.decompress(rejects.read_bytes()))["reason"] == "single_rollout"


def test_rejects_of_a_pipe_are_refused_before_the_work(dpo, tmp_path, rollouts):
    run = dpo("collect-pairs", "-", "-o", "out.jsonl", "--rejects", "no.jsonl", stdin=rollouts.read_text())
    assert run.returncode == UsageError.exit_code
    assert "--rejects reads its inputs twice" in run.stderr
    assert files_below(tmp_path) == ["rollouts.jsonl"]


def test_a_dry_run_writes_nothing_at_all(dpo, tmp_path, rollouts):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    args = ["--dry-run", "-o", "new/out.jsonl", "--rejects", "no.jsonl", "--validation-fraction", "0.1"]
    shown = dpo("collect-pairs", rollouts, *args, TMPDIR=str(temporary))
    assert shown.returncode == 0, shown.stderr
    assert "4  rows read" in shown.stderr
    assert "wrote" not in shown.stderr
    assert files_below(tmp_path) == ["rollouts.jsonl", "tmp"]
    told = dpo("collect-pairs", rollouts, "--dry-run", "--json", TMPDIR=str(temporary))
    assert json.loads(told.stdout)["pairs"] == 1
    assert json.loads(told.stdout)["outputs"] == []
    assert files_below(tmp_path) == ["rollouts.jsonl", "tmp"]


def test_a_dry_run_leaves_an_older_file_as_it_is(dpo, tmp_path, rollouts):
    (tmp_path / "dpo_train.jsonl").write_text("older")
    assert dpo("collect-pairs", rollouts, "--dry-run").returncode == 0
    assert files_below(tmp_path) == ["dpo_train.jsonl", "rollouts.jsonl"]
    assert (tmp_path / "dpo_train.jsonl").read_text() == "older"


def test_without_pairs_an_older_file_stays(tmp_path, rollout, write_jsonl):
    source = write_jsonl(tmp_path / "in.jsonl", [rollout()])
    (tmp_path / "out.jsonl").write_text("older")
    collection = collect_pairs([source], tmp_path / "out.jsonl", Settings(), ALONE)
    assert collection.outputs == []
    assert (tmp_path / "out.jsonl").read_text() == "older"
    assert files_below(tmp_path) == ["in.jsonl", "out.jsonl"]


def test_the_temporary_files_lie_where_they_are_wanted(dpo, tmp_path, rollouts):
    run = dpo("collect-pairs", rollouts, "-o", "out.jsonl", "--scratch", "absent")
    assert run.returncode == DpoError.exit_code
    assert "absent: no place for temporary files" in run.stderr
    (tmp_path / "scratch").mkdir()
    assert dpo("collect-pairs", rollouts, "-o", "out.jsonl", "--scratch", "scratch").returncode == 0
    assert files_below(tmp_path) == ["out.jsonl", "out.jsonl.manifest.json", "rollouts.jsonl", "scratch"]


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("limit", [20_000, 300_000])  # bytes of a file: full while reading, and while writing
def test_a_full_disk_ends_with_a_message_and_leaves_nothing(tmp_path, rollout, write_jsonl, num_workers, limit):
    import resource

    letters = random.Random(0).choices("abcdefghij", k=2000)
    rows = [rollout(f"Q{i}", "".join(letters) + str(j), reward=j) for i in range(10) for j in range(6)]
    write_jsonl(tmp_path / "in.jsonl", rows)
    command = [sys.executable, "-m", "cli", "collect-pairs", "in.jsonl", "-o", "out.jsonl"]
    run = subprocess.run(
        [*command, "--workers", str(num_workers)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == DpoError.exit_code, run.stderr
    assert "dpo: error: " in run.stderr
    assert "Traceback" not in run.stderr
    assert "File too large" in run.stderr  # what a full disk says in this test
    assert files_below(tmp_path) == ["in.jsonl"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize("delay", [0.1, 0.5])
def test_interrupted_at_any_moment_no_partial_file_remains(tmp_path, big, number, num_workers, delay):
    command = [sys.executable, "-m", "cli", "collect-pairs", big, "-o", "out.jsonl", "--rejects", "rejects.jsonl"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*command, "--workers", str(num_workers), "--max-pairs-per-prompt", "2"],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        deadline = time.monotonic() + 30
        while not list(tmp_path.iterdir()) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)  # until there is something to leave behind
        time.sleep(delay)
        process.send_signal(number)
        try:
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    if files_below(tmp_path) == ["out.jsonl", "out.jsonl.manifest.json", "rejects.jsonl"]:
        return  # it was done already; how a process ends that was leaving anyway is Python's
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number], errors
    assert "Traceback" not in errors
    # files that are there are whole, in the order in which they are written
    assert files_below(tmp_path) in ([], ["out.jsonl"], ["out.jsonl", "rejects.jsonl"])


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """About 30 MB of rollouts: 2,000 prompts of 8."""
    path = tmp_path_factory.mktemp("big") / "rollouts.jsonl"
    text = "lorem ipsum dolor sit amet " * 60
    with path.open("w") as stream:
        for number in range(16_000):
            output = [
                {
                    "type": "message",
                    "role": "assistant",
                    "content": [{"type": "output_text", "text": f"{text}{number}"}],
                }
            ]
            row = {
                "responses_create_params": {"input": f"Prompt {number // 8}"},
                "response": {"output": output},
                "reward": number % 3 / 2,
            }
            stream.write(json.dumps(row) + "\n")
    return path


def test_no_file_that_was_named_is_written_over(dpo, tmp_path, rollout, write_jsonl):
    """As a URL, through stdin, as a copy of another input, as a sidecar: it is an input all the same."""
    rows = [rollout(response="A", reward=1), rollout(response="B", reward=0)]
    for name in ("a.jsonl", "copy.jsonl", "a_failures.jsonl", "a_materialized_inputs.jsonl"):
        write_jsonl(tmp_path / name, rows)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for places, output in (
        ([f"file://{tmp_path}/a.jsonl"], "a.jsonl"),
        (["a.jsonl", "copy.jsonl"], "copy.jsonl"),
        (["a.jsonl", "a_failures.jsonl"], "a_failures.jsonl"),
        (["a.jsonl"], "a_materialized_inputs.jsonl"),
    ):
        run = dpo("collect-pairs", *places, "-o", output)
        assert (run.returncode, "is an input too" in run.stderr) == (2, True), (places, run.stderr)
    command = f"{sys.executable} -m cli collect-pairs - -o a.jsonl < a.jsonl"
    shell = subprocess.run(
        command, shell=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, check=False
    )
    assert shell.returncode == 2
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_second_run_in_a_folder_reads_what_the_first_read(dpo, tmp_path, rollout, write_jsonl):
    write_jsonl(
        tmp_path / "run.jsonl", [rollout(response="A", reward=1), rollout(response="B", reward=0), rollout("alone")]
    )
    runs = [dpo("collect-pairs", ".", "--rejects", "rejects.jsonl", "--json") for _ in range(2)]
    assert [run.returncode for run in runs] == [0, 0], runs[1].stderr
    first, second = (json.loads(run.stdout) for run in runs)
    assert (first["rows"], first["pairs"]) == (second["rows"], second["pairs"]) == (3, 1)
    assert {Path(entry["path"]).name for entry in second["left_out"]} == {"dpo_train.jsonl", "rejects.jsonl"}


def test_a_part_of_an_earlier_run_is_told_of(dpo, tmp_path, rollout, write_jsonl):
    rows = [rollout(f"Q{n}", answer, reward) for n in range(9) for answer, reward in (("A", 1), ("B", 0))]
    write_jsonl(tmp_path / "run.jsonl", rows)
    assert "remove it" not in dpo("collect-pairs", "run.jsonl", "--validation-fraction", "0.3").stderr
    assert "dpo_val.jsonl is of an earlier run" in dpo("collect-pairs", "run.jsonl").stderr


def test_materialized_inputs_that_were_used_are_in_the_manifest(tmp_path, rollout, write_jsonl):
    rows = [rollout(response=text, reward=reward, _ng_task_index=0) for text, reward in (("A", 1), ("B", 0))]
    source = tmp_path / "run.jsonl.gz"
    source.write_bytes(gzip.compress(write_jsonl(tmp_path / "rows.txt", rows).read_bytes()))
    params = {"responses_create_params": {"input": "Q"}, "_ng_task_index": 0, "_ng_rollout_index": 0}
    beside = write_jsonl(tmp_path / "run_materialized_inputs.jsonl", [params])
    collect_pairs([source], tmp_path / "out.jsonl", Settings(), ALONE)
    manifest = json.loads((tmp_path / "out.jsonl.manifest.json").read_text())
    assert [(entry["path"], entry["sha256"]) for entry in manifest["inputs"]] == [
        (str(path), sha256(path)) for path in (source, beside)
    ]
