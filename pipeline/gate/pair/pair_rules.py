"""The rules on a single pair: one function for each, in one table.

Those on what its texts hold are in text_rules.py, the one on the order of messages is in role_rules.py.
"""

import math
from collections.abc import Callable, Iterator

from pipeline.gate.finding import Problem
from pipeline.gate.pair.pointers import SIDES, Part, message_pointer, messages_of, part_pointer, told_pointer
from pipeline.gate.pair.role_rules import role_order
from pipeline.gate.pair.text_rules import broken_encoding, control_character, secret, template_token
from pipeline.gate.pair.view import PairView
from pipeline.gate.rules import Rule
from pipeline.gate.settings import GateSettings
from schemas.preference import Message
from schemas.terminal import bare_excerpt, counted

PairCheck = Callable[[PairView, GateSettings], Iterator[Problem]]

INVISIBLE = "".join(
    chr(code)
    for first, last in (
        # white space
        *((0x09, 0x0D), (0x1C, 0x20), (0x85, 0x85), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A)),
        *((0x2028, 0x2029), (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000)),
        # what Unicode calls default ignorable: zero-width spaces and joiners, marks of direction, fillers, tags
        *((0xAD, 0xAD), (0x34F, 0x34F), (0x61C, 0x61C), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F)),
        *((0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0x3164, 0x3164), (0xFE00, 0xFE0F)),
        *((0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0), (0x1D173, 0x1D17A), (0xE0001, 0xE0001), (0xE0020, 0xE007F)),
        (0xE0100, 0xE01EF),
        (0x2800, 0x2800),  # Braille without a dot
    )
    for code in range(first, last + 1)
)
"""Characters of which none leaves a mark where it stands alone."""
_invisible = frozenset(INVISIBLE)
SAME_MARGIN = 1e-9
"""A margin that is less by this share is the limit, for 0.3 - 0.2 is less than 0.1 in floats."""


def reward_tie(view: PairView, settings: GateSettings) -> Iterator[Problem]:
    """Find a pair whose sides have one reward."""
    better, worse = view.pair.chosen_reward, view.pair.rejected_reward
    if better is not None and better == worse:
        pointer = told_pointer(view, Part.REJECTED, "reward")
        yield Problem(Rule.REWARD_TIE, pointer, f"{_number(better)}, as for the other response", "a lower reward")


def reward_order(view: PairView, settings: GateSettings) -> Iterator[Problem]:
    """Find a pair whose chosen side has the lower reward."""
    better, worse = view.pair.chosen_reward, view.pair.rejected_reward
    if better is not None and worse is not None and better < worse:
        pointer = told_pointer(view, Part.CHOSEN, "reward")
        expected = f"more than the {_number(worse)} of the rejected response"
        yield Problem(Rule.REWARD_ORDER, pointer, _number(better), expected)


def reward_range(view: PairView, settings: GateSettings) -> Iterator[Problem]:
    """Find rewards outside of the limits."""
    least, most = settings.limits.min_reward, settings.limits.max_reward
    if least is None and most is None:
        return
    for side, reward in ((Part.CHOSEN, view.pair.chosen_reward), (Part.REJECTED, view.pair.rejected_reward)):
        if reward is None:
            continue
        if least is not None and reward < least:
            pointer = told_pointer(view, side, "reward")
            yield Problem(Rule.REWARD_RANGE, pointer, _number(reward), f"at least {_number(least)}")
        if most is not None and reward > most:
            pointer = told_pointer(view, side, "reward")
            yield Problem(Rule.REWARD_RANGE, pointer, _number(reward), f"at most {_number(most)}")


def small_margin(view: PairView, settings: GateSettings) -> Iterator[Problem]:
    """Find a pair whose rewards are too close; where they are swapped, another rule says so."""
    least = settings.limits.min_margin
    better, worse = view.pair.chosen_reward, view.pair.rejected_reward
    if least is None or better is None or worse is None or better < worse:
        return
    margin = _float(better) - _float(worse)
    if margin < least and not math.isclose(margin, least, rel_tol=SAME_MARGIN):
        pointer = told_pointer(view, Part.CHOSEN, "reward")
        got = f"a margin of {_number(margin)} ({_number(better)} and {_number(worse)})"
        yield Problem(Rule.SMALL_MARGIN, pointer, got, f"at least {_number(least)}")


def identical_responses(view: PairView, settings: GateSettings) -> Iterator[Problem]:
    """Find a pair whose sides say the same."""
    if view.says_one_thing:
        size = counted(len(view.rejected), "character")
        got = f"the chosen response once more ({size})"
        yield Problem(Rule.IDENTICAL_RESPONSES, part_pointer(view, Part.REJECTED), got, "another response")


def empty_text(view: PairView, settings: GateSettings) -> Iterator[Problem]:
    """Find a prompt that asks nothing, and responses that say nothing and call nothing."""
    pair = view.pair
    asked = pair.prompt[-1]
    if is_blank(view.prompt) or (asked["role"] == "user" and is_blank(asked["content"])):
        pointer = message_pointer(view, Part.PROMPT, len(pair.prompt) - 1)
        yield Problem(Rule.EMPTY_TEXT, pointer, _emptiness(asked["content"]), "a prompt that asks something")
    for side in SIDES:
        messages = messages_of(view, side)
        last = messages[-1]
        if is_blank(last["content"]) and last["role"] == "assistant" and not last.get("tool_calls"):
            pointer = message_pointer(view, side, len(messages) - 1)
            yield Problem(Rule.EMPTY_TEXT, pointer, _emptiness(last["content"]), "a response that says something")


def truncated_chosen(view: PairView, settings: GateSettings) -> Iterator[Problem]:
    """Find a chosen response that the policy did not end."""
    if view.pair.chosen_truncated:
        pointer = told_pointer(view, Part.CHOSEN, "truncated")
        yield Problem(Rule.TRUNCATED_CHOSEN, pointer, "a response that was cut", "one that the policy ended")


def length_ratio(view: PairView, settings: GateSettings) -> Iterator[Problem]:
    """Find a pair whose responses are too different in length; what tools and users say in them doesn't count."""
    most = settings.limits.max_length_ratio
    if most is None:
        return
    chosen, rejected = num_chars(view.pair.chosen), num_chars(view.pair.rejected)
    longer, shorter = (chosen, rejected) if chosen > rejected else (rejected, chosen)
    if longer > (shorter or 1) * most:
        pointer = part_pointer(view, Part.CHOSEN if chosen == longer else Part.REJECTED)
        got = f"{counted(longer, 'character')} beside {shorter:,}"
        yield Problem(Rule.LENGTH_RATIO, pointer, got, f"at most {_number(most)} times as many")


def is_blank(text: str) -> bool:
    """Tell whether nothing of a text can be seen."""
    text = text.strip()
    return not text or (text[0] in _invisible and not text.strip(INVISIBLE))


def num_chars(messages: tuple[Message, ...]) -> int:
    """Count what the assistant says, as `collect-pairs` does."""
    if len(messages) == 1:
        return len(messages[0]["content"])
    return sum([len(message["content"]) for message in messages if message["role"] == "assistant"])


def _emptiness(text: str) -> str:
    return f"nothing but white space ({counted(len(text), 'character')})" if text else "an empty string"


def _number(value: float) -> str:
    return bare_excerpt(str(value).removesuffix(".0"))


def _float(value: float) -> float:
    """Make a float of a number; JSON has integers that are too large for one."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


PAIR_CHECKS: dict[Rule, PairCheck] = {
    Rule.REWARD_TIE: reward_tie,
    Rule.REWARD_ORDER: reward_order,
    Rule.REWARD_RANGE: reward_range,
    Rule.SMALL_MARGIN: small_margin,
    Rule.IDENTICAL_RESPONSES: identical_responses,
    Rule.EMPTY_TEXT: empty_text,
    Rule.ROLE_ORDER: role_order,
    Rule.TRUNCATED_CHOSEN: truncated_chosen,
    Rule.TEMPLATE_TOKEN: template_token,
    Rule.CONTROL_CHARACTER: control_character,
    Rule.BROKEN_ENCODING: broken_encoding,
    Rule.SECRET: secret,
    Rule.LENGTH_RATIO: length_ratio,
}
"""In the order of `Rule`."""
