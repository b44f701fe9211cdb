"""Collecting pairs from files: the account of every row, the recipe's pairs, and where the recipe is wrong."""

import gzip
import json
import random
from collections import defaultdict
from itertools import combinations

import pytest

from pipeline.attrition import MEANING, Reason
from pipeline.collect import collect_pairs
from schemas.errors import InputError
from schemas.preference import read_pairs
from schemas.validation import validate_file

TOOL = {"type": "function", "name": "f"}
CALL = {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "c"}


def written(collection, tmp_path):
    """Write a collection and give the rows of the file, which must pass its own schema."""
    path = tmp_path / "pairs.jsonl"
    collection.write(path)
    if collection.attrition.pairs:
        assert validate_file(path, max_findings=5).findings == ()
        assert len(read_pairs(path)) == collection.attrition.pairs
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def texts(rows):
    return [(row["prompt"], row["chosen"], row["rejected"]) for row in rows]


def recipe_pairs(rows):
    """NeMo Gym's recipe (its page on DPO), for rows with response.output; prompt, chosen and rejected texts."""

    def prompt_of(row):
        return row["responses_create_params"]["input"][-1]["content"]

    def output_of(row):
        items = row["response"]["output"]
        return " ".join(item["content"][0]["text"] for item in items if item["type"] == "message")

    grouped = defaultdict(list)
    for row in rows:
        grouped[prompt_of(row)].append(row)
    pairs = []
    for prompt, group in grouped.items():
        ranked = sorted(group, key=lambda row: row.get("reward", 0.0), reverse=True)
        for high, low in combinations(ranked, 2):
            if high.get("reward", 0.0) - low.get("reward", 0.0) >= 0.1:
                pairs.append((prompt, output_of(high), output_of(low)))
    return pairs


def test_each_reason_has_a_meaning():
    assert list(MEANING) == list(Reason)


def test_each_row_leaves_in_a_pair_or_under_one_reason(tmp_path, rollout, write_jsonl):
    rows = [
        b"<PLACEHOLDER ROW>",  # 1 not_json
        b'{"responses_create_params":',  # 2 not_json: cut off
        [],  # 3 not_a_rollout
        {"responses_create_params": {"input": "Q"}, "reward": 1.0},  # 4 not_a_rollout: materialized inputs
        b"",  # 5 blank: no row
        rollout(mask_sample=True),  # 6 masked
        rollout(instance_config={"mask_sample": True}),  # 7 masked
        rollout(reward=None),  # 8 reward_missing
        b'{"responses_create_params":{"input":"Q"},"response":{"output":[]}}',  # 9 reward_missing
        rollout(reward="1.0"),  # 10 reward_not_a_number
        rollout(reward=True),  # 11 reward_not_a_number
        rollout(reward=float("nan")),  # 12 reward_not_a_number: a bare NaN
        rollout(reward=10**400),  # 13 reward_not_a_number: beyond the floats
        rollout(prompt=[]),  # 14 prompt_empty
        rollout(params={"metadata": {"audio_url": "x"}}),  # 15 prompt_unsupported
        rollout(response=[{"role": "user", "content": "x"}]),  # 16 response_unsupported
        rollout(params={"tools": [TOOL]}),  # 17 tool_use
        rollout(response=[CALL]),  # 18 tool_use
        rollout(response=""),  # 19 response_empty
        rollout(prompt="alone"),  # 20 single_rollout
        rollout(prompt="equal"),  # 21 equal_rewards
        rollout(prompt="equal"),  # 22 equal_rewards
        rollout(prompt="near", reward=0.5),  # 23 below_margin
        rollout(prompt="near", reward=0.55),  # 24 below_margin
        rollout(prompt="good", response="A", reward=1),  # 25 paired
        rollout(prompt="good", response="B", reward=0),  # 26 paired
        rollout(prompt="good", response="C", reward=0),  # 27 paired
        rollout(prompt="same", response="A", reward=1),  # 28 equal_responses
        rollout(prompt="same", response="A", reward=0),  # 29 equal_responses
    ]
    path = write_jsonl(tmp_path / "rollouts.jsonl", rows)
    collection = collect_pairs([path], min_margin=0.1)
    assert collection.attrition.as_dict() == {
        "rows": 28,
        "dropped": {
            "not_json": 2,
            "not_a_rollout": 2,
            "masked": 2,
            "reward_missing": 2,
            "reward_not_a_number": 4,
            "prompt_empty": 1,
            "prompt_unsupported": 1,
            "response_unsupported": 1,
            "tool_use": 2,
            "response_empty": 1,
            "single_rollout": 1,
            "equal_rewards": 2,
            "below_margin": 2,
            "equal_responses": 2,
        },
        "paired_rollouts": 3,
        "groups": 5,  # alone, equal, near, good, same
        "paired_groups": 1,
        "equal_pairs": 1,
        "pairs": 2,
    }
    lines = {reason.value: example.split(": ")[0] for reason, example in collection.first_drops.items()}
    expected = {"not_json": 1, "not_a_rollout": 3, "masked": 6, "reward_missing": 8, "reward_not_a_number": 10}
    expected |= {"prompt_empty": 14, "prompt_unsupported": 15, "response_unsupported": 16, "tool_use": 17}
    expected |= {"response_empty": 19}
    assert lines == {reason: f"{path}:{line}" for reason, line in expected.items()}
    assert texts(written(collection, tmp_path)) == [("good", "A", "B"), ("good", "A", "C")]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        # two faults to a row: the one that is first in Reason is the one counted
        ({"response": {"output": "A"}, "reward": None}, Reason.NOT_A_ROLLOUT),
        ({"mask_sample": True, "reward": None}, Reason.MASKED),
        ({"responses_create_params": {"input": []}, "reward": None}, Reason.REWARD_MISSING),
        ({"responses_create_params": {"input": []}, "response": {"output": []}}, Reason.PROMPT_EMPTY),
        ({"responses_create_params": {"input": "Q", "tools": [TOOL]}, "response": {"output": []}}, Reason.TOOL_USE),
    ],
    ids=str,
)
def test_the_first_reason_counts(tmp_path, rollout, write_jsonl, changes, reason):
    path = write_jsonl(tmp_path / "rollouts.jsonl", [{**rollout(), **changes}])
    assert dict(collect_pairs([path], min_margin=0.1).attrition.dropped) == {reason: 1}


def test_no_rows_at_all(tmp_path):
    path = tmp_path / "rollouts.jsonl"
    path.touch()
    collection = collect_pairs([path], min_margin=0.1)
    assert collection.attrition.as_dict() == {
        "rows": 0,
        "dropped": {},
        "paired_rollouts": 0,
        "groups": 0,
        "paired_groups": 0,
        "equal_pairs": 0,
        "pairs": 0,
    }
    assert written(collection, tmp_path) == []


def test_a_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        collect_pairs([tmp_path / "absent.jsonl"], min_margin=0.1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_where_the_recipe_is_right_the_pairs_are_its_pairs(tmp_path, rollout, write_jsonl, seed):
    """One user message and one part of text: same pairs, same order."""
    shuffled = random.Random(seed)
    rows = [
        rollout(prompt=f"Q{task}", response=f"A{task}.{repeat}", reward=shuffled.choice([0.0, 0.05, 0.3, 0.5, 1.0]))
        for task in range(20)
        for repeat in range(shuffled.randint(1, 6))
    ]
    shuffled.shuffle(rows)
    collection = collect_pairs([write_jsonl(tmp_path / "rollouts.jsonl", rows)], min_margin=0.1)
    expected = recipe_pairs(rows)
    assert len(expected) > 50
    assert texts(written(collection, tmp_path)) == expected


def test_a_row_of_output_can_be_traced_back(tmp_path, rollout, write_jsonl):
    rows = [
        rollout(response="B", reward=0.25, agent_ref={"name": "agent"}),
        b"",
        rollout(response="A", reward=1, agent_ref={"name": "agent"}),
    ]
    path = write_jsonl(tmp_path / "rollouts.jsonl", rows)
    (row,) = written(collect_pairs([path], min_margin=0.1), tmp_path)
    assert len(row.pop("group")) == 32
    assert row == {
        "prompt": "Q",
        "chosen": "A",
        "rejected": "B",
        "chosen_reward": 1.0,
        "rejected_reward": 0.25,
        "margin": 0.75,
        "chosen_truncated": False,
        "rejected_truncated": False,
        "agent": "agent",
        "chosen_source": f"{path}:3",
        "rejected_source": f"{path}:1",
    }


def test_a_system_message_is_kept(tmp_path, rollout, write_jsonl):
    """The recipe drops it, so the policy is trained without what it was told."""
    prompt = [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}]
    rows = [rollout(prompt=prompt, response="A", reward=1), rollout(prompt=prompt, response="B", reward=0)]
    (row,) = written(collect_pairs([write_jsonl(tmp_path / "r.jsonl", rows)], min_margin=0.1), tmp_path)
    assert row["prompt"] == prompt


def test_tasks_that_share_the_last_user_message_are_not_mixed(tmp_path, rollout, write_jsonl):
    """The recipe groups by the last message alone."""
    rows = [
        rollout(
            prompt=[
                {"role": "user", "content": earlier},
                {"role": "assistant", "content": "sure?"},
                {"role": "user", "content": "yes"},
            ],
            response=f"{earlier} {reward}",
            reward=reward,
        )
        for earlier, reward in [("delete?", 1), ("delete?", 0), ("keep?", 1), ("keep?", 0)]
    ]
    rows = written(collect_pairs([write_jsonl(tmp_path / "r.jsonl", rows)], min_margin=0.1), tmp_path)
    assert [(row["chosen"], row["rejected"]) for row in rows] == [
        ("delete? 1", "delete? 0"),
        ("keep? 1", "keep? 0"),
    ]
    assert [len(row["prompt"]) for row in rows] == [3, 3]


def test_all_parts_of_a_content_count(tmp_path, rollout, write_jsonl):
    """The recipe takes the first part of a response only, and a list of parts as the prompt."""
    prompt = [
        {"role": "user", "content": [{"type": "input_text", "text": "Q1 "}, {"type": "input_text", "text": "Q2"}]}
    ]
    parts = [{"type": "output_text", "text": "A1 "}, {"type": "output_text", "text": "A2"}]
    answer = [{"type": "message", "role": "assistant", "content": parts}]
    rows = [rollout(prompt=prompt, response=answer, reward=1), rollout(prompt=prompt, response="B", reward=0)]
    collection = collect_pairs([write_jsonl(tmp_path / "r.jsonl", rows)], min_margin=0.1)
    assert texts(written(collection, tmp_path)) == [("Q1 Q2", "A1 A2", "B")]


def test_a_missing_reward_is_no_zero(tmp_path, rollout, write_jsonl):
    """The recipe takes 0.0, so that a failed verification becomes a rejected answer."""
    unscored = rollout(response="B")
    del unscored["reward"]
    path = write_jsonl(tmp_path / "r.jsonl", [rollout(reward=1), unscored])
    attrition = collect_pairs([path], min_margin=0.1).attrition
    assert (attrition.pairs, dict(attrition.dropped)) == (0, {Reason.REWARD_MISSING: 1, Reason.SINGLE_ROLLOUT: 1})


def test_files_are_not_mixed(tmp_path, rollout, write_jsonl):
    paths = [write_jsonl(tmp_path / f"{reward}.jsonl", [rollout(_ng_task_index=0, reward=reward)]) for reward in (0, 1)]
    attrition = collect_pairs(paths, min_margin=0.1).attrition
    assert (attrition.rows, attrition.groups, attrition.pairs) == (2, 2, 0)


def test_a_file_named_twice_is_read_once(tmp_path, rollout, write_jsonl):
    path = write_jsonl(tmp_path / "r.jsonl", [rollout(reward=1), rollout(response="B", reward=0)])
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.jsonl").symlink_to(path)
    again = [path, path, tmp_path / "folder" / ".." / "r.jsonl", tmp_path / "link.jsonl"]
    collection = collect_pairs(again, min_margin=0.1)
    assert (collection.attrition.rows, collection.attrition.pairs) == (2, 1)
    assert collection.rollouts[0].source == f"{path}:1"


def test_the_output_of_the_first_documentation_is_read(tmp_path, rollout, write_jsonl):
    rows = [rollout(response="A", reward=1), rollout(response="B", reward=0)]
    for row in rows:
        row["output"] = row.pop("response")["output"]
    collection = collect_pairs([write_jsonl(tmp_path / "r.jsonl", rows)], min_margin=0.1)
    assert texts(written(collection, tmp_path)) == [("Q", "A", "B")]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("responses_create_params", [1]),
        ("responses_create_params", "x"),
        ("response", [1]),
        ("response", 5),
        ("mask_sample", 0),
        ("instance_config", [1]),
        ("instance_config", "x"),
        ("agent_ref", "x"),
        ("agent_ref", [1]),
        ("_ng_task_index", [{}]),
        ("_ng_task_index", 2**80),
        ("verifier_metadata", {"k": 2**80}),
        ("expected_answer", float("-inf")),
        ("reward", 2**70),
        ("reward", []),
        ("reward", {}),
    ],
)
def test_values_of_any_type_are_counted(tmp_path, rollout, write_jsonl, field, value):
    path = write_jsonl(tmp_path / "r.jsonl", [{**rollout(), field: value}])
    attrition = collect_pairs([path], min_margin=0.1).attrition
    assert attrition.rows == attrition.dropped.total() == 1


@pytest.mark.parametrize(
    "params",
    [
        {"input": {"role": "user"}},
        {"input": [{"role": "user", "content": [{"type": ["text"], "text": "Q"}]}]},
        {"input": [{"role": {}, "content": "Q"}]},
        {"input": "Q", "metadata": [1]},
        {"input": "Q", "metadata": "x"},
        {"input": "Q", "tools": 5},
        {"input": "Q", "instructions": ["x"]},
    ],
    ids=str,
)
def test_params_of_any_type_are_counted(tmp_path, rollout, write_jsonl, params):
    path = write_jsonl(tmp_path / "r.jsonl", [{**rollout(), "responses_create_params": params}])
    attrition = collect_pairs([path], min_margin=0.1).attrition
    assert attrition.rows == attrition.dropped.total() == 1


def test_two_equal_texts_are_no_preference(tmp_path, rollout, write_jsonl):
    """A verifier that is not deterministic scores one text twice; nothing can be learnt from it."""
    rows = [rollout(response="A", reward=1), rollout(response="A", reward=0), rollout(response="B", reward=0)]
    collection = collect_pairs([write_jsonl(tmp_path / "r.jsonl", rows)], min_margin=0.1)
    assert texts(written(collection, tmp_path)) == [("Q", "A", "B")]
    attrition = collection.attrition
    assert attrition.rows == 3 == attrition.dropped.total() + attrition.paired_rollouts


def test_answers_to_several_user_turns_are_not_glued_together(tmp_path, rollout, write_jsonl):
    """speed_bench: all user turns in the input, the answers to each in the output; their order is lost."""
    prompt = [{"role": "user", "content": "Q1"}, {"role": "user", "content": "Q2"}]
    rows = [
        rollout(
            prompt=prompt, response=[{"type": "message", "content": f"{name}{turn}"} for turn in (1, 2)], reward=reward
        )
        for name, reward in [("A", 1), ("B", 0)]
    ]
    attrition = collect_pairs([write_jsonl(tmp_path / "r.jsonl", rows)], min_margin=0.1).attrition
    assert (attrition.pairs, attrition.dropped.total()) == (0, 2)


def test_rewards_at_the_ends_of_the_range(tmp_path, rollout, write_jsonl):
    """Their difference is beyond the floats; the pair is a pair, and its row still standard JSON with a number."""
    rows = [rollout(reward=1e308), rollout(response="B", reward=-1e308)]
    (row,) = written(collect_pairs([write_jsonl(tmp_path / "r.jsonl", rows)], min_margin=0.1), tmp_path)
    assert (row["chosen_reward"], row["rejected_reward"]) == (1e308, -1e308)
    assert row["margin"] is None or row["margin"] > 1e308


@pytest.mark.parametrize("part", ["prompt", "response"])
def test_a_lone_surrogate_in_a_text_is_a_named_drop(tmp_path, rollout, write_jsonl, part):
    path = write_jsonl(tmp_path / "r.jsonl", [rollout(**{part: "half \ud83d"})])
    attrition = collect_pairs([path], min_margin=0.1).attrition
    assert attrition.rows == attrition.dropped.total() == 1
    assert attrition.dropped[Reason.SINGLE_ROLLOUT] == 0


def test_a_file_name_that_is_no_utf_8(tmp_path, rollout, write_jsonl):
    path = write_jsonl(tmp_path / "rollouts\udcff.jsonl", [rollout(reward=1), rollout(response="B", reward=0)])
    assert len(written(collect_pairs([path], min_margin=0.1), tmp_path)) == 1


def test_a_response_cut_by_a_limit_is_marked(tmp_path, rollout, write_jsonl):
    rows = [rollout(response="whole", reward=1), rollout(response="cut of", reward=0)]
    rows[1]["response"]["incomplete_details"] = {"reason": "max_output_tokens"}
    (row,) = written(collect_pairs([write_jsonl(tmp_path / "r.jsonl", rows)], min_margin=0.1), tmp_path)
    assert (row["chosen_truncated"], row["rejected_truncated"]) == (False, True)


def test_compressed_files_are_told(tmp_path):
    path = tmp_path / "rollouts.jsonl.gz"
    path.write_bytes(gzip.compress(b"{}"))
    with pytest.raises(InputError, match=r"rollouts\.jsonl\.gz: is compressed; unpack it first"):
        collect_pairs([path], min_margin=0.1)
