"""The log-probs of every distinct response under a model, as a training computes them: packed, each once."""

from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator

from schemas.errors import DpoError
from schemas.terminal import counted, progress
from trainer.config.sections import TrainConfig
from trainer.data.plan import ResponseRef
from trainer.data.tokenize import TokenizedGroup
from trainer.model.attention import choose_attention
from trainer.model.packing import Packer
from trainer.model.reference import CachedReference, compute_reference
from trainer.model.scorer import ResponseScorer
from trainer.model.self_check import self_check
from trainer.run.setup import cache_of

CHECKED_GROUPS, CHECKED_RESPONSES = 2, 4


@dataclass(frozen=True)
class Scored:
    """What a model gives the responses."""

    logps: CachedReference
    attention: str
    check: float | None  # how far packed log-probs lie from the model's own, in nats a token; None: not looked


@torch.no_grad()
def score(
    config: TrainConfig,
    accelerator: Accelerator,
    model: Any,
    groups: list[TokenizedGroup],
    *,
    digest: str,
    what: str,
    is_kept: bool,
) -> Scored:
    """Compute the log-probs of all responses; the model is then as it was, on the accelerator's device.

    Args:
        digest: Of the model's weights.
        what: What the progress bar calls it.
        is_kept: Whether the log-probs are looked for in the cache of the reference's, and put there.

    Raises:
        DpoError: the self-check fails, or a log-prob is no finite number.
    """
    policy, device = config.policy, accelerator.device
    plain = model.config._attn_implementation
    scorer = ResponseScorer(model, choose_attention(model, policy.attention, device))
    scorer.autocast = accelerator.autocast
    scorer.to(device).eval()
    packer = Packer(groups, scorer.attention.layout, policy.row_tokens)
    try:
        found = _checked(scorer, packer, policy.precision, device) if policy.self_check else None
        cache = cache_of(config, accelerator, scorer, digest) if is_kept else None
        total = sum(len(group.responses) for group in groups)
        with progress(what, total=total, unit="responses") as advance:
            pads_to = scorer.attention.pads_to
            logps = compute_reference(scorer, packer, accelerator, cache=cache, pads_to=pads_to, advance=advance)
    finally:
        model.set_attn_implementation(plain)
    _refuse_infinite(logps, groups, what)
    return Scored(logps, scorer.attention.backend.value, found)


def _checked(scorer: ResponseScorer, packer: Packer, precision: str, device: torch.device) -> float:
    some = [
        ResponseRef(number, response)
        for number, group in enumerate(packer.groups[:CHECKED_GROUPS])
        for response in range(min(len(group.responses), CHECKED_RESPONSES))
    ]
    return self_check(scorer, packer.rows(some)[0], packer.groups, precision=precision, device=device)


def _refuse_infinite(logps: CachedReference, groups: list[TokenizedGroup], what: str) -> None:
    index = logps.index
    bad = [ref for ref in index.refs if not bool(torch.isfinite(logps.tokens[index.span(ref)]).all())]
    if bad:
        raise DpoError(
            f"the {what} gives {counted(len(bad), 'response')} log-probs that are no finite numbers, the first at "
            f"{groups[bad[0].group].pairs[0].source}; look at its weights, or try policy.precision=float32"
        )
