"""What stands before every page: who may ask, how much they may send, and what browsers are told of each answer.

The server listens on 127.0.0.1 alone, but any page that a browser has open can send requests there. So the Host header
must name this server (else a name of the attacker's could be made to point here, and its pages would be of one origin
with these), what changes something must come from a page of this server, and only who has the cookie sees anything.
"""

from collections.abc import Callable
from urllib.parse import parse_qsl

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 1 << 17
MAX_FIELDS = 40

HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # not no-referrer: with that, browsers send no Origin along with a form, which is what forms are told by
    "referrer-policy": "same-origin",
    "cache-control": "no-store",  # going back shows where things stand, not where they stood
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}

Refuse = Callable[[int, str], Response]


class TooLarge(ValueError):
    """A form is larger than any that these pages hold."""


def guarded(app: ASGIApp, *, port: int, refuse: Refuse) -> ASGIApp:
    """Put the checks before an application; `refuse` makes the page of a refusal from a status and a sentence."""
    hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}

    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        problem = _problem(scope, hosts)
        answer: ASGIApp = refuse(403, problem) if problem else app
        await answer(scope, receive, send_with_headers)

    return checked


def _problem(scope: Scope, hosts: set[str]) -> str:
    """Say why a request is refused; nothing where it is not."""
    headers = Headers(scope=scope)
    if headers.getlist("host") not in [[host] for host in hosts]:
        return "This page is open at 127.0.0.1 and localhost only, with the port that dpo review printed."
    if scope["method"] in ("GET", "HEAD"):
        return ""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    same_origin = origin == f"http://{headers['host']}" if origin is not None else site == "same-origin"
    if not same_origin or site not in (None, "same-origin"):
        return "This form was sent from another page."
    return ""


async def read_form(request: Request) -> dict[str, str]:
    """Read the fields of a form.

    Raises:
        TooLarge: it is larger than any form of these pages.
    """
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise TooLarge
    try:
        return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=MAX_FIELDS))
    except ValueError:
        raise TooLarge from None
