"""The group trainer is exact: packed rows, shared prompts, pairs across rows give what DPO pair by pair gives.

Each test takes a whole step, real packing included, and compares its loss (1e-6) and the gradient of every parameter
(1e-5 relative) in float32 with `tests/pairwise.py`, which computes each pair by itself with the model as it is, in
float64.
"""

import itertools
from collections.abc import Iterator

import pytest
import torch

from tests.architectures import HYBRID, SHARING, build
from tests.pairwise import (
    Outcome,
    all_pairs,
    assert_same,
    gradients_of,
    longest_of,
    pairwise_dpo,
    random_group,
    step_of,
    training_of,
)
from trainer.data.plan import PairRef, Step, sides
from trainer.data.tokenize import TokenizedGroup
from trainer.model.attention import Backend
from trainer.model.packing import Layout, Packer
from trainer.run.step import step_rows, train_step

GROUPS = [
    random_group(17, (11, 3, 16, 7), all_pairs(4)),
    random_group(1, (9, 2), [(1, 0)]),
    random_group(8, (1, 13, 5), [(0, 1), (2, 1), (0, 1)]),  # a pair that stands in the data twice
]
"""Sequences of 3 to 33 tokens; 76 tokens with each prompt once."""

RAGGED = [
    random_group(12, tuple(1 + 5 * number % 17 for number in range(16)), [(n, (7 * n + 3) % 16) for n in range(16)]),
    random_group(3, (4, 8, 2, 6, 10), [(0, 1), (2, 1), (3, 4)]),
    random_group(20, (3, 9), [(0, 1)]),
    random_group(5, (7, 7, 7), all_pairs(3)),
]
"""A group of 16 responses of 1 to 17 tokens, and small ones."""

MASKED = [
    random_group(17, (11, 3, 16, 7), all_pairs(4), masked=True),
    random_group(8, (1, 13, 5), all_pairs(3), masked=True),
]
"""Turns of others stand in the responses: tokens that are seen and not trained on."""


def grouped_dpo(
    name: str, groups: list[TokenizedGroup], budget: int, *, attention: str = "auto", weighting: str = "pair"
) -> Outcome:
    model = build(name, seed=1)
    settings = (f"policy.tokens_per_microbatch={budget}", f"dpo.weighting={weighting}")
    training = training_of(model, build(name, seed=2), groups, *settings, attention=attention)
    metrics = train_step(training, step_of(groups))
    return Outcome(metrics["loss"], gradients_of(model))


def expected_of(name: str, groups: list[TokenizedGroup], *, weighting: str = "pair") -> Outcome:
    outcome = pairwise_dpo(build(name, seed=1), build(name, seed=2), groups, weighting=weighting)
    assert abs(outcome.loss - 0.6931) > 0.01  # the reference is another model, so nothing is trivial
    return outcome


def distinct_budgets(groups: list[TokenizedGroup], layout: Layout) -> Iterator[int]:
    """Give the smallest budget of each way in which the responses can be cut into rows."""
    refs = step_of(groups).responses(groups)
    last = None
    for budget in itertools.count(longest_of(groups)):
        rows = Packer(groups, layout, budget).rows(refs)
        if rows != last:
            yield budget
        if len(rows) == 1:
            return
        last = rows


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", SHARING)
def test_a_step_equals_pair_by_pair(name: str) -> None:
    """All in one row, and in so small rows that each response of the longest prompt has its own."""
    expected = expected_of(name, GROUPS)
    backends = ["auto", "rows"] if SHARING[name].model_type in ("gemma2", "gpt_oss") else ["segments", "dense", "rows"]
    for attention in backends:
        for budget in (longest_of(GROUPS), 50, 10_000):
            assert_same(grouped_dpo(name, GROUPS, budget, attention=attention), expected)


@pytest.mark.parametrize("layout", Layout)
def test_rows_cut_at_every_budget_change_nothing(layout: Layout) -> None:
    """Every way to cut the responses into rows, so that pairs, all or some, reach from one row into another."""
    expected = expected_of("qwen3", GROUPS)
    attention = "segments" if layout is Layout.TREE else "rows"
    budgets = list(distinct_budgets(GROUPS, layout))
    assert len(budgets) > 5
    for budget in budgets:
        assert_same(grouped_dpo("qwen3", GROUPS, budget, attention=attention), expected)


def test_the_budgets_of_these_tests_cut_pairs_apart() -> None:
    training = training_of(build("llama"), build("llama"), GROUPS, f"policy.tokens_per_microbatch={longest_of(GROUPS)}")
    rows = step_rows(step_of(GROUPS), training)
    assert rows.across  # both ways to compute a pair are tried
    assert rows.inside
    everything = training_of(build("llama"), build("llama"), GROUPS, "policy.tokens_per_microbatch=10000")
    assert not step_rows(step_of(GROUPS), everything).across


@pytest.mark.parametrize("name", ["llama", "gemma3", "gpt_oss"])
def test_groups_of_2_to_16_ragged_responses(name: str) -> None:
    expected = expected_of(name, RAGGED)
    for budget in (longest_of(RAGGED), 60, 120, 10_000):
        assert_same(grouped_dpo(name, RAGGED, budget), expected)


@pytest.mark.parametrize("attention", ["segments", "dense", "rows"])
def test_tokens_of_others_inside_a_response_are_not_trained_on(attention: str) -> None:
    assert {0, 1} == {*MASKED[0].responses[0].loss_mask} == {*MASKED[1].responses[1].loss_mask}
    expected = expected_of("mistral_window", MASKED)
    for budget in (longest_of(MASKED), 50, 10_000):
        assert_same(grouped_dpo("mistral_window", MASKED, budget, attention=attention), expected)


@pytest.mark.parametrize("budget", [33, 60, 10_000])
def test_weighting_by_prompt(budget: int) -> None:
    """Groups of 6, 1 and 3 pairs weigh the same, however the rows are cut."""
    expected = expected_of("qwen3", GROUPS, weighting="prompt")
    assert_same(grouped_dpo("qwen3", GROUPS, budget, weighting="prompt"), expected)
    by_pair = expected_of("qwen3", GROUPS)
    assert abs(by_pair.loss - expected.loss) > 1e-3


@pytest.mark.parametrize("averages", ["true", "false"])
def test_every_term_of_the_loss_reaches_across_rows(averages: str) -> None:
    """The SFT term and averaged log-probs too are the same, whether a pair lies in one row or in two."""
    settings = (
        "dpo.sft_loss_weight=0.5",
        f"dpo.preference_average_log_probs={averages}",
        f"dpo.sft_average_log_probs={averages}",
    )
    outcomes = []
    for budget in (10_000, longest_of(MASKED)):
        model = build("llama", seed=1)
        training = training_of(
            model, build("llama", seed=2), MASKED, f"policy.tokens_per_microbatch={budget}", *settings
        )
        metrics = train_step(training, step_of(MASKED))
        assert metrics["sft_loss"] > 0.1
        outcomes.append(Outcome(metrics["loss"], gradients_of(model)))
    assert_same(outcomes[1], outcomes[0])


@pytest.mark.parametrize("name", HYBRID)
def test_models_with_other_than_attention_have_rows_of_their_own(name: str) -> None:
    model = build(name)
    assert training_of(model, build(name), GROUPS).scorer.attention.backend is Backend.ROWS
    expected = expected_of(name, GROUPS)
    gradient = 3e-5 if name == "qwen3_5" else 1e-5  # its recurrence rounds more, in the pairwise computation too
    for budget in (longest_of(GROUPS), 10_000):
        assert_same(grouped_dpo(name, GROUPS, budget), expected, gradient=gradient)


def test_a_step_that_takes_part_of_a_group_computes_its_responses_only() -> None:
    """A group at the border of two steps: each step's loss is the mean over its own pairs."""
    group = GROUPS[0]
    part = TokenizedGroup(group.prompt, group.responses, group.pairs[1:3])
    expected = expected_of("llama", [part])
    model = build("llama", seed=1)
    training = training_of(model, build("llama", seed=2), [group], "policy.tokens_per_microbatch=40")
    step = Step(0, (PairRef(0, 1), PairRef(0, 2)))
    metrics = train_step(training, step)
    assert_same(Outcome(metrics["loss"], gradients_of(model)), expected)
    computed = [ref for row in step_rows(step, training).all_rows for ref in row.refs()]
    assert sorted(computed) == sorted({ref for pair in step.pairs for ref in sides(pair, [group])})
