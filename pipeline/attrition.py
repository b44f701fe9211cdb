"""The account of a collection: each row that enters leaves in a pair or under one named reason."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from enum import StrEnum


class Reason(StrEnum):
    """Why a row is in no pair. A row is counted once, under the first reason that is met on its way."""

    LINE_TOO_LONG = "line_too_long"
    NOT_JSON = "not_json"
    NOT_A_ROLLOUT = "not_a_rollout"
    MASKED = "masked"
    FAILED = "failed"
    VERIFICATION_SKIPPED = "verification_skipped"
    REWARD_MISSING = "reward_missing"
    REWARD_NOT_A_NUMBER = "reward_not_a_number"
    TRUNCATED = "truncated"
    MEDIA = "media"
    PROMPT_UNSUPPORTED = "prompt_unsupported"
    RESPONSE_UNSUPPORTED = "response_unsupported"
    PROMPT_EMPTY = "prompt_empty"
    RESPONSE_EMPTY = "response_empty"
    REASONING_MISSING = "reasoning_missing"
    TOOL_USE = "tool_use"
    SEVERAL_TURNS = "several_turns"
    DUPLICATE_ROLLOUT = "duplicate_rollout"
    CONFLICTING_REWARDS = "conflicting_rewards"
    DUPLICATE_KEY = "duplicate_key"
    SINGLE_ROLLOUT = "single_rollout"
    EQUAL_REWARDS = "equal_rewards"
    NOT_PREFERRED = "not_preferred"
    BELOW_MARGIN = "below_margin"
    REWARD_BOUNDS = "reward_bounds"
    EQUAL_RESPONSES = "equal_responses"
    CHOSEN_TRUNCATED = "chosen_truncated"
    REASONING_DIFFERS = "reasoning_differs"
    LENGTH_RATIO = "length_ratio"
    NOT_SELECTED = "not_selected"
    OVER_CAP = "over_cap"


MEANING = {
    Reason.LINE_TOO_LONG: "the line is longer than --max-line-mb",
    Reason.NOT_JSON: "the line is no valid JSON",
    Reason.NOT_A_ROLLOUT: "no object with responses_create_params and response.output",
    Reason.MASKED: "mask_sample is set: the reward measures nothing",
    Reason.FAILED: "the run failed, so its reward is made up: an exception, no output, or a text Failed: ...",
    Reason.VERIFICATION_SKIPPED: "verification was skipped or its judge failed: the reward measures nothing",
    Reason.REWARD_MISSING: "no reward, or null",
    Reason.REWARD_NOT_A_NUMBER: "the reward is no finite number",
    Reason.TRUNCATED: "the response was cut by a limit; --allow-truncated-rejected lets it be rejected",
    Reason.MEDIA: "images, audio or files in the prompt or the response",
    Reason.PROMPT_UNSUPPORTED: "unknown items in the prompt",
    Reason.RESPONSE_UNSUPPORTED: "refusals, unknown items, or turns in no known order in the response",
    Reason.PROMPT_EMPTY: "no text in the prompt, so nothing says which rollouts belong together",
    Reason.RESPONSE_EMPTY: "no text in the response",
    Reason.REASONING_MISSING: "no reasoning in the response, and --reasoning require-both",
    Reason.TOOL_USE: "tools are offered or called, which binary can't hold; --format preference or trl can",
    Reason.SEVERAL_TURNS: "a response of several messages, which binary can't hold; --format preference or trl can",
    Reason.DUPLICATE_ROLLOUT: "the same rollout again; one of them is used",
    Reason.CONFLICTING_REWARDS: "the same rollout with different rewards, say before and after reverifying",
    Reason.DUPLICATE_KEY: "its task and rollout index occurs more than once, and --duplicate-keys drop",
    Reason.SINGLE_ROLLOUT: "the only usable rollout of its prompt and task in its file",
    Reason.EQUAL_REWARDS: "all rollouts of its prompt have the same reward",
    Reason.NOT_PREFERRED: "people who compared it with others preferred neither (--labels)",
    Reason.BELOW_MARGIN: "no other rollout of its prompt is a margin apart",
    Reason.REWARD_BOUNDS: "its pairs miss --min-chosen-reward or --max-rejected-reward",
    Reason.EQUAL_RESPONSES: "all rollouts of its prompt that are a margin apart have the same text",
    Reason.CHOSEN_TRUNCATED: "its pairs would have chosen a response that was cut by a limit",
    Reason.REASONING_DIFFERS: "its pairs would differ in whether there is any reasoning",
    Reason.LENGTH_RATIO: "its pairs exceed --max-length-ratio",
    Reason.NOT_SELECTED: "the strategy took other pairs of its prompt",
    Reason.OVER_CAP: "its pairs are beyond --max-pairs-per-prompt or --max-pairs-per-agent",
}

PAIR_REASONS = tuple(Reason)[tuple(Reason).index(Reason.NOT_PREFERRED) :]
"""Why two rollouts that people or their rewards tell apart are no pair, in the order in which that is looked at."""


class RowDropped(Exception):
    """A row can't be used; carries the reason and what was met."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class LabelUse:
    """What became of the labels of people. `read` = `matched` + `unmatched` + `repeated` + `contradicting`."""

    read: int
    matched: int  # two rollouts of one group
    repeated: int  # said once more what another says
    contradicting: int  # said otherwise than another
    confirmed: int  # pairs
    turned: int
    decided: int  # of equal rewards

    @property
    def unmatched(self) -> int:
        """Count the labels of pairs that are not there."""
        return self.read - self.matched - self.repeated - self.contradicting


@dataclass(frozen=True)
class Attrition:
    """Counts from rows to pairs. `rows` = the sum of `dropped` + `paired_rollouts`, exactly."""

    rows: int
    dropped: Counter[Reason]
    parsed: int  # rows that are rollouts
    eligible: int  # rollouts that may be paired
    groups: int  # prompts with at least one eligible rollout
    varied_groups: int  # prompts whose rollouts have different rewards
    paired_groups: int
    paired_rollouts: int
    pairs: int
    left_out: Counter[Reason] = field(default_factory=Counter)  # pairs of different rewards that were not taken
    several_messages: int = 0  # pairs with a response of several messages
    with_token_ids: int | None = None  # pairs that carry the policy's token ids; None: they were not asked for
    labels: LabelUse | None = None  # None: there are none

    def as_dict(self) -> dict[str, object]:
        """Give the account as JSON types."""
        counts = {
            key: getattr(self, key)
            for key in ("parsed", "eligible", "groups", "varied_groups", "paired_groups", "paired_rollouts", "pairs")
        }
        asked_for: dict[str, object] = {}
        if self.with_token_ids is not None:
            asked_for["pairs_with_token_ids"] = self.with_token_ids
        if self.labels is not None:
            asked_for["labels"] = {**asdict(self.labels), "unmatched": self.labels.unmatched}
        return {
            "rows": self.rows,
            "dropped": named(self.dropped),
            **counts,
            "left_out_pairs": named(self.left_out),
            "pairs_of_several_messages": self.several_messages,
            **asked_for,
        }

    def check(self) -> None:
        """Hold the sums; a difference is a fault of ours."""
        assert self.rows == self.dropped.total() + self.paired_rollouts, self


def named(counts: Counter[Reason]) -> dict[str, int]:
    """Give counts by the reasons' names, in the reasons' order, zeros left out."""
    return {reason.value: counts[reason] for reason in Reason if counts[reason]}
