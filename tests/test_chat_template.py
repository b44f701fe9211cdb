"""From conversations to tokens under every choice of template: one BOS, an EOS where a response ended, plain text."""

import shutil
from collections import Counter
from pathlib import Path

import pytest
from pydantic import ValidationError
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from schemas.errors import InputError, UsageError
from schemas.preference import PreferencePair
from tests.conversations import QWEN3, THOUGHT, TOOL, asked, called, pair, said, tokenized, trained, with_template
from tests.pairwise import config_of
from tests.tiny_models import CHAT_TEMPLATE, byte_tokenizer, save_tiny_policy, tiny_qwen3
from trainer.config.policy import TokenizerSection
from trainer.config.settings import resolve
from trainer.cost.dry_run import dry_run
from trainer.data.groups import group_pairs
from trainer.data.template import Style, read_template, style_of
from trainer.data.tokenize import PairDrop, TokenizedGroup
from trainer.model.policy import load_policy, load_shape
from trainer.run.loop import train
from trainer.run.start import LoadedGroups, tokenize

PLAIN = Style(is_plain=True)
LLAMA2 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}"
)


def with_bos(tokenizer):
    """Let a tokenizer put a BOS before each text, as those of Llama do."""
    tokenizer.add_special_tokens({"bos_token": "<|bos|>"})
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", tokenizer.bos_token_id)]
    )
    assert tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
    return tokenizer


def metaspace_tokenizer():
    """A tokenizer of SentencePiece's kind: a space is put before a text, and is a part of the first token."""
    pieces = ["<unk>", "<s>", "</s>", "▁", *"2+=4:", "▁2", "▁4", "[", "]", *"INST/"]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[("▁", "2"), ("▁", "4")], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def only_group(tokenizer, one: PreferencePair, **options) -> TokenizedGroup:
    (group,) = tokenized(tokenizer, one, **options).groups
    return group


def whole(tokenizer, group, position=0):
    return tokenizer.decode([*group.prompt, *group.responses[position].ids])


# one BOS


@pytest.mark.parametrize("make", [lambda: with_bos(byte_tokenizer()), metaspace_tokenizer], ids=["bytes", "metaspace"])
def test_a_template_that_writes_bos_and_a_tokenizer_that_adds_one_give_one(make):
    tokenizer = make()
    tokenizer.chat_template = LLAMA2
    group = only_group(tokenizer, pair([said("4"), asked("2"), said("2")], "2", prompt="2+2="))
    for response in group.responses:
        assert [*group.prompt, *response.ids].count(tokenizer.bos_token_id) == 1
    assert group.prompt[0] == tokenizer.bos_token_id


def test_a_template_without_bos_has_none_and_it_is_told():
    tokenizer = with_bos(byte_tokenizer())
    loaded = LoadedGroups((), group_pairs([pair("a")]), dropped=Counter(), notes=())
    config, model = config_of("policy.max_total_sequence_length=100"), tiny_qwen3(vocab_size=300)
    data = tokenize(config, loaded, model, tokenizer, shown=False)
    assert tokenizer.bos_token_id not in data.groups[0].prompt
    assert [note for note in data.notes if note.startswith("1 prompt without BOS: the chat template writes no <|bos|>")]
    tokenizer.chat_template = "{{ bos_token }}" + CHAT_TEMPLATE
    assert tokenize(config, loaded, model, tokenizer, shown=False).notes == ()


# none: plain text


def test_plain_text_has_one_bos_and_an_eos_where_the_response_ended():
    tokenizer = with_bos(byte_tokenizer())
    one = pair("Paris", "Lon", prompt="The capital: ", rejected_truncated=True)
    group = only_group(tokenizer, one, style=PLAIN)
    assert group.prompt[0] == tokenizer.bos_token_id
    assert whole(tokenizer, group) == "<|bos|>The capital: Paris<|im_end|>"
    assert whole(tokenizer, group, 1) == "<|bos|>The capital: Lon"
    assert [trained(response, tokenizer) for response in group.responses] == [["Paris<|im_end|>"], ["Lon"]]


def test_plain_text_is_what_the_tokenizer_makes_of_it():
    tokenizer = metaspace_tokenizer()
    group = only_group(tokenizer, pair("4", " 2", prompt="2+2="), style=PLAIN)
    for response, text in zip(group.responses, ("2+2=4", "2+2= 2"), strict=True):
        assert [*group.prompt, *response.ids] == [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    assert list(group.prompt) == tokenizer("2+2=")["input_ids"]


def test_plain_text_without_bos_has_none():
    group = only_group(byte_tokenizer(), pair("a", prompt="Q"), style=PLAIN)
    assert whole(byte_tokenizer(), group) == "Qa<|im_end|>"


def test_a_text_that_has_the_marks_gets_no_second_ones():
    tokenizer = with_bos(byte_tokenizer())
    group = only_group(tokenizer, pair("a<|im_end|>", prompt="<|bos|>Q"), style=PLAIN)
    assert whole(tokenizer, group) == "<|bos|>Qa<|im_end|>"
    assert list(group.prompt).count(tokenizer.bos_token_id) == 1


def test_messages_of_plain_text_stand_one_behind_the_other():
    tokenizer = byte_tokenizer()
    messages = [said("4\n"), {**said("shown\n"), "weight": 0}, said("5")]
    group = only_group(tokenizer, pair(messages, prompt=[asked("Hi\n"), said("Ho\n"), asked("2+2?\n")]), style=PLAIN)
    assert tokenizer.decode(list(group.prompt)) == "Hi\nHo\n2+2?\n"
    assert trained(group.responses[0], tokenizer) == ["4\n", "5<|im_end|>"]
    assert "shown" in tokenizer.decode(list(group.responses[0].ids))


def test_nemo_rls_mask_of_plain_text_has_the_final_message_with_eos():
    tokenizer = byte_tokenizer()
    one = pair([said("4\n"), asked("and?\n"), said("5")], chosen_truncated=True)
    group = only_group(tokenizer, one, style=PLAIN, loss_mask="nemo_rl")
    assert trained(group.responses[0], tokenizer) == ["5<|im_end|>"]


@pytest.mark.parametrize("one", [pair("a", tools=(TOOL,)), pair([called("", "add"), said("a")])])
def test_plain_text_has_no_place_for_tools(one):
    with pytest.raises(UsageError, match=r"pairs.jsonl:1: has tools or calls, which plain text has no place for"):
        tokenized(byte_tokenizer(), one, style=PLAIN)


# histories that a template rewrites


@pytest.mark.parametrize(
    "context",
    [
        [asked("Q"), said("A"), asked("more?")],
        [asked("Q"), said(THOUGHT + "A"), asked("more?")],
        [asked("Q"), said(THOUGHT + "A"), asked("more?"), said(THOUGHT + "B"), asked("still more?")],
    ],
)
@pytest.mark.parametrize("response", ["4", THOUGHT + "4"])
def test_a_context_of_several_turns_is_rendered_as_the_template_renders_it(context, response):
    """NeMo RL issue 2821: text of earlier turns was there twice, with thoughts that the template takes out."""
    tokenizer = with_template(QWEN3)
    data = tokenized(tokenizer, pair(response, "5", prompt=context))
    assert data.dropped == {}
    (group,) = data.groups
    messages = [*context, said(response)]
    expected = tokenizer.apply_chat_template(messages, tokenize=False).removesuffix("\n")
    assert whole(tokenizer, group) == expected
    assert expected.count("\nA<|im_end|>") == 1
    assert "hm" not in tokenizer.decode(list(group.prompt))
    assert tokenizer.apply_chat_template(context, tokenize=False, add_generation_prompt=True) == tokenizer.decode(
        list(group.prompt)
    )


def test_a_response_whose_own_history_is_rewritten_is_refused():
    response = [said(THOUGHT + "A"), asked("more?"), said("B")]
    data = tokenized(with_template(QWEN3), pair(response), pair("a", line=2))
    assert data.dropped == {PairDrop.TEMPLATE_REWRITES_HISTORY: 1}


# the options


def section(**options):
    return TokenizerSection(**options)


def test_options_are_handed_to_the_template():
    tokenizer = with_template("{{ '[' + mood + ']' }}" + CHAT_TEMPLATE)
    style = style_of(section(chat_template_kwargs={"mood": "glad"}))
    assert whole(tokenizer, only_group(tokenizer, pair("a"), style=style)).startswith("[glad]<|im_start|>user")


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"chat_template": None, "chat_template_kwargs": {"a": 1}}, "chat_template=null is none"),
        ({"chat_template": "chatml"}, "chat_template=chatml: is neither default, nor a .jinja file"),
        ({"chat_template_kwargs": {"tools": []}}, "tools can't be given"),
        ({"chat_template_kwargs": {"max_length": 3, "padding": True}}, "max_length, padding can't be given"),
    ],
)
def test_what_can_be_no_template_is_refused(options, problem):
    with pytest.raises(ValidationError, match=problem):
        section(**options)


def test_a_template_is_the_tokenizers_a_file_or_a_text(tmp_path):
    (tmp_path / "mine.jinja").write_text("{{ 'naïve' }}")
    assert read_template(section()) is None
    assert read_template(section(chat_template=None)) is None
    assert read_template(section(chat_template="{{ 'x' }}")) == "{{ 'x' }}"
    assert read_template(section(chat_template=str(tmp_path / "mine.jinja"))) == "{{ 'naïve' }}"
    (tmp_path / "mine.jinja").write_bytes(b"\xef\xbb\xbf{{ 'x' }}")
    assert read_template(section(chat_template=str(tmp_path / "mine.jinja"))) == "{{ 'x' }}"
    (tmp_path / "mine.jinja").write_text("")
    with pytest.raises(UsageError, match=r"policy.tokenizer.chat_template=.*mine.jinja: is empty"):
        read_template(section(chat_template=str(tmp_path / "mine.jinja")))
    with pytest.raises(UsageError, match=r"policy.tokenizer.chat_template=.*other.jinja: no such file"):
        read_template(section(chat_template=str(tmp_path / "other.jinja")))


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Path:
    return save_tiny_policy(tmp_path_factory.mktemp("policy"))


@pytest.mark.parametrize("load", [load_policy, load_shape])
def test_the_tokenizer_has_the_template_that_is_trained_with(policy, tmp_path, load):
    for chat_template, expected in (("default", CHAT_TEMPLATE), ("{{ 'x' }}", "{{ 'x' }}"), (None, None)):
        _, tokenizer = load(str(policy), tokenizer=section(chat_template=chat_template))
        assert tokenizer.chat_template == expected
        folder = tmp_path / str(expected is None) / str(chat_template == "default")
        tokenizer.save_pretrained(folder)  # as a run saves it
        assert AutoTokenizer.from_pretrained(folder).chat_template == expected


def test_an_option_that_the_template_does_not_read_is_refused(policy):
    template = "{{ mood }}" + CHAT_TEMPLATE
    load_shape(str(policy), tokenizer=section(chat_template=template, chat_template_kwargs={"mood": "glad"}))
    with pytest.raises(UsageError, match="chat_template_kwargs: the chat template does not read moo"):
        load_shape(str(policy), tokenizer=section(chat_template=template, chat_template_kwargs={"moo": "glad"}))


def test_a_tokenizer_may_come_from_elsewhere(policy, tmp_path):
    named = byte_tokenizer()
    named.chat_template = "{{ 'named' }}"
    named.save_pretrained(tmp_path / "named")
    _, tokenizer = load_policy(str(policy), tokenizer=section(name=str(tmp_path / "named")))
    assert tokenizer.chat_template == "{{ 'named' }}"
    with pytest.raises(
        InputError, match=r"tokenizer .*absent: no such folder, and the hub can't be asked: .*; policy.tok"
    ):
        load_policy(str(policy), tokenizer=section(name=str(tmp_path / "absent")))


def test_a_tokenizer_of_another_model_is_refused(policy, tmp_path):
    text = byte_tokenizer().backend_tokenizer.to_str().replace("<|im_start|>", "<|other|>")
    renamed = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(text), eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    renamed.save_pretrained(tmp_path / "renamed")  # one of 259 tokens
    load_shape(str(policy), tokenizer=section(name=str(tmp_path / "renamed")))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    turned = Tokenizer(models.BPE(vocab={char: 255 - number for number, char in enumerate(alphabet)}, merges=[]))
    PreTrainedTokenizerFast(tokenizer_object=turned).save_pretrained(tmp_path / "turned")
    with pytest.raises(UsageError, match=r"256 of 256 tokens are others than those of the tokenizer of"):
        load_shape(str(policy), tokenizer=section(name=str(tmp_path / "turned")))
    larger = byte_tokenizer()
    larger.add_tokens([f"<{number}>" for number in range(9)])
    larger.save_pretrained(tmp_path / "larger")
    with pytest.raises(UsageError, match=r"the tokenizer of .*larger has 268 tokens, the model 259"):
        load_shape(str(policy), tokenizer=section(name=str(tmp_path / "larger")))


@pytest.mark.slow
def test_a_run_trains_and_saves_what_the_options_say(policy, tmp_path, write_jsonl):
    rows = [{"prompt": "Q", "chosen": "yes", "rejected": "no"}]
    template = "{{ '[' + mood + ']' }}" + CHAT_TEMPLATE
    config = resolve(
        [
            f"policy.tokenizer.chat_template={template}",
            'policy.tokenizer.chat_template_kwargs={"mood": "glad"}',
            'policy.hf_config_overrides={"rope_theta": 77.0}',
            "reference.cache_dir=null",
            "policy.max_total_sequence_length=100",
        ],
        train_data_path=write_jsonl(tmp_path / "pairs.jsonl", rows),
        model_name=str(policy),
        output_dir=tmp_path / "run",
    )
    assert train(config) is not None
    folder = tmp_path / "run" / "policy"
    assert AutoTokenizer.from_pretrained(folder).chat_template == template
    assert AutoModelForCausalLM.from_pretrained(folder).config.rope_parameters["rope_theta"] == 77.0
    plan = dry_run(config.model_copy(update={"output_dir": tmp_path / "other"}))
    assert plan is not None
    assert list(plan.data.groups[0].prompt[:6]) == byte_tokenizer()("[glad]")["input_ids"]


# the model's own configuration


@pytest.mark.parametrize("load", [load_policy, load_shape])
def test_keys_of_the_models_configuration_are_set_otherwise(policy, load):
    model, _ = load(str(policy), overrides={"rope_theta": 5e5, "max_position_embeddings": 77})
    assert model.config.rope_parameters["rope_theta"] == 5e5
    assert model.config.max_position_embeddings == 77
    assert load(str(policy))[0].config.max_position_embeddings == 1024
    scaled, _ = load(str(policy), overrides={"rope_scaling": {"type": "linear", "factor": 2.0}})
    assert scaled.config.rope_parameters["rope_type"] == "linear"
    assert scaled.config.rope_parameters["factor"] == 2.0


def test_null_takes_the_scaling_of_rotations_away(policy, tmp_path):
    scaled, tokenizer = load_policy(str(policy), overrides={"rope_scaling": {"type": "linear", "factor": 2.0}})
    scaled.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert load_shape(str(tmp_path))[0].config.rope_parameters["rope_type"] == "linear"
    plain, _ = load_shape(str(tmp_path), overrides={"rope_scaling": None})
    assert plain.config.rope_parameters["rope_type"] == "default"


def test_an_override_changes_what_the_model_computes_and_is_saved(policy, tmp_path):
    plain, _ = load_policy(str(policy))
    model, _ = load_policy(str(policy), overrides={"rope_theta": 2.0})
    ids = plain.dummy_inputs["input_ids"]
    assert not plain(ids).logits.equal(model(ids).logits)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again(ids).logits.equal(model(ids).logits)


def test_an_override_that_does_not_fit_the_weights_is_told(policy):
    with pytest.raises(InputError, match=r"can't be loaded: .*; policy.hf_config_overrides may be why"):
        load_policy(str(policy), overrides={"intermediate_size": 48})
    with pytest.raises(UsageError, match=r"has weights that would be left out \(model\.layers\.1\."):
        load_policy(str(policy), overrides={"num_hidden_layers": 1, "layer_types": ["full_attention"]})


def test_a_model_without_a_tokenizer_is_refused(policy, tmp_path):
    for path in Path(policy).iterdir():
        if path.name in ("config.json", "model.safetensors"):
            shutil.copy(path, tmp_path)
    with pytest.raises(InputError, match=r"has no tokenizer; policy\.tokenizer\.name is a folder"):
        load_policy(str(tmp_path))
    load_policy(str(tmp_path), tokenizer=TokenizerSection(name=str(policy)))


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        ({"rope_thetta": 1.0}, "the model's configuration has no key rope_thetta"),
        ({"hidden_sise": 64}, "has no key hidden_sise; did you mean hidden_size?"),
        ({"hidden_size": "wide"}, "the model does not take them"),
        ({"rope_scaling": "yarn"}, "rope_scaling='yarn': expected a mapping, or null for none"),
        ({"model_type": "llama"}, "model_type can't be set otherwise: the class of the model is that of its folder"),
        ({"dtype": "float16"}, "dtype can't be set otherwise: policy.precision says it"),
        ({"attention_dropout": 0.1}, "attention_dropout=0.1: the policy is trained without dropout, always"),
    ],
)
def test_an_override_that_would_do_nothing_is_refused(policy, overrides, problem):
    with pytest.raises(UsageError, match=f"policy.hf_config_overrides: .*{problem}"):
        load_shape(str(policy), overrides=overrides)
