"""Reports on rollouts and pairs: figures by hand and by the other commands, what is shown, hostile and empty data."""

import json
import math
import re
from html import unescape
from pathlib import Path

import polars as pl
import pytest

from pipeline.collect import collect_pairs
from pipeline.inspection import inspect_rollouts
from pipeline.intake import Machinery
from pipeline.settings import Format, Settings
from schemas.errors import InputError, UsageError
from views.data.bins import binned
from views.data.options import DataOptions, Sort
from views.data.pair_sample import length_bucket, margin_buckets
from views.data.report import data_report

X, Y = {"agent_ref": {"name": "x"}}, {"agent_ref": {"name": "y"}}


def options(**changes: object) -> DataOptions:
    return DataOptions(**({"num_workers": 1} | changes))


def text_of(page: Path) -> str:
    """Give what a reader sees of a page, white space folded."""
    body = re.sub(r"<style>.*?</style>", "", page.read_text(), flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())


def pair(number: int, chosen: str = "good answer", rejected: str = "bad answer", **more: object) -> dict:
    return {"prompt": f"question {number}", "chosen": chosen, "rejected": rejected, **more}


@pytest.fixture
def undrawn(monkeypatch) -> None:
    """Make pages without plots, of which the time is, for tests of their words."""
    monkeypatch.setattr("views.data.pair_page.pair_plots", lambda *args, **options: [])
    monkeypatch.setattr("views.data.rollout_page.rollout_plots", lambda data: [])
    monkeypatch.setattr("views.data.rollout_page.plots_of_their_pairs", lambda data, *, seed: [])


@pytest.fixture
def rollouts(tmp_path, rollout, write_jsonl):
    """Ten rows: three tasks of two agents that vary, one that never passes, a cut one, a line that is no JSON."""
    cut = rollout("C", "g" * 8, 0, **X)
    cut["response"]["incomplete_details"] = {"reason": "max_output_tokens"}
    rows = [
        rollout("A", "the answer is seven", 1, **X),
        rollout("A", "the answer is eight", 0, **X),
        rollout("A", "no idea", 0.5, **X),
        rollout("B", "same", 1, **X),
        rollout("B", "same too", 0, **X),
        rollout("C", "f" * 20, 0, **X),
        cut,
        rollout("D", "h", -2, **Y),
        rollout("D", "iii", 2, **Y),
        b"{",
    ]
    return write_jsonl(tmp_path / "rollouts.jsonl", rows)


def test_rollouts_are_told_as_the_commands_tell_them(rollouts) -> None:
    found = data_report([rollouts], None, options())
    inspection = inspect_rollouts([rollouts], Settings(), Machinery(1)).as_dict()
    attrition = collect_pairs([rollouts], None, Settings(), Machinery(1)).attrition.as_dict()
    assert json.dumps(found["inspection"]) == json.dumps(inspection)
    assert {key: found["attrition"][key] for key in attrition} == attrition
    assert found["kind"] == "rollouts"


def test_stages_lose_what_is_between_them(rollouts) -> None:
    stages = data_report([rollouts], None, options())["attrition"]["stages"]
    # the broken line; the cut rollout; task C alone is left; then 3 + 2 + 2 rollouts in pairs
    assert [stage["rows"] for stage in stages] == [10, 9, 8, 7, 7]
    assert [[(loss["reason"], loss["count"]) for loss in stage["losses"]] for stage in stages] == [
        [("not_json", 1)],
        [("truncated", 1)],
        [("single_rollout", 1)],
        [],
        [],
    ]


def test_pairs_of_rollouts_by_hand(rollouts) -> None:
    pairs = data_report([rollouts], None, options())["pairs"]
    # of A: 1 over 0.5, 1 over 0, 0.5 over 0; of B one; of D one, of a margin of 4
    assert (pairs["pairs"], pairs["prompts"], pairs["responses"]) == (5, 3, 7)
    assert pairs["margin"] == {"count": 5, "least": 0.5, "median": 1.0, "mean": (0.5 + 1 + 0.5 + 1 + 4) / 5, "most": 4}
    # lengths of A: 19 over 7 (longer), 19 over 19, 7 over 19; of B 4 over 8; of D 3 over 1 (longer)
    assert (pairs["chosen_longer"], pairs["rejected_longer"], pairs["chosen_longer_share"]) == (2, 2, 0.5)
    assert pairs["pairs_per_prompt"] == {"1": 2, "3 to 4": 1}
    assert [(each["name"], each["pairs"]) for each in pairs["environments"]] == [("x", 4), ("y", 1)]


def test_the_page_of_rollouts_shows_best_and_worst(rollouts, tmp_path) -> None:
    page = tmp_path / "r.html"
    data_report([rollouts], page, options())
    shown = text_of(page)
    assert "7 of 10 rows are in pairs and 3 are not." in shown
    assert "1 10.0% truncated the response was cut by a limit" in shown
    assert "the answer is seven" in shown
    assert '<ins class="add">seven</ins>' in page.read_text()
    assert '<del class="drop">eight</del>' in page.read_text()
    assert "always pass" in shown


@pytest.mark.usefixtures("undrawn")
def test_one_environment_of_rollouts(rollouts, tmp_path) -> None:
    page = tmp_path / "r.html"
    data_report([rollouts], page, options(environment="y"))
    assert "rewards -2 to 2" in text_of(page)
    assert "the answer is seven" not in text_of(page)
    with pytest.raises(UsageError, match="--environment z: nothing is of it; there are: x, y"):
        data_report([rollouts], None, options(environment="z"))


@pytest.mark.usefixtures("undrawn")
def test_tools_are_there_in_a_form_that_holds_them(tmp_path, rollout, write_jsonl) -> None:
    rows = [rollout("A", "x", 1), rollout("A", "y", 0)]
    for row in rows:
        row["responses_create_params"]["tools"] = [
            {"type": "function", "name": "look_up", "parameters": {}, "strict": True}
        ]
    path = write_jsonl(tmp_path / "tools.jsonl", rows)
    found = data_report([path], tmp_path / "a.html", options())
    assert found["advice"][0]["seen"].startswith("None of 2 rows can be used")
    data_report([path], tmp_path / "b.html", options(form=Format.PREFERENCE))
    assert "look_up" in text_of(tmp_path / "b.html")


def test_pairs_of_a_file_by_hand(tmp_path, write_jsonl) -> None:
    rows = [
        pair(1, chosen_reward=1.0, rejected_reward=0.0, agent="x"),
        pair(1, "better", "bad answer", chosen_reward=0.5, rejected_reward=0.0, agent="x"),
        pair(1, chosen_reward=1.0, rejected_reward=0.0, agent="x"),  # a duplicate of the first
        pair(1, "bad answer", "good answer", agent="x"),  # and the other way round
        pair(2, agent="y", rejected_truncated=True),
        {"prompt": "no pair"},
    ]
    path = write_jsonl(tmp_path / "pairs.jsonl", rows)
    found = data_report([path], tmp_path / "p.html", options())
    pairs = found["pairs"]
    assert (pairs["pairs"], pairs["prompts"], pairs["responses"], pairs["with_rewards"]) == (5, 2, 5, 3)
    assert (pairs["margin"]["mean"], pairs["rejected_truncated"]) == (pytest.approx(2.5 / 3), 1)
    # good answer (11) over bad answer (10) three times, better (6) under it, and once the other way round
    assert (pairs["chosen_longer"], pairs["rejected_longer"]) == (3, 2)
    findings = {rule: told["count"] for rule, told in found["gate"]["findings"].items()}
    assert findings["duplicate-row"] == 1
    assert findings["contradictory-pair"] >= 1
    assert findings["schema"] == 2  # of one row: neither chosen nor rejected
    assert "1 row can't be used" in text_of(tmp_path / "p.html")


@pytest.mark.usefixtures("undrawn")
def test_attrition_comes_from_the_manifest_that_matches(rollouts, tmp_path) -> None:
    output = tmp_path / "pairs.jsonl"
    collection = collect_pairs([rollouts], output, Settings(), Machinery(1))
    found = data_report([output], tmp_path / "p.html", options())
    told = found["attrition"][str(output)]
    assert {key: told[key] for key in collection.attrition.as_dict()} == collection.attrition.as_dict()
    assert found["pairs"]["margin"] == data_report([rollouts], None, options())["pairs"]["margin"]
    assert "7 of 10 rows are in pairs" in text_of(tmp_path / "p.html")
    output.write_text(output.read_text() + output.read_text())
    assert data_report([output], tmp_path / "p.html", options())["attrition"] == {}
    assert "changed after dpo collect-pairs wrote it" in text_of(tmp_path / "p.html")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"outputs": 1}', "{" * 100_000, '{"outputs":[{"sha256":null}]}'])
@pytest.mark.usefixtures("undrawn")
def test_a_manifest_that_is_none_is_passed_over(tmp_path, write_jsonl, content: str) -> None:
    path = write_jsonl(tmp_path / "pairs.jsonl", [pair(1)])
    path.with_name("pairs.jsonl.manifest.json").write_text(content)
    data_report([path], tmp_path / "p.html", options())
    assert "can't be read" in text_of(tmp_path / "p.html")


def many(tmp_path, write_jsonl) -> Path:
    rows = [
        pair(n, "a" * (1 + n % 7), "b" * 4, chosen_reward=float(n % 10), rejected_reward=-1.0, agent=f"agent {n % 3}")
        for n in range(300)
    ]
    return write_jsonl(tmp_path / "many.jsonl", rows)


def test_a_sample_has_every_environment_and_margin(tmp_path, write_jsonl) -> None:
    path = many(tmp_path, write_jsonl)
    first = data_report([path], None, options(num_pairs=30))["shown"]
    assert first["pairs"] == 30
    assert first["of"] == 300
    numbers = [int(place.rpartition(":")[2]) - 1 for place in first["places"]]
    assert {number % 3 for number in numbers} == {0, 1, 2}
    assert {number % 10 for number in numbers} == set(range(10))
    assert data_report([path], None, options(num_pairs=30))["shown"] == first
    assert data_report([path], None, options(num_pairs=30, seed=1))["shown"] != first


def test_extremes_and_limits(tmp_path, write_jsonl) -> None:
    path = many(tmp_path, write_jsonl)

    def numbers(**changes: object) -> list[int]:
        shown = data_report([path], None, options(**changes))["shown"]["places"]
        return [int(place.rpartition(":")[2]) - 1 for place in shown]

    assert [number % 10 for number in numbers(num_pairs=4, sort=Sort.MARGIN)] == [9, 9, 0, 0]
    assert [number % 7 for number in numbers(num_pairs=4, sort=Sort.LENGTH)] == [6, 6, 0, 0]
    assert {number % 10 for number in numbers(min_margin=4.0, max_margin=5.0)} == {3, 4}
    assert {number % 3 for number in numbers(environment="agent 2", sort=Sort.RANDOM)} == {2}
    assert numbers(num_pairs=0) == []
    assert numbers(min_margin=99.0) == []


def test_filters_have_counts_and_rules(tmp_path, write_jsonl) -> None:
    page = tmp_path / "p.html"
    data_report([many(tmp_path, write_jsonl)], page, options(num_pairs=60))
    content = page.read_text()
    for key in ("margin", "length", "environment"):
        found = re.findall(rf'id="{key}-is-(\d+)"><span>.*?<small>(\d+)</small>', content)
        assert sum(int(number) for _, number in found) == 60
        for place, number in found:
            assert len(re.findall(rf'<article class="pair[^"]*\b{key}-{place}\b', content)) == int(number)
            assert f".pairs:has(#{key}-is-{place}:checked) .pair:not(.{key}-{place}) {{ display: none; }}" in content


FORMS = {
    "preference": {
        "context": [{"role": "user", "content": "question"}],
        "completions": [
            {"rank": 1, "completion": [{"role": "assistant", "content": "worse text"}], "source": "r.jsonl:2"},
            {"rank": 0, "completion": [{"role": "assistant", "content": "better text"}], "source": "r.jsonl:1"},
        ],
    },
    "trl": {
        "prompt": [{"role": "user", "content": "question"}],
        "chosen": [{"role": "assistant", "content": "better text"}],
        "rejected": [
            {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "worse", "arguments": {"a": 1}}}]}
        ],
    },
    "helpsteer3": {
        "context": [{"role": "user", "content": "question"}],
        "response1": "better text",
        "response2": "worse text",
        "overall_preference": -2,
    },
    "implicit": {
        "chosen": "\n\nHuman: question\n\nAssistant: better text",
        "rejected": "\n\nHuman: question\n\nAssistant: worse",
    },
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("packing", ["jsonl", "json"])
@pytest.mark.usefixtures("undrawn")
def test_pairs_of_every_form(tmp_path, form: str, packing: str) -> None:
    path = tmp_path / f"pairs.{packing}"
    rows = [FORMS[form], FORMS[form]]
    path.write_text(json.dumps(rows) if packing == "json" else "\n".join(map(json.dumps, rows)))
    found = data_report([path], tmp_path / "p.html", options())
    assert found["pairs"]["pairs"] == 2
    shown = text_of(tmp_path / "p.html")
    for word in ("question", "better", "worse"):
        assert word in shown
    if form == "preference":
        assert "r.jsonl:1" in shown


@pytest.mark.usefixtures("undrawn")
def test_empty_and_one_row(tmp_path, rollout, write_jsonl) -> None:
    page = tmp_path / "p.html"
    (tmp_path / "empty.jsonl").write_text("\n")
    assert data_report([tmp_path / "empty.jsonl"], page, options())["pairs"]["pairs"] == 0
    assert "There are no rows." in text_of(page)
    data_report([write_jsonl(tmp_path / "one.jsonl", [pair(1)])], page, options())
    assert "1 pair of 2 responses to 1 prompt." in text_of(page)
    data_report([write_jsonl(tmp_path / "roll.jsonl", [rollout("A", "x", 1)])], page, options())
    assert "1 usable rollout of 1 task, and no pairs in them" in text_of(page)
    data_report([write_jsonl(tmp_path / "failed.jsonl", [rollout("A", [], 0)] * 3)], page, options())
    assert "3 rows, and none of them is a usable rollout" in text_of(page)


def test_constant_rewards_are_told(tmp_path, rollout, write_jsonl) -> None:
    rows = [rollout(f"task {n // 4}", f"answer {n}", 0.25, **X) for n in range(40)]
    found = data_report([write_jsonl(tmp_path / "same.jsonl", rows)], None, options())
    told = " ".join(line["seen"] for line in found["advice"])
    assert "All rewards are the same in 1 of 1 environment, so they tell nothing apart: x (40 of 0.25)." in told
    assert "Rewards differ in 0 of 10 tasks" in told


def test_bias_balance_and_far_rewards_are_told(tmp_path, write_jsonl) -> None:
    rows = [
        pair(n, "long answer " * 3, "short", chosen_reward=1 + n % 5 / 10, rejected_reward=n % 5 / 10, agent="big")
        for n in range(200)
    ]
    rows += [pair(1000, "a", "b", agent="small", chosen_reward=5_000.0, rejected_reward=0.1)]
    found = data_report([write_jsonl(tmp_path / "biased.jsonl", rows)], None, options())
    told = [line["seen"] for line in found["advice"]]
    assert any(line.startswith("The chosen response is the longer one in 100% of 200 pairs") for line in told)
    assert any(line.startswith("100% of the pairs are of big") for line in told)
    assert any(line.startswith("1 reward of the pairs' sides lie") or "far from all others" in line for line in told)


def test_hostile_rows_are_inert(tmp_path, rollout, write_jsonl) -> None:
    evil = "</style><script>alert(1)</script><img src=x onerror=alert(1)>{{ 7*7 }}\x1b[31m\u202e"
    rows = [
        pair(
            1, evil + " one", "two " + evil, agent=evil, chosen_source=evil, chosen_reward=1e308, rejected_reward=-1e308
        ),
        pair(2, "y " * 500_000, "z" * 1_000_000, agent="$a_b$" * 1_000),
        pair(3, "a", "b", chosen_reward=10**400, rejected_reward=1),
    ]
    page = tmp_path / "p.html"
    found = data_report([write_jsonl(tmp_path / "evil.jsonl", rows)], page, options())
    assert math.isfinite(found["pairs"]["margin"]["mean"])
    json.dumps(found, allow_nan=False)
    hostile = write_jsonl(
        tmp_path / "r.jsonl", [rollout(evil, evil + str(n), n % 2, agent_ref={"name": evil}) for n in range(4)]
    )
    other = tmp_path / "r.html"
    data_report([hostile], other, options())
    for content in (page.read_text(), other.read_text()):
        assert "<script" not in content
        assert "<img" not in content
        assert "\x1b" not in content
        assert "\u202e" not in content
        assert content.count("</style>") == 1
        assert len(content) < 1_000_000


def test_what_can_not_be_reported_on(tmp_path, rollout, write_jsonl) -> None:
    junk = write_jsonl(tmp_path / "junk.jsonl", [{"a": 1}])
    pairs = write_jsonl(tmp_path / "pairs.jsonl", [pair(1)])
    some = write_jsonl(tmp_path / "some.jsonl", [rollout("A", "x", 1)])
    with pytest.raises(InputError, match="expected rollouts of NeMo Gym, or preference pairs"):
        data_report([junk], None, options())
    with pytest.raises(UsageError, match="a report is on one of the two"):
        data_report([pairs, some], None, options())
    with pytest.raises(UsageError, match="is an input too"):
        data_report([pairs], pairs, options())
    with pytest.raises(UsageError, match="write it to a file first"):
        data_report([Path("-")], None, options())
    with pytest.raises(UsageError, match="no pair has such a margin"):
        options(min_margin=2.0, max_margin=1.0)
    some.unlink()
    assert data_report([tmp_path], None, options())["pairs"]["pairs"] == 1  # junk in a folder is passed over


def test_bins_hold_every_value() -> None:
    found = binned({"a": [0.0, 1.0, 1.0], "b": [0.5]})
    assert found is not None
    assert (found.edges[0], found.edges[-1], len(found.edges)) == (0.0, 1.0, 21)
    assert (found.counts["a"][0], found.counts["a"][-1], found.counts["b"][10]) == (1, 2, 1)
    one = binned({"a": [3.0] * 5})
    assert one is not None
    assert sorted(one.counts["a"])[-1] == 5
    far = binned({"a": [*(n / 100 for n in range(1_000)), 1e9]})
    assert far is not None
    assert sum(far.counts["a"]) == 1_001
    assert far.edges[-1] < 20  # the one far off is in the last bin
    assert binned({"a": []}) is None
    assert binned({"a": [-1e308, 1e308]}) is None
    wide = binned({"a": [1, 10, 100_000]}, log=True)
    assert wide is not None
    assert sum(wide.counts["a"]) == 3


def test_buckets() -> None:
    few = margin_buckets([1.0, 1.0, 0.5, None])
    assert [(each.name, each.count) for each in few.buckets] == [("0.5", 1), ("1", 2), ("no rewards", 1)]
    assert few.of_pair == (1, 1, 0, 2)
    many_margins = margin_buckets([float(n) for n in range(100)])
    assert [each.count for each in many_margins.buckets] == [20] * 5
    assert many_margins.buckets[0].name == "0 to 19"
    rounded = margin_buckets([0.3, 0.7 - 0.4, 1.0 - 0.7])  # 0.3 three times, but for the last digits
    assert [(each.name, each.count) for each in rounded.buckets] == [("0.3", 3)]
    assert margin_buckets([1234.0, 5.0]).buckets[1].name == "1,230"
    assert [length_bucket(*lengths) for lengths in ((99, 9), (15, 9), (10, 10), (9, 15), (9, 99))] == [0, 1, 2, 3, 4]


def test_far_rewards_are_few_and_far() -> None:
    from views.data.pair_figures import num_far

    assert num_far(pl.Series([0.0, 1.0] * 50)) == 0
    assert num_far(pl.Series([0.0] * 99 + [1.0])) == 0  # a rare success is no fault
    assert num_far(pl.Series([n / 100 for n in range(100)] + [-999.0])) == 1
    assert num_far(pl.Series([-1e308, 1e308] * 20)) == 0


def test_tasks_without_answers_are_no_rollouts(tmp_path) -> None:
    tasks = Path(__file__).parents[1] / "data" / "samples" / "heldout.jsonl"
    with pytest.raises(InputError, match=r"no row is a rollout \(.*heldout\.jsonl:1.*gym eval run"):
        data_report([tasks], tmp_path / "report.html", DataOptions())
    assert not (tmp_path / "report.html").exists()
