"""Text of the command line to values: JSON, lists and mappings as YAML and Hydra write them, else the text itself."""

import json

import yaml
from pydantic.fields import FieldInfo

from trainer.config.keys import is_text, may_be_null
from trainer.config.yaml_file import ConfigLoader

QUOTES = ("'", '"')
NULLS = ("null", "None")


def value_of(text: str, field: FieldInfo | None) -> object:
    """Read the value of `key=value`, by what the key holds."""
    if field is not None and is_text(field):
        if text == "null" or (text in NULLS and may_be_null(field)):
            return None
        return _unquoted(text)  # a model may be called 123
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    if text == "None":
        return None
    return _flow_value(text) if text[:1] in ("[", "{") else _unquoted(text)


def _flow_value(text: str) -> object:
    """Read [a, b] and {a: 1}, which are YAML and no JSON."""
    try:
        return yaml.load(text, Loader=ConfigLoader)
    except (yaml.YAMLError, ValueError, LookupError, RecursionError):
        return text


def _unquoted(text: str) -> str:
    """Take off quotes that the shell has left, as Hydra does."""
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in QUOTES else text
