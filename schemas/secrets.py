"""Keeping keys and passwords out of what is shown to people, written into files or sent to a tracker."""

import os
import re
from itertools import pairwise
from typing import Any

HIDDEN = "***"

SECRET_NAME = re.compile(
    r"(?:^|_)(?:API_?KEY|KEY|TOKEN|PAT|SECRET|PASS|PASSWD|PASSPHRASE|CREDENTIALS?|AUTH|AUTHORIZATION|CONNECTION_STRING)"
    r"(?:_|$)|PASSWORD",
    re.IGNORECASE,
)
"""The names of environment variables whose values nobody may see."""

SHORTEST_SECRET = 8
"""Values shorter than this are no keys, and would stand in innocent words."""

_WORD = re.compile(r"[^\s'\"]+")
_SCHEME = re.compile(r"[a-z][a-z0-9+.\-]{0,30}:/{1,2}", re.IGNORECASE)
_PUNCTUATION = ":;,.)]}"


def without_secrets(text: str) -> str:
    """Hide the values of secret environment variables, and of URLs the user with password and the query.

    A query may be a signature (of S3, of Azure), with which anyone could read what is behind the URL.
    """
    for value in sorted(_secret_values(), key=len, reverse=True):  # one may be part of another
        text = text.replace(value, HIDDEN)
    return without_logins(text)


def without_logins(text: str) -> str:
    """Hide of each URL in a text the user with password and the query."""
    return _WORD.sub(lambda word: _without_login(word[0]), text) if ":/" in text else text


def _without_login(word: str) -> str:
    """Do so in a word that may be a URL, or several; in time that grows with its length alone."""
    if ":/" not in word:
        return word
    starts = [match.end() for match in _SCHEME.finditer(word)]
    shown = word[: starts[0]] if starts else word
    for start, end in pairwise([*starts, len(word)]):
        host, slash, path = word[start:end].partition("/")
        _, at, host_alone = host.rpartition("@")
        address, mark, query = f"{HIDDEN if at else ''}{at}{host_alone}{slash}{path}".partition("?")
        shown += address + mark
        if query.rstrip(_PUNCTUATION):  # which may hold further URLs
            return shown + HIDDEN + word[len(word.rstrip(_PUNCTUATION)) :]
        shown += query
    return shown


def tree_without_secrets(value: Any) -> Any:
    """Hide them in every text of a value of JSON's types, and leave all else."""
    if isinstance(value, dict):
        return {name: tree_without_secrets(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [tree_without_secrets(each) for each in value]
    return without_secrets(value) if isinstance(value, str) else value


def _secret_values() -> set[str]:
    """Gather the values; where a variable names a file that holds the key, the file's name is no secret."""
    return {
        value
        for name, value in os.environ.items()
        if len(value) >= SHORTEST_SECRET and SECRET_NAME.search(name) and not os.path.exists(value)  # noqa: PTH110 (never raises)
    }
