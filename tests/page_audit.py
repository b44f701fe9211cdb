"""What is wrong with a page, whichever it is: what could run, what is not told to who can't see, what can't be read."""

from pathlib import Path

from playwright.sync_api import Page

from tests.browser import LAPTOP, PHONE

AUDIT = (Path(__file__).parent / "page_audit.js").read_text(encoding="utf-8")


def faults_of(page: Page, *, served: bool = False) -> list[str]:
    """List what is wrong with the page that is open.

    Args:
        page: As it is shown now: what is folded has no contrast.
        served: A server's page may have forms, and the server's own style and script; a file may have none.
    """
    assert page.viewport_size is not None
    options = {"width": page.viewport_size["width"], "isServed": served}
    faults: list[str] = page.evaluate(AUDIT, options)
    return faults


def faults_everywhere(page: Page, *, served: bool = False) -> list[str]:
    """List what is wrong with the page on a laptop and a phone, by day and night, and with all folds open."""
    found = []
    for size in (LAPTOP, PHONE):
        page.set_viewport_size(size)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            found += [f"{size['width']}, {scheme}: {fault}" for fault in faults_of(page, served=served)]
    page.eval_on_selector_all("details", "all => all.forEach((fold) => { fold.open = true })")
    return found + [f"folds open: {fault}" for fault in faults_of(page, served=served)]
