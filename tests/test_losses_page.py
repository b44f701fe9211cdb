"""docs/losses.md names every loss and option, and says of each loss what the code takes."""

import re
from pathlib import Path

import pytest

from tests.test_losses import ALL_LOSSES
from trainer.config.loss import (
    MARGIN_LOSSES,
    REFERENCE_FREE_LOSSES,
    REWARD_LOSSES,
    SMOOTHED_LOSSES,
    WHOLE_STEP_LOSSES,
    LossName,
    LossSection,
    RewardSection,
)

PAGE = (Path(__file__).parents[1] / "docs" / "losses.md").read_text()

ROWS = {
    name: cells
    for line in PAGE.splitlines()
    if line.startswith("| `")
    for name, *cells in [[cell.strip(" `") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]]
}


@pytest.mark.parametrize("name", ALL_LOSSES)
def test_every_loss_has_its_row(name: LossName) -> None:
    equation, paper, needs, when = ROWS[name]
    assert equation
    assert when
    assert re.search(r"20\d\d|the same", paper)
    assert ("rewards" in needs) == (name in REWARD_LOSSES)
    assert ("no reference" in needs) == (name in REFERENCE_FREE_LOSSES)
    assert ("ε" in needs) == (name in SMOOTHED_LOSSES)
    assert ("whole steps" in needs) == (name in WHOLE_STEP_LOSSES)


def test_every_option_of_the_loss_is_named() -> None:
    named = {*re.findall(r"\bloss\.([a-z_.]+)", PAGE)}
    options = {*LossSection.model_fields} - {"reward"} | {f"reward.{name}" for name in RewardSection.model_fields}
    assert options - named == set()


def test_the_functions_of_the_margin_are_named() -> None:
    (sentence,) = re.findall(r"Functions of h are ([^.]+)\.", PAGE)
    assert {*re.findall(r"`(\w+)`", sentence)} == MARGIN_LOSSES - REWARD_LOSSES
