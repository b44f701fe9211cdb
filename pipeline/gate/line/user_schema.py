"""A JSON Schema of the user's own, of any draft, whose `$ref` reach no further than its folder, and never a network.

Patterns run on an engine whose time grows with the text alone, so no pattern can hang the gate; it has no look-around.
"""

import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import jsonschema_rs

from schemas.errors import UsageError
from schemas.lines import LineError, decode_strict, without_margin
from schemas.terminal import excerpt, path_text, printable, reason
from schemas.validation import Validator, pointer_of, shape_of

MAX_SCHEMA_BYTES = 16 << 20
OPTION = "--schema"
DRAFTS = {
    "http://json-schema.org/draft-04/schema": "draft 4",
    "http://json-schema.org/draft-06/schema": "draft 6",
    "http://json-schema.org/draft-07/schema": "draft 7",
    "https://json-schema.org/draft/2019-09/schema": "2019-09",
    "https://json-schema.org/draft/2020-12/schema": "2020-12",
}
"""What `$schema` may say, as the validator knows it without asking anyone."""
LOOK_AROUND = (
    "needs look-around or a back-reference, which could make a row hang the check; write it without "
    "(a `not` beside it can stand for a negative look-ahead)"
)
TOO_LARGE = "is too large for an engine whose time grows with the text alone, or is written in another dialect"
MAX_MESSAGE = 300  # characters of the validator's own

_LOOKS_AROUND = re.compile(r"\(\?<?[=!]|\\[1-9k]|\(\?>|[*+?}]\+")


class _RefusedError(Exception):
    """A reference that may not be followed, or leads nowhere."""


def user_validator(path: Path) -> Validator:
    """Read a schema.

    Raises:
        UsageError: it is none, or refers to something outside.
    """
    try:
        schema = _read(path)
        _check_draft(schema)
        return _built(schema, _Folder(path, schema))
    except _RefusedError as error:
        raise UsageError(f"{OPTION} {path_text(path)}: {error}") from None


def _built(schema: dict[str, Any] | bool, folder: "_Folder") -> Validator:
    refused: list[str] = []  # the validator's own errors say less

    def retrieve(uri: str) -> Any:
        try:
            return folder.read(uri)
        except _RefusedError as error:
            refused.append(str(error))
            raise

    try:
        return jsonschema_rs.validator_for(
            schema, retriever=retrieve, base_uri=folder.base, pattern_options=jsonschema_rs.RegexOptions()
        )
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        if refused:
            raise _RefusedError(refused[0]) from None
        if isinstance(error, jsonschema_rs.ValidationError):
            raise _RefusedError(_fault(error)) from None
        raise _RefusedError(printable(str(error)[:MAX_MESSAGE])) from None


class _Folder:
    """The folder of a schema, which its references stay in."""

    def __init__(self, path: Path, schema: dict[str, Any] | bool) -> None:
        self._folder = path.resolve().parent
        self.base = path.resolve().as_uri()
        own = schema.get("$id", schema.get("id")) if isinstance(schema, dict) else None
        is_absolute = isinstance(own, str) and bool(urlsplit(own).scheme)
        self._beside = f"{str(own).rpartition('/')[0]}/" if is_absolute else ""  # where the schema says that it is

    def read(self, uri: str) -> Any:
        """Read what a reference leads to.

        Raises:
            _RefusedError: it is not in the folder, or no schema.
        """
        try:
            path = self._path(uri).resolve()
            if not path.is_relative_to(self._folder):
                raise _RefusedError(f"outside of {path_text(self._folder)}, the schema's folder, which $ref stay in")
            if not path.is_file():
                raise _RefusedError("no such file")
            schema = _read(path)
            _check_draft(schema)
            jsonschema_rs.meta.validate(schema)
        except _RefusedError as error:
            raise _RefusedError(f"$ref to {printable(uri[:MAX_MESSAGE])}: {error}") from None
        except jsonschema_rs.ValidationError as error:
            raise _RefusedError(f"$ref to {printable(uri[:MAX_MESSAGE])}: {_fault(error)}") from None
        except (OSError, ValueError) as error:  # a name that no file can have, a circle of links
            raise _RefusedError(f"$ref to {printable(uri[:MAX_MESSAGE])}: {reason(error)}") from None
        return schema

    def _path(self, uri: str) -> Path:
        if self._beside and uri.startswith(self._beside):
            return self._folder / unquote(uri.removeprefix(self._beside))
        parts = urlsplit(uri)
        if parts.scheme != "file" or parts.netloc:
            raise _RefusedError("nothing is fetched; copy it into the folder of the schema, and name the file")
        return Path(unquote(parts.path))


def _read(path: Path) -> Any:
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_SCHEMA_BYTES + 1)
    except (OSError, ValueError) as error:
        raise _RefusedError(f"can't be read: {reason(error)}") from None
    if len(content) > MAX_SCHEMA_BYTES:
        raise _RefusedError(f"more than {MAX_SCHEMA_BYTES >> 20} MiB, which is no schema")
    try:
        return decode_strict(without_margin(content, 1))
    except LineError as error:
        raise _RefusedError(f"no JSON ({error}), as a schema has to be") from None


def _check_draft(schema: object) -> None:
    """Refuse what is no schema, or of a draft that is not known here: the validator would ask the network for it."""
    if not isinstance(schema, dict | bool):
        raise _RefusedError(f"no JSON Schema: got {shape_of(schema)}, expected an object")
    draft = schema.get("$schema") if isinstance(schema, dict) else None
    if draft is not None and not (isinstance(draft, str) and draft.rstrip("#") in DRAFTS):
        raise _RefusedError(f"$schema: got {shape_of(draft)}, expected that of {', '.join(DRAFTS.values())}, or none")


def _fault(error: jsonschema_rs.ValidationError) -> str:
    """Say what is wrong with a schema, and where in it."""
    pointer = pointer_of(error.instance_path)
    where = f"{pointer}: " if pointer else ""
    if "regex" in (error.kind.name, error.kind.value) and isinstance(error.instance, str):
        return f"{where}the pattern {excerpt(error.instance)} {_pattern_fault(error.instance)}"
    message = printable(error.message[:MAX_MESSAGE])
    if not pointer and not list(error.schema_path):
        return f"a $ref leads nowhere: {message}"
    return f"{where}no JSON Schema: {message}"


def _pattern_fault(pattern: str) -> str:
    try:
        jsonschema_rs.validator_for({"pattern": pattern})
    except jsonschema_rs.ValidationError:
        return "is no regular expression"
    return LOOK_AROUND if _LOOKS_AROUND.search(pattern) else TOO_LARGE
