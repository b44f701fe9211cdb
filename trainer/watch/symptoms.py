"""What can be seen in the metrics of a run that goes wrong, each as a function of what was measured so far.

Medians over some steps are compared, never single steps, but for the gradient's spikes. Every threshold has a name and
a reason; all were chosen so that a run that learns well says nothing.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from statistics import fmean, median

Metrics = Mapping[str, float]

RECENT = 10
"""Steps whose median is taken: with fewer, one unusual batch decides."""
WINDOW = 50
"""Steps that are remembered: long enough to see a trend, short enough to forget the warm-up."""

EASY_ACCURACY = 0.99
"""Mean accuracy of the first steps: preferences that have to be learnt start near one half."""
EASY_STEPS = (6, 11)
"""At which step it is judged: in the first epoch, from the second step on, at least five steps."""

LN_2 = math.log(2)
START_LOSS_WITHIN = 0.02
"""A loss whose first value is that near to ln 2 starts there, as DPO's does; others are not judged by it."""
LEARNT = 0.002
"""The least fall of the loss in what should be learning: it is a margin of 0.004, a hundredth of what runs end with."""
LEARNING_STEPS = 20
LEARNING_SHARE = 0.1
"""When it is judged: after the warm-up, and then a tenth of the run and 20 steps at least."""

BOTH_FELL = 0.9
"""Share of pairs in which both responses lost probability; that some do is the rule in DPO."""
CHOSEN_LOST = 0.1
"""Share of their log-prob that chosen responses lost; a tenth is as much as other words for the same would take."""
CHOSEN_LOST_PER_TOKEN = 0.1
"""The same in nats a token, where log-ratios are averages (dpo.preference_average_log_probs)."""

LENGTH_CORRELATION = 0.8
"""Pearson's r between log-ratio and length above which length explains two thirds of what is preferred. The
median of `WINDOW` steps is taken: where rejected responses happen to ramble, r jumps to 0.9 and back."""

ACCURACY_FALL = 0.05
"""Below its best in validation, on the same pairs: one in twenty that was right is wrong now."""
MARGIN_GROWTH = 3.0
LEAST_MARGIN = 2.0
"""Margins that triple in 50 steps and pass 2, where the loss of a pair that is right is below 0.13 already."""
ACCURACY_RISE, HIGH_ACCURACY = 0.01, 0.95
"""By less than the one, below the other: margins then grow in pairs that are right already."""

RISEN_VALIDATIONS, RISE = 3, 0.01
"""So many validations in a row with a loss by that share above the best. The set is the same each time, so a difference
is no chance of the draw; but what went up may come down again."""

SPIKE = 10.0
"""Times the median of the steps before: single batches differ by three to five times in healthy runs."""
CLIPPED_SHARE = 0.95
CLIPPED_TIMES = 10.0
"""Nearly all steps clipped, and to a tenth: with sums of log-probs norms of some times the limit are usual."""

KL_SHARE, LEAST_KL = 0.5, 20.0
"""Of the nats that responses take, and in nats: half of what the reference knew of them is gone."""


@dataclass(frozen=True)
class RunShape:
    """What of a run's configuration its metrics are judged by."""

    num_steps: int
    steps_in_epoch: int
    warmup_steps: int
    max_grad_norm: float | None
    averages: bool  # log-ratios are divided by the number of tokens

    @property
    def learns_from(self) -> int:
        """Give the step from which the loss should have fallen."""
        return max(LEARNING_STEPS, self.warmup_steps + math.ceil(LEARNING_SHARE * self.num_steps))


@dataclass
class History:
    """What was measured so far; only as much as is looked at."""

    shape: RunShape
    step: int = 0
    first_loss: float = math.nan  # the preference loss of step 1
    window: deque[Metrics] = field(default_factory=lambda: deque(maxlen=WINDOW))
    validations: dict[str, list[tuple[Metrics, float]]] = field(default_factory=dict)  # with the train loss then

    def add(self, step: int, metrics: Metrics) -> None:
        """Remember a step."""
        self.step = step
        if step == 1:
            self.first_loss = metrics.get("preference_loss", math.nan)
        self.window.append(metrics)

    def add_validation(self, dataset: str, metrics: Metrics) -> None:
        """Remember a validation of a set."""
        self.validations.setdefault(dataset, []).append((metrics, self.recent("loss")))

    def values(self, name: str) -> list[float]:
        """Give a metric in the window; steps that have none, or no finite number, are left out."""
        return [value for each in self.window if math.isfinite(value := each.get(name, math.nan))]

    def validated(self, dataset: str, *names: str) -> list[tuple[Metrics, float]]:
        """Give the validations of a set that have these metrics as finite numbers; none where the latest hasn't."""
        found = self.validations[dataset]
        known = [each for each in found if _has(each[0], *names)]
        return known if known and known[-1] is found[-1] else []

    def recent(self, name: str) -> float:
        """Give the median of a metric over the last steps; NaN, which no threshold is passed by, with too few."""
        values = self.values(name)[-RECENT:]
        return median(values) if len(values) == RECENT else math.nan


def _has(metrics: Metrics, *names: str) -> bool:
    return all(math.isfinite(metrics.get(name, math.nan)) for name in names)


Symptom = Callable[[History], str | None]
"""Says with numbers what was seen, None where nothing was."""


def easy_pairs(history: History) -> str | None:
    """See pairs that are told apart before anything was learnt."""
    least, most = EASY_STEPS
    last = min(most, history.shape.steps_in_epoch)
    accuracies = history.values("accuracy")
    if history.step != last or last < least or len(accuracies) != last:
        return None
    early = fmean(accuracies[1:])  # at step 1 only rounding decides
    if early < EASY_ACCURACY:
        return None
    return f"accuracy {early:.3f} over the steps 2 to {last}"


def not_learning(history: History) -> str | None:
    """See a loss that stays where it began."""
    loss = history.recent("preference_loss")
    starts_at_ln_2 = abs(history.first_loss - LN_2) < START_LOSS_WITHIN
    if history.step < history.shape.learns_from or not starts_at_ln_2 or not abs(loss - LN_2) < LEARNT:
        return None
    return f"the preference loss is {loss:.4f} after {history.step} steps, and began at ln 2 = {LN_2:.4f}"


def both_sides_fall(history: History) -> str | None:
    """See chosen responses become less probable together with the rejected ones."""
    share, ratio = history.recent("both_fell"), history.recent("rewards_chosen_mean")
    if not share > BOTH_FELL:
        return None
    text = f"both responses lost probability in {share:.0%} of the pairs"
    if history.shape.averages:
        return f"{text}, the chosen ones {-ratio:.2f} nats a token" if -ratio > CHOSEN_LOST_PER_TOKEN else None
    logps = history.recent("logps_chosen_mean")
    reference = logps - ratio
    if not ratio < CHOSEN_LOST * reference:  # both below zero
        return None
    return f"{text}; the chosen ones have {logps:.1f} nats, and had {reference:.1f}"


def length_decides(history: History) -> str | None:
    """See log-ratios that follow the length of responses."""
    values = history.values("reward_length_correlation")
    if len(values) < WINDOW:
        return None
    middle = median(values)
    if abs(middle) < LENGTH_CORRELATION or any(value * middle <= 0 for value in values):
        return None
    return (
        f"log-ratios follow the length of responses (r = {middle:+.2f}): {'longer' if middle > 0 else 'shorter'} wins"
    )


def margins_explode(history: History) -> str | None:
    """See margins grow in training where accuracy does not."""
    margins, accuracies = history.values("margin_mean"), history.values("accuracy")
    if len(margins) < WINDOW or len(accuracies) < WINDOW:
        return None
    before, after = median(margins[:RECENT]), median(margins[-RECENT:])
    then, now = median(accuracies[:RECENT]), median(accuracies[-RECENT:])
    grew = after > LEAST_MARGIN and after > MARGIN_GROWTH * max(before, 0.0)
    if not grew or now - then > ACCURACY_RISE or now > HIGH_ACCURACY:
        return None
    return f"in {WINDOW} steps the margin went from {before:.2f} to {after:.2f}, accuracy from {then:.2f} to {now:.2f}"


def gradient_spike(history: History) -> str | None:
    """See a gradient many times as large as those before it."""
    *before, norm = history.values("grad_norm") or [math.nan]
    is_harmless = norm <= (history.shape.max_grad_norm or 0.0)  # as of pairs that are nearly all learnt
    if len(before) < RECENT or is_harmless or not norm > SPIKE * median(before):
        return None
    return f"the gradient's norm is {norm:.3g}, {norm / max(median(before), 1e-12):,.0f} times its median"


def gradient_clipped(history: History) -> str | None:
    """See gradients that are cut down to a fraction in nearly all steps."""
    limit, norms = history.shape.max_grad_norm, history.values("grad_norm")
    if limit is None or len(norms) < WINDOW:
        return None
    share = sum(norm > limit for norm in norms) / len(norms)
    if share < CLIPPED_SHARE or median(norms) < CLIPPED_TIMES * limit:
        return None
    return f"{share:.0%} of the last {WINDOW} gradients were clipped, from a norm of {median(norms):.3g} to {limit:g}"


def far_from_reference(history: History) -> str | None:
    """See a policy that has left its reference."""
    kl = history.recent("kl")
    nats = -(history.recent("logps_chosen_mean") + history.recent("logps_rejected_mean")) / 2
    if not (kl > LEAST_KL and kl > KL_SHARE * nats):
        return None
    return f"the policy is {kl:.0f} nats a response from the reference; its responses take {nats:.0f}"


def accuracy_falls(history: History) -> Iterator[str]:
    """See sets whose accuracy fell below its best though the margin is wider than it was then."""
    for dataset in history.validations:
        found = history.validated(dataset, "accuracy", "margin_mean")
        if not found:
            continue
        accuracies = [(each["accuracy"], each["margin_mean"]) for each, _ in found]
        best, margin = max(accuracies, key=lambda each: each[0])
        last, wider = accuracies[-1]
        if best - last > ACCURACY_FALL and wider > margin:
            yield f"accuracy on {dataset} fell from {best:.2f} to {last:.2f} while the margin grew to {wider:.2f}"


def validation_loss_rises(history: History) -> Iterator[str]:
    """See sets whose loss stays above its best while that of training goes on falling."""
    for dataset in history.validations:
        losses = [(each["loss"], trained) for each, trained in history.validated(dataset, "loss")]
        if not losses:
            continue
        (best, then), (_, now) = min(losses, key=lambda each: each[0]), losses[-1]
        lately = [loss for loss, _ in losses[-RISEN_VALIDATIONS:]]
        has_risen = len(losses) > RISEN_VALIDATIONS and all(loss - best > RISE * abs(best) for loss in lately)
        if has_risen and now < then:
            yield (
                f"the loss on {dataset} was {best:.4f} at best and is {lately[-1]:.4f}, above it for "
                f"{RISEN_VALIDATIONS} validations, while in training it fell from {then:.4f} to {now:.4f}"
            )
