"""What the numbers of an evaluation mean in plain words, and what to do about it."""

from collections.abc import Iterator, Mapping
from typing import Any

from schemas.terminal import counted, printable

FEW_PROMPTS = 30
MOST_FALLEN = 0.5
MOST_OVERCONFIDENT = 0.1
MOST_LEFT_OUT = 0.1
CHANCE = 0.5

Note = tuple[str, str]
"""What is seen, and what to do."""


def advice(result: Mapping[str, Any]) -> list[Note]:
    """Give what a reader should know before the numbers are believed or acted on."""
    return [*_of_data(result), *_of_metrics(result["metrics"]), *_of_parts(result), *_of_answers(result["generation"])]


def _of_data(result: Mapping[str, Any]) -> Iterator[Note]:
    data = result["data"]
    for path in data["trained_on"]:
        yield (
            f"The policy was trained on {printable(path)}: these numbers say how well it remembers.",
            "Measure on pairs of other prompts; dpo collect-pairs --validation-fraction keeps some apart.",
        )
    for note in data["notes"]:
        yield printable(note[:1].upper() + note[1:] + "."), ""
    if data["num_prompts"] < FEW_PROMPTS:
        yield (
            f"Only {counted(data['num_prompts'], 'prompt')}: the intervals are rough, and rather too narrow.",
            "Take pairs of more prompts; more pairs of the same prompts tell little.",
        )
    left_out = sum(data["dropped"].values())
    if left_out > MOST_LEFT_OUT * (left_out + data["num_pairs"]):
        reasons = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in data["dropped"].items())
        yield (
            f"{counted(left_out, 'pair')} could not be measured ({reasons}).",
            "Of pairs that are too long, --max-length takes more; the numbers are about the others alone.",
        )


def _of_metrics(metrics: Mapping[str, Any]) -> Iterator[Note]:
    accuracy = metrics.get("accuracy")
    if accuracy is None:
        return
    low, high = accuracy["low"], accuracy["high"]
    if accuracy["mean"] == CHANCE and metrics["margin"]["mean"] == 0 and metrics["kl"]["mean"] == 0:
        yield (
            "Policy and reference give all responses the same log-probs.",
            "Look whether these are the models that were meant: the digests of their weights are below.",
        )
    elif low is not None and high is not None and high < CHANCE:
        yield (
            "The policy prefers the rejected responses.",
            "Look whether chosen and rejected are swapped in the file, and read the pairs below.",
        )
    elif low is not None and high is not None and low <= CHANCE <= high:
        yield (
            "The preference accuracy can't be told from chance.",
            "Train longer or with a higher learning rate, or take more prompts to measure on.",
        )
    if metrics["both_fell"]["mean"] > MOST_FALLEN:
        yield (
            f"In {metrics['both_fell']['mean']:.0%} of the pairs both responses have become less probable: the policy "
            "moves to what is in neither.",
            "Add dpo.sft_loss_weight=0.1, or take loss.name=dpop; read its answers (--generate).",
        )


def _of_parts(result: Mapping[str, Any]) -> Iterator[Note]:
    calibration = result["calibration"]
    if calibration is not None and calibration["overconfidence"] > MOST_OVERCONFIDENT:
        points = f"{100 * calibration['overconfidence']:.0f} points"
        yield (
            f"The policy is too sure: its mean confidence is {points} above the share of pairs that it judges rightly.",
            "Fewer epochs, a lower learning rate, or loss.label_smoothing where labels are noisy.",
        )
    for part in result.get("by_environment", ()):
        accuracy = part["metrics"].get("accuracy")
        if accuracy is not None and accuracy["high"] is not None and accuracy["high"] < CHANCE:
            yield (
                f"In the environment {printable(part['name'])} the policy prefers the rejected responses.",
                "Look at its pairs, and whether its rewards mean what those of the others mean.",
            )
    sides = {part["name"]: part["metrics"].get("accuracy") for part in result.get("by_longer_side", ())}
    shorter, longer = sides.get("chosen is shorter"), sides.get("chosen is longer")
    if shorter and longer and _apart(shorter, longer):
        better = "longer" if longer["mean"] > shorter["mean"] else "shorter"
        yield (
            f"Pairs are judged rightly more often where the chosen response is the {better} one "
            f"({shorter['mean']:.0%} where it is shorter, {longer['mean']:.0%} where it is longer).",
            "Part of what was learnt is length: try loss.length_penalty, or pairs of about equal lengths.",
        )


def _of_answers(generation: Mapping[str, Any] | None) -> Iterator[Note]:
    if generation is None:
        return
    before, after = generation["metrics"]["truncated_before"], generation["metrics"]["truncated_after"]
    if _apart(before, after) and after["mean"] > before["mean"]:
        yield (
            f"More answers are cut by the limit than before ({before['mean']:.1%} → {after['mean']:.1%}).",
            "Look whether the policy still ends its turns; leave truncated responses out of the chosen ones.",
        )


def _apart(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Say whether two intervals have nothing in common."""
    if None in (one["low"], one["high"], other["low"], other["high"]):
        return False
    return bool(one["high"] < other["low"] or other["high"] < one["low"])
