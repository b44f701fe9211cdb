"""Each loss against numbers worked out by hand, against TRL's own formula, and against what it must be the same as."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trainer.config.loss import MARGIN_LOSSES, MAY_BE_SMOOTHED, REWARD_LOSSES, LossName, LossSection
from trainer.loss import losses
from trainer.loss.losses import PairValues
from trainer.loss.preference import PairInputs, loss_notes, preference_loss

BETA = 0.5
DOUBLE = torch.float64

RATIOS = ([0.0, 2.0, -1.0, 6.0], [0.0, -1.0, 3.0, -30.0])
"""Log-ratios of four pairs: no difference, a right one, a wrong one, one far out."""

LOGPS = ([-6.0, -2.0, -9.0, -4.0], [-3.0, -8.0, -1.0, -40.0])
LENGTHS = ([2.0, 4.0, 3.0, 1.0], [1.0, 2.0, 4.0, 10.0])
GAPS = [0.0, 1.0, 0.5, 2.0]

ALL_LOSSES: tuple[LossName, ...] = LossName.__args__  # type: ignore[attr-defined]


def sides(values: tuple[list[float], list[float]], dtype: torch.dtype = DOUBLE) -> PairValues:
    return PairValues(*(torch.tensor(side, dtype=dtype) for side in values))


def pair_inputs(
    ratios: PairValues | None = None, *, dtype: torch.dtype = DOUBLE, logps: PairValues | None = None
) -> PairInputs:
    found = sides(RATIOS, dtype) if ratios is None else ratios
    count = len(found.chosen)
    lengths = PairValues(*(side[:count].to(dtype) for side in sides(LENGTHS)))
    gaps = torch.tensor(GAPS, dtype=dtype)[:count]
    known = PairValues(*(side[:count].to(dtype) for side in sides(LOGPS))) if logps is None else logps
    return PairInputs(found, known, lengths, torch.ones(count), gaps)


def section(name: LossName, **options: object) -> LossSection:
    smoothing = {} if name not in MAY_BE_SMOOTHED else {"label_smoothing": 0.1}
    return LossSection.model_validate({"name": name} | smoothing | options)


def compute(
    name: LossName, inputs: PairInputs, *, beta: float = BETA, average: bool = False, **options: object
) -> Tensor:
    return preference_loss(name, inputs, section(name, **options), beta=beta, average=average)


def nls(x: float) -> float:
    """Give -log sigmoid(x)."""
    return math.log1p(math.exp(-x))


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# Of the second and third pair: ratios 2 and -1, -1 and 3; beta 0.5, so that logits are 1.5 and -2; label smoothing 0.1.
BY_HAND: dict[LossName, tuple[float, float]] = {
    "sigmoid": (nls(1.5), nls(-2)),
    "cdpo": (0.9 * nls(1.5) + 0.1 * nls(-1.5), 0.9 * nls(-2) + 0.1 * nls(2)),
    "robust": ((0.9 * nls(1.5) - 0.1 * nls(-1.5)) / 0.8, (0.9 * nls(-2) - 0.1 * nls(2)) / 0.8),
    "hinge": (0.0, 3.0),
    # 2/4 + 1/2 = 1 and -1/3 - 3/4 = -13/12, from 1 / (2 * 0.5) = 1
    "ipo": (0.0, (13 / 12 + 1) ** 2),
    "exo": (
        sigma(1.5) * math.log(sigma(1.5) / 0.9) + sigma(-1.5) * math.log(sigma(-1.5) / 0.1),
        sigma(-2) * math.log(sigma(-2) / 0.9) + sigma(2) * math.log(sigma(2) / 0.1),
    ),
    # implicit rewards 1 and -0.5, -0.5 and 1.5
    "nca": (nls(1) + nls(-1) / 2 + nls(0.5) / 2, nls(-0.5) + nls(0.5) / 2 + nls(-1.5) / 2),
    "bco": (nls(1) + nls(0.5), nls(-0.5) + nls(-1.5)),
    "sppo": ((2 - 1) ** 2 + (-1 + 1) ** 2, (-1 - 1) ** 2 + (3 + 1) ** 2),
    "apo_zero": (1 - sigma(1) + sigma(-0.5), 1 - sigma(-0.5) + sigma(1.5)),
    "apo_down": (sigma(1) + 1 - sigma(1.5), sigma(-0.5) + 1 - sigma(-2)),
    "discopop": (
        nls(1.5) * (1 - sigma(30)) + math.exp(-1.5) * sigma(30),
        nls(-2) * (1 - sigma(-40)) + math.exp(2) * sigma(-40),
    ),
    "sigmoid_norm": (nls(0.5), nls(-13 / 24)),
    # log-probs per token: -2/4 and -8/2, -9/3 and -1/4; gamma 0.5
    "simpo": (nls(0.5 * 3.5 - 0.5), nls(0.5 * -2.75 - 0.5)),
    "orpo": (
        0.5 + BETA * nls(math.log(math.exp(-0.5) / (1 - math.exp(-0.5))) - math.log(math.exp(-4) / (1 - math.exp(-4)))),
        3 + BETA * nls(math.log(math.exp(-3) / (1 - math.exp(-3))) - math.log(math.exp(-0.25) / (1 - math.exp(-0.25)))),
    ),
    "dpop": (nls(1.5), nls(-2 - 0.5 * 50 * 1)),  # the chosen response of the third pair fell by 1
    "odpo": (nls(1.5 - math.log(2)), nls(-2 - math.log(1.5))),  # gaps 1 and 0.5
    "mmpo": (
        sigma(1) * nls(1.5) + sigma(-1) * nls(-1.5),
        sigma(0.5) * nls(-2) + sigma(-0.5) * nls(2),
    ),
    "reward_kl": (
        sigma(1) * math.log(sigma(1) / sigma(1.5)) + sigma(-1) * math.log(sigma(-1) / sigma(-1.5)),
        sigma(0.5) * math.log(sigma(0.5) / sigma(-2)) + sigma(-0.5) * math.log(sigma(-0.5) / sigma(2)),
    ),
    "reward_fwd_kl": (
        sigma(1.5) * math.log(sigma(1.5) / sigma(1)) + sigma(-1.5) * math.log(sigma(-1.5) / sigma(-1)),
        sigma(-2) * math.log(sigma(-2) / sigma(0.5)) + sigma(2) * math.log(sigma(2) / sigma(-0.5)),
    ),
    "reward_sq": (0.5**2, 2.5**2),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_each_loss_by_hand(name: LossName) -> None:
    assert compute(name, pair_inputs())[1:3].tolist() == pytest.approx(BY_HAND[name], rel=1e-12)


def test_every_loss_but_those_that_sort_has_numbers_by_hand() -> None:
    assert {*ALL_LOSSES} == {*BY_HAND, "aot", "aot_unpaired"}


def test_aot_by_hand() -> None:
    """Policy's log p(w) - log p(l): -3, 6, -8, 36; the reference's, less the ratios' differences 0, 3, -4, 36: -3, 3,
    -4, 0. Sorted: -8 -3 6 36 against -4 -3 0 3, so -4, 0, 6, 33 of the pairs 3, 1, 2, 4. Unpaired: -1 0 2 6 against
    -30 -1 0 3, so 29, 1, 2, 3 of the pairs 3, 1, 2, 4."""
    paired = compute("aot", pair_inputs(), label_smoothing=0.0)
    assert paired.tolist() == pytest.approx([nls(0), nls(3), nls(-2), nls(16.5)])
    unpaired = compute("aot_unpaired", pair_inputs(), label_smoothing=0.0)
    assert unpaired.tolist() == pytest.approx([nls(0.5), nls(1), nls(14.5), nls(1.5)])
    smoothed = compute("aot_unpaired", pair_inputs(), label_smoothing=0.1)
    assert smoothed[0].item() == pytest.approx(0.9 * nls(0.5) + 0.1 * nls(-0.5))


def test_aot_of_a_pair_that_counts_twice_is_that_of_the_pair_twice() -> None:
    better, worse = sides(RATIOS)
    twice = torch.tensor([0, 1, 1, 2, 3])

    def total(of: Tensor, beside: Tensor, weights: Tensor) -> Tensor:
        found = losses.aot_loss(of, beside, beta=BETA, label_smoothing=0.1, weights=weights)
        return (found * weights).sum()

    weighted = total(better, worse, torch.tensor([1.0, 2.0, 1.0, 1.0]))
    torch.testing.assert_close(weighted, total(better[twice], worse[twice], torch.ones(5)))
    thirds = total(better, worse, torch.full((4,), 1 / 3))
    torch.testing.assert_close(3 * thirds, total(better, worse, torch.ones(4)), rtol=1e-6, atol=0)


def inputs_with_gradient(dtype: torch.dtype = DOUBLE) -> tuple[list[Tensor], PairInputs]:
    leaves = [side.clone().requires_grad_() for side in (*sides(RATIOS, dtype), *sides(LOGPS, dtype))]
    return leaves, pair_inputs(PairValues(*leaves[:2]), dtype=dtype, logps=PairValues(*leaves[2:]))


def gradients(name: LossName, **options: object) -> list[Tensor | None]:
    leaves, inputs = inputs_with_gradient()
    loss = compute(name, inputs, **options)  # type: ignore[arg-type]
    return list(torch.autograd.grad(loss.sum(), leaves, allow_unused=True))


def assert_same_gradients(one: list[Tensor | None], two: list[Tensor | None], *, factor: float = 1.0) -> None:
    assert any(each is not None and each.abs().max() > 1e-3 for each in one)
    for left, right in zip(one, two, strict=True):
        zero = torch.zeros(4, dtype=DOUBLE)
        torch.testing.assert_close(zero if left is None else left, zero if right is None else factor * right)


def test_reward_kl_and_mmpo_have_one_gradient() -> None:
    assert_same_gradients(gradients("reward_kl"), gradients("mmpo"))
    difference = compute("mmpo", pair_inputs()) - compute("reward_kl", pair_inputs())
    entropies = [sigma(gap) * nls(gap) + sigma(-gap) * nls(-gap) for gap in GAPS]
    assert difference.tolist() == pytest.approx(entropies)


def test_cdpo_is_mmpo_of_one_label() -> None:
    inputs = pair_inputs()
    gaps = torch.full((4,), math.log(9.0), dtype=DOUBLE)  # sigmoid(log 9) = 0.9
    constant = PairInputs(inputs.ratios, inputs.logps, inputs.lengths, inputs.weights, gaps)
    torch.testing.assert_close(compute("mmpo", constant), compute("cdpo", inputs))


def test_ipo_is_reward_sq_rescaled() -> None:
    """(beta d - 1/2)^2 = beta^2 (d - 1 / (2 beta))^2, of averaged ratios."""
    inputs = pair_inputs()
    halves = PairInputs(inputs.ratios, inputs.logps, inputs.lengths, inputs.weights, torch.full((4,), 0.5).double())
    torch.testing.assert_close(compute("reward_sq", halves, average=True), BETA**2 * compute("ipo", inputs))


def test_odpo_without_an_offset_is_dpo() -> None:
    inputs = pair_inputs()
    equal = PairInputs(inputs.ratios, inputs.logps, inputs.lengths, inputs.weights, torch.zeros(4).double())
    torch.testing.assert_close(compute("odpo", equal), compute("sigmoid", inputs))
    tiny = compute("odpo", inputs, reward={"scale": 1e-12})
    torch.testing.assert_close(tiny, compute("sigmoid", inputs))
    assert not torch.equal(compute("odpo", inputs), tiny)


def test_odpo_offsets_by_hand() -> None:
    gaps = torch.tensor([0.0, 1.0, -1.0, 3.0])
    logs = losses.odpo_offsets(gaps, scale=2.0, is_log=True)
    assert logs.tolist() == pytest.approx([0, 2 * math.log(2), -2 * math.log(2), 2 * math.log(4)])
    assert losses.odpo_offsets(gaps, scale=2.0, is_log=False).tolist() == [0, 2, -2, 6]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dpop", {"dpop_lambda": 0.0}),
        ("robust", {"label_smoothing": 1e-12}),
        ("cdpo", {"label_smoothing": 1e-12}),
        ("sigmoid", {"ld_alpha": 1.0}),
        ("sigmoid", {"length_penalty": 1e-12}),
        ("sigmoid", {"f_divergence": "alpha", "f_alpha": 1.0}),
        ("sigmoid", {"f_divergence": "alpha", "f_alpha": 1 - 1e-5}),
    ],
)
def test_what_is_dpo_in_the_end(name: LossName, options: dict[str, object]) -> None:
    inputs = pair_inputs(sides(([0.0, 2.0, -1.0], [0.0, -1.0, 3.0])))
    found, expected = compute(name, inputs, **options), compute("sigmoid", inputs)  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_forward_kl_is_alpha_0() -> None:
    forward = compute("sigmoid", pair_inputs(), f_divergence="forward_kl")
    torch.testing.assert_close(compute("sigmoid", pair_inputs(), f_divergence="alpha", f_alpha=0.0), forward)
    # 1 - e^-2 and 1 - e^1, times beta
    assert forward[1].item() == pytest.approx(nls(0.5 * (math.e - math.exp(-2))))


def test_js_by_hand() -> None:
    found = compute("sigmoid", pair_inputs(), f_divergence="js")
    assert found[1].item() == pytest.approx(nls(0.5 * (math.log(2 * sigma(2)) - math.log(2 * sigma(-1)))))


def test_a_length_penalty_by_hand() -> None:
    """The chosen responses of the second and third pair are 2 tokens longer and 1 shorter."""
    found = compute("sigmoid", pair_inputs(), length_penalty=0.25)
    assert found[1:3].tolist() == pytest.approx([nls(1.5 + 0.5), nls(-2 - 0.25)])


def test_averages_are_taken_once() -> None:
    inputs = pair_inputs()
    for name in ("ipo", "sigmoid_norm", "simpo", "orpo"):
        torch.testing.assert_close(compute(name, inputs, average=True), compute(name, inputs))
    torch.testing.assert_close(compute("sigmoid", inputs, average=True), compute("sigmoid_norm", inputs))
    for name in ("nca", "bco", "sppo", "apo_zero", "apo_down", "aot", "aot_unpaired", "dpop", "hinge"):
        assert not torch.allclose(compute(name, inputs, average=True), compute(name, inputs)), name


FAR = [0.0, 1e-3, -1e-3, 30.0, -30.0, 90.0, -90.0, 3000.0, -3000.0, 1e5, -1e5]


WITH_DIVERGENCE = [(name, each) for name in sorted(MARGIN_LOSSES) for each in ("forward_kl", "js", "alpha")]


@pytest.mark.parametrize(("name", "divergence"), [*((name, "reverse_kl") for name in ALL_LOSSES), *WITH_DIVERGENCE])
def test_values_and_gradients_stay_finite_far_out(name: LossName, divergence: str) -> None:
    """In float32, of ratios of thousands of nats and of log-probs from certain to impossible."""
    pairs = [(chosen, rejected) for chosen in FAR for rejected in FAR]
    ratios = [torch.tensor(side, requires_grad=True) for side in zip(*pairs, strict=True)]
    logps = [torch.tensor([-abs(each) for each in side], requires_grad=True) for side in zip(*pairs, strict=True)]
    count = len(pairs)
    inputs = PairInputs(
        PairValues(*ratios),
        PairValues(*logps),
        PairValues(torch.full((count,), 3.0), torch.full((count,), 7.0)),
        torch.ones(count),
        torch.tensor([3000.0 if number % 2 else -0.5 for number in range(count)]),
    )
    loss = preference_loss(name, inputs, section(name, f_divergence=divergence), beta=1.0, average=False)
    assert loss.isfinite().all()
    for gradient in torch.autograd.grad(loss.sum(), [*ratios, *logps], allow_unused=True):
        assert gradient is None or gradient.isfinite().all()


@given(logit=st.floats(-50, 50), label=st.floats(0, 1))
def test_the_kernel_is_a_cross_entropy(logit: float, label: float) -> None:
    found = losses.cross_entropy(torch.tensor(logit, dtype=DOUBLE), label).item()
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor(logit, dtype=DOUBLE), torch.tensor(label, dtype=DOUBLE)
    ).item()
    assert found == pytest.approx(expected, abs=1e-9)


def test_log_odds_at_both_ends() -> None:
    """Of p = 1 - 1e-6 and p = e^-200, where 1 - p is 1 in float32."""
    near, far = torch.tensor(math.log1p(-1e-6)), torch.tensor(-200.0)
    assert losses._log_odds(near).item() == pytest.approx(math.log((1 - 1e-6) / 1e-6), rel=1e-2)
    assert losses._log_odds(far).item() == -200.0


@pytest.mark.parametrize("name", ["simpo", "orpo"])
def test_no_reference_goes_into_some(name: LossName) -> None:
    leaves, inputs = inputs_with_gradient()
    found = torch.autograd.grad(compute(name, inputs).sum(), leaves, allow_unused=True)
    assert found[0] is None
    assert found[1] is None
    assert found[2] is not None


@pytest.mark.parametrize("name", sorted(REWARD_LOSSES))
def test_rewards_go_into_the_losses_that_say_so(name: LossName) -> None:
    inputs = pair_inputs()
    larger = PairInputs(inputs.ratios, inputs.logps, inputs.lengths, inputs.weights, torch.tensor(GAPS).double() * 2)
    found, other = compute(name, inputs), compute(name, larger)
    assert found[0] == other[0]  # no gap
    assert (found[2:] != other[2:]).all()
    if name != "odpo":  # whose scale stands before the log
        torch.testing.assert_close(compute(name, inputs, reward={"scale": 2.0}), other)


def test_sigmoid_loss_stays_finite_far_out() -> None:
    assert losses.sigmoid_loss(torch.tensor([-1e6, 1e6])).tolist() == [1e6, 0.0]
    assert losses.sigmoid_loss(torch.tensor([math.inf])).tolist() == [0.0]


def test_a_tie_is_not_accurate() -> None:
    ratios = PairValues(torch.tensor([1.0, 2.0, 1.0]), torch.tensor([0.0, 2.0, 3.0]))
    assert losses.accuracy(ratios).tolist() == [1, 0, 0]


OPTIONS: list[tuple[LossName, dict[str, object], dict[str, object]]] = [
    ("cdpo", {"label_smoothing": 0.1}, {"label_smoothing": 0.2}),
    ("robust", {"label_smoothing": 0.1}, {"label_smoothing": 0.2}),
    ("exo", {"label_smoothing": 0.1}, {"label_smoothing": 0.2}),
    ("aot", {"label_smoothing": 0.0}, {"label_smoothing": 0.2}),
    ("simpo", {}, {"simpo_gamma": 1.5}),
    ("dpop", {}, {"dpop_lambda": 5.0}),
    ("discopop", {}, {"discopop_temperature": 1.0}),
    ("sigmoid", {}, {"f_divergence": "js"}),
    ("sigmoid", {"f_divergence": "alpha"}, {"f_divergence": "alpha", "f_alpha": 0.1}),
    ("sigmoid", {}, {"length_penalty": 0.1}),
    ("mmpo", {}, {"reward": {"scale": 3.0}}),
    ("odpo", {}, {"reward": {"offset": "linear"}}),
]


@pytest.mark.parametrize(("name", "one", "other"), OPTIONS)
def test_each_option_changes_something(name: LossName, one: dict[str, object], other: dict[str, object]) -> None:
    found = [compute(name, pair_inputs(), **options) for options in (one, other)]  # type: ignore[arg-type]
    assert (found[0] - found[1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "cdpo"}, "cdpo needs label_smoothing above 0"),
        ({"name": "sigmoid", "label_smoothing": 0.1}, "label_smoothing=0.1 has no place in sigmoid"),
        ({"name": "nca", "f_divergence": "js"}, "f_divergence=js has a meaning only in a margin, and nca"),
        ({"name": "orpo", "length_penalty": 0.1}, "length_penalty is added to a margin, and orpo"),
        ({"name": "aot", "wpo_weighting": True}, "wpo_weighting weighs pairs, and aot has none"),
        ({"mix": {"sigmoid": 1.0, "bco": 1.0}, "length_penalty": 0.1}, "and bco has more than that"),
        ({"name": "discopop", "discopop_temperature": 2.0}, "less than or equal to 1"),
        ({"simpo_gamma": 1.0}, "simpo_gamma is for the loss simpo, and the loss is sigmoid"),
        ({"name": "ipo", "dpop_lambda": 2.0}, "dpop_lambda is for the loss dpop, and the loss is ipo"),
        ({"mix": {"nca": 1.0, "bco": 1.0}, "discopop_temperature": 0.1}, "loss discopop, and the loss is nca, bco"),
        ({"f_alpha": 0.25}, "f_alpha is for f_divergence=alpha, and f_divergence is reverse_kl"),
        ({"reward": {"scale": 2.0}}, r"reward\.\* is for mmpo, odpo, reward_fwd_kl, .*and the loss is sigmoid"),
        ({"name": "mmpo", "reward": {"offset": "linear"}}, "reward.offset is for the loss odpo, and the loss is mmpo"),
    ],
)
def test_what_does_not_fit_together_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LossSection.model_validate(settings)


@pytest.mark.parametrize("temperature", [0.05, 0.1, 0.105, 0.2])
def test_a_discopop_that_begins_by_lowering_margins_is_told(temperature: float) -> None:
    margin = torch.zeros(1, requires_grad=True, dtype=torch.float64)
    (slope,) = torch.autograd.grad(losses.discopop_loss(margin, temperature=temperature).sum(), margin)
    told = [*loss_notes(LossSection(name="discopop", discopop_temperature=temperature))]
    assert bool(told) == (slope.item() > 0) == (temperature < 0.102)
    assert not [*loss_notes(LossSection())]
