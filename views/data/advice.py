"""What a person who picks the data should know and do, in plain words: (what is seen, what to do)."""

from collections import Counter

from pipeline.attrition import MEANING, Attrition, Reason
from pipeline.gate.settings import Limits
from pipeline.inspection import FAILURES, Inspection
from pipeline.show import HINTS
from schemas.terminal import counted
from views.data.pair_figures import PairFigures
from views.data.pair_table import environment_name

Advice = list[tuple[str, str]]
LIMITS = Limits()
MUCH_TRUNCATED = 0.1
MUCH_FAILED = 0.05
FEW_PAIRS = 100
MANY_OF_A_RESPONSE = 20
MOST_NAMES = 5
TRUNCATED_REMEDY = "Give the policy more tokens (max_output_tokens), or take shorter tasks."


def pair_advice(figures: PairFigures) -> Advice:
    """Say what is odd in pairs, of a file or of what rollouts would give."""
    found: Advice = []
    if not figures.pairs:
        return found
    if figures.pairs < FEW_PAIRS:
        found.append(
            (
                f"There are only {counted(figures.pairs, 'pair')}; a policy learns little from so few, and their "
                "figures say little.",
                "Collect rollouts of more tasks.",
            )
        )
    found += _length_advice(figures)
    found += _balance_advice(figures)
    if figures.far_rewards:
        found.append(
            (
                f"{counted(figures.far_rewards, 'reward')} of the pairs' sides lie far from all others (from "
                f"{_least(figures):.4g} to {_greatest(figures):.4g}).",
                "Look at them (--sort margin): a verifier that failed, or a reward on another scale. "
                "dpo validate --limit min-reward=… --limit max-reward=… finds their rows.",
            )
        )
    if figures.most_pairs_of_a_response > MANY_OF_A_RESPONSE:
        found.append(
            (
                f"One response is in {figures.most_pairs_of_a_response:,} pairs, and one prompt in "
                f"{figures.most_pairs_of_a_prompt:,}; they weigh as much in the loss.",
                "Take fewer pairs of each: dpo collect-pairs --max-pairs-per-prompt N, or --strategy best-worst.",
            )
        )
    if figures.rejected_truncated > 0.2 * figures.pairs:
        found.append(
            (
                f"In {figures.rejected_truncated:,} of {counted(figures.pairs, 'pair')} the rejected response was cut "
                "by a limit: the policy learns that long answers are bad.",
                "Leave them out (collect-pairs without --allow-truncated-rejected), or raise the limit.",
            )
        )
    return found


def rollout_advice(inspection: Inspection, attrition: Attrition, figures: PairFigures) -> Advice:
    """Say what is odd in rollouts, and what to collect instead."""
    found: Advice = []
    if inspection.rows and not inspection.rollouts:
        reason, count = attrition.dropped.most_common(1)[0]
        told = f"None of {counted(inspection.rows, 'row')} can be used. {count:,} of them: {MEANING[reason]}"
        return [(told, HINTS.get(reason, "dpo collect-pairs --dry-run --verbose shows a line for each reason."))]
    if inspection.advice:
        *seen, command = inspection.advice
        found.append((_sentences(seen), f"Collect with: {command}"))
    for _, expected, missing in inspection.missing:
        if missing:
            found.append(
                (
                    f"{missing:,} of {counted(expected, 'rollout')} are missing, by the materialized inputs beside the "
                    "file.",
                    "The collection was ended early or lost them; gym eval run --resume goes on with it.",
                )
            )
    found += _dropped_advice(inspection, attrition.dropped)
    found += _constant_advice(inspection)
    return [*found, *pair_advice(figures)]


def _constant_advice(inspection: Inspection) -> Advice:
    """Name the environments whose rewards are all the same, though there are several."""
    several = [each for each in inspection.environments if each.rollouts > 1]
    same = [each for each in several if each.min_reward == each.max_reward]
    if not same:
        return []
    same.sort(key=lambda each: -each.rollouts)
    named = [
        f"{environment_name(each.agent)} ({each.rollouts:,} of {each.min_reward:.4g})" for each in same[:MOST_NAMES]
    ]
    rest = f" and {len(same) - MOST_NAMES:,} more" if len(same) > MOST_NAMES else ""
    told = f"All rewards are the same in {len(same):,} of {counted(len(several), 'environment')}, so they tell nothing "
    return [
        (
            f"{told}apart: {', '.join(named)}{rest}.",
            "See whether their verifiers work; else take harder or easier tasks.",
        )
    ]


def _dropped_advice(inspection: Inspection, dropped: Counter[Reason]) -> Advice:
    rows, found = inspection.rows or 1, Advice()
    if inspection.truncated > MUCH_TRUNCATED * rows:
        told = f"{inspection.truncated / rows:.0%} of the rows were cut by a limit."
        found.append((told, TRUNCATED_REMEDY))
    failed = sum(dropped[reason] for reason in FAILURES)
    if failed > MUCH_FAILED * rows:
        told = f"{failed / rows:.0%} of the rows failed, are masked, unverified or empty."
        found.append((told, "Look at the environment's log: such rewards measure nothing."))
    if number := dropped[Reason.DUPLICATE_ROLLOUT]:
        told = f"{counted(number, 'rollout')} are there twice; one of each is used."
        found.append((told, "Most often a run was appended to its own file, or a file was given twice."))
    if number := dropped[Reason.CONFLICTING_REWARDS]:
        told = f"{counted(number, 'row')} are the same rollouts with different rewards; none of them is used."
        found.append((told, "Give only the file with the verdicts that hold, say the one after verifying anew."))
    for reason in (Reason.TOOL_USE, Reason.SEVERAL_TURNS):
        if dropped[reason] > MUCH_FAILED * rows:
            told = f"{counted(dropped[reason], 'row')} are left out: {MEANING[reason].partition(';')[0]}."
            found.append((told, "Take --format preference or trl, here and in dpo collect-pairs."))
    return found


def _length_advice(figures: PairFigures) -> Advice:
    share, unequal = figures.chosen_longer_share, figures.chosen_longer + figures.rejected_longer
    if share is None or unequal < LIMITS.min_rows:
        return []
    if LIMITS.min_chosen_longer <= share <= LIMITS.max_chosen_longer:
        return []
    more = "longer" if share > LIMITS.max_chosen_longer else "shorter"
    told = share if more == "longer" else 1 - share
    return [
        (
            f"The chosen response is the {more} one in {told:.0%} of {unequal:,} pairs of different lengths: the "
            f"policy would learn to write {more}, whether that is better or not.",
            "Balance them with dpo collect-pairs --strategy length-matched, or train with loss.length_penalty.",
        )
    ]


def _balance_advice(figures: PairFigures) -> Advice:
    if len(figures.environments) < 2 or figures.pairs < LIMITS.min_rows:
        return []
    first = figures.environments[0]
    if first.share <= LIMITS.max_balance_share:
        return []
    return [
        (
            f"{first.share:.0%} of the pairs are of {first.name}; the other {len(figures.environments) - 1} "
            "environments have hardly any weight in the loss.",
            "Take fewer of them: dpo collect-pairs --max-pairs-per-agent N, or collect more of the others.",
        )
    ]


def _least(figures: PairFigures) -> float:
    return min(value for value in (figures.chosen_reward.least, figures.rejected_reward.least) if value is not None)


def _greatest(figures: PairFigures) -> float:
    return max(value for value in (figures.chosen_reward.most, figures.rejected_reward.most) if value is not None)


def _sentences(lines: list[str]) -> str:
    return " ".join(f"{line[:1].upper()}{line[1:]}." for line in lines)
