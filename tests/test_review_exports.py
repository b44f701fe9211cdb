"""What a review becomes: pairs that `dpo validate` passes, labels, and what Argilla and Label Studio read."""

import json
import uuid
import xml.etree.ElementTree as ET
from collections import Counter

import pytest

from pipeline.collect import collect_pairs
from pipeline.settings import Format, Settings
from schemas.errors import DpoError, InputError, UsageError
from schemas.preference import read_pairs
from tests.gate_runs import checked, errors
from views.review.answer import Answer, Verdict
from views.review.begin import Wanted, open_review
from views.review.consensus import Consensus, LeftOut
from views.review.exports import ExportFormat, export_review
from views.review.outcome import Outcome, tell_outcome
from views.review.source import iter_items

HOSTILE = "</script><script>alert(1)</script>\x1b[31m \u202egnp.\u202c {{ 7*7 }} <img src=x onerror=alert(1)> ]]> & \"'"


def answer(item, reviewer, verdict, **told):
    return Answer(item.key, reviewer, Verdict(verdict), told.pop("shown_first", 0), **told)


def pair(number, **keys):
    row = {"prompt": f"Q{number}", "chosen": f"good {number}", "rejected": f"bad {number}"}
    rewards = {"chosen_reward": 1.0, "rejected_reward": 0.25, "margin": 0.75}
    told = {"chosen_source": "r:1", "rejected_source": "r:2", "group": f"{number:032x}", "agent": "env"}
    return {**row, **rewards, **told, **keys}


@pytest.fixture
def items_of(tmp_path, write_jsonl):
    """Give the items of rows."""

    def make(rows):
        return list(iter_items(write_jsonl(tmp_path / "pairs.jsonl", rows), Counter()))

    return make


@pytest.fixture
def export(tmp_path):
    """Export; give the account and the rows, which `dpo validate` passes where they are pairs."""

    def run(items, answers, form=ExportFormat.BINARY, **options):
        path = tmp_path / "out.jsonl"
        exported = export_review(items, answers, path, ExportFormat(form), **options)
        assert exported.items == exported.written + exported.left_out.total()
        if form is not ExportFormat.LABELS:
            assert not errors(checked(path))
            assert len(read_pairs(path)) == exported.written
        return exported, [json.loads(line) for line in path.read_bytes().splitlines()]

    return run


def test_a_confirmed_pair_keeps_all_that_the_row_said(items_of, export):
    [item] = items_of([pair(1)])
    _, [row] = export([item], [answer(item, "ann", "first", note="clear", ratings={"safety": (5, 2)})])
    assert row | pair(1) == row
    assert (row["review"], row["reviewers"], row["review_agreement"]) == ("confirmed", ["ann"], 1.0)
    assert row["review_votes"] == {"chosen": 1, "rejected": 0, "tie": 0, "both_bad": 0}
    [told] = row["review_answers"]
    assert (told["verdict"], told["note"]) == ("chosen", "clear")
    assert told["ratings"] == {"safety": {"chosen": 5, "rejected": 2}}


def test_a_turned_pair_misleads_no_loss_that_uses_rewards(items_of, export):
    [item] = items_of([pair(1, chosen_truncated=False, rejected_truncated=True)])
    exported, [row] = export([item], [answer(item, "ann", "second", ratings={"safety": (5, 2)})])
    assert (row["chosen"], row["rejected"], row["review"]) == ("bad 1", "good 1", "turned")
    assert (row["chosen_source"], row["chosen_truncated"]) == ("r:2", True)
    assert (row["chosen_reward"], row["rejected_reward"], row["margin"]) == (None, None, None)
    assert (row["verifier_chosen_reward"], row["verifier_rejected_reward"]) == (0.25, 1.0)
    assert row["review_answers"][0]["ratings"] == {"safety": {"chosen": 2, "rejected": 5}}
    assert exported.turned == 1


def test_what_was_exported_once_can_be_reviewed_again(items_of, export):
    [item] = items_of([pair(1)])
    _, rows = export([item], [answer(item, "ann", "second")])
    [again] = items_of(rows)
    exported, [row] = export([again], [answer(again, "bo", "second")])
    assert (row["chosen"], row["reviewers"], row["review"]) == ("good 1", ["bo"], "confirmed")  # as the verifier had it
    assert (row["chosen_reward"], row["rejected_reward"], row["margin"]) == (1.0, 0.25, 0.75)
    assert exported.turned == 1, "the other way round than in the file"


def test_columns_that_name_their_side_at_the_end_go_with_their_response(items_of, export):
    [item] = items_of([pair(1, score_chosen=9.0, score_rejected=2.0, num_rejected=7)])
    for form in (ExportFormat.BINARY, ExportFormat.PREFERENCE):
        for verdict, expected in (("first", (9.0, 2.0, 7)), ("second", (2.0, 9.0, 7))):
            _, [row] = export([item], [answer(item, "ann", verdict)], form)
            assert (row["score_chosen"], row["score_rejected"], row["num_rejected"]) == expected


@pytest.mark.parametrize("reward", ["high", True, [1], 10**400, float("inf")])
def test_a_reward_of_samples_that_is_no_number_is_none(items_of, export, reward):
    [item] = items_of([{"prompt": "Q", "before": "old", "after": "new", "before_reward": 0.5}])
    item.row["after_reward"] = reward
    for form in (ExportFormat.BINARY, ExportFormat.PREFERENCE):
        _, [row] = export([item], [answer(item, "ann", "second")], form)
        assert (row["review"], row["verifier_chosen_reward"], row["verifier_rejected_reward"]) == ("decided", None, 0.5)


def test_token_ids_and_masks_go_with_their_response(items_of, export):
    ids = {"prompt_token_ids": [1], "chosen_token_ids": [2], "rejected_token_ids": [3, 4], "rejected_loss_mask": [1, 0]}
    [item] = items_of([pair(1, **ids)])
    for form in (ExportFormat.BINARY, ExportFormat.PREFERENCE):
        _, [row] = export([item], [answer(item, "ann", "second")], form)
        better, worse = row.get("completions", (None, None))
        if form is ExportFormat.PREFERENCE:
            assert (better["token_ids"], better["loss_mask"], worse["token_ids"]) == ([3, 4], [1, 0], [2])
            assert (better["rank"], better["completion"][0]["content"], better["reward"]) == (0, "bad 1", None)
        else:
            assert (row["chosen_token_ids"], row["chosen_loss_mask"]) == ([3, 4], [1, 0])
        assert row["prompt_token_ids"] == [1]


@pytest.mark.parametrize("form", list(Format))
def test_pairs_of_every_form_become_pairs_of_every_form(tmp_path, rollout, write_jsonl, items_of, export, form):
    rollouts = [rollout("Q", "a", 1.0), rollout("Q", "b", 0.0)]
    collect_pairs([write_jsonl(tmp_path / "r.jsonl", rollouts)], tmp_path / "made.jsonl", Settings(format=form))
    [item] = list(iter_items(tmp_path / "made.jsonl", Counter()))
    _, [binary] = export([item], [answer(item, "ann", "second")])
    assert (binary["prompt"], binary["chosen"], binary["chosen_truncated"]) == ("Q", "b", False)
    assert binary["verifier_rejected_reward"] == 1.0
    _, [ranked] = export([item], [answer(item, "ann", "first")], ExportFormat.PREFERENCE)
    assert [each["reward"] for each in ranked["completions"]] == [1.0, 0.0]
    assert ranked["margin"] == 1.0


def test_tools_and_calls_are_kept_in_rows_of_messages(items_of, export):
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    tool = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
    rows = [
        {
            "context": [{"role": "user", "content": "Q"}],
            "completions": [
                {"rank": 1, "completion": [{"role": "assistant", "content": "b"}], "reward": 0.0},
                {"rank": 0, "completion": [{"role": "assistant", "content": "", "tool_calls": [call]}], "reward": 1.0},
            ],
            "tools": [tool],
        }
    ]
    [item] = items_of(rows)
    exported, [row] = export([item], [answer(item, "ann", "first")])
    assert exported.is_trl
    assert row["chosen"] == [{"role": "assistant", "content": "", "tool_calls": [call]}]
    assert (json.loads(row["tools"]), row["chosen_reward"], row["prompt"]) == ([tool], 1.0, rows[0]["context"])
    _, [ranked] = export([item], [answer(item, "ann", "second")], ExportFormat.PREFERENCE)
    assert ranked["tools"] == [tool]
    assert ranked["completions"][1]["completion"][0]["tool_calls"] == [call]


def test_the_answers_of_two_policies_become_pairs(items_of, export):
    rows = [{"prompt": "Q", "before": "old", "after": "new", "seed": 3, "before_truncated": True}]
    [item] = items_of(rows)
    _, [row] = export([item], [answer(item, "ann", "second")])
    assert (row["chosen"], row["rejected"], row["review"]) == ("new", "old", "decided")
    assert (row["chosen_name"], row["rejected_name"], row["rejected_truncated"], row["seed"]) == (
        "after",
        "before",
        True,
        3,
    )


VOTES = {
    # votes -> what majority, unanimous and any make of them
    "first first": ("first", "first", "first"),
    "first first second": ("first", None, None),
    "first tie": (None, None, "first"),
    "first skip": ("first", "first", "first"),
    "first second": (None, None, None),
    "first tie tie": ("tie", None, "first"),
    "tie tie both_bad": ("tie", None, "tie"),
    "tie both_bad": (None, None, None),
    "both_bad": ("both_bad", "both_bad", "both_bad"),
    "second second first tie": (None, None, None),
}


@pytest.mark.parametrize("votes", VOTES)
def test_several_people_count_as_one_by_the_rule_that_is_asked_for(items_of, export, votes):
    [item, other] = items_of([pair(1), pair(2)])
    answers = [answer(item, f"r{number}", verdict) for number, verdict in enumerate(votes.split())]
    answers.append(answer(other, "r0", "first"))  # so that there is always a pair
    for consensus, expected in zip(Consensus, VOTES[votes], strict=True):
        exported, rows = export([item, other], answers, consensus=consensus)
        reason = {None: LeftOut.UNDECIDED, "tie": LeftOut.TIE, "both_bad": LeftOut.BOTH_BAD}.get(expected)
        assert exported.left_out == ({reason: 1} if reason else {})
        _, labels = export([item, other], answers, ExportFormat.LABELS, consensus=consensus)
        assert len(labels) == 1 + (expected is not None)
        if expected:
            assert labels[0]["verdict"] == expected
        assert len(rows) == 2 - bool(reason)


def test_what_gives_no_pair_is_counted_by_name(items_of, export):
    rows = [pair(number) for number in range(7)]
    rows += [pair(7, rejected="good 7 "), pair(8, chosen="bad 0", rejected="good 0", prompt="Q0")]
    rows += [pair(9, chosen="bad 1", rejected="good 1", prompt="Q1"), pair(10, rejected="\u200b")]
    items = items_of(rows)
    verdicts = ["first", "first", "tie", "both_bad", "skip", None, "first", "first", "second", "first", "first"]
    answers = [answer(item, "ann", verdict) for item, verdict in zip(items, verdicts, strict=True) if verdict]
    answers.append(answer(items[6], "bo", "second"))
    exported, rows = export(items, answers)
    assert [row["prompt"] for row in rows] == ["Q0"]
    assert exported.left_out == {
        LeftOut.TIE: 1,
        LeftOut.BOTH_BAD: 1,
        LeftOut.SKIPPED: 1,
        LeftOut.UNREVIEWED: 1,
        LeftOut.UNDECIDED: 1,
        LeftOut.SAME_RESPONSES: 1,
        LeftOut.REPEATED: 1,  # row 8 says once more what row 0 says
        LeftOut.CONTRADICTING: 2,  # row 9 says the opposite of row 1
        LeftOut.EMPTY_RESPONSE: 1,
    }


def test_nothing_to_export_is_told_and_nothing_is_written(items_of, tmp_path):
    [item] = items_of([pair(1)])
    with pytest.raises(DpoError, match="of 1 items 1 unreviewed; nothing was written"):
        export_review([item], [], tmp_path / "out.jsonl", ExportFormat.BINARY)
    assert not (tmp_path / "out.jsonl").exists()
    with pytest.raises(UsageError, match=r"name a \.jsonl file"):
        export_review([item], [], tmp_path / "out.parquet", ExportFormat.BINARY)


def test_labels_turn_the_pairs_of_the_rollouts_that_they_were_made_of(tmp_path, rollout, write_jsonl, export):
    rollouts = [
        rollout(f"Q{task}", f"a{turn}", turn / 2, _ng_task_index=task) for task in range(3) for turn in range(2)
    ]
    made = tmp_path / "made.jsonl"
    collect_pairs([write_jsonl(tmp_path / "r.jsonl", rollouts)], made, Settings(format=Format.PREFERENCE))
    items = list(iter_items(made, Counter()))
    answers = [answer(item, "ann", verdict) for item, verdict in zip(items, ("first", "second", "tie"), strict=True)]
    _, labels = export(items, answers, ExportFormat.LABELS)
    assert [label["group"] for label in labels] == [item.row["group"] for item in items]
    write_jsonl(tmp_path / "labels.jsonl", labels)
    settings = Settings(labels=tmp_path / "labels.jsonl")
    use = collect_pairs([tmp_path / "r.jsonl"], tmp_path / "again.jsonl", settings).attrition.labels
    assert (use.matched, use.unmatched, use.confirmed, use.turned) == (3, 0, 1, 1)
    again = [json.loads(line) for line in (tmp_path / "again.jsonl").read_bytes().splitlines()]
    assert {row["prompt"]: row["chosen"] for row in again} == {
        items[0].prompt[0]["content"]: "a1",
        items[1].prompt[0]["content"]: "a0",
    }


def hostile_review(items_of):
    items = items_of([pair(number, prompt=f"{number} {HOSTILE}", rejected=HOSTILE) for number in range(8)])
    verdicts = ("first", "second", "tie", "both_bad", "skip")
    answers = [
        answer(item, name, verdicts[(number + len(name)) % 5], note=HOSTILE, ratings={"safety": (5, 1)}, seconds=2.5)
        for number, item in enumerate(items)
        for name in ("ann", "b<b>o")
    ]
    return items, answers


def test_argilla_gets_a_folder_of_fields_questions_and_records(items_of, tmp_path):
    items, answers = hostile_review(items_of)
    folder = tmp_path / "argilla"
    export_review(items, answers, folder, ExportFormat.ARGILLA)
    settings = json.loads((folder / ".argilla" / "settings.json").read_text())
    dataset = json.loads((folder / ".argilla" / "dataset.json").read_text())
    records = json.loads((folder / "records.json").read_text())
    users = {user["id"]: user["username"] for user in json.loads((folder / "users.json").read_text())}
    assert dataset["name"] == "argilla"
    assert set(users.values()) == {"ann", "b<b>o"}
    fields = {field["name"]: field["settings"] for field in settings["fields"]}
    assert {field["use_markdown"] for field in fields.values()} == {False}  # or texts could bring images along
    questions = {question["name"]: question for question in settings["questions"]}
    options = {option["value"] for option in questions["preference"]["settings"]["options"]}
    properties = {each["name"]: each["settings"]["type"] for each in settings["metadata"]}
    assert len(records) == 8
    places = Counter()
    for item, record in zip(items, records, strict=True):
        assert record["id"] == item.key
        assert record["fields"].keys() == fields.keys()
        kinds = {"terms": str, "float": float}
        assert all(isinstance(value, kinds[properties[name]]) for name, value in record["metadata"].items())
        chosen = "left" if record["metadata"]["left_is"] == "chosen" else "right"
        places[chosen] += 1
        assert record["fields"][chosen].startswith("good")
        assert record["suggestions"]["preference"] == {"value": chosen, "score": None, "agent": "verifier"}
        of_item = {each.reviewer: each for each in answers if each.item == item.key and each.verdict != "skip"}
        told = {users[each["user_id"]]: each for each in record["responses"].get("preference", [])}
        assert told.keys() == of_item.keys()
        for name, each in told.items():
            assert uuid.UUID(each["user_id"]).version == 5
            assert each["status"] == "submitted"
            better = {"first": chosen, "second": "right" if chosen == "left" else "left"}
            assert each["value"] == better.get(of_item[name].verdict, of_item[name].verdict.value)
            assert each["value"] in options
        assert record["responses"].keys() <= questions.keys()
    assert len(places) == 2  # else one side would always be the chosen one
    with pytest.raises(UsageError, match="is there already"):
        export_review(items, answers, folder, ExportFormat.ARGILLA)


def test_label_studio_gets_tasks_that_fit_their_configuration(items_of, tmp_path):
    items, answers = hostile_review(items_of)
    exported = export_review(items, answers, tmp_path / "tasks.json", ExportFormat.LABEL_STUDIO)
    assert exported.paths == (tmp_path / "tasks.json", tmp_path / "tasks.xml")
    config = ET.parse(tmp_path / "tasks.xml").getroot()
    texts = {each.get("name"): each.get("value") for each in config.iter("Text")}
    assert {each.get("valueType") for each in config.iter("Text")} == {"text"}  # never an address to fetch
    controls = {each.get("name"): each for each in config.iter() if each.get("toName")}
    assert all(each.get("toName") in texts for each in controls.values())
    choices = {each.get("value") for each in config.iter("Choice")}
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    for item, task in zip(items, tasks, strict=True):
        assert all(isinstance(task["data"][value.removeprefix("$")], str) for value in texts.values())
        results = [result for each in (*task["predictions"], *task["annotations"]) for result in each["result"]]
        for result in results:
            control = controls[result["from_name"]]
            assert (control.tag.lower(), control.get("toName")) == (result["type"], result["to_name"])
            assert set(result["value"].get("choices", [])) <= choices
        chosen = "left" if task["data"]["left_is"] == "chosen" else "right"
        [prediction] = task["predictions"]
        assert (prediction["model_version"], prediction["result"][0]["value"]) == ("verifier", {"choices": [chosen]})
        of_item = [each for each in answers if each.item == item.key]
        assert task["data"]["reviewers"] == ["ann", "b<b>o"]
        assert [each["was_cancelled"] for each in task["annotations"]] == [each.verdict == "skip" for each in of_item]
        assert {each["lead_time"] for each in task["annotations"]} == {2.5}
    with pytest.raises(UsageError, match=r"one \.json file"):
        export_review(items, answers, tmp_path / "tasks.jsonl", ExportFormat.LABEL_STUDIO)


def test_single_responses_are_rated_elsewhere_too_but_are_no_pairs(items_of, tmp_path):
    items = items_of([{"prompt": f"Q{number}", "response": "a"} for number in range(2)])
    answers = [answer(items[0], "ann", "rated", ratings={"helpfulness": (4,)}), answer(items[1], "ann", "rated")]
    with pytest.raises(DpoError, match="2 single_response"):
        export_review(items, answers, tmp_path / "out.jsonl", ExportFormat.BINARY)
    export_review(items, answers, tmp_path / "argilla", ExportFormat.ARGILLA)
    settings = json.loads((tmp_path / "argilla" / ".argilla" / "settings.json").read_text())
    assert [field["name"] for field in settings["fields"]] == ["prompt", "left"]
    assert [each["name"] for each in settings["questions"] if each["required"]] == ["helpfulness_left"]
    export_review(items, answers, tmp_path / "tasks.json", ExportFormat.LABEL_STUDIO)
    assert "preference" not in (tmp_path / "tasks.xml").read_text()


def test_the_command_tells_of_a_review_and_exports_it(tmp_path, write_jsonl, capsys):
    place = write_jsonl(tmp_path / "pairs.jsonl", [pair(number) for number in range(3)])
    with pytest.raises(UsageError, match="has not been reviewed"):
        tell_outcome(place, Outcome(agreement=True, export=None, form="binary", consensus="majority"), store_path=None)
    tell_outcome(place, Outcome(False, tmp_path / "tasks.json", "label-studio", "majority"), store_path=None)
    assert len(json.loads((tmp_path / "tasks.json").read_text())) == 3  # needs no review
    begun = open_review(place, store_path=None, wanted=Wanted())
    for item in iter_items(place, Counter()):
        assert begun.store.add_answer(answer(item, "ann", "second", at="2026-01-01T00:00:00Z"), after=0)
    begun.store.close()
    capsys.readouterr()
    wanted = Outcome(True, tmp_path / "out.jsonl", "binary", "majority", as_json=True)
    for given, store in ((place, None), (begun.store.path, None), (place, begun.store.path)):
        tell_outcome(given, wanted, store_path=store)
        told = json.loads(capsys.readouterr().out)
        assert told["votes"] == {"chosen": 0, "rejected": 3}
        assert (told["export"]["written"], told["export"]["turned"]) == (3, 3)
    answers = begun.store.path.rename(tmp_path / "answers.jsonl")
    for given, export, store in (
        (place, place, None),
        (begun.store.path, place, None),  # the pairs that the review is beside
        (place, answers, answers),
    ):
        with pytest.raises(UsageError, match="name another file for --export"):
            tell_outcome(given, Outcome(False, export, "binary", "majority"), store_path=store)
    with pytest.raises(InputError, match="no such file"):
        tell_outcome(tmp_path / "absent.jsonl", Outcome(True, None, "binary", "majority"), store_path=None)
