"""From pairs to token ids: groups, masks, borders, and the account of dropped pairs."""

from typing import Any

import pytest

from schemas.errors import DpoError, UsageError
from schemas.preference import Message, PreferencePair
from tests.tiny_models import byte_tokenizer
from trainer.batch import pair_batch, sequences_of
from trainer.groups import PreferenceGroup, group_pairs
from trainer.plan import PairRef
from trainer.tokenize import PairDrop, tokenize_groups

END = 256  # <|im_end|>


def pair(prompt: str, chosen: str, rejected: str, line: int = 1) -> PreferencePair:
    return PreferencePair(
        prompt=(Message(role="user", content=prompt),),
        chosen=(Message(role="assistant", content=chosen),),
        rejected=(Message(role="assistant", content=rejected),),
        source=f"pairs.jsonl:{line}",
    )


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return byte_tokenizer()


def test_a_group_names_each_response_once() -> None:
    groups = group_pairs(
        [pair("p", "a", "b", 1), pair("q", "a", "c", 2), pair("p", "a", "c", 3), pair("p", "b", "c", 4)]
    )
    assert [[r[0]["content"] for r in group.responses] for group in groups] == [["a", "b", "c"], ["a", "c"]]
    assert [(p.chosen, p.rejected, p.source) for p in groups[0].pairs] == [
        (0, 1, "pairs.jsonl:1"),
        (0, 2, "pairs.jsonl:3"),
        (1, 2, "pairs.jsonl:4"),
    ]


def test_prompts_are_equal_whatever_the_order_of_their_keys() -> None:
    turned = PreferencePair(
        prompt=({"content": "p", "role": "user"},),
        chosen=({"content": "a", "role": "assistant"},),
        rejected=({"content": "c", "role": "assistant"},),
        source="pairs.jsonl:2",
    )
    (group,) = group_pairs([pair("p", "a", "b"), turned])
    assert len(group.responses) == 3


def test_prompt_ends_with_the_assistant_header_and_the_response_with_its_end(tokenizer: Any) -> None:
    data = tokenize_groups(group_pairs([pair("Hi", "Yes", "No")]), tokenizer, max_tokens=100)
    (group,) = data.groups
    assert tokenizer.decode(group.prompt) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    # the line feed that the template writes behind the end of turn is not the policy's
    assert [tokenizer.decode(ids) for ids in group.responses] == ["Yes<|im_end|>", "No<|im_end|>"]


def test_end_of_turn_inside_a_text_does_not_cut_the_response(tokenizer: Any) -> None:
    data = tokenize_groups(group_pairs([pair("Hi", "a<|im_end|>b", "No")]), tokenizer, max_tokens=100)
    assert tokenizer.decode(data.groups[0].responses[0]) == "a<|im_end|>b<|im_end|>"


def test_over_long_pairs_are_dropped_and_counted_not_cut(tokenizer: Any) -> None:
    prompt_tokens = len(tokenizer("<|im_start|>user\np<|im_end|>\n<|im_start|>assistant\n")["input_ids"])
    groups = group_pairs([pair("p", "four", "x", 1), pair("p", "fives", "x", 2), pair("p", "x", "sixsix", 3)])
    data = tokenize_groups(groups, tokenizer, max_tokens=prompt_tokens + 4 + 1)  # room for "four" and the end of turn
    assert data.dropped == {PairDrop.TOO_LONG: 2}
    assert data.num_pairs == 1
    assert [len(ids) for ids in data.groups[0].responses] == [5, 2]  # "fives" and "sixsix" are not computed at all
    assert data.groups[0].pairs[0].source == "pairs.jsonl:1"


def test_pairs_of_one_response_are_dropped_and_counted(tokenizer: Any) -> None:
    data = tokenize_groups(group_pairs([pair("p", "same", "same"), pair("p", "a", "b")]), tokenizer, max_tokens=100)
    assert data.dropped == {PairDrop.IDENTICAL: 1}
    assert data.num_pairs == 1


def test_nothing_left_is_an_error_with_the_counts(tokenizer: Any) -> None:
    with pytest.raises(DpoError, match=r"no pair is left to train on \(1 too_long\).*max_total_sequence_length is 5"):
        tokenize_groups(group_pairs([pair("p", "a", "b")]), tokenizer, max_tokens=5)


def test_a_tokenizer_without_a_template_is_refused() -> None:
    plain = byte_tokenizer()
    plain.chat_template = None
    with pytest.raises(UsageError, match="no chat template"):
        tokenize_groups(group_pairs([pair("p", "a", "b")]), plain, max_tokens=100)


def test_a_template_that_rewrites_the_prompt_is_refused() -> None:
    rewriting = byte_tokenizer()
    rewriting.chat_template = "{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}"
    with pytest.raises(UsageError, match=r"pairs.jsonl:1: .*border is unknown"):
        tokenize_groups(group_pairs([pair("p", "a", "b")]), rewriting, max_tokens=100)


def test_a_template_that_refuses_a_role_is_named() -> None:
    strict = byte_tokenizer()
    strict.chat_template = "{{ raise_exception('no system role') }}"
    with pytest.raises(UsageError, match="refuses a conversation of user: no system role"):
        tokenize_groups(group_pairs([pair("p", "a", "b")]), strict, max_tokens=100)


def test_a_template_runs_in_the_sandbox() -> None:
    evil = byte_tokenizer()
    evil.chat_template = "{{ lipsum.__globals__['os'].getcwd() }}"
    with pytest.raises(UsageError, match="refuses"):
        tokenize_groups(group_pairs([pair("p", "a", "b")]), evil, max_tokens=100)


def test_rows_hold_prompt_and_response_and_point_at_each_response_token(tokenizer: Any) -> None:
    data = tokenize_groups(
        group_pairs([pair("p", "abc", "d", 1), pair("p", "abc", "ef", 2)]), tokenizer, max_tokens=100
    )
    batch = pair_batch([PairRef(0, 0), PairRef(0, 1)], data.groups)
    assert batch.responses == ((0, 0), (0, 1), (0, 2))  # abc is a row once
    assert (batch.chosen.tolist(), batch.rejected.tolist()) == ([0, 0], [1, 2])
    sequences = sequences_of(batch.responses, data.groups)
    prompt = data.groups[0].prompt
    num_rows, longest = sequences.input_ids.shape
    assert (num_rows, longest) == (3, len(prompt) + 4)
    assert sequences.lengths == (4, 2, 3)
    flat = sequences.input_ids.flatten()
    assert flat[sequences.predictors + 1].tolist() == sequences.targets.tolist()
    expected = [*data.groups[0].responses[0], *data.groups[0].responses[1], *data.groups[0].responses[2]]
    assert sequences.targets.tolist() == expected
    assert sequences.attention_mask.sum(1).tolist() == [len(prompt) + 4, len(prompt) + 2, len(prompt) + 3]


def test_groups_are_plain_records() -> None:
    (group,) = group_pairs([pair("p", "a", "b")])
    assert isinstance(group, PreferenceGroup)
    assert group.prompt == (Message(role="user", content="p"),)
