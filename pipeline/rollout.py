"""The usable rollout: what is left of a row once its noise is refused, and it is converted and identified."""

import math
from typing import Any, NamedTuple
from zlib import crc32

import msgspec

from pipeline.attrition import Reason, RowDropped
from pipeline.convert import Turn, response_turns
from pipeline.identify import Question, agent_name, group_key, response_number, task_identity
from pipeline.prompts import Asked, Prompts
from pipeline.reasoning import ReasoningPolicy
from pipeline.record import ABSENT, Item, Maskable, Part, Record, Response
from pipeline.settings import Format, RewardField, Settings
from schemas.lines import LineError, decode_tolerant
from schemas.preference import Message

FAILED_PREFIX = "Failed: "
FAILED_ID_SUFFIX = "-failed"
NOT_FINITE = {"NaN", "Infinity", "-Infinity", "inf", "-inf"}  # what record.py makes of these numbers

_encode = msgspec.json.Encoder().encode
_encode_sorted = msgspec.json.Encoder(order="deterministic").encode


class Rollout(NamedTuple):
    """One scored response to one prompt, ready to be written."""

    group: bytes
    question: Question
    response: bytes  # JSON: the text, or the messages
    reward: float
    agent: str | None
    response_number: int  # equal for responses that are the same once normalised
    sample_number: int  # equal for two records of one rollout, if it is named
    is_named: bool
    num_chars: int  # that the policy wrote
    num_messages: int
    is_truncated: bool
    has_reasoning: bool


class Answer(NamedTuple):
    """A response, converted."""

    response: bytes  # JSON
    spoken: str  # what two responses are compared by: it holds no ids
    num_chars: int
    num_messages: int
    has_reasoning: bool


def rollout_of(
    record: Record, content: bytes, settings: Settings, *, prompts: Prompts, stable: bytes | None = None
) -> Rollout:
    """Make a usable rollout of a row.

    Raises:
        RowDropped: the row can't be used.
    """
    items = _trajectory(record)
    _refuse_noise(record)
    reward = reward_of(record, content, settings.reward_field)
    is_truncated = _is_truncated(record)
    if is_truncated and not settings.allow_truncated_rejected:
        raise RowDropped(Reason.TRUNCATED)
    asked = prompts.asked(record.params)
    question, answer = asked.question, _plain_answer(items, asked, settings.format)
    if question is None or answer is None:
        turns = response_turns(items, keep_reasoning=prompts.keep_reasoning)
        question, turns = prompts.question_and_answer(asked, turns, has_index=record.task_index is not None)
        answer = _answer(_completion(turns, question), settings.format, asks_with_tools=asked.has_tools)
    if settings.reasoning is ReasoningPolicy.REQUIRE_BOTH and not answer.has_reasoning:
        raise RowDropped(Reason.REASONING_MISSING)
    if reward == 0 and answer.num_messages == 1 and answer.spoken.startswith(FAILED_PREFIX):
        raise RowDropped(Reason.FAILED, "the response is a text Failed: ...")  # by older agents, where a run failed
    own_name = _own_name(record)
    return Rollout(
        _group(record, asked, question, settings, stable),
        question,
        answer.response,
        reward,
        agent_name(record),
        response_number(answer.spoken),
        _sample_number(own_name, answer.response, is_truncated=is_truncated),
        bool(own_name),
        answer.num_chars,
        answer.num_messages,
        is_truncated,
        answer.has_reasoning,
    )


def reward_of(record: Record, content: bytes, field: RewardField) -> float:
    """Read the reward, or the weighted sum of the fields that stand for it.

    Raises:
        RowDropped: one of them is missing or no finite number.
    """
    if field.is_default:
        return _number(record.reward, "")
    try:
        row = decode_tolerant(content)
    except LineError as error:
        raise RowDropped(Reason.NOT_JSON, str(error)) from None
    return _finite(math.fsum(weight * _number(_at(row, keys), ".".join(keys)) for weight, keys in field.terms))


def _trajectory(record: Record) -> list[Any]:
    """Find the trajectory: `response.output`, or the `output` of Gym's first documentation."""
    response = record.response
    items = response.output if isinstance(response, Response) else record.output
    if record.failure_class is not None:
        raise RowDropped(Reason.FAILED, f"_ng_failure_class is {record.failure_class}")
    if record.params is not ABSENT and isinstance(items, list):
        return items
    if record.chosen is not ABSENT or record.completions is not ABSENT:
        raise RowDropped(Reason.NOT_A_ROLLOUT, "a preference pair already")
    if record.usersim_result is not ABSENT:
        raise RowDropped(Reason.NOT_A_ROLLOUT, "a conversation of a simulated user, without response.output")
    raise RowDropped(Reason.NOT_A_ROLLOUT, "no responses_create_params or no list response.output")


def _refuse_noise(record: Record) -> None:
    nested = record.instance_config
    if record.mask_sample or (isinstance(nested, Maskable) and nested.mask_sample):
        raise RowDropped(Reason.MASKED)
    if record.verification_skipped:
        raise RowDropped(Reason.VERIFICATION_SKIPPED)
    if record.invalid_judge_response:
        raise RowDropped(Reason.VERIFICATION_SKIPPED, "invalid_judge_response")
    if record.exception_type:
        raise RowDropped(Reason.FAILED, f"exception_type is {record.exception_type}")
    response = record.response
    if isinstance(response, Response) and isinstance(response.id, str) and response.id.endswith(FAILED_ID_SUFFIX):
        raise RowDropped(Reason.FAILED, f"response.id is {response.id}")
    items = response.output if isinstance(response, Response) else record.output
    if not items:
        raise RowDropped(Reason.FAILED, "response.output is empty")


def _number(value: object, name: str) -> float:
    where = f"{name} is " if name else ""
    if value is None:
        raise RowDropped(Reason.REWARD_MISSING, name and f"no {name}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        shown = value if isinstance(value, str) and value in NOT_FINITE else type(value).__name__
        raise RowDropped(Reason.REWARD_NOT_A_NUMBER, f"{where}{shown}")
    return _finite(value)


def _finite(value: float) -> float:
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise RowDropped(Reason.REWARD_NOT_A_NUMBER, str(number))
    return number + 0.0  # -0.0 and 0.0 are one reward


def _at(row: object, keys: tuple[str, ...]) -> object:
    for key in keys:
        if not isinstance(row, dict):
            return None
        row = row.get(key)
    return row


def _completion(turns: list[Turn], question: Question) -> list[Turn]:
    """Leave what comes after the policy's last word, which teaches it nothing; refuse what says nothing."""
    end = len(turns)
    while end and turns[end - 1].message["role"] != "assistant":
        end -= 1
    turns = turns[:end]
    if question.asks_twice and any(turn.num_texts > 1 for turn in turns):
        raise RowDropped(Reason.RESPONSE_UNSUPPORTED, "several answers to several user turns, in no known order")
    if not any(turn.num_texts or "tool_calls" in turn.message for turn in turns):
        raise RowDropped(Reason.RESPONSE_EMPTY)
    return turns


def _plain_answer(items: list[Any], asked: Asked, form: Format) -> Answer | None:
    """Read a trajectory that is one message of one piece of text, as most are, without the detour over turns."""
    item = items[0]
    if len(items) != 1 or type(item) is not Item or item.type != "message" or item.role != "assistant":
        return None
    content = item.content
    if type(content) is not list or len(content) != 1 or item.tool_calls or asked.has_tools:
        return None
    part = content[0]
    if type(part) is not Part or part.type != "output_text":
        return None
    text = part.text
    if type(text) is not str or not text or text.isspace() or "think>" in text:
        return None
    quoted = _encode(text)
    return Answer(
        quoted if form is Format.BINARY else b'[{"role":"assistant","content":%b}]' % quoted, text, len(text), 1, False
    )


def _answer(turns: list[Turn], form: Format, *, asks_with_tools: bool) -> Answer:
    """Write a response as JSON.

    Raises:
        RowDropped: the form can't hold it.
    """
    is_text = len(turns) == 1 and "tool_calls" not in turns[0].message
    if form is Format.BINARY:
        if asks_with_tools or any("tool_calls" in turn.message for turn in turns):
            met = "the prompt offers or uses tools" if asks_with_tools else "the response calls tools"
            raise RowDropped(Reason.TOOL_USE, met)
        if not is_text:
            raise RowDropped(Reason.SEVERAL_TURNS, f"{len(turns)} messages")
    try:
        if is_text:
            spoken = turns[0].message["content"]
            response = _encode(spoken if form is Format.BINARY else [turns[0].message])
        else:
            messages = [_weighted(turn.message) for turn in turns]
            spoken = _encode_sorted([_without_ids(message) for message in messages]).decode()
            response = _encode(messages)
    except (ValueError, OverflowError, RecursionError) as error:
        raise RowDropped(Reason.RESPONSE_UNSUPPORTED, str(error)) from None
    num_chars = sum(len(turn.message["content"]) for turn in turns if turn.message["role"] == "assistant")
    return Answer(response, spoken, num_chars, len(turns), any(turn.reasoning for turn in turns))


def _group(record: Record, asked: Asked, question: Question, settings: Settings, stable: bytes | None) -> bytes:
    """Give the group key; where prompt, agent and task index say all, the rollouts of a task share the work."""
    agent = None if settings.across_agents else agent_name(record)
    index = record.task_index
    is_simple = stable is None and record.task is ABSENT and type(index) is int and not settings.across_files
    if not is_simple or question is not asked.question:
        task = task_identity(record, stable=stable, across_files=settings.across_files)
        return group_key(question, agent=agent, task=task)
    key = asked.keys.get((agent, index))
    if key is None:
        key = group_key(question, agent=agent, task=task_identity(record, stable=None, across_files=False))
        asked.keys[agent, index] = key
    return key


def _weighted(message: Message) -> Message:
    """Mark what the policy did not write."""
    return message if message["role"] == "assistant" else {**message, "weight": 0}


def _without_ids(message: Message) -> list[object]:
    calls = [call["function"] for call in message.get("tool_calls", ())]
    return [message["role"], message["content"], calls]


def _is_truncated(record: Record) -> bool:
    """Read `incomplete_details`, in most versions the only place where Gym tells it, and `status`."""
    response = record.response
    return isinstance(response, Response) and (bool(response.incomplete_details) or response.status == "incomplete")


def _own_name(record: Record) -> bytes:
    """Give what tells a rollout from the others of its task; nothing where the row says nothing."""
    response_id = record.response.id if isinstance(record.response, Response) else None
    if record.rollout_index is None and not response_id:
        return b""
    return f"{record.rollout_index} {response_id}".encode()


def _sample_number(own_name: bytes, response: bytes, *, is_truncated: bool) -> int:
    """Put two checksums side by side: within one group they only have to tell a few rollouts apart."""
    number = crc32(own_name) << 32 | crc32(response, is_truncated)
    return number - (1 << 63)  # as Int64 holds it
