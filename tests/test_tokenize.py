"""From pairs to token ids: groups, masks, borders, and the account of dropped pairs."""

from array import array
from dataclasses import replace
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast

from schemas.errors import DpoError, UsageError
from schemas.preference import Message, PreferencePair, SampledTokens
from tests.tiny_models import CHAT_TEMPLATE, byte_tokenizer
from trainer.data.groups import PreferenceGroup, group_pairs
from trainer.data.tokenize import PairDrop, TokenizedGroup, TokenizedPairs, end_of_turn_ids
from trainer.data.tokenize import tokenize_groups as tokenize_with_ends

END = 256  # <|im_end|>


def tokenize_groups(groups: list[PreferenceGroup], tokenizer: Any, *, max_tokens: int) -> TokenizedPairs:
    return tokenize_with_ends(groups, tokenizer, max_tokens=max_tokens, end_ids=frozenset({END}))


def pair(prompt: str, chosen: str, rejected: str, line: int = 1) -> PreferencePair:
    return PreferencePair(
        prompt=(Message(role="user", content=prompt),),
        chosen=(Message(role="assistant", content=chosen),),
        rejected=(Message(role="assistant", content=rejected),),
        source=f"pairs.jsonl:{line}",
    )


def texts(group: TokenizedGroup, tokenizer: Any) -> list[str]:
    return [tokenizer.decode(list(response.ids)) for response in group.responses]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return byte_tokenizer()


def test_a_group_names_each_response_once() -> None:
    groups = group_pairs(
        [pair("p", "a", "b", 1), pair("q", "a", "c", 2), pair("p", "a", "c", 3), pair("p", "b", "c", 4)]
    )
    assert [[r.messages[0]["content"] for r in group.responses] for group in groups] == [["a", "b", "c"], ["a", "c"]]
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
    assert tokenizer.decode(list(group.prompt)) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    # the line feed that the template writes behind the end of turn is not the policy's
    assert texts(group, tokenizer) == ["Yes<|im_end|>", "No<|im_end|>"]


def test_end_of_turn_inside_a_text_does_not_cut_the_response(tokenizer: Any) -> None:
    data = tokenize_groups(group_pairs([pair("Hi", "a<|im_end|>b", "No")]), tokenizer, max_tokens=100)
    assert texts(data.groups[0], tokenizer)[0] == "a<|im_end|>b<|im_end|>"


def test_over_long_pairs_are_dropped_and_counted_not_cut(tokenizer: Any) -> None:
    prompt_tokens = len(tokenizer("<|im_start|>user\np<|im_end|>\n<|im_start|>assistant\n")["input_ids"])
    groups = group_pairs([pair("p", "four", "x", 1), pair("p", "fives", "x", 2), pair("p", "x", "sixsix", 3)])
    data = tokenize_groups(groups, tokenizer, max_tokens=prompt_tokens + 4 + 1)  # room for "four" and the end of turn
    assert data.dropped == {PairDrop.TOO_LONG: 2}
    assert data.num_pairs == 1
    assert [len(response.ids) for response in data.groups[0].responses] == [
        5,
        2,
    ]  # "fives" and "sixsix" are not computed at all
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


def test_pairs_are_taken_as_a_stream_and_each_text_is_kept_once() -> None:
    first = pair("p", "a", "b", 1)
    (group,) = group_pairs(each for each in [first, pair("p", "a", "c", 2)])
    assert group.responses[0].messages is first.chosen
    assert len(group.responses) == 3


def test_tools_and_sampled_prompts_tell_groups_apart() -> None:
    tool = {"type": "function", "function": {"name": "add"}}
    same = pair("p", "a", "b")
    changes: list[dict[str, Any]] = [
        {},
        {"tools": (tool,)},
        {"prompt_token_ids": array("i", [1])},
        {"prompt_token_ids": array("i", [2])},
        {"tools": (dict(reversed(tool.items())),)},  # the same tool
    ]
    groups = group_pairs([replace(same, **change) for change in changes])
    assert [len(group.pairs) for group in groups] == [1, 2, 1, 1]
    assert groups[1].tools == (tool,)


def test_sampled_tokens_tell_responses_apart() -> None:
    sampled = [SampledTokens(array("i", ids)) for ids in ([1, 2], [1, 3])]
    same = replace(pair("p", "a", "b"), prompt_token_ids=array("i", [9]))
    (group,) = group_pairs(
        [
            replace(same, chosen_sampled=sampled[0]),
            replace(same, chosen_sampled=sampled[1]),
            replace(same, chosen_sampled=SampledTokens(array("i", [1, 2]))),
            replace(same, chosen_sampled=SampledTokens(array("i", [1, 2]), array("i", [0, 1]))),
        ]
    )
    assert [each.chosen for each in group.pairs] == [0, 2, 0, 3]  # 1 is the rejected one of all


def test_responses_of_equal_tokens_become_one(tokenizer: Any) -> None:
    """Two texts may differ in what the template does not write, such as the id of a call."""
    group = group_pairs([pair("p", "a", "c", 1), pair("p", "b", "c", 2), pair("p", "a", "b", 3)])
    trimming = byte_tokenizer()
    trimming.chat_template = CHAT_TEMPLATE.replace("message.content", "(message.content | trim)")
    spaced = group_pairs([pair("p", "a", "c", 1), pair("p", "a ", "c", 2), pair("p", "a", " a", 3)])
    data = tokenize_groups(spaced, trimming, max_tokens=100)
    assert texts(data.groups[0], trimming) == ["a<|im_end|>", "c<|im_end|>"]
    assert [(p.chosen, p.rejected, p.source) for p in data.groups[0].pairs] == [
        (0, 1, "pairs.jsonl:1"),
        (0, 1, "pairs.jsonl:2"),
    ]
    assert data.dropped == {PairDrop.IDENTICAL: 1}
    assert len(tokenize_groups(group, trimming, max_tokens=100).groups[0].responses) == 3


def test_groups_are_plain_records() -> None:
    (group,) = group_pairs([pair("p", "a", "b")])
    assert isinstance(group, PreferenceGroup)
    assert group.prompt == (Message(role="user", content="p"),)


def test_a_truncated_response_has_no_end_of_turn(tokenizer: Any) -> None:
    cut = replace(pair("p", "whole", "cut of"), rejected_truncated=True)
    data = tokenize_groups(group_pairs([cut, pair("p", "whole", "cut of", 2)]), tokenizer, max_tokens=100)
    # cut and whole are two responses, though their text is one
    assert texts(data.groups[0], tokenizer) == [
        "whole<|im_end|>",
        "cut of",
        "cut of<|im_end|>",
    ]


def test_a_response_of_no_tokens_is_dropped_and_counted() -> None:
    trimming = byte_tokenizer()
    trimming.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    data = tokenize_groups(group_pairs([pair("p", " ", "a"), pair("p", "a", "b", 2)]), trimming, max_tokens=100)
    assert data.dropped == {PairDrop.EMPTY: 1}
    assert data.num_pairs == 1


def test_what_stands_behind_any_end_of_turn_is_cut(tokenizer: Any) -> None:
    """Gemma's template ends a turn with a token that is not the tokenizer's end of sequence."""
    start = tokenizer.convert_tokens_to_ids("<|im_start|>")
    assert end_of_turn_ids(tokenizer, GenerationConfig(eos_token_id=[END, start])) == {END, start}
    assert end_of_turn_ids(tokenizer, GenerationConfig(eos_token_id=7)) == {END, 7}
    assert end_of_turn_ids(tokenizer, None) == {END}
    other = byte_tokenizer()
    other.chat_template = CHAT_TEMPLATE.replace("'<|im_end|>\n'", "'<|im_start|>\n'")
    data = tokenize_with_ends(
        group_pairs([pair("p", "a", "b")]), other, max_tokens=100, end_ids=frozenset({END, start})
    )
    assert texts(data.groups[0], other) == ["a<|im_start|>", "b<|im_start|>"]


def test_a_response_gets_no_space_that_was_never_sampled() -> None:
    """Tokenizers of SentencePiece's kind put a space before each text, but a response stands behind its prompt."""
    vocabulary = {piece: number for number, piece in enumerate(["<unk>", "<end>", "▁", "4", "2", "Q", ":", "A"])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    metaspace = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", unk_token="<unk>")
    metaspace.chat_template = (
        "{% for m in messages %}{{ 'Q:' if m.role == 'user' else 'A:' }}{{ m.content + '<end>' }}{% endfor %}"
        "{% if add_generation_prompt %}A:{% endif %}"
    )
    data = tokenize_with_ends(group_pairs([pair("2", "4", "2")]), metaspace, max_tokens=100, end_ids=frozenset({1}))
    assert [metaspace.convert_ids_to_tokens(list(response.ids)) for response in data.groups[0].responses] == [
        ["4", "<end>"],
        ["2", "<end>"],
    ]


def test_a_token_across_the_border_is_not_made() -> None:
    """The policy sampled behind the prompt's own tokens, so "b" + "c" may not become the token "bc"."""
    merging = Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "c": 2, "bc": 3, "d": 4}, merges=[("b", "c")]))
    fast = PreTrainedTokenizerFast(tokenizer_object=merging)
    fast.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    data = tokenize_with_ends(group_pairs([pair("ab", "cd", "dc")]), fast, max_tokens=100, end_ids=frozenset())
    assert list(data.groups[0].prompt) == [0, 1]
    assert [list(response.ids) for response in data.groups[0].responses] == [[2, 4], [4, 2]]
    assert [list(response.loss_mask) for response in data.groups[0].responses] == [[1, 1], [1, 1]]


def test_a_prompt_of_no_token_is_refused() -> None:
    """Its responses' first tokens would be predicted by whatever stands before them in the row."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content }}{% endif %}{% endfor %}"
    )
    row = PreferencePair(
        prompt=({"role": "user", "content": "Q"},),
        chosen=({"role": "assistant", "content": "yes"},),
        rejected=({"role": "assistant", "content": "no"},),
        source="pairs.jsonl:1",
    )
    with pytest.raises(UsageError, match=r"pairs\.jsonl:1: the chat template renders the prompt to nothing"):
        tokenize_with_ends(group_pairs([row]), tokenizer, max_tokens=100, end_ids=frozenset({256}))
