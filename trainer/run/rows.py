"""The rows of some pairs, over all processes: which pairs are whole in a row, and what they come to.

Training and validation compute pairs in the same way: those whose two responses lie in one row with that row, those
that reach from one row into another once all processes have exchanged the log-probs of these responses.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.data.plan import PairRef, ResponseRef, Step, pair_weights, sides
from trainer.loss.metrics import MAX_ENVIRONMENTS, NUM_SUMS, PairTerms, metrics_of
from trainer.model.batch import PairBatch, TokenRows, num_trained, token_rows
from trainer.model.logps import ResponseLogps, response_logps, with_measures
from trainer.model.packing import Packer, Row, share
from trainer.model.reference import Reference
from trainer.run.training import Training

UNNAMED = "unnamed"
"""What the environment of rows that name none is called among others; in brackets, where one has that name."""


MOST_IDLE = 0.5
"""Share of a step's rows from which on it is not worth a word that the others are fillers."""


@dataclass(frozen=True)
class StepRows:
    """The rows of some pairs and of this process, and which pairs are whole in a row."""

    packer: Packer
    reference: Reference
    pairs: tuple[PairRef, ...]  # as they were asked for
    all_rows: list[Row]
    mine: list[Row]
    inside: dict[Row, list[PairRef]]  # the pairs whose two responses lie in the row
    across: list[PairRef]  # the pairs whose responses lie in two rows, or that are compared with pairs of other rows
    weights: dict[PairRef, float]  # a pair that was named twice has the sum

    def beside(self, number: int, num_processes: int) -> list[Row]:
        """Give the rows that all processes compute while this one computes its row of that number.

        A forward pass may be a collective (DDP exchanges buffers, FSDP weights), so all of them do it or none.
        """
        return self.all_rows[number * num_processes : (number + 1) * num_processes]

    def has_pairs_beside(self, number: int, num_processes: int) -> bool:
        """Say whether any of these rows has a pair that is whole in it; the reference of such rows may be a
        collective too."""
        return any(not one.is_filler and one in self.inside for one in self.beside(number, num_processes))

    @property
    def total_weight(self) -> float:
        """Sum the weights of all pairs, over all processes."""
        return sum(self.weights.values())


def rows_of_pairs(
    training: Training, packer: Packer, reference: Reference, pairs: Sequence[PairRef], *, windowed: bool = False
) -> StepRows:
    """Pack the responses of pairs for all processes, and find each pair's row; `windowed` for very many pairs."""
    groups, accelerator = packer.groups, training.accelerator
    num_processes = accelerator.num_processes
    weights: dict[PairRef, float] = defaultdict(float)
    for pair, weight in zip(pairs, pair_weights(pairs, groups, training.config.dpo.weighting), strict=True):
        weights[pair] += weight
    responses = list(dict.fromkeys(ref for pair in weights for ref in sides(pair, groups)))
    pack = packer.windowed_rows if windowed else packer.rows
    rows = pack(responses, num_processes=num_processes)
    row_of = {ref: row for row in rows if not row.is_filler for ref in row.refs()}
    is_one_row = sum(not row.is_filler for row in rows) == 1
    are_apart = training.objective.needs_whole_step and not is_one_row
    inside: dict[Row, list[PairRef]] = {}
    across: list[PairRef] = []
    for pair in weights:
        chosen, rejected = sides(pair, groups)
        if row_of[chosen] is row_of[rejected] and not are_apart:
            inside.setdefault(row_of[chosen], []).append(pair)
        else:
            across.append(pair)
    mine = share(rows, process=accelerator.process_index, num_processes=num_processes)
    return StepRows(packer, reference, tuple(pairs), rows, mine, inside, across, dict(weights))


def idle_notes(packer: Packer, steps: Sequence[Step], num_processes: int) -> list[str]:
    """Say so where a step has too few rows for the processes: those without one repeat another's for nothing."""
    if not steps:
        return []
    rows = packer.rows(steps[0].responses(packer.groups), num_processes=num_processes)
    own = sum(not row.is_filler for row in rows)
    if own > MOST_IDLE * len(rows):
        return []
    return [
        f"the first step has work for {own} of {num_processes} processes, the others only wait: a prompt's responses "
        "stay together in a row; a larger policy.train_global_batch_size has more rows, and a smaller "
        "policy.tokens_per_microbatch makes more of them"
    ]


class Tally:
    """Sums over the pairs that this process has computed, and their losses by name."""

    def __init__(self, training: Training) -> None:
        self.training = training
        num_environments = MAX_ENVIRONMENTS + 1 if training.objective.environments else 0
        device = training.accelerator.device
        self.sums = torch.zeros(NUM_SUMS + num_environments, dtype=torch.float64, device=device)
        self.losses: list[tuple[PairBatch, Tensor]] = []

    def add(self, batch: PairBatch, terms: PairTerms) -> None:
        """Add the pairs of a row."""
        self.sums += terms.metric_sums(batch.weights, batch.environments)
        self.losses.append((batch, terms.loss.detach()))

    def reduced(self, *others: Tensor) -> list[float]:
        """Add up the sums of all processes, and wait for them and for other numbers, which stand behind them.

        This is the one place in a step where the processes and the device are waited for.
        """
        sums = self.training.accelerator.reduce(self.sums, reduction="sum")
        values: list[float] = torch.cat([sums, *(other.detach().reshape(1).to(sums) for other in others)]).tolist()
        return values

    def metrics(self, sums: Sequence[float], rows: StepRows) -> dict[str, float]:
        """Turn everybody's sums into metrics, with how much they are about."""
        objective, groups = self.training.objective, rows.packer.groups
        environments = dict.fromkeys(objective.environments, 0.0)
        for pair, weight in rows.weights.items():
            name = groups[pair.group].pairs[pair.pair].environment
            if name in environments:
                environments[name] += weight
        unnamed = f"({UNNAMED})" if UNNAMED in environments else UNNAMED
        metrics = metrics_of(
            sums,
            weight=rows.total_weight,
            environments={name or unnamed: weight for name, weight in environments.items()},
            has_reference=objective.has_reference,
        )
        tokens = {ref: num_trained(groups[ref.group], ref.response) for row in rows.all_rows for ref in row.refs()}
        return metrics | {
            "num_valid_samples": len(rows.pairs),
            "global_valid_seqs": 2 * len(rows.pairs),
            "global_valid_toks": sum(tokens[ref] for pair in rows.pairs for ref in sides(pair, groups)),
        }


def tokens_of(training: Training, rows: StepRows, row: Row) -> TokenRows:
    """Lay a row out on the device."""
    packer = rows.packer
    return token_rows(row, packer.groups, packer.layout, pads_to=training.pads_to).to(training.accelerator.device)


def pair_terms(
    training: Training,
    rows: StepRows,
    pairs: Sequence[PairRef],
    responses: Sequence[ResponseRef],
    *,
    policy: ResponseLogps,
    reference: ResponseLogps,
) -> tuple[PairTerms, PairBatch]:
    """Compute the terms of some pairs among these responses."""
    weights = [rows.weights[pair] for pair in pairs]
    batch = training.objective.batch(pairs, rows.packer.groups, responses, weights).to(training.accelerator.device)
    return training.objective.terms(policy, reference, batch), batch


@dataclass(frozen=True)
class Exchanged:
    """The log-probs of the responses whose pairs reach across rows, on every process, without gradient."""

    responses: list[ResponseRef]
    policy: ResponseLogps
    reference: ResponseLogps


@torch.no_grad()
def exchange(training: Training, rows: StepRows) -> Exchanged:
    """Compute the responses of the pairs across rows, each process its own, and give them to all."""
    groups, accelerator, measures = rows.packer.groups, training.accelerator, training.objective.measures
    refs = list(dict.fromkeys(ref for pair in rows.across for ref in sides(pair, groups)))
    lengths = tuple(num_trained(groups[ref.group], ref.response) for ref in refs)
    values = torch.zeros(2 + len(measures), sum(lengths), device=accelerator.device)  # (K, N)
    places = dict(zip(refs, torch.split(values, list(lengths), dim=1), strict=True))
    for number, row in enumerate(rows.mine):
        if all(places.keys().isdisjoint(one.refs()) for one in rows.beside(number, accelerator.num_processes)):
            continue
        batch = tokens_of(training, rows, row)
        policy, reference = response_logps(training.scorer, batch, measures), rows.reference.of(batch)
        if row.is_filler:
            continue
        found = torch.cat([policy.measured, reference.tokens[None]])
        for ref, part in zip(batch.responses, torch.split(found, list(batch.lengths), dim=1), strict=True):
            if ref in places:  # the others are another process' share
                places[ref].copy_(part)
    values = accelerator.reduce(values, reduction="sum")
    return Exchanged(refs, with_measures(values[:-1], lengths, measures), ResponseLogps(values[-1], lengths))
