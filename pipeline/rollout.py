"""The usable rollout: what is left of a row once it is converted and identified."""

import math
from dataclasses import dataclass
from typing import Any

from pipeline.attrition import Reason, RowDropped
from pipeline.convert import prompt_messages, response_text
from pipeline.identify import agent_name, group_key
from pipeline.read import Row, decode_row
from schemas.preference import Message


@dataclass(frozen=True, slots=True)
class Rollout:
    """One scored response to one prompt."""

    group: str
    reward: float
    prompt: tuple[Message, ...]
    response: str
    truncated: bool  # cut by a limit, so the policy did not end it
    agent: str | None
    source: str  # file:line


def rollout_of(row: Row) -> Rollout:
    """Make a usable rollout of a row.

    Raises:
        RowDropped: the row can't be used; the first reason in the order of `Reason`.
    """
    value = decode_row(row.content)
    params, output = value.get("responses_create_params"), _output(value)
    if not isinstance(params, dict) or not isinstance(output, list):
        is_pair = {"chosen", "rejected"} <= value.keys()
        met = "a preference pair already" if is_pair else "no responses_create_params or no list response.output"
        raise RowDropped(Reason.NOT_A_ROLLOUT, met)
    _refuse_masked(value)
    reward = _reward(value)
    prompt = prompt_messages(params)
    return Rollout(
        group=group_key(value, prompt, path=row.path),
        reward=reward,
        prompt=prompt,
        response=response_text(output, prompt=prompt),
        truncated=_is_truncated(value),
        agent=agent_name(value),
        source=row.source,
    )


def _output(value: dict[str, Any]) -> object:
    """Find the trajectory: `response.output`, or the `output` of Gym's first documentation."""
    response = value.get("response")
    return response.get("output") if isinstance(response, dict) else value.get("output")


def _is_truncated(value: dict[str, Any]) -> bool:
    """Read `incomplete_details`, the only place where Gym tells it: `status` is null in most rows."""
    response = value.get("response")
    return isinstance(response, dict) and bool(response.get("incomplete_details"))


def _refuse_masked(value: dict[str, Any]) -> None:
    nested = value.get("instance_config")
    for holder in (value, nested if isinstance(nested, dict) else {}):
        if holder.get("mask_sample"):
            raise RowDropped(Reason.MASKED)


def _reward(value: dict[str, Any]) -> float:
    reward = value.get("reward")
    if reward is None:
        raise RowDropped(Reason.REWARD_MISSING)
    if isinstance(reward, bool) or not isinstance(reward, int | float):
        raise RowDropped(Reason.REWARD_NOT_A_NUMBER, type(reward).__name__)
    try:
        number = float(reward)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise RowDropped(Reason.REWARD_NOT_A_NUMBER, str(number))
    return number
