"""`dpo review` as a process that tests start, kill and start again, and a person who answers on its pages by keys."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, expect

ROOT = Path(__file__).resolve().parent.parent
ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+/\S*")
START_SECONDS = 60
UNSEEN_MS = 260
MOST_MS = 20_000  # the next item may have a megabyte, on a busy machine


class ReviewServer(AbstractContextManager["ReviewServer"]):
    """A server that runs from `start` to `kill`, or to the end of a `with` block."""

    def __init__(self, *arguments: object, cwd: Path) -> None:
        self.cwd = cwd
        self._command = [sys.executable, "-m", "cli", "review", *map(str, arguments)]
        self._process: subprocess.Popen[bytes] | None = None
        self.address = ""

    def start(self) -> str:
        """Start it, always by the same command, and give the address that it printed."""
        said = self.cwd / "review.out"
        with said.open("wb") as output:
            environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
            self._process = subprocess.Popen(
                self._command, cwd=self.cwd, env=environment, stdout=output, stderr=subprocess.STDOUT
            )
        until = time.monotonic() + START_SECONDS
        while not (found := ADDRESS.search(said.read_text())):
            assert self._process.poll() is None, said.read_text()
            assert time.monotonic() < until, said.read_text()
            time.sleep(0.02)
        self.address = found[0]
        return self.address

    @property
    def origin(self) -> str:
        """Give the address without what stands behind the port."""
        return self.address.partition("/?")[0]

    def kill(self) -> None:
        """End it by SIGKILL, which no program hears."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> "ReviewServer":
        self.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)  # as Ctrl-C does
            self._process.wait(20)


def introduce(page: Page, name: str) -> None:
    """Write one's name, by keys, on the page that asks for it."""
    expect(page.locator("#name")).to_be_focused()
    page.keyboard.type(name)
    page.keyboard.press("Enter")
    expect(page.locator("#progress")).to_contain_text(name)


def press(page: Page, key: str, *, done: int) -> None:
    """Press a key that answers an item, and wait until the page says that so many are answered."""
    look_at(page)
    page.keyboard.press(key)
    expect_done(page, done)


def look_at(page: Page) -> None:
    """Look at an item for as long as a page takes no verdict, so that nobody judges what nobody has seen."""
    expect(page.locator("html")).to_have_attribute("data-keys", "ready")
    page.wait_for_timeout(UNSEEN_MS)


def expect_done(page: Page, done: int) -> None:
    """Wait until the page says that so many items are answered: the head of an item, or the page at the end."""
    shown = page.locator("#progress, p[role=status]").first
    expect(shown).to_contain_text(re.compile(rf"(^|answered )({done} of|all) "), timeout=MOST_MS)


def prompt_of(page: Page) -> str:
    """Read the prompt of the item that is shown."""
    return page.locator(".prompt .text").inner_text()


def sides_of(page: Page) -> list[str]:
    """Read both responses, A first, as far as they are shown."""
    return page.locator(".side .text").all_inner_texts()
