"""DPO as its definition says, pair by pair and without any trick: what the group trainer must equal."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from tests.architectures import VOCABULARY
from trainer.config.sections import TrainConfig
from trainer.config.settings import resolve
from trainer.cost.throughput import flop_counter
from trainer.data.groups import GroupPair
from trainer.data.plan import PairRef, Step
from trainer.data.tokenize import TokenizedGroup, TokenizedResponse
from trainer.loss.objective import objective_of
from trainer.model.attention import choose_attention
from trainer.model.packing import Packer
from trainer.model.reference import OnlineReference
from trainer.model.reference_cache import weights_digest
from trainer.model.scorer import ResponseScorer
from trainer.run.training import Training

BETA = 0.3
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Outcome:
    """What a step comes to."""

    loss: float
    gradients: dict[str, Tensor]


def random_group(
    prompt: int, lengths: Sequence[int], pairs: Sequence[tuple[int, int]], *, seed: int = 0, masked: bool = False
) -> TokenizedGroup:
    """Make a group of random tokens; `masked` leaves some tokens in the middle of the responses untrained."""
    draw = random.Random(f"{seed} {prompt} {lengths}")

    def ids(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(VOCABULARY) for _ in range(count))

    def mask(count: int) -> tuple[int, ...]:
        return (*(draw.randrange(2) if masked else 1 for _ in range(count - 1)), 1)

    responses = tuple(TokenizedResponse(ids(length), mask(length)) for length in lengths)
    return TokenizedGroup(ids(prompt), responses, tuple(GroupPair(*pair, f"f:{n}") for n, pair in enumerate(pairs)))


def all_pairs(count: int) -> list[tuple[int, int]]:
    """Pair each response with all behind it."""
    return [(chosen, rejected) for chosen in range(count) for rejected in range(chosen + 1, count)]


def step_of(groups: Sequence[TokenizedGroup]) -> Step:
    """Put all pairs into one step, in an order that jumps between the groups."""
    pairs = [PairRef(number, pair) for number, group in enumerate(groups) for pair in range(len(group.pairs))]
    return Step(0, tuple(random.Random(0).sample(pairs, len(pairs))))


def longest_of(groups: Sequence[TokenizedGroup]) -> int:
    """Give the longest sequence of prompt and response: the smallest budget of a row."""
    return max(len(group.prompt) + len(response.ids) for group in groups for response in group.responses)


def pairwise_dpo(model: Any, reference: Any, groups: Sequence[TokenizedGroup], *, weighting: str = "pair") -> Outcome:
    """Compute loss and gradients of all pairs, two full sequences for each, in float64.

    So computed in float32, the sums over pairs alone would be off by more than the tests allow.
    """
    for one in (model, reference):
        one.double().set_experts_implementation("eager")  # the other ones have no float64
    weights = [1.0 if weighting == "pair" else 1.0 / len(group.pairs) for group in groups]
    total = sum(weight * len(group.pairs) for weight, group in zip(weights, groups, strict=True))
    loss = 0.0
    for weight, group in zip(weights, groups, strict=True):
        for pair in group.pairs:
            ratios = []
            for response in (group.responses[pair.chosen], group.responses[pair.rejected]):
                with torch.no_grad():
                    reference_logp = _sequence_logp(reference, group.prompt, response)
                ratios.append(_sequence_logp(model, group.prompt, response) - reference_logp)
            term = weight / total * -torch.log(torch.sigmoid(BETA * (ratios[0] - ratios[1])))
            term.backward()
            loss += term.item()
    return Outcome(loss, gradients_of(model))


def _sequence_logp(model: Any, prompt: Sequence[int], response: TokenizedResponse) -> Tensor:
    """Sum log softmax at the trained tokens of one response."""
    logits = model(input_ids=torch.tensor([[*prompt, *response.ids]]), use_cache=False).logits[0]
    logps = torch.log_softmax(logits[len(prompt) - 1 : -1], dim=-1)
    return sum(
        (
            logps[place, token]
            for place, (token, is_trained) in enumerate(zip(response.ids, response.loss_mask, strict=True))
            if is_trained
        ),
        start=torch.zeros((), dtype=logits.dtype),
    )


def gradients_of(model: Any) -> dict[str, Tensor]:
    """Copy the gradients of a model, those that are not there as zeros."""
    return {
        name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for name, parameter in model.named_parameters()
    }


def training_of(
    model: Any, reference: Any, groups: Sequence[TokenizedGroup], *settings: str, attention: str = "auto"
) -> Training:
    """Set a model up for steps that leave it as it is (the learning rate is 0), so that gradients can be looked at."""
    config = config_of(f"policy.attention={attention}", *settings)
    scorers = []
    for one in (model, reference):
        scorer = ResponseScorer(one, choose_attention(one, attention, CPU))
        scorers.append(scorer.train())
    scorer = scorers[0]
    optimizer = torch.optim.SGD(scorer.parameters(), lr=0.0)
    return Training(
        config=config,
        accelerator=Accelerator(cpu=True),
        scorer=scorer,
        objective=objective_of(config, groups),
        optimizer=optimizer,
        scheduler=torch.optim.lr_scheduler.ConstantLR(optimizer),
        packer=Packer(groups, scorer.attention.layout, config.policy.row_tokens),
        pads_to=scorer.attention.pads_to,
        reference=OnlineReference(scorers[1]),
        flops=flop_counter(model, CPU),
        start_digest=weights_digest(model),
    )


def config_of(*settings: str) -> TrainConfig:
    """Make a configuration for a step without clipping, in float32."""
    usual = (
        f"dpo.reference_policy_kl_penalty={BETA}",
        "policy.precision=float32",
        "policy.max_grad_norm=null",
        "policy.max_total_sequence_length=1",
    )
    return resolve([*usual, *settings], train_data_path=Path("pairs.jsonl"), output_dir=Path("run"))


def assert_same(found: Outcome, expected: Outcome, *, loss: float = 1e-6, gradient: float = 1e-5) -> None:
    """Hold loss and every parameter's gradient to the expected ones, the gradient relative to its norm.

    A gradient that is 0 but for rounding, as that of a bias on all keys, has no norm to be relative to; it is held to
    the same share of the whole gradient's.
    """
    assert abs(found.loss - expected.loss) <= loss * max(1.0, abs(expected.loss))
    assert found.gradients.keys() == expected.gradients.keys()
    whole = torch.stack([value.norm() for value in expected.gradients.values()]).norm()
    assert whole > 1e-3
    for name, value in expected.gradients.items():
        difference = (found.gradients[name].to(value) - value).norm()
        assert difference <= gradient * max(value.norm(), 1e-3 * whole), (name, difference / value.norm())
