"""The numbers of each pair, in the order of the files.

Legend: `P` pairs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.data.plan import ResponseRef
from trainer.data.tokenize import TokenizedGroup
from trainer.loss.metrics import LARGEST_RATIO
from trainer.model.reference import CachedReference

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class ReferenceScores:
    """What the reference gives the pairs, and how the policy differs from it; each (P,), in nats."""

    chosen_logps: Numbers
    rejected_logps: Numbers
    chosen_log_ratio: Numbers  # sum over the tokens of log policy - log reference
    rejected_log_ratio: Numbers
    kl: Numbers  # mean of both sides of the sum over the tokens of exp(r) - 1 - r, r the token's log-ratio


@dataclass(frozen=True)
class PairScores:
    """All pairs; each array is (P,)."""

    prompt: NDArray[np.int64]  # number of its prompt
    source: tuple[str, ...]  # file:line
    environment: tuple[str, ...]
    dataset: NDArray[np.int64]  # number of the file
    chosen_tokens: NDArray[np.int64]  # that the policy wrote
    rejected_tokens: NDArray[np.int64]
    chosen_reward: Numbers  # nan where it is not known
    rejected_reward: Numbers
    chosen_logps: Numbers  # sums over the tokens
    rejected_logps: Numbers
    reference: ReferenceScores | None
    beta: float

    def __len__(self) -> int:
        return len(self.source)

    @property
    def margin(self) -> Numbers:
        """Give the difference of the implicit rewards, beta x log-ratio; nan without a reference."""
        if self.reference is None:
            return np.full(len(self), np.nan)
        return self.beta * (self.reference.chosen_log_ratio - self.reference.rejected_log_ratio)

    @property
    def difference_per_token(self) -> Numbers:
        """Give how much more probable the chosen response is to the policy, by token."""
        return self.chosen_logps / self.chosen_tokens - self.rejected_logps / self.rejected_tokens

    def rows(self) -> Iterator[dict[str, Any]]:
        """Give each pair as JSON types: the rows of pairs.jsonl."""
        margin, reference = self.margin, self.reference
        for place, source in enumerate(self.source):
            row = {
                "source": source,
                "environment": self.environment[place],
                "prompt": int(self.prompt[place]),
                "chosen_tokens": int(self.chosen_tokens[place]),
                "rejected_tokens": int(self.rejected_tokens[place]),
                "policy_chosen_logps": float(self.chosen_logps[place]),
                "policy_rejected_logps": float(self.rejected_logps[place]),
                "reference_chosen_logps": None if reference is None else float(reference.chosen_logps[place]),
                "reference_rejected_logps": None if reference is None else float(reference.rejected_logps[place]),
                "margin": None if reference is None else float(margin[place]),
                "chosen_reward": _known(self.chosen_reward[place]),
                "rejected_reward": _known(self.rejected_reward[place]),
            }
            yield row


def pair_scores(
    groups: Sequence[TokenizedGroup], policy: CachedReference, reference: CachedReference | None, *, beta: float
) -> PairScores:
    """Put the log-probs of responses together to those of pairs."""
    index = policy.index
    members = sorted(
        ((pair.number, number, pair) for number, group in enumerate(groups) for pair in group.pairs),
        key=lambda member: member[0],
    )
    pairs = [pair for _, _, pair in members]
    sides = [
        np.array([index.number(ResponseRef(group, getattr(pair, side))) for _, group, pair in members], dtype=np.int64)
        for side in ("chosen", "rejected")
    ]
    lengths = np.array(index.lengths, dtype=np.int64)
    starts = np.cumsum([0, *index.lengths[:-1]])
    tokens = policy.tokens.numpy().astype(np.float64)
    sums = np.add.reduceat(tokens, starts)
    compared = None if reference is None else _compared(tokens, reference, starts, sides)
    return PairScores(
        prompt=np.array([group for _, group, _ in members], dtype=np.int64),
        source=tuple(pair.source for pair in pairs),
        environment=tuple(pair.environment for pair in pairs),
        dataset=np.array([pair.dataset for pair in pairs], dtype=np.int64),
        chosen_tokens=lengths[sides[0]],
        rejected_tokens=lengths[sides[1]],
        chosen_reward=_rewards([pair.chosen_reward for pair in pairs]),
        rejected_reward=_rewards([pair.rejected_reward for pair in pairs]),
        chosen_logps=sums[sides[0]],
        rejected_logps=sums[sides[1]],
        reference=compared,
        beta=beta,
    )


def _compared(
    tokens: Numbers, reference: CachedReference, starts: NDArray[np.int64], sides: list[NDArray[np.int64]]
) -> ReferenceScores:
    theirs = reference.tokens.numpy().astype(np.float64)
    ratios = tokens - theirs
    small = np.minimum(ratios, LARGEST_RATIO)
    kl = np.add.reduceat(np.maximum(np.expm1(small) - small, 0), starts)
    sums, ratio = np.add.reduceat(theirs, starts), np.add.reduceat(ratios, starts)
    chosen, rejected = sides
    return ReferenceScores(
        sums[chosen], sums[rejected], ratio[chosen], ratio[rejected], (kl[chosen] + kl[rejected]) / 2
    )


def _rewards(values: Sequence[float | None]) -> Numbers:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
