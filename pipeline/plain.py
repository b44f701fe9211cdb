"""The plain row, read on a short way: one message of one text to a prompt without tools, by a run that went well.

Most rows of most files are like this. The types below say what is plain; a row that is not, in any respect, does not
decode as one, and goes the long way through `rollout.py`. Both ways give the same for the same row.
"""

from typing import Literal

import msgspec
from msgspec import Raw, Struct, field

from pipeline.attrition import RowDropped
from pipeline.identify import group_key, response_number, task_identity_of_index
from pipeline.materialized import rollout_key
from pipeline.prompts import Prompts
from pipeline.reasoning import ReasoningPolicy
from pipeline.rollout import FAILED_ID_SUFFIX, FAILED_PREFIX, Rollout, own_name, sample_number
from pipeline.settings import Format, Settings


class PlainPart(Struct):
    """One text."""

    type: Literal["output_text"]
    text: str


class PlainMessage(Struct):
    """One message of the policy, which calls no tool."""

    type: Literal["message"]
    role: Literal["assistant"]
    content: tuple[PlainPart]
    tool_calls: None = None


class PlainResponse(Struct):
    """One message, and no word of a limit."""

    output: tuple[PlainMessage]
    id: str | None = None
    status: Literal["completed"] | None = None
    incomplete_details: None = None
    tools: tuple[()] | None = None


class PlainAgent(Struct):
    """The agent's name."""

    name: str | None = None


class PlainRecord(Struct):
    """One line whose reward can be believed, and whose index tells its task."""

    params: Raw = field(name="responses_create_params")
    response: PlainResponse
    reward: float
    task_index: int = field(name="_ng_task_index")
    rollout_index: int | None = field(name="_ng_rollout_index", default=None)
    agent_ref: PlainAgent | None = None
    task: None = field(name="_ng_task_id", default=None)
    failure_class: None = field(name="_ng_failure_class", default=None)
    skills_ref: None = None
    mask_sample: bool | None = None
    instance_config: None = None
    verification_skipped: bool | None = None
    invalid_judge_response: bool | None = None
    exception_type: None = None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(PlainRecord).decode


def takes_plain(settings: Settings) -> bool:
    """Tell whether the settings leave a short way at all."""
    is_default = settings.reward_field.is_default and not settings.token_ids
    return is_default and not settings.across_files and settings.reasoning is not ReasoningPolicy.REQUIRE_BOTH


def plain_rollout(content: bytes, settings: Settings, prompts: Prompts) -> Rollout | None:
    """Make a rollout of a plain row; None for any other."""
    try:
        record = _decode(content)
        asked = prompts.asked(record.params)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, RowDropped):
        return None
    question, response, reward = asked.question, record.response, record.reward
    if question is None or asked.has_tools or not -1e308 < reward < 1e308:
        return None
    if record.mask_sample or record.verification_skipped or record.invalid_judge_response:
        return None
    text = response.output[0].content[0].text
    if not text or text.isspace() or "think>" in text:
        return None
    if reward == 0 and text.startswith(FAILED_PREFIX):
        return None
    if response.id and response.id.endswith(FAILED_ID_SUFFIX):
        return None
    name = None if record.agent_ref is None else record.agent_ref.name
    agent, index = None if settings.across_agents else name, record.task_index
    task = task_identity_of_index(index)
    group = asked.keys.get((agent, index))
    if group is None:
        group = asked.keys[agent, index] = group_key(question, agent=agent, task=task)
    own, is_unique = own_name(task, record.rollout_index, response.id)
    quoted = _encode(text)
    written = quoted if settings.format is Format.BINARY else b'[{"role":"assistant","content":%b}]' % quoted
    return Rollout(
        rollout_key(index, record.rollout_index),
        group,
        question,
        written,
        reward + 0.0,
        name,
        response_number(text),
        sample_number(own, question, name, text, is_truncated=False),
        own != b"",
        is_unique,
        len(text),
        1,
        False,
        False,
    )
