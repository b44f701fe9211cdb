"""Reports of the samples in a browser: people can read them on a laptop and a phone, by day and night, by keys."""

import re

import pytest

from tests.made_reports import KINDS, make_of_samples
from tests.page_audit import faults_everywhere

pytestmark = pytest.mark.browser

MAX_BYTES = 1_000_000
"""Of a page, which mail and chat still take."""


@pytest.fixture(scope="module")
def reports(tmp_path_factory, _warm_server):
    """Make a report of each kind."""
    folder = tmp_path_factory.mktemp("samples")
    return make_of_samples(folder, lambda *arguments: _warm_server.run(*arguments, cwd=folder))


@pytest.mark.parametrize("kind", KINDS)
def test_a_report_is_readable(reports, open_page, kind) -> None:
    assert reports[kind].stat().st_size < MAX_BYTES
    page = open_page(reports[kind])
    assert faults_everywhere(page) == []
    assert page.locator("svg").count() > 0
    assert page.get_by_text("nan", exact=True).count() == 0


def test_pairs_are_filtered_by_keys_without_a_script(reports, open_page) -> None:
    page = open_page(reports["pairs"], script=False)
    pairs = page.locator("article.pair")
    assert pairs.count() == 100
    filters = page.get_by_role("group", name="Filters").get_by_role("radio")
    for place in range(filters.count()):
        choice = filters.nth(place)
        choice.press("Space")
        number = int(re.search(r"(\d+)\s*$", choice.locator("xpath=..").inner_text())[1])
        assert pairs.filter(visible=True).count() == number, choice.get_attribute("id")
        if choice.get_attribute("id").endswith("-is-all"):
            assert number == 100
        else:
            assert 0 < number < 100
        page.locator(f"input[name={choice.get_attribute('name')}]").first.press("Space")  # all again


def test_a_fold_opens_by_keys_without_a_script(reports, open_page) -> None:
    page = open_page(reports["run"], script=False)
    fold = page.locator("details").first
    hidden = fold.locator(":scope > :not(summary)").first
    assert not hidden.is_visible()
    fold.locator("summary").press("Enter")
    assert hidden.is_visible()
