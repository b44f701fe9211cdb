"""From a pair of rollouts to a BinaryPreference row.

NeMo RL's loader takes the prompt as text (one user message) or as a list of messages, and ignores other columns.
"""

from typing import Any

from pipeline.rollout import Rollout
from schemas.preference import Message


def binary_preference_row(chosen: Rollout, rejected: Rollout, *, margin: float) -> dict[str, Any]:
    """Make the row of one pair, with what is needed to trace it back to its rollouts."""
    return {
        "prompt": _prompt(chosen.prompt),
        "chosen": chosen.response,
        "rejected": rejected.response,
        "chosen_reward": chosen.reward,
        "rejected_reward": rejected.reward,
        "margin": margin,
        "chosen_truncated": chosen.truncated,
        "rejected_truncated": rejected.truncated,
        "group": chosen.group,
        "agent": chosen.agent,
        "chosen_source": chosen.source,
        "rejected_source": rejected.source,
    }


def _prompt(messages: tuple[Message, ...]) -> str | list[Message]:
    if len(messages) == 1 and messages[0]["role"] == "user":
        return messages[0]["content"]
    return list(messages)
