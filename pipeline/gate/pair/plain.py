"""The plain pair, checked on a short way: three texts and perhaps rewards, in which no rule finds anything.

Most rows of most files are like this. One JSON Schema says it of a row in a few microseconds: that its texts are texts
in which nothing is suspicious. A row that does not fit, in any respect, goes the long way through the rules, one by
one. Both ways leave the same of the same row.
"""

from typing import Any, Protocol

import jsonschema_rs

from pipeline.gate.pair.keys import is_same_text, key_of, pair_key, text_bytes
from pipeline.gate.pair.text_rules import SUSPICIOUS
from pipeline.gate.settings import GateSettings, Limits
from pipeline.gate.whole.statistics import Statistics
from schemas.forms import DEFAULT_KEYS
from schemas.validation import Kind

VISIBLE = "[!-~\u0400-\u052f\u3041-\u30ff\u4e00-\u9fff\uac00-\ud7a3]"  # there are others, which go the long way
TEXT = {
    "type": "string",
    "pattern": VISIBLE,
    "not": {"anyOf": [{"pattern": pattern} for pattern in SUSPICIOUS]},
}
ABSENT = {"type": "null"}
SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": ["prompt", "chosen", "rejected"],
    "properties": {
        **dict.fromkeys(("prompt", "chosen", "rejected"), TEXT),
        **{key: {"type": ["number", "null"]} for key in ("chosen_reward", "rejected_reward")},
        "chosen_truncated": {"enum": [False, None]},
        "rejected_truncated": {"type": ["boolean", "null"]},
        "tools": ABSENT,
        "prompt_token_ids": ABSENT,
        **{f"{side}_{key}": ABSENT for side in ("chosen", "rejected") for key in ("token_ids", "loss_mask")},
    },
}
BESIDE_ROWS = ("min_reward", "max_reward", "min_margin", "max_length_ratio")
"""Limits of rules on rows."""


class Gathering(Protocol):
    """What rows are gathered in."""

    statistics: Statistics

    def append(self, line: int, *, prompt: int, row: int, reward: float | None) -> None: ...


class PlainPairs:
    """Takes plain pairs; remembers the last prompt, since pairs of one prompt lie close together."""

    def __init__(self, settings: GateSettings) -> None:
        """Compile what is plain."""
        self._settings = settings
        self._is_plain = jsonschema_rs.Draft202012Validator(
            SCHEMA, pattern_options=jsonschema_rs.RegexOptions()
        ).is_valid
        self._prompt, self._prompt_key = "", 0

    def take(self, row: Any, *, line: int, gathered: Gathering) -> bool:
        """Add a row to what is gathered, if it is plain."""
        if not self._is_plain(row):
            return False
        prompt, chosen, rejected = row["prompt"], row["chosen"], row["rejected"]
        rewards = row.get("chosen_reward"), row.get("rejected_reward")
        if None not in rewards and not rewards[0] > rewards[1]:
            return False
        if is_same_text(chosen, rejected):
            return False
        if prompt != self._prompt:
            self._prompt, self._prompt_key = prompt, key_of(text_bytes(prompt))
        key = pair_key(self._prompt_key, text_bytes(chosen), text_bytes(rejected))
        gathered.append(line, prompt=self._prompt_key, row=key, reward=None)
        truncated = (False, row.get("rejected_truncated") or False)
        gathered.statistics.pairs.add(prompt, chosen, rejected, rewards=rewards, truncated=truncated)
        gathered.statistics.add_balance(row, self._settings)
        return True


def plain_pairs(settings: GateSettings) -> PlainPairs | None:
    """Make what takes plain pairs, if the settings leave nothing to be looked at in them."""
    silent = Limits()
    is_usual = (
        settings.keys == DEFAULT_KEYS
        and settings.kind in (None, Kind.BINARY_PREFERENCE)
        and settings.schema is None
        and settings.max_tokens is None
        and not settings.folds_prompts
        and all(getattr(settings.limits, name) == getattr(silent, name) for name in BESIDE_ROWS)
    )
    return PlainPairs(settings) if is_usual else None
