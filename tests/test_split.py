"""Parts by prompt: none in two of them, near-identical ones together, and each where it was when more data comes."""

import json

import pytest

from pipeline.collect import collect_pairs
from pipeline.intake import Machinery
from pipeline.settings import Settings

ALONE = Machinery(num_workers=1)


@pytest.fixture
def collected(tmp_path, rollout, write_jsonl):
    """Collect a right and a wrong answer to each prompt; give the prompts of each part, as they are in its file."""

    def collect(prompts, **settings):
        rows = [rollout(prompt, answer, reward) for prompt in prompts for answer, reward in (("A", 1), ("B", 0))]
        source = write_jsonl(tmp_path / "rollouts.jsonl", rows)
        collection = collect_pairs([source], tmp_path / "dpo_train.jsonl", Settings(**settings), ALONE)
        parts = {}
        for out in collection.outputs:
            lines = out.path.read_bytes().splitlines()
            assert len(lines) == out.num_pairs
            name = out.path.name.removeprefix("dpo_").removesuffix(".jsonl")
            parts[name] = [json.loads(line)["prompt"] for line in lines]
        assert sum(map(len, parts.values())) == collection.attrition.pairs
        return parts

    return collect


PROMPTS = [f"What is {number} x {number}?" for number in range(200)]


def test_without_fractions_there_is_one_file(collected):
    assert list(collected(PROMPTS[:3])) == ["train"]


def test_parts_are_of_about_the_size_that_is_asked_for(collected):
    parts = collected(PROMPTS, validation_fraction=0.25, test_fraction=0.25)
    assert list(parts) == ["train", "val", "test"]
    assert sorted(prompt for part in parts.values() for prompt in part) == sorted(PROMPTS)
    # 200 draws of 1/4: a deviation of 6.1, so five of them
    assert 20 <= len(parts["val"]) <= 80
    assert 20 <= len(parts["test"]) <= 80


@pytest.mark.parametrize(
    ("fractions", "names"),
    [({"validation_fraction": 0.3}, ["train", "val"]), ({"test_fraction": 0.3}, ["train", "test"])],
)
def test_only_what_is_asked_for_is_written(collected, fractions, names):
    assert list(collected(PROMPTS[:20], **fractions)) == names


def test_no_prompt_is_in_two_parts_however_many_pairs_it_has(tmp_path, rollout, write_jsonl):
    # two files and two agents: each prompt is in four groups
    for name in ("one", "two"):
        rows = [
            rollout(prompt, answer + name, reward, agent_ref={"name": agent})
            for prompt in PROMPTS[:40]
            for agent in ("x", "y")
            for answer, reward in (("A", 1), ("B", 0.5), ("C", 0))
        ]
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    settings = Settings(validation_fraction=0.4, test_fraction=0.2)
    sources = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    collection = collect_pairs(sources, tmp_path / "dpo_train.jsonl", settings, ALONE)
    parts = [{json.loads(line)["prompt"] for line in out.path.read_bytes().splitlines()} for out in collection.outputs]
    assert [out.num_pairs for out in collection.outputs] == [12 * len(part) for part in parts]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 40


def test_near_identical_prompts_stay_together(collected):
    spellings = ["{}", "{}.", "  {} ", "**{}**", "\u201c{}\u201d"]  # case, punctuation, white space
    words = [f"Sort the list {chr(97 + number)}{number} please" for number in range(12)]
    prompts = [spelling.format(text) for text in words for spelling in spellings]
    prompts += [text.upper() for text in words] + [text.replace(" ", "\n") for text in words]
    parts = collected(prompts, validation_fraction=0.5)

    def folded(names):
        return {" ".join("".join(c if c.isalnum() else " " for c in name).split()).casefold() for name in names}

    assert folded(parts["train"]) | folded(parts["val"]) == folded(words)
    assert not folded(parts["train"]) & folded(parts["val"])


def test_prompts_of_signs_alone_are_not_near_identical(collected):
    """Folding away punctuation leaves nothing of them, and then all would be one."""
    signs = ["+ + ?", "- - ?", "* * ?", "/ / ?", "( ( ?", ") ) ?", "= = ?", "< < ?"]
    parts = collected(signs, validation_fraction=0.5)
    assert len(parts["train"]) > 0
    assert len(parts["val"]) > 0


def test_unicode_forms_of_a_prompt_stay_together(collected):
    prompts = ["caf\u00e9 one", "cafe\u0301 one", "\uff43af\u00e9 one", "CAF\u00c9 ONE", "other"]
    parts = collected(prompts, validation_fraction=0.5)
    assert sorted(map(len, parts.values())) == [1, 4]


@pytest.mark.parametrize("seed", range(8))
def test_a_part_that_is_asked_for_is_not_empty(collected, seed):
    parts = collected(PROMPTS[:3], validation_fraction=0.01, test_fraction=0.01, seed=seed)
    assert list(map(len, parts.values())) == [1, 1, 1]
    parts = collected(PROMPTS[:3], validation_fraction=0.98, seed=seed)
    assert min(map(len, parts.values())) == 1


def test_one_prompt_goes_to_training(collected):
    parts = collected(PROMPTS[:1], validation_fraction=0.5, test_fraction=0.4)
    assert parts["train"] == PROMPTS[:1]
    assert not parts.get("val")
    assert not parts.get("test")


def test_a_prompt_stays_in_its_part_when_more_data_comes(collected):
    before = collected(PROMPTS[:100], validation_fraction=0.3, test_fraction=0.2)
    after = collected(PROMPTS[50:], validation_fraction=0.3, test_fraction=0.2)
    both = set(PROMPTS[50:100])
    for part in ("train", "val", "test"):
        assert set(before[part]) & both == set(after[part]) & both


def test_another_seed_is_another_split(collected):
    split = collected(PROMPTS, validation_fraction=0.5, seed=1)
    assert split == collected(PROMPTS, validation_fraction=0.5, seed=1)
    assert split["val"] != collected(PROMPTS, validation_fraction=0.5, seed=2)["val"]
