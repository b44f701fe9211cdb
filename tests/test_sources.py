"""Which files are read: names, folders, globs, URLs, stdin; packed ones; Gym's sidecars, told by name and content."""

import gzip
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest

from pipeline.collect import collect_pairs
from pipeline.settings import Settings
from pipeline.sources import find_inputs
from schemas.errors import InputError, UsageError


def zstd(content):
    packed = pa.BufferOutputStream()
    with pa.CompressedOutputStream(packed, "zstd") as stream:
        stream.write(content)
    return packed.getvalue().to_pybytes()


@pytest.fixture
def two_rows(rollout):
    """Two rollouts that make one pair, as JSONL."""
    rows = [rollout(response="A", reward=1.0), rollout(response="B", reward=0.0)]
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def pairs_of(*places, **settings):
    """Collect without writing; give rows read and pairs."""
    attrition = collect_pairs(list(places), None, Settings(**settings)).attrition
    return attrition.rows, attrition.pairs


def names_of(inputs):
    return [source.path.name for source in inputs.sources]


# ---- what is named


def test_a_file_is_read_once_however_it_is_named(tmp_path, two_rows, monkeypatch):
    path = tmp_path / "r.jsonl"
    path.write_bytes(two_rows)
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.jsonl").symlink_to(path)
    monkeypatch.chdir(tmp_path)
    again = [path, path, tmp_path / "folder" / ".." / "r.jsonl", tmp_path / "link.jsonl", Path("r.jsonl"), tmp_path]
    assert len(find_inputs(again).sources) == 1
    assert pairs_of(*again) == (2, 1)


def test_a_folder_gives_its_rollouts_in_order(tmp_path):
    for name in ("b.jsonl", "a.jsonl.gz", "c/d.jsonl.zst", "notes.txt", "metrics.json", "c/e.csv"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        content = json.dumps({"name": name}).encode()
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert names_of(find_inputs([tmp_path])) == ["a.jsonl.gz", "b.jsonl", "d.jsonl.zst"]


def test_a_folder_without_rollouts_is_told(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match=r"a folder without \.jsonl"):
        find_inputs([tmp_path])


def test_a_quoted_glob(tmp_path):
    for name in ("r2.jsonl", "r1.jsonl", "s.jsonl", "sub/r3.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"name": name}))
    assert names_of(find_inputs([tmp_path / "r*.jsonl"])) == ["r1.jsonl", "r2.jsonl"]
    assert names_of(find_inputs([tmp_path / "r[2].jsonl"])) == ["r2.jsonl"]
    assert names_of(find_inputs([tmp_path / "**" / "r*.jsonl"])) == ["r1.jsonl", "r2.jsonl", "r3.jsonl"]
    with pytest.raises(InputError, match=r"x\*\.jsonl: no file matches"):
        find_inputs([tmp_path / "x*.jsonl"])


def test_a_name_that_looks_like_a_glob_is_a_name(tmp_path):
    (tmp_path / "r[1].jsonl").write_bytes(b"{}\n")
    (tmp_path / "r1.jsonl").write_bytes(b"{}\n")
    assert names_of(find_inputs([tmp_path / "r[1].jsonl"])) == ["r[1].jsonl"]


def test_a_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match=r"absent\.jsonl: no such file"):
        pairs_of(tmp_path / "absent.jsonl")


def test_a_file_name_that_is_no_utf_8(tmp_path, two_rows):
    path = tmp_path / "rollouts\udcff.jsonl"
    path.write_bytes(two_rows)
    output = tmp_path / "pairs.jsonl"
    collect_pairs([path], output, Settings())
    assert "rollouts" in json.loads(output.read_bytes())["chosen_source"]


def test_a_copy_of_a_file_is_left_out(tmp_path, two_rows):
    paths = [tmp_path / name for name in ("a.jsonl", "b.jsonl", "c.jsonl")]
    for path, content in zip(paths, (two_rows, two_rows, two_rows + b"\n"), strict=True):
        path.write_bytes(content)
    inputs = find_inputs(paths)
    assert names_of(inputs) == ["a.jsonl", "c.jsonl"]
    assert inputs.left_out == [(paths[1], f"a copy of {paths[0]}")]


def test_empty_files_are_no_copies(tmp_path):
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).touch()
    assert names_of(find_inputs([tmp_path])) == ["a.jsonl", "b.jsonl"]


def test_a_namespace_does_not_depend_on_the_order_of_names(tmp_path):
    paths = [tmp_path / name for name in ("b.jsonl", "a.jsonl")]
    for path in paths:
        path.write_text(json.dumps({"name": path.name}))
    for order in (paths, paths[::-1]):
        assert {source.path.name: source.namespace for source in find_inputs(order).sources} == {
            "a.jsonl": 0,
            "b.jsonl": 1,
        }


# ---- packed


@pytest.mark.parametrize("name", ["r.jsonl.gz", "r.jsonl", "r.jsonl.zst"])  # told by content, not by name
@pytest.mark.parametrize("pack", [gzip.compress, zstd])
def test_packed_files(tmp_path, two_rows, name, pack):
    path = tmp_path / name
    path.write_bytes(pack(two_rows))
    assert pairs_of(path) == (2, 1)


@pytest.mark.parametrize("pack", [gzip.compress, zstd])
def test_packed_files_of_several_parts(tmp_path, two_rows, pack):
    """`cat a.gz b.gz`, and writers that flush: readers that stop at the first part lose rows silently."""
    first, second = two_rows.splitlines(keepends=True)
    path = tmp_path / "r.jsonl"
    path.write_bytes(pack(first) + pack(second))
    assert pairs_of(path) == (2, 1)


@pytest.mark.parametrize("pack", [gzip.compress, zstd])
@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_a_packed_file_that_is_cut_off_is_an_input_error(tmp_path, rollout, write_jsonl, pack, keep):
    """No rows are lost silently: what the file should hold nobody knows."""
    rows = [rollout(response=f"A{number * 7919 % 10007}", reward=number) for number in range(2000)]
    content = pack(write_jsonl(tmp_path / "plain.jsonl", rows).read_bytes())
    path = tmp_path / "r.jsonl.packed"
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(InputError, match=r"r\.jsonl\.packed: can't be read"):
        pairs_of(path)


def test_a_packed_file_that_is_damaged_is_an_input_error(tmp_path, two_rows):
    path = tmp_path / "r.jsonl.gz"
    path.write_bytes(gzip.compress(two_rows)[:10] + b"\xff" * 20)
    with pytest.raises(InputError, match=r"r\.jsonl\.gz: can't be read"):
        pairs_of(path)


def test_a_zip_archive_is_an_input_error(tmp_path):
    path = tmp_path / "r.zip"
    path.write_bytes(b"PK\x03\x04....")
    with pytest.raises(InputError, match="is a zip archive; unpack it first"):
        pairs_of(path)


# ---- stdin and URLs


def through_stdin(tmp_path, content, *args):
    root = Path(__file__).resolve().parent.parent
    command = [sys.executable, "-m", "cli", "collect-pairs", "-", "-o", str(tmp_path / "pairs.jsonl"), "--json", *args]
    return subprocess.run(command, cwd=root, input=content, capture_output=True, timeout=120, check=False)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstd])
def test_stdin(tmp_path, two_rows, pack):
    done = through_stdin(tmp_path, pack(two_rows))
    assert (done.returncode, json.loads(done.stdout)["rows"]) == (0, 2), done.stderr
    assert json.loads((tmp_path / "pairs.jsonl").read_bytes())["chosen_source"] == "-:1"


def test_stdin_can_not_be_read_twice(tmp_path, two_rows):
    done = through_stdin(tmp_path, two_rows, "--rejects", str(tmp_path / "rejects.jsonl"))
    assert done.returncode == 2
    assert b"--rejects reads its inputs twice" in done.stderr


def test_a_url_of_a_file(tmp_path, two_rows):
    (tmp_path / "r.jsonl").write_bytes(two_rows)
    assert pairs_of(Path(f"file://{tmp_path}/r.jsonl")) == (2, 1)
    (tmp_path / "r.jsonl.gz").write_bytes(gzip.compress(two_rows))
    assert pairs_of(Path(f"file://{tmp_path}/r.jsonl.gz")) == (2, 1)


def test_a_url_of_another_kind(tmp_path, two_rows):
    fsspec.filesystem("memory").pipe("/runs/r.jsonl", two_rows)
    output = tmp_path / "pairs.jsonl"
    collection = collect_pairs([Path("memory://runs/r.jsonl")], output, Settings())
    assert (collection.attrition.rows, collection.attrition.pairs) == (2, 1)
    assert json.loads(output.read_bytes())["chosen_source"].endswith("runs/r.jsonl:1")
    (entry,) = json.loads((tmp_path / "pairs.jsonl.manifest.json").read_bytes())["inputs"]
    assert entry["sha256"] == hashlib.sha256(two_rows).hexdigest()


def test_rejects_of_a_url(tmp_path, two_rows):
    fsspec.filesystem("memory").pipe("/runs/with_rejects.jsonl", two_rows + b"{}\n")
    rejects = tmp_path / "rejects.jsonl"
    place = Path("memory://runs/with_rejects.jsonl")
    collect_pairs([place], tmp_path / "pairs.jsonl", Settings(), rejects=rejects)
    assert json.loads(rejects.read_bytes())["reason"] == "not_a_rollout"


@pytest.mark.parametrize(
    ("url", "error"),
    [("memory://runs/absent.jsonl", InputError), ("nosuchprotocol://x/r.jsonl", UsageError)],
)
def test_a_url_that_does_not_open(url, error):
    with pytest.raises(error, match=r"://"):
        pairs_of(Path(url))


# ---- sidecars


MATERIALIZED = {"responses_create_params": {"input": "Q"}, "_ng_task_index": 0, "_ng_rollout_index": 0, "uuid": "u"}
FAILURE = {
    "responses_create_params": {"input": "Q"},
    "response": {"output": [{"type": "message", "content": "Failed: timeout"}]},
    "reward": 0.0,
    "_ng_task_index": 0,
    "_ng_failure_class": "judge_failed",
}
PROFILE = {"_ng_task_index": 0, "num_rollouts": 8, "expected_num_rollouts": 8, "rollout_infos": [], "mean/reward": 0.5}
METRICS = [{"agent_ref": {"name": "a"}, "agent_metrics": {"mean/reward": 0.5}, "key_metrics": {}}]
VERDICT = {"check": "hollow_turn", "verdict": "ok"}
SIDECARS = [
    ("rollouts_materialized_inputs.jsonl", MATERIALIZED, "materialized inputs"),
    ("rollouts_failures.jsonl", FAILURE, "failures, with placeholder rewards"),
    ("rollouts_reward_profiling.jsonl", PROFILE, "a reward profile"),
    ("rollouts_agent_metrics.json", METRICS, "metrics"),
    ("rollouts_aggregate_metrics.json", METRICS, "metrics"),
    ("rollout_verdicts.jsonl", VERDICT, "a health report"),
    ("x.capture.jsonl", {}, "captured model calls"),
    ("dpo_train.jsonl.manifest.json", {}, "a manifest"),
]


@pytest.mark.parametrize(("name", "row", "kind"), SIDECARS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_sidecar_is_told_by_its_name(tmp_path, name, row, kind):
    for path in (tmp_path / name, tmp_path / f"{name}.gz", tmp_path / f"{name}.zst"):
        pack = {".gz": gzip.compress, ".zst": zstd}.get(path.suffix, bytes)
        path.write_bytes(pack(json.dumps(row).encode()))
        inputs = find_inputs([path])
        assert (inputs.sources, inputs.left_out) == ([], [(path, kind)])


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstd])
@pytest.mark.parametrize(
    ("name", "row", "kind"), SIDECARS[:5], ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_sidecar_is_told_by_its_content(tmp_path, name, row, kind, pack):
    """Somebody has renamed it; the first line may be blank, or have a byte order mark."""
    path = tmp_path / "data.jsonl"
    for before in (b"", b"\n\n", b"\xef\xbb\xbf"):
        path.write_bytes(pack(before + json.dumps(row).encode() + b"\n"))
        inputs = find_inputs([path])
        assert (inputs.sources, inputs.left_out) == ([], [(path, kind)])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"<PLACEHOLDER ROW>\n",
        b"[]\n",
        b"5\n",
        b"{}\n",
        b'{"reward":\n',
        b"[" * 100_000,
        b"\xff\n",
        b"[1]\n",
    ],
    ids=lambda content: ascii(content[:20]),
)
def test_what_is_no_sidecar_is_read(tmp_path, content):
    path = tmp_path / "r.jsonl"
    path.write_bytes(content)
    assert names_of(find_inputs([path])) == ["r.jsonl"]


def test_rollouts_are_no_sidecar_though_their_keys_are_like_one(tmp_path, rollout, write_jsonl):
    row = rollout(_ng_task_index=0, _ng_rollout_index=0, rollout_infos=[], agent_metrics={}, failure_reason="wrong")
    assert names_of(find_inputs([write_jsonl(tmp_path / "failures_r.jsonl", [row])])) == ["failures_r.jsonl"]


def test_what_the_shell_named_is_left_out_with_a_line(tmp_path, two_rows, dpo):
    """`dpo collect-pairs rollouts*`: all that Gym writes shares this glob."""
    (tmp_path / "rollouts.jsonl").write_bytes(two_rows)
    for name, row, _ in SIDECARS[:5]:
        (tmp_path / name).write_text(json.dumps(row) + "\n")
    done = dpo("collect-pairs", *sorted(path.name for path in tmp_path.glob("rollouts*")), "-o", "pairs.jsonl")
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stderr.splitlines() if line.startswith("left out")]
    for name, _, kind in SIDECARS[:5]:
        assert any(name in line and kind in line for line in told), done.stderr
    assert "2  rows read" in done.stderr


def test_nothing_but_sidecars_is_told(tmp_path, dpo):
    (tmp_path / "rollouts_failures.jsonl").write_text(json.dumps(FAILURE) + "\n")
    done = dpo("collect-pairs", "rollouts_failures.jsonl")
    assert done.returncode == 1
    assert "none of the files holds rollouts" in done.stderr
    assert not (tmp_path / "dpo_train.jsonl").exists()


# ---- materialized inputs beside the rollouts


def materialized(task, rollout_index, **keys):
    params = {"input": [{"role": "user", "content": "Q"}]}
    return {"responses_create_params": params, "_ng_task_index": task, "_ng_rollout_index": rollout_index, **keys}


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("pack_rollouts", [bytes, gzip.compress])
def test_rollouts_that_are_missing_are_counted(tmp_path, rollout, write_jsonl, suffix, pack_rollouts):
    rows = [
        rollout(response="A", reward=1, _ng_task_index=0, _ng_rollout_index=0),
        rollout(response="B", reward=None, _ng_task_index=0, _ng_rollout_index=1),  # it is there, though of no use
        rollout(response="C", reward=0, _ng_task_index=0, _ng_rollout_index=2),
    ]
    path = write_jsonl(tmp_path / "r.jsonl", rows)
    if pack_rollouts is gzip.compress:
        content = path.read_bytes()
        path.unlink()
        path = tmp_path / "r.jsonl.gz"
        path.write_bytes(gzip.compress(content))
    beside = tmp_path / f"r_materialized_inputs.jsonl{suffix}"
    expected = [materialized(task, index, uuid=f"u{task}") for task in (0, 1) for index in range(4)]
    content = b"".join(json.dumps(row).encode() + b"\n" for row in expected) + b"\nno row\n"
    beside.write_bytes({"": bytes, ".gz": gzip.compress, ".zst": zstd}[suffix](content))
    (missing,) = collect_pairs([path], None, Settings()).missing
    assert (missing.path, missing.expected, missing.missing) == (path, 8, 5)


def test_the_missing_are_told(tmp_path, rollout, write_jsonl, dpo):
    rows = [
        rollout(response=str(reward), reward=reward, _ng_task_index=0, _ng_rollout_index=reward) for reward in (0, 1)
    ]
    write_jsonl(tmp_path / "r.jsonl", rows)
    write_jsonl(tmp_path / "r_materialized_inputs.jsonl", [materialized(0, index) for index in range(4)])
    done = dpo("collect-pairs", "r.jsonl", "-o", "pairs.jsonl")
    assert "r.jsonl: 2 of 4 rollouts are missing, by the materialized inputs beside it" in done.stderr
    assert json.loads(dpo("collect-pairs", "r.jsonl", "--dry-run", "--json").stdout)["missing_rollouts"] == {
        "r.jsonl": 2
    }


def test_of_a_run_that_wrote_nothing_all_are_missing(tmp_path, write_jsonl):
    path = write_jsonl(tmp_path / "r.jsonl", [])
    write_jsonl(tmp_path / "r_materialized_inputs.jsonl", [materialized(0, index) for index in range(4)])
    (missing,) = collect_pairs([path], None, Settings()).missing
    assert (missing.expected, missing.missing) == (4, 4)


def test_rows_without_indices_do_not_tell_which_are_missing(tmp_path, rollout, write_jsonl):
    path = write_jsonl(tmp_path / "r.jsonl", [rollout()])
    write_jsonl(tmp_path / "r_materialized_inputs.jsonl", [materialized(0, 0)])
    assert collect_pairs([path], None, Settings()).missing == []


def test_what_the_dataset_says_of_a_task_goes_before_its_index(tmp_path, rollout, write_jsonl):
    """Two runs over other selections of one dataset: the same uuid has another index in each."""
    for run, index, reward in (("one", 0, 1.0), ("two", 7, 0.0)):
        (tmp_path / run).mkdir()
        row = rollout(response=run, reward=reward, _ng_task_index=index, _ng_rollout_index=0)
        write_jsonl(tmp_path / run / "r.jsonl", [row])
        write_jsonl(tmp_path / run / "r_materialized_inputs.jsonl", [materialized(index, 0, uuid="u")])
    assert pairs_of(tmp_path) == (2, 0)
    assert pairs_of(tmp_path, across_files=True) == (2, 1)


def test_the_dataset_tells_tasks_apart_that_share_a_prompt(tmp_path, rollout, write_jsonl):
    """wordle across files: the hidden word stands in the dataset's row alone."""
    for run, reward in (("one", 1.0), ("two", 0.0)):
        (tmp_path / run).mkdir()
        row = rollout(response=run, reward=reward, _ng_task_index=0, _ng_rollout_index=0)
        write_jsonl(tmp_path / run / "r.jsonl", [row])
        write_jsonl(tmp_path / run / "r_materialized_inputs.jsonl", [materialized(0, 0, word=f"word of {run}")])
    assert pairs_of(tmp_path, across_files=True) == (2, 0)


def test_the_seed_of_a_repeat_is_not_of_the_task(tmp_path, rollout, write_jsonl):
    rows, expected = [], []
    for index, reward in enumerate((1.0, 0.0)):
        params = {"metadata": {"extra_body": json.dumps({"seed": index})}}
        rows.append(
            rollout(response=f"A{index}", reward=reward, params=params, _ng_task_index=0, _ng_rollout_index=index)
        )
        expected.append({**materialized(0, index, uuid="u"), "responses_create_params": {"input": "Q", **params}})
    path = write_jsonl(tmp_path / "r.jsonl", rows)
    write_jsonl(tmp_path / "r_materialized_inputs.jsonl", expected)
    assert pairs_of(path) == (2, 1)
