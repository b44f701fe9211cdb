"""Checking one row: against the schema of what it is, and against the rules on single rows."""

import re
import struct
from array import array
from dataclasses import dataclass, field
from zlib import crc32

from pipeline.gate.finding import Problem
from pipeline.gate.form import NO_FORM, RowForm, row_form
from pipeline.gate.line.user_schema import user_validator
from pipeline.gate.pair.keys import folded_key
from pipeline.gate.pair.pair_rules import PAIR_CHECKS
from pipeline.gate.pair.plain import plain_pairs
from pipeline.gate.pair.tokens import token_counter, too_long
from pipeline.gate.pair.view import view_of
from pipeline.gate.rollout_rules import RolloutReader
from pipeline.gate.rules import Rule
from pipeline.gate.settings import GateSettings
from pipeline.gate.whole.statistics import Statistics
from schemas.expectations import NEMO_RL_KEY
from schemas.forms import BINARY, Form, kind_of
from schemas.lines import LineError
from schemas.preference import PreferencePair, in_words_of, pair_of
from schemas.validation import KNOWN_ROWS, Kind, Validator, rank_findings, schema_findings, shape_of, validator_of

COLUMNS = {
    "line": "I",  # in the chunk, and once all chunks are there in the file
    "prompt": "Q",  # equal for equal prompts; of rollouts, for those that answer the same question
    "row": "Q",  # equal for equal rows; of pairs the last bit is the order of the sides
    "reward": "I",  # of rollouts: equal for equal rewards; NO_REWARD for pairs
}
"""What the rules across rows know of a row: 24 bytes."""
NO_REWARD = 0

_pack_reward = struct.Struct("<d").pack
_TOLD = re.compile(r"(?P<pointer>/\S*|\(row\)): got (?P<got>.*), expected (?P<expected>.*)", re.DOTALL)


@dataclass
class Gathered:
    """What a chunk gave to the rules that look at more than one row."""

    columns: "dict[str, array[int]]" = field(
        default_factory=lambda: {name: array(code) for name, code in COLUMNS.items()}
    )
    statistics: Statistics = field(default_factory=Statistics)
    num_passed_over: int = 0  # rows that fit the user's schema and can't be read as what rules look at

    def append(self, line: int, *, prompt: int, row: int, reward: float | None) -> None:
        """Add one row; `reward` is that of a rollout."""
        columns = self.columns
        columns["line"].append(line)
        columns["prompt"].append(prompt)
        columns["row"].append(row)
        columns["reward"].append(NO_REWARD if reward is None else reward_key(reward))


def reward_key(reward: float) -> int:
    """Give a key of 32 bits that is equal for equal rewards, and different for those of few digits."""
    return crc32(_pack_reward(reward)) or NO_REWARD + 1


class Gate:
    """The state of one process that checks rows."""

    def __init__(self, settings: GateSettings) -> None:
        """Read what the user named: a schema, a tokenizer.

        Raises:
            UsageError: one of them can't be used.
        """
        self.settings = settings
        self.checks = [check for rule, check in PAIR_CHECKS.items() if settings.finds(rule)]
        self.user_validator = user_validator(settings.schema) if settings.schema else None
        self.count_tokens = token_counter(settings)
        self.rollouts = RolloutReader(settings)
        self.plain = plain_pairs(settings)
        self._forms: dict[int, RowForm] = {}

    def form_of(self, source: int, told_by: object) -> RowForm:
        """Give the form of a file, told by the skeleton of one of its rows."""
        if source not in self._forms:
            self._forms[source] = row_form(told_by, self.settings) or NO_FORM
        return self._forms[source]

    def check(self, row: object, form: RowForm, *, content: bytes, line: int, gathered: Gathered) -> list[Problem]:
        """Check a decoded row; `content` is its line, `line` the number in the chunk."""
        if self.plain is not None and form.form is BINARY and self.plain.take(row, line=line, gathered=gathered):
            return []
        if form.kind is None and self.user_validator is None:
            return [Problem(Rule.UNKNOWN_FORM, "", shape_of(row), KNOWN_ROWS)]
        if self.user_validator is not None:
            problems = [Problem(Rule.SCHEMA, *details) for details in schema_findings(self.user_validator, row)]
            if problems:
                return problems
        if form.kind is Kind.ROLLOUT:
            return self._check_rollout(row, content=content, line=line, gathered=gathered)
        if form.form is None:
            return []  # of the user's own form, which no rule knows
        return self._check_pair(row, form.form, line=line, gathered=gathered)

    def _check_rollout(self, row: object, *, content: bytes, line: int, gathered: Gathered) -> list[Problem]:
        validator = validator_of(Kind.ROLLOUT)
        if not validator.is_valid(row):
            return self._as_told(_missed(validator, row), gathered)
        assert isinstance(row, dict)
        return list(self.rollouts.problems(row, content, line=line, gathered=gathered))

    def _check_pair(self, row: object, form: Form, *, line: int, gathered: Gathered) -> list[Problem]:
        read = _read_pair(row, form, self.settings.kind)
        if isinstance(read, list):
            return self._as_told(read, gathered)
        assert isinstance(row, dict)
        view = view_of(row, read, form)
        problems = [problem for check in self.checks for problem in check(view, self.settings)]
        if self.count_tokens is not None:
            problems += too_long(view, self.settings, self.count_tokens)
        prompt = folded_key(read.prompt) if self.settings.folds_prompts else view.prompt_key
        gathered.append(line, prompt=prompt, row=view.pair_key, reward=None)
        gathered.statistics.add_pair(view, self.settings)
        return problems

    def _as_told(self, problems: list[Problem], gathered: Gathered) -> list[Problem]:
        """Leave problems with a row that is as the user's schema wants it, and count that no rule looked at it."""
        if self.user_validator is None:
            return problems
        gathered.num_passed_over += 1
        return []


def _read_pair(row: object, form: Form, wanted: Kind | None) -> PreferencePair | list[Problem]:
    """Read a pair as `dpo train` does; what that refuses is a problem here, as is another kind than the wanted one."""
    try:
        converted: object = row
        if isinstance(row, dict):
            converted = form.convert(row)
            if converted is None:
                got = "a row in which neither response is the better one"
                return [Problem(Rule.REWARD_TIE, "", got, "a preference")]
            if form.is_ranked and NEMO_RL_KEY in row:  # training passes it over
                return _missed(validator_of(Kind.PREFERENCE), row)
        kind = kind_of(converted, form)
        if wanted is not None and kind is not wanted and isinstance(row, dict):
            return [Problem(Rule.SCHEMA, "", f"a row of {kind}", f"one of {wanted}, as --kind says")]
        validator = validator_of(kind)
        if not validator.is_valid(converted):
            return _missed(validator, converted, form)
        assert isinstance(converted, dict)
        if kind is Kind.PREFERENCE and (ties := list(rank_findings(converted))):
            return [Problem(Rule.TIE, *details) for details in ties]
        return pair_of(converted, kind, source="")
    except LineError as error:
        return [_told(str(error))]


def _missed(validator: Validator, row: object, form: Form | None = None) -> list[Problem]:
    found = schema_findings(validator, row)
    return [Problem(Rule.SCHEMA, in_words_of(form, pointer), got, expected) for pointer, got, expected in found]


def _told(error: str) -> Problem:
    """Take an error of the reader of pairs to its parts."""
    if match := _TOLD.fullmatch(error):
        pointer = match["pointer"].replace("(row)", "")
        return Problem(Rule.SCHEMA, pointer, match["got"], match["expected"])
    return Problem(Rule.SCHEMA, "", error, "a preference pair")
