"""The rules on the figures of all rows: one function for each, in one table. Figures of few rows say nothing."""

from collections.abc import Callable, Iterator

from pipeline.gate.finding import Problem
from pipeline.gate.rules import Rule
from pipeline.gate.settings import GateSettings, Limits
from pipeline.gate.whole.few_rows import Spread
from pipeline.gate.whole.rows import AllRows
from schemas.terminal import bare_excerpt, counted, excerpt

Shortfalls = Iterator[tuple[str, str, str]]
"""Pointer, what was got, what was expected."""


def dataset_problems(rows: AllRows, settings: GateSettings) -> Iterator[Problem]:
    """Yield what is wrong with the rows as a whole."""
    for rule, check in CHECKS.items():
        if settings.finds(rule):
            for pointer, got, expected in check(rows, settings):
                yield Problem(rule, pointer, got, expected)


def _length_bias(rows: AllRows, settings: GateSettings) -> Shortfalls:
    """Look at the pairs whose sides differ in length: answers of one letter say nothing about length."""
    pairs, limits = rows.statistics.pairs, settings.limits
    unequal = pairs.chosen_longer + pairs.rejected_longer
    if unequal < limits.min_rows:
        return
    share = pairs.chosen_longer / unequal
    got = f"chosen as the longer response in {_percent(share)} of {unequal:,} pairs of different lengths"
    remedy = "balance them (collect-pairs --strategy length-matched), or train with loss.length_penalty"
    if share > limits.max_chosen_longer:
        yield "", got, f"at most {_percent(limits.max_chosen_longer)} (limits.max-chosen-longer); {remedy}"
    elif share < limits.min_chosen_longer:
        yield "", got, f"at least {_percent(limits.min_chosen_longer)} (limits.min-chosen-longer); {remedy}"


def _reward_statistics(rows: AllRows, settings: GateSettings) -> Shortfalls:
    pairs, limits = rows.statistics.pairs, settings.limits
    if pairs.count < limits.min_rows:
        return
    with_both = pairs.margin.count
    if with_both + pairs.one_reward and with_both < pairs.count:
        one = f", and only one of the two in {pairs.one_reward:,}" if pairs.one_reward else ""
        got = f"rewards of both responses in {with_both:,} of {pairs.count:,} pairs{one}"
        yield "", got, "rewards in all pairs or in none: losses that use rewards refuse the others"
    if with_both < limits.min_rows:
        return
    mean = pairs.margin.mean
    got = f"a mean margin of {mean:g} between the rewards of {with_both:,} pairs"
    if limits.min_mean_margin is not None and mean < limits.min_mean_margin:
        remedy = "leave out close pairs (collect-pairs --min-margin), or see whether the verifier has changed"
        yield "", got, f"at least {limits.min_mean_margin:g} (limits.min-mean-margin); {remedy}"
    if limits.max_mean_margin is not None and mean > limits.max_mean_margin:
        remedy = "look at the greatest rewards, and see whether the verifier or its scale has changed"
        yield "", got, f"at most {limits.max_mean_margin:g} (limits.max-mean-margin); {remedy}"


def _prompt_diversity(rows: AllRows, settings: GateSettings) -> Shortfalls:
    """Look at both kinds, but for rollouts not at their number for each prompt: several of each are wanted."""
    pairs, rollouts = rows.spreads
    limits = settings.limits
    if pairs.num_rows >= limits.min_rows and pairs.num_prompts / pairs.num_rows < limits.min_distinct_prompts:
        got = f"{counted(pairs.num_prompts, 'distinct prompt')} in {pairs.num_rows:,} pairs"
        at_least = f"at least {limits.min_distinct_prompts:g} for each pair (limits.min-distinct-prompts)"
        yield "", got, f"{at_least}; add prompts, or take fewer pairs of each (collect-pairs --max-pairs-per-prompt)"
    yield from _frequent_prompt(rows, pairs, "pairs", limits)
    yield from _frequent_prompt(rows, rollouts, "rollouts", limits)


def _frequent_prompt(rows: AllRows, spread: Spread, noun: str, limits: Limits) -> Shortfalls:
    if spread.num_rows < limits.min_rows or spread.num_most <= limits.max_prompt_share * spread.num_rows:
        return
    share = _percent(spread.num_most / spread.num_rows)
    got = f"the prompt of {rows.place_text(spread.place_of_most)} in {share} of {spread.num_rows:,} {noun}"
    yield "", got, f"at most {_percent(limits.max_prompt_share)} (limits.max-prompt-share); add rows of other prompts"


def _balance(rows: AllRows, settings: GateSettings) -> Shortfalls:
    """Look at keys of several values: where all rows have one, there is nothing to balance."""
    limits = settings.limits
    for key, tally in rows.statistics.balance.items():
        frequent = tally.by_frequency()
        if tally.total < limits.min_rows or len(frequent) < 2:
            continue
        value, count = frequent[0]
        if count <= limits.max_balance_share * tally.total:
            continue
        got = f"{excerpt(value)} in {_percent(count / tally.total)} of {tally.total:,} rows"
        at_most = f"at most {_percent(limits.max_balance_share)} (limits.max-balance-share)"
        others = "the other value" if len(frequent) == 2 else f"the other {len(frequent) - 1:,} values"
        remedy = f"add rows of {others}, or take fewer of this one"
        yield "/" + bare_excerpt(key.replace(".", "/")), got, f"{at_most}; {remedy}"


def _few_varied_tasks(rows: AllRows, settings: GateSettings) -> Shortfalls:
    _, rollouts = rows.spreads
    limits = settings.limits
    if rollouts.num_repeated < limits.min_rows:
        return
    share = rollouts.num_varied / rollouts.num_tasks
    if share < limits.min_varied_tasks:
        got = (
            f"different rewards in {rollouts.num_varied:,} ({_percent(share)}) of {rollouts.num_tasks:,} tasks "
            "with several rollouts"
        )
        at_least = f"at least {_percent(limits.min_varied_tasks)} (limits.min-varied-tasks)"
        yield "", got, f"{at_least}; collect more rollouts of each, or tasks that the policy passes now and then"


def _percent(share: float) -> str:
    """Show a share in percent, so exactly that one beyond a limit never looks like the limit's own."""
    return f"{100 * share:.4g} %"


CHECKS: dict[Rule, Callable[[AllRows, GateSettings], Shortfalls]] = {
    Rule.LENGTH_BIAS: _length_bias,
    Rule.REWARD_STATISTICS: _reward_statistics,
    Rule.PROMPT_DIVERSITY: _prompt_diversity,
    Rule.BALANCE: _balance,
    Rule.FEW_VARIED_TASKS: _few_varied_tasks,
}
