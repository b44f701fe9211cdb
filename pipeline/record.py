"""The row of a rollout file as far as a collection needs it; everything else in the line is passed over undecoded.

Verifiers and agents write what they like, so no field's type can be relied on: each field takes any JSON type, and the
code that uses it looks. Token ids, log-probs and verifiers' own keys, often most of a row, are never made into objects.
"""

import json
import math
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, field

from pipeline.attrition import Reason, RowDropped

MAX_DIGITS = 300
ABSENT = Raw(b"")
"""The value of a raw field that the row has not."""

Scalar = str | int | float | bool | None


class Part(Struct):
    """A piece of a message's content."""

    type: Any = None
    text: Any = None


class Item(Struct):
    """One item of `input` or `output`: a message, reasoning, a tool call, a tool's output."""

    type: Any = None
    role: Any = None
    content: list[Part | list[Any] | Scalar] | dict[str, Any] | Scalar = None
    summary: list[Part | list[Any] | Scalar] | dict[str, Any] | Scalar = None  # of reasoning
    name: Any = None  # of a tool call
    arguments: Any = None
    call_id: Any = None
    output: list[Part | list[Any] | Scalar] | dict[str, Any] | Scalar = None  # of a tool
    tool_calls: Any = None  # of a message in chat form
    tool_call_id: Any = None


Items = list[Item | list[Any] | Scalar] | dict[str, Any] | Scalar


class Response(Struct):
    """The last response object, whose `output` is the whole trajectory."""

    output: Items = None
    id: Any = None
    status: Any = None
    incomplete_details: Any = None
    tools: Raw = ABSENT  # what an agent offered beside those of the dataset row


class Params(Struct):
    """What the policy was asked."""

    input: Items | msgspec.UnsetType = UNSET
    instructions: Any = None
    tools: Any = None
    metadata: Any = None
    text: Any = None  # the format asked for


class Maskable(Struct):
    """What says, inside `instance_config`, that the reward measures nothing."""

    mask_sample: Any = None


class Record(Struct):
    """One line of a rollout file."""

    params: Raw = field(name="responses_create_params", default=ABSENT)
    response: Response | list[Any] | Scalar = None
    output: Items = None  # where Gym's first documentation has the trajectory
    reward: Any = None
    agent_ref: Any = None
    task: Raw = field(name="_ng_task_id", default=ABSENT)
    task_index: Any = field(name="_ng_task_index", default=None)
    rollout_index: Any = field(name="_ng_rollout_index", default=None)
    failure_class: Any = field(name="_ng_failure_class", default=None)
    skills_ref: Raw = ABSENT  # what the agent was taught for the run
    mask_sample: Any = None
    instance_config: Maskable | list[Any] | Scalar = None
    verification_skipped: Any = None
    invalid_judge_response: Any = None
    exception_type: Any = None
    # verifiers' keys that differ between tasks of one prompt text
    expected_answer: Raw = ABSENT
    expected_output: Raw = ABSENT
    expected_action: Raw = ABSENT
    expected_result: Raw = ABSENT
    ground_truth: Raw = ABSENT
    reference_answer: Raw = ABSENT
    label: Raw = ABSENT
    target: Raw = ABSENT
    solution: Raw = ABSENT
    question: Raw = ABSENT
    instruction_id_list: Raw = ABSENT
    kwargs: Raw = ABSENT
    verifier_metadata: Raw = ABSENT
    difficulty: Raw = ABSENT
    task_id: Raw = ABSENT
    uuid: Raw = ABSENT
    problem_id: Raw = ABSENT
    instance_id: Raw = ABSENT
    grading_id: Raw = ABSENT
    hashid: Raw = ABSENT
    # what tells rows that are no rollouts
    usersim_result: Raw = ABSENT
    chosen: Raw = ABSENT
    completions: Raw = ABSENT


FIELDS = {each.encode_name for each in msgspec.structs.fields(Record)}

_records = msgspec.json.Decoder(Record)
_params = msgspec.json.Decoder(Params)


def decode_record(content: bytes) -> Record:
    """Decode one line.

    Raises:
        RowDropped: the line is no JSON, or no object.
    """
    try:
        return _records.decode(content)
    except RecursionError:
        raise RowDropped(Reason.NOT_JSON, "JSON nested too deep") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return _records.decode(_mended(content, error, FIELDS))


def decode_params(params: bytes) -> Params | None:
    """Decode `responses_create_params`; None where it is no object."""
    try:
        return _params.decode(params)
    except RecursionError:
        raise RowDropped(Reason.NOT_JSON, "JSON nested too deep") from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        try:
            return _params.decode(_mended(params, error, Params.__struct_fields__))
        except msgspec.ValidationError:
            return None


def decode_items(items: list[Any]) -> list[Any]:
    """Give the items of a list inside a list, which are not decoded yet, as items."""
    converted: list[Any] = msgspec.convert(items, list[Item | list[Any] | Scalar])
    return converted


def value_of(raw: Raw) -> Any:
    """Decode a field that was kept raw; None where the row has not got it.

    Raises:
        RowDropped: it can't be read, which nobody has looked at so far.
    """
    if raw is ABSENT:
        return None
    try:
        return json.loads(bytes(raw), parse_int=_integer)
    except (ValueError, RecursionError) as error:
        raise RowDropped(Reason.NOT_JSON, str(error)) from None


def _mended(content: bytes, error: Exception, fields: Iterable[str]) -> bytes:
    """Rewrite as standard JSON what Gym's older writers left behind: NaN, Infinity, numbers of any size.

    A number that JSON has no place for becomes a string of its name, which no field takes for a number.

    Raises:
        RowDropped: the line is no JSON in this wider sense either.
    """
    problem = f"not UTF-8: {error.reason}" if isinstance(error, UnicodeDecodeError) else str(error)
    try:
        value = json.loads(content, parse_int=_integer, parse_float=_finite, parse_constant=str)
    except UnicodeDecodeError as undecodable:
        byte = undecodable.object[undecodable.start]
        raise RowDropped(Reason.NOT_JSON, f"not UTF-8: byte 0x{byte:02x}") from None
    except (ValueError, RecursionError):
        raise RowDropped(Reason.NOT_JSON, problem) from None
    if not isinstance(value, dict):
        raise RowDropped(Reason.NOT_A_ROLLOUT, f"a JSON {type(value).__name__}")
    try:
        needed = {key: value[key] for key in set(fields) & value.keys()}
        return json.dumps(needed, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise RowDropped(Reason.NOT_JSON, "a string holds a lone surrogate (half a character)") from None


def _integer(digits: str) -> int | str:
    """Read an integer exactly; one that no float holds stays text."""
    return int(digits) if len(digits) <= MAX_DIGITS else digits


def _finite(digits: str) -> float | str:
    number = float(digits)
    return number if math.isfinite(number) else str(number)
