"""The rules across rows: what is found, where, and the same in both ways to compare rows."""

import subprocess
import sys
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.gate.gate import Gathered
from pipeline.gate.rules import Rule, Severity
from pipeline.gate.run import check_files
from pipeline.gate.settings import GateSettings, severities_of
from pipeline.gate.whole import across, few_rows, many_rows, rows
from pipeline.gate.whole.across import across_problems
from pipeline.gate.whole.few_rows import Repeat, Spread
from pipeline.gate.whole.rows import AllRows
from schemas.errors import InputError

ACROSS = (Rule.DUPLICATE_ROW, Rule.CONTRADICTORY_PAIR, Rule.PROMPT_LEAK)
PLAIN = GateSettings()
FOLDED = GateSettings(folds_prompts=True)


def pair(prompt="Q", chosen="good", rejected="bad", **keys):
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected, **keys}


def found(*paths, settings=PLAIN, against=()):
    """Give rule, file, line and what was got, of the rules across rows."""
    report = check_files(paths, settings, against=against)
    assert not report.unreadable
    return [
        (finding.rule, finding.path.rpartition("/")[2], finding.line, finding.got.replace(f"{paths[0].parent}/", ""))
        for finding in report.findings
        if finding.rule in ACROSS
    ]


def test_a_row_that_is_there_already(tmp_path, write_jsonl):
    first = write_jsonl(tmp_path / "a.jsonl", [pair("P"), pair()])
    second = write_jsonl(tmp_path / "b.jsonl", [pair("R"), pair(), pair()])
    # each copy names the first place, which may be in another file
    assert found(first, second) == [
        (Rule.DUPLICATE_ROW, "b.jsonl", 2, "the row of a.jsonl:2 again"),
        (Rule.DUPLICATE_ROW, "b.jsonl", 3, "the row of a.jsonl:2 again"),
    ]
    assert found(first) == []


def test_blank_lines_count_for_the_place(tmp_path):
    path = tmp_path / "a.jsonl"
    line = b'{"prompt": "Q", "chosen": "A", "rejected": "B"}\n'
    path.write_bytes(b"\n\n" + line + b"\n" + line)
    assert found(path) == [(Rule.DUPLICATE_ROW, "a.jsonl", 5, "the row of a.jsonl:3 again")]


def test_lines_are_counted_through_all_pieces_of_a_file():
    gathered, all_rows = Gathered(), AllRows()
    gathered.append(3, prompt=1, row=2, reward=None)
    for path in ("a.jsonl", "empty.jsonl", "b.jsonl"):
        all_rows.begin_file(path)
        for lines_before in () if path == "empty.jsonl" else (0, 10):
            all_rows.add(gathered, lines_before=lines_before)
    places = [all_rows.place_text(number) for number in range(len(all_rows))]
    assert places == ["a.jsonl:3", "a.jsonl:13", "b.jsonl:3", "b.jsonl:13"]


def test_white_space_around_texts_and_other_keys_make_no_other_row(tmp_path, write_jsonl):
    rows = [pair("a b", "c d"), pair(" a b", "c d\n", chosen_reward=1), pair("a b", "cd"), pair("A b", "c d")]
    assert [line for _, _, line, _ in found(write_jsonl(tmp_path / "a.jsonl", rows))] == [2]


def test_other_pairs_of_one_prompt_are_welcome(tmp_path, write_jsonl):
    rows = [pair("Q", "a", "b"), pair("Q", "a", "c"), pair("Q", "c", "b"), pair("R", "b", "a")]
    assert found(write_jsonl(tmp_path / "a.jsonl", rows)) == []


def test_pairs_that_contradict_each_other(tmp_path, write_jsonl):
    straight, reverse = pair("Q", "a", "b"), pair("Q", "b", "a")
    first = write_jsonl(tmp_path / "a.jsonl", [pair("P"), straight])
    second = write_jsonl(tmp_path / "b.jsonl", [reverse, straight, reverse])
    # line 2 says again what a.jsonl:2 said, and contradicts line 1
    assert found(first, second) == [
        (Rule.DUPLICATE_ROW, "b.jsonl", 2, "the row of a.jsonl:2 again"),
        (Rule.DUPLICATE_ROW, "b.jsonl", 3, "the row of b.jsonl:1 again"),
        (Rule.CONTRADICTORY_PAIR, "b.jsonl", 1, "the responses of a.jsonl:2 the other way round"),
        (Rule.CONTRADICTORY_PAIR, "b.jsonl", 2, "the responses of b.jsonl:1 the other way round"),
        (Rule.CONTRADICTORY_PAIR, "b.jsonl", 3, "the responses of a.jsonl:2 the other way round"),
    ]


def test_identical_responses_do_not_contradict_themselves(tmp_path, write_jsonl):
    path = write_jsonl(tmp_path / "a.jsonl", [pair("Q", "a", "a"), pair("Q", "a", " a")])
    assert [rule for rule, *_ in found(path)] == [Rule.DUPLICATE_ROW]


def test_rollouts_that_are_there_twice(tmp_path, write_jsonl, rollout):
    run = [rollout("Q", answer, index=index) for index, answer in enumerate(["a", "a", "b"])]
    path = write_jsonl(tmp_path / "a.jsonl", [*run, run[0]])
    assert found(path) == [(Rule.DUPLICATE_ROW, "a.jsonl", 4, "the row of a.jsonl:1 again")]


def test_indices_restart_in_each_run(tmp_path, write_jsonl, rollout):
    def a_run(number):
        return [rollout("Q", "yes", _ng_task_index=0, _ng_rollout_index=0, run=number)]

    first, second = (write_jsonl(tmp_path / f"{number}.jsonl", a_run(number)) for number in (1, 2))
    assert found(first, second) == []


def rows_of(*told):
    """Make rows of (prompt, row, reward)."""
    gathered = Gathered()
    for line, (prompt, row, reward) in enumerate(told, start=1):
        gathered.append(line, prompt=prompt, row=row, reward=reward)
    all_rows = AllRows()
    all_rows.begin_file("x.jsonl")
    all_rows.add(gathered, lines_before=0)
    return all_rows


@pytest.mark.parametrize("many", [1, 100])
def test_rollouts_have_no_other_way_round(monkeypatch, many):
    monkeypatch.setattr(rows, "MANY", many)
    all_rows = rows_of((1, 6, 0.0), (1, 7, 1.0), (2, 8, None), (2, 9, 1.0), (2, 8, 0.5))
    assert list(across_problems(all_rows, AllRows(), GateSettings())) == []
    all_rows = rows_of((1, 6, 0.0), (1, 7, None), (1, 6, None), (1, 6, 0.0))
    assert [(number, problem.rule) for number, problem in across_problems(all_rows, AllRows(), GateSettings())] == [
        (2, Rule.CONTRADICTORY_PAIR),  # of line 2, not of the rollout in line 1
        (3, Rule.DUPLICATE_ROW),
    ]


@pytest.mark.parametrize("many", [1, 100])
def test_findings_come_in_the_order_of_rows(monkeypatch, many):
    monkeypatch.setattr(rows, "MANY", many)
    all_rows = rows_of((5, 20, None), (5, 20, None), (6, 31, None), (5, 30, None), (6, 20, None))
    others = rows_of((6, 1, None), (9, 2, None), (6, 3, None))
    told = [(number, problem.rule) for number, problem in across_problems(all_rows, others, FOLDED)]
    assert told == [
        (1, Rule.DUPLICATE_ROW),
        (2, Rule.PROMPT_LEAK),
        (3, Rule.CONTRADICTORY_PAIR),
        (4, Rule.DUPLICATE_ROW),
        (4, Rule.PROMPT_LEAK),
    ]


@pytest.mark.parametrize("ignored", ACROSS)
def test_an_ignored_rule_is_silent(ignored):
    all_rows = rows_of((5, 20, None), (5, 20, None), (6, 21, None))
    chosen = GateSettings(severities=severities_of({ignored: Severity.IGNORE}))
    told = {problem.rule for _, problem in across_problems(all_rows, rows_of((6, 1, None)), chosen)}
    assert told == {*ACROSS} - {ignored}


def test_prompts_of_the_other_file(tmp_path, write_jsonl, rollout):
    """Case, punctuation and white space make no other prompt, and rollouts are held against pairs."""
    pairs = write_jsonl(tmp_path / "pairs.jsonl", [pair("What is 2 + 2?"), pair("Name a city."), pair("Why?")])
    rollouts = write_jsonl(tmp_path / "rollouts.jsonl", [rollout("what is 2+2"), rollout("Name a town.")])
    other_pairs = write_jsonl(tmp_path / "val.jsonl", [pair("Name a CITY", "x", "y"), pair("name  a city!")])

    def leak(name, line, place):
        return (Rule.PROMPT_LEAK, name, line, f"a prompt that {place} has too")

    assert found(pairs, settings=FOLDED, against=[rollouts]) == [leak("pairs.jsonl", 1, "rollouts.jsonl:1")]
    assert found(rollouts, settings=FOLDED, against=[pairs]) == [leak("rollouts.jsonl", 1, "pairs.jsonl:1")]
    assert found(pairs, settings=FOLDED, against=[other_pairs]) == [leak("pairs.jsonl", 2, "val.jsonl:1")]
    assert found(pairs, rollouts, settings=FOLDED, against=[other_pairs, rollouts]) == [
        leak("pairs.jsonl", 1, "rollouts.jsonl:1"),
        leak("pairs.jsonl", 2, "val.jsonl:1"),
    ]  # a file that is both is not held against itself
    assert found(other_pairs, settings=FOLDED, against=[rollouts]) == []


@pytest.mark.parametrize("content", ["", "\n", "{\n", '{"x": 1}\n'])
def test_a_file_with_nothing_to_compare_with_is_no_proof(tmp_path, write_jsonl, content):
    train = write_jsonl(tmp_path / "train.jsonl", [pair()])
    (tmp_path / "val.jsonl").write_text(content)
    with pytest.raises(InputError, match=r"--against .*val\.jsonl: holds no rollout or pair that can be read$"):
        found(train, settings=FOLDED, against=[train, tmp_path / "val.jsonl"])


def test_places_of_leaks_are_told_as_long_as_anyone_reads_them(tmp_path, write_jsonl, monkeypatch):
    monkeypatch.setattr(across, "MAX_NAMED_LEAKS", 2)
    train = write_jsonl(tmp_path / "train.jsonl", [pair(str(number)) for number in range(4)])
    val = write_jsonl(tmp_path / "val.jsonl", [pair(str(number), "x") for number in reversed(range(4))])
    assert [got for *_, got in found(train, settings=FOLDED, against=[val])] == [
        "a prompt that val.jsonl:4 has too",
        "a prompt that val.jsonl:3 has too",
        "a prompt that a file of --against has too",
        "a prompt that a file of --against has too",
    ]


def test_a_conversation_leaks_by_all_its_messages(tmp_path, write_jsonl):
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    answers = {"chosen": [{"role": "assistant", "content": "a"}], "rejected": [{"role": "assistant", "content": "b"}]}
    train = write_jsonl(tmp_path / "train.jsonl", [{"prompt": asked, **answers}])
    same = write_jsonl(tmp_path / "same.jsonl", [{"prompt": asked, **answers}])
    other = write_jsonl(tmp_path / "other.jsonl", [{"prompt": asked[1:], **answers}])
    assert len(found(train, settings=FOLDED, against=[same])) == 1
    assert found(train, settings=FOLDED, against=[other]) == []


EDGES = [0, 1, 2, 3, (1 << 60) - 1, 1 << 60, (1 << 60) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 2, (1 << 64) - 1]
keys = st.sampled_from(EDGES) | st.integers(0, (1 << 64) - 1)
told_rows = st.lists(st.tuples(keys, keys, st.sampled_from([None, None, 0.0, 1.0])), max_size=40)


@given(told_rows, st.lists(keys, max_size=8))
@settings(max_examples=15, deadline=None)
def test_both_ways_to_compare_give_the_same(told, against):
    columns, others = rows_of(*told).columns, array("Q", against)
    assert list(few_rows.repeats(columns)) == list(many_rows.repeats(columns))
    assert list(few_rows.leaks(columns, others)) == list(many_rows.leaks(columns, others))
    assert few_rows.spreads(columns) == many_rows.spreads(columns)


@given(told_rows)
@settings(max_examples=60, deadline=None)
def test_repeats_by_looking_at_each_two_rows(told):
    def first(number, key):
        is_pair = told[number][2] is None
        same = (at for at in range(number) if told[at][1] == key and (told[at][2] is None) is is_pair)
        return next(same, None)

    expected = []
    for number, (_, key, reward) in enumerate(told):
        if (place := first(number, key)) is not None:
            expected.append(Repeat(number, False, place))
        if reward is None and (place := first(number, key ^ 1)) is not None:
            expected.append(Repeat(number, True, place))
    assert list(few_rows.repeats(rows_of(*told).columns)) == expected


def test_prompts_are_counted_by_kind():
    pairs = [(1, 0, None), (1, 2, None), (2, 4, None)]
    rollouts = [(1, 0, 0.5), (3, 1, 1.0), (3, 2, 1.0), (3, 3, 0.0), (4, 5, 0.1), (4, 6, 0.1)]
    columns = rows_of(*pairs, *rollouts).columns
    expected = (
        Spread(num_rows=3, num_prompts=2, num_most=2, place_of_most=0, num_repeated=2, num_tasks=1, num_varied=0),
        Spread(num_rows=6, num_prompts=3, num_most=3, place_of_most=4, num_repeated=5, num_tasks=2, num_varied=1),
    )
    assert few_rows.spreads(columns) == expected
    assert many_rows.spreads(columns) == expected


def test_rewards_of_few_digits_are_told_apart():
    rewards = sorted({number / 1000 for number in range(-1000, 1001)} | {float(number) for number in range(-200, 200)})
    columns = rows_of(*((0, number, reward) for number, reward in enumerate(rewards))).columns
    assert len(set(columns["reward"])) == len(rewards)
    assert 0 not in columns["reward"]  # which says that a row is a pair


def test_few_rows_do_not_wait_for_polars(tmp_path, write_jsonl):
    path = write_jsonl(tmp_path / "a.jsonl", [pair(), pair(), pair("R")])
    other = write_jsonl(tmp_path / "b.jsonl", [pair()])
    script = (
        "import sys; from pathlib import Path; from pipeline.gate.run import check_files; "
        "from pipeline.gate.settings import GateSettings; "
        f"report = check_files([Path({str(path)!r})], GateSettings(), against=[Path({str(other)!r})]); "
        "print(len(report.findings), {'polars', 'pyarrow'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "3 set()\n", done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("case", ["twice", "one"])
def test_the_memory_of_a_row(case):
    """At most 64 bytes, all columns included; measured by the system, since Polars' memory is not Python's."""
    script = f"""
import os
from array import array
from pipeline.gate.whole import many_rows

def columns(number):
    half = array("Q", os.urandom(4 * number))
    case = {case!r}
    row = array("Q", [7]) * number if case == "one" else half + half
    small = array("I", bytes(4 * number))
    return {{"line": small, "prompt": row[:], "row": row, "reward": small[:]}}

def peak(number):
    told = columns(number)
    total = sum(1 for _ in many_rows.repeats(told))
    total += sum(1 for _ in many_rows.leaks(told, told["prompt"][: number // 10]))
    many_rows.spreads(told)
    with open("/proc/self/status") as status:  # what getrusage knows is also that of who started this process
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))

small = peak(200_000)
print((peak(2_200_000) - small) / 2_000_000)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert 20 < float(done.stdout) <= 64
