"""The plots of rollouts: rewards, tasks that pass or not, what was cut; and those of the pairs in them."""

from schemas.terminal import counted
from views.data.bins import binned
from views.data.pair_plots import MOST_BARS, pair_plots
from views.data.rollout_data import RolloutData
from views.plots import BarPlot, HistogramPlot, Plot


def rollout_plots(data: RolloutData) -> list[Plot]:
    """Declare what is drawn of the rollouts themselves: nothing of what is not there."""
    if not data.inspection.rollouts:
        return []
    found: list[Plot] = []
    rewards = binned(data.rewards)
    if rewards:
        beyond = f" {rewards.num_beyond:,} far outside are in the first and last bar." if rewards.num_beyond else ""
        caption = f"Rewards of the usable rollouts, by environment.{beyond}"
        found.append(HistogramPlot("rewards", caption, "reward", rewards.edges, rewards.counts))
    largest = data.environments[:MOST_BARS]
    names = [each.name for each in largest]
    passes = {
        "always pass": [float(each.always_pass) for each in largest],
        "sometimes": [float(each.sometimes_pass) for each in largest],
        "never pass": [float(each.never_pass) for each in largest],
    }
    caption = (
        f"Tasks that always, sometimes and never pass (a reward of at least {data.settings.threshold:g}). Only tasks "
        "whose rewards differ give pairs."
    )
    found.append(BarPlot("passes", caption, "tasks", names, passes, stacked=True))
    sizes = data.inspection.rollouts_per_task
    labels = [counted(size, "rollout") for size in list(sizes)[:MOST_BARS]]
    caption = "Usable rollouts per task: the more there are of each, the more tasks have rewards that differ."
    if len(sizes) > 1:
        values = {"tasks": [float(number) for number in list(sizes.values())[:MOST_BARS]]}
        found.append(BarPlot("rollouts-per-task", caption, "tasks", labels, values))
    cut = sorted(data.environments, key=lambda each: -each.inspected.truncated_share)[:MOST_BARS]
    cut = [each for each in cut if each.inspected.truncated_share]
    if cut and len(data.environments) > 1:
        shares = {"truncated": [100 * each.inspected.truncated_share for each in cut]}
        caption = "Rollouts that were cut by a limit, by environment; those that are not here have none."
        found.append(BarPlot("truncated", caption, "per cent of rollouts", [each.name for each in cut], shares))
    return found


def plots_of_their_pairs(data: RolloutData, *, seed: int) -> list[Plot]:
    """Declare what is drawn of the pairs that dpo collect-pairs would make of them."""
    return pair_plots(data.table, data.figures, seed=seed)
