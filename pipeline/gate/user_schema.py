"""A JSON Schema of the user's own, whose `$ref` reach no further than its folder."""

from pathlib import Path

import jsonschema_rs

from schemas.validation import Validator


def user_validator(path: Path) -> Validator:
    """Read a schema.

    Raises:
        UsageError: it is none, or refers to something outside.
    """
    return jsonschema_rs.validator_for(path.read_text(encoding="utf-8"))
