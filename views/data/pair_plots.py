"""The plots of pairs, the same for those of a file and those that rollouts would give."""

import random

from views.data.bins import Bins, binned
from views.data.pair_figures import PairFigures, values_by_environment
from views.data.pair_table import PairTable
from views.plots import BarPlot, HistogramPlot, Plot, ScatterPlot, Series

MOST_POINTS = 700
MOST_ENVIRONMENTS = 5
MOST_BARS = 15
WIDE = 30  # times from the least to the greatest length, from which on axes are logarithmic


def pair_plots(table: PairTable, figures: PairFigures, *, seed: int) -> list[Plot]:
    """Declare what is drawn of pairs: nothing of what is not there."""
    if not len(table):
        return []
    margins = binned(values_by_environment(table, ["margin"], most=MOST_ENVIRONMENTS))
    frame = table.frame
    rewards = binned({side: frame[f"{side}_reward"].drop_nulls().to_list() for side in ("chosen", "rejected")})
    found: list[Plot] = []
    if margins:
        caption = f"Margins: how much better the verifier found the chosen response.{_beyond(margins)}"
        if figures.margin.least == figures.margin.most:
            caption = "Margins: all are the same, as of verifiers that say right or wrong, not how good an answer is."
        found.append(HistogramPlot("margins", caption, "margin", margins.edges, margins.counts))
    if rewards:
        caption = (
            f"Rewards of both sides; where they overlap, a pair's order is a matter of its prompt.{_beyond(rewards)}"
        )
        found.append(HistogramPlot("pair-rewards", caption, "reward", rewards.edges, rewards.counts))
    found += _lengths(table, figures, seed)
    caption = (
        f"Pairs per prompt: one prompt has up to {figures.most_pairs_of_a_prompt:,}, and one response is in up to "
        f"{figures.most_pairs_of_a_response:,} of them. Prompts with many weigh more in the loss."
    )
    labels = [f"{number} pair{'' if number == '1' else 's'}" for number in figures.pairs_per_prompt]
    values = {"prompts": [float(number) for number in figures.pairs_per_prompt.values()]}
    found.append(BarPlot("pairs-per-prompt", caption, "prompts", labels, values))
    return found


def _lengths(table: PairTable, figures: PairFigures, seed: int) -> list[Plot]:
    frame = table.frame
    places = list(range(len(frame)))
    if len(places) > MOST_POINTS:
        places = sorted(random.Random(seed).sample(places, MOST_POINTS))
    drawn = frame[places]
    drawn_of = f" {len(places):,} of {len(frame):,} pairs, drawn at random." if len(places) < len(frame) else ""
    x, y = ([max(value, 1) for value in drawn[f"{side}_length"].to_list()] for side in ("rejected", "chosen"))
    is_wide = max(*x, *y) > WIDE * min(*x, *y)
    caption = f"Length of chosen against rejected: above the line, the chosen response is the longer one.{drawn_of}"
    scatter = ScatterPlot(
        "lengths",
        caption,
        "characters of rejected",
        "characters of chosen",
        [Series("pairs", x, y)],
        log_axes=is_wide,
        diagonal=True,
    )
    sides = {side: frame[f"{side}_length"].to_list() for side in ("chosen", "rejected")}
    bins = binned(sides, log=is_wide)
    found: list[Plot] = [scatter]
    if bins:
        caption = "Lengths of both sides: two like shapes leave length out of what is learned."
        found.append(HistogramPlot("side-lengths", caption, "characters", bins.edges, bins.counts, log_x=is_wide))
    several = [each for each in figures.environments if each.chosen_longer_share is not None][:MOST_BARS]
    if len(several) > 1:
        caption = "Share of the pairs of different lengths whose chosen response is the longer one; 50 % is no bias."
        values = {"chosen longer": [100 * (each.chosen_longer_share or 0) for each in several]}
        found.append(BarPlot("longer", caption, "per cent of pairs", [each.name for each in several], values))
    return found


def _beyond(bins: Bins) -> str:
    """Say how many values the plot has in its outermost bins though they lie far outside."""
    return f" {bins.num_beyond:,} far outside are counted in the first and last bar." if bins.num_beyond else ""
