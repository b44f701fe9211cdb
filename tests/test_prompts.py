"""Texts put before and around the prompts of a set."""

from array import array
from collections import Counter

import pytest

from schemas.errors import InputError, UsageError
from schemas.preference import PreferencePair, SampledTokens
from trainer.config.data import DatasetSection, TrainDatasetSection
from trainer.config.preflight import preflight
from trainer.config.settings import resolve
from trainer.data.prompts import Kept, PromptTexts, read_prompt_texts, with_texts
from trainer.run.start import load_groups

ANSWERS = (({"role": "assistant", "content": "A"},), ({"role": "assistant", "content": "B"},))


def pair(*messages, **changes):
    prompt = tuple({"role": role, "content": content} for role, content in messages)
    return PreferencePair(prompt, *ANSWERS, source="pairs.jsonl:1", **changes)


def prompt_of(one, **texts):
    kept = Counter()
    found = with_texts(one, PromptTexts(**texts), kept)
    return [(message["role"], message["content"]) for message in found.prompt], kept


def test_a_system_message_is_put_before_a_prompt_that_has_none():
    assert prompt_of(pair(("user", "Q")), system="S\n") == ([("system", "S\n"), ("user", "Q")], {})
    for role in ("system", "developer"):
        own = [(role, "own"), ("user", "Q")]
        assert prompt_of(pair(*own), system="S") == (own, {Kept.OWN_SYSTEM: 1})


def test_the_first_question_is_put_into_the_frame():
    turns = [("system", "own"), ("user", "Q"), ("assistant", "A"), ("user", "more?")]
    assert prompt_of(pair(*turns), frame="Solve {}!") == ([turns[0], ("user", "Solve Q!"), *turns[2:]], {})
    both = prompt_of(pair(("user", "Q")), frame="Solve {}!", system="S")[0]
    assert both == [("system", "S"), ("user", "Solve Q!")]
    assert prompt_of(pair(("system", "x")), frame="{}") == ([("system", "x")], {Kept.NO_QUESTION: 1})


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        ("In \\boxed{{}}: {}", "In \\boxed{}: {q} {}"),  # as NeMo RL's files are written
        ('As {"a": {"b": 1}}: {}', 'As {"a": {"b": 1}}: {q} {}'),
        ("{name} {}", "{name} {q} {}"),
        ("{0} {}", "{0} {q} {}"),
        ("a } {} {", "a } {q} {} {"),
        ("{{x}} {}", "{x} {q} {}"),
    ],
)
def test_other_braces_do_not_break_a_frame(frame, text, tmp_path):
    (tmp_path / "frame.txt").write_text(frame)
    section = DatasetSection(data_path="pairs.jsonl", prompt_file=tmp_path / "frame.txt")
    assert read_prompt_texts(section) == PromptTexts(frame=frame)
    assert prompt_of(pair(("user", "{q} {}")), frame=frame)[0] == [("user", text)]  # nor do those of a question


@pytest.mark.parametrize(
    ("frame", "times"),
    [("Solve it", "0 times"), ("{} and {}", "2 times"), ("{{}}", "0 times"), ("{x} {} {}", "2 times")],
)
def test_a_frame_without_one_place_is_refused_before_anything_loads(tmp_path, frame, times):
    (tmp_path / "frame.txt").write_text(frame)
    section = DatasetSection(data_path=tmp_path / "frame.txt", prompt_file=tmp_path / "frame.txt")
    with pytest.raises(UsageError, match=rf"prompt_file=.*frame.txt: has {{}} {times}, expected once"):
        read_prompt_texts(section)


@pytest.mark.parametrize("option", ["system_prompt_file", "prompt_file"])
def test_a_file_that_can_not_be_read_is_told(tmp_path, option):
    section = DatasetSection(data_path="pairs.jsonl", **{option: tmp_path / "absent.txt"})
    with pytest.raises(UsageError, match=rf"{option}=.*absent.txt: can't be read: No such file"):
        read_prompt_texts(section)
    (tmp_path / "absent.txt").write_bytes(b"\xff{}")
    with pytest.raises(UsageError, match="is no UTF-8 text"):
        read_prompt_texts(section)


def test_all_missing_files_of_a_set_are_told_at_once_before_anything_loads(tmp_path):
    config = resolve(
        [
            f"data.train.data_path={tmp_path / 'pairs.jsonl'}",
            f"data.train.system_prompt_file={tmp_path / 'system.txt'}",
            f"data.train.prompt_file={tmp_path / 'frame.txt'}",
            "policy.model_name=data/samples/policy",
        ]
    )
    with pytest.raises(InputError) as caught:
        preflight(config)
    assert [line.rpartition("/")[2].partition(":")[0] for line in str(caught.value).splitlines()[1:]] == [
        "pairs.jsonl",
        "system.txt",
        "frame.txt",
    ]


def test_a_mark_of_the_byte_order_is_no_text_and_an_empty_file_no_system_prompt(tmp_path):
    (tmp_path / "system.txt").write_bytes(b"\xef\xbb\xbfBe brief.")
    section = DatasetSection(data_path="pairs.jsonl", system_prompt_file=tmp_path / "system.txt")
    assert read_prompt_texts(section) == PromptTexts(system="Be brief.")
    (tmp_path / "system.txt").write_text("")
    with pytest.raises(UsageError, match=r"system_prompt_file=.*system.txt: is empty"):
        read_prompt_texts(section)


def test_sampled_tokens_of_another_prompt_are_not_used():
    sampled = SampledTokens(array("i", [1]))
    one = pair(("user", "Q"), prompt_token_ids=array("i", [7]), chosen_sampled=sampled, rejected_sampled=sampled)
    kept = Counter()
    changed = with_texts(one, PromptTexts(system="S"), kept)
    assert (changed.prompt_token_ids, changed.chosen_sampled, changed.rejected_sampled) == (None, None, None)
    assert kept == {Kept.TOKEN_IDS: 1}
    own = pair(("system", "own"), prompt_token_ids=array("i", [7]))
    assert with_texts(own, PromptTexts(system="S"), kept) is own


def test_the_files_reach_the_groups_and_what_stayed_is_told(tmp_path, write_jsonl):
    (tmp_path / "system.txt").write_text("Be brief.")
    (tmp_path / "frame.txt").write_text("Q: {}")
    own = [{"role": "system", "content": "own"}, {"role": "user", "content": "2"}]
    rows = [{"prompt": prompt, "chosen": "A", "rejected": "B"} for prompt in ("1", own)]
    section = TrainDatasetSection(
        data_path=write_jsonl(tmp_path / "pairs.jsonl", rows),
        system_prompt_file=tmp_path / "system.txt",
        prompt_file=tmp_path / "frame.txt",
    )
    loaded = load_groups([section], shown=False)
    assert [[message["content"] for message in group.prompt] for group in loaded.groups] == [
        ["Be brief.", "Q: 1"],
        ["own", "Q: 2"],
    ]
    assert loaded.notes == (f"1 pair {Kept.OWN_SYSTEM}",)
