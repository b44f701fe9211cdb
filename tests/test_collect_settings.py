"""The choices of a collection: what they mean as text, and which contradict each other."""

import json

import pytest

from pipeline.reasoning import ReasoningPolicy
from pipeline.settings import Format, Margin, RewardField, Settings, Strategy
from schemas.errors import UsageError


@pytest.mark.parametrize(
    ("text", "value", "in_deviations"),
    [
        ("0.1", 0.1, False),
        ("0", 0, False),
        ("1e-3", 0.001, False),
        ("0.5sd", 0.5, True),
        ("2sd", 2, True),
        (" 0.25 ", 0.25, False),
        (" 0.25sd ", 0.25, True),
        ("0sd", 0, True),
    ],
)
def test_a_margin_is_a_number_or_one_in_deviations(text, value, in_deviations):
    assert Margin.parse(text) == Margin(value, in_deviations)


@pytest.mark.parametrize(
    "text", ["", "x", "sd", "-0.1", "-1sd", "nan", "inf", "infsd", "nansd", "0.1std", "0,1", "1 2"]
)
def test_other_margins_are_refused(text):
    with pytest.raises(UsageError, match=r"--min-margin .*expected a number of at least 0"):
        Margin.parse(text)


@pytest.mark.parametrize("text", ["0.1", "0.5sd", "2", "0.123456789", "1e-07", "1234567"])
def test_a_margin_is_written_as_it_is_read(text):
    """The manifest keeps it as text, and a run is to be repeated from its manifest."""
    assert Margin.parse(str(Margin.parse(text))) == Margin.parse(text)
    assert str(Margin(0.1)) == "0.1"
    assert str(Margin(2, True)) == "2sd"


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("reward", ((1.0, ("reward",)),)),
        ("reward_components.style", ((1.0, ("reward_components", "style")),)),
        ("0.7*a.b+0.3*c", ((0.7, ("a", "b")), (0.3, ("c",)))),
        ("a+-0.5*b", ((1.0, ("a",)), (-0.5, ("b",)))),
        (" 2 * a + b ", ((2.0, ("a",)), (1.0, ("b",)))),
    ],
)
def test_a_reward_field_is_a_weighted_sum_of_fields(text, terms):
    assert RewardField.parse(text) == RewardField(terms)


def test_the_default_reward_field_is_the_rows_reward():
    assert RewardField.parse("reward").is_default
    assert RewardField.parse("reward") == Settings().reward_field
    assert not RewardField.parse("2*reward").is_default
    assert not RewardField.parse("reward.x").is_default


@pytest.mark.parametrize("text", ["", "+", "a+", "a..b", ".a", "a.", "x*a", "nan*a", "inf*a", "*a", "2*", "a*b*c"])
def test_other_reward_fields_are_refused(text):
    with pytest.raises(UsageError, match=r"--reward-field .*expected a field"):
        RewardField.parse(text)


@pytest.mark.parametrize("text", ["reward", "a.b", "0.7*a+0.3*b.c", "-1*a", "0.123456789*a"])
def test_a_reward_field_is_written_as_it_is_read(text):
    assert RewardField.parse(str(RewardField.parse(text))) == RewardField.parse(text)


def test_the_defaults_are_those_of_the_recipe():
    assert (Settings().format, Settings().strategy, str(Settings().min_margin)) == ("binary", "all", "0.1")


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"strategy": Strategy.RANDOM}, "--strategy random needs --num-pairs N"),
        ({"strategy": Strategy.TOP}, "--strategy top needs --num-pairs N"),
        ({"num_pairs": 3}, "--num-pairs is for the strategies random and top; with all use --max-pairs-per-prompt"),
        ({"strategy": Strategy.BEST_WORST, "num_pairs": 3}, "with best-worst use --max-pairs-per-prompt"),
        ({"max_length_ratio": 0.99}, "--max-length-ratio 0.99: expected at least 1"),
        ({"max_length_ratio": float("nan")}, "--max-length-ratio nan: expected at least 1"),
        ({"validation_fraction": 1.0}, "together, less than 1"),
        ({"validation_fraction": -0.1}, "shares from 0"),
        ({"test_fraction": float("nan")}, "shares from 0"),
        ({"validation_fraction": 0.5, "test_fraction": 0.5}, "together, less than 1"),
        ({"threshold": float("nan")}, "expected numbers, got nan"),
        ({"min_chosen_reward": float("nan")}, "expected numbers, got nan"),
        ({"max_rejected_reward": float("nan")}, "expected numbers, got nan"),
    ],
)
def test_choices_that_can_not_be_done_are_refused(choices, message):
    with pytest.raises(UsageError) as raised:
        Settings(**choices)
    assert message in str(raised.value)


def test_all_that_is_wrong_is_told_at_once():
    with pytest.raises(UsageError) as raised:
        Settings(strategy=Strategy.TOP, max_length_ratio=0, test_fraction=2)
    for name in ("--num-pairs", "--max-length-ratio", "--test-fraction"):
        assert name in str(raised.value)


def test_settings_are_json_types_for_the_manifest():
    settings = Settings(
        format=Format.TRL,
        strategy=Strategy.TOP,
        num_pairs=4,
        min_margin=Margin(0.5, in_deviations=True),
        reward_field=RewardField.parse("0.7*a+b"),
        reasoning=ReasoningPolicy.STRIP,
        validation_fraction=0.25,
    )
    told = json.loads(json.dumps(settings.as_dict()))
    assert told["format"] == "trl"
    assert told["strategy"] == "top"
    assert told["num_pairs"] == 4
    assert told["min_margin"] == "0.5sd"
    assert told["reward_field"] == "0.7*a+b"
    assert told["reasoning"] == "strip"
    assert told["validation_fraction"] == 0.25
    assert told.keys() == Settings().as_dict().keys()
