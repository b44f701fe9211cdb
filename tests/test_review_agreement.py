"""How far people agree: published worked examples, cases worked out by hand, and what a review is summed up to."""

import json
import math
import random

import pytest

from views.review.agreement import (
    Level,
    alpha_interval,
    cohens_kappa,
    krippendorffs_alpha,
    percent_agreement,
    share_interval,
)
from views.review.answer import Answer, Verdict
from views.review.item import Item
from views.review.summary import summarise
from views.review.told import show_summary

# Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section E: four observers, twelve units, values
# missing; the paper gives 0.743 (nominal), 0.815 (ordinal), 0.849 (interval).
OBSERVERS = (
    (1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None),
    (1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3),
    (None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None),
    (1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None),
)
PUBLISHED = [[value for value in unit if value is not None] for unit in zip(*OBSERVERS, strict=True)]


@pytest.mark.parametrize(("level", "expected"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_is_that_of_krippendorffs_worked_example(level, expected):
    assert round(krippendorffs_alpha(PUBLISHED, Level(level)), 3) == expected


def test_alpha_of_two_observers_without_gaps_is_that_of_the_papers_first_example():
    # section B of the same paper: ten units, binary data, alpha = 0.095
    one, other = "0100000000", "1110010010"
    units = [(int(a), int(b)) for a, b in zip(one, other, strict=True)]
    assert round(krippendorffs_alpha(units, Level.NOMINAL), 3) == 0.095
    # of two values all levels are one
    assert len({round(krippendorffs_alpha(units, level), 9) for level in Level}) == 1


def test_alpha_is_one_less_than_one_or_nothing():
    assert krippendorffs_alpha([(1, 1), (2, 2)], Level.NOMINAL) == 1
    # by hand: 1 and 2 twice each; observed 2 * 2, expected 2 * 2 * 2, n - 1 = 3: 1 - 3 * 4 / 8
    assert krippendorffs_alpha([(1, 2), (2, 1)], Level.NOMINAL) == -0.5
    assert math.isnan(krippendorffs_alpha([(1, 1), (1, 1)], Level.NOMINAL))  # never another value: no chance to differ
    assert math.isnan(krippendorffs_alpha([(1,), ()], Level.ORDINAL))


def test_units_of_one_value_change_nothing():
    assert krippendorffs_alpha([*PUBLISHED, (3,), ()], Level.ORDINAL) == krippendorffs_alpha(PUBLISHED, Level.ORDINAL)


def test_the_interval_holds_alpha_and_does_not_depend_on_the_order():
    units = [(a, a if a % 3 else 2) for a in range(30)] + [(1, 2)] * 5
    known = alpha_interval(units, Level.NOMINAL)
    assert known.low < known.mean < known.high
    shuffled = random.Random(0).sample(units, len(units))
    assert alpha_interval(shuffled, Level.NOMINAL) == known
    few = alpha_interval([(1, 1), (2, 2)], Level.NOMINAL)
    assert few.mean == 1
    assert math.isnan(few.low)


def test_the_interval_narrows_as_units_come():
    few = alpha_interval([(0, 0), (1, 1), (0, 1)] * 8, Level.NOMINAL)
    many = alpha_interval([(0, 0), (1, 1), (0, 1)] * 200, Level.NOMINAL)
    assert many.high - many.low < (few.high - few.low) / 3  # with the root of 25
    assert few.mean == pytest.approx(many.mean, abs=0.02)


def test_kappa_is_that_of_a_known_table():
    # the textbook's grant proposals (Wikipedia, Cohen's kappa): 20 yes/yes, 5 yes/no, 10 no/yes, 15 no/no; kappa 0.4
    pairs = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
    assert cohens_kappa(pairs) == pytest.approx(0.4)
    assert cohens_kappa([("a", "a"), ("b", "b")]) == 1
    assert cohens_kappa([("a", "b"), ("b", "a")]) == -1
    assert math.isnan(cohens_kappa([("a", "a")]))
    assert math.isnan(cohens_kappa([]))


def test_percent_agreement_weighs_units_alike():
    # (a, a, b): one of three pairs agrees; (a, a): all; (a): nothing to say
    assert percent_agreement(["aab", "aa", "a"]) == pytest.approx((1 / 3 + 1) / 2)
    assert math.isnan(percent_agreement(["a"]))


def test_a_share_has_wilsons_interval():
    # Newcombe (1998), table I, method 3: 81 of 263 gives 0.2553 to 0.3662, 0 of 20 gives 0 to 0.1611
    known = share_interval(81, 263)
    assert (round(known.low, 4), round(known.high, 4)) == (0.2553, 0.3662)
    none = share_interval(0, 20)
    assert (none.low, round(none.high, 4)) == (0.0, 0.1611)
    assert share_interval(20, 20).high == 1.0
    assert math.isnan(share_interval(0, 0).mean)


def item(number, *, names=("chosen", "rejected"), agent="env"):
    said = [({"role": "assistant", "content": f"{name} {number}"},) for name in names]
    asked = ({"role": "user", "content": f"Q{number}"},)
    return Item(f"{number:032x}", f"pairs.jsonl:{number}", asked, (), tuple(said), names, {"agent": agent})


def answer(number, reviewer, verdict, *, shown_first=0, ratings=None, seconds=10.0):
    return Answer(f"{number:032x}", reviewer, Verdict(verdict), shown_first, ratings or {}, "", seconds)


def test_a_review_is_summed_up():
    items = [item(number, agent="math" if number < 3 else "code") for number in range(5)]
    answers = [
        answer(0, "ann", "first", shown_first=0, seconds=4),  # left
        answer(0, "bo", "first", shown_first=1, seconds=8),  # right
        answer(1, "ann", "second", shown_first=0, seconds=6),  # right
        answer(1, "bo", "first", shown_first=0, seconds=8),  # left
        answer(2, "ann", "tie", seconds=20),
        answer(2, "bo", "tie", seconds=8),
        answer(3, "ann", "skip", seconds=1),  # says nothing
        answer(3, "bo", "both_bad", seconds=8),
    ]
    summary = summarise(items, answers)
    assert (summary.items, summary.reviewed, summary.answers) == (5, 4, 8)
    assert summary.votes == {"chosen": 3, "rejected": 1, "tie": 2, "both_bad": 1}
    assert summary.preferred.mean == 0.75  # item 0: all, item 1: half
    assert summary.left.mean == 0.5
    assert (summary.shared, summary.percent) == (3, pytest.approx(2 / 3))
    assert summary.alpha.mean == krippendorffs_alpha([(0, 0), (1, 0), (2, 2)], Level.NOMINAL)
    [ann, bo] = summary.reviewers
    assert (ann.name, ann.answers, ann.median_seconds, ann.total_seconds) == ("ann", 4, 5.0, 31.0)
    assert ann.verdicts == {"chosen": 1, "rejected": 1, "tie": 1, "skip": 1}
    assert (bo.preferred.mean, bo.left.mean) == (1.0, 0.5)
    [both] = summary.pairs
    assert (both.names, both.items) == (("ann", "bo"), 3)
    assert both.kappa == pytest.approx((2 / 3 - 1 / 3) / (1 - 1 / 3))  # by chance 1/3 * 2/3 (first) + 1/3 * 1/3 (tie)
    assert [(each.name, each.items) for each in summary.environments] == [("code", 1), ("math", 3)]


def test_the_answers_of_a_trained_policy_are_compared_with_those_before():
    items = [item(number, names=("before", "after"), agent=None) for number in range(4)]
    summary = summarise(items, [answer(number, "ann", "second") for number in range(3)] + [answer(3, "ann", "first")])
    assert summary.name == "after"
    assert summary.preferred.mean == 0.75
    assert summary.environments == ()


def test_ratings_are_compared_by_item():
    ratings = {"helpfulness": (5, 1), "safety": (5, None)}
    answers = [
        answer(0, "ann", "first", ratings=ratings),
        answer(0, "bo", "first", ratings={"helpfulness": (3, 1)}),
        answer(1, "ann", "first", ratings={"helpfulness": (2, 3)}),
    ]
    helpful, safe = summarise([item(0), item(1)], answers).ratings
    assert (helpful.criterion, helpful.ratings, helpful.units) == ("helpfulness", 6, 2)
    assert helpful.means["chosen"].mean == (4 + 2) / 2
    assert helpful.difference.mean == ((4 - 1) + (2 - 3)) / 2
    assert math.isnan(safe.difference.mean)
    assert set(safe.means) == {"chosen"}


def test_few_or_equal_values_have_no_interval():
    """The bootstrap of one item, or of equal ones, has no width, which would say that nothing is unsure."""
    split = [answer(number, who, side) for number in range(9) for who, side in (("ann", "first"), ("bo", "second"))]
    for num in (1, 4, 9):
        preferred = summarise([item(number) for number in range(num)], split).preferred
        assert (preferred.mean, math.isnan(preferred.low), math.isnan(preferred.high)) == (0.5, True, True)
    rated = [answer(number, "ann", "first", ratings={"safety": (5 - number % 2, 3)}) for number in range(6)]
    [few] = summarise([item(0)], rated).ratings
    assert (few.difference.mean, math.isnan(few.difference.low)) == (2.0, True)
    [enough] = summarise([item(number) for number in range(6)], rated).ratings
    assert enough.difference.low < enough.difference.mean == 1.5 < enough.difference.high
    assert list(enough.means) == ["chosen", "rejected"]


def test_single_responses_have_ratings_alone():
    items = [item(number, names=("response",)) for number in range(2)]
    summary = summarise(items, [answer(0, "ann", "rated", ratings={"safety": (4,)}), answer(1, "ann", "rated")])
    assert (summary.reviewed, summary.answers, summary.votes["response"]) == (1, 2, 0)
    assert summary.ratings[0].means["response"].mean == 4


def test_nothing_reviewed_is_no_error_and_json_has_no_nan(capsys):
    told = json.dumps(summarise([item(0)], []).as_dict(), allow_nan=False)
    assert json.loads(told)["alpha"] == {"mean": None, "low": None, "high": None}
    show_summary(summarise([item(0)], []))
    assert "1 item, 0 reviewed; 0 answers of 0 reviewers" in capsys.readouterr().out


def test_what_is_told_says_when_not_to_believe_it_and_drives_no_terminal(capsys):
    items = [item(number, agent="evil\x1b[31m") for number in range(40)]
    answers = [
        answer(number, "ann", "first" if number % 2 else "second", shown_first=number % 2) for number in range(40)
    ]
    answers = [Answer(**{**vars(each), "shown_first": int(each.verdict is Verdict.SECOND)}) for each in answers]
    answers += [answer(number, "b\x1bo", "first", shown_first=0) for number in range(40)]
    show_summary(summarise(items, answers))
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "pulls people to the left" in shown  # each preferred what stood left
    assert "below 0.667 none should be drawn" in shown
    assert "ann and b\\x1bo" in shown
    assert "evil\\x1b[31m" in shown
