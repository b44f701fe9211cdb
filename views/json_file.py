"""A JSON file that a stage wrote, read for a page."""

import json
from pathlib import Path
from typing import Any

from schemas.errors import InputError
from schemas.terminal import path_text, reason


def json_object(path: Path, expected: str) -> dict[str, Any]:
    """Read an object; `expected` says in words what the file should hold.

    Raises:
        InputError: it can't be read, or holds something else.
    """
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path_text(path)}: can't be read: {reason(error)}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path_text(path)}: got no JSON, expected {expected}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path_text(path)}: got no object, expected {expected}")
    return found
