"""The token ids that the policy sampled, as a rollout's items carry them; read only if --token-ids asks for them.

Gym puts `prompt_token_ids` and `generation_token_ids` on one item of each model call. They go along only if they are
certain to be those of the text that goes out, so a response has all of its ids or none.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta, Struct

from pipeline.attrition import Reason
from pipeline.convert import Turn, last_snapshot, text_of
from pipeline.identify import number_of
from pipeline.record import Item, Params, Scalar
from schemas.lines import LineError, decode_tolerant

MAX_ID = 2**31 - 1  # of 32 bits, as Parquet and the trainers hold them
NO_IDS = 0
"""The number of a rollout without ids."""

Ids = Annotated[list[Annotated[int, Meta(ge=0, le=MAX_ID)]], Meta(min_length=1)]


class Tokens(NamedTuple):
    """What was asked and what was answered in token ids, as JSON."""

    prompt: bytes
    response: bytes  # with what others said in it
    loss_mask: bytes  # 1 for each token that the policy sampled, or null where it sampled all of them

    @property
    def prompt_number(self) -> int:
        """Number the prompt's ids: equal for equal ones, and never NO_IDS."""
        return _positive(self.prompt)

    @property
    def number(self) -> int:
        """Number all of it."""
        return _positive(b" ".join(self))


class TokenItem(Struct):
    """The ids of an item of `output`."""

    prompt_token_ids: Any = None
    generation_token_ids: Any = None


TokenItems = list[TokenItem | list[Any] | Scalar] | dict[str, Any] | Scalar


class TokenResponse(Struct):
    """The response object."""

    output: TokenItems = None


class TokenRecord(Struct):
    """A line of a rollout file as far as it holds ids."""

    response: TokenResponse | list[Any] | Scalar = None
    output: TokenItems = None


class Call(NamedTuple):
    """One call of the model."""

    prompt: list[int]
    generation: list[int]


_records = msgspec.json.Decoder(TokenRecord)
_encode = msgspec.json.Encoder().encode


def tokens_of(
    content: bytes, items: list[Any], turns: Sequence[Turn], params: Params, *, keep_reasoning: bool
) -> Tokens | None:
    """Give the ids of the line `content`, whose trajectory is `items`, and of which `turns` go out as the response.

    None where it has no ids, where they are malformed or do not extend one another, and where something that the
    policy sampled does not go out: turns that are cut off, reasoning that is taken off or was never recorded.
    """
    items, ids = last_snapshot(items), _token_items(content)
    if len(items) != len(ids):
        return None
    asked = params.input if isinstance(params.input, list) else []
    if not keep_reasoning and any(_has_reasoning(item) for item in (*asked, *items)):
        return None
    calls: list[Call] = []
    for is_policys, run in groupby(zip(items, ids, strict=True), key=lambda each: _is_of_policy(each[0])):
        call = _call_of(list(run)) if is_policys else None
        if call is not None:
            calls.append(call)
        elif is_policys:
            return None
    if len(calls) != sum(turn.message["role"] == "assistant" for turn in turns):
        return None
    return _joined(calls)


def _token_items(content: bytes) -> list[Any]:
    """Read the ids of a line: one TokenItem for each item of its trajectory, in this order."""
    try:
        record = _records.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        try:
            record = msgspec.convert(decode_tolerant(content), TokenRecord)
        except (LineError, msgspec.ValidationError, RecursionError):
            return []
    items = record.response.output if isinstance(record.response, TokenResponse) else record.output
    if not isinstance(items, list):
        return []
    if items and all(isinstance(item, list) for item in items):
        items = msgspec.convert(items[-1], list[TokenItem | list[Any] | Scalar])
    return items


def _call_of(run: list[tuple[Item, TokenItem]]) -> Call | None:
    """Give the call that made all that the policy said in one go; None if it may have been several, or was edited."""
    bearing = [place for place, (_, ids) in enumerate(run) if ids.prompt_token_ids or ids.generation_token_ids]
    num_messages = sum(item.type in (None, "message") for item, _ in run)
    if len(bearing) != 1 or num_messages > 1:
        return None
    (place,) = bearing
    if any(item.type != "function_call" for item, _ in run[place + 1 :]):  # what came after the call's last item
        return None
    if any(item.type == "reasoning" and not _is_recorded(item) for item, _ in run):
        return None
    ids = run[place][1]
    try:
        return Call(msgspec.convert(ids.prompt_token_ids, Ids), msgspec.convert(ids.generation_token_ids, Ids))
    except msgspec.ValidationError:
        return None


def _joined(calls: Sequence[Call]) -> Tokens | None:
    """Make one sequence of calls; None if one does not begin with all that the one before it read and wrote."""
    first = calls[0]
    response, mask = list(first.generation), [1] * len(first.generation)
    known = first.prompt + first.generation
    for prompt, generation in calls[1:]:
        if prompt[: len(known)] != known:
            return None
        between = prompt[len(known) :]
        response += between + generation
        mask += [0] * len(between) + [1] * len(generation)
        known = prompt + generation
    return Tokens(_encode(first.prompt), _encode(response), _encode(mask if 0 in mask else None))


def _is_of_policy(item: object) -> bool:
    """Tell whether an item of a response goes into a turn of the policy, as `convert` sees it."""
    if not isinstance(item, Item):
        return False
    is_message = item.type is None or item.type == "message"
    return item.role in (None, "assistant") if is_message else item.type in ("function_call", "reasoning")


def _has_reasoning(item: object) -> bool:
    """Tell whether there may be reasoning in an item of the policy that `--reasoning strip` takes off."""
    if not isinstance(item, Item) or not _is_of_policy(item):
        return False
    return item.type == "reasoning" or (
        item.type != "function_call" and "think>" in text_of(item.content, Reason.RESPONSE_UNSUPPORTED)
    )


def _is_recorded(item: Item) -> bool:
    """Tell whether all thoughts go out: not where a summary stands for them, or where they were kept secret."""
    if text_of(item.summary, Reason.RESPONSE_UNSUPPORTED):
        return not item.content
    return bool(text_of(item.content, Reason.RESPONSE_UNSUPPORTED))


def _positive(content: bytes) -> int:
    return number_of(content) & 2**63 - 1 or 1
