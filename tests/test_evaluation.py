"""Steps and evaluations of whole losses: the same numbers however the pairs are cut into rows."""

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from schemas.errors import UsageError
from tests.architectures import build
from tests.pairwise import all_pairs, gradients_of, longest_of, random_group, step_of, training_of
from trainer.data.plan import PairRef, Step
from trainer.data.tokenize import TokenizedGroup
from trainer.model.packing import Packer
from trainer.run.evaluation import pair_metrics
from trainer.run.step import check_first_step, check_start_margin, step_rows, train_step
from trainer.run.training import Training

GROUPS = [
    random_group(17, (11, 3, 16, 7), all_pairs(4)),
    random_group(1, (9, 2), [(1, 0)]),
    random_group(8, (1, 13, 5), [(0, 1), (2, 1), (0, 1)]),
]

BEYOND_PAIRS = {"grad_norm", "lr", "step_seconds", "pairs_per_second", "tokens_per_second", "dedup_factor"}
BEYOND_PAIRS |= {"sharing_factor"}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def training(*settings: str, groups: list[TokenizedGroup] | None = None, budget: int = 10_000) -> Training:
    model, reference = build("llama", seed=1), build("llama", seed=2)
    return training_of(model, reference, groups or GROUPS, f"policy.tokens_per_microbatch={budget}", *settings)


SETTINGS = [
    (),
    ("loss.name=aot",),
    ("loss.name=aot_unpaired", "dpo.weighting=prompt"),
    ("loss.wpo_weighting=true", "dpo.sft_loss_weight=0.2"),
    ("loss.ld_alpha=0.3", "loss.length_penalty=0.01"),
    ("loss.name=orpo",),
    ('loss.mix={"simpo": 1, "aot": 0.5}',),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=" ".join)
def test_metrics_are_those_of_a_step_of_the_same_pairs(settings: tuple[str, ...]) -> None:
    """In one row, and in rows that cut pairs apart; gradients of the steps agree too."""
    found: list[dict[str, float]] = []
    gradients = []
    for budget in (10_000, 50, longest_of(GROUPS)):
        one = training(*settings, budget=budget)
        pairs = step_of(GROUPS).pairs
        found.append(pair_metrics(one, one.packer, one.reference, pairs))
        found.append(train_step(one, step_of(GROUPS)))
        gradients.append(gradients_of(one.scorer.model))
    assert {*found[1]} - {*found[0]} == BEYOND_PAIRS
    for other in found[1:]:
        for name, value in found[0].items():
            assert other[name] == pytest.approx(value, rel=2e-5, abs=1e-6), name
    for other_gradients in gradients[1:]:
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(other_gradients[name], gradient, rtol=1e-3, atol=2e-6)


def test_an_evaluation_learns_nothing() -> None:
    one = training()
    before = {name: value.clone() for name, value in one.scorer.state_dict().items()}
    first = pair_metrics(one, one.packer, one.reference, step_of(GROUPS).pairs)
    assert pair_metrics(one, one.packer, one.reference, step_of(GROUPS).pairs) == first
    assert all(parameter.grad is None for parameter in one.scorer.parameters())
    for name, value in one.scorer.state_dict().items():
        assert torch.equal(value, before[name])


def test_parts_average_to_the_whole() -> None:
    one = training(budget=50)
    pairs = step_of(GROUPS).pairs
    whole = pair_metrics(one, one.packer, one.reference, pairs)
    parts = [pair_metrics(one, one.packer, one.reference, some) for some in (pairs[:3], pairs[3:])]
    for name in ("loss", "margin_mean", "kl"):
        mean = sum(part[name] * part["num_valid_samples"] for part in parts) / len(pairs)
        assert mean == pytest.approx(whole[name], rel=1e-5)
    for name in ("num_valid_samples", "global_valid_seqs", "global_valid_toks"):
        assert sum(part[name] for part in parts) == whole[name]


def test_other_groups_than_those_of_training_can_be_evaluated() -> None:
    others = [random_group(5, (4, 6, 2), all_pairs(3), seed=7)]
    one, two = training(), training(groups=others)
    packer = Packer(others, one.packer.layout, 20)
    pairs = step_of(others).pairs
    expected = train_step(two, step_of(others))
    found = pair_metrics(one, packer, one.reference, pairs)
    for name, value in found.items():
        assert value == pytest.approx(expected[name], rel=2e-5, abs=1e-6), name


def test_counts_by_hand() -> None:
    """Trained tokens of both sides of each pair, as NeMo RL counts them: a response counts in each of its pairs."""
    one = training()
    found = pair_metrics(one, one.packer, one.reference, [PairRef(0, 0), PairRef(0, 1), PairRef(1, 0)])
    assert (found["num_valid_samples"], found["global_valid_seqs"]) == (3, 6)
    assert found["global_valid_toks"] == (11 + 3) + (11 + 16) + (2 + 9)


@pytest.mark.parametrize("budget", [longest_of(GROUPS), 10_000])
@pytest.mark.parametrize("name", ["sigmoid", "aot_unpaired"])
def test_a_pair_that_a_step_names_twice_counts_twice(budget: int, name: str) -> None:
    """A set of weight 2 may bring a pair into a step twice; the groups' third one has a pair that is there twice."""
    once = Step(0, (PairRef(2, 0), PairRef(2, 1), PairRef(2, 2)))
    again = Step(0, (PairRef(2, 0), PairRef(2, 1), PairRef(2, 0)))
    one, two = training(f"loss.name={name}", budget=budget), training(f"loss.name={name}", budget=budget)
    expected, found = train_step(one, once), train_step(two, again)
    assert sum(step_rows(again, two).weights.values()) == 3
    for each in ("loss", "margin_mean", "num_valid_samples", "global_valid_toks", "grad_norm"):
        assert found[each] == pytest.approx(expected[each], rel=1e-5), each


def test_losses_that_compare_pairs_take_all_of_a_step() -> None:
    for name, are_apart in (("aot", True), ("sigmoid", False)):
        one = training(f"loss.name={name}", budget=50)
        rows = step_rows(step_of(GROUPS), one)
        assert len(rows.all_rows) > 1
        assert (len(rows.across) == 10) == are_apart
    alone = training("loss.name=aot")
    assert not step_rows(step_of(GROUPS), alone).across  # in one row they are together in any case


@pytest.mark.parametrize(
    ("setting", "other"),
    [
        ("loss.ld_alpha=1", "loss.ld_alpha=0.5"),
        ("loss.wpo_weighting=false", "loss.wpo_weighting=true"),
        ("loss.length_penalty=0", "loss.length_penalty=0.1"),
        ("dpo.preference_average_log_probs=false", "dpo.preference_average_log_probs=true"),
        ('loss.mix={"sigmoid": 1}', 'loss.mix={"sigmoid": 1, "bco": 1}'),
        ("dpo.weighting=pair", "dpo.weighting=prompt"),
    ],
)
def test_each_option_changes_the_loss(setting: str, other: str) -> None:
    pairs = step_of(GROUPS).pairs
    found = []
    for each in (setting, other):
        one = training(each)
        found.append(pair_metrics(one, one.packer, one.reference, pairs)["loss"])
    assert abs(found[0] - found[1]) > 1e-3


def test_a_pair_without_rewards_is_told_before_anything_is_computed() -> None:
    with pytest.raises(UsageError, match=r"f:0: the pair has no chosen_reward"):
        training("loss.name=mmpo")


def test_the_first_margin_is_zero() -> None:
    check_start_margin(1e-5, beta=0.1, precision="float32")
    with pytest.raises(Exception, match=r"the margin of step 1 is 0\.0001"):
        check_start_margin(1e-4, beta=0.1, precision="float32")
    with pytest.raises(Exception, match="the margin of step 1 is nan"):
        check_start_margin(float("nan"), beta=0.1, precision="bfloat16")
    one = training("loss.name=ipo")
    with pytest.raises(Exception, match="expected 0 within"):
        check_first_step(one.config, {"preference_loss": 100.0, "margin_mean": 0.1})
    check_first_step(one.config, {"preference_loss": 100.0, "margin_mean": 0.0})
    with pytest.raises(Exception, match="expected ln 2"):
        check_first_step(training().config, {"preference_loss": 0.7, "margin_mean": 0.0})


REWARDED = [
    TokenizedGroup(
        group.prompt,
        group.responses,
        tuple(
            replace(pair, chosen_reward=1.0 + pair.chosen, rejected_reward=0.1 * pair.rejected, environment=name)
            for pair in group.pairs
        ),
    )
    for group, name in zip(GROUPS, ("math", "code", "math"), strict=True)
]


def test_rewards_reach_the_loss_across_rows_too() -> None:
    """MMPO of the pairs by hand, from the margins that DPO's own loss gives away."""
    for budget in (10_000, longest_of(GROUPS)):
        one = training("loss.name=mmpo", "loss.reward.scale=0.7", groups=REWARDED, budget=budget)
        assert one.objective.rewards is not None
        other = training(groups=REWARDED, budget=budget)
        for ref in step_of(GROUPS).pairs[:4]:
            pair = REWARDED[ref.group].pairs[ref.pair]
            logit = pair_metrics(other, other.packer, other.reference, [ref])["margin_mean"]
            label = 1 / (1 + math.exp(-0.7 * one.objective.rewards.gap(pair)))
            expected = label * math.log1p(math.exp(-logit)) + (1 - label) * math.log1p(math.exp(logit))
            found = pair_metrics(one, one.packer, one.reference, [ref])
            assert found["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("setting", ["normalization=none", "normalization=global", "scale=2"])
def test_each_option_of_rewards_changes_the_loss(setting: str) -> None:
    losses = []
    for settings in ((), (f"loss.reward.{setting}",)):
        one = training("loss.name=reward_sq", *settings, groups=REWARDED)
        losses.append(pair_metrics(one, one.packer, one.reference, step_of(GROUPS).pairs)["loss"])
    assert abs(losses[0] - losses[1]) > 1e-3


def test_the_accuracy_of_each_environment_is_told() -> None:
    for budget in (10_000, longest_of(GROUPS)):
        one = training(groups=REWARDED, budget=budget)
        found = pair_metrics(one, one.packer, one.reference, step_of(GROUPS).pairs)
        mean = (found["accuracy/math"] * 9 + found["accuracy/code"]) / 10
        assert mean == pytest.approx(found["accuracy"])
        only = pair_metrics(one, one.packer, one.reference, [PairRef(1, 0)])
        assert only["accuracy/code"] == only["accuracy"]
        assert "accuracy/math" not in only


def test_an_environment_may_be_called_what_no_name_is_called() -> None:
    """Each group is an environment; its accuracy is that of its pairs alone."""
    names = {0: "", 1: "unnamed", 2: "zebra"}
    groups = [
        replace(group, pairs=tuple(replace(pair, environment=names[number]) for pair in group.pairs))
        for number, group in enumerate(GROUPS)
    ]
    one = training(groups=groups)
    found = pair_metrics(one, one.packer, one.reference, step_of(groups).pairs)
    for number, name in enumerate(("(unnamed)", "unnamed", "zebra")):
        pairs = [PairRef(number, pair) for pair in range(len(groups[number].pairs))]
        alone = pair_metrics(one, one.packer, one.reference, pairs)["accuracy"]
        assert found[f"accuracy/{name}"] == pytest.approx(alone)
