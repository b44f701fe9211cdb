"""The loss against numbers worked out by hand and against NeMo RL's own."""

import math

import pytest
import torch

from trainer.loss.losses import PairValues, accuracy, log_ratios, of_pairs, sft_loss, sigmoid_loss
from trainer.loss.objective import METRICS, pair_terms
from trainer.model.logps import ResponseLogps

CHOSEN, REJECTED = torch.tensor([0, 2]), torch.tensor([1, 3])


def test_sigmoid_loss_by_hand() -> None:
    ratios = PairValues(torch.tensor([0.0, 2.0, -1.0]), torch.tensor([0.0, -1.0, 3.0]))
    # differences 0, 3, -4 times beta 0.5: -log sigmoid of 0, 1.5, -2
    expected = [math.log(2), math.log(1 + math.exp(-1.5)), math.log(1 + math.exp(2))]
    assert sigmoid_loss(ratios, beta=0.5).tolist() == pytest.approx(expected)


def test_sigmoid_loss_stays_finite_far_out() -> None:
    ratios = PairValues(torch.tensor([0.0, 1e6]), torch.tensor([1e6, 0.0]))
    assert sigmoid_loss(ratios, beta=1.0).tolist() == [1e6, 0.0]


def test_log_ratios_by_hand() -> None:
    # two responses of 2 and 1 tokens
    policy = ResponseLogps(torch.tensor([-4.0, -2.0, -2.0]), (2, 1))
    reference = ResponseLogps(torch.tensor([-5.0, -3.0, -3.0]), (2, 1))
    assert log_ratios(policy, reference).tolist() == [2.0, 1.0]
    assert log_ratios(policy, reference, average=True).tolist() == [1.0, 1.0]


def test_log_ratios_of_long_responses_keep_their_digits() -> None:
    """16,000 tokens of about -0.6 nats sum up to -10,000, where float32 has a thousandth left."""
    torch.manual_seed(0)
    reference = -0.6 + 0.1 * torch.randn(16_000)
    policy = reference + 1e-5 * torch.randn(16_000)
    exact = (policy.double() - reference.double()).sum().item()
    found = log_ratios(ResponseLogps(policy, (16_000,)), ResponseLogps(reference, (16_000,))).item()
    assert found == pytest.approx(exact, abs=1e-6)


def test_sft_loss_by_hand() -> None:
    logps = ResponseLogps(torch.tensor([-4.0, -2.0, -2.0, -9.0]), (2, 1, 1))
    chosen = torch.tensor([2, 0, 2])
    assert sft_loss(logps, chosen=chosen).tolist() == [9.0, 6.0, 9.0]
    assert sft_loss(logps, chosen=chosen, average=True).tolist() == [9.0, 3.0, 9.0]


def test_a_tie_is_not_accurate() -> None:
    assert accuracy(PairValues(torch.tensor([1.0, 2.0, 1.0]), torch.tensor([0.0, 2.0, 3.0]))).tolist() == [1, 0, 0]


def test_a_response_in_two_pairs_gets_both_gradients() -> None:
    logps = torch.zeros(3, requires_grad=True)
    chosen, rejected = torch.tensor([0, 0]), torch.tensor([1, 2])
    ratios = of_pairs(logps, chosen=chosen, rejected=rejected)
    sigmoid_loss(ratios, beta=1.0).sum().backward()
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
    terms = pair_terms(
        ResponseLogps(policy_tokens[mask], lengths),
        ResponseLogps(torch.tensor(REFERENCE_TOKENS, dtype=torch.float64)[mask], lengths),
        chosen=CHOSEN[:num_pairs],
        rejected=REJECTED[:num_pairs],
        beta=beta,
        preference_weight=1.0,
        sft_weight=sft_weight,
        average_preference=averaged,
        average_sft=averaged,
    )
    (terms.loss.sum() / num_pairs).backward()
    means = {
        "loss": terms.loss.mean(),
        "preference_loss": terms.preference.mean(),
        "sft_loss": terms.sft.mean(),
        "rewards_chosen_mean": terms.ratios.chosen.mean(),
        "rewards_rejected_mean": terms.ratios.rejected.mean(),
    }
    for name, value in means.items():
        assert value.item() == pytest.approx(expected[name], rel=1e-7), name  # NeMo RL divides by pairs + 1e-8
    torch.testing.assert_close(policy_tokens.grad, torch.tensor(gradient, dtype=torch.float64), rtol=2e-8, atol=1e-9)
    assert accuracy(terms.ratios).mean().item() == 1.0
    logged = dict(zip(METRICS, (terms.metric_sums(torch.ones(num_pairs)) / num_pairs).tolist(), strict=True))
    assert logged == pytest.approx({**logged, **{name: value.item() for name, value in means.items()}}, rel=1e-6)


def test_metrics_are_weighted_as_the_loss_is() -> None:
    """Pairs of weights 1 and 1/4, whose losses are log(1 + e^-2) and log(1 + e^3)."""
    logps = ResponseLogps(torch.tensor([2.0, 0.0, -1.0, 2.0]), (1, 1, 1, 1))
    terms = pair_terms(
        logps,
        ResponseLogps(torch.zeros(4), (1, 1, 1, 1)),
        chosen=CHOSEN,
        rejected=REJECTED,
        beta=1.0,
        preference_weight=1.0,
        sft_weight=0.0,
        average_preference=False,
        average_sft=False,
    )
    sums = dict(zip(METRICS, terms.metric_sums(torch.tensor([1.0, 0.25])).tolist(), strict=True))
    assert sums["loss"] == pytest.approx(math.log(1 + math.exp(-2)) + math.log(1 + math.exp(3)) / 4)
    assert sums["accuracy"] == 1.0  # the second pair is the wrong way round
    assert sums["rewards_chosen_mean"] == pytest.approx(2.0 - 1.0 / 4)
    assert sums["margin_mean"] == pytest.approx(2.0 - 3.0 / 4)
