"""Warnings in plain words during a run: what was seen, what it may mean, what to do.

The signs are in symptoms.py; here is what they mean, and that nobody is told the same again and again.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from trainer.config.sections import TrainConfig
from trainer.watch import symptoms
from trainer.watch.symptoms import History, Metrics, RunShape, Symptom

QUIET_STEPS = 100
"""Between two warnings of a kind; what is said once in a hundred steps is read."""


class Kind(StrEnum):
    """What a run can suffer from."""

    EASY_PAIRS = "easy_pairs"
    NOT_LEARNING = "not_learning"
    BOTH_SIDES_FALL = "both_sides_fall"
    LENGTH_DECIDES = "length_decides"
    PREFERENCE_COLLAPSE = "preference_collapse"
    OVERFITTING = "overfitting"
    GRADIENT_SPIKE = "gradient_spike"
    GRADIENT_CLIPPED = "gradient_clipped"
    FAR_FROM_REFERENCE = "far_from_reference"


class Advice(NamedTuple):
    """What a warning says beside its numbers."""

    meaning: str
    remedy: str


ADVICE: dict[Kind, Advice] = {
    Kind.EASY_PAIRS: Advice(
        "something simple gives the answer away, such as length or format, or the policy was trained on these pairs",
        "read some pairs of the file; make harder ones (dpo collect-pairs --strategy length-matched), and validate on "
        "prompts of another source",
    ),
    Kind.NOT_LEARNING: Advice(
        "the learning rate is too low for this model, or chosen and rejected differ by noise alone",
        "raise policy.optimizer.lr three to ten times; collect pairs with a larger dpo collect-pairs --min-margin",
    ),
    Kind.BOTH_SIDES_FALL: Advice(
        "likelihood displacement: probability goes to responses that nobody looked at",
        "dpo.sft_loss_weight=0.1, or loss.name=dpop; else a lower policy.optimizer.lr or a higher "
        "dpo.reference_policy_kl_penalty",
    ),
    Kind.LENGTH_DECIDES: Advice(
        "the policy learns how long an answer is, not how good",
        "balance lengths in the data (dpo collect-pairs --max-length-ratio), or loss.length_penalty, "
        "loss.ld_alpha=0.5, dpo.preference_average_log_probs=true",
    ),
    Kind.PREFERENCE_COLLAPSE: Advice(
        "preference collapse: one type of response is preferred ever more strongly, whatever the prompt",
        "more varied data, a higher dpo.reference_policy_kl_penalty, loss.name=ipo or loss.label_smoothing with "
        "loss.name=cdpo, fewer steps",
    ),
    Kind.OVERFITTING: Advice(
        "overfitting to the preferences: the pairs are learnt by heart",
        "fewer dpo.max_num_epochs or a lower policy.optimizer.lr, more data, a higher "
        "dpo.reference_policy_kl_penalty; take the best checkpoint (checkpointing.metric_name=val:loss)",
    ),
    Kind.GRADIENT_SPIKE: Advice(
        "a batch with unusual pairs, such as very long ones, or a learning rate at the edge",
        "if it comes again: a lower policy.optimizer.lr, a longer policy.scheduler.warmup_ratio, a larger "
        "policy.train_global_batch_size",
    ),
    Kind.GRADIENT_CLIPPED: Advice(
        "each step is as large as the limit lets it, whatever the gradient says",
        "raise policy.max_grad_norm, or lower what makes gradients large: dpo.reference_policy_kl_penalty, or "
        "dpo.preference_average_log_probs=true",
    ),
    Kind.FAR_FROM_REFERENCE: Advice(
        "the policy forgets what it could do beside the preferences",
        "a higher dpo.reference_policy_kl_penalty, a lower policy.optimizer.lr, fewer steps; test other abilities",
    ),
}

AT_STEPS: tuple[tuple[Kind, Symptom], ...] = (
    (Kind.EASY_PAIRS, symptoms.easy_pairs),
    (Kind.NOT_LEARNING, symptoms.not_learning),
    (Kind.BOTH_SIDES_FALL, symptoms.both_sides_fall),
    (Kind.LENGTH_DECIDES, symptoms.length_decides),
    (Kind.PREFERENCE_COLLAPSE, symptoms.margins_explode),
    (Kind.GRADIENT_SPIKE, symptoms.gradient_spike),
    (Kind.GRADIENT_CLIPPED, symptoms.gradient_clipped),
    (Kind.FAR_FROM_REFERENCE, symptoms.far_from_reference),
)


@dataclass
class Sighting:
    """When something was seen."""

    first: int
    last: int
    count: int
    seen: str  # the last time
    told: int  # the step at which it was told last


@dataclass
class Health:
    """Looks at a run's metrics as they come."""

    history: History
    sightings: dict[Kind, Sighting] = field(default_factory=dict)

    def observe(self, step: int, metrics: Metrics) -> list[str]:
        """Look at a step's metrics, by their names without prefix; give the warnings to be shown."""
        self.history.add(step, metrics)
        found = ((kind, symptom(self.history)) for kind, symptom in AT_STEPS)
        return self._told(step, ((kind, seen) for kind, seen in found if seen is not None))

    def observe_validation(self, step: int, metrics: Metrics) -> list[str]:
        """Look at a validation, by its names in metrics.jsonl: validation-NAME/loss and so on, of all sets."""
        for dataset, values in _by_dataset(metrics).items():
            self.history.add_validation(dataset, values)
        return self._told(
            step,
            (
                *((Kind.PREFERENCE_COLLAPSE, seen) for seen in symptoms.accuracy_falls(self.history)),
                *((Kind.OVERFITTING, seen) for seen in symptoms.validation_loss_rises(self.history)),
            ),
        )

    def recall(self, line: Mapping[str, float | None]) -> None:
        """Take up a line of metrics.jsonl of a run that is resumed, as if it had been observed."""
        known = {key: value for key, value in line.items() if value is not None}  # null was no finite number
        step = int(known["step"])
        trained = {key.removeprefix("train/"): value for key, value in known.items() if key.startswith("train/")}
        if trained:
            self.observe(step, trained)
        if _by_dataset(known):
            self.observe_validation(step, known)

    def as_dict(self) -> dict[str, object]:
        """Give what was seen, the first first, as JSON types."""
        ordered = sorted(self.sightings.items(), key=lambda item: item[1].first)
        return {
            "step": self.history.step,
            "verdicts": [
                {"kind": str(kind), "seen": each.seen, "first": each.first, "last": each.last, "count": each.count}
                | ADVICE[kind]._asdict()
                for kind, each in ordered
            ],
        }

    def verdicts(self) -> list[str]:
        """Sum up at the end what was seen, the first first."""
        return [
            f"{kind}: {each.seen} ({_when(each)}). It may mean: {ADVICE[kind].meaning}. "
            f"What to do: {ADVICE[kind].remedy}."
            for kind, each in sorted(self.sightings.items(), key=lambda item: item[1].first)
        ]

    def _told(self, step: int, found: Iterable[tuple[Kind, str]]) -> list[str]:
        warnings = []
        for kind, seen in found:
            known = self.sightings.get(kind)
            is_new = known is None or step - known.told >= QUIET_STEPS
            if known is None:
                self.sightings[kind] = Sighting(step, step, 1, seen, step)
            else:
                known.last, known.seen, known.count = step, seen, known.count + 1
                known.told = step if is_new else known.told
            if is_new:
                warnings.append(_warning(kind, step, seen))
        return warnings


def start_health(config: TrainConfig, *, num_steps: int, steps_in_epoch: int) -> Health:
    """Begin to look at a run."""
    scheduler = config.policy.scheduler
    warmup = scheduler.warmup_steps
    shape = RunShape(
        num_steps=num_steps,
        steps_in_epoch=steps_in_epoch,
        warmup_steps=round(scheduler.warmup_ratio * num_steps) if warmup is None else warmup,
        max_grad_norm=config.policy.max_grad_norm,
        averages=config.dpo.preference_average_log_probs,
    )
    return Health(History(shape))


def _by_dataset(metrics: Metrics) -> dict[str, dict[str, float]]:
    """Take the names apart: validation-NAME/loss is NAME's loss."""
    found: dict[str, dict[str, float]] = {}
    for key, value in metrics.items():
        if key.startswith("validation-"):
            dataset, _, name = key.removeprefix("validation-").partition("/")
            found.setdefault(dataset, {})[name] = value
    return found


def _warning(kind: Kind, step: int, seen: str) -> str:
    advice = ADVICE[kind]
    return f"warning {kind}, step {step}: {seen}. It may mean: {advice.meaning}. What to do: {advice.remedy}."


def _when(each: Sighting) -> str:
    if each.count == 1:
        return f"at step {each.first}"
    return f"{each.count} times, at steps {each.first} to {each.last}"
