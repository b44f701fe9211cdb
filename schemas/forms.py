"""The forms that preference rows come in, and how each becomes one of our own: BinaryPreference, TRL or Preference.

A form is told by the keys of the first row, or named. Each conversion is a pure function from row to row; what it gives
is still to be checked against its schema.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from schemas.lines import LineError
from schemas.terminal import bare_excerpt, excerpt
from schemas.validation import Kind, detect_kind, shape_of

Row = dict[str, Any]

ASSISTANT_MARK = "\n\nAssistant:"
"""What stands before each answer in dialogues that are one text (Anthropic's hh-rlhf)."""
USUAL_PROMPT_KEYS = ("question", "instruction", "query", "problem", "input", "user")


class PairKeys(NamedTuple):
    """What the keys of a BinaryPreference row are called."""

    prompt: str = "prompt"
    chosen: str = "chosen"
    rejected: str = "rejected"


DEFAULT_KEYS = PairKeys()
OLD_KEYS = PairKeys(chosen="chosen_response", rejected="rejected_response")  # of NeMo RL up to 0.3


@dataclass(frozen=True)
class Form:
    """A form of rows; `convert` gives a row of ours, or None where neither response is the better one."""

    convert: Callable[[Row], Row | None]
    is_ranked: bool = False  # Preference rows come out
    keys: PairKeys = DEFAULT_KEYS  # for messages: what the row calls its parts
    is_told_by_keys: bool = True  # else only its data set's name tells it
    name: str = ""  # where the kind of the converted rows does not say it


def kind_of(row: object, form: Form) -> Kind:
    """Say which schema a converted row is held to."""
    if form.is_ranked:
        return Kind.PREFERENCE
    return Kind.TRL if isinstance(row, dict) and _has_messages(row) else Kind.BINARY_PREFERENCE


def named_form(name: str, keys: PairKeys) -> Form | None:
    """Give the form that a data set's name stands for; None where rows are told by their keys."""
    match name:
        case "BinaryPreferenceDataset":
            return binary_form(keys)
        case "PreferenceDataset":
            return RANKED
        case "HelpSteer3":
            return HELPSTEER3
        case "Tulu3Preference":
            return TULU3
    return None


def form_of(row: object, keys: PairKeys) -> Form | None:
    """Tell a row's form from its keys; None where it is no preference row."""
    kind = detect_kind(row)
    if not isinstance(row, dict) or kind is Kind.ROLLOUT:
        return None
    if row.keys() >= {*keys} or keys != DEFAULT_KEYS:
        return binary_form(keys)
    if row.keys() >= {*OLD_KEYS}:
        return OLD_NEMO_RL
    if row.keys() >= {"context", "response1", "response2", "overall_preference"}:
        return HELPSTEER3
    if kind is Kind.PREFERENCE:
        return RANKED
    if row.keys() >= {"chosen", "rejected"}:
        return IMPLICIT
    return None if kind is None else binary_form(keys)


def binary_form(keys: PairKeys) -> Form:
    """Give the form of BinaryPreference rows whose keys are called so."""
    if keys == DEFAULT_KEYS:
        return BINARY
    return Form(lambda row: _as_binary(_renamed(row, keys)), keys=keys)


def _renamed(row: Row, keys: PairKeys) -> Row:
    for key in keys:
        if key not in row:
            raise LineError(f"(row): got an object with keys {bare_excerpt(', '.join(row))}, expected a key {key}")
    ours = dict(zip(DEFAULT_KEYS, keys, strict=True))
    others = {key: value for key, value in row.items() if key not in (*keys, *DEFAULT_KEYS)}
    return others | {our: row[key] for our, key in ours.items()}


def _as_binary(row: Row) -> Row:
    """Bring prompt and sides to one shape: texts, or messages where one of the sides has messages."""
    if not _has_messages(row):
        return row
    prompt, sides = row.get("prompt"), {side: row.get(side) for side in ("chosen", "rejected")}
    if all(_is_whole_conversation(side) for side in sides.values()):
        return _with_prompt_told(row)
    if isinstance(prompt, str):
        row = row | {"prompt": [{"role": "user", "content": prompt}]}
    texts = {side: [{"role": "assistant", "content": text}] for side, text in sides.items() if isinstance(text, str)}
    return row | texts


def _has_messages(row: Row) -> bool:
    return isinstance(row.get("chosen"), list) or isinstance(row.get("rejected"), list)


def _with_prompt_told(row: Row) -> Row:
    """Cut the prompt off two whole conversations that have it once more beside them."""
    prompt, sides = row.get("prompt"), {side: row[side] for side in ("chosen", "rejected")}
    if not isinstance(prompt, str):
        begin = isinstance(prompt, list) and all(side[: len(prompt)] == prompt for side in sides.values())
        return row | {name: side[len(prompt) :] for name, side in sides.items()} if begin and prompt else row
    split = _split_conversations(**sides)
    contents = [message.get("content") for message in split["prompt"] if isinstance(message, dict)]
    if not any(isinstance(content, str) and prompt.strip() == content.strip() for content in contents):
        raise LineError(
            f"/prompt: got {excerpt(prompt)}, which is none of the messages that both sides begin with; take the key "
            "out, or the prompt's messages out of both sides"
        )
    return row | split


def _is_whole_conversation(side: object) -> bool:
    """Tell a conversation with its prompt from a response alone."""
    if not isinstance(side, list) or len(side) < 2 or not isinstance(side[0], dict):
        return False
    return side[0].get("role") in ("system", "developer", "user")


def _from_common_beginning(row: Row) -> Row:
    """Cut the prompt off two whole conversations, or two whole texts: it is their common beginning."""
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if isinstance(chosen, list) and isinstance(rejected, list):
        return row | _split_conversations(chosen, rejected)
    if isinstance(chosen, str) and isinstance(rejected, str):
        return row | _split_texts(row, chosen, rejected)
    return row


def _split_conversations(chosen: list[Any], rejected: list[Any]) -> Row:
    """Cut between two messages, so that something is left on both sides, as TRL's extract_prompt does."""
    longest = min(len(chosen), len(rejected)) - 1
    place = next((place for place in range(longest) if chosen[place] != rejected[place]), max(longest, 0))
    if not place:
        raise LineError("/chosen: got a conversation that begins otherwise than /rejected, expected a common beginning")
    return {"prompt": chosen[:place], "chosen": chosen[place:], "rejected": rejected[place:]}


def _split_texts(row: Row, chosen: str, rejected: str) -> Row:
    """Cut behind the last mark of an answer, or before a word, so that no word is torn."""
    for key in USUAL_PROMPT_KEYS:
        if isinstance(row.get(key), str):
            raise LineError(f"(row): got no key prompt, but a key {key}; say prompt_key={key} if that is the prompt")
    longest = min(len(chosen), len(rejected))
    place = next((place for place in range(longest) if chosen[place] != rejected[place]), longest)
    mark = chosen.rfind(ASSISTANT_MARK, 0, place)
    if mark > 0:
        place = mark + len(ASSISTANT_MARK)
    else:
        place = next((at for at in range(place - 1, -1, -1) if chosen[at].isspace()), 0)
    if not chosen[:place].strip():
        raise LineError(
            f"(row): got no key prompt, and no words in common at the beginning of {excerpt(chosen)} and "
            f"{excerpt(rejected)}; expected a prompt (prompt_key= names its key)"
        )
    return {"prompt": chosen[:place], "chosen": chosen[place:], "rejected": rejected[place:]}


def _without_prompt(row: Row) -> Row:
    if row.get("prompt") is not None:
        raise LineError("/prompt: got a prompt, expected none: the first row has none, and all rows have one form")
    return _from_common_beginning(row)


def _as_ranked(row: Row) -> Row:
    completions = row.get("completions")
    if isinstance(completions, list) and len(completions) != 2:
        raise LineError(
            f"/completions: got {len(completions)}, expected two; keep the best and another one, or make a row of each "
            "pair of them"
        )
    return {key: value for key, value in row.items() if key != "task_name"}


def _from_helpsteer3(row: Row) -> Row | None:
    """Take the sign of overall_preference: below 0 the first response is better, above 0 the second."""
    preference, context = row.get("overall_preference"), row.get("context")
    if isinstance(preference, bool) or not isinstance(preference, (int, float)):
        raise LineError("/overall_preference: got no number, expected -3 (response1 is better) to 3 (response2 is)")
    first, second = row.get("response1"), row.get("response2")
    for key, response in (("response1", first), ("response2", second)):
        if not isinstance(response, str) or (preference and not response):
            raise LineError(f"/{key}: got {shape_of(response)}, expected text")
    if preference == 0:
        return None
    chosen, rejected = (first, second) if preference < 0 else (second, first)
    return {"prompt": context, "chosen": chosen, "rejected": rejected}


def _from_tulu3(row: Row) -> Row:
    """Take the last message of each conversation; what stands before must be the same."""
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if not (_is_whole_conversation(chosen) and _is_whole_conversation(rejected)):
        raise LineError("/chosen, /rejected: got no conversation, expected prompt and answer as messages in each")
    assert isinstance(chosen, list)
    assert isinstance(rejected, list)
    if chosen[:-1] != rejected[:-1]:
        raise LineError("/chosen: got another context than in /rejected, expected the same messages before the last")
    return {"prompt": chosen[:-1], "chosen": chosen[-1:], "rejected": rejected[-1:]}


BINARY = Form(_as_binary)
RANKED = Form(_as_ranked, is_ranked=True)
OLD_NEMO_RL = replace(binary_form(OLD_KEYS), name="BinaryPreference of NeMo RL 0.3")
IMPLICIT = Form(_without_prompt, name="pairs with the prompt in both sides")
HELPSTEER3 = Form(_from_helpsteer3, keys=PairKeys("context"), name="HelpSteer3")
TULU3 = Form(_from_tulu3, is_told_by_keys=False, name="Tulu3Preference")
