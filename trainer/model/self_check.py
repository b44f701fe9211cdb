"""The self-check: what the packed row gives must be what the model itself gives, response by response.

An attention mask that a model takes in another way than it was meant raises no error; the gradients are wrong, by half
or more. So before training, some responses of the first row are computed plainly too: alone behind their prompt, with
the model's own attention and the model's own head.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from schemas.errors import DpoError
from trainer.data.plan import ResponseRef
from trainer.data.tokenize import TokenizedGroup
from trainer.model.batch import token_rows
from trainer.model.packing import Fragment, Layout, Row
from trainer.model.scorer import ResponseScorer

MAX_RESPONSES = 8
MAX_TOKENS = 256
"""So many of a response's last trained tokens are compared: an error in the mask shows there."""

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}
"""How far the log-probs of a response's tokens may lie apart on average, in nats."""


@torch.no_grad()
def self_check(
    scorer: ResponseScorer, row: Row, groups: Sequence[TokenizedGroup], *, precision: str, device: torch.device
) -> float:
    """Compare the log-probs of a row with the model's own; return the largest mean difference of a response,
    NaN where the model itself gives NaN.

    Raises:
        DpoError: they differ by more than rounding can explain.
    """
    attention = scorer.attention
    rows = token_rows(row, groups, attention.layout, pads_to=attention.pads_to).to(device)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        packed = torch.split(scorer(rows), list(rows.lengths))
        chosen = _spread(len(rows.responses))
        plain = [_plain_logps(scorer, rows.responses[place], groups, device) for place in chosen]
    if any(logps.isnan().any() for logps in plain):  # the model's own fault; the first step will name the rows
        return math.nan
    worst = 0.0
    for place, expected in zip(chosen, plain, strict=True):
        found = packed[place][-len(expected) :]
        difference = float((found - expected).abs().mean())
        if not difference <= TOLERANCE[precision]:  # so that NaN fails too
            ref = rows.responses[place]
            source = groups[ref.group].pairs[0].source
            raise DpoError(_complaint(scorer, source, found=found, expected=expected, precision=precision))
        worst = max(worst, difference)
    return worst


def _spread(count: int) -> list[int]:
    """Choose up to `MAX_RESPONSES` places over a row, the first and the last among them."""
    if count <= MAX_RESPONSES:
        return list(range(count))
    return [round(number * (count - 1) / (MAX_RESPONSES - 1)) for number in range(MAX_RESPONSES)]


def _plain_logps(
    scorer: ResponseScorer, ref: ResponseRef, groups: Sequence[TokenizedGroup], device: torch.device
) -> Tensor:
    """Compute the last trained tokens of one response with the model as it is: (at most MAX_TOKENS,), float32."""
    rows = token_rows(Row((Fragment(ref.group, (ref.response,)),)), groups, Layout.ROWS).to(device)
    return scorer.plain_logps(rows, MAX_TOKENS)


def _complaint(scorer: ResponseScorer, source: str, *, found: Tensor, expected: Tensor, precision: str) -> str:
    config = scorer.base.config
    return (
        f"self-check: {config.name_or_path or config.model_type} ({config.model_type}) gives a response of {source} "
        f"the log-prob {float(found.sum()):.4f} in a packed row, and {float(expected.sum()):.4f} alone, over "
        f"{len(expected)} tokens ({precision}; tolerance {TOLERANCE[precision]:g} for a token): its attention or its "
        f"head does more than policy.attention={scorer.attention.backend} reproduces; use policy.attention=rows, or "
        "--no-self-check to train all the same"
    )
