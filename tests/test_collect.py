"""Collecting from files, end to end: the traps of real files, the recipe's pairs, and where the recipe is wrong."""

import json
import random
from collections import defaultdict
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipeline.attrition import Reason
from pipeline.collect import collect_pairs
from pipeline.gate.rules import Rule
from pipeline.reasoning import ReasoningPolicy
from pipeline.settings import DuplicateKeys, Format, Settings, Strategy
from schemas.errors import InputError
from schemas.preference import read_pairs
from tests.gate_runs import checked, errors


def said(text):
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


def user(content):
    return {"role": "user", "content": content}


def system(content):
    return {"role": "system", "content": content}


@pytest.fixture
def collect(tmp_path, write_jsonl):
    """Collect files, each given by its name and rows; give the account and the rows written, which are valid."""

    def run(files, **settings):
        if isinstance(files, list):
            files = {"r.jsonl": files}
        for name, rows in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            write_jsonl(tmp_path / name, rows)
        output = tmp_path / "pairs.jsonl"
        output.unlink(missing_ok=True)
        collection = collect_pairs([tmp_path / name for name in files], output, Settings(**settings))
        if not collection.attrition.pairs:
            assert not output.exists()
            return collection.attrition, []
        if Settings(**settings).format is Format.BINARY:
            # tasks of one prompt text may disagree; what is in the file is right all the same
            assert {finding.rule for finding in errors(checked(output))} <= {Rule.CONTRADICTORY_PAIR}
            assert len(read_pairs(output)) == collection.attrition.pairs
        return collection.attrition, [json.loads(line) for line in output.read_bytes().splitlines()]

    return run


def texts(pairs):
    return sorted((pair["prompt"], pair["chosen"], pair["rejected"]) for pair in pairs)


# ---- the recipe of NeMo Gym's page on DPO


def recipe_pairs(rows):
    """NeMo Gym's recipe, for rows with response.output; prompt, chosen and rejected texts."""

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


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("has_index", [True, False])
def test_where_the_recipe_is_right_the_pairs_are_its_pairs(collect, rollout, seed, has_index):
    """One user message and one part of text."""
    shuffled = random.Random(seed)
    rows = [
        rollout(
            prompt=f"Q{task}",
            response=f"A{task}.{repeat}",
            reward=shuffled.choice([0.0, 0.05, 0.3, 0.5, 1.0]),
            **({"_ng_task_index": task, "_ng_rollout_index": repeat} if has_index else {}),
        )
        for task in range(20)
        for repeat in range(shuffled.randint(1, 6))
    ]
    shuffled.shuffle(rows)
    expected = recipe_pairs(rows)
    assert len(expected) > 50
    assert texts(collect(rows)[1]) == sorted(expected)


def test_a_row_of_output_can_be_traced_back(collect, rollout, tmp_path):
    rows = [
        rollout(response="B", reward=0.25, agent_ref={"name": "agent"}),
        b"",
        rollout(response="A", reward=1, agent_ref={"name": "agent"}),
    ]
    _, (row,) = collect(rows)
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
        "chosen_source": f"{tmp_path}/r.jsonl:3",
        "rejected_source": f"{tmp_path}/r.jsonl:1",
    }


def test_a_system_message_is_kept(collect, rollout):
    """The recipe drops it, so the policy is trained without what it was told."""
    prompt = [system("S"), user("Q")]
    _, (row,) = collect(
        [rollout(prompt=prompt, response="A", reward=1), rollout(prompt=prompt, response="B", reward=0)]
    )
    assert row["prompt"] == prompt


def test_tasks_that_share_the_last_user_message_are_not_mixed(collect, rollout):
    """The recipe groups by the last message alone."""
    rows = [
        rollout(
            prompt=[user(earlier), {"role": "assistant", "content": "sure?"}, user("yes")],
            response=f"{earlier} {reward}",
            reward=reward,
        )
        for earlier, reward in [("delete?", 1), ("delete?", 0), ("keep?", 1), ("keep?", 0)]
    ]
    _, pairs = collect(rows)
    assert sorted((row["chosen"], row["rejected"]) for row in pairs) == [
        ("delete? 1", "delete? 0"),
        ("keep? 1", "keep? 0"),
    ]
    assert [len(row["prompt"]) for row in pairs] == [3, 3]


def test_all_parts_of_a_content_count(collect, rollout):
    """The recipe takes the first part of a response only, and a list of parts as the prompt."""
    prompt = [user([{"type": "input_text", "text": "Q1 "}, {"type": "input_text", "text": "Q2"}])]
    parts = [{"type": "output_text", "text": "A1 "}, {"type": "output_text", "text": "A2"}]
    answer = [{"type": "message", "role": "assistant", "content": parts}]
    rows = [rollout(prompt=prompt, response=answer, reward=1), rollout(prompt=prompt, response="B", reward=0)]
    assert texts(collect(rows)[1]) == [("Q1 Q2", "A1 A2", "B")]


def test_the_output_of_the_first_documentation_is_read(collect, rollout):
    rows = [rollout(response="A", reward=1), rollout(response="B", reward=0)]
    for row in rows:
        row["output"] = row.pop("response")["output"]
    assert texts(collect(rows)[1]) == [("Q", "A", "B")]


# ---- real files' traps


def test_blackjack_has_one_index_and_five_prompts(collect, rollout):
    """The deal is random; gymnasium agents append the first observation to the input."""
    rows = [
        rollout(
            prompt=[system("Play blackjack."), user(f"You hold {12 + deal}")],
            response=[said("hit"), user("You hold 25. Bust."), said("ok")],
            reward=reward,
            _ng_task_index=0,
            _ng_rollout_index=deal,
        )
        for deal, reward in enumerate([1, -1, -1, 1, -1])
    ]
    for form in Format:
        attrition, pairs = collect(rows, format=form)
        assert pairs == []
        assert attrition.groups == (0 if form is Format.BINARY else 5)


def test_newton_bench_has_one_prompt_and_three_difficulties(collect, rollout):
    rows = [
        rollout(prompt="Find the law.", response=f"law {difficulty}", reward=reward, difficulty=difficulty)
        for difficulty, reward in [("easy", 1.0), ("medium", 1.0), ("hard", 0.109)]
    ]
    attrition, pairs = collect(rows)
    assert (pairs, attrition.groups, dict(attrition.dropped)) == ([], 3, {Reason.SINGLE_ROLLOUT: 3})


def test_gdpval_asks_in_the_output(collect, rollout):
    """`input` is empty, the trajectory begins with what was asked; five tasks, and two rollouts of one."""
    rows = [
        rollout(
            prompt=[],
            response=[system("You are an agent."), user(f"Task {task}"), said(f"{task} {reward}")],
            reward=reward,
            _ng_task_index=task,
        )
        for task, reward in [(0, 1.0), (1, 0.5), (2, 0.0), (3, 1.0), (4, 0.0), (0, 0.25)]
    ]
    attrition, (pair,) = collect(rows)
    assert (attrition.groups, pair["prompt"]) == (5, [system("You are an agent."), user("Task 0")])
    assert (pair["chosen"], pair["rejected"]) == ("0 1.0", "0 0.25")


def test_aviary_has_lists_of_lists(collect, rollout):
    rows = [
        rollout(
            prompt=[],
            response=[[user(f"Q{task}"), said("hm")], [user(f"Q{task}"), said("hm"), user("go on"), said(f"{reward}")]],
            reward=reward,
            _ng_task_index=task,
        )
        for task, reward in [(0, 1.0), (1, 0.0), (0, 0.0)]
    ]
    attrition, (pair,) = collect(rows, format=Format.TRL)
    assert (attrition.groups, pair["prompt"]) == (2, [user("Q0")])
    assert pair["chosen"] == [
        {"role": "assistant", "content": "hm"},
        {"role": "user", "content": "go on", "weight": 0},
        {"role": "assistant", "content": "1.0"},
    ]


def test_asr_asks_by_audio(collect, rollout):
    rows = [
        rollout(prompt="Transcribe.", response=f"{reward}", reward=reward, params={"metadata": {"audio_url": url}})
        for url, reward in [("data:audio/wav;base64,AA", 1), ("data:audio/wav;base64,BB", 0)]
    ]
    attrition, pairs = collect(rows)
    assert (pairs, dict(attrition.dropped)) == ([], {Reason.MEDIA: 2})


@pytest.mark.parametrize("settings", [{}, {"across_files": True}, {"across_agents": True}], ids=str)
def test_wordle_has_one_prompt_and_five_tasks(collect, rollout, settings):
    """openair_congestion, vibench and job_bench too: the index alone tells them apart."""
    rows = [
        rollout(prompt="Guess the word.", response=f"guess {task}", reward=task % 2, _ng_task_index=task)
        for task in range(5)
    ]
    attrition, pairs = collect(rows, **settings)
    assert (pairs, attrition.groups) == ([], 5)


def test_each_repeat_has_a_seed_of_its_own(collect, rollout):
    rows = [
        rollout(
            response=f"A{seed}",
            reward=reward,
            params={"metadata": {"extra_body": json.dumps({"seed": seed})}},
            _ng_task_index=0,
            _ng_rollout_index=seed,
        )
        for seed, reward in enumerate([1, 0, 0])
    ]
    assert texts(collect(rows)[1]) == [("Q", "A0", "A1"), ("Q", "A0", "A2")]


def anyswe(rewards, *, index=True):
    return [
        {
            "responses_create_params": {"input": [], "metadata": {"problem_statement": "Fix it.", "base": "abc"}},
            "response": {"id": f"resp_{number}", "output": [said(f"patch {number}")]},
            "reward": reward,
            **({"_ng_task_index": 0, "_ng_rollout_index": number} if index else {}),
        }
        for number, reward in enumerate(rewards)
    ]


def test_anyswe_asks_in_the_metadata(collect):
    """One task, rewards 3 x 0 and 2 x 1: six pairs."""
    _, pairs = collect(anyswe([0, 1, 0, 1, 0]))
    assert len(pairs) == 6
    assert {pair["prompt"] for pair in pairs} == {"Fix it."}
    assert {pair["chosen"] for pair in pairs} == {"patch 1", "patch 3"}


def test_without_an_index_a_problem_statement_is_no_identity(collect):
    attrition, pairs = collect(anyswe([0, 1, 0, 1, 0], index=False))
    assert (pairs, dict(attrition.dropped)) == ([], {Reason.PROMPT_EMPTY: 5})


# ---- files and agents


def indexed(rollout, response, reward, *, rollout_index=0, task=0, response_id=None, **keys):
    row = rollout(response=response, reward=reward, _ng_task_index=task, _ng_rollout_index=rollout_index, **keys)
    if response_id:
        row["response"]["id"] = response_id
    return row


def test_files_are_not_mixed(collect, rollout):
    files = {f"{reward}.jsonl": [rollout(_ng_task_index=0, response=f"A{reward}", reward=reward)] for reward in (0, 1)}
    attrition, pairs = collect(files)
    assert (attrition.rows, attrition.groups, pairs) == (2, 2, [])


def test_files_are_mixed_on_request(collect, rollout):
    """The index restarts in each run, so the truth tells the task."""
    files = {
        "one.jsonl": [rollout(_ng_task_index=0, uuid="u", response="A", reward=1)],
        "two.jsonl": [
            rollout(_ng_task_index=3, uuid="u", response="B", reward=0),
            rollout(_ng_task_index=0, uuid="other", response="C", reward=0),
        ],
    }
    attrition, pairs = collect(files, across_files=True)
    assert (attrition.groups, texts(pairs)) == (2, [("Q", "A", "B")])


def test_without_any_identity_the_prompt_is_what_files_are_mixed_by(collect, rollout):
    files = {f"{reward}.jsonl": [rollout(response=f"A{reward}", reward=reward)] for reward in (0, 1)}
    assert texts(collect(files, across_files=True)[1]) == [("Q", "A1", "A0")]


def test_agents_are_not_mixed_but_on_request(collect, rollout):
    rows = [
        indexed(rollout, f"A{reward}", reward, agent_ref={"name": name})
        for name, reward in [("strong", 1), ("weak", 0)]
    ]
    assert collect(rows)[1] == []
    _, (pair,) = collect(rows, across_agents=True)
    assert (pair["chosen_agent"], pair["rejected_agent"]) == ("strong", "weak")


def test_two_agents_that_say_the_same_are_two_rollouts(collect, rollout):
    """Both have a rollout 0; in older files nothing else names them."""
    rows = [indexed(rollout, "A", reward, agent_ref={"name": name}) for name, reward in [("x", 1), ("y", 1)]]
    rows.append(indexed(rollout, "B", 0, agent_ref={"name": "x"}, rollout_index=1))
    attrition, pairs = collect(rows, across_agents=True)
    assert (attrition.pairs, dict(attrition.dropped)) == (2, {})
    assert sorted(pair["chosen_agent"] for pair in pairs) == ["x", "y"]


# ---- the same rollout again


def run_of_two(rollout, rewards=(1, 0)):
    return [
        indexed(rollout, f"A{index}", reward, rollout_index=index, response_id=f"resp_{index:032x}")
        for index, reward in enumerate(rewards)
    ]


@pytest.mark.parametrize("across_files", [False, True])
def test_the_same_run_given_twice_under_two_names_gives_its_pairs_once(collect, rollout, across_files):
    """`gym eval aggregate` sorts the rows, so the files differ."""
    rows = run_of_two(rollout)
    attrition, pairs = collect({"run.jsonl": rows, "sorted.jsonl": rows[::-1]}, across_files=across_files)
    assert dict(attrition.dropped) == {Reason.DUPLICATE_ROLLOUT: 2}
    assert texts(pairs) == [("Q", "A0", "A1")]


@pytest.mark.parametrize("across_files", [False, True])
def test_a_copy_of_a_file_gives_its_pairs_once(collect, rollout, across_files):
    rows = [rollout(response="A", reward=1), rollout(response="B", reward=0)]  # without names too
    _, pairs = collect({"run.jsonl": rows, "copy.jsonl": rows}, across_files=across_files)
    assert texts(pairs) == [("Q", "A", "B")]


@pytest.mark.parametrize("step", [1, -1], ids=["a copy", "sorted"])
@pytest.mark.parametrize("across_files", [False, True])
def test_what_stays_of_a_run_given_twice_does_not_depend_on_the_order_of_files(
    tmp_path, rollout, write_jsonl, across_files, step
):
    rows = run_of_two(rollout)
    paths = [write_jsonl(tmp_path / "b.jsonl", rows), write_jsonl(tmp_path / "a.jsonl", rows[::step])]
    written = []
    for order in (paths, paths[::-1]):
        collect_pairs(order, tmp_path / "pairs.jsonl", Settings(across_files=across_files))
        written.append((tmp_path / "pairs.jsonl").read_bytes())
    assert written[0] == written[1]


@pytest.mark.parametrize(
    ("rewards", "dropped", "num_pairs"),
    [
        ((1, 0), {Reason.DUPLICATE_ROLLOUT: 2}, 1),  # a copy
        ((0, 1), {Reason.CONFLICTING_REWARDS: 4}, 0),  # reverified
    ],
)
def test_rollouts_are_known_again_where_one_file_lost_its_materialized_inputs(
    collect, rollout, tmp_path, write_jsonl, rewards, dropped, num_pairs
):
    """The inputs lie beside `run.jsonl` only; the rollouts are the same still."""
    params = {"responses_create_params": {"input": "Q"}}
    beside = [{**params, "_ng_task_index": 0, "_ng_rollout_index": index, "uuid": "u"} for index in (0, 1)]
    write_jsonl(tmp_path / "run_materialized_inputs.jsonl", beside)
    attrition, pairs = collect({"run.jsonl": run_of_two(rollout), "other.jsonl": run_of_two(rollout, rewards)[::-1]})
    assert (dict(attrition.dropped), len(pairs)) == (dropped, num_pairs)


def test_reverified_rollouts_contradict_each_other(collect, rollout):
    """`gym eval reverify` writes the same rollouts with other rewards; which verdict holds nobody knows."""
    files = {"run.jsonl": run_of_two(rollout, (1, 0)), "reverified.jsonl": run_of_two(rollout, (0, 0))}
    attrition, pairs = collect(files)
    assert pairs == []
    assert dict(attrition.dropped) == {
        Reason.CONFLICTING_REWARDS: 2,  # A0
        Reason.DUPLICATE_ROLLOUT: 1,  # A1
        Reason.SINGLE_ROLLOUT: 1,
    }


def test_reverified_rollouts_contradict_each_other_in_one_file(collect, rollout):
    """`--append`."""
    attrition, pairs = collect([*run_of_two(rollout, (1, 0)), *run_of_two(rollout, (0, 1))])
    assert (pairs, dict(attrition.dropped)) == ([], {Reason.CONFLICTING_REWARDS: 4})


def test_rows_without_names_are_never_the_same_rollout(collect, rollout):
    """Version 0.1 had no index; short answers are the same often."""
    rows = [rollout(response="A", reward=1), rollout(response="A", reward=1), rollout(response="B", reward=0)]
    attrition, pairs = collect(rows)
    assert (dict(attrition.dropped), len(pairs)) == ({}, 2)


def test_rollouts_that_say_the_same_are_two_where_their_names_differ(collect, rollout):
    rows = [indexed(rollout, "A", 1, rollout_index=0), indexed(rollout, "A", 1, rollout_index=1)]
    rows.append(indexed(rollout, "B", 0, rollout_index=2))
    attrition, pairs = collect(rows)
    assert (dict(attrition.dropped), len(pairs)) == ({}, 2)


def duplicated(rollout):
    """Three rollouts with two keys: merged shards, or a second run appended (graphwalks has (0, 0) twice)."""
    return [
        indexed(rollout, "A", 1, rollout_index=0, response_id="resp_1"),
        indexed(rollout, "B", 0, rollout_index=0, response_id="resp_2"),
        indexed(rollout, "C", 0, rollout_index=1, response_id="resp_3"),
    ]


def test_duplicate_keys_are_kept(collect, rollout):
    _, pairs = collect(duplicated(rollout), duplicate_keys=DuplicateKeys.KEEP)
    assert texts(pairs) == [("Q", "A", "B"), ("Q", "A", "C")]


def test_duplicate_keys_are_dropped_on_request(collect, rollout):
    rows = [*duplicated(rollout), indexed(rollout, "D", 1, rollout_index=2)]
    attrition, pairs = collect(rows, duplicate_keys=DuplicateKeys.DROP)
    assert (texts(pairs), dict(attrition.dropped)) == ([("Q", "D", "C")], {Reason.DUPLICATE_KEY: 2})


def test_equal_rows_are_one_rollout_and_no_duplicate_key(collect, rollout):
    """The same row twice: which of them holds is no question, so one stays."""
    rows = run_of_two(rollout)
    attrition, pairs = collect([*rows, rows[0]], duplicate_keys=DuplicateKeys.DROP)
    assert (len(pairs), dict(attrition.dropped)) == (1, {Reason.DUPLICATE_ROLLOUT: 1})


def test_keys_of_two_files_are_no_duplicates(collect, rollout):
    """Each run begins with rollout 0."""
    files = {
        "one.jsonl": [indexed(rollout, "A", 1, uuid="u", response_id="resp_1")],
        "two.jsonl": [indexed(rollout, "B", 0, uuid="u", response_id="resp_2")],
    }
    attrition, pairs = collect(files, across_files=True, duplicate_keys=DuplicateKeys.DROP)
    assert (dict(attrition.dropped), texts(pairs)) == ({}, [("Q", "A", "B")])


def test_duplicate_keys_of_other_tasks_are_none(collect, rollout):
    """blackjack: one index, and each prompt its own."""
    rows = [indexed(rollout, f"{prompt} {reward}", reward, prompt=prompt) for prompt in "QR" for reward in (0, 1)]
    for number, row in enumerate(rows):
        row["_ng_rollout_index"] = number % 2
    assert len(collect(rows, duplicate_keys=DuplicateKeys.DROP)[1]) == 2


# ---- fields of any type


@pytest.mark.parametrize("index", [{}, {"_ng_task_index": 0}], ids=["without index", "with index"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("responses_create_params", [1]),
        ("responses_create_params", "x"),
        ("responses_create_params", {"input": {"role": "user"}}),
        ("responses_create_params", {"input": [user([{"type": ["text"], "text": "Q"}])]}),
        ("responses_create_params", {"input": [{"role": {}, "content": "Q"}]}),
        ("responses_create_params", {"input": "Q", "metadata": [1]}),
        ("responses_create_params", {"input": "Q", "metadata": "x"}),
        ("responses_create_params", {"input": "Q", "metadata": {"k": 2**80}}),
        ("responses_create_params", {"input": "Q", "tools": 5}),
        ("responses_create_params", {"input": "Q", "instructions": ["x"]}),
        ("response", [1]),
        ("response", 5),
        ("response", {"output": [said("A")], "id": 5, "status": [1], "incomplete_details": "x"}),
        ("response", {"output": [said("A")], "id": {"a": 1}}),
        ("mask_sample", 0),
        ("mask_sample", "x"),
        ("instance_config", [1]),
        ("instance_config", "x"),
        ("instance_config", {"mask_sample": {}}),
        ("agent_ref", "x"),
        ("agent_ref", [1]),
        ("agent_ref", {"name": 5}),
        ("_ng_task_index", [{}]),
        ("_ng_task_index", 2**80),
        ("_ng_task_index", 3.0),
        ("_ng_rollout_index", 2**80),
        ("_ng_rollout_index", "0"),
        ("_ng_rollout_index", -1),
        ("_ng_failure_class", [1]),
        ("exception_type", [1]),
        ("verifier_metadata", {"k": 2**80}),
        ("expected_answer", float("-inf")),
        ("reward", 2**70),
        ("reward", []),
        ("reward", {}),
    ],
    ids=lambda value: ascii(value)[:60],
)
def test_values_of_any_type_are_counted(collect, rollout, index, field, value):
    attrition, pairs = collect([rollout(prompt="first"), {**rollout(**index), field: value}])
    assert (attrition.rows, attrition.dropped.total(), pairs) == (2, 2, [])


def test_no_rows_at_all(collect):
    attrition, pairs = collect([])
    assert (attrition.rows, attrition.dropped.total(), pairs) == (0, 0, [])


def test_a_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        collect_pairs([tmp_path / "absent.jsonl"], None, Settings())


# ---- the short way for plain rows gives what the long way gives

FORMS = ["A", " A\n", "B", "caf\u00e9", "cafe\u0301", "\u65e5\u672c", "\u2028", 'a"\\\n\t\b\f/', "\\n", "A" * 300]
EMPTY = ["", " \n", "\u00a0", "<think>", "<think>hm</think>"]
ODD = ["<think>hm</think>A", "hm</think>A", "Failed: x", "failed", "\x00\x1f\x7f", "\U0001f600"]
TEXTS = st.sampled_from([*FORMS, *EMPTY, *ODD]) | st.text(max_size=8)
PROMPTS = st.sampled_from(
    [
        {"input": "Q"},
        {"input": [user("Q")]},
        {"input": [system("S"), user("Q")], "instructions": "I"},
        {"input": []},
        {"input": [], "metadata": {"problem_statement": "P"}},
        {"input": "Q", "tools": [{"name": "f"}]},
        {"input": "Q", "metadata": {"extra_body": "1"}},
    ]
)


@st.composite
def plain_rows(draw):
    item = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": draw(TEXTS)}]}
    response = {"output": [item]}
    if draw(st.booleans()):
        response["id"] = draw(st.sampled_from(["resp_1", "resp_2", "resp_3-failed", "", None]))
    if draw(st.integers(0, 5)) == 0:
        response["incomplete_details"] = {"reason": "max_output_tokens"}
    if draw(st.booleans()):
        response["tools"] = draw(st.sampled_from([[], None, [{"type": "function", "name": "f"}]]))
    row = {
        "responses_create_params": draw(PROMPTS),
        "response": response,
        "reward": draw(st.sampled_from([0, 1, 0.5, -1.0, -0.0, 2**70, 1e308, -1e308, None, True])),
        "_ng_task_index": draw(st.sampled_from([0, 0, 0, 1, -1, 3.0, 2**70, None])),
    }
    if draw(st.booleans()):
        row["_ng_rollout_index"] = draw(st.sampled_from([0, 1, 2, 2**30, 1.0, None]))
    if draw(st.booleans()):
        row["agent_ref"] = draw(st.sampled_from([{"name": "x"}, {"name": "y", "type": "t"}, {"name": ""}, None, {}]))
    if draw(st.integers(0, 5)) == 0:
        row["mask_sample"] = draw(st.booleans())
    return row


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(plain_rows(), st.booleans()), min_size=1, max_size=10),
    st.sampled_from(Format),
    st.booleans(),
    st.booleans(),
)
def test_the_short_way_gives_what_the_long_way_gives(tmp_path_factory, rows, form, strip, across_agents):
    """A key that only the long way looks at, `instance_config`, sends all rows there."""
    folder = tmp_path_factory.getbasetemp() / "lanes"
    folder.mkdir(exist_ok=True)
    path, output, rejects = folder / "r.jsonl", folder / "pairs.jsonl", folder / "rejects.jsonl"
    settings = Settings(
        format=form,
        reasoning=ReasoningPolicy.STRIP if strip else ReasoningPolicy.KEEP,
        across_agents=across_agents,
        allow_truncated_rejected=True,
        duplicate_keys=DuplicateKeys.DROP if strip else DuplicateKeys.KEEP,
    )
    results = []
    for more in ({}, {"instance_config": {}}):
        lines = [json.dumps({**row, **more}, ensure_ascii=escaped).encode() for row, escaped in rows]
        path.write_bytes(b"\n".join(lines))
        output.unlink(missing_ok=True)
        collection = collect_pairs([path], output, settings, rejects=rejects)
        told = [json.loads(line) for line in rejects.read_bytes().splitlines()]
        reasons = [(row["reason"], row["detail"], row["source"]) for row in told]
        pairs = output.read_bytes() if output.exists() else b""
        results.append((collection.attrition.as_dict(), reasons, pairs))
    assert results[0] == results[1]


def test_rollouts_of_other_tasks_are_never_the_same_rollout(collect, rollout):
    """Equal words, equal indices: only an index, an id or what the verifier compares with tells the tasks apart."""
    for told in (
        [{"difficulty": "easy"}, {"difficulty": "hard"}],
        [{"_ng_task_id": {"taskset": "s", "task_id": "1"}}, {"_ng_task_id": {"taskset": "s", "task_id": "2"}}],
        [{"_ng_task_index": 1}, {"_ng_task_index": 2}],
    ):
        rows = [
            rollout(response=text, reward=reward, _ng_rollout_index=index, **keys)
            for keys, rewards in zip(told, ((1, 0), (0, 1)), strict=True)
            for index, (text, reward) in enumerate(zip("xy", rewards, strict=True))
        ]
        attrition, pairs = collect(rows)
        assert (dict(attrition.dropped), sorted(texts(pairs))) == ({}, [("Q", "x", "y"), ("Q", "y", "x")])


def test_short_answers_of_many_tasks_are_no_duplicates(collect, rollout):
    """Two tasks whose names have the same CRC-32 once lost their rows; here are pairs of such names."""
    rows = [
        rollout(f"Q{task}", text, reward, _ng_task_index=task, _ng_rollout_index=index)
        for task in (97431, 165438)
        for index, (text, reward) in enumerate((("A", task % 2), ("B", 1 - task % 2)))
    ]
    for row, name in zip(rows, ("r97431", "x1", "r165438", "x2"), strict=True):
        row["response"]["id"] = name
    attrition, pairs = collect(rows)
    assert (dict(attrition.dropped), len(pairs)) == ({}, 2)


def test_an_id_that_all_responses_have_names_none(collect, rollout):
    rows = [rollout(response=text, reward=reward) for text, reward in (("A", 1), ("A", 1), ("B", 0), ("C", 1))]
    for row in rows:
        row["response"]["id"] = "rollout"
    attrition, pairs = collect(rows)
    assert (dict(attrition.dropped), len(pairs)) == ({}, 3)


def test_a_rollout_index_names_nothing_outside_its_file(collect, rollout):
    one = [indexed(rollout, "A", 1), indexed(rollout, "B", 0, rollout_index=1)]
    two = [indexed(rollout, "A", 1), indexed(rollout, "C", 0, rollout_index=1)]
    attrition, pairs = collect({"one.jsonl": one, "two.jsonl": two})
    assert (dict(attrition.dropped), sorted(texts(pairs))) == ({}, [("Q", "A", "B"), ("Q", "A", "C")])


def test_agents_that_say_the_same_are_told_apart_whatever_the_order(collect, rollout):
    rows = [
        rollout(response=text, reward=reward, _ng_task_index=0, agent_ref={"name": name})
        for text, reward, name in (("bad", 0, "A"), ("bad", 0, "B"), ("good", 1, "C"))
    ]
    settings = {"across_agents": True, "sources": False, "strategy": Strategy.BEST_WORST}
    outputs = {
        json.dumps(collect([rows[i] for i in order], **settings)[1]) for order in ((0, 1, 2), (1, 0, 2), (2, 1, 0))
    }
    assert len(outputs) == 1


def test_a_failed_first_row_does_not_throw_its_file_away(collect, rollout):
    failed = rollout(response="C", _ng_failure_class="judge_failed")
    attrition, pairs = collect([failed, rollout(response="A", reward=1), rollout(response="B", reward=0)])
    assert (attrition.rows, dict(attrition.dropped), len(pairs)) == (3, {Reason.FAILED: 1}, 1)


def test_what_is_drawn_does_not_depend_on_the_form(collect, rollout):
    rows = [rollout(response=f"A{number}", reward=number) for number in range(8)]
    drawn = set()
    for form in (Format.BINARY, Format.TRL):
        _, pairs = collect(rows, format=form, strategy=Strategy.RANDOM, num_pairs=3)
        drawn.add(tuple((pair["chosen_reward"], pair["rejected_reward"]) for pair in pairs))
    assert len(drawn) == 1


def test_files_with_and_without_materialized_inputs_meet(collect, rollout, tmp_path, write_jsonl):
    beside = [{"responses_create_params": {"input": "Q"}, "_ng_task_index": 0, "_ng_rollout_index": 0, "uuid": "u"}]
    write_jsonl(tmp_path / "one_materialized_inputs.jsonl", beside)
    files = {"one.jsonl": [indexed(rollout, "A", 1)], "two.jsonl": [indexed(rollout, "B", 0)]}
    _, pairs = collect(files, across_files=True)
    assert texts(pairs) == [("Q", "A", "B")]


def test_many_agents(collect, rollout):
    rows = [rollout("Q", f"{n}", n % 2, agent_ref={"name": f"agent {n // 2}"}) for n in range(2 * 33_000)]
    attrition, _ = collect(rows)
    assert attrition.pairs == 33_000
