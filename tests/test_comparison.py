"""`dpo compare`: figures worked out by hand, which tasks belong together, what counts, what people see of it."""

import gzip
import itertools
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import cli
from pipeline.comparison.compare import compare_rollouts, pass_at
from pipeline.comparison.notes import collecting_command, notes_of, verdict_of
from pipeline.intake import Machinery
from pipeline.reasoning import ReasoningPolicy
from pipeline.settings import Format, RewardField, Settings
from schemas.errors import DpoError, InputError, UsageError
from views.compare_command import compare_command

ROOT = Path(__file__).parents[1]
MATH, CODE = {"agent_ref": {"name": "math"}}, {"agent_ref": {"name": "code"}}
HOSTILE = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</style><style>*{display:none}</style>",
    "{{ 7*7 }}",
    "\x1b[31mred\x1b[0m",
    "\u202egnp.exe",
    "nul \x00",
    "w" * 5000,
)


def settings(**changes):
    given = {"format": Format.PREFERENCE, "allow_truncated_rejected": True, "across_files": True, **changes}
    return Settings(**given)


def compared(before, after, num_workers=1, num_examples=10, **changes):
    return compare_rollouts([before], [after], settings(**changes), Machinery(num_workers), num_examples=num_examples)


@pytest.fixture
def sides(tmp_path, write_jsonl):
    """Write two files; give their paths."""

    def write(before, after):
        return write_jsonl(tmp_path / "before.jsonl", before), write_jsonl(tmp_path / "after.jsonl", after)

    return write


@pytest.fixture
def tasks(rollout):
    """Make rows of tasks: a prompt and its rewards."""

    def make(rewards_of_task, agent=MATH, **keys):
        return [
            rollout(prompt, f"{prompt} answered {number}", reward, **agent, **keys)
            for prompt, rewards in rewards_of_task.items()
            for number, reward in enumerate(rewards)
        ]

    return make


def test_figures_by_hand(sides, tasks):
    before, after = sides(
        [*tasks({"A": [1, 0], "B": [0, 0], "C": [1, 1]}), *tasks({"D": [0.5, 0.5]}, CODE)],
        [*tasks({"A": [1, 1], "B": [0, 0], "C": [0, 1]}), *tasks({"D": [0.25, 1]}, CODE)],
    )
    found = compared(before, after)
    # means of the tasks: before 0.5 0 1 0.5, after 1 0 0.5 0.625
    assert found.overall.reward.before == pytest.approx(2 / 4)
    assert found.overall.reward.after == pytest.approx(2.125 / 4)
    assert found.overall.reward.change.mean == pytest.approx(0.125 / 4)
    assert (found.overall.improved, found.overall.worse, found.overall.same) == (2, 1, 1)
    # of two answers pass, with 0.5 as the least: before 1 0 2 2, after 2 0 1 1
    assert (found.overall.pass_at_1.before, found.overall.pass_at_1.after) == (5 / 8, 4 / 8)
    assert [(each.k, each.tasks, each.before, each.after) for each in found.pass_at_k] == [
        (1, 4, 5 / 8, 4 / 8),
        (2, 4, 3 / 4, 3 / 4),
    ]
    code, math = found.environments
    assert (code.agent, code.tasks, code.improved) == ("code", 1, 1)
    assert (math.agent, math.tasks, math.reward.change.mean) == ("math", 3, 0.0)
    assert found.transitions == {
        "never": {"never": 1, "sometimes": 0, "always": 0},
        "sometimes": {"never": 0, "sometimes": 0, "always": 1},
        "always": {"never": 0, "sometimes": 2, "always": 0},
    }
    assert found.overall.num_chars.before == len("A answered 0")


def test_pass_at_k_is_the_share_of_all_ways_to_draw_k():
    for num, passes in itertools.product(range(1, 7), range(7)):
        if passes > num:
            continue
        answers = [True] * passes + [False] * (num - passes)
        for k in range(1, num + 1):
            drawn = list(itertools.combinations(answers, k))
            assert pass_at(k, num=num, passes=passes) == pytest.approx(sum(map(any, drawn)) / len(drawn))


def test_each_k_is_of_the_tasks_that_have_k_on_both_sides(sides, tasks):
    before, after = sides(
        tasks({"A": [1, 0, 0], "B": [0, 0, 0], "C": [1], "D": [1, 1]}),
        tasks({"A": [1, 1, 0], "B": [0, 1], "C": [1, 1, 1, 1], "D": [0, 0]}),
    )
    found = compared(before, after)
    # of each the fewer: 3, 2, 1, 2; so half of the tasks have 2
    assert [(each.k, each.tasks) for each in found.pass_at_k] == [(1, 4), (2, 3)]
    # of A, B and D at k = 2: before 1 - 1/3, 0, 1; after 1, 1, 0
    assert found.pass_at_k[1].before == pytest.approx((2 / 3 + 0 + 1) / 3)
    assert found.pass_at_k[1].after == pytest.approx(2 / 3)
    assert found.uneven_tasks == 2
    assert any("2 tasks with more rollouts on one side (BEFORE 1 to 3 each" in seen for seen, _ in notes_of(found))


def test_what_was_scored_counts_and_what_measures_nothing_does_not(sides, rollout):
    cut = rollout("A", "never en", 0.0, **MATH)
    cut["response"]["incomplete_details"] = {"reason": "max_output_tokens"}
    cut_empty = rollout("A", "", 0.0, **MATH, _ng_rollout_index=1)
    cut_empty["response"]["incomplete_details"] = {"reason": "max_output_tokens"}
    refusal = [{"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}]
    before, after = sides(
        [rollout("A", "fine", 1.0, **MATH)],
        [
            rollout("A", "fine", 1.0, **MATH),
            cut,
            cut_empty,
            rollout("A", "", 0.25, **MATH, _ng_rollout_index=2),
            rollout("A", refusal, 0.5, **MATH, _ng_rollout_index=3),
            rollout("A", "masked", 1.0, mask_sample=True, **MATH),
            rollout("A", [], 0.0, **MATH),
            rollout("A", "no reward", None, **MATH),
            b"{",
        ],
    )
    found = compared(before, after)
    assert found.overall.reward.after == pytest.approx((1 + 0 + 0 + 0.25 + 0.5) / 5)
    assert found.overall.truncated.after == pytest.approx(2 / 5)
    assert (found.after.rows, found.after.counted, found.after.without_text) == (9, 5, 3)
    assert found.after.uncounted == {"not_json": 1, "masked": 1, "failed": 1, "reward_missing": 1}
    assert found.before.uncounted == {}
    (lost,) = found.regressions
    assert (lost.after.text, lost.after.reward, lost.after_rewards) == ("never en", 0.0, (1, 0.5, 0.25, 0, 0))
    assert any("no reward that measures anything" in seen for seen, _ in notes_of(found))


def test_the_same_empty_answer_given_twice_counts_once(sides, rollout):
    twice = rollout("A", "", 0.0, _ng_task_index=0, _ng_rollout_index=1)
    ended = rollout("A", "fine", 1.0, _ng_task_index=0, _ng_rollout_index=0)
    found = compared(*sides([ended], [ended, twice, twice]))
    assert (found.overall.reward.after, found.after.uncounted) == (0.5, {"duplicate_rollout": 1})


def test_tool_calls_and_several_turns_count(sides, rollout):
    call = {"type": "function_call", "name": "look", "arguments": "{}", "call_id": "c1"}
    output = {"type": "function_call_output", "call_id": "c1", "output": "it rains"}
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Rain."}]}
    before, after = sides([rollout("A", [call, output, said], 1.0)], [rollout("A", "Sun.", 0.0)])
    (lost,) = compared(before, after).regressions
    assert lost.before.text == "[assistant]\nlook({})\n\n[tool]\nit rains\n\n[assistant]\nRain."
    assert (lost.after.text, lost.prompt) == ("Sun.", (("user", "A"),))


def test_tasks_are_the_same_by_what_they_ask_not_by_their_index(sides, rollout):
    def row(index, difficulty, reward):
        return rollout("one prompt", f"{difficulty}", reward, _ng_task_index=index, difficulty=difficulty)

    found = compared(*sides([row(0, "easy", 1), row(1, "hard", 0)], [row(0, "hard", 1), row(1, "easy", 1)]))
    assert (found.tasks, found.overall.improved, found.overall.same) == (2, 1, 1)
    assert found.improvements[0].before.text == "hard"


def test_materialized_inputs_beside_one_side_alone_part_nothing(sides, tmp_path, rollout, write_jsonl):
    row = rollout("A", "x", 1, _ng_task_index=0, _ng_rollout_index=0)
    beside = {"responses_create_params": {"input": "A"}, "uuid": "u", "_ng_task_index": 0, "_ng_rollout_index": 0}
    before, after = sides([row], [{**row, "reward": 0}])
    write_jsonl(tmp_path / "before_materialized_inputs.jsonl", [beside, {**beside, "_ng_rollout_index": 1}])
    found = compared(before, after)
    assert (found.tasks, found.before.missing, found.after.missing) == (1, 1, 0)
    # beside both they tell tasks of one prompt apart, also of answers without text
    write_jsonl(tmp_path / "after_materialized_inputs.jsonl", [{**beside, "uuid": "v"}])
    with pytest.raises(DpoError, match="no task is on both sides"):
        compared(before, after)
    write_jsonl(tmp_path / "after_materialized_inputs.jsonl", [beside])
    write_jsonl(after, [rollout("A", "", 0, _ng_task_index=0, _ng_rollout_index=0)])
    assert compared(before, after).overall.reward.change.mean == -1


def test_tasks_of_one_side_are_counted_and_told(sides, tasks):
    found = compared(*sides(tasks({"A": [1], "B": [1], "C": [0]}), tasks({"A": [0], "X": [1]})))
    assert (found.tasks, found.before.only_here, found.after.only_here) == (1, 2, 1)
    assert found.overall.reward.change.mean == -1
    seen = [seen for seen, _ in notes_of(found)]
    assert "one task tells nothing of others: its interval has no width" in seen
    assert "2 of 3 tasks in BEFORE without a rollout that counts in AFTER: in no figure" in seen
    assert "1 of 2 tasks in AFTER without a rollout that counts in BEFORE: in no figure" in seen


def test_a_file_is_no_different_from_itself_and_reverified_rollouts_are(sides, tasks):
    rows = tasks({f"Q{number}": [number % 2, 0.1, 0.2, 0.3] for number in range(30)})
    for number, row in enumerate(rows):
        row["response"]["id"] = f"resp_{number:016x}"  # unique everywhere: in one collection these would be duplicates
    before, after = sides(rows, [{**row, "reward": 1.0} for row in rows])
    same = compared(before, before)
    assert (same.overall.same, same.overall.reward.change.low, same.overall.reward.change.high) == (30, 0, 0)
    assert verdict_of(same).startswith("No difference")
    better = compared(before, after)
    assert (better.overall.improved, better.overall.reward.after, better.after.uncounted) == (30, 1, {})
    assert verdict_of(better) == "AFTER is better: the whole interval is above zero."


def test_nothing_depends_on_the_order_of_rows_their_packing_or_the_workers(sides, tasks, tmp_path):
    rewards = {f"Q{number}": [0.1 * (number % 7), 0.2, 0.7, 0.1] for number in range(25)}
    before_rows, after_rows = tasks(rewards), tasks({prompt: [0.3, *rest] for prompt, (_, *rest) in rewards.items()})
    before, after = sides(before_rows, after_rows)
    first = compared(before, after).as_dict()
    packed = tmp_path / "after.jsonl.gz"
    packed.write_bytes(gzip.compress(after.read_bytes()))
    sides(before_rows[::-1], after_rows)
    second = compared(before, packed, num_workers=2).as_dict()
    for found in (first, second):
        for side in ("before", "after"):
            del found[side]["places"], found[side]["sampling"]
    assert first == second


def test_a_loss_shows_the_best_before_and_the_worst_after(sides, tasks):
    before, after = sides(tasks({"A": [0, 1, 0.5], "B": [0, 1]}), tasks({"A": [0.5, 0, 0], "B": [1, 1]}))
    found = compared(before, after)
    (lost,), (gained,) = found.regressions, found.improvements
    assert (lost.before.text, lost.before.reward, lost.after.reward) == ("A answered 1", 1, 0)
    assert (lost.before_rewards, lost.after_rewards) == ((1, 0.5, 0), (0.5, 0, 0))
    assert (gained.before.text, gained.before.reward, gained.after.reward) == ("B answered 0", 0, 1)
    assert compared(before, after, num_examples=0).regressions == ()


def test_reasoning_is_shown_and_measured_or_not(sides, rollout):
    thinks = rollout("A", "<think>hm</think>4", 1)
    before, after = sides([thinks], [{**thinks, "reward": 0}])
    assert compared(before, after).regressions[0].before.text == "<think>\nhm\n</think>\n\n4"
    bare = compared(before, after, reasoning=ReasoningPolicy.STRIP)
    assert (bare.regressions[0].before.text, bare.overall.num_chars.before) == ("4", 1)


def test_the_reward_may_be_another_field_and_the_threshold_another(sides, rollout):
    before, after = sides([rollout("A", "x", 0, parts={"style": 3})], [rollout("A", "", 0, parts={"style": 5})])
    found = compared(before, after, reward_field=RewardField.parse("0.5*parts.style"), threshold=2.0)
    assert (found.overall.reward.before, found.overall.reward.after) == (1.5, 2.5)
    assert (found.overall.pass_at_1.before, found.overall.pass_at_1.after) == (0, 1)


def test_an_agent_that_lost_is_named_though_the_whole_gained(sides, tasks):
    def many(rewards):
        return {f"Q{number}": rewards for number in range(25)}

    before, after = sides(
        [*tasks(many([0])), *tasks(many([0.5]), CODE)], [*tasks(many([1])), *tasks(many([0.25]), CODE)]
    )
    found = compared(before, after)
    assert found.overall.reward.verdict == "better"
    assert [seen for seen, _ in notes_of(found) if "got worse" in seen] == [
        "code got worse: mean reward -0.250, 95 % interval -0.250 to -0.250"
    ]


def test_other_sampling_is_told_and_the_command_repeats_that_of_before(sides, rollout):
    def rows(temperature, reward):
        asked = {"temperature": temperature, "max_output_tokens": 64}
        return [rollout(f"Q{number // 2}", f"{number}", reward, params=asked, **MATH) for number in range(8)]

    found = compared(*sides(rows(0.7, 0), rows(1.0, 1)))
    assert any(seen.startswith("temperature differs: 0.7 before, 1 after") for seen, _ in notes_of(found))
    assert not any("max_output_tokens" in seen for seen, _ in notes_of(found))
    assert collecting_command(found) == (
        "gym eval run --no-serve --agent math --input TASKS.jsonl --output after.jsonl --num-repeats 2 "
        "--temperature 0.7 --max-output-tokens 64"
    )


def test_nothing_in_common_is_an_error_that_says_what_differs(sides, tasks):
    with pytest.raises(DpoError, match=r"BEFORE has 1 task, AFTER 2 tasks; collect AFTER with the same --input"):
        compared(*sides(tasks({"A": [1]}), tasks({"B": [1], "C": [1]})))
    renamed = sides(tasks({"A": [1]}), tasks({"A": [0]}, CODE))
    with pytest.raises(DpoError, match=r"their agents differ \('math' and 'code'\): --across-agents matches"):
        compared(*renamed)
    assert compared(*renamed, across_agents=True).overall.worse == 1
    with pytest.raises(DpoError, match="AFTER has no rollout that counts, of 1 row; 1 are not_json"):
        compared(*sides(tasks({"A": [1]}), [b"{"]))
    with pytest.raises(DpoError, match="AFTER has no rollout that counts, of 0 rows; it is empty"):
        compared(*sides(tasks({"A": [1]}), []))


def test_what_can_not_be_read_or_asked(sides, tasks, tmp_path, write_jsonl):
    before, _ = sides(tasks({"A": [1]}), [])
    with pytest.raises(InputError):
        compared(before, tmp_path / "none.jsonl")
    with pytest.raises(UsageError, match="both sides come from stdin"):
        compared(Path("-"), Path("-"))
    pairs = write_jsonl(tmp_path / "pairs.jsonl", [{"prompt": "A", "chosen": "B", "rejected": "C"}])
    with pytest.raises(DpoError, match=r"AFTER holds no rollouts: .*preference pairs"):
        compared(before, pairs)
    for number in ("nan", "inf"):
        with pytest.raises(UsageError, match=f"--threshold {number}"):
            compare_command(before, before, threshold=float(number))
    huge = sides(tasks({"A": [1e308]}), tasks({"A": [-1e308]}))
    with pytest.raises(DpoError, match="beyond what a float holds"):
        compared(*huge)


def test_one_task_has_no_verdict(sides, tasks, capsys):
    one = sides(tasks({"A": [1, 1]}), tasks({"A": [0, 0]}))
    found = compared(*one)
    assert (found.verdict, found.as_dict()["verdict"]) == ("unclear", "unclear")
    assert verdict_of(found) == "No verdict: one task tells nothing of others."
    compare_command(*one, fail_if_worse=True)
    assert "is worse" not in capsys.readouterr().out


def test_the_page_replaces_no_input(sides, tasks, tmp_path):
    before, after = sides(tasks({"A": [1]}), tasks({"A": [0]}))
    content = after.read_bytes()
    linked = tmp_path / "linked.html"
    linked.symlink_to(after)
    for named in ((before, after), (before, tmp_path), (before, tmp_path / "a*.jsonl")):
        for output in (before, after, linked):
            with pytest.raises(UsageError, match="is an input too"):
                compare_command(*named, output=output)
    assert after.read_bytes() == content


def test_above_64_rollouts_not_every_k_is_computed(sides, tasks):
    before, after = (tasks({"A": [number % step == 0 for number in range(300)]}) for step in (3, 2))
    for row in (*before, *after):
        row["reward"] = float(row["reward"])
    found = compared(*sides(before, after))
    assert [each.k for each in found.pass_at_k] == [*range(1, 65), 128, 256, 300]
    assert found.pass_at_k[64].before == 1 - math.comb(200, 128) / math.comb(300, 128)


def test_fail_if_worse_fails_only_if_the_whole_interval_is_below_zero(sides, tasks, capsys):
    many = {f"Q{number}": [1] for number in range(20)}
    worse = sides(tasks(many), tasks({prompt: [0] for prompt in many}))
    compare_command(*worse)
    assert "AFTER is worse: the whole interval is below zero." in capsys.readouterr().out
    with pytest.raises(DpoError, match=r"AFTER is worse: mean reward -1\.000, interval \[-1\.000, -1\.000\]") as failed:
        compare_command(*worse, fail_if_worse=True)
    assert failed.value.exit_code == 1
    unclear = sides(tasks(many), tasks({**many, "Q1": [0]}))
    compare_command(*unclear, fail_if_worse=True)


def test_json_is_alone_on_stdout_and_whole(sides, tasks, capsys):
    before, after = sides(tasks({"A": [1, 0], "B": [0, 0]}), [*tasks({"A": [0, 0], "B": [1, 1]}), b"{"])
    compare_command(before, after, as_json=True)
    told = capsys.readouterr()
    found = json.loads(told.out)
    assert (found["verdict"], found["tasks"], found["overall"]["reward"]["change"]["mean"]) == ("unclear", 2, 0.25)
    assert sorted((point["before"], point["after"]) for point in found["points"]) == [(0, 1), (0.5, 0)]
    assert found["after"]["uncounted"] == {"not_json": 1}


def test_the_page_holds_hostile_texts_as_texts(sides, rollout, tmp_path, capsys):
    rows = [
        rollout(f"{number} {text}", f"{text} said", number % 2, agent_ref={"name": text})
        for number, text in enumerate(HOSTILE)
    ]
    turned = [{**row, "reward": 1 - row["reward"]} for row in rows]
    page = tmp_path / "compare.html"
    compare_command(*sides(rows, turned), output=page)
    told = capsys.readouterr()
    assert not {"\x1b", "\u202e", "\x00"} & set(told.out + told.err)
    html = page.read_text(encoding="utf-8")
    assert not re.search(
        r"<script|<img|\son\w+=|\sstyle=|javascript:|\x1b|\x00|\u202e",
        html.split("</head>")[1].replace("onerror=alert", ""),
    )
    assert html.count("<style>") == 1
    assert "{{ 7*7 }}" in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert html.count('<article class="example">') == len(HOSTILE)


def test_the_page_is_the_same_twice_and_needs_its_extra(sides, tasks, tmp_path, capsys, monkeypatch):
    before, after = sides(tasks({"A": [1], "B": [0]}), tasks({"A": [1], "B": [1]}))
    pages = [tmp_path / "one.html", tmp_path / "two.html"]
    for page in pages:
        compare_command(before, after, output=page)
    assert pages[0].read_bytes() == pages[1].read_bytes()
    assert "wrote" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs jinja2, which comes with the extra report"):
        compare_command(before, after, output=pages[0])
    compare_command(before, after)


def test_the_command_as_typed(dpo, sides, tasks):
    before, after = sides(tasks({"A": [1, 0], "B": [0, 0]}), tasks({"A": [1, 1], "B": [0, 0]}))
    run = dpo("compare", before, after)
    assert (run.returncode, run.stderr) == (0, "")
    lines = [" ".join(line.split()) for line in run.stdout.split("\n")]
    assert "2 tasks on both sides, 4 and 4 rollouts: 1 improved, 0 worse, 1 the same" in lines
    assert "mean reward 0.250 0.500 +0.250 [+0.000, +0.500]" in lines
    assert "pass@1 25.0% 50.0% +25.0 pp [+0.0, +50.0]" in lines
    assert "+0.500 A" in lines
    assert dpo("compare", before).returncode == 2


def test_who_stops_reading_has_the_page(sides, tasks, tmp_path):
    before, after = sides(tasks({"A": [1], "B": [0]}), tasks({"A": [1], "B": [1]}))
    command = [sys.executable, "-m", "cli", "compare", before, after, "-o", tmp_path / "compare.html"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as run:
        run.stdout.close()
        assert b"Traceback" not in run.stderr.read()
    assert (tmp_path / "compare.html").is_file()


def test_every_option_is_documented():
    page = (ROOT / "docs" / "comparing.md").read_text(encoding="utf-8")
    command = typer.main.get_command(cli.app).commands["compare"]
    options = {name for option in command.params for name in option.opts if name.startswith("--")} - {"--help"}
    assert len(options) >= 9
    assert {name for name in options if name not in page} == set()
