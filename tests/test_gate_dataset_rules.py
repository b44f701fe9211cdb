"""The rules on all rows together: each with rows that it lets pass, and rows that it does not."""

import pytest

from pipeline.gate.rules import Rule, Severity
from pipeline.gate.run import check_files
from pipeline.gate.settings import GateSettings, Limits, severities_of

DATASET = (
    Rule.LENGTH_BIAS,
    Rule.REWARD_STATISTICS,
    Rule.PROMPT_DIVERSITY,
    Rule.BALANCE,
    Rule.FEW_VARIED_TASKS,
)


@pytest.fixture
def found(tmp_path, write_jsonl):
    """Check rows and give what the rules on the whole find: rule, pointer, got, expected."""

    def check(rows, settings=None, **limits):
        settings = settings or GateSettings(limits=Limits(**{"min_rows": 10, **limits}))
        path = write_jsonl(tmp_path / "rows.jsonl", rows)
        report = check_files([path], settings)
        findings = [finding for finding in report.findings if finding.rule in DATASET]
        assert {(finding.path, finding.line) for finding in findings} <= {(str(path), 0)}
        return [(each.rule, each.pointer, each.got.replace(str(path), "rows"), each.expected) for each in findings]

    return check


def pairs(number, *, longer=0.5, start=0, **keys):
    """Make pairs of different prompts; `longer` is the share of them in which chosen is the longer response."""
    sides = [("yes yes", "no") if at < longer * number else ("yes", "no no no") for at in range(number)]
    return [
        {"prompt": f"Question {start + at}", "chosen": f"{chosen} {at}", "rejected": f"{rejected} {at}", **keys}
        for at, (chosen, rejected) in enumerate(sides)
    ]


def test_sound_pairs(found):
    assert found(pairs(20)) == []
    assert found(pairs(20, chosen_reward=1, rejected_reward=0, agent="math")) == []


@pytest.mark.parametrize("share", [0.4, 0.5, 0.6])
def test_lengths_within_their_limits(found, share):
    assert found(pairs(100, longer=share)) == []


def test_chosen_is_too_often_the_longer_one(found):
    ((rule, pointer, got, expected),) = found(pairs(100, longer=0.61))
    assert (rule, pointer) == (Rule.LENGTH_BIAS, "")
    assert got == "chosen as the longer response in 61 % of 100 pairs of different lengths"
    assert expected.startswith("at most 60 % (limits.max-chosen-longer); balance them")


def test_chosen_is_too_often_the_shorter_one(found):
    ((rule, _, got, expected),) = found(pairs(100, longer=0.39))
    assert rule is Rule.LENGTH_BIAS
    assert got.startswith("chosen as the longer response in 39 % of 100 pairs")
    assert expected.startswith("at least 40 % (limits.min-chosen-longer); ")


def test_answers_of_one_length_have_no_length_bias(found):
    letters = [{"prompt": f"Question {at}", "chosen": "A", "rejected": "B"} for at in range(50)]
    assert found(letters) == []
    assert found(letters + pairs(9, longer=1, start=50)) == []  # nine of a different length say nothing yet
    assert "of 10 pairs" in found(letters + pairs(10, longer=1, start=50))[0][2]


def test_rewards_in_some_rows_only(found):
    with_both = pairs(15, chosen_reward=1, rejected_reward=0)
    with_one = pairs(3, start=20, chosen_reward=1)
    without = pairs(4, start=30)
    ((rule, pointer, got, expected),) = found(with_both + without)
    assert (rule, pointer) == (Rule.REWARD_STATISTICS, "")
    assert got == "rewards of both responses in 15 of 19 pairs"
    assert expected == "rewards in all pairs or in none: losses that use rewards refuse the others"
    ((_, _, got, _),) = found(with_both + with_one)
    assert got == "rewards of both responses in 15 of 18 pairs, and only one of the two in 3"
    assert found(without + pairs(10, start=40)) == []


def test_the_mean_margin(found):
    rows = pairs(10, chosen_reward=1, rejected_reward=0) + pairs(10, start=10, chosen_reward=0.5, rejected_reward=0.25)
    mean = 0.625  # (1 + 0.25) / 2
    assert found(rows, min_mean_margin=mean, max_mean_margin=mean) == []
    ((rule, _, got, expected),) = found(rows, min_mean_margin=0.7)
    assert rule is Rule.REWARD_STATISTICS
    assert got == "a mean margin of 0.625 between the rewards of 20 pairs"
    assert expected.startswith("at least 0.7 (limits.min-mean-margin); leave out close pairs")
    ((_, _, _, expected),) = found(rows, max_mean_margin=0.6)
    assert expected.startswith("at most 0.6 (limits.max-mean-margin); ")


def many_of_one_prompt(number):
    return [row | {"prompt": "One question"} for row in pairs(number)]


def test_few_distinct_prompts(found):
    rows = many_of_one_prompt(49) + pairs(1, start=1)
    assert found(rows, min_distinct_prompts=0.04, max_prompt_share=1) == []  # 2 prompts in 50 rows
    ((rule, _, got, expected),) = found(rows, min_distinct_prompts=0.05, max_prompt_share=1)
    assert rule is Rule.PROMPT_DIVERSITY
    assert got == "2 distinct prompts in 50 pairs"
    assert expected.startswith("at least 0.05 for each pair (limits.min-distinct-prompts); add prompts, or ")


def test_a_prompt_in_many_rows(found):
    rows = pairs(16, start=50) + many_of_one_prompt(4)
    assert found(rows) == []  # 4 of 20 are the limit's 20 %
    ((rule, _, got, expected),) = found([*rows, {"prompt": "One question", "chosen": "q", "rejected": "other"}])
    assert rule is Rule.PROMPT_DIVERSITY
    assert got == "the prompt of rows:17 in 23.81 % of 21 pairs"  # 5 of 21
    assert expected == "at most 20 % (limits.max-prompt-share); add rows of other prompts"


def test_several_rollouts_of_a_task_are_no_lack_of_prompts(found, rollout):
    rows = [rollout(f"Q{at % 10}", f"A{at}", reward=at % 3) for at in range(1000)]
    assert found(rows, min_distinct_prompts=0.02) == []  # 100 of each: 0.01 prompts for each row
    rows = [rollout("Q", f"A{at}", reward=at % 3) for at in range(30)]
    assert [got for _, _, got, _ in found(rows)] == ["the prompt of rows:1 in 100 % of 30 rollouts"]


def test_balance(found):
    def mixed(num_math, num_code):
        return pairs(num_math, agent="math") + pairs(num_code, start=500, agent="code")

    assert found(mixed(90, 0)) == []  # all of one environment: there is nothing to balance
    assert found(mixed(80, 20), max_balance_share=0.8) == []
    ((rule, pointer, got, expected),) = found(mixed(81, 19), max_balance_share=0.8)
    assert (rule, pointer) == (Rule.BALANCE, "/agent")
    assert got == "'math' in 81 % of 100 rows"
    assert expected == (
        "at most 80 % (limits.max-balance-share); add rows of the other value, or take fewer of this one"
    )
    assert found(mixed(81, 19) + pairs(30, start=800), max_balance_share=0.8) != []  # of the rows that have the key


def test_balance_of_other_keys(found):
    limits = Limits(min_rows=10, max_balance_share=0.8)
    settings = GateSettings(limits=limits, balance_keys=("meta.type",))
    rows = [row | {"meta": {"type": "safety" if at else "quality"}} for at, row in enumerate(pairs(20, agent="a"))]
    assert [(pointer, got) for _, pointer, got, _ in found(rows, settings)] == [
        ("/meta/type", "'safety' in 95 % of 20 rows")
    ]


def test_balance_of_rollouts_by_agent(found, rollout):
    def of(agent, number):
        return [rollout(f"{agent} {at}", f"A{at}", agent_ref={"name": agent}) for at in range(number)]

    assert found(of("math", 14) + of("code", 6), max_balance_share=0.8) == []
    ((rule, pointer, got, _),) = found(of("math", 19) + of("code", 1), max_balance_share=0.8)
    assert (rule, pointer, got) == (Rule.BALANCE, "/agent", "'math' in 95 % of 20 rows")


def test_an_environment_with_a_hostile_name(found):
    rows = pairs(20, agent="\x1b]0;x\x07\n::error::") + pairs(1, start=50, agent="code")
    ((_, _, got, _),) = found(rows)
    assert got.isprintable()


def test_tasks_whose_rollouts_are_all_alike(found, rollout):
    def task(name, *rewards):
        return [rollout(name, f"{name} {at}", reward=reward) for at, reward in enumerate(rewards)]

    alike = [row for at in range(7) for row in task(f"alike {at}", 1, 1)]
    varied = [row for at in range(3) for row in task(f"varied {at}", 0, 1)]
    single = [row for at in range(9) for row in task(f"single {at}", 1)]
    assert found(alike + varied + single, min_varied_tasks=0.3) == []
    ((rule, _, got, expected),) = found(alike + varied[:-1] + single, min_varied_tasks=0.3)
    assert rule is Rule.FEW_VARIED_TASKS
    assert got == "different rewards in 2 (22.22 %) of 9 tasks with several rollouts"
    assert expected.startswith("at least 30 % (limits.min-varied-tasks); collect more rollouts of each, or ")
    assert found(single + alike[:8], min_varied_tasks=0.3) == []  # eight rows of tasks with several say nothing


BAD = [
    *[row | {"prompt": "One question", "agent": "a"} for row in pairs(98, longer=1, chosen_reward=1)],
    *pairs(1, longer=1, agent="b"),
]


def test_few_rows_say_nothing(found):
    default = GateSettings()
    assert default.limits.min_rows == 100
    assert found(BAD, default) == []
    rules = {rule for rule, *_ in found([*BAD, *pairs(1, longer=1, start=3, agent="b")], default)}
    assert rules == {*DATASET} - {Rule.FEW_VARIED_TASKS}


@pytest.mark.parametrize("rule", [rule for rule in DATASET if rule is not Rule.FEW_VARIED_TASKS])
def test_an_ignored_rule_is_silent(found, rule):
    settings = GateSettings(severities=severities_of({rule: Severity.IGNORE}), limits=Limits(min_rows=10))
    assert {each for each, *_ in found(BAD, settings)} == {*DATASET} - {rule, Rule.FEW_VARIED_TASKS}


def test_figures_of_prompts_and_tasks(tmp_path, write_jsonl, rollout):
    """As the report has them: pairs and rollouts of two files are told apart."""
    rows = [rollout("Q", "a", 1), rollout("Q", "b", 0), rollout("R", "c", 1), rollout("R", "d", 1), rollout("S", "e")]
    paths = [
        write_jsonl(tmp_path / "pairs.jsonl", many_of_one_prompt(3) + pairs(1, start=9)),
        write_jsonl(tmp_path / "rollouts.jsonl", rows),
    ]
    told = check_files(paths, GateSettings()).statistics
    assert told["pairs"]["prompts"] == {"distinct": 2, "rows_of_most_frequent": 3, "share_of_most_frequent": 0.75}
    assert told["rollouts"]["prompts"] == {"distinct": 3, "rows_of_most_frequent": 2, "share_of_most_frequent": 0.4}
    assert told["rollouts"]["tasks"] == {
        "with_several_rollouts": 2,
        "with_different_rewards": 1,
        "varied_share": 0.5,
    }
