"""The usable rollout: what is left of a row once its noise is refused, and it is converted and identified."""

import math
import re
from typing import Any, NamedTuple

import msgspec

from pipeline.attrition import Reason, RowDropped
from pipeline.convert import Turn, response_turns
from pipeline.identify import (
    Question,
    agent_name,
    group_key,
    number_of,
    response_number,
    skills_identity,
    task_identity,
)
from pipeline.materialized import rollout_key
from pipeline.prompts import Prompts
from pipeline.reasoning import ReasoningPolicy, unfinished_reasoning
from pipeline.record import ABSENT, Maskable, Record, Response
from pipeline.settings import Format, RewardField, Settings
from pipeline.token_ids import Tokens, tokens_of
from schemas.lines import LineError, decode_tolerant
from schemas.preference import Message

FAILED_PREFIX = "Failed: "
FAILED_ID_SUFFIX = "-failed"
NOT_FINITE = {"NaN", "Infinity", "-Infinity", "inf", "-inf"}  # what record.py makes of these numbers

_MADE_ID = re.compile(r"[0-9A-Fa-f]{8}")

_encode = msgspec.json.Encoder().encode
_encode_sorted = msgspec.json.Encoder(order="deterministic").encode


class Rollout(NamedTuple):
    """One scored response to one prompt, ready to be written."""

    key: int | None  # both indices of the run, packed
    group: bytes
    question: Question
    response: bytes  # JSON: the text, or the messages
    reward: float
    agent: str | None
    response_number: int  # equal for responses that are the same once normalised
    sample_number: int  # equal for two records of one rollout, if it is named
    is_named: bool  # in its file at least
    is_named_everywhere: bool
    num_chars: int  # that the policy wrote
    num_messages: int
    is_truncated: bool
    has_reasoning: bool
    tokens: Tokens | None = None  # only if the settings ask for them


class Answer(NamedTuple):
    """A response, converted."""

    response: bytes  # JSON
    spoken: str  # what two responses are compared by: it holds no ids
    num_chars: int
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
    asked = prompts.asked(record.params, record.response.tools if isinstance(record.response, Response) else ABSENT)
    turns = response_turns(items, keep_reasoning=prompts.keep_reasoning, open_calls=asked.open_calls)
    question, turns = prompts.question_and_answer(asked, turns, has_index=record.task_index is not None)
    turns = _completion(turns, question, may_be_cut=is_truncated and prompts.keep_reasoning)
    answer = _answer(turns, settings.format, asks_with_tools=asked.has_tools)
    if settings.reasoning is ReasoningPolicy.REQUIRE_BOTH and not answer.has_reasoning:
        raise RowDropped(Reason.REASONING_MISSING)
    if reward == 0 and len(turns) == 1 and turns[0].message["content"].startswith(FAILED_PREFIX):
        raise RowDropped(Reason.FAILED, "the response is a text Failed: ...")  # by older agents, where a run failed
    agent = agent_name(record)
    response_id = record.response.id if isinstance(record.response, Response) else None
    task = task_identity(record, stable=None, across_files=False)
    name, is_unique = own_name(task, record.rollout_index, response_id)
    tokens = None
    if settings.token_ids:
        tokens = tokens_of(content, items, turns, asked.params, keep_reasoning=prompts.keep_reasoning)
    return Rollout(
        rollout_key(record.task_index, record.rollout_index),
        _group(record, question, settings, stable),
        question,
        answer.response,
        reward,
        agent,
        response_number(answer.spoken),
        sample_number(name, question, agent, answer.spoken, is_truncated=is_truncated),
        bool(name),
        is_unique,
        answer.num_chars,
        len(turns),
        is_truncated,
        answer.has_reasoning,
        tokens,
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
    terms = [weight * _number(_at(row, keys), ".".join(keys)) for weight, keys in field.terms]
    try:
        return _finite(math.fsum(terms))
    except (OverflowError, ValueError):  # the sum is beyond the floats, or inf - inf
        raise RowDropped(Reason.REWARD_NOT_A_NUMBER, f"the sum of {terms}") from None


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


def _completion(turns: list[Turn], question: Question, *, may_be_cut: bool) -> list[Turn]:
    """Leave what comes after the policy's last word, which teaches it nothing; refuse what says nothing.

    A policy that was cut while it thought has said its thoughts, if those are kept.
    """
    if question.asks_twice and any(turn.num_texts > 1 for turn in turns):
        raise RowDropped(Reason.RESPONSE_UNSUPPORTED, "several answers to several user turns, in no known order")
    while turns and not (turns[-1].num_texts or "tool_calls" in turns[-1].message):
        *turns, last = turns
        if may_be_cut and last.reasoning:
            thoughts: Message = {**last.message, "content": unfinished_reasoning(last.reasoning)}
            return [*turns, Turn(thoughts, last.reasoning, 1)]
        if last.reasoning:
            raise RowDropped(Reason.RESPONSE_EMPTY, "it ends in thoughts without an answer")
    if not turns:
        raise RowDropped(Reason.RESPONSE_EMPTY)
    return turns


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
            spoken = "\n".join(map(_without_ids, messages))
            response = _encode(messages)
    except (ValueError, OverflowError, RecursionError) as error:
        raise RowDropped(Reason.RESPONSE_UNSUPPORTED, str(error)) from None
    num_chars = sum(len(turn.message["content"]) for turn in turns if turn.message["role"] == "assistant")
    return Answer(response, spoken, num_chars, any(turn.reasoning for turn in turns))


def _group(record: Record, question: Question, settings: Settings, stable: bytes | None) -> bytes:
    agent = None if settings.across_agents else agent_name(record)
    task = task_identity(record, stable=stable, across_files=settings.across_files)
    return group_key(question, agent=agent, task=task + skills_identity(record))


def _weighted(message: Message) -> Message:
    """Mark what the policy did not write."""
    return message if message["role"] == "assistant" else {**message, "weight": 0}


def _without_ids(message: Message) -> str:
    calls = [call["function"] for call in message.get("tool_calls", ())]
    return f"\0{message['role']}\0 {message['content']} {_encode_sorted(calls).decode()}"


def _is_truncated(record: Record) -> bool:
    """Read `incomplete_details`, in most versions the only place where Gym tells it, and `status`."""
    response = record.response
    if not isinstance(response, Response):
        return False
    details = response.incomplete_details
    is_cut = bool(details.get("reason")) if isinstance(details, dict) else bool(details)
    return is_cut or response.status == "incomplete"


def own_name(task: bytes, rollout_index: object, response_id: object) -> tuple[bytes, bool]:
    """Give what tells a rollout from the others of its task, and whether it does so outside its file too.

    A rollout index restarts in each run. An id tells responses apart if it was made to: agents also write constants.
    """
    is_unique = isinstance(response_id, str) and _MADE_ID.search(response_id) is not None
    if rollout_index is None and not is_unique:
        return b"", False
    return b"%b %b" % (task, f"{rollout_index} {response_id}".encode()), is_unique


def sample_number(name: bytes, question: Question, agent: str | None, spoken: str, *, is_truncated: bool) -> int:
    """Number a rollout by all that it is: its name, its question, its agent and its words."""
    told = b"%b %d %b " % (name, is_truncated, (agent or "").encode())
    return number_of(told + question.digest + spoken.encode())
