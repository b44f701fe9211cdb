"""A line to a row, by the strictest reading: what two readers could take differently is refused.

msgspec decodes; it takes the last value of a key that is there twice, as most readers do. Such keys are told at the
price of encoding the row again: where that gives the line itself, blanks aside, nothing was lost on the way.
"""

import msgspec

from pipeline.gate.finding import Problem
from pipeline.gate.line.json_faults import fault_of
from pipeline.gate.rules import Rule
from schemas.terminal import bare_excerpt

TOO_DEEP = Problem(Rule.MALFORMED_JSON, "", "JSON nested too deep", "fewer levels: most readers end at 1000 or before")
TOO_LARGE = Problem(Rule.MALFORMED_JSON, "", "an integer that no float can hold", "numbers of at most 1.8e308")
QUOTE, ESCAPED_QUOTE = b'"', b"\\u0022"

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


def decoded(content: bytes) -> tuple[object, Problem | None]:
    """Decode a line; with a problem, the row is None unless it could be read all the same."""
    try:
        row = _decode(content)
        again = _encode(row)
    except RecursionError:
        return None, TOO_DEEP
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        got = f"no valid JSON ({bare_excerpt(str(error))})"
        return None, fault_of(content) or Problem(Rule.MALFORMED_JSON, "", got, "one JSON object on the line")
    if again == content or _is_same(content, again):
        return row, None
    return row, fault_of(content)


def _is_same(content: bytes, again: bytes) -> bool:
    """Tell that a line has the keys that its row has, though it is written in another way.

    Either it differs in blanks alone, or it has as many texts: each has two quotes, and one more for each that is
    escaped in it, as long as it is not escaped by its number.
    """
    if content.isascii() == again.isascii() and msgspec.json.format(content, indent=-1) == again:
        return True
    return content.count(QUOTE) == again.count(QUOTE) and ESCAPED_QUOTE not in content
