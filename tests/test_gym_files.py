"""Real rollout files of NeMo Gym, where they are at hand: no crash, exact sums, the pairs that one finds by reading.

The files are not part of this repository. GYM_ROLLOUTS names a folder of Gym's example files (*.jsonl), GYM_COLLECTED
one with mcqa.jsonl, a collection of 120 tasks with 8 rollouts each, and what Gym writes beside it. What each example
file gives stands in gym_rollouts.json: its numbers come from reading the rows, not from a run.
"""

import json
import os
import unicodedata
from collections import Counter, defaultdict
from itertools import permutations, product
from pathlib import Path

import pytest

from pipeline.attrition import Reason
from pipeline.collect import collect_pairs
from pipeline.settings import Format, Settings
from tests.gate_runs import checked, errors

ROLLOUTS = os.environ.get("GYM_ROLLOUTS")
COLLECTED = os.environ.get("GYM_COLLECTED")
FILES = sorted(Path(ROLLOUTS).glob("*.jsonl")) if ROLLOUTS else []
EACH_FILE = FILES or [Path("GYM_ROLLOUTS")]  # a place holder, so that the reason for skipping is the one below
MCQA = Path(COLLECTED or "") / "mcqa.jsonl"
ANYSWE = Path(ROLLOUTS or "") / "head__anyswe_agent__example_rollouts_hermes.jsonl"

EXPECTED = {entry["name"]: entry for entry in json.loads(Path(__file__).with_name("gym_rollouts.json").read_bytes())}
FORMATS = (Format.BINARY, Format.PREFERENCE)
NO_ROLLOUTS = {"rows": 0, "dropped": {}, "eligible": 0, "groups": 0, "pairs": 0}  # of a file that is left out whole
OF_ELIGIBLE_ROWS = {"single_rollout", "equal_rewards"}  # the reasons of the table that are met after a row is usable

with_rollouts = pytest.mark.skipif(
    not FILES, reason="the environment variable GYM_ROLLOUTS (folder of real rollout files) is not set"
)
with_collected = pytest.mark.skipif(
    not COLLECTED, reason="the environment variable GYM_COLLECTED (folder with a real mcqa.jsonl) is not set"
)
each_file = pytest.mark.parametrize("path", EACH_FILE, ids=lambda path: path.stem)
each_format = pytest.mark.parametrize("form", FORMATS, ids=str)


def rows_in(path):
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line.strip()]


def number_of_rows(path):
    return sum(1 for line in path.read_bytes().split(b"\n") if line.strip())


def expected(name, form):
    """Give what the table says of a file, in the shape of an account."""
    entry = EXPECTED[name]
    return NO_ROLLOUTS if "sidecar" in entry else {"rows": entry["rows"], **entry[form]}


def expected_of_all(form):
    accounts = [expected(path.name, form) for path in FILES]
    total = {key: sum(account[key] for account in accounts) for key in ("rows", "eligible", "groups", "pairs")}
    return {**total, "dropped": sum((Counter(account["dropped"]) for account in accounts), Counter())}


def kinds_left_out(account):
    return {Path(entry["path"]).name: entry["kind"] for entry in account["left_out"]}


def assert_sums(account, rows):
    assert account["rows"] == rows == sum(account["dropped"].values()) + account["paired_rollouts"]
    assert account["paired_groups"] <= account["varied_groups"] <= account["groups"] <= account["eligible"]
    assert account["pairs"] <= account["paired_rollouts"] * (account["paired_rollouts"] - 1) / 2


@pytest.mark.parametrize("name", EXPECTED)
def test_the_table_adds_up(name):
    entry = EXPECTED[name]
    for form in () if "sidecar" in entry else FORMATS:
        dropped, eligible = entry[form]["dropped"], entry[form]["eligible"]
        assert dropped.keys() <= {reason.value for reason in Reason}
        assert eligible == entry["rows"] - sum(n for reason, n in dropped.items() if reason not in OF_ELIGIBLE_ROWS)
        assert (sum(dropped.values()) < entry["rows"]) == (entry[form]["pairs"] > 0)


@with_rollouts
def test_each_file_is_in_the_table():
    assert [path.name for path in FILES] == sorted(EXPECTED)
    assert {path.name: number_of_rows(path) for path in FILES} == {name: EXPECTED[name]["rows"] for name in EXPECTED}


@with_rollouts
@each_format
@each_file
def test_a_file_gives_what_the_table_says(path, form):
    account = collect_pairs([path], None, Settings(format=form)).as_dict()
    wanted = expected(path.name, form)
    assert {key: account[key] for key in wanted} == wanted
    assert_sums(account, wanted["rows"])
    kind = EXPECTED[path.name].get("sidecar")
    assert kinds_left_out(account) == ({path.name: kind} if kind else {})


@with_rollouts
@each_format
def test_all_files_at_once_are_the_sum_of_each(dpo, form):
    run = dpo("collect-pairs", *FILES, "--dry-run", "--json", "--format", form)
    wanted = expected_of_all(form)
    assert run.returncode == (0 if wanted["pairs"] else 1), run.stderr  # 1: no pairs
    assert "Traceback" not in run.stderr
    account = json.loads(run.stdout)
    assert {key: account[key] for key in wanted} == wanted
    assert_sums(account, wanted["rows"])
    sidecars = {name: entry["sidecar"] for name, entry in EXPECTED.items() if "sidecar" in entry}
    assert kinds_left_out(account) == sidecars
    assert set(account["missing_rollouts"].values()) == {0}  # where materialized inputs lie beside the rollouts


@with_rollouts
@each_format
def test_all_files_are_inspected_without_a_crash(dpo, form):
    run = dpo("inspect", *FILES, "--json", "--format", form)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    inspection, wanted = json.loads(run.stdout), expected_of_all(form)
    assert inspection["rows"] == wanted["rows"] == sum(inspection["dropped"].values()) + inspection["rollouts"]
    assert inspection["rollouts"] == wanted["eligible"]
    per_task = {int(rollouts): tasks for rollouts, tasks in inspection["rollouts_per_task"].items()}
    assert sum(rollouts * tasks for rollouts, tasks in per_task.items()) == inspection["rollouts"]
    assert sum(per_task.values()) == inspection["tasks"]
    passes = [inspection[f"{how}_pass"] for how in ("always", "sometimes", "never")]
    assert sum(passes) == inspection["tasks"]
    assert sum(environment["rollouts"] for environment in inspection["environments"]) == inspection["rollouts"]
    assert inspection["pairs"]["all"]["0.1"] == wanted["pairs"]


@with_rollouts
@each_file
def test_each_row_of_a_file_is_checked(path):
    report = checked(path)
    (file,) = report.files
    assert file.rows == EXPECTED[path.name]["rows"]
    assert file.num_errors == len(errors(report))
    assert {finding.line for finding in errors(report)} <= set(range(1, file.rows + 1))
    assert len({finding.line for finding in errors(report)}) == file.invalid_rows


@with_rollouts
def test_all_files_are_validated_without_a_crash(dpo):
    run = dpo("validate", *FILES, "--json")
    assert run.returncode in (0, 1)
    assert run.stderr == ""
    reports = json.loads(run.stdout)["files"]
    assert {Path(report["path"]).name: report["rows"] for report in reports} == {
        name: entry["rows"] for name, entry in EXPECTED.items()
    }


def said_in_items(row):
    """Give a trajectory as one flat list: what was said, called and answered, in order."""
    for item in row["response"]["output"]:
        match item["type"]:
            case "message":
                text = "".join(part["text"] for part in item["content"])
                yield from [("says", text)] if text else []
            case "function_call":
                yield "calls", item["call_id"], item["name"], json.loads(item["arguments"])
            case "function_call_output":
                yield "answers", item["call_id"], item["output"]


def said_in_messages(messages):
    """Give a completion as the same flat list."""
    for message in messages:
        if message["role"] == "tool":
            yield "answers", message["tool_call_id"], message["content"]
            continue
        assert message["role"] == "assistant"
        yield from [("says", message["content"])] if message["content"] else []
        for call in message.get("tool_calls", ()):
            assert call["type"] == "function"
            yield "calls", call["id"], call["function"]["name"], call["function"]["arguments"]


def assert_tool_messages_fit(messages):
    """Hold that the policy's own messages alone are trained on, and that each tool result follows its call."""
    assert messages[-1]["role"] == "assistant"
    called = set()
    for message in messages:
        assert message.get("weight", 1) == (0 if message["role"] == "tool" else 1)
        called |= {call["id"] for call in message.get("tool_calls", ())}
        assert message["role"] != "tool" or message["tool_call_id"] in called


@with_rollouts
def test_the_task_with_five_rollouts_gives_its_six_pairs(dpo, tmp_path):
    run = dpo("collect-pairs", ANYSWE, "-o", "pairs.jsonl", "--format", "preference", "--json")
    assert run.returncode == 0, run.stderr
    rows = rows_in(ANYSWE)
    assert [row["reward"] for row in rows] == [0, 1, 0, 0, 1]
    (statement,) = {row["responses_create_params"]["metadata"]["problem_statement"] for row in rows}
    said = [json.dumps(list(said_in_items(row))) for row in rows]

    pairs = rows_in(tmp_path / "pairs.jsonl")
    found = []
    for pair in pairs:
        assert pair["context"] == [{"role": "user", "content": statement}]
        assert "task_name" not in pair
        assert [(completion["rank"], completion["reward"]) for completion in pair["completions"]] == [(0, 1), (1, 0)]
        for completion in pair["completions"]:
            assert_tool_messages_fit(completion["completion"])
        spoken = [json.dumps(list(said_in_messages(completion["completion"]))) for completion in pair["completions"]]
        found.append(tuple(map(said.index, spoken)))
        lines = [completion["source"].rpartition(":")[2] for completion in pair["completions"]]
        assert lines == [str(place + 1) for place in found[-1]]
    assert sorted(found) == list(product((1, 4), (0, 2, 3)))

    checked = dpo("validate", "pairs.jsonl")
    assert checked.stderr == "pairs.jsonl: 6 rows of preference, all valid\npassed: nothing found\n"
    assert checked.returncode == 0


def text_of(row):
    return "".join(
        part["text"] for item in row["response"]["output"] if item["type"] == "message" for part in item["content"]
    )


def recipe_pairs(rows, *, may_reject_truncated):
    """NeMo Gym's recipe, but by the whole input, and never with a cut response chosen: (input, chosen, rejected)."""

    def normal(text):
        return "".join(unicodedata.normalize("NFC", text).split())

    grouped = defaultdict(list)
    for row in rows:
        asked = [(item["role"], item["content"]) for item in row["responses_create_params"]["input"]]
        is_cut = row["response"]["incomplete_details"] is not None
        if text_of(row).strip() and (may_reject_truncated or not is_cut):
            grouped[json.dumps(asked)].append((row["reward"], text_of(row), is_cut))
    for asked, group in grouped.items():
        for (high, chosen, is_chosen_cut), (low, rejected, _) in permutations(group, 2):
            if high - low >= 0.1 and not is_chosen_cut and normal(chosen) != normal(rejected):
                yield asked, chosen, rejected


def written_pairs(path):
    for row in rows_in(path):
        is_text = isinstance(row["prompt"], str)
        messages = [{"role": "user", "content": row["prompt"]}] if is_text else row["prompt"]
        asked = json.dumps([(message["role"], message["content"]) for message in messages])
        yield asked, row["chosen"], row["rejected"]


# of 960 rollouts 31 are cut, all with a reward of 0; 47 of 120 tasks were never solved
MCQA_ACCOUNTS = [
    ([], {"dropped": {"truncated": 31, "equal_rewards": 362}, "eligible": 929, "paired_rollouts": 567, "pairs": 705}),
    (
        ["--allow-truncated-rejected"],
        {"dropped": {"equal_rewards": 376}, "eligible": 960, "paired_rollouts": 584, "pairs": 740},
    ),
]


@with_collected
@pytest.mark.parametrize(("options", "wanted"), MCQA_ACCOUNTS, ids=["default", "truncated rejected"])
def test_a_real_collection_gives_the_pairs_of_the_recipe(dpo, tmp_path, options, wanted):
    run = dpo("collect-pairs", MCQA, "-o", "pairs.jsonl", "--json", *options)
    assert run.returncode == 0, run.stderr
    account = json.loads(run.stdout)
    assert_sums(account, 960)
    wanted = {**wanted, "groups": 120, "varied_groups": 73, "paired_groups": 73, "left_out_pairs": {}, "left_out": []}
    assert {key: account[key] for key in wanted} == wanted
    assert account["missing_rollouts"] == {str(MCQA): 0}

    pairs = Counter(written_pairs(tmp_path / "pairs.jsonl"))
    assert pairs == Counter(recipe_pairs(rows_in(MCQA), may_reject_truncated=bool(options)))
    assert {json.loads(asked)[0][0] for asked, _, _ in pairs} == {"system", "user"}
    rows = rows_in(tmp_path / "pairs.jsonl")
    assert not any(row["chosen_truncated"] for row in rows)
    assert any(row["rejected_truncated"] for row in rows) == bool(options)

    checked = dpo("validate", "pairs.jsonl")
    assert checked.returncode == 0, checked.stderr
    assert f"pairs.jsonl: {len(rows)} rows of binary_preference, " in checked.stderr


@with_collected
def test_what_gym_writes_beside_a_collection_is_left_out(dpo):
    sidecars = {
        "mcqa_aggregate_metrics.json": "metrics",
        "mcqa_failures.jsonl": "failures, with placeholder rewards",
        "mcqa_materialized_inputs.jsonl": "materialized inputs",
    }
    paths = sorted(Path(COLLECTED).glob("mcqa*"))  # as the shell does it
    assert [path.name for path in paths] == ["mcqa.jsonl", *sidecars]
    run = dpo("collect-pairs", *paths, "--dry-run")
    assert run.returncode == 0, run.stderr
    lines = [line for line in (run.stdout + run.stderr).splitlines() if line.startswith("left out ")]
    assert lines == [f"left out {path}: {sidecars[path.name]}, no rollouts" for path in paths[1:]]

    account = json.loads(dpo("collect-pairs", *paths, "--dry-run", "--json").stdout)
    assert kinds_left_out(account) == sidecars
    assert (account["rows"], account["pairs"]) == (960, 705)

    inspection = json.loads(dpo("inspect", *paths, "--json").stdout)
    assert inspection["missing"] == {str(MCQA): 0}
    assert inspection["rollouts_per_task"] == {"6": 3, "7": 25, "8": 92}  # 31 were cut
    assert (inspection["rollouts"], inspection["truncated"], inspection["dropped"]) == (929, 31, {"truncated": 31})
    assert inspection["pairs"]["all"]["0.1"] == 705


@pytest.mark.slow
@with_collected
def test_a_policy_trains_on_the_pairs_of_a_real_collection(dpo, warm_dpo, tmp_path):
    assert dpo("collect-pairs", MCQA, "-o", "pairs.jsonl").returncode == 0
    policy = Path(__file__).parents[1] / "data" / "samples" / "policy"
    settings = ["policy.train_global_batch_size=353", "policy.train_micro_batch_size=64", "policy.optimizer.lr=1e-5"]
    run = warm_dpo("train", "pairs.jsonl", "--model", policy, "-o", "run", *settings)
    assert run.returncode == 0, run.stderr
    assert "705 pairs of 567 distinct responses to 73 prompts" in run.stderr
    losses = [json.loads(line)["train/loss"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 2
    assert losses[0] == pytest.approx(0.693147, abs=1e-5)
    assert abs(losses[1] - losses[0]) > 1e-5
    assert (tmp_path / "run" / "policy" / "model.safetensors").is_file()
