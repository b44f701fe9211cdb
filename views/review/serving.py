"""A review on a port of this machine, from the first page to Ctrl-C."""

import contextlib
import signal
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType

import uvicorn

from schemas.errors import DpoError
from schemas.terminal import harmless, stderr_console
from views.review.review import Review
from views.review.server import review_app
from views.review.store import Store

ADDRESS = "127.0.0.1"
LAST_REQUESTS_SECONDS = 5
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Served:
    """How a review is shown."""

    rates: bool
    reviewer: str
    export: str


def serve(store: Store, served: Served, *, port: int, opened: Callable[[str, str], None]) -> None:
    """Serve a review until Ctrl-C or SIGTERM.

    `opened` is told two addresses once the page can be opened: one to print, and one that lets a single browser in.

    Raises:
        DpoError: the port is not free.
    """
    with _listening(port) as listener:
        number = listener.getsockname()[1]
        review = Review(
            store=store,
            port=number,
            rates=served.rates,
            reviewer=served.reviewer,
            export=served.export,
            fault=_tell_fault,
        )
        config = uvicorn.Config(
            review_app(review),
            log_config=None,
            log_level="critical",  # faults are told by ours, in words that a terminal can't obey
            access_log=False,  # addresses hold the token
            lifespan="off",
            ws="none",
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=LAST_REQUESTS_SECONDS,
        )
        base = f"http://{ADDRESS}:{number}/?token="
        _run(
            uvicorn.Server(config),
            listener,
            lambda: opened(base + review.keys.token, base + review.keys.token_for_once()),
        )


def _run(server: uvicorn.Server, listener: socket.socket, opened: Callable[[], None]) -> None:
    """Run a server in a thread of its own: in the main one it would answer signals by itself, with their exit codes."""
    ended = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        ended.set()

    def run() -> None:
        try:
            server.run(sockets=[listener])
        finally:
            ended.set()

    before = {number: signal.signal(number, end) for number in ENDING if signal.getsignal(number) != signal.SIG_IGN}
    thread = threading.Thread(target=run, name="review")
    thread.start()
    try:
        opened()
        ended.wait()
    finally:
        server.should_exit = True
        thread.join()
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with contextlib.closing(listener):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the same port again at once after an end
        try:
            listener.bind((ADDRESS, port))
            listener.listen()
        except OSError as error:
            raise DpoError(
                f"port {port}: can't be listened on: {error.strerror}; name another with --port, or leave it out for a "
                "free one"
            ) from error
        yield listener


def _tell_fault(error: BaseException) -> None:
    """Tell a failed request on the terminal: what a user can mend in one line, a fault of ours with where it was."""
    text = f"error: {error}" if isinstance(error, DpoError) else "".join(traceback.format_exception(error))
    for line in text.rstrip().split("\n"):
        stderr_console().print(harmless(line), soft_wrap=True)
