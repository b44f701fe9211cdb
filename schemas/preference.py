"""The preference pair, and how it is read from and written to files: the contract between the two halves."""

from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import msgspec

from schemas.atomic import atomic_writer
from schemas.errors import DpoError, InputError
from schemas.forms import DEFAULT_KEYS, Form, PairKeys, form_of, kind_of
from schemas.lines import LineError, decode_strict
from schemas.rows import NumberedRow, read_rows
from schemas.terminal import bare_excerpt, path_text
from schemas.validation import Kind, detect_kind, row_findings

if TYPE_CHECKING:
    PackedIds = array[int]
else:
    PackedIds = array  # takes no type before Python 3.12


class Message(TypedDict):
    """One turn of a conversation in chat form."""

    role: str
    content: str
    tool_calls: NotRequired[list[dict[str, Any]]]
    tool_call_id: NotRequired[str]  # of a tool's result
    weight: NotRequired[int]  # 0 for what stands in a completion but was not written by the policy


@dataclass(frozen=True, slots=True)
class SampledTokens:
    """A response as the engine sampled it, so that nothing need be tokenised again; four bytes a token."""

    ids: PackedIds
    loss_mask: PackedIds | None = None  # 1 where the policy wrote the token; None where it wrote them all


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two responses to one prompt, the better one named: one record from disk to batch."""

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    source: str  # file:line
    chosen_reward: float | None = None
    rejected_reward: float | None = None
    chosen_truncated: bool = False  # the response was cut by a limit, so the policy did not end it
    rejected_truncated: bool = False
    tools: tuple[dict[str, Any], ...] = ()  # on offer, in the shape that chat templates take
    prompt_token_ids: PackedIds | None = None  # there where a response's tokens are
    chosen_sampled: SampledTokens | None = None
    rejected_sampled: SampledTokens | None = None
    environment: str = ""  # the agent that both responses are rollouts of, where the row names one
    dataset: int = 0  # which of several sets the pair is from


def read_pairs(path: Path, advance: Callable[[int], None] = lambda amount: None) -> list[PreferencePair]:
    """Read all pairs of a file at once; see `iter_pairs`."""
    return list(iter_pairs(path, advance))


def iter_pairs(path: Path, advance: Callable[[int], None] = lambda amount: None) -> Iterator[PreferencePair]:
    """Yield the pairs of a file, whose form is told by the keys of its first row; see `pairs_of_rows`."""
    return pairs_of_rows(read_rows(path, advance), shown=path_text(path))


def pairs_of_rows(
    rows: Iterable[NumberedRow],
    *,
    shown: str,
    form: Form | None = None,
    keys: PairKeys = DEFAULT_KEYS,
    dataset: int = 0,
    is_file: bool = True,
    count_tie: Callable[[], None] = lambda: None,
) -> Iterator[PreferencePair]:
    """Yield the pairs of numbered rows, each checked against its schema.

    `shown` is what the source is called in messages; `is_file` says whether other commands can read it too. `form` and
    `keys` are those of schemas/forms.py, `count_tie` is called for each row in which neither response is the better
    one. A row that is no pair is passed over and counted, and the count is raised at the end: only who has taken the
    last pair knows that the rows are sound.

    Raises:
        InputError: the rows can't be read, or a row is no preference pair; the first is named.
        DpoError: there are no rows, or ties alone.
    """
    first_problem = ""
    num_pairs = num_bad_rows = num_ties = 0
    for number, row in rows:
        try:
            if isinstance(row, LineError):
                raise row
            form = form or form_of(row, keys)
            if form is None and detect_kind(row) is Kind.ROLLOUT:
                raise InputError(_no_pairs_but(row, shown))
            pair = _pair(row, form, source=f"{shown}:{number}", dataset=dataset)
        except LineError as error:
            num_bad_rows += 1
            first_problem = first_problem or f"{shown}:{number}: {error}"
        else:
            if pair is None:
                num_ties += 1
                count_tie()
            else:
                num_pairs += 1
                yield pair
    num_rows = num_bad_rows + num_pairs + num_ties
    if num_bad_rows:
        can_validate = is_file and (form is None or form.is_told_by_keys)
        remedy = f", see each with: dpo validate {shown}{_options(keys)}" if can_validate else ""
        raise InputError(f"{first_problem}; {num_bad_rows} of {num_rows} rows are no preference pairs{remedy}")
    if not num_rows:
        remedy = f"; make pairs with: dpo collect-pairs ROLLOUTS -o {shown}" if is_file else ""
        raise DpoError(f"{shown}: has no rows{remedy}")
    if not num_pairs:
        raise DpoError(f"{shown}: no pairs: in all {num_rows:,} rows neither response is the better one")


def _options(keys: PairKeys) -> str:
    """Tell `dpo validate` what the keys are called."""
    named = zip(DEFAULT_KEYS, keys, strict=True)
    return "".join(f" --{ours}-key {bare_excerpt(key)}" for ours, key in named if key != ours)


def is_policys(message: Message) -> bool:
    """Tell whether the policy wrote this message of a completion."""
    return message["role"] == "assistant" and message.get("weight") != 0


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as JSONL; the file is there whole or not at all.

    Raises:
        DpoError: the file can't be written.
    """
    encoder = msgspec.json.Encoder()
    with atomic_writer(path) as stream:
        for row in rows:
            stream.write(encoder.encode(row) + b"\n")


def _pair(row: object, form: Form | None, *, source: str, dataset: int) -> PreferencePair | None:
    """Make a pair of a row; None where neither response is the better one."""
    if form is not None and isinstance(row, dict):
        row = form.convert(row)
        if row is None:
            return None
    kind = None if form is None else kind_of(row, form)
    for pointer, got, expected in row_findings(row, kind):
        raise LineError(f"{in_words_of(form, pointer) or '(row)'}: got {got}, expected {expected}")
    assert isinstance(row, dict)
    return pair_of(row, kind, source=source, dataset=dataset)


def pair_of(row: dict[str, Any], kind: Kind | None, *, source: str, dataset: int = 0) -> PreferencePair:
    """Make a pair of a row that fits the schema of its kind and has no tie.

    Raises:
        LineError: it is no pair for a reason that no schema tells.
    """
    if kind is Kind.PREFERENCE:
        return _from_ranked(row, source, dataset)
    prompt = row["prompt"]
    return PreferencePair(
        prompt=({"role": "user", "content": prompt},) if isinstance(prompt, str) else tuple(prompt),
        chosen=_completion(row["chosen"]),
        rejected=_completion(row["rejected"]),
        source=source,
        chosen_reward=row.get("chosen_reward"),
        rejected_reward=row.get("rejected_reward"),
        chosen_truncated=row.get("chosen_truncated") or False,
        rejected_truncated=row.get("rejected_truncated") or False,
        tools=_tools(row.get("tools")),
        prompt_token_ids=_prompt_token_ids(row, row.get("chosen_token_ids"), row.get("rejected_token_ids")),
        chosen_sampled=_sampled(row, "chosen_token_ids", "chosen_loss_mask"),
        rejected_sampled=_sampled(row, "rejected_token_ids", "rejected_loss_mask"),
        environment=_environment(row),
        dataset=dataset,
    )


def _from_ranked(row: dict[str, Any], source: str, dataset: int) -> PreferencePair:
    places = sorted((0, 1), key=lambda place: row["completions"][place]["rank"])
    better, worse = (row["completions"][place] for place in places)
    chosen_sampled, rejected_sampled = (
        _sampled(row["completions"][place], "token_ids", "loss_mask", where=f"/completions/{place}") for place in places
    )
    return PreferencePair(
        prompt=tuple(row["context"]),
        chosen=_completion(better["completion"]),
        rejected=_completion(worse["completion"]),
        source=source,
        chosen_reward=better.get("reward"),
        rejected_reward=worse.get("reward"),
        chosen_truncated=better.get("truncated") or False,
        rejected_truncated=worse.get("truncated") or False,
        tools=_tools(row.get("tools")),
        prompt_token_ids=_prompt_token_ids(row, better.get("token_ids"), worse.get("token_ids")),
        chosen_sampled=chosen_sampled,
        rejected_sampled=rejected_sampled,
        environment=_environment(row),
        dataset=dataset,
    )


def in_words_of(form: Form | None, pointer: str) -> str:
    """Name a key of a converted row as the row itself does; `pointer` is a JSON pointer."""
    head, slash, rest = pointer[1:].partition("/")
    if form is None or head not in DEFAULT_KEYS:
        return pointer
    return f"/{form.keys[DEFAULT_KEYS.index(head)]}{slash}{rest}"


def _no_pairs_but(row: object, shown: str) -> str:
    """Say what a file of rollouts is good for; rows without an answer are the tasks that rollouts are made of."""
    if isinstance(row, dict) and row.get("response") is not None:
        return f"{shown}: holds rollouts, not pairs; make pairs with: dpo collect-pairs {shown}"
    return f"{shown}: holds tasks without answers, not pairs; collect rollouts first: gym eval run --input {shown}"


def _completion(completion: str | list[Message]) -> tuple[Message, ...]:
    if isinstance(completion, str):
        return ({"role": "assistant", "content": completion},)
    if not any(message["role"] == "assistant" for message in completion):
        roles = bare_excerpt(", ".join(message["role"] for message in completion))
        raise LineError(f"a completion of roles {roles}: no message of the assistant, so nothing to train on")
    return tuple(completion)


def _environment(row: dict[str, Any]) -> str:
    agent = row.get("agent")
    return agent if isinstance(agent, str) else ""


def _tools(tools: object) -> tuple[dict[str, Any], ...]:
    """Read the tools on offer, which rows for TRL may have as JSON in a string."""
    if isinstance(tools, str) and tools:
        try:
            tools = decode_strict(tools.encode())
        except LineError as error:
            raise LineError(f"/tools: got a text that is no JSON ({error}), expected tools as JSON") from None
    if not tools:
        return ()
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise LineError("/tools: got something else, expected an array of objects")
    return tuple(tools)


def _prompt_token_ids(row: dict[str, Any], first: object, second: object) -> PackedIds | None:
    value = row.get("prompt_token_ids")
    if value is None:
        if first is not None or second is not None:
            raise LineError("/prompt_token_ids: got none, expected the prompt's, since a response has token ids")
        return None
    if not value:
        raise LineError("/prompt_token_ids: got no token, expected a length of at least 1")
    return _integers(value, "/prompt_token_ids", "token ids")


def _sampled(holder: dict[str, Any], ids_key: str, mask_key: str, *, where: str = "") -> SampledTokens | None:
    ids, mask = holder.get(ids_key), holder.get(mask_key)
    if ids is None:
        if mask is not None:
            raise LineError(f"{where}/{mask_key}: got a loss mask, expected {ids_key} beside it")
        return None
    tokens = _integers(ids, f"{where}/{ids_key}", "token ids")
    if mask is None:
        return SampledTokens(tokens)
    bits = _integers(mask, f"{where}/{mask_key}", "0 or 1 for each token")
    if len(bits) != len(tokens) or not set(bits) <= {0, 1}:
        got = f"{len(bits)} numbers from {min(bits, default=0)} to {max(bits, default=0)}"
        raise LineError(f"{where}/{mask_key}: got {got}, expected 0 or 1 for each of {len(tokens)} tokens")
    return SampledTokens(tokens, None if all(bits) else bits)


def _integers(value: object, pointer: str, expected: str) -> PackedIds:
    """Pack what should be a list of integers that fit into four bytes and are not negative."""
    if isinstance(value, list) and set(map(type, value)) <= {int}:
        try:
            packed = array("i", value)
        except OverflowError:
            packed = array("i", [-1])
        if min(packed, default=0) >= 0:
            return packed
    raise LineError(f"{pointer}: got something else, expected {expected} in an array")
