"""Keeping keys and passwords out of what is shown to people or sent to a tracker."""

import os
import re

HIDDEN = "***"

SECRET_MARKS = ("_KEY", "_TOKEN", "_PASSWORD", "_SECRET")
"""How the names of environment variables end, or go on before an underscore, whose values nobody may see."""

SHORTEST_SECRET = 8
"""Values shorter than this are no keys, and would stand in innocent words."""

_USER = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.\-]*:/{1,2})[^/\s@]+@", re.IGNORECASE)
_QUERY = re.compile(r"(?P<address>\b[a-z][a-z0-9+.\-]*:/{1,2}[^\s?]+)\?[^\s'\"]+", re.IGNORECASE)


def without_secrets(text: str) -> str:
    """Hide the values of secret environment variables, and of URLs the user with password and the query.

    A query may be a signature (of S3, of Azure), with which anyone could read what is behind the URL.
    """
    for value in sorted(_secret_values(), key=len, reverse=True):  # one may be part of another
        text = text.replace(value, HIDDEN)
    text = _USER.sub(rf"\g<scheme>{HIDDEN}@", text)
    return _QUERY.sub(rf"\g<address>?{HIDDEN}", text)


def _secret_values() -> set[str]:
    return {
        value
        for name, value in os.environ.items()
        if len(value) >= SHORTEST_SECRET and any(mark in f"{name}_" for mark in (f"{each}_" for each in SECRET_MARKS))
    }
