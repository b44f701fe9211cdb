"""The rows that `collect-pairs` writes, read by those who train on them.

NeMo RL's rules are written here as asserts, from its code (nemo_rl/data/datasets/preference_datasets and
preference_preprocessor): how files are loaded, what BinaryPreferenceDataset makes of a row, and what is refused once
training is under way. TRL is asked itself: its DPOTrainer takes a step on what we wrote.
"""

import json
import math
import warnings

import pytest
from datasets import load_dataset
from datasets.utils.logging import disable_progress_bar

from pipeline.collect import collect_pairs
from pipeline.intake import Machinery
from pipeline.settings import Format, Settings
from tests.tiny_models import byte_tokenizer, tiny_qwen3

ALONE = Machinery(num_workers=1)
TOOL_TEMPLATE = (  # as Qwen's: tools first, calls as JSON in tags, results of tools as the user's turn
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}"
    "{% for call in message.tool_calls or [] %}<tool_call>{{ call.function.name }}"
    "{{ call.function.arguments | tojson }}</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

disable_progress_bar()


def call_then_answer(name, arguments, result, text):
    return [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Let me see."}]},
        {"type": "function_call", "name": name, "arguments": json.dumps(arguments), "call_id": "c1"},
        {"type": "function_call_output", "call_id": "c1", "output": result},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]},
    ]


def tool(name, **properties):
    return {"type": "function", "name": name, "parameters": {"type": "object", "properties": properties}}


@pytest.fixture
def written(tmp_path, rollout, write_jsonl):
    """Collect rollouts of many kinds in a form and a packing; give the path of the pairs."""
    turns = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi, what can I do?"},
        {"role": "user", "content": "2+2?"},
    ]
    add = {"tools": [tool("add", a={"type": "integer"}, b={"type": "integer"})]}
    find = {"tools": [tool("find", query={"type": "string"}), tool("stop")], "instructions": "Use tools."}
    asked = [
        ("plain", {}, "A", "B"),
        ("plain too", {}, "\u2028 \U0001f642 <think>", "B\n\n"),
        (turns, {"instructions": "Be brief."}, "4", "5"),
        ("add", add, call_then_answer("add", {"a": 2, "b": 2}, "4", "4"), call_then_answer("add", {"a": 2}, "", "2")),
        ("find", find, call_then_answer("find", {"query": "x"}, "y", "y"), call_then_answer("stop", {}, "ok", "")),
    ]
    rows = [
        rollout(prompt, answer, reward, params=params, agent_ref={"name": "a"})
        for prompt, params, *answers in asked
        for answer, reward in zip(answers, (1, 0), strict=True)
    ]
    source = write_jsonl(tmp_path / "rollouts.jsonl", rows)

    def write(form, suffix=".jsonl", **settings):
        path = tmp_path / f"dpo_train{suffix}"
        collection = collect_pairs([source], path, Settings(format=form, **settings), ALONE)
        assert collection.attrition.pairs == (3 if form is Format.BINARY else 5)
        return path

    return write


def nemo_load(path):
    """Load as NeMo RL does: the kind of file by its last suffix, the split `train`, then a column of its own."""
    kind = {".jsonl": "json", ".parquet": "parquet"}[path.suffix]  # packed JSONL it takes for a name on the hub
    dataset = load_dataset(kind, data_files=str(path), split="train", cache_dir=str(path.parent / "cache"))
    # fails where the file has a column of that name
    return dataset.add_column("task_name", ["dpo_train"] * len(dataset))


def nemo_binary(row):
    """What BinaryPreferenceDataset makes of a row, with its default keys."""
    context = [{"role": "user", "content": row["prompt"]}] if isinstance(row["prompt"], str) else row["prompt"]
    sides = (row["chosen"], row["rejected"])
    completions = [
        {"rank": rank, "completion": [{"role": "assistant", "content": text}]} for rank, text in enumerate(sides)
    ]
    return {"context": context, "completions": completions, "task_name": row["task_name"]}


def assert_nemo_trains_on(row):
    """Hold what preference_preprocessor asserts or takes for granted."""
    assert len(row["completions"]) == 2, "RM/DPO training supports only two completions"
    ranks = [completion["rank"] for completion in row["completions"]]
    assert len(set(ranks)) == 2, "a tie is not implemented, and raised in the middle of a training"
    chosen, rejected = (completion["completion"] for completion in sorted(row["completions"], key=lambda c: c["rank"]))
    assert chosen != rejected
    assert isinstance(row["context"], list)
    for messages in (row["context"], row["context"] + chosen, row["context"] + rejected):
        for message in messages:
            assert isinstance(message["role"], str)
            assert isinstance(message["content"], str)
        rendered = byte_tokenizer().apply_chat_template(messages, tokenize=False)
        assert all(message["content"] in rendered for message in messages)
    assert row["context"][-1]["role"] != "assistant"
    assert chosen[-1]["role"] == rejected[-1]["role"] == "assistant"


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("sources", [True, False])
def test_nemo_rl_binary(written, suffix, sources):
    dataset = nemo_load(written(Format.BINARY, suffix, sources=sources))
    assert len(dataset) == 3
    rows = [nemo_binary(row) for row in dataset]
    for row in rows:
        assert_nemo_trains_on(row)
    contexts = sorted((len(row["context"]), row["context"][-1]["content"]) for row in rows)
    assert contexts == [(1, "plain"), (1, "plain too"), (4, "2+2?")]
    for row in dataset:
        assert isinstance(row["prompt"], str | list)
        assert isinstance(row["chosen"], str)
        assert isinstance(row["rejected"], str)
        assert row["chosen_reward"] == 1
        assert row["rejected_reward"] == 0


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("sources", [True, False])
def test_nemo_rl_preference(written, suffix, sources):
    dataset = nemo_load(written(Format.PREFERENCE, suffix, sources=sources))
    assert len(dataset) == 5
    for row in dataset:
        assert_nemo_trains_on(row)
        assert [completion["rank"] for completion in row["completions"]] == [0, 1]
        assert [completion["reward"] for completion in row["completions"]] == [1, 0]
    (adding,) = (row for row in dataset if row["context"][-1]["content"] == "add")
    arguments = [
        completion["completion"][0]["tool_calls"][0]["function"]["arguments"] for completion in adding["completions"]
    ]
    decoded = [json.loads(each) if isinstance(each, str) else each for each in arguments]
    assert decoded == [{"a": 2, "b": 2}, {"a": 2}]  # no key of another call came in


@pytest.mark.parametrize("form", list(Format))
def test_no_column_is_named_as_nemo_rl_names_its_own(written, form):
    for line in written(form).read_bytes().splitlines():
        assert "task_name" not in json.loads(line)


def trl_load(path):
    kind = "parquet" if path.suffix == ".parquet" else "json"
    return load_dataset(kind, data_files=str(path), split="train", cache_dir=str(path.parent / "cache"))


def trainer_on(dataset, folder, tokenizer):
    from trl import DPOConfig, DPOTrainer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its libraries, about each other
        config = DPOConfig(
            output_dir=str(folder),
            per_device_train_batch_size=len(dataset),
            max_steps=1,
            learning_rate=1e-3,
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            report_to=[],
            max_length=None,
            disable_tqdm=True,
            save_strategy="no",
        )
        return DPOTrainer(
            model=tiny_qwen3(0), ref_model=tiny_qwen3(0), args=config, train_dataset=dataset, processing_class=tokenizer
        )


def tool_tokenizer():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TOOL_TEMPLATE
    return tokenizer


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".parquet"])
def test_trl_trains_on_it(written, tmp_path, suffix):
    dataset = trl_load(written(Format.TRL, suffix))
    assert len(dataset) == 5
    trainer = trainer_on(dataset, tmp_path / "run", tool_tokenizer())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = trainer.train()
    assert result.global_step == 1
    assert math.isclose(result.training_loss, math.log(2), abs_tol=1e-4)  # policy and reference are one


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".parquet"])
def test_what_trl_renders_is_the_conversation_with_its_tools(written, tmp_path, suffix):
    """Argument keys of one call must not come into another, and tools must be seen, each row its own."""
    tokenizer = tool_tokenizer()
    trainer = trainer_on(trl_load(written(Format.TRL, suffix)), tmp_path / "run", tokenizer)
    rendered = [
        tuple(tokenizer.decode(row[f"{side}_ids"]) for side in ("prompt", "chosen", "rejected"))
        for row in trainer.train_dataset
    ]
    assert len(rendered) == 5
    ((prompt, chosen, rejected),) = (texts for texts in rendered if "\nadd<" in texts[0])
    assert '"name": "add"' in prompt
    assert '"query"' not in prompt
    assert "null" not in prompt
    text = chosen.replace("\\", "")
    assert '<tool_call>add{"a": 2, "b": 2}</tool_call>' in text or '<tool_call>add"{"a": 2, "b": 2}"' in text
    text = rejected.replace("\\", "")
    assert '<tool_call>add{"a": 2}</tool_call>' in text or '<tool_call>add"{"a": 2}"' in text
    assert "<think>\nLet me see.\n</think>\n\n" in prompt + chosen
    ((prompt, chosen, rejected),) = (texts for texts in rendered if "\nfind<" in texts[0])
    assert "Use tools." in prompt
    assert '"name": "stop"' in prompt
    assert '"query": "x"' in chosen.replace("\\", "")
    assert "<tool_call>stop" in rejected
    assert "query" not in rejected.split("<tool_call>")[1]
    ((prompt, chosen, _),) = (texts for texts in rendered if "\nplain<" in texts[0])
    assert prompt == "<|im_start|>user\nplain<|im_end|>\n<|im_start|>assistant\n"
    assert chosen == "A<|im_end|>\n"
