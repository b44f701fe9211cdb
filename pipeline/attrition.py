"""The account of a collection: each row that enters leaves in a pair or under one named reason."""

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Why a row is in no pair. A row is counted once, under the first reason that is met on its way."""

    NOT_JSON = "not_json"
    NOT_A_ROLLOUT = "not_a_rollout"
    MASKED = "masked"
    REWARD_MISSING = "reward_missing"
    REWARD_NOT_A_NUMBER = "reward_not_a_number"
    PROMPT_EMPTY = "prompt_empty"
    PROMPT_UNSUPPORTED = "prompt_unsupported"
    RESPONSE_UNSUPPORTED = "response_unsupported"
    TOOL_USE = "tool_use"
    RESPONSE_EMPTY = "response_empty"
    SINGLE_ROLLOUT = "single_rollout"
    EQUAL_REWARDS = "equal_rewards"
    BELOW_MARGIN = "below_margin"
    EQUAL_RESPONSES = "equal_responses"


MEANING = {
    Reason.NOT_JSON: "the line is no valid JSON",
    Reason.NOT_A_ROLLOUT: "no object with responses_create_params and response.output",
    Reason.MASKED: "mask_sample is set: the reward measures nothing",
    Reason.REWARD_MISSING: "no reward, or null",
    Reason.REWARD_NOT_A_NUMBER: "the reward is no finite number",
    Reason.PROMPT_EMPTY: "no text in the prompt, so nothing says which rollouts belong together",
    Reason.PROMPT_UNSUPPORTED: "images, audio or unknown items in the prompt",
    Reason.RESPONSE_UNSUPPORTED: "refusals, other people's turns or unknown items in the response",
    Reason.TOOL_USE: "tools are offered or called, which chosen/rejected texts can't hold",
    Reason.RESPONSE_EMPTY: "no text in the response",
    Reason.SINGLE_ROLLOUT: "the only usable rollout of its prompt in its file",
    Reason.EQUAL_REWARDS: "all rollouts of its prompt have the same reward",
    Reason.BELOW_MARGIN: "no other rollout of its prompt is a margin apart",
    Reason.EQUAL_RESPONSES: "all rollouts of its prompt that are a margin apart have the same text",
}


class RowDropped(Exception):
    """A row can't be used; carries the reason and what was met."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Attrition:
    """Counts from rows to pairs. `rows` = the sum of `dropped` + `paired_rollouts`, exactly."""

    rows: int
    dropped: Counter[Reason]
    paired_rollouts: int
    groups: int  # prompts with at least one usable rollout
    paired_groups: int
    equal_pairs: int  # pairs left out because both texts are the same
    pairs: int

    def as_dict(self) -> dict[str, object]:
        """Give the account as JSON types."""
        return {
            "rows": self.rows,
            "dropped": {reason.value: self.dropped[reason] for reason in Reason if self.dropped[reason]},
            "paired_rollouts": self.paired_rollouts,
            "groups": self.groups,
            "paired_groups": self.paired_groups,
            "equal_pairs": self.equal_pairs,
            "pairs": self.pairs,
        }

    def check(self) -> None:
        """Hold the sum; a difference is a fault of ours."""
        assert self.rows == self.dropped.total() + self.paired_rollouts, self
