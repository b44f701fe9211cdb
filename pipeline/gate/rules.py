"""Every rule of the gate: its name, how severe it is unless told otherwise, what it is held against, and why."""

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """What a finding means for the exit code."""

    ERROR = "error"
    WARNING = "warning"
    IGNORE = "ignore"


class Scope(StrEnum):
    """What a rule looks at before it can say anything."""

    ROW = "row"
    ACROSS = "across"  # all rows, by a key of each
    DATASET = "dataset"  # figures of all rows


class Rule(StrEnum):
    """The name of a rule, as options, reports and baselines spell it."""

    EMPTY_FILE = "empty-file"
    LINE_TOO_LONG = "line-too-long"
    INVALID_UTF8 = "invalid-utf8"
    MALFORMED_JSON = "malformed-json"
    DUPLICATE_KEY = "duplicate-key"
    UNKNOWN_FORM = "unknown-form"
    SCHEMA = "schema"
    TIE = "tie"
    REWARD_TIE = "reward-tie"
    REWARD_ORDER = "reward-order"
    REWARD_RANGE = "reward-range"
    SMALL_MARGIN = "small-margin"
    IDENTICAL_RESPONSES = "identical-responses"
    EMPTY_TEXT = "empty-text"
    ROLE_ORDER = "role-order"
    TRUNCATED_CHOSEN = "truncated-chosen"
    TEMPLATE_TOKEN = "template-token"
    CONTROL_CHARACTER = "control-character"
    BROKEN_ENCODING = "broken-encoding"
    SECRET = "secret"
    LENGTH_RATIO = "length-ratio"
    TOO_LONG = "too-long"
    UNUSABLE_ROLLOUT = "unusable-rollout"
    DUPLICATE_ROW = "duplicate-row"
    CONTRADICTORY_PAIR = "contradictory-pair"
    PROMPT_LEAK = "prompt-leak"
    LENGTH_BIAS = "length-bias"
    REWARD_STATISTICS = "reward-statistics"
    PROMPT_DIVERSITY = "prompt-diversity"
    BALANCE = "balance"
    FEW_VARIED_TASKS = "few-varied-tasks"


@dataclass(frozen=True)
class About:
    """What is known of a rule."""

    severity: Severity  # unless told otherwise
    scope: Scope
    finds: str  # what it finds, as a noun phrase
    why: str  # one sentence: what comes of it, or what to do
    rows: str = "any"  # any, pairs or rollouts


_ERROR, _WARNING = Severity.ERROR, Severity.WARNING
_ROW, _ACROSS, _DATASET = Scope.ROW, Scope.ACROSS, Scope.DATASET

ABOUT: dict[Rule, About] = {
    Rule.EMPTY_FILE: About(_ERROR, _ROW, "a file without rows", "A training on it would have nothing to learn from."),
    Rule.LINE_TOO_LONG: About(
        _ERROR,
        _ROW,
        "a line longer than 256 MiB",
        "No reader holds such a line whole; most often a line feed is missing.",
    ),
    Rule.INVALID_UTF8: About(
        _ERROR, _ROW, "bytes that are no UTF-8", "JSON is UTF-8; the file was cut, or written in another encoding."
    ),
    Rule.MALFORMED_JSON: About(
        _ERROR,
        _ROW,
        "a line that is no JSON",
        "Cut lines, NaN, lone surrogates and too deep nesting are read differently by each tool, or not at all.",
    ),
    Rule.DUPLICATE_KEY: About(
        _ERROR,
        _ROW,
        "a key that occurs twice in one object",
        "Some readers take the first value and some the last, so what is checked is not what is trained on.",
    ),
    Rule.UNKNOWN_FORM: About(
        _ERROR,
        _ROW,
        "a row of no known form",
        "Rows are told by their keys; --prompt-key and its like name others, --schema your own form.",
    ),
    Rule.SCHEMA: About(
        _ERROR,
        _ROW,
        "a row that misses its JSON Schema",
        "dpo train and NeMo RL read such a row wrongly, or refuse it.",
    ),
    Rule.TIE: About(
        _ERROR,
        _ROW,
        "two completions of one rank",
        "Nothing says which one is preferred; NeMo RL stops at such a row.",
        "pairs",
    ),
    Rule.REWARD_TIE: About(
        _WARNING,
        _ROW,
        "a chosen response with the reward of the rejected one",
        "The verifier saw no difference, so the pair teaches noise.",
        "pairs",
    ),
    Rule.REWARD_ORDER: About(
        _ERROR,
        _ROW,
        "a chosen response with a lower reward than the rejected one",
        "The sides are swapped, or the rewards are of another pair.",
        "pairs",
    ),
    Rule.REWARD_RANGE: About(
        _ERROR,
        _ROW,
        "a reward outside of limits.min-reward and limits.max-reward",
        "Such rewards come from failed verifiers or another scale; the rule is silent until a limit is set.",
    ),
    Rule.SMALL_MARGIN: About(
        _WARNING,
        _ROW,
        "a reward margin below limits.min-margin",
        "Preferences should be clear; the rule is silent until the limit is set.",
        "pairs",
    ),
    Rule.IDENTICAL_RESPONSES: About(
        _ERROR,
        _ROW,
        "chosen and rejected with the same text, white space aside",
        "The loss of such a pair is constant: it costs time and teaches nothing.",
        "pairs",
    ),
    Rule.EMPTY_TEXT: About(
        _ERROR,
        _ROW,
        "a prompt or response of white space alone (an empty one misses its schema)",
        "The policy learns to say nothing, or learns from a question that nobody asked.",
        "pairs",
    ),
    Rule.ROLE_ORDER: About(
        _ERROR,
        _ROW,
        "messages in an order that chat templates refuse or misread",
        "The system message comes first, a prompt ends before the assistant's turn, and tools answer calls.",
        "pairs",
    ),
    Rule.TRUNCATED_CHOSEN: About(
        _WARNING,
        _ROW,
        "a chosen response that was cut by a limit",
        "The policy learns to break off in the middle of an answer.",
        "pairs",
    ),
    Rule.TEMPLATE_TOKEN: About(
        _WARNING,
        _ROW,
        "a chat template's token inside a text, or a BOS token before it",
        "The template adds them again, so the policy sees two, or a turn that ends in the middle of a text.",
        "pairs",
    ),
    Rule.CONTROL_CHARACTER: About(
        _WARNING,
        _ROW,
        "a control or bidirectional character in a text",
        "Terminal captures and hidden text; the policy learns to write them.",
        "pairs",
    ),
    Rule.BROKEN_ENCODING: About(
        _WARNING,
        _ROW,
        "a replacement character, or UTF-8 read as Latin-1",
        "A step before this one has lost characters, which can't be brought back.",
        "pairs",
    ),
    Rule.SECRET: About(
        _WARNING,
        _ROW,
        "what looks like an access key in a text",
        "A policy can be made to say what it was trained on; withdraw the key and take it out.",
        "pairs",
    ),
    Rule.LENGTH_RATIO: About(
        _WARNING,
        _ROW,
        "responses whose lengths differ by more than limits.max-length-ratio",
        "The policy learns the length instead of the quality; the rule is silent until the limit is set.",
        "pairs",
    ),
    Rule.TOO_LONG: About(
        _ERROR,
        _ROW,
        "prompt and response longer than --max-tokens",
        "Trainers cut such rows or leave them out, most of them silently; needs --tokenizer.",
        "pairs",
    ),
    Rule.UNUSABLE_ROLLOUT: About(
        _WARNING,
        _ROW,
        "a rollout that collect-pairs would leave out",
        "Failed, masked, cut or empty rollouts give no pairs; many of them point to a broken environment.",
        "rollouts",
    ),
    Rule.DUPLICATE_ROW: About(
        _WARNING,
        _ACROSS,
        "a row that is there already",
        "It counts double in the loss; of rollouts, a run was appended to its own file.",
    ),
    Rule.CONTRADICTORY_PAIR: About(
        _ERROR,
        _ACROSS,
        "the same two responses to one prompt, the other way round",
        "One of the two labels is wrong, and together they teach nothing.",
        "pairs",
    ),
    Rule.PROMPT_LEAK: About(
        _ERROR,
        _ACROSS,
        "a prompt that is in a file named by --against too",
        "A validation on prompts that were trained on measures memory.",
    ),
    Rule.LENGTH_BIAS: About(
        _WARNING,
        _DATASET,
        "a share of pairs with the longer response chosen outside of its limits",
        "The policy learns to write longer (or shorter) instead of better.",
        "pairs",
    ),
    Rule.REWARD_STATISTICS: About(
        _WARNING,
        _DATASET,
        "rewards in some rows only, or a mean margin outside of its limits",
        "Losses that use rewards can't use rows without, and a shifted mean tells of a changed verifier.",
        "pairs",
    ),
    Rule.PROMPT_DIVERSITY: About(
        _WARNING,
        _DATASET,
        "few distinct prompts, or one prompt in a large share of the rows",
        "The policy is fitted to these prompts and generalises badly.",
    ),
    Rule.BALANCE: About(
        _WARNING,
        _DATASET,
        "one environment or preference type in nearly all rows",
        "The others have hardly any weight in the loss.",
    ),
    Rule.FEW_VARIED_TASKS: About(
        _WARNING,
        _DATASET,
        "few tasks whose rollouts have different rewards",
        "Only those give pairs; harder or easier tasks, or more rollouts of each, help.",
        "rollouts",
    ),
}
"""In the order of `Rule`, which is the order of reports."""
