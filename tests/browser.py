"""Chromium for the tests of pages: the system's own, one for all tests; they fail by what a page should not do.

`make test-browser` runs the tests that are marked `browser`. `python -m tests.browser` says which browser they drive,
or what to install.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Dialog, Page, Request, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
"""What Chromium is called by the systems that have it."""

ARGUMENTS = (
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
)
"""Nothing is asked of any host, and nothing is shown but the page."""

LAPTOP = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}
PATIENCE_MS = 15_000
"""How long a step may take; a page of hostile texts is large, and the machine may be busy."""


class NoBrowser(Exception):
    """There is no Chromium; the message says what to install."""


@dataclass
class Watch:
    """What pages of one context did that a page of ours never does."""

    allowed: list[str] = field(default_factory=list)  # what may be asked for: files, and origins with a / behind
    seen: list[str] = field(default_factory=list)

    def of_context(self, context: BrowserContext) -> None:
        """Look at all that its pages do from now on."""
        context.on("dialog", self._dialog)
        context.on("console", lambda message: self._console(message.type, message.text))
        context.on("weberror", lambda error: self.seen.append(f"error: {error.error}"))
        context.on("request", self._request)
        context.on("page", lambda page: page.on("popup", lambda other: self.seen.append(f"window: {other.url}")))

    def _dialog(self, dialog: Dialog) -> None:
        self.seen.append(f"dialog: {dialog.type} {dialog.message}")
        dialog.dismiss()

    def _console(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):  # what the policy of a page forbids is told here
            self.seen.append(f"console: {text}")

    def _request(self, request: Request) -> None:
        address = request.url.partition("#")[0]
        if not any(address == one or (one.endswith("/") and address.startswith(one)) for one in self.allowed):
            self.seen.append(f"request: {request.method} {address}")


OpenPage = Callable[..., Page]


def find_browser() -> str:
    """Give the path of Chromium: what DPO_BROWSER names, or else what the system has.

    Raises:
        NoBrowser: there is none.
    """
    told = os.environ.get("DPO_BROWSER")
    for name in [told] if told else NAMES:
        if path := shutil.which(name):
            return path
    where = f"DPO_BROWSER={told} is no program" if told else f"none of {', '.join(NAMES)} is on the PATH"
    raise NoBrowser(
        f"the browser tests need Chromium, and {where}; install the system's package chromium "
        "(apt-get install chromium), or name a Chromium by DPO_BROWSER"
    )


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Start Chromium; it is ended after the last test."""
    path = find_browser()
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # root has none
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=[*ARGUMENTS, *sandbox])
        yield started
        started.close()


@pytest.fixture
def watch() -> Watch:
    """Give what this test's pages do; the test fails at its end where there is anything."""
    return Watch()


@pytest.fixture
def open_page(browser: Browser, watch: Watch) -> Iterator[OpenPage]:
    """Open a file or an address as `open_page(place, phone=False, dark=False, script=True)`, each in a new context.

    A file is opened without a network. Ends with a failure where a page opened a dialog or a window, wrote an error to
    the console (as what its policy forbids does), or asked for anything but itself.
    """
    contexts = []

    def opened(place: Path | str, *, phone: bool = False, dark: bool = False, script: bool = True) -> Page:
        context = browser.new_context(
            viewport=PHONE if phone else LAPTOP,
            color_scheme="dark" if dark else "light",
            java_script_enabled=script,
            accept_downloads=True,
            offline=isinstance(place, Path),
        )
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        address = place.resolve().as_uri() if isinstance(place, Path) else place
        watch.allowed.append(address if isinstance(place, Path) else "/".join(address.split("/")[:3]) + "/")
        watch.of_context(context)
        page = context.new_page()
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert watch.seen == []


def main() -> None:
    """Say which browser the tests drive, or end with what to install."""
    try:
        sys.stdout.write(f"browser tests drive {find_browser()}\n")
    except NoBrowser as missing:
        sys.exit(str(missing))


if __name__ == "__main__":
    main()
