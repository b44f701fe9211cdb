"""Validation: the same metrics as in training, of pairs that are not trained on, without a gradient.

A set is read, tokenised and packed as the training data is, by itself, so that with or without it the training is the
same to the last bit. Its reference log-probs come with the training data's, before the first step.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any

from schemas.errors import DpoError
from schemas.terminal import counted
from trainer.config.sections import TrainConfig
from trainer.data.plan import PairRef, every_pair
from trainer.data.tokenize import TokenizedGroup, TokenizedPairs
from trainer.model.packing import Packer
from trainer.model.reference import Reference
from trainer.run.evaluation import pair_metrics
from trainer.run.start import LoadedGroups, load_groups, tokenize
from trainer.run.training import Training


@dataclass(frozen=True)
class ValidationData:
    """The pairs of a set that are validated on, and the account of those that can't be."""

    name: str
    data: TokenizedPairs

    @property
    def notes(self) -> tuple[str, ...]:
        """Give what was met while the set was read."""
        return tuple(f"validation {self.name}: {note}" for note in self.data.notes)

    @property
    def pairs(self) -> tuple[PairRef, ...]:
        """Name all pairs."""
        return every_pair(self.data.groups)


@dataclass(frozen=True)
class ValidationSet:
    """What a validation works with; the same objects for the whole run."""

    name: str
    packer: Packer
    reference: Reference
    pairs: tuple[PairRef, ...]

    @property
    def num_responses(self) -> int:
        """Count the distinct responses of the pairs."""
        return sum(len(group.responses) for group in self.packer.groups)


def load_validation(
    config: TrainConfig,
    model: Any,
    tokenizer: Any,
    *,
    given: Mapping[str, LoadedGroups] = MappingProxyType({}),
    shown: bool,
) -> list[ValidationData]:
    """Read the validation sets that are not given, and tokenise all.

    Raises:
        InputError: a file can't be read, or holds what are no pairs.
        DpoError: no pair of a set is left.
    """
    return [
        ValidationData(name, _some(config, _tokenized(config, name, given.get(name), model, tokenizer, shown=shown)))
        for name in config.data.validation_sets
    ]


def validation_sets(config: TrainConfig, training: Training, found: Sequence[ValidationData]) -> list[ValidationSet]:
    """Pack the sets as a training does, in rows of their own size where one is given."""
    layout, row_tokens = training.packer.layout, val_row_tokens(config)
    return [
        ValidationSet(each.name, Packer(each.data.groups, layout, row_tokens), reference, each.pairs)
        for each, reference in zip(found, training.validation_references, strict=True)
    ]


def val_row_tokens(config: TrainConfig) -> int:
    """Give the most tokens of a row that is validated on."""
    size = config.dpo.val_micro_batch_size
    return config.policy.row_tokens if size is None else 2 * size * config.policy.max_total_sequence_length


def validate(
    training: Training, sets: Sequence[ValidationSet], advance: Callable[[str, int], None] = lambda name, amount: None
) -> dict[str, float]:
    """Compute the metrics of all sets, under NeMo RL's names; the same on every process.

    `advance` is told the name of the set and how many more of its responses are done.
    """
    metrics: dict[str, float] = {}
    total = 0.0
    for each in sets:
        started = time.perf_counter()
        found = pair_metrics(training, each.packer, each.reference, each.pairs, partial(advance, each.name))
        seconds = time.perf_counter() - started
        total += seconds
        metrics |= {f"validation-{each.name}/{name}": value for name, value in found.items()}
        metrics[f"timing/validation-{each.name}/total_validation_time"] = seconds
    return metrics | {"timing/validation/total_validation_time": total}


def leak_notes(groups: Sequence[TokenizedGroup], found: Iterable[ValidationData]) -> Iterator[str]:
    """Say which sets have prompts that are trained on: their metrics say little of what the policy learns."""
    trained = {tuple(group.prompt) for group in groups}
    for each in found:
        prompts = {tuple(group.prompt) for group in each.data.groups}
        if leaked := len(prompts & trained):
            yield (
                f"validation {each.name}: {leaked:,} of its {counted(len(prompts), 'prompt')} "
                f"{'is' if leaked == 1 else 'are'} trained on too; dpo collect-pairs --validation-fraction splits by "
                "prompt"
            )


def _tokenized(
    config: TrainConfig, name: str, given: LoadedGroups | None, model: Any, tokenizer: Any, *, shown: bool
) -> TokenizedPairs:
    try:
        groups = given or load_groups((config.data.validation_sets[name],), shown=shown)
        return tokenize(config, groups, model, tokenizer, shown=shown)
    except DpoError as error:
        raise type(error)(f"validation set {name}: {error}") from error


def _some(config: TrainConfig, data: TokenizedPairs) -> TokenizedPairs:
    """Take as many pairs as the batches have, of as many prompts as there are: a pair of each, then a second one."""
    most = config.dpo.val_batches * config.dpo.val_global_batch_size or data.num_pairs
    places = sorted((pair, number) for number, group in enumerate(data.groups) for pair in range(len(group.pairs)))
    counts = Counter(number for _, number in places[:most])
    groups = [_first_pairs(group, counts[number]) for number, group in enumerate(data.groups) if counts[number]]
    return replace(data, groups=groups)


def _first_pairs(group: TokenizedGroup, number: int) -> TokenizedGroup:
    """Keep so many pairs of a group, and the responses that they name."""
    pairs = group.pairs[:number]
    used = sorted({position for pair in pairs for position in (pair.chosen, pair.rejected)})
    new = {old: position for position, old in enumerate(used)}
    return replace(
        group,
        responses=tuple(group.responses[position] for position in used),
        pairs=tuple(replace(pair, chosen=new[pair.chosen], rejected=new[pair.rejected]) for pair in pairs),
    )
