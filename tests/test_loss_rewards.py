"""The rewards of the pair file on their way into a loss: missing, scaled, of two values."""

import math
from pathlib import Path

import pytest

from schemas.errors import UsageError
from trainer.config.sections import TrainConfig
from trainer.config.settings import resolve
from trainer.data.groups import GroupPair
from trainer.data.tokenize import TokenizedGroup, TokenizedResponse
from trainer.loss.objective import objective_of
from trainer.loss.rewards import require_rewards, reward_notes, reward_scale


def config_of(*settings: str) -> TrainConfig:
    return resolve(list(settings), train_data_path=Path("pairs.jsonl"), output_dir=Path("run"))


def group(environment: str, rewards: list[float | None], pairs: list[tuple[int, int]]) -> TokenizedGroup:
    return TokenizedGroup(
        (0,),
        tuple(TokenizedResponse((number + 1,), (1,)) for number in range(len(rewards))),
        tuple(
            GroupPair(
                chosen,
                rejected,
                f"{environment or 'none'}.jsonl:{line}",
                chosen_reward=rewards[chosen],
                rejected_reward=rewards[rejected],
                environment=environment,
            )
            for line, (chosen, rejected) in enumerate(pairs, start=1)
        ),
    )


MATH = group("math", [1.0, 0.0, 0.5], [(0, 1), (0, 2), (2, 1)])  # mean 0.5, deviation sqrt(1/6)
CODE = group("code", [30.0, 10.0], [(0, 1)])  # deviation 10
BINARY = [group("math", [1.0, 0.0, 0.0], [(0, 1), (0, 2)]), group("math", [0.0, 1.0], [(1, 0)])]


def test_rewards_are_divided_by_the_deviation_of_their_environment() -> None:
    """Each distinct response counts once, however many pairs it is in."""
    scale = reward_scale(config_of("loss.name=mmpo").loss, [MATH, CODE])
    assert scale.by_environment == pytest.approx({"math": math.sqrt(1 / 6), "code": 10.0})
    assert scale.gap(MATH.pairs[1]) == pytest.approx(0.5 / math.sqrt(1 / 6))
    assert scale.gap(CODE.pairs[0]) == 2.0


def test_other_normalisations() -> None:
    rewards = [1.0, 0.0, 0.5, 30.0, 10.0]
    mean = sum(rewards) / 5
    overall = math.sqrt(sum((reward - mean) ** 2 for reward in rewards) / 5)
    for setting, divisor in (("global", overall), ("none", 1.0)):
        loss = config_of("loss.name=mmpo", f"loss.reward.normalization={setting}").loss
        assert reward_scale(loss, [MATH, CODE]).gap(CODE.pairs[0]) == pytest.approx(20.0 / divisor)


def test_an_environment_that_training_has_not_gets_the_overall_deviation() -> None:
    scale = reward_scale(config_of("loss.name=mmpo").loss, [CODE])
    assert scale.gap(MATH.pairs[0]) == pytest.approx(1.0 / 10.0)


def test_rewards_that_are_all_equal_divide_by_one() -> None:
    scale = reward_scale(config_of("loss.name=odpo").loss, [group("math", [0.7, 0.7], [(0, 1)])])
    assert scale.gap(CODE.pairs[0]) == 20.0


def test_missing_rewards_are_told_with_row_and_remedy() -> None:
    without = group("code", [1.0, None], [(0, 1)])
    expected = (
        r"code\.jsonl:1: the pair has no rejected_reward, and loss\.name=reward_kl needs.*dpo collect-pairs writes them"
    )
    with pytest.raises(UsageError, match=expected):
        objective_of(config_of("loss.name=reward_kl"), [MATH, without])
    with pytest.raises(UsageError, match=expected):
        objective_of(config_of("loss.name=reward_kl"), [MATH], validation=[without])
    with pytest.raises(UsageError, match=r"loss\.name=mmpo"):
        require_rewards(config_of('loss.mix={"sigmoid": 1, "mmpo": 1}').loss, [without])
    objective_of(config_of(), [MATH, without])  # other losses do without


def test_binary_rewards_are_told_in_plain_words() -> None:
    notes = reward_notes(config_of("loss.name=reward_kl").loss, BINARY)
    deviation = math.sqrt(0.4 * 0.6)  # two of five are right
    assert notes[0] == f"rewards are divided by their standard deviation: math {deviation:.3g}"
    assert "every pair has the same difference of rewards (rewards of only two values?)" in notes[1]
    assert f"constant label smoothing (label {1 / (1 + math.exp(-1 / deviation)):.3g})" in notes[1]
    assert len(notes) == 2


def test_notes_of_several_environments_and_of_graded_rewards() -> None:
    loss = config_of("loss.name=odpo").loss
    assert "same difference of rewards in its environment" in reward_notes(loss, [*BINARY, CODE])[1]
    assert len(reward_notes(loss, [MATH, CODE])) == 1
    graded = group("art", [1.0, 0.6, 0.0], [(0, 1), (0, 2)])
    (_, note) = reward_notes(loss, [*BINARY, graded, CODE])  # CODE has one pair, which says nothing
    assert note.startswith("every pair of math has the same difference of rewards")
    assert reward_notes(config_of("loss.name=odpo", "loss.reward.normalization=none").loss, [MATH]) == []
    assert reward_notes(config_of().loss, [MATH]) == []


def test_pairs_against_their_rewards_are_told() -> None:
    against = group("math", [0.0, 1.0, 0.25], [(0, 1), (1, 2)])
    notes = reward_notes(config_of("loss.name=reward_sq").loss, [against])
    assert "1 pair of 2 chose the response with the lower reward" in notes[1]
    turned = "1 pair of 2 chose the response with the lower reward; they are learnt all the same"
    assert reward_notes(config_of().loss, [against]) == [turned]
    assert reward_notes(config_of().loss, [group("code", [1.0, None], [(0, 1)])]) == []
