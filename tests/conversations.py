"""Conversations, pairs and templates of several kinds, for the tests of what is trained on."""

from schemas.preference import PreferencePair
from tests.tiny_models import byte_tokenizer
from trainer.data.groups import group_pairs
from trainer.data.tokenize import end_of_turn_ids, tokenize_groups

THOUGHT = "<think>\nhm\n</think>\n\n"

LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|header|>' + m.role + '<|/header|>\n\n' + m.content | trim }}"
    "{{ '<|eot|>' }}{% endfor %}{% if add_generation_prompt %}{{ '<|header|>assistant<|/header|>\n\n' }}{% endif %}"
)

# Thoughts stay in the turns behind the last question; a last turn without a thought gets an empty one.
QWEN3 = """\
{%- set ns = namespace(last=0) %}
{%- for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{%- for m in messages %}
{{- '<|im_start|>' + m.role + '\n' }}
{%- if m.role == 'assistant' %}
{%- set parts = m.content.split('</think>') %}
{%- set thought = parts[0].split('<think>')[-1].strip('\n') if parts | length > 1 else '' %}
{%- if loop.index0 > ns.last and (loop.last or thought) %}
{{- '<think>\n' + thought + '\n</think>\n\n' + parts[-1].lstrip('\n') }}
{%- else %}{{- parts[-1].lstrip('\n') }}{% endif %}
{%- else %}{{- m.content }}{% endif %}
{{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{% endif %}"""

# Calls behind the text, neighbouring results in one turn of the user, as Qwen's templates have them.
TOOLS = """\
{%- if tools %}{{- '<|im_start|>system\n' + (tools | tojson) + '<|im_end|>\n' }}{% endif %}
{%- for m in messages %}
{%- if m.role == 'tool' %}
{%- if messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{% endif %}
{{- '\n[result]' + m.content }}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\n' }}{% endif %}
{%- else %}
{{- '<|im_start|>' + m.role + '\n' + m.content }}
{%- for call in m.tool_calls or [] %}{{- '[call]' + (call.function | tojson) }}{% endfor %}
{{- '<|im_end|>\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{% endif %}"""

TOOL = {"type": "function", "function": {"name": "add"}}


def asked(text):
    return {"role": "user", "content": text}


def said(text, **keys):
    return {"role": "assistant", "content": text, **keys}


def called(text, *names):
    return said(text, tool_calls=[{"type": "function", "function": {"name": name}} for name in names])


def result(text):
    return {"role": "tool", "content": text, "weight": 0}


def pair(chosen, rejected="no", *, prompt="Q", line=1, **keys):
    """A pair of completions, each a text or a list of messages."""
    chosen, rejected = ([said(side)] if isinstance(side, str) else side for side in (chosen, rejected))
    prompt = [asked(prompt)] if isinstance(prompt, str) else prompt
    return PreferencePair(tuple(prompt), tuple(chosen), tuple(rejected), source=f"pairs.jsonl:{line}", **keys)


def with_template(template, *special, **named):
    """The byte tokenizer with another template and more special tokens."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", *special], **named})
    tokenizer.chat_template = template
    return tokenizer


def tokenized(tokenizer, *pairs, **options):
    options = {"max_tokens": 10_000, "end_ids": end_of_turn_ids(tokenizer, None)} | options
    return tokenize_groups(group_pairs(pairs), tokenizer, **options)


def trained(response, tokenizer):
    """The texts of the runs of trained tokens."""
    runs, run = [], []
    for token, bit in zip([*response.ids, 0], [*response.loss_mask, 0], strict=True):
        if bit:
            run.append(token)
        elif run:
            runs.append(tokenizer.decode(run))
            run = []
    return runs
