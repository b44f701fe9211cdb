"""`dpo inspect`: every number worked out by hand on a small file, what people see of it, and its advice."""

import json
import math
import shlex

import pytest

from pipeline.collect import collect_pairs
from pipeline.inspection import inspect_rollouts
from pipeline.intake import Machinery
from pipeline.settings import Margin, RewardField, Settings, Strategy

X, Y = {"agent_ref": {"name": "x"}}, {"agent_ref": {"name": "y"}}


@pytest.fixture
def small(tmp_path, rollout, write_jsonl):
    """Eleven rows: four tasks of two agents, a run that failed, a line that is no JSON."""
    cut = rollout("C", "g" * 8, 0, **X)
    cut["response"]["incomplete_details"] = {"reason": "max_output_tokens"}
    rows = [
        rollout("A", "a" * 10, 1, **X),  # task A: sometimes passes
        rollout("A", "b" * 2, 0, **X),
        rollout("A", "c" * 6, 0.5, **X),
        rollout("B", "d" * 4, 1, **X),  # task B: always
        rollout("B", "e" * 4, 1, **X),
        rollout("C", "f" * 20, 0, **X),  # task C: never
        cut,
        rollout("D", "h", -2, **Y),  # task D: sometimes
        rollout("D", "iii", 2, **Y),
        rollout("A", [], 0, **X),  # failed
        b"{",
    ]
    return write_jsonl(tmp_path / "rollouts.jsonl", rows)


def test_numbers_by_hand(small):
    found = inspect_rollouts([small], Settings(), Machinery(1)).as_dict()
    assert (found["rows"], found["rollouts"], found["truncated"], found["tasks"]) == (11, 8, 1, 4)
    assert found["dropped"] == {"not_json": 1, "failed": 1, "truncated": 1}
    assert found["rollouts_per_task"] == {1: 1, 2: 2, 3: 1}
    assert (found["always_pass"], found["sometimes_pass"], found["never_pass"], found["varied_tasks"]) == (1, 2, 1, 2)
    assert found["inputs"] == [str(small)]
    assert found["advice"] == []


def test_environments_by_hand(small):
    x, y = inspect_rollouts([small], Settings(), Machinery(1)).as_dict()["environments"]
    # of x: 1, 0, 0.5, 1, 1, 0: mean 3.5 / 6; squares of the differences (3 x 2.5^2 + 0.5^2 + 2 x 3.5^2) / 6^2
    assert x.pop("reward_deviation") == pytest.approx(math.sqrt(43.5 / 36 / 6))
    assert x.pop("mean_reward") == pytest.approx(3.5 / 6)
    assert x == {
        "agent": "x",
        "rollouts": 6,
        "tasks": 3,
        "min_reward": 0,
        "max_reward": 1,
        "histogram": (2, 0, 0, 0, 0, 1, 0, 0, 0, 3),
        "truncated_share": 1 / 7,
        "failed_rows": 1,
        "length_by_reward": (
            {"low": 0, "high": 0, "rollouts": 2, "median_chars": 11},  # of 2, 20
            {"low": 0.5, "high": 0.5, "rollouts": 1, "median_chars": 6},
            {"low": 1, "high": 1, "rollouts": 3, "median_chars": 4},  # of 10, 4, 4
        ),
    }
    assert (y["agent"], y["rollouts"], y["tasks"], y["failed_rows"]) == ("y", 2, 1, 0)
    assert (y["mean_reward"], y["reward_deviation"], y["min_reward"], y["max_reward"]) == (0, 2, -2, 2)
    assert y["histogram"] == (1, 0, 0, 0, 0, 0, 0, 0, 0, 1)


def test_pairs_by_hand(small):
    pairs = inspect_rollouts([small], Settings(), Machinery(1)).pairs
    # A: 1 - 0.5, 1 - 0, 0.5 - 0; D: 2 - -2; the truncated one of C is not used, and would be a tie
    assert list(pairs["all"].items()) == [("0", 4), ("0.1", 4), ("0.25", 4), ("0.5", 4), ("1", 2)]
    assert list(pairs["best-worst"].values()) == [2, 2, 2, 2, 2]
    assert list(pairs["best-lower-tail"].values()) == [2, 2, 2, 2, 2]
    assert list(pairs["correct-wrong"].values()) == [3, 3, 3, 3, 2]
    # A: 10 characters go with 6, 6 with 2; from a margin of 1 on 10 with 2
    assert list(pairs["length-matched"].values()) == [3, 3, 3, 3, 2]


def test_the_numbers_are_what_a_collection_gives(small):
    for strategy, by_margin in inspect_rollouts([small], Settings(), Machinery(1)).pairs.items():
        for margin, num_pairs in by_margin.items():
            settings = Settings(strategy=Strategy(strategy), min_margin=Margin.parse(margin))
            collection = collect_pairs([small], None, settings, Machinery(1))
            assert collection.attrition.pairs == num_pairs, (strategy, margin)


def test_the_threshold_says_what_passes(small):
    found = inspect_rollouts([small], Settings(threshold=0.51), Machinery(1))
    assert (found.always_pass, found.sometimes_pass, found.never_pass) == (1, 2, 1)
    found = inspect_rollouts([small], Settings(threshold=0), Machinery(1))
    assert (found.always_pass, found.sometimes_pass, found.never_pass) == (3, 1, 0)
    found = inspect_rollouts([small], Settings(threshold=3), Machinery(1))
    assert (found.always_pass, found.sometimes_pass, found.never_pass) == (0, 0, 4)
    assert found.varied_tasks == 2  # whatever passes


def test_truncated_rollouts_count_in_the_pairs_once_they_are_allowed(tmp_path, rollout, write_jsonl):
    cut = rollout(response="B", reward=0)
    cut["response"]["incomplete_details"] = {"reason": "max_output_tokens"}
    source = write_jsonl(tmp_path / "in.jsonl", [rollout(reward=1), cut])
    assert inspect_rollouts([source], Settings(), Machinery(1)).pairs["all"]["0"] == 0
    allowed = Settings(allow_truncated_rejected=True)
    assert inspect_rollouts([source], allowed, Machinery(1)).pairs["all"]["0"] == 1


def test_many_rewards_are_told_in_five_levels(tmp_path, rollout, write_jsonl):
    rows = [rollout("Q", "x" * (number + 1), number / 10) for number in range(10)]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    (environment,) = inspect_rollouts([source], Settings(), Machinery(1)).environments
    assert [(level.low, level.high, level.median_chars) for level in environment.length_by_reward] == [
        (0.0, 0.1, 1.5),
        (0.2, 0.3, 3.5),
        (0.4, 0.5, 5.5),
        (0.6, 0.7, 7.5),
        (0.8, 0.9, 9.5),
    ]
    assert sum(environment.histogram) == 10


def test_rewards_from_a_field(tmp_path, rollout, write_jsonl):
    rows = [rollout("Q", text, 0, parts={"style": style}) for text, style in (("A", 3), ("B", 5))]
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    settings = Settings(reward_field=RewardField.parse("parts.style"))
    (environment,) = inspect_rollouts([source], settings, Machinery(1)).environments
    assert (environment.min_reward, environment.max_reward) == (3, 5)


def advised(tmp_path, rollout, write_jsonl, rewards_of_task, name="math_agent"):
    rows = [
        rollout(f"Q{task}", f"A{number}", reward, agent_ref={"name": name})
        for task, rewards in enumerate(rewards_of_task)
        for number, reward in enumerate(rewards)
    ]
    return inspect_rollouts([write_jsonl(tmp_path / "in.jsonl", rows)], Settings(), Machinery(1)).advice


@pytest.mark.parametrize(
    ("rewards_of_task", "repeats", "hint"),
    [
        ([[1, 0], [1, 1], [1, 1], [1, 1]], 8, "always solved: take harder ones"),  # two of each: eight
        ([[1, 0], [0, 0], [0, 0], [0, 0]], 8, "never solved: take easier ones"),
        ([[1, 0, 0, 1], [1] * 4, [0] * 4, [0] * 4], 8, "rewards differ in 1 of 4 tasks"),  # four of each: twice as many
        ([[1], [0], [1]], 8, "with 1 rollout"),
        ([[1] * 16] * 3, 32, "rewards differ in 0 of 3 tasks"),
    ],
)
def test_where_few_tasks_vary_a_command_is_advised(tmp_path, rollout, write_jsonl, rewards_of_task, repeats, hint):
    advice = advised(tmp_path, rollout, write_jsonl, rewards_of_task)
    assert advice[-1] == (
        "gym eval run --no-serve --agent math_agent --input TASKS.jsonl --output rollouts.jsonl "
        f"--num-repeats {repeats} --temperature 1.0"
    )
    assert any(hint in line for line in advice)


def test_where_enough_tasks_vary_nothing_is_advised(tmp_path, rollout, write_jsonl):
    assert advised(tmp_path, rollout, write_jsonl, [[1, 0], [1, 1], [0, 0]]) == ()


def test_a_name_from_the_file_can_not_leave_its_place_in_the_command(tmp_path, rollout, write_jsonl):
    """The line is there to be copied into a shell."""
    name = "x y; touch /tmp/harm $(id)"
    advice = advised(tmp_path, rollout, write_jsonl, [[1, 1]], name)
    words = shlex.split(advice[-1])
    assert words[words.index("--agent") + 1] == name


def test_json_is_alone_on_stdout(dpo, small):
    run = dpo("inspect", small, "--json")
    assert (run.returncode, run.stderr) == (0, "")
    found = json.loads(run.stdout)
    assert found["rows"] == 11
    assert found["rollouts_per_task"] == {"1": 1, "2": 2, "3": 1}
    assert [environment["agent"] for environment in found["environments"]] == ["x", "y"]
    assert found["pairs"]["all"] == {"0": 4, "0.1": 4, "0.25": 4, "0.5": 4, "1": 2}


def test_the_report_is_on_stdout(dpo, small):
    run = dpo("inspect", small)
    assert (run.returncode, run.stderr) == (0, "")
    lines = [" ".join(line.split()) for line in run.stdout.split("\n")]
    for line in (
        "11 rows, 8 usable rollouts of 4 tasks",
        "1 row not_json: the line is no valid JSON",
        "rollouts per task: 1 x 1, 2 x 2, 3 x 1",
        "at a reward of 0.5: always pass 1, sometimes 2, never 1; rewards differ in 2 tasks",
        "x: 6 rollouts of 3 tasks",
        "median characters by reward: 0: 11, 0.5: 6, 1: 4",
        "cut by a limit 14.3%; 1 row failed, masked, unverified or empty",
        "y: 2 rollouts of 1 task",
        "strategy any 0.1 0.25 0.5 1",
        "all 4 4 4 4 2",
        "length-matched 3 3 3 3 2",
    ):
        assert line in lines, line
    (histogram,) = (line for line in lines if line.startswith("reward 0 |"))
    assert histogram == "reward 0 |\u2586 \u2583 \u2588| 1, mean 0.583, standard deviation 0.449"


def test_nothing_is_written(dpo, tmp_path, small):
    (tmp_path / "tmp").mkdir()
    assert dpo("inspect", small, TMPDIR=str(tmp_path / "tmp")).returncode == 0
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["rollouts.jsonl", "tmp"]


@pytest.mark.parametrize("rows", [[], [b"{"], [b"", b" "]])
def test_a_file_without_rollouts_is_told_of(dpo, tmp_path, write_jsonl, rows):
    source = write_jsonl(tmp_path / "in.jsonl", rows)
    run = dpo("inspect", source)
    assert run.returncode == 1
    assert "0 usable rollouts" in run.stdout
    assert "no usable rollouts" in run.stderr
    assert "Traceback" not in run.stderr
    assert json.loads(dpo("inspect", source, "--json").stdout)["tasks"] == 0


def test_the_greatest_rewards_are_described_too(dpo, tmp_path, rollout, write_jsonl):
    rows = [rollout(reward=1e308), rollout(response="B", reward=-1e308), rollout(response="C", reward=0)]
    run = dpo("inspect", write_jsonl(tmp_path / "in.jsonl", rows), "--json")
    assert run.returncode == 0, run.stderr

    def refused(name):
        raise AssertionError(f"{name} is no JSON")

    (environment,) = json.loads(run.stdout, parse_constant=refused)["environments"]
    assert environment["histogram"] == [1, 0, 0, 0, 0, 1, 0, 0, 0, 1]
    assert environment["mean_reward"] == 0


def test_one_and_two_workers_say_the_same(dpo, small):
    assert dpo("inspect", small, "--workers", "1").stdout == dpo("inspect", small, "--workers", "2").stdout != ""
