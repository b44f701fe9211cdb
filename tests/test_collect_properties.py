"""What holds for all rollouts: no order, no place and no machinery changes a byte, and no pair is a wrong one."""

import gzip
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from pipeline.attrition import Reason
from pipeline.collect import collect_pairs
from pipeline.intake import Machinery
from pipeline.settings import DuplicateKeys, Format, Margin, Settings, Strategy

SOURCES = ("chosen_source", "rejected_source")
QUICK = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def rollout_line(prompt, response, reward, agent, task, index, response_id, cut, thought, calls):
    """Write one row; what is None is not in it."""
    output = [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": response}]}]
    if thought:
        output.insert(0, {"type": "reasoning", "summary": [{"type": "summary_text", "text": thought}]})
    if calls:
        output.insert(0, {"type": "function_call", "name": "f", "arguments": json.dumps(calls), "call_id": "c"})
    row = {"responses_create_params": {"input": prompt}, "response": {"output": output}, "reward": reward}
    if cut:
        row["response"]["incomplete_details"] = {"reason": "max_output_tokens"}
    if response_id is not None:
        row["response"]["id"] = response_id
    keys = {"_ng_task_index": task, "_ng_rollout_index": index, "agent_ref": agent and {"name": agent}}
    row |= {key: value for key, value in keys.items() if value is not None}
    return json.dumps(row).encode()


LINE = st.builds(
    rollout_line,
    prompt=st.sampled_from(["P", "Q", " q", ""]),
    response=st.sampled_from(["A", "A ", "B", "BB", "C" * 9, "", "\u00e4"]),
    reward=st.sampled_from([0, 0.05, 0.5, 1, -3, 1, 0, None, "1", float("nan")]),
    agent=st.sampled_from([None, "x", "y"]),
    task=st.sampled_from([None, None, 0, 1]),
    index=st.sampled_from([None, None, 0, 1, 2]),
    response_id=st.sampled_from([None, None, None, "r1", "r2"]),
    cut=st.sampled_from([False, False, False, True]),
    thought=st.sampled_from(["", "", "", "hm"]),
    calls=st.sampled_from([{}, {}, {}, {"a": 1}, {"b": 2}]),
)
NOISE = st.sampled_from([b"{", b"[]", b"\xff", b'{"reward": 1}', b""])
# few kinds of rows, so that groups fill
LINES = st.lists(st.one_of(LINE, LINE, LINE, LINE, NOISE), max_size=24)
CHOICES = st.builds(
    lambda strategy, num_pairs, **choices: Settings(
        strategy=strategy, num_pairs=num_pairs if strategy in {Strategy.RANDOM, Strategy.TOP} else None, **choices
    ),
    strategy=st.sampled_from(list(Strategy)),
    num_pairs=st.integers(1, 3),
    format=st.sampled_from(list(Format)),
    min_margin=st.sampled_from([Margin(0.1), Margin(0), Margin(0.5, in_deviations=True)]),
    max_pairs_per_prompt=st.sampled_from([None, None, 2]),
    max_pairs_per_agent=st.sampled_from([None, None, 3]),
    duplicate_keys=st.sampled_from(list(DuplicateKeys)),
    allow_truncated_rejected=st.booleans(),
    across_agents=st.sampled_from([False, False, True]),
    across_files=st.booleans(),
    validation_fraction=st.sampled_from([0, 0, 0.5]),
    seed=st.integers(0, 3),
    sources=st.just(False),
)


def name_within_file(line):
    """Give what tells two equal rows of one file to be one rollout; in two files they are rollouts of two runs."""
    try:
        row = json.loads(line)
        names = row.get("_ng_rollout_index"), row["response"].get("id")
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return None if names == (None, None) else (row.get("_ng_task_index"), *names)


def collected(files, choices, machinery=None):
    """Collect from files of these lines; give the account and the contents of the outputs."""
    with tempfile.TemporaryDirectory() as folder:
        places = []
        for name, lines in files.items():
            place = Path(folder) / name
            content = b"".join(line + b"\n" for line in lines)
            place.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
            places.append(place)
        collection = collect_pairs(places, Path(folder) / "dpo_train.jsonl", choices, machinery or Machinery(1))
        outputs = {out.path.name: out.path.read_bytes() for out in collection.outputs}
        return collection.attrition, outputs


def without_sources(outputs):
    """Take the places out of the rows of any form."""
    rows = {}
    for name, content in outputs.items():
        rows[name] = [json.loads(line) for line in content.splitlines()]
        for row in rows[name]:
            for holder in (row, *row.get("completions", ())):
                for key in ("source", *SOURCES):
                    holder.pop(key, None)
    return rows


def with_sources(choices):
    return Settings(**{name: getattr(choices, name) for name in choices.__slots__ if name != "sources"})


@QUICK
@given(LINES, CHOICES, st.data())
def test_the_order_of_the_rows_changes_no_byte(lines, choices, data):
    shuffled = data.draw(st.permutations(lines))
    attrition, outputs = collected({"in.jsonl": lines}, choices)
    assert collected({"in.jsonl": shuffled}, choices) == (attrition, outputs)
    _, placed = collected({"in.jsonl": shuffled}, with_sources(choices))
    assert without_sources(placed) == without_sources(outputs)


@QUICK
@given(LINES, CHOICES, st.data())
def test_the_division_into_files_changes_no_byte(lines, choices, data):
    choices = Settings(**{name: getattr(choices, name) for name in choices.__slots__} | {"across_files": True})
    names = data.draw(st.lists(st.sampled_from(["b.jsonl", "a.jsonl", "c.jsonl.gz"]), min_size=1, unique=True))
    files = {name: [] for name in names}
    of_name = {}
    for line in lines:
        file = data.draw(st.sampled_from(names))
        files[of_name.setdefault(name_within_file(line), file) if name_within_file(line) else file].append(line)
    filled = [tuple(content) for content in files.values() if content]
    assume(len({*filled}) == len(filled))  # files of the same content are one run given twice, and read once
    whole = collected({"in.jsonl": lines}, choices)
    assert collected(files, choices) == whole
    _, placed = collected(files, with_sources(choices))
    assert without_sources(placed) == without_sources(whole[1])


@QUICK
@given(LINES, CHOICES, st.data())
def test_the_order_of_the_files_changes_no_byte(lines, choices, data):
    """Also where files are kept apart: which one is first is said by their names."""
    half = data.draw(st.integers(0, len(lines)))
    files = {"a.jsonl": lines[:half], "b.jsonl": lines[half:]}
    assert collected(dict(reversed(files.items())), choices) == collected(files, choices)


@QUICK
@given(LINES, CHOICES, st.integers(1, 2000))
def test_the_size_of_the_chunks_changes_no_byte(lines, choices, chunk_bytes):
    choices = with_sources(choices)
    files = {"a.jsonl": lines, "b.jsonl.gz": lines[::-1]}
    whole = collected(files, choices)
    cut = collected(files, choices, Machinery(1, chunk_bytes=chunk_bytes))
    assert cut[0] == whole[0]
    assert without_sources(cut[1]) == without_sources(whole[1])
    for name, content in whole[1].items():  # the folder is another one each time
        places = [
            [
                tuple(place.rsplit("/", 1)[-1] for key in SOURCES if (place := row.get(key)))
                for row in map(json.loads, each.splitlines())
            ]
            for each in (content, cut[1][name])
        ]
        assert places[0] == places[1]


@QUICK
@given(LINES, CHOICES)
def test_the_account_is_exact(lines, choices):
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "in.jsonl"
        source.write_bytes(b"".join(line + b"\n" for line in lines))
        rejects = Path(folder) / "rejects.jsonl"
        collection = collect_pairs([source], Path(folder) / "out.jsonl", choices, Machinery(1), rejects=rejects)
        rejected = [json.loads(line) for line in rejects.read_bytes().splitlines()]
        outputs = [out.path.read_bytes().splitlines() for out in collection.outputs]
    attrition = collection.attrition
    assert attrition.rows == sum(line != b"" for line in lines)
    assert attrition.rows == sum(attrition.dropped.values()) + attrition.paired_rollouts
    for reason in Reason:
        assert attrition.dropped[reason] == sum(row["reason"] == reason for row in rejected)
    assert attrition.pairs == sum(map(len, outputs))
    assert attrition.paired_groups <= attrition.varied_groups <= attrition.groups
    early = tuple(Reason)[: tuple(Reason).index(Reason.SINGLE_ROLLOUT)]
    assert attrition.eligible == attrition.rows - sum(attrition.dropped[reason] for reason in early)


@QUICK
@given(LINES, CHOICES)
def test_no_pair_is_wrong(lines, choices):
    attrition, outputs = collected({"in.jsonl": lines}, with_sources(choices))
    in_pairs = set()
    rows = [json.loads(line) for content in outputs.values() for line in content.splitlines()]
    for row in rows:
        if choices.format is Format.PREFERENCE:
            chosen, rejected = (completion["source"] for completion in row["completions"])
            rewards = [completion["reward"] for completion in row["completions"]]
            assert row["completions"][0]["completion"] != row["completions"][1]["completion"]
            assert not row["completions"][0]["truncated"]
        else:
            chosen, rejected = row["chosen_source"], row["rejected_source"]
            rewards = [row["chosen_reward"], row["rejected_reward"]]
            assert row["chosen"] != row["rejected"]
            assert not row["chosen_truncated"]
        numbers = [int(place.rpartition(":")[2]) for place in (chosen, rejected)]
        better, worse = (json.loads(lines[number - 1]) for number in numbers)
        in_pairs |= {*numbers}
        assert rewards == [better["reward"], worse["reward"]]
        assert rewards[0] > rewards[1]  # no tie, and the better one is chosen
        assert row["margin"] == rewards[0] - rewards[1]
        if not choices.min_margin.in_deviations:
            assert row["margin"] >= choices.min_margin.value
        assert better["responses_create_params"] == worse["responses_create_params"]
        if not choices.across_agents:
            assert better.get("agent_ref") == worse.get("agent_ref")
        if not choices.across_files:  # across files the index says nothing, as it restarts in each run
            assert better.get("_ng_task_index") == worse.get("_ng_task_index")
        prompt = row.get("prompt", row.get("context"))
        text = better["responses_create_params"]["input"]
        assert prompt == (text if choices.format is Format.BINARY else [{"role": "user", "content": text}])
    assert len(in_pairs) == attrition.paired_rollouts
    assert len({row.get("chosen_source", json.dumps(row)) + row.get("rejected_source", "") for row in rows}) == len(
        rows
    )


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Three files of 600 rollouts each, one of them packed."""
    folder = tmp_path_factory.mktemp("many")
    for name in ("a.jsonl", "b.jsonl.gz", "c.jsonl"):
        lines = []
        for number in range(600):
            text = f"answer {number * 7 % 50} " + "word " * (number % 90)
            task, agent = number % 40, "xy"[number % 2]
            lines.append(
                rollout_line(f"Q{task}", text, number * 3 % 11 / 10, agent, task, None, f"{name}{number}", 0, "", {})
            )
        content = b"\n".join([*lines, b"{", b""])
        (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return folder


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--format", "trl", "--across-files", "--no-sources", "--validation-fraction", "0.2"],
        ["--strategy", "random", "--num-pairs", "3", "--max-pairs-per-agent", "50"],
    ],
    ids=["all", "trl", "random"],
)
def test_the_number_of_workers_changes_no_byte(dpo, tmp_path, many, options):
    written = []
    for num_workers in (1, 2, 4):
        args = ["collect-pairs", many, "-o", "dpo_train.jsonl", "--rejects", "rejects.jsonl"]
        run = dpo(*args, "--workers", num_workers, *options)
        assert run.returncode == 0, run.stderr
        written.append((run.stderr, {path.name: path.read_bytes() for path in tmp_path.iterdir()}))
    assert written[0] == written[1] == written[2]
    assert len(written[0][1]) == (4 if "--validation-fraction" in options else 3)


@pytest.mark.parametrize("chunk_bytes", [997, 10_000, 1 << 30])
def test_the_size_of_the_chunks_changes_no_file(tmp_path, many, chunk_bytes):
    files = []
    for machinery in (Machinery(1, chunk_bytes=chunk_bytes), Machinery(1)):
        output, rejects = tmp_path / "out.jsonl", tmp_path / "rejects.jsonl"
        collect_pairs([many], output, Settings(), machinery, rejects=rejects)
        files.append({path.name: path.read_bytes() for path in tmp_path.iterdir()})
    assert files[0] == files[1]
