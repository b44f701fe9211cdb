"""The metrics of some pairs, computed as in training, with nothing learnt from them."""

from collections.abc import Callable, Sequence

import torch

from trainer.data.plan import PairRef
from trainer.model.logps import response_logps
from trainer.model.packing import Packer
from trainer.model.reference import Reference
from trainer.run.rows import Tally, exchange, pair_terms, rows_of_pairs, tokens_of
from trainer.run.training import Training


@torch.no_grad()
def pair_metrics(
    training: Training,
    packer: Packer,
    reference: Reference,
    pairs: Sequence[PairRef],
    advance: Callable[[int], None] = lambda amount: None,
) -> dict[str, float]:
    """Compute the metrics of pairs; the same on every process, and every process must call it with the same pairs.

    Loss and means are divided as in a training step of these pairs, so several calls have the mean of all pairs as
    their mean weighted by `num_valid_samples` (with `dpo.weighting=pair`). A loss that compares pairs with one another
    compares all of a call. `advance` is told how many more responses are looked at.

    Raises:
        UsageError: the loss needs rewards and a pair has none.
    """
    rows = rows_of_pairs(training, packer, reference, pairs, windowed=True)
    tally = Tally(training)
    if rows.across:
        known = exchange(training, rows)
        terms, batch = pair_terms(
            training, rows, rows.across, known.responses, policy=known.policy, reference=known.reference
        )
        if training.accelerator.is_main_process:  # each process has computed these pairs, and they count once
            tally.add(batch, terms)
    for number, row in enumerate(rows.mine):
        beside = rows.beside(number, training.accelerator.num_processes)
        advance(sum(len(one.refs()) for one in beside if not one.is_filler))
        if not rows.has_pairs_beside(number, training.accelerator.num_processes):
            continue  # all processes pass over it: a forward pass may be a collective
        tokens = tokens_of(training, rows, row)
        policy = response_logps(training.scorer, tokens, training.objective.measures)
        known_reference = reference.of(tokens)
        inside = [] if row.is_filler else rows.inside.get(row, [])
        if inside:
            terms, batch = pair_terms(
                training, rows, inside, tokens.responses, policy=policy, reference=known_reference
            )
            tally.add(batch, terms)
    return tally.metrics(tally.reduced(), rows)
