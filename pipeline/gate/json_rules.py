"""A line to a row, by the strictest reading: what two readers could take differently is refused."""

from pipeline.gate.finding import Problem
from pipeline.gate.rules import Rule
from schemas.lines import LineError, decode_strict


def decoded(content: bytes) -> tuple[object, Problem | None]:
    """Decode a line; with a problem, the row is None unless it could be read all the same."""
    try:
        return decode_strict(content), None
    except LineError as error:
        return None, Problem(Rule.MALFORMED_JSON, "", f"no valid JSON ({error})", "one JSON object on the line")
