"""The learning rate over a run, worked out by hand, and what an optimizer does with it."""

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from trainer.config.policy import OptimizerSection, SchedulerSection
from trainer.run.optimizer import make_optimizer, make_scheduler

CPU = torch.device("cpu")


def rates(num_steps: int, **options: Any) -> list[float]:
    """Give the learning rate of each step of a run whose highest is 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make_scheduler(optimizer, SchedulerSection(**options), num_steps=num_steps)
    found = []
    for _ in range(num_steps):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


def test_the_rate_rises_for_so_many_steps_and_falls_to_one_place_before_0() -> None:
    assert rates(6, warmup_steps=2) == pytest.approx([1 / 2, 1, 4 / 5, 3 / 5, 2 / 5, 1 / 5])


def test_steps_win_over_the_ratio_and_0_is_none() -> None:
    by_ratio = [1 / 3, 2 / 3, 1, 3 / 4, 2 / 4, 1 / 4]
    assert rates(6, warmup_ratio=0.5) == pytest.approx(by_ratio)
    assert rates(6, warmup_ratio=0.5, warmup_steps=3) == pytest.approx(by_ratio)
    assert rates(6, warmup_ratio=0.5, warmup_steps=2)[1] == pytest.approx(1)
    assert rates(2, warmup_ratio=0.5, warmup_steps=0) == pytest.approx([2 / 3, 1 / 3])


def test_a_warm_up_longer_than_the_run_never_arrives() -> None:
    assert rates(3, warmup_steps=10) == pytest.approx([0.1, 0.2, 0.3])
    assert rates(3, warmup_steps=2, name="constant_with_warmup") == pytest.approx([0.5, 1, 1])


def test_a_cosine_ends_at_its_least_rate() -> None:
    thirds = [(1 + math.cos(math.pi * place / 3)) / 2 for place in (0, 1, 2)]  # 1, 3/4, 1/4; place 3 would be the end
    assert rates(3, name="cosine", warmup_steps=1) == pytest.approx(thirds)
    least = [1, 0.2 + 0.8 * 3 / 4, 0.2 + 0.8 / 4]
    assert rates(3, name="cosine", warmup_steps=1, min_lr_ratio=0.2) == pytest.approx(least)
    assert rates(2, name="cosine", warmup_steps=0, min_lr_ratio=1.0) == pytest.approx([1, 1])


@pytest.mark.parametrize("name", ["linear", "constant_with_warmup"])
def test_no_other_shape_has_a_least_rate(name: str) -> None:
    with pytest.raises(ValidationError, match="min_lr_ratio is where name=cosine ends"):
        SchedulerSection(name=name, min_lr_ratio=0.1)


def test_sgd_walks_down_the_gradient_and_decays() -> None:
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = make_optimizer([weight], OptimizerSection(name="sgd", lr=0.1, weight_decay=0.5), CPU)
    weight.grad = torch.tensor([3.0])
    optimizer.step()
    assert weight.item() == pytest.approx(2 * (1 - 0.1 * 0.5) - 0.1 * 3)
    assert not optimizer.state[weight].get("momentum_buffer")


def test_adamw_is_what_is_taken_unless_another_is_named() -> None:
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    optimizer = make_optimizer([weight], OptimizerSection(lr=0.1, weight_decay=0.5, eps=1e-8), CPU)
    weight.grad = torch.tensor([3.0])
    optimizer.step()
    assert weight.item() == pytest.approx(2 * (1 - 0.1 * 0.5) - 0.1)  # Adam's first step is lr times the sign


@pytest.mark.parametrize("setting", [{"betas": (0.5, 0.6)}, {"eps": 1e-3}])
def test_sgd_has_no_moments(setting: Any) -> None:
    with pytest.raises(ValidationError, match="name=sgd has no moments"):
        OptimizerSection(name="sgd", **setting)
