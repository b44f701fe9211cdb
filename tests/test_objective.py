"""The objective: terms and metrics of pairs from the log-probs of their responses."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from trainer.config.sections import TrainConfig
from trainer.config.settings import resolve
from trainer.data.groups import GroupPair
from trainer.data.plan import PairRef, ResponseRef
from trainer.data.tokenize import TokenizedGroup, TokenizedResponse
from trainer.loss.losses import PairValues
from trainer.loss.metrics import METRICS, WITH_REFERENCE, PairTerms, metrics_of
from trainer.loss.modifiers import shared_length_sums, wpo_weights
from trainer.loss.objective import Objective, objective_of, sft_loss
from trainer.model.batch import PairBatch
from trainer.model.logps import ResponseLogps

CHOSEN, REJECTED = torch.tensor([0, 2]), torch.tensor([1, 3])


def config_of(*settings: str) -> TrainConfig:
    return resolve(list(settings), train_data_path=Path("pairs.jsonl"), output_dir=Path("run"))


def objective(*settings: str, environments: dict[str, int] | None = None) -> Objective:
    config = config_of(*settings)
    has_reference = config.reference_mode != "none"
    return Objective(config.dpo, config.loss, has_reference, environments=environments or {})


def batch(
    chosen: Tensor = CHOSEN, rejected: Tensor = REJECTED, *, weights: Tensor | None = None, places: Tensor | None = None
) -> PairBatch:
    return PairBatch(chosen, rejected, torch.ones(len(chosen)) if weights is None else weights, (), environments=places)


def metrics(terms: PairTerms, weights: Tensor, *, has_reference: bool = True) -> dict[str, float]:
    total = float(weights.sum())
    return metrics_of(terms.metric_sums(weights).tolist(), weight=total, environments={}, has_reference=has_reference)


def test_log_ratios_of_long_responses_keep_their_digits() -> None:
    """16,000 tokens of about -0.6 nats sum up to -10,000, where float32 has a thousandth left."""
    torch.manual_seed(0)
    reference = -0.6 + 0.1 * torch.randn(32_000)
    policy = reference + 1e-5 * torch.randn(32_000)
    exact = (policy.double() - reference.double())[:16_000].sum().item()
    lengths = (16_000, 16_000)
    for setting in ("loss.ld_alpha=1", "loss.ld_alpha=0.99999"):
        terms = objective(setting).terms(
            ResponseLogps(policy, lengths), ResponseLogps(reference, lengths), batch(CHOSEN[:1], REJECTED[:1])
        )
        assert terms.ratios.chosen.item() == pytest.approx(exact, abs=1e-6)


def test_sft_loss_by_hand() -> None:
    logps, lengths = torch.tensor([-9.0, -6.0]), torch.tensor([1.0, 2.0])
    assert sft_loss(logps, lengths).tolist() == [9.0, 6.0]
    assert sft_loss(logps, lengths, average=True).tolist() == [9.0, 3.0]


def test_a_response_in_two_pairs_gets_both_gradients() -> None:
    logps = torch.zeros(3, requires_grad=True)
    zeros = ResponseLogps(torch.zeros(3), (1, 1, 1))
    pairs = batch(torch.tensor([0, 0]), torch.tensor([1, 2]))
    terms = objective("dpo.reference_policy_kl_penalty=1").terms(ResponseLogps(logps, (1, 1, 1)), zeros, pairs)
    terms.loss.sum().backward()
    # d/dx of -log sigmoid(x) at 0 is -1/2; response 0 is the better one twice
    assert logps.grad is not None
    assert logps.grad.tolist() == [-1.0, 0.5, 0.5]


def test_per_token_logps_stay_available() -> None:
    logps = ResponseLogps(torch.tensor([-1.0, -2.0, -3.0, -4.0]), (3, 0, 1))
    assert [tokens.tolist() for tokens in logps.per_response] == [[-1.0, -2.0, -3.0], [], [-4.0]]
    assert logps.sums.tolist() == [-6.0, 0.0, -4.0]
    assert logps.num_tokens.tolist() == [3, 1, 1]  # at least 1, to divide by


# Golden numbers of NeMo RL's DPOLossFn in float64 on four sequences: chosen, rejected, chosen, rejected. Position i of
# the policy's log-probs is that of token i + 1; the reference's are shifted likewise, its last column is no position.
POLICY_TOKENS = [
    [-0.5, -1.0, -0.25, -2.0],
    [-0.699999988079071, -1.5, -0.10000000149011612, -3.0],
    [-0.20000000298023224, -0.4000000059604645, -0.6000000238418579, -0.800000011920929],
    [-1.0, -1.0, -1.0, -1.0],
]
REFERENCE_TOKENS = [
    [-0.6000000238418579, -1.2000000476837158, -0.5, -1.0],
    [-0.6000000238418579, -1.0, -0.20000000298023224, -1.0],
    [-0.30000001192092896, -0.30000001192092896, -0.8999999761581421, -0.800000011920929],
    [-0.5, -0.8999999761581421, -1.100000023841858, -1.0],
]
TOKEN_MASK = [[0, 1, 1, 0], [0, 1, 1, 1], [1, 1, 1, 1], [0, 0, 1, 1]]

BETA_ONLY = {"loss": 0.656296495684825, "preference_loss": 0.656296495684825, "sft_loss": 0.0, "pairs": 2}
SMALL_SFT = {
    "loss": 0.6382316515598244,
    "preference_loss": 0.621981651417557,
    "sft_loss": 1.6250000142267418,
    "pairs": 2,
}
AVERAGED = {"loss": 0.31926384348148307, "preference_loss": 0.31926384348148307, "sft_loss": 0.0, "pairs": 2}
AVERAGED_SFT = {
    "loss": 0.9488039225582349,
    "preference_loss": 0.6675539211705172,
    "sft_loss": 0.5625000027754354,
    "pairs": 2,
}
ONE_PAIR = {
    "loss": 1.1857661146677256,
    "preference_loss": 0.5607661209177256,
    "sft_loss": 1.2499999875000003,
    "pairs": 1,
}
SUM_REWARDS = {"rewards_chosen_mean": 0.37500000557558055, "rewards_rejected_mean": -1.1499999815840132}
MEAN_REWARDS = {"rewards_chosen_mean": 0.1500000070731096, "rewards_rejected_mean": -0.3749999919161829}
ONE_PAIR_REWARDS = {"rewards_chosen_mean": 0.4500000431837154, "rewards_rejected_mean": -2.399999974509884}
A, B, C, D = 0.011610879, 0.0124375, 0.026461419, 0.021461419

GOLDEN = [
    # beta, sft weight, averaged, expected values, gradient of the loss by the policy's token log-probs
    (0.05, 0.0, False, BETA_ONLY | SUM_REWARDS, [[0, -A, -A, 0], [0, A, A, A], [-B] * 4, [0, 0, B, B]]),
    (
        0.1,
        0.01,
        False,
        SMALL_SFT | SUM_REWARDS,
        [[0, -C, -C, 0], [0, D, D, D], [-0.029750008] * 4, [0, 0, 0.024750008, 0.024750008]],
    ),
    (
        5.0,
        0.0,
        True,
        AVERAGED | MEAN_REWARDS,
        [
            [0, -0.007388835, -0.007388835, 0],
            [0, 0.00492589, 0.00492589, 0.00492589],
            [-0.292994156] * 4,
            [0, 0, 0.585988312, 0.585988312],
        ],
    ),
    (
        0.1,
        0.5,
        True,
        AVERAGED_SFT | MEAN_REWARDS,
        [
            [0, -0.136859935, -0.136859935, 0],
            [0, 0.007906623, 0.007906623, 0.007906623],
            [-0.068742187] * 4,
            [0, 0, 0.012484375, 0.012484375],
        ],
    ),
    # the second pair is masked in NeMo RL; here it is not there
    (
        0.1,
        0.5,
        False,
        ONE_PAIR | ONE_PAIR_REWARDS,
        [[0, -0.542922833, -0.542922833, 0], [0, 0.042922838, 0.042922838, 0.042922838], [0] * 4, [0] * 4],
    ),
]


@pytest.mark.parametrize(("beta", "sft_weight", "averaged", "expected", "gradient"), GOLDEN)
def test_equals_nemo_rl(
    beta: float, sft_weight: float, averaged: bool, expected: dict[str, float], gradient: list[list[float]]
) -> None:
    mask = torch.tensor(TOKEN_MASK, dtype=torch.bool)
    lengths = tuple(mask.sum(1).tolist())
    policy_tokens = torch.tensor(POLICY_TOKENS, dtype=torch.float64, requires_grad=True)
    num_pairs = int(expected["pairs"])
    ours = objective(
        f"dpo.reference_policy_kl_penalty={beta}",
        f"dpo.sft_loss_weight={sft_weight}",
        f"dpo.preference_average_log_probs={'true' if averaged else 'false'}",
        f"dpo.sft_average_log_probs={'true' if averaged else 'false'}",
    )
    terms = ours.terms(
        ResponseLogps(policy_tokens[mask], lengths),
        ResponseLogps(torch.tensor(REFERENCE_TOKENS, dtype=torch.float64)[mask], lengths),
        batch(CHOSEN[:num_pairs], REJECTED[:num_pairs]),
    )
    (terms.loss.sum() / num_pairs).backward()
    found = metrics(terms, torch.ones(num_pairs))
    for name in ("loss", "preference_loss", "sft_loss", "rewards_chosen_mean", "rewards_rejected_mean"):
        assert found[name] == pytest.approx(expected[name], rel=1e-7), name  # NeMo RL divides by pairs + 1e-8
    torch.testing.assert_close(policy_tokens.grad, torch.tensor(gradient, dtype=torch.float64), rtol=2e-8, atol=1e-9)
    assert found["accuracy"] == 1.0


def test_metrics_are_weighted_as_the_loss_is() -> None:
    """Pairs of weights 1 and 1/4, whose losses are log(1 + e^-2) and log(1 + e^3)."""
    logps = ResponseLogps(torch.tensor([2.0, 0.0, -1.0, 2.0]), (1, 1, 1, 1))
    terms = objective("dpo.reference_policy_kl_penalty=1").terms(
        logps, ResponseLogps(torch.zeros(4), (1, 1, 1, 1)), batch()
    )
    found = metrics(terms, torch.tensor([1.0, 0.25]))
    assert found["loss"] == pytest.approx((math.log(1 + math.exp(-2)) + math.log(1 + math.exp(3)) / 4) / 1.25)
    assert found["accuracy"] == 0.8  # the second pair is the wrong way round
    assert found["rewards_chosen_mean"] == pytest.approx((2.0 - 1.0 / 4) / 1.25)
    assert found["margin_mean"] == pytest.approx((2.0 - 3.0 / 4) / 1.25)


def test_metrics_by_hand() -> None:
    """Two pairs of 2 and 1, 1 and 3 tokens."""
    lengths = (2, 1, 1, 3)
    policy = torch.tensor([-1.0, -2.0, -4.0, -3.0, -1.0, -1.0, -2.0])
    reference = torch.tensor([-1.5, -2.5, -3.0, -2.5, -1.0, -2.0, -0.5])
    mean_logits = torch.tensor([1.0, 2.0, 5.0, 6.0, 0.0, 3.0, 3.0])
    terms = objective("dpo.reference_policy_kl_penalty=0.5").terms(
        ResponseLogps(policy, lengths, mean_logits), ResponseLogps(reference, lengths), batch()
    )
    found = metrics(terms, torch.ones(2))
    assert [*found] == list(METRICS)
    # ratios: chosen 1 and -0.5, rejected -1 and 0 + 1 - 1.5
    assert found["rewards_chosen_mean"] == pytest.approx(0.25)
    assert found["rewards_rejected_mean"] == pytest.approx(-0.75)
    assert found["margin_mean"] == pytest.approx(0.5 * 1.0)
    assert (found["logps_chosen_mean"], found["logps_rejected_mean"]) == (-3.0, -4.0)
    assert (found["chosen_fell"], found["both_fell"]) == (0.5, 0.5)  # the second pair, whose sides tie
    assert found["accuracy"] == 0.5
    assert found["length_gap_mean"] == (1 - 2) / 2
    assert found["logits_chosen_mean"] == (1 + 2 + 6) / 3
    assert found["logits_rejected_mean"] == (5 + 0 + 3 + 3) / 4

    def k3(*ratios: float) -> float:
        return sum(math.exp(ratio) - 1 - ratio for ratio in ratios)

    of_pairs = (k3(0.5, 0.5) + k3(-1.0)) / 2, (k3(-0.5) + k3(0.0, 1.0, -1.5)) / 2
    assert found["kl"] == pytest.approx(sum(of_pairs) / 2)
    ratios, tokens = torch.tensor([1.0, -1.0, -0.5, -0.5]), torch.tensor([2.0, 1.0, 1.0, 3.0])
    expected = torch.corrcoef(torch.stack([ratios, tokens]))[0, 1].item()
    assert found["reward_length_correlation"] == pytest.approx(expected)


def test_kl_estimates_the_divergence_from_samples_of_the_reference() -> None:
    """Of a policy 0.2, 0.8 and a reference 0.5, 0.5 over two words: KL(reference || policy)."""
    torch.manual_seed(0)
    words = torch.randint(2, (20_000,))
    policy, reference = torch.tensor([0.2, 0.8]).log()[words], torch.full((20_000,), 0.5).log()
    lengths = (10_000, 10_000)
    terms = objective().terms(
        ResponseLogps(policy, lengths), ResponseLogps(reference, lengths), batch(CHOSEN[:1], REJECTED[:1])
    )
    exact = 0.5 * math.log(0.5 / 0.2) + 0.5 * math.log(0.5 / 0.8)
    assert metrics(terms, torch.ones(1))["kl"] / 10_000 == pytest.approx(exact, rel=0.02)


def test_metrics_at_the_start_are_quiet() -> None:
    """Policy and reference the same but for rounding: nothing fell, and nothing goes with length."""
    policy = torch.tensor([-1.0, -2.0, -3.0, -4.0])
    terms = objective().terms(
        ResponseLogps(policy + 1e-6 * torch.tensor([-1.0, 1.0, -1.0, 1.0]), (1, 1, 1, 1)),
        ResponseLogps(policy, (1, 1, 1, 1)),
        batch(),
    )
    found = metrics(terms, torch.ones(2))
    assert (found["chosen_fell"], found["both_fell"], found["reward_length_correlation"]) == (0, 0, 0)


def test_without_a_reference_there_is_nothing_to_fall_from() -> None:
    ours = objective("reference=none")
    assert not ours.has_reference
    logps = ResponseLogps(torch.tensor([-1.0, -2.0, -3.0, -4.0]), (1, 1, 1, 1))
    found = metrics(
        ours.terms(logps, ResponseLogps(torch.zeros(4), (1, 1, 1, 1)), batch()), torch.ones(2), has_reference=False
    )
    assert {*METRICS} - {*found} == WITH_REFERENCE
    assert found["rewards_chosen_mean"] == -2.0


def test_one_far_token_does_not_make_the_metrics_infinite() -> None:
    tokens = torch.tensor([-1.0, -2.0, -3.0, -4.0])
    terms = objective().terms(
        ResponseLogps(tokens, (1, 1, 1, 1)),
        ResponseLogps(tokens - torch.tensor([900.0, 0, 0, 0]), (1, 1, 1, 1)),
        batch(),
    )
    assert all(map(math.isfinite, metrics(terms, torch.ones(2)).values()))


def test_accuracy_of_each_environment() -> None:
    logps = ResponseLogps(torch.tensor([2.0, 0.0, -1.0, 2.0]), (1, 1, 1, 1))
    places = torch.tensor([1, 0, 1])
    pairs = batch(
        torch.tensor([0, 2, 2]), torch.tensor([1, 3, 1]), weights=torch.tensor([1.0, 1.0, 3.0]), places=places
    )
    terms = objective().terms(logps, ResponseLogps(torch.zeros(4), (1, 1, 1, 1)), pairs)
    sums = terms.metric_sums(pairs.weights, pairs.environments).tolist()
    found = metrics_of(sums, weight=5.0, environments={"code": 1.0, "math": 4.0}, has_reference=True)
    assert (found["accuracy/code"], found["accuracy/math"], found["accuracy"]) == (0.0, 0.25, 0.2)


def groups_of(*environments: str) -> list[TokenizedGroup]:
    responses = (TokenizedResponse((1,), (1,)), TokenizedResponse((2, 3), (1, 1)))
    return [
        TokenizedGroup((0,), responses, (GroupPair(0, 1, f"f:{n}", environment=name),))
        for n, name in enumerate(environments)
    ]


def test_environments_are_numbered_where_there_are_several() -> None:
    config = config_of()
    assert objective_of(config, groups_of("math", "math")).environments == {}
    assert objective_of(config, groups_of("math", "code", "math")).environments == {"code": 0, "math": 1}
    assert objective_of(config, groups_of("math"), validation=groups_of("code")).environments == {"code": 0, "math": 1}
    many = [f"e{number:02d}" for number in range(40)]
    found = objective_of(config, groups_of(*many, *many[20:])).environments
    assert len(found) == 32
    assert {*many[20:]} < {*found}  # those with the most pairs


def test_a_batch_has_what_its_pairs_need() -> None:
    groups = groups_of("math", "code")
    ours = objective_of(config_of(), groups)
    found = ours.batch(
        [PairRef(1, 0), PairRef(0, 0)], groups, [ResponseRef(g, r) for g in (0, 1) for r in (0, 1)], [1, 2]
    )
    assert (found.chosen.tolist(), found.rejected.tolist(), found.weights.tolist()) == ([2, 0], [3, 1], [1, 2])
    assert found.environments is not None
    assert found.environments.tolist() == [0, 1]
    assert found.gaps is None


def test_a_mix_of_one_is_that_one_and_of_two_their_sum() -> None:
    logps = ResponseLogps(torch.tensor([2.0, 0.0, -1.0, 2.0]), (1, 1, 1, 1))
    zeros = ResponseLogps(torch.zeros(4), (1, 1, 1, 1))

    def loss(*settings: str) -> Tensor:
        return objective(*settings).terms(logps, zeros, batch()).loss

    assert torch.equal(loss('loss.mix={"bco": 1}'), loss("loss.name=bco"))
    both = loss('loss.mix={"bco": 0.25, "sigmoid": 2}')
    torch.testing.assert_close(both, 0.25 * loss("loss.name=bco") + 2 * loss())


LD_LENGTHS = (3, 1, 2)
LD_TOKENS = torch.tensor([[1.0, 2.0, 4.0, 8.0, 16.0, 32.0]], dtype=torch.float64)


def test_sums_up_to_the_shared_length_by_hand() -> None:
    """Responses 1 2 4, 8 and 16 32; the first is the chosen one of two pairs, and another one in each."""
    chosen, rejected = torch.tensor([0, 0]), torch.tensor([1, 2])
    (found,) = shared_length_sums(LD_TOKENS, LD_LENGTHS, chosen=chosen, rejected=rejected, alpha=0.5)
    assert found.chosen.tolist() == [1 + 3, 3 + 2]
    assert found.rejected.tolist() == [8, 48]
    (whole,) = shared_length_sums(LD_TOKENS, LD_LENGTHS, chosen=chosen, rejected=rejected, alpha=1.0)
    assert (whole.chosen.tolist(), whole.rejected.tolist()) == ([7, 7], [8, 48])
    (none,) = shared_length_sums(LD_TOKENS, LD_LENGTHS, chosen=chosen, rejected=rejected, alpha=0.0)
    assert none.chosen.tolist() == [1, 3]


def test_gradients_of_tokens_beyond_the_shared_length() -> None:
    tokens = LD_TOKENS.float().requires_grad_()
    (found,) = shared_length_sums(
        tokens, LD_LENGTHS, chosen=torch.tensor([0, 0]), rejected=torch.tensor([1, 2]), alpha=0.25
    )
    (found.chosen.sum() - found.rejected.sum()).backward()
    assert tokens.grad is not None
    assert tokens.grad.tolist() == [[2.0, 1.25, 0.5, -1.0, -1.0, -1.0]]


def test_a_broken_response_does_not_spoil_the_others_sums() -> None:
    tokens = LD_TOKENS.clone()
    tokens[0, 0] = math.nan
    (found,) = shared_length_sums(
        tokens, LD_LENGTHS, chosen=torch.tensor([0, 1]), rejected=torch.tensor([1, 2]), alpha=0.5
    )
    assert found.chosen.isnan().tolist() == [True, False]
    assert found.rejected.isnan().tolist() == [False, False]


def test_wpo_weights_by_hand() -> None:
    """Mean of log p - log sum p^2: (0.5 + 0.1) / 2 and -0.2; without gradient."""
    policy = ResponseLogps(
        torch.tensor([-0.5, -0.9, -1.2], requires_grad=True), (2, 1), log_squares=torch.tensor([-1.0, -1.0, -1.0])
    )
    weights = wpo_weights(policy, chosen=torch.tensor([0]), rejected=torch.tensor([1]))
    assert weights.tolist() == pytest.approx([math.exp(0.3 - 0.2)])
    assert not weights.requires_grad


@pytest.mark.parametrize(
    ("setting", "needs_reference"),
    [("loss.name=sigmoid", True), ("loss.name=simpo", False), ("loss.name=orpo", False)],
)
def test_losses_without_a_reference_need_none(setting: str, needs_reference: bool) -> None:
    assert (config_of(setting).reference_mode != "none") == needs_reference
    assert objective(setting).has_reference == needs_reference


def test_a_term_without_weight_is_not_computed() -> None:
    ours = objective("dpo.preference_loss_weight=0", "dpo.sft_loss_weight=1")
    logps = ResponseLogps(torch.tensor([-2.0, 0.0, -1.0, -2.0]), (1, 1, 1, 1))
    terms = ours.terms(logps, ResponseLogps(torch.zeros(4), (1, 1, 1, 1)), batch())
    assert terms.preference.tolist() == [0, 0]
    assert terms.loss.tolist() == terms.sft.tolist() == [2, 1]


def test_values_of_pairs() -> None:
    assert PairValues(torch.tensor([3.0]), torch.tensor([1.0])).difference.tolist() == [2.0]
