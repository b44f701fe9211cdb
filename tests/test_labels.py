"""`dpo collect-pairs --labels`: what people say counts more than rewards, and every row is still accounted for."""

import json
import random

import pytest

from pipeline.attrition import Reason
from pipeline.collect import collect_pairs
from pipeline.labels import Label, Preference, prompt_digest, read_labels, response_digest
from pipeline.reasoning import ReasoningPolicy
from pipeline.settings import Format, Margin, Settings, Strategy
from schemas.errors import InputError, UsageError
from tests.gate_runs import checked, errors


def label(prompt, first, second, preference, *, reviewers=("ann",), votes=None, tools=()):
    """Make a label of texts."""
    asked = prompt_digest([{"role": "user", "content": prompt}], tools)
    said = [response_digest([{"role": "assistant", "content": text}]) for text in (first, second)]
    digests = (digest.hex() for digest in (asked, *said))
    return Label(*digests, Preference(preference), reviewers, votes or {preference: len(reviewers)}).as_row()


@pytest.fixture
def collect(tmp_path, write_jsonl):
    """Collect rollouts with labels; give the account and the rows written, which `dpo validate` passes."""

    def run(rollouts, labels, *, output="pairs.jsonl", **settings):
        write_jsonl(tmp_path / "labels.jsonl", labels)
        write_jsonl(tmp_path / "r.jsonl", rollouts)
        path = tmp_path / output
        collection = collect_pairs([tmp_path / "r.jsonl"], path, Settings(labels=tmp_path / "labels.jsonl", **settings))
        attrition = collection.attrition
        use = attrition.labels
        assert use.read == use.matched + use.unmatched + use.repeated + use.contradicting == len(labels)
        assert use.confirmed + use.turned + use.decided <= attrition.pairs
        if not attrition.pairs:
            return attrition, []
        assert not errors(checked(path))
        rows = [json.loads(line) for line in path.read_bytes().splitlines()] if path.suffix == ".jsonl" else []
        return attrition, rows

    return run


def shape(row):
    return row["chosen"], row["rejected"], row["review"]


def test_a_turned_pair_is_written_the_other_way_round_and_its_rewards_mislead_nobody(collect, rollout):
    rollouts = [rollout("Q", "a", 1.0, _ng_task_index=0), rollout("Q", "b", 0.0, _ng_task_index=0)]
    attrition, [row] = collect(rollouts, [label("Q", "a", "b", "second", reviewers=("ann", "bo"))])
    assert shape(row) == ("b", "a", "turned")
    assert (row["chosen_reward"], row["rejected_reward"], row["margin"]) == (None, None, None)
    assert (row["verifier_chosen_reward"], row["verifier_rejected_reward"]) == (0.0, 1.0)
    assert row["reviewers"] == ["ann", "bo"]
    assert row["review_votes"] == {"chosen": 2, "rejected": 0, "tie": 0, "both_bad": 0}
    assert row["chosen_source"].endswith(":2")
    assert attrition.labels.turned == 1
    assert attrition.paired_rollouts == 2


def test_a_confirmed_pair_keeps_its_rewards_also_if_the_label_names_the_responses_in_the_other_order(collect, rollout):
    rollouts = [rollout("Q", "a", 1.0, _ng_task_index=0), rollout("Q", "b", 0.0, _ng_task_index=0)]
    for one in (label("Q", "a", "b", "first"), label("Q", "b", "a", "second")):
        _, [row] = collect(rollouts, [one])
        assert shape(row) == ("a", "b", "confirmed")
        assert (row["chosen_reward"], row["rejected_reward"], row["margin"]) == (1.0, 0.0, 1.0)
        assert row["review_votes"]["chosen"] == 1


@pytest.mark.parametrize("verdict", ["tie", "both_bad"])
def test_a_pair_of_which_neither_is_preferred_is_left_out_under_a_name_of_its_own(collect, rollout, verdict):
    rollouts = [rollout("Q", "a", 1.0, _ng_task_index=0), rollout("Q", "b", 0.0, _ng_task_index=0)]
    rollouts += [rollout("P", "a", 1.0, _ng_task_index=1), rollout("P", "b", 0.0, _ng_task_index=1)]
    attrition, [row] = collect(rollouts, [label("Q", "a", "b", verdict)])
    assert row["prompt"] == "P"
    assert shape(row) == ("a", "b", None)
    assert attrition.dropped == {Reason.NOT_PREFERRED: 2}
    assert attrition.left_out == {Reason.NOT_PREFERRED: 1}


def test_people_decide_where_the_verifier_sees_no_difference_or_less_than_the_margin(collect, rollout):
    rollouts = [
        rollout("Q", "a", 0.5, _ng_task_index=0),
        rollout("Q", "b", 0.5, _ng_task_index=0),  # the same reward: people say b
        rollout("P", "c", 0.55, _ng_task_index=1),
        rollout("P", "d", 0.5, _ng_task_index=1),  # below the margin: people say c
        rollout("R", "e", 0.5, _ng_task_index=2),
        rollout("R", "f", 0.5, _ng_task_index=2),  # nobody looked
        rollout("S", "g", 0.5, _ng_task_index=3),
        rollout("S", "h", 0.5, _ng_task_index=3),  # people saw no difference either
    ]
    labels = [label("Q", "a", "b", "second"), label("P", "c", "d", "first"), label("S", "g", "h", "tie")]
    attrition, rows = collect(rollouts, labels)
    assert {row["prompt"]: shape(row) for row in rows} == {"Q": ("b", "a", "decided"), "P": ("c", "d", "confirmed")}
    [decided] = [row for row in rows if row["prompt"] == "Q"]
    assert (decided["chosen_reward"], decided["verifier_chosen_reward"]) == (None, 0.5)
    assert attrition.dropped == {Reason.EQUAL_REWARDS: 2, Reason.NOT_PREFERRED: 2}


def test_bounds_on_rewards_do_not_hold_people_but_what_a_response_is_does(collect, rollout):
    cut = {"incomplete_details": {"reason": "max_output_tokens"}}
    rollouts = [
        rollout("Q", "a", 0.2, _ng_task_index=0),
        rollout("Q", "b", 0.0, _ng_task_index=0),
        rollout("P", "whole", 1.0, _ng_task_index=1),
        rollout("P", "cu", 0.0, _ng_task_index=1),
    ]
    rollouts[3]["response"] |= cut
    labels = [label("Q", "a", "b", "second"), label("P", "whole", "cu", "second")]
    attrition, [row] = collect(rollouts, labels, min_chosen_reward=0.9, allow_truncated_rejected=True)
    assert shape(row) == ("b", "a", "turned")
    assert attrition.left_out == {Reason.CHOSEN_TRUNCATED: 1}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # rewards a 1.0, b 0.6, c 0.3, d 0.0; people say d is better than b, and c as good as a
        ({}, {("a", "b"), ("a", "d"), ("b", "c"), ("d", "b"), ("c", "d")}),
        ({"strategy": Strategy.BEST_WORST}, {("d", "b")}),
        ({"strategy": Strategy.BEST_LOWER_TAIL}, {("d", "b")}),
        ({"strategy": Strategy.TOP, "num_pairs": 2}, {("d", "b"), ("a", "d")}),
        ({"strategy": Strategy.CORRECT_WRONG}, {("d", "b"), ("a", "d"), ("b", "c")}),
        ({"strategy": Strategy.LENGTH_MATCHED}, {("d", "b"), ("a", "d"), ("b", "c"), ("c", "d")}),
        ({"max_pairs_per_prompt": 1}, {("d", "b")}),
        ({"max_pairs_per_agent": 1}, {("d", "b")}),
        ({"strategy": Strategy.RANDOM, "num_pairs": 1, "max_pairs_per_agent": 1}, {("d", "b")}),
    ],
)
def test_strategies_and_caps_take_what_people_decided_first(collect, rollout, settings, expected):
    rewards = {"a": 1.0, "b": 0.6, "c": 0.3, "d": 0.0}
    rollouts = [rollout("Q", text, reward, _ng_task_index=0) for text, reward in rewards.items()]
    labels = [label("Q", "b", "d", "second"), label("Q", "a", "c", "tie")]
    attrition, rows = collect(rollouts, labels, **settings)
    assert {(row["chosen"], row["rejected"]) for row in rows} == expected
    assert len(rows) == len(expected)
    assert attrition.labels.turned == 1
    assert attrition.left_out[Reason.NOT_PREFERRED] == 1


def test_neither_order_nor_names_of_files_nor_processes_matter(tmp_path, rollout, write_jsonl):
    draw = random.Random(0)
    rollouts = [
        rollout(f"Q{task}", f"answer {task} {turn}", draw.choice([0.0, 0.5, 1.0]), _ng_task_index=task)
        for task in range(30)
        for turn in range(4)
    ]
    labels = [
        label(f"Q{task}", f"answer {task} 0", f"answer {task} {other}", draw.choice([*Preference]))
        for task in range(30)
        for other in (1, 3)
    ]
    written = []
    for name in ("a.jsonl", "elsewhere.jsonl"):
        draw.shuffle(rollouts)
        draw.shuffle(labels)
        write_jsonl(tmp_path / name, rollouts)
        write_jsonl(tmp_path / f"labels-{name}", labels)
        settings = Settings(labels=tmp_path / f"labels-{name}", sources=False, min_margin=Margin(0.6))
        collection = collect_pairs([tmp_path / name], tmp_path / "pairs.jsonl", settings)
        assert collection.attrition.labels.matched == 60
        assert collection.attrition.labels.turned
        assert collection.attrition.labels.decided
        written.append((tmp_path / "pairs.jsonl").read_bytes())
    assert written[0] == written[1]


@pytest.mark.parametrize("form", list(Format))
def test_a_label_finds_its_pair_in_every_form(collect, rollout, form):
    rollouts = [rollout("Q", "a", 1.0, _ng_task_index=0), rollout("Q", "b", 0.0, _ng_task_index=0)]
    _, [row] = collect(rollouts, [label("Q", "a", "b", "second")], format=form)
    assert row["review"] == "turned"
    if form is Format.PREFERENCE:
        assert [each["completion"][0]["content"] for each in row["completions"]] == ["b", "a"]
        assert [each["reward"] for each in row["completions"]] == [None, None]
    assert (row["verifier_chosen_reward"], row["verifier_rejected_reward"]) == (0.0, 1.0)


def test_parquet_has_a_column_for_each(collect, rollout, tmp_path):
    from pyarrow import parquet

    rollouts = [rollout("Q", text, reward, _ng_task_index=0) for text, reward in (("a", 1.0), ("b", 0.0), ("c", 0.5))]
    collect(rollouts, [label("Q", "a", "b", "second")], output="pairs.parquet")
    rows = parquet.read_table(tmp_path / "pairs.parquet").to_pylist()
    [turned] = [row for row in rows if row["review"]]
    assert (turned["chosen"], turned["reviewers"], turned["verifier_rejected_reward"]) == ("b", ["ann"], 1.0)
    assert turned["review_votes"] == {"chosen": 1, "rejected": 0, "tie": 0, "both_bad": 0}
    assert [row["reviewers"] for row in rows if row is not turned] == [None, None]


def test_a_label_holds_for_the_text_that_people_saw_and_no_other(collect, rollout):
    rollouts = [
        rollout("Q", "<think>why</think>a", 1.0, _ng_task_index=0),
        rollout("Q", "<think>oh</think>b", 0.0, _ng_task_index=0),
    ]
    seen = [f"<think>\n{thought}\n</think>\n\n{text}" for thought, text in (("why", "a"), ("oh", "b"))]
    attrition, [row] = collect(rollouts, [label("Q", *seen, "second")])
    assert row["review"] == "turned"
    attrition, [row] = collect(rollouts, [label("Q", *seen, "second")], reasoning=ReasoningPolicy.STRIP)
    assert (row["chosen"], row["review"], attrition.labels.unmatched) == ("a", None, 1)


def test_labels_of_other_prompts_are_counted_and_told(dpo, rollout, tmp_path, write_jsonl):
    write_jsonl(tmp_path / "r.jsonl", [rollout("Q", "a", 1.0), rollout("Q", "b", 0.0)])
    labels = [
        label("Q", "a", "b", "second"),
        label("Q", "b", "a", "first"),  # the same, said again
        label("Other", "a", "b", "second"),
        label("P", "a", "b", "first"),
        label("P", "b", "a", "first"),  # the opposite
    ]
    write_jsonl(tmp_path / "labels.jsonl", labels)
    done = dpo("collect-pairs", "r.jsonl", "-o", "pairs.jsonl", "--labels", "labels.jsonl", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["labels"]
    assert told == {
        "read": 5,
        "matched": 1,
        "unmatched": 1,
        "repeated": 1,
        "contradicting": 2,
        "confirmed": 0,
        "turned": 1,
        "decided": 0,
    }
    manifest = json.loads((tmp_path / "pairs.jsonl.manifest.json").read_text())
    assert manifest["labels"]["path"] == "labels.jsonl"
    assert manifest["labels"]["bytes"] == (tmp_path / "labels.jsonl").stat().st_size
    assert len(manifest["labels"]["sha256"]) == 64
    shown = dpo("collect-pairs", "r.jsonl", "-o", "pairs.jsonl", "--labels", "labels.jsonl")
    assert "5 labels of people, 1 on pairs here: 0 pairs as the rewards have it, 1 turned" in shown.stderr
    assert "1 label on no two usable rollouts of one prompt" in shown.stderr
    assert "2 that contradict one another" in shown.stderr


def test_tools_and_calls_are_known_by_what_they_say(collect, rollout):
    tool = {"type": "function", "name": "add", "parameters": {"type": "object"}}

    def calling(number, reward, call_id):
        row = rollout("Q", "", reward, _ng_task_index=0)
        call = {"type": "function_call", "call_id": call_id, "name": "add", "arguments": f'{{"a": {number}}}'}
        row["response"]["output"] = [call]
        row["responses_create_params"]["tools"] = [tool]
        return row

    def seen(number):
        call = {"type": "function", "id": "other", "function": {"name": "add", "arguments": f'{{"a":{number}}}'}}
        return response_digest([{"role": "assistant", "content": "", "tool_calls": [call]}]).hex()

    offered = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}, "strict": None}}]
    asked = prompt_digest([{"role": "user", "content": "Q"}], offered).hex()
    one = Label(asked, seen(1), seen(2), Preference.SECOND, ("ann",)).as_row()
    _, [row] = collect([calling(1, 1.0, "x"), calling(2, 0.0, "y")], [one], format=Format.TRL)
    assert row["review"] == "turned"


def test_nothing_changes_without_labels_and_nothing_but_columns_with_none_that_match(tmp_path, rollout, write_jsonl):
    rows = [rollout(f"Q{task}", f"{turn}", turn / 4, _ng_task_index=task) for task in range(5) for turn in range(4)]
    write_jsonl(tmp_path / "r.jsonl", rows)
    write_jsonl(tmp_path / "labels.jsonl", [label("other", "a", "b", "first")])
    written = []
    for labels in (None, tmp_path / "labels.jsonl"):
        collect_pairs([tmp_path / "r.jsonl"], tmp_path / "pairs.jsonl", Settings(labels=labels))
        written.append([json.loads(line) for line in (tmp_path / "pairs.jsonl").read_bytes().splitlines()])
    extra = dict.fromkeys(("review", "reviewers", "review_votes", "verifier_chosen_reward", "verifier_rejected_reward"))
    assert not extra.keys() & written[0][0].keys()
    assert [row | extra for row in written[0]] == written[1]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"verdict": "left"}, "/verdict: got 'left', expected one of first, second, tie, both_bad"),
        ({"verdict": []}, "/verdict: got an array of 0"),
        ({"prompt_digest": "xyz"}, "/prompt_digest: got 'xyz', expected at least 16 hexadecimal digits"),
        ({"first_digest": 7}, "/first_digest: got 7"),
        ({"reviewers": "ann"}, "/reviewers: got 'ann', expected an array of names"),
        ({"votes": {"first": -1}}, "/votes: got an object with keys first"),
        ({"votes": {"first": 10**30}}, "/votes: got an object with keys first"),
        ({"votes": [1]}, "/votes: got an array of 1"),
    ],
)
def test_what_is_no_label_is_told_with_its_line(tmp_path, write_jsonl, change, expected):
    path = tmp_path / "labels.jsonl"
    good = label("Q", "a", "b", "first")
    write_jsonl(path, [good, good | change])
    with pytest.raises(InputError) as raised:
        read_labels(path)
    assert f"{path}:2: {expected}" in str(raised.value)
    assert "dpo review STORE --export labels.jsonl --format labels" in str(raised.value)


def test_pairs_a_store_and_one_response_twice_are_no_labels(tmp_path, write_jsonl):
    path = tmp_path / "labels.jsonl"
    write_jsonl(path, [{"prompt": "Q", "chosen": "a", "rejected": "b"}])
    with pytest.raises(InputError, match="expected a label with prompt_digest"):
        read_labels(path)
    path.write_bytes(b"SQLite format 3\0and so on")
    with pytest.raises(InputError, match="is a store of dpo review, not its labels"):
        read_labels(path)
    write_jsonl(path, [label("Q", "a", "a", "first")])
    with pytest.raises(InputError, match="expected that of another one"):
        read_labels(path)


def test_the_labels_are_never_written_over_and_are_no_rollouts(tmp_path, rollout, write_jsonl):
    rollouts = tmp_path / "rollouts"
    rollouts.mkdir()
    write_jsonl(rollouts / "r.jsonl", [rollout("Q", "a", 1.0), rollout("Q", "b", 0.0)])
    labels = rollouts / "labels.jsonl"
    write_jsonl(labels, [label("Q", "a", "b", "second")])
    with pytest.raises(UsageError, match="is an input too"):
        collect_pairs([rollouts / "r.jsonl"], labels, Settings(labels=labels))
    collection = collect_pairs([rollouts], tmp_path / "pairs.jsonl", Settings(labels=labels))
    assert collection.attrition.dropped.total() == 0
    assert [(path.name, kind) for path, kind in collection.inputs.left_out] == [("labels.jsonl", "labels of people")]
