"""What a loss may count: the policy's turns and nothing else, under templates of several kinds."""

from array import array
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from schemas.errors import DpoError, UsageError
from schemas.preference import SampledTokens
from tests.conversations import (
    LLAMA3,
    QWEN3,
    THOUGHT,
    TOOL,
    TOOLS,
    asked,
    called,
    pair,
    result,
    said,
    tokenized,
    trained,
    with_template,
)
from tests.tiny_models import CHAT_TEMPLATE, byte_tokenizer
from trainer.data import tokenize
from trainer.data.tokenize import PairDrop


def chosen_of(tokenizer, chosen, *, prompt="Q", tools=(), truncated=False, **options):
    """Tokenise one pair and give what stands behind its prompt on the chosen side, and what of it is trained on."""
    one = pair(chosen, prompt=prompt, tools=tools, chosen_truncated=truncated)
    (group,) = tokenized(tokenizer, one, **options).groups
    response = group.responses[group.pairs[0].chosen]
    return tokenizer.decode(list(response.ids)), trained(response, tokenizer)


class Slow:
    """A tokenizer that can't tell where in the text its tokens lie."""

    is_fast = False

    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def __call__(self, texts, **options):
        assert not options.get("return_offsets_mapping")
        return self.inner(texts, **options)


def test_a_single_turn_is_trained_on_whole():
    assert chosen_of(byte_tokenizer(), "Yes") == ("Yes<|im_end|>", ["Yes<|im_end|>"])


TRAJECTORY = [called("Let me see.", "add"), result("3"), result("4"), called("", "sub"), result("1"), said("It is 1.")]


@pytest.mark.parametrize("wrapped", [lambda tokenizer: tokenizer, Slow], ids=["fast", "slow"])
def test_of_a_trajectory_the_policys_turns_are_trained_on(wrapped):
    text, runs = chosen_of(wrapped(with_template(TOOLS)), TRAJECTORY, tools=(TOOL,))
    assert text == (
        'Let me see.[call]{"name": "add"}<|im_end|>\n'
        "<|im_start|>user\n[result]3\n[result]4<|im_end|>\n"
        '<|im_start|>assistant\n[call]{"name": "sub"}<|im_end|>\n'
        "<|im_start|>user\n[result]1<|im_end|>\n"
        "<|im_start|>assistant\nIt is 1.<|im_end|>"  # without the line feed behind the end of turn
    )
    assert runs == [
        'Let me see.[call]{"name": "add"}<|im_end|>',
        '[call]{"name": "sub"}<|im_end|>',
        "It is 1.<|im_end|>",
    ]


def test_tools_on_offer_are_rendered_into_the_prompt():
    tokenizer = with_template(TOOLS)
    (group,) = tokenized(tokenizer, pair("a", tools=(TOOL,))).groups
    system = '<|im_start|>system\n[{"type": "function", "function": {"name": "add"}}]<|im_end|>\n'
    assert tokenizer.decode(list(group.prompt)) == f"{system}<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n"


def test_a_turn_of_weight_0_and_other_peoples_turns_are_not_trained_on():
    messages = [said("a"), asked("more?"), said("forced", weight=0), asked("and?"), said("b")]
    text, runs = chosen_of(byte_tokenizer(), messages)
    assert "forced" in text
    assert runs == ["a<|im_end|>", "b<|im_end|>"]


def test_what_follows_the_last_trained_token_is_left_out():
    text, runs = chosen_of(with_template(TOOLS), [called("a", "add"), result("3")])
    assert (text, runs) == ('a[call]{"name": "add"}<|im_end|>', ['a[call]{"name": "add"}<|im_end|>'])


def test_a_response_may_begin_with_what_the_policy_did_not_write():
    """The result of a call that the prompt made; the header of the first turn is then a part of the response."""
    tokenizer = with_template(TOOLS)
    prompt = [asked("Q"), called("", "add")]
    late = pair([result("3"), said("It is 3.")], "no", prompt=prompt)
    (group,) = tokenized(tokenizer, late).groups
    assert tokenizer.decode(list(group.prompt)).endswith('[call]{"name": "add"}<|im_end|>\n')
    texts = [tokenizer.decode(list(response.ids)) for response in group.responses]
    assert texts == [
        "<|im_start|>user\n[result]3<|im_end|>\n<|im_start|>assistant\nIt is 3.<|im_end|>",
        "<|im_start|>assistant\nno<|im_end|>",
    ]
    assert [trained(each, tokenizer) for each in group.responses] == [["It is 3.<|im_end|>"], ["no<|im_end|>"]]


def test_a_mark_in_a_call_does_not_end_the_turn():
    turn = '[call]{"name": "a<|im_end|>b"}<|im_end|>'
    assert chosen_of(with_template(TOOLS), [called("", "a<|im_end|>b")])[1] == [turn]


def test_only_the_last_turn_of_a_truncated_response_has_no_end():
    messages = [said("a"), asked("more?"), said("cut of")]
    assert chosen_of(byte_tokenizer(), messages, truncated=True)[1] == ["a<|im_end|>", "cut of"]
    ended = [said("a"), asked("more?")]  # the limit came when the policy had ended its turn
    assert chosen_of(byte_tokenizer(), ended, truncated=True)[1] == ["a<|im_end|>"]


def test_a_response_in_which_the_policy_wrote_nothing_is_empty():
    forced = pair([said("forced", weight=0)], line=1)
    data = tokenized(byte_tokenizer(), forced, pair("a", line=2))
    assert (data.dropped, data.num_pairs) == ({PairDrop.EMPTY: 1}, 1)


def test_thoughts_stay_where_the_template_keeps_them():
    text, runs = chosen_of(with_template(QWEN3), [said(THOUGHT + "calls"), result("3"), said(THOUGHT + "is 3")])
    assert runs == [THOUGHT + "calls<|im_end|>", THOUGHT + "is 3<|im_end|>"]
    assert text.count("hm") == 2


@pytest.mark.parametrize(
    "messages",
    [
        [said(THOUGHT + "a"), asked("more?"), said(THOUGHT + "b")],  # the first thought is gone once a question follows
        [said("a"), result("3"), said(THOUGHT + "b")],  # an empty thought is put before a, but only while it is last
    ],
)
def test_pairs_whose_history_the_template_rewrites_are_dropped_and_counted(messages):
    data = tokenized(with_template(QWEN3), pair(messages, line=1), pair("no", messages, line=2), pair("a", line=3))
    assert data.dropped == {PairDrop.TEMPLATE_REWRITES_HISTORY: 2}
    assert data.groups[0].pairs[0].source == "pairs.jsonl:3"


def test_a_prompt_that_is_rewritten_later_is_dropped_and_counted():
    """The call's thought is in the prompt's rendering, and gone from the whole with the question that follows."""
    prompt = [asked("Q"), said(THOUGHT + "calls")]
    data = tokenized(with_template(QWEN3), pair([asked("stop"), said("ok")], prompt=prompt), pair("a", line=2))
    assert data.dropped == {PairDrop.TEMPLATE_REWRITES_HISTORY: 1}


def test_a_cut_thought_is_not_trained_on_behind_an_empty_one():
    cut = pair("<think>\nhm", chosen_truncated=True)
    data = tokenized(with_template(QWEN3), cut, pair("a", line=2))
    assert data.dropped == {PairDrop.TEMPLATE_REWRITES_RESPONSE: 1}
    assert chosen_of(byte_tokenizer(), "<think>\nhm", truncated=True)[1] == ["<think>\nhm"]


def test_a_template_that_leaves_out_what_the_policy_wrote_is_counted():
    dropping = with_template(CHAT_TEMPLATE.replace("message.content", "message.content.split('</think>')[-1]"))
    data = tokenized(dropping, pair(THOUGHT + "a", line=1), pair("a", line=2))
    assert data.dropped == {PairDrop.TEMPLATE_REWRITES_RESPONSE: 1}


def test_a_header_may_open_the_thought():
    """A model that always thinks has the tag in its generation prompt; the policy writes what follows."""
    opening = with_template(CHAT_TEMPLATE.replace("assistant\n' }}{% endif", "assistant\n<think>\n' }}{% endif"))
    (group,) = tokenized(opening, pair(THOUGHT + "a", "<think>\nno\n</think>\n\nb")).groups
    assert opening.decode(list(group.prompt)).endswith("<|im_start|>assistant\n<think>\n")
    assert trained(group.responses[0], opening) == ["hm\n</think>\n\na<|im_end|>"]
    unthought = pair([said(THOUGHT + "a"), asked("more?"), said("b")], THOUGHT + "c")  # no model said b there
    data = tokenized(opening, unthought, pair(THOUGHT + "a", THOUGHT + "c", line=2))
    assert data.dropped == {PairDrop.TEMPLATE_REWRITES_HISTORY: 1}


def test_nothing_left_names_the_templates_fault():
    messages = [said(THOUGHT + "a"), asked("more?"), said("b")]
    with pytest.raises(DpoError, match=r"no pair is left to train on \(1 template_rewrites_history\)"):
        tokenized(with_template(QWEN3), pair(messages))


def test_a_template_that_writes_bos_gives_one_and_no_more():
    tokenizer = with_template(LLAMA3, "<|header|>", "<|/header|>", bos_token="<|bos|>", eos_token="<|eot|>")
    (group,) = tokenized(tokenizer, pair([said("a "), asked("more?"), said("b")])).groups
    prompt = tokenizer.decode(list(group.prompt))
    assert prompt == "<|bos|><|header|>user<|/header|>\n\nQ<|eot|><|header|>assistant<|/header|>\n\n"
    assert list(group.prompt).count(tokenizer.bos_token_id) == 1
    assert not any(tokenizer.bos_token_id in response.ids for response in group.responses)
    assert trained(group.responses[0], tokenizer) == ["a<|eot|>", "b<|eot|>"]  # the space was trimmed by the template


@pytest.mark.parametrize("second", ["<|endoftext|>", "<|im_end|>"])
def test_of_two_marks_behind_a_text_the_policy_wrote_the_first(second):
    """Phi-3's template ends the whole conversation with a second one; and a text may hold one itself."""
    tokenizer = with_template(CHAT_TEMPLATE.replace("{% endif %}", f"{{% else %}}{second}{{% endif %}}"))
    ends = frozenset(tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"]))
    assert chosen_of(tokenizer, "a", end_ids=ends)[1] == ["a<|im_end|>"]
    assert chosen_of(tokenizer, "a<|im_end|>b", end_ids=ends)[1] == ["a<|im_end|>b<|im_end|>"]
    assert chosen_of(tokenizer, "a", end_ids=ends, truncated=True)[1] == ["a"]


def test_a_template_without_an_end_of_turn_trains_to_its_end():
    tokenizer = with_template(CHAT_TEMPLATE.replace("<|im_end|>", ""))
    assert chosen_of(tokenizer, "a")[1] == ["a\n"]


def test_nemo_rls_mask_has_the_header_and_what_follows_the_end():
    tokenizer = byte_tokenizer()
    data = tokenized(tokenizer, pair("Yes", rejected_truncated=True), loss_mask="nemo_rl")
    (group,) = data.groups
    assert tokenizer.decode(list(group.prompt)) == "<|im_start|>user\nQ<|im_end|>\n"
    assert [trained(response, tokenizer) for response in group.responses] == [
        ["<|im_start|>assistant\nYes<|im_end|>\n"],
        ["<|im_start|>assistant\nno<|im_end|>\n"],  # truncated or not
    ]


def test_nemo_rls_mask_has_the_final_message_only():
    text, runs = chosen_of(with_template(TOOLS), TRAJECTORY, loss_mask="nemo_rl")
    assert text.startswith("<|im_start|>assistant\nLet me see.")
    assert runs == ["<|im_start|>assistant\nIt is 1.<|im_end|>\n"]


def test_nemo_rls_mask_drops_a_rewritten_history():
    messages = [said(THOUGHT + "a"), asked("more?"), said("b")]
    data = tokenized(with_template(QWEN3), pair(messages), pair("a", line=2), loss_mask="nemo_rl")
    assert data.dropped == {}  # before the last message the thought is gone already
    after_result = [said("a"), result("3")]
    data = tokenized(with_template(QWEN3), pair(after_result), pair("a", line=2), loss_mask="nemo_rl")
    assert data.dropped == {PairDrop.TEMPLATE_REWRITES_HISTORY: 1}


def test_nemo_rls_mask_takes_no_sampled_tokens():
    tokenizer = byte_tokenizer()
    assert tokenized(tokenizer, sampled_pair(tokenizer), loss_mask="nemo_rl") == tokenized(
        tokenizer, pair("ab"), loss_mask="nemo_rl"
    )


def sampled_pair(tokenizer, *, pieces=("a", "b<|im_end|>"), chosen_mask=None, line=1, **changes):
    """A pair with sampled tokens: of each piece of the chosen text those that it has alone."""
    ids = [number for piece in pieces for number in tokenizer(piece)["input_ids"]]
    fields = {
        "prompt_token_ids": array("i", [1, 2, 3]),
        "chosen_sampled": SampledTokens(array("i", ids), chosen_mask and array("i", chosen_mask)),
        "rejected_sampled": SampledTokens(array("i", tokenizer("no<|im_end|>")["input_ids"])),
    }
    return replace(pair("ab", line=line), **(fields | changes))


def test_sampled_tokens_are_used_as_they_are():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None  # none is needed
    (group,) = tokenized(tokenizer, sampled_pair(tokenizer)).groups
    assert list(group.prompt) == [1, 2, 3]
    assert list(group.responses[0].ids) == tokenizer("ab<|im_end|>")["input_ids"]
    assert [list(response.loss_mask) for response in group.responses] == [[1, 1, 1], [1, 1, 1]]


def test_the_mask_of_sampled_tokens_counts():
    tokenizer = byte_tokenizer()
    one = sampled_pair(tokenizer, pieces=("xx", "ab<|im_end|>", "\n"), chosen_mask=[1, 0, 1, 1, 1, 0])
    (group,) = tokenized(tokenizer, one).groups
    assert list(group.responses[0].loss_mask) == [1, 0, 1, 1, 1]  # what follows the last trained one is left out
    assert trained(group.responses[0], tokenizer) == ["x", "ab<|im_end|>"]


def test_sampled_tokens_may_be_ignored():
    tokenizer = byte_tokenizer()
    assert tokenized(tokenizer, sampled_pair(tokenizer), use_token_ids=False) == tokenized(tokenizer, pair("ab"))


def test_a_group_in_which_one_response_was_not_sampled_is_tokenised_whole():
    tokenizer = byte_tokenizer()
    pairs = [sampled_pair(tokenizer), sampled_pair(tokenizer, rejected_sampled=None, line=2)]
    (group,) = tokenized(tokenizer, *pairs).groups
    assert tokenizer.decode(list(group.prompt)) == "<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\n"
    assert len(group.responses) == 2  # the rejected one with and without tokens is one response
    assert [each.source for each in group.pairs] == ["pairs.jsonl:1", "pairs.jsonl:2"]


def test_groups_with_and_without_sampled_tokens_keep_their_order():
    tokenizer = byte_tokenizer()
    pairs = [pair("x", prompt="1"), sampled_pair(tokenizer, line=2), pair("y", prompt="3", line=3)]
    groups = tokenized(tokenizer, *pairs).groups
    assert [group.pairs[0].source for group in groups] == ["pairs.jsonl:1", "pairs.jsonl:2", "pairs.jsonl:3"]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"prompt_token_ids": array("i", [5000])}, "has the token id 5000, but the tokenizer has 259 tokens"),
        ({"chosen_sampled": SampledTokens(array("i", [259]))}, "has the token id 259"),
        ({"chosen": (said("other"),)}, "decode to 'ab<|im_end|>', which does not hold its text 'other'"),
    ],
)
def test_sampled_tokens_of_another_tokenizer_are_refused_with_the_remedy(changes, problem):
    tokenizer = byte_tokenizer()
    with pytest.raises(UsageError) as raised:
        tokenized(tokenizer, sampled_pair(tokenizer, line=7, **changes))
    message = str(raised.value)
    assert message.startswith("pairs.jsonl:7: ")
    assert problem in message
    assert "data.token_ids=ignore" in message


@pytest.mark.parametrize(
    ("text", "sampled"),
    [
        ("ab", "ab"),  # cut by a limit
        ("  a b\n", "a b<|im_end|>"),  # white space is trimmed in places
        ("<think>\nhm\n</think>\n\nab", "hm\n</think>\n\nab<|im_end|>"),  # the prompt opens the thought
        ("ab", "a<|im_start|>b<|im_end|>"),  # a special token that the engine left out of the text
        ("", "<|im_end|>"),
        ("naï", "naï<|im_end|>"),
    ],
)
def test_a_text_may_differ_from_what_was_sampled_in_what_engines_change(text, sampled):
    tokenizer = byte_tokenizer()
    one = replace(sampled_pair(tokenizer, pieces=(sampled,)), chosen=(said(text),))
    (group,) = tokenized(tokenizer, one).groups
    assert tokenizer.decode(list(group.responses[0].ids)) == sampled


def merging_tokenizer():
    """A byte tokenizer with merges over spaces, line feeds and letters, whose offsets leave leading spaces out."""
    vocabulary = {char: number for number, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = [("Ġ", "a"), ("Ċ", "a"), ("a", "b"), ("Ġ", "Ġ"), ("Ċ", "Ċ"), ("t", "a"), ("Ġ", "ab")]
    for left, right in merges:
        vocabulary.setdefault(left + right, len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", additional_special_tokens=["<|im_start|>"]
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


@pytest.mark.parametrize("header", ["assistant: ", "assistant\n", "assistant"])
@pytest.mark.parametrize("wrapped", [lambda tokenizer: tokenizer, Slow], ids=["fast", "slow"])
def test_no_token_reaches_over_a_border(header, wrapped):
    """The policy sampled "ab" behind "assistant: ", so the space, which would make " ab" of it, is not its own."""
    tokenizer = merging_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + ('HEADER' if m.role == 'assistant' else 'user\n') + m.content }}"
        "{{ '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}<|im_start|>HEADER{% endif %}"
    ).replace("HEADER", header)
    for first in ("ab", "b"):  # with "b", only the border before the second turn is reached over
        text, runs = chosen_of(wrapped(tokenizer), [said(first), asked("more?"), said("ab")])
        assert runs == [f"{first}<|im_end|>", "ab<|im_end|>"]
        assert text == f"{first}<|im_end|><|im_start|>user\nmore?<|im_end|><|im_start|>{header}ab<|im_end|>"


TEXTS = st.text(st.sampled_from("ab \n\tß🙂<>") | st.characters(exclude_categories=["Cs"]), max_size=12)
TURNS = st.builds(said, TEXTS) | st.builds(asked, TEXTS) | st.builds(result, TEXTS)
TOKENIZERS = {"bytes": byte_tokenizer(), "merges": merging_tokenizer(), "slow": Slow(merging_tokenizer())}


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=100, deadline=None)
@given(prompt=TEXTS, between=st.lists(TURNS, max_size=4), last=TEXTS, truncated=st.booleans())
def test_what_is_trained_on_is_exactly_the_policys_texts_and_marks(name, prompt, between, last, truncated):
    tokenizer = TOKENIZERS[name]
    messages = [said("first"), *between, said(last + "!")]
    one = pair(messages, "another", prompt=prompt, chosen_truncated=truncated)
    (group,) = tokenized(tokenizer, one).groups
    response = group.responses[0]
    expected = [message["content"] + "<|im_end|>" for message in messages if message["role"] == "assistant"]
    if truncated:
        expected[-1] = expected[-1].removesuffix("<|im_end|>")
    assert trained(response, tokenizer) == expected
    assert len(response.ids) == len(response.loss_mask)
    whole = tokenizer.apply_chat_template([asked(prompt), *messages], tokenize=False)
    behind = tokenizer.decode([*group.prompt, *response.ids])
    assert whole == behind + ("<|im_end|>\n" if truncated else "\n")


def test_many_groups_in_one_call_are_each_their_own(monkeypatch):
    tokenizer = with_template(TOOLS)
    pairs = [pair(TRAJECTORY if line % 3 else f"a{line}", prompt=f"Q{line % 4}", line=line) for line in range(20)]
    together = tokenized(tokenizer, *pairs)
    monkeypatch.setattr(tokenize, "RESPONSES_PER_CALL", 1)
    assert tokenized(tokenizer, *pairs) == together
    assert len(together.groups) == 4
