"""Token ids of the policy in the rows: single calls, several calls, and all that keeps them away."""

import itertools
import json
import os
import random
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from pipeline.collect import collect_pairs
from pipeline.intake import Machinery
from pipeline.manifest import manifest_path
from pipeline.reasoning import ReasoningPolicy
from pipeline.settings import DuplicateKeys, Format, Settings
from tests.gate_runs import checked, errors

ALONE = Machinery(num_workers=1)
ROLLOUTS = os.environ.get("GYM_ROLLOUTS")
KEYS = {"prompt_token_ids", "chosen_token_ids", "chosen_loss_mask", "rejected_token_ids", "rejected_loss_mask"}
TOOL = {"type": "function", "name": "add", "parameters": {"type": "object"}}
NOTHING = dict.fromkeys(KEYS)


def ids(prompt, generation):
    return {"prompt_token_ids": prompt, "generation_token_ids": generation, "generation_log_probs": [-0.5]}


def said(text, **keys):
    part = {"type": "output_text", "text": text, "annotations": []}
    return {"type": "message", "role": "assistant", "content": [part], **keys}


def thought(text="", content=None, **keys):
    summary = [{"type": "summary_text", "text": text}] if text else []
    return {"type": "reasoning", "summary": summary, "content": content, **keys}


def called(call_id="c1", **keys):
    return {"type": "function_call", "name": "add", "arguments": "{}", "call_id": call_id, **keys}


def result(text="3", call_id="c1"):
    return {"type": "function_call_output", "call_id": call_id, "output": text}


def asked(text="more"):
    return {"type": "message", "role": "user", "content": text}


GOOD = [said("good", **ids([1, 2], [3, 4]))]
BAD = [said("bad", **ids([1, 2], [5]))]


def rows_of(path):
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def tokens_in(row):
    return {key: row[key] for key in KEYS if key in row}


@pytest.fixture
def pair(tmp_path, rollout, write_jsonl):
    """Collect one pair of two trajectories; give its columns of token ids, and check the row and the count."""

    def collect(chosen, rejected, *, params=None, **choices):
        rows = [rollout("Q", each, reward, params=params) for each, reward in ((chosen, 1), (rejected, 0))]
        given, output = write_jsonl(tmp_path / "rollouts.jsonl", rows), tmp_path / "out.jsonl"
        settings = Settings(**{"format": Format.TRL, "token_ids": True, **choices})
        collection = collect_pairs([given], output, settings, ALONE)
        (row,) = rows_of(output)
        found = tokens_in(row)
        assert found.keys() == KEYS
        is_known = [found[key] is not None for key in sorted(KEYS) if key.endswith("ids")]
        assert is_known in ([True] * 3, [False] * 3)
        assert collection.attrition.with_token_ids == int(is_known[0])
        assert errors(checked(output)) == []
        return found

    return collect


def test_a_single_call(pair):
    assert pair(GOOD, BAD) == {
        "prompt_token_ids": [1, 2],
        "chosen_token_ids": [3, 4],
        "chosen_loss_mask": None,
        "rejected_token_ids": [5],
        "rejected_loss_mask": None,
    }


def test_a_tool_call_and_the_answer_are_two_calls(pair):
    steps = [
        said("Let me add.", **ids([1, 2], [3, 4])),  # as one agent has it: on the message, before the call it made
        called(),
        result(),
        said("It is 3.", **ids([1, 2, 3, 4, 50, 51], [6])),  # 50, 51: the tool's result
    ]
    found = pair(steps, [said("no", **ids([1, 2], [7, 8]))], params={"tools": [TOOL]})
    assert found == {
        "prompt_token_ids": [1, 2],
        "chosen_token_ids": [3, 4, 50, 51, 6],
        "chosen_loss_mask": [1, 1, 0, 0, 1],
        "rejected_token_ids": [7, 8],
        "rejected_loss_mask": None,
    }


def test_parallel_calls_of_tools_are_one_call_of_the_model(pair):
    steps = [
        thought("Both."),
        called("c1"),
        called("c2", **ids([1, 2], [3])),  # on the last item
        result("3", "c1"),
        result("4", "c2"),
        said("Done.", **ids([1, 2, 3, 50], [4])),
    ]
    found = pair(steps, [thought("Hm."), said("no", **ids([1, 2], [7]))], params={"tools": [TOOL]})
    assert found["chosen_token_ids"] == [3, 50, 4]
    assert found["chosen_loss_mask"] == [1, 0, 1]


def test_what_another_person_says_is_not_sampled(pair):
    steps = [
        said("one", **ids([1, 2], [3])),
        asked(),
        said("two", **ids([1, 2, 3, 60], [4])),
        asked(),
        said("three", **ids([1, 2, 3, 60, 4, 61, 62], [5, 6])),
    ]
    found = pair(steps, BAD)
    assert found["chosen_token_ids"] == [3, 60, 4, 61, 62, 5, 6]
    assert found["chosen_loss_mask"] == [1, 0, 1, 0, 0, 1, 1]


def test_what_comes_before_the_policy_speaks_is_of_the_prompt(pair):
    found = pair([asked("Q2"), *GOOD], [asked("Q2"), *BAD])
    assert (found["prompt_token_ids"], found["chosen_token_ids"]) == ([1, 2], [3, 4])


def test_what_comes_after_the_last_word_is_in_no_call(pair):
    assert pair([*GOOD, asked()], BAD)["chosen_token_ids"] == [3, 4]


def test_the_last_snapshot_has_the_whole(pair):
    snapshots = [[GOOD[0]], [GOOD[0], asked(), said("end", **ids([1, 2, 3, 4, 9], [5]))]]
    assert pair(snapshots, [BAD])["chosen_token_ids"] == [3, 4, 9, 5]


@pytest.mark.parametrize(
    "second",
    [
        ids([1, 2, 3, 9, 50], [6]),  # not what was sampled: 9 for 4
        ids([1, 2, 3], [6]),  # less than what was known
        ids([7], [6]),
        {},  # no ids
        ids([], []),
    ],
)
def test_calls_that_do_not_extend_one_another(pair, second):
    steps = [called(**ids([1, 2], [3, 4])), result(), said("It is 3.", **second)]
    assert pair(steps, BAD, params={"tools": [TOOL]}) == NOTHING
    assert pair(GOOD, [called(**ids([1, 2], [3, 4])), result(), said("It", **second)]) == NOTHING


@pytest.mark.parametrize(
    "steps",
    [
        [said("go", **ids([1, 2], [3])), said("od", **ids([1, 2, 3], [4]))],  # two calls in one turn of the text
        [said("go", **ids([1, 2], [3, 4])), said("od")],  # nobody knows whose the second is
        [said("go"), said("od", **ids([1, 2], [3, 4]))],
        [said("good", **ids([1, 2], [3, 4])), thought("after the call's last item")],
        [thought("Hm.", **ids([1, 2], [3])), said("good")],
        [*GOOD, asked(), said("", **ids([1, 2, 3, 4, 9], [5]))],  # a turn that is cut off
    ],
)
def test_a_turn_that_is_not_one_call(pair, steps):
    others = [thought("Hm."), *BAD] if any(step["type"] == "reasoning" for step in steps) else BAD
    assert pair(steps, others) == NOTHING


MALFORMED = [[], None, "3 4", 3, {"0": 3}, [3.0], ["3"], [True], [-1], [None], [[3]], [2**31], [10**400]]


@pytest.mark.parametrize("value", MALFORMED, ids=lambda value: str(value)[:9])
@pytest.mark.parametrize("name", ["prompt_token_ids", "generation_token_ids"])
def test_malformed_ids(pair, name, value):
    wrong = [said("good", **{**ids([1, 2], [3, 4]), name: value})]
    assert pair(wrong, BAD) == NOTHING
    assert pair(GOOD, [said("bad", **{**ids([1, 2], [5]), name: value})]) == NOTHING


def test_one_side_without_ids(pair):
    assert pair(GOOD, [said("bad")]) == NOTHING
    assert pair([said("good")], BAD) == NOTHING


def test_prompts_that_differ_in_tokens(pair):
    assert pair(GOOD, [said("bad", **ids([1, 3], [5]))]) == NOTHING


def test_ids_beside_numbers_that_json_has_no_place_for(pair):
    row = said("good", **{**ids([1, 2], [3, 4]), "generation_log_probs": [float("-inf"), float("nan")]})
    assert pair([row], BAD)["chosen_token_ids"] == [3, 4]


@pytest.mark.parametrize("policy", [ReasoningPolicy.KEEP, ReasoningPolicy.REQUIRE_BOTH])
def test_reasoning_in_one_form_is_what_was_sampled(pair, policy):
    chosen = [thought("Hm."), said("\n\ngood", **ids([1, 2], [3, 4]))]
    rejected = [said("Ha.</think>bad", **ids([1, 2], [5]))]
    assert pair(chosen, rejected, reasoning=policy)["rejected_token_ids"] == [5]


@pytest.mark.parametrize(
    "chosen",
    [
        [thought("Hm."), *GOOD],
        [thought(), *GOOD],
        [said("<think>Hm.</think>good", **ids([1, 2], [3, 4]))],
        [said("Hm.</think>good", **ids([1, 2], [3, 4]))],
        [said("<think>\n\n</think>\n\ngood", **ids([1, 2], [3, 4]))],
        [said("go<think>Hm.</think>od", **ids([1, 2], [3, 4]))],
    ],
)
def test_reasoning_that_is_stripped(pair, chosen):
    assert pair(chosen, BAD, reasoning=ReasoningPolicy.STRIP) == NOTHING


def test_nothing_to_strip(pair):
    assert pair(GOOD, BAD, reasoning=ReasoningPolicy.STRIP)["chosen_token_ids"] == [3, 4]


def test_reasoning_that_is_stripped_off_the_prompt(pair):
    earlier = [asked("Q"), said("<think>Hm.</think>A"), asked("Q2")]
    kept = pair(GOOD, BAD, params={"input": earlier})
    assert kept["chosen_token_ids"] == [3, 4]
    assert pair(GOOD, BAD, params={"input": earlier}, reasoning=ReasoningPolicy.STRIP) == NOTHING


def test_reasoning_that_was_never_recorded(pair):
    in_full = [{"type": "reasoning_text", "text": "First this, then that."}]
    assert pair([thought(), *GOOD], BAD) == NOTHING
    assert pair([thought("This and that.", in_full), *GOOD], [thought("Hm."), *BAD]) == NOTHING
    assert pair([thought("", in_full), *GOOD], [thought("Hm."), *BAD])["chosen_token_ids"] == [3, 4]


def test_a_response_that_was_cut_has_the_tokens_up_to_there(tmp_path, rollout, write_jsonl):
    rows = [rollout("Q", [thought("Hm."), *GOOD], 1), rollout("Q", [thought("Well", **ids([1, 2], [5, 6]))], 0)]
    rows[1]["response"]["incomplete_details"] = {"reason": "max_output_tokens"}
    given = write_jsonl(tmp_path / "rollouts.jsonl", rows)
    settings = Settings(token_ids=True, allow_truncated_rejected=True)
    collect_pairs([given], tmp_path / "out.jsonl", settings, ALONE)
    (row,) = rows_of(tmp_path / "out.jsonl")
    assert (row["rejected_truncated"], row["rejected_token_ids"]) == (True, [5, 6])


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("form", list(Format))
def test_each_form_and_packing(tmp_path, rollout, write_jsonl, form, suffix):
    rows = [rollout("Q", GOOD, 1), rollout("Q", BAD, 0), rollout("Z", GOOD, 1), rollout("Z", [said("bad")], 0)]
    given, output = write_jsonl(tmp_path / "rollouts.jsonl", rows), tmp_path / f"out.{suffix}"
    collect_pairs([given], output, Settings(format=form, token_ids=True), ALONE)
    found = {}
    for row in pa.Table.to_pylist(parquet.read_table(output)) if suffix == "parquet" else rows_of(output):
        prompt = row["context"] if form is Format.PREFERENCE else row["prompt"]
        if form is Format.PREFERENCE:
            assert KEYS & row.keys() == {"prompt_token_ids"}
            sides = [(each["token_ids"], each["loss_mask"]) for each in row["completions"]]
        else:
            assert row.keys() >= KEYS
            sides = [(row[f"{side}_token_ids"], row[f"{side}_loss_mask"]) for side in ("chosen", "rejected")]
        found[prompt if isinstance(prompt, str) else prompt[0]["content"]] = (row["prompt_token_ids"], *sides)
    assert found == {"Q": ([1, 2], ([3, 4], None), ([5], None)), "Z": (None, (None, None), (None, None))}
    report = checked(output)
    assert [file.form for file in report.files] == ["binary_preference" if form is Format.BINARY else form]
    assert errors(report) == []


@pytest.mark.parametrize("form", list(Format))
@pytest.mark.parametrize("across_agents", [False, True])
def test_the_rest_of_the_rows_is_the_same(tmp_path, many, form, across_agents):
    texts = []
    for token_ids in (False, True):
        output = tmp_path / f"{token_ids}.jsonl"
        settings = Settings(format=form, token_ids=token_ids, across_agents=across_agents)
        collect_pairs([many], output, settings, ALONE)
        rows = rows_of(output)
        for row in rows:
            for each in (row, *row.get("completions", ())):
                for key in (*KEYS, "token_ids", "loss_mask"):
                    assert each.pop(key, None) is None or token_ids
        texts.append(json.dumps(rows))
    assert texts[0] == texts[1]
    assert "token_ids" not in texts[0]


@pytest.fixture
def many(tmp_path, rollout, write_jsonl):
    """Twelve tasks of five rollouts: three with ids, one without, one whose prompt was read otherwise."""
    rows = []
    for task, sample in itertools.product(range(12), range(5)):
        prompt, text = [1, task + 10], f"answer {sample} to {task}"
        response = [said(text, **ids(prompt, [sample, 7]))]
        if sample == 3:
            response = [said(text)]
        elif sample == 4:
            response = [said(text, **ids([9], [sample]))]
        keys = {"agent_ref": {"name": "a"}, "_ng_task_index": task, "_ng_rollout_index": sample}
        rows.append(rollout(f"Q{task}", response, sample / 4, **keys))
    return write_jsonl(tmp_path / "many.jsonl", rows)


def test_neither_order_nor_processes_change_a_byte(tmp_path, many, write_jsonl):
    settings, lines = Settings(token_ids=True, sources=False, validation_fraction=0.3), many.read_bytes().splitlines()
    random.Random(0).shuffle(lines)
    shuffled = write_jsonl(tmp_path / "shuffled.jsonl", lines)
    contents = set()
    for given, machinery in ((many, ALONE), (many, Machinery(3, chunk_bytes=500)), (shuffled, Machinery(2, 700))):
        collection = collect_pairs([given], tmp_path / "out.jsonl", settings, machinery)
        contents.add((tmp_path / "out.jsonl").read_bytes() + (tmp_path / "out_val.jsonl").read_bytes())
        # of five rollouts with different rewards: ten pairs, three of them among the first three
        assert (collection.attrition.pairs, collection.attrition.with_token_ids) == (120, 36)
    assert len(contents) == 1


def test_one_text_in_several_tokens(tmp_path, rollout, write_jsonl):
    """Rollouts that nothing but their tokens tells apart come in the order of these."""
    rows = [rollout("Q", [said("good", **ids([1, 2], tokens))], 1) for tokens in ([3, 4], [34], [3, 3, 4])]
    rows.append(rollout("Q", BAD, 0))
    contents = set()
    for order in itertools.permutations(rows):
        given = write_jsonl(tmp_path / "rollouts.jsonl", order)
        collect_pairs([given], tmp_path / "out.jsonl", Settings(token_ids=True, sources=False), ALONE)
        contents.add((tmp_path / "out.jsonl").read_bytes())
    (content,) = contents
    assert sorted(json.loads(line)["chosen_token_ids"] for line in content.splitlines()) == [[3, 3, 4], [3, 4], [34]]


@pytest.mark.parametrize("policy", list(DuplicateKeys))
def test_of_a_rollout_given_twice_one_with_ids_is_used(tmp_path, rollout, write_jsonl, policy):
    index = {"_ng_task_index": 0, "_ng_rollout_index": 0}
    rows = [
        rollout("Q", [said("good")], 1, **index),
        rollout("Q", GOOD, 1, **index),
        rollout("Q", BAD, 0, _ng_task_index=0, _ng_rollout_index=1),
    ]
    for order in itertools.permutations(rows):
        given = write_jsonl(tmp_path / "rollouts.jsonl", order)
        settings = Settings(token_ids=True, duplicate_keys=policy)
        collection = collect_pairs([given], tmp_path / "out.jsonl", settings, ALONE)
        (row,) = rows_of(tmp_path / "out.jsonl")
        assert row["chosen_token_ids"] == [3, 4]
        assert collection.attrition.dropped == {"duplicate_rollout": 1}


def test_the_command_and_the_manifest_say_how_many(dpo, tmp_path, many):
    run = dpo("collect-pairs", many, "-o", "out.jsonl", "--token-ids")
    assert run.returncode == 0
    assert "36 of 120 pairs with the policy's token ids" in run.stderr.splitlines()
    manifest = json.loads(manifest_path(tmp_path / "out.jsonl").read_bytes())
    assert manifest["settings"]["token_ids"] is True
    assert manifest["attrition"]["pairs_with_token_ids"] == 36
    dry = dpo("collect-pairs", many, "--token-ids", "--dry-run", "--json")
    assert json.loads(dry.stdout)["pairs_with_token_ids"] == 36


def test_by_default_there_are_none(dpo, tmp_path, many):
    run = dpo("collect-pairs", many, "-o", "out.jsonl")
    assert run.returncode == 0
    assert "token" not in run.stderr
    assert "token_ids" not in (tmp_path / "out.jsonl").read_text()
    manifest = json.loads(manifest_path(tmp_path / "out.jsonl").read_bytes())
    assert manifest["settings"]["token_ids"] is False
    assert "pairs_with_token_ids" not in manifest["attrition"]


def test_findings_in_the_columns(tmp_path, write_jsonl):
    row = {"prompt": "Q", "chosen": "a", "rejected": "b", "prompt_token_ids": [1, -1], "chosen_loss_mask": [0, 2]}
    report = checked(write_jsonl(tmp_path / "pairs.jsonl", [row]))
    assert sorted(finding.pointer for finding in report.findings) == ["/chosen_loss_mask/1", "/prompt_token_ids/1"]


def real(name):
    return Path(ROLLOUTS or "") / f"head__{name}.jsonl"


with_rollouts = pytest.mark.skipif(
    not ROLLOUTS, reason="the environment variable GYM_ROLLOUTS (folder of real rollout files) is not set"
)


@with_rollouts
def test_real_ids_go_along(tmp_path, write_jsonl):
    """Five rollouts of one task, all of reward 0: rewards that differ make ten pairs of them."""
    rows = rows_of(real("competitive_coding_challenges__example_rollouts"))
    sampled = {}
    for number, row in enumerate(rows):
        row["reward"] = float(number)
        item = row["response"]["output"][-1]
        sampled[number] = (item["prompt_token_ids"], item["generation_token_ids"])
    same = {**rows[0], "_ng_task_index": 0}
    rows = [{**same, **{key: row[key] for key in ("response", "reward")}} for row in rows]
    given = write_jsonl(tmp_path / "rollouts.jsonl", rows)
    collection = collect_pairs([given], tmp_path / "out.jsonl", Settings(token_ids=True), ALONE)
    pairs = rows_of(tmp_path / "out.jsonl")
    prompts = [prompt for prompt, _ in sampled.values()]
    equal = [better for better, worse in itertools.combinations(range(5), 2) if prompts[better] == prompts[worse]]
    assert (len(pairs), collection.attrition.with_token_ids) == (10, len(equal))
    assert equal
    for pair in pairs:
        chosen, rejected = sampled[int(pair["chosen_reward"])], sampled[int(pair["rejected_reward"])]
        if chosen[0] == rejected[0]:
            assert pair["prompt_token_ids"] == chosen[0]
            assert (pair["chosen_token_ids"], pair["chosen_loss_mask"]) == (chosen[1], None)
            assert (pair["rejected_token_ids"], pair["rejected_loss_mask"]) == (rejected[1], None)
        else:
            assert tokens_in(pair) == NOTHING
    stripped = Settings(token_ids=True, reasoning=ReasoningPolicy.STRIP)  # all have reasoning
    assert collect_pairs([given], None, stripped, ALONE).attrition.with_token_ids == 0


@with_rollouts
@pytest.mark.parametrize(
    ("name", "num_pairs"),
    [
        ("anyswe_agent__example_rollouts_hermes", 6),  # five rollouts of one task, two of reward 1 and three of 0
        ("hermes_agent__example_math_rollouts", 0),  # five tasks
    ],
)
def test_real_ids_that_are_empty(tmp_path, name, num_pairs):
    settings = Settings(format=Format.TRL, token_ids=True)
    collection = collect_pairs([real(name)], tmp_path / "out.jsonl", settings, ALONE)
    assert (collection.attrition.pairs, collection.attrition.with_token_ids) == (num_pairs, 0)
    if num_pairs:
        assert all(tokens_in(row) == NOTHING for row in rows_of(tmp_path / "out.jsonl"))
