"""What the pages of a review do: show an item, take a verdict, take it back, ask who it is that answers.

Everything is a page with forms and works without script. A form carries the last event on its item when it was shown;
if another has come since (a double Enter, a second window), it is not taken, so no answer counts twice or elsewhere.
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from views.review.answer import Answer
from views.review.answering import IncompleteForm, answer_of, now
from views.review.guard import TooLarge, guarded, read_form
from views.review.pages import done_page, item_page, message_page, name_page, script, style
from views.review.review import Review
from views.review.session import Session, spelled_as_known, tidy_name
from views.review.sides import first_of

TITLES = {403: "Not open", 404: "Nothing here", 413: "Too large"}
PLAIN_WORDS = {
    "Not Found": "There is no such page.",
    "Method Not Allowed": "This page takes no such request.",
}
NOT_LET_IN = (
    "This page opens with the address that dpo review printed when it was started. An address of an earlier start "
    "does not open it any more; the answers that were given are kept."
)
OTHER_FORM = (
    "This form was shown to somebody else, or by an earlier start of dpo review. Nothing was written; go back to the "
    "review to see where it stands."
)


ANSWERED_ELSEWHERE = (
    "This item was answered from another window, or from a page that had been left. Nothing was changed; this is what "
    "stands."
)


def review_app(review: Review) -> ASGIApp:
    """Make the application of a review."""
    pages = _Pages(review)
    routes = [
        Route("/", pages.entrance),
        Route("/next", pages.next_item),
        Route("/item/{number}", pages.item),
        Route("/item/{number}", pages.answer, methods=["POST"]),
        Route("/undo", pages.undo, methods=["POST"]),
        Route("/jump", pages.jump),
        Route("/done", pages.done),
        Route("/reviewer", pages.ask_reviewer),
        Route("/reviewer", pages.take_reviewer, methods=["POST"]),
        Route("/review.css", _style),
        Route("/keys.js", _script),
    ]
    handlers: Mapping[Any, Any] = {HTTPException: pages.problem, Exception: pages.fault}
    return guarded(Starlette(routes=routes, exception_handlers=handlers), port=review.port, refuse=refusal)


def refusal(status: int, text: str, *, go_back: bool = False) -> Response:
    """Make the page of a request that is not answered."""
    return HTMLResponse(message_page(TITLES.get(status, "That did not work"), text, go_back=go_back), status)


class _Pages:
    """The pages; each method answers a request."""

    def __init__(self, review: Review) -> None:
        self._review, self._store, self._keys = review, review.store, review.keys
        self._cookie_name = f"dpo_review_{review.port}"  # cookies know no ports, and two reviews may be open

    # Who is there

    def entrance(self, request: Request) -> Response:
        """Let in who has the address, and take the token out of it."""
        token = request.query_params.get("token")
        if token is None:
            return self.next_item(request)
        session = self._session(request)
        if session is None and not self._keys.opens(token):
            raise HTTPException(403, NOT_LET_IN)
        session = session or Session(reviewer=self._review.reviewer)
        if request.headers.get("sec-fetch-site") == "cross-site":  # whose redirect would come without the cookie
            return self._with_cookie(HTMLResponse(message_page("Review", "One moment.", go_to="/")), session)
        return self._with_cookie(_see("/"), session)

    def ask_reviewer(self, request: Request) -> Response:
        """Ask for a name."""
        self._let_in(request)
        return HTMLResponse(name_page(self._review))

    async def take_reviewer(self, request: Request) -> Response:
        """Take a name; one that has answered already in another case of letters is that one."""
        session = self._let_in(request)
        form = await self._form(request)
        if not self._keys.signed(form.get("signature", ""), "reviewer"):
            raise HTTPException(403, OTHER_FORM)
        name = tidy_name(form.get("name", ""))
        if not name:
            return HTMLResponse(name_page(self._review, "A name is needed."), 400)
        known = await run_in_threadpool(self._store.reviewers)
        return self._with_cookie(_see("/next"), session.named(spelled_as_known(name, known)))

    # Items

    def next_item(self, request: Request) -> Response:
        """Go to the first item without an answer."""
        session = self._let_in(request)
        if not session.reviewer:
            return HTMLResponse(name_page(self._review))
        return self._open_after(session.reviewer, 0)

    def jump(self, request: Request) -> Response:
        """Go to an item by its number."""
        self._let_in(request)
        return _see(f"/item/{self._number(request.query_params.get('item', ''))}")

    def item(self, request: Request) -> Response:
        """Show an item."""
        session = self._let_in(request)
        if not session.reviewer:
            return _see("/")
        return HTMLResponse(item_page(self._review, session, self._number(request.path_params["number"])))

    async def answer(self, request: Request) -> Response:
        """Take an answer, and go on to the next item without one."""
        session = self._let_in(request)
        form = await self._form(request)
        return await run_in_threadpool(self._take_answer, session, self._number(request.path_params["number"]), form)

    async def undo(self, request: Request) -> Response:
        """Take the last answer back, and show its item again."""
        session = self._let_in(request)
        form = await self._form(request)
        event = form.get("event", "")
        if not self._keys.signed(form.get("signature", ""), "undo", session.reviewer, event):
            raise HTTPException(403, OTHER_FORM)
        return await run_in_threadpool(self._take_back, session.reviewer, int(event))

    def done(self, request: Request) -> Response:
        """Show what was answered."""
        session = self._let_in(request)
        if not session.reviewer:
            return _see("/")
        return HTMLResponse(done_page(self._review, session.reviewer))

    # Problems

    def problem(self, request: Request, error: Exception) -> Response:
        """Show a refusal."""
        assert isinstance(error, HTTPException)
        text = PLAIN_WORDS.get(error.detail, error.detail)
        return refusal(error.status_code, text, go_back=self._session(request) is not None)

    def fault(self, request: Request, error: Exception) -> Response:
        """Show that something failed; what, is told on the terminal."""
        self._review.fault(error)
        text = "The terminal in which dpo review runs says why. Nothing was written by this request."
        return refusal(500, text, go_back=True)

    # What they are made of

    def _take_answer(self, session: Session, number: int, form: Mapping[str, str]) -> Response:
        reviewer = session.reviewer
        key = self._review.order(reviewer)[number - 1]
        after, shown = form.get("after", ""), form.get("shown", "")
        if not self._keys.signed(form.get("signature", ""), "answer", reviewer, key, after, shown):
            raise HTTPException(403, OTHER_FORM)
        session = replace(session, shows_differences=form.get("differences") == "on")
        item, seconds = self._store.item(key), max(0.0, time.time() - int(shown) / 1000)
        first = first_of(item, seed=self._store.settings.seed, reviewer=reviewer)
        try:
            answer = answer_of(item, form, reviewer=reviewer, first=first, seconds=seconds)
        except IncompleteForm as error:
            page = item_page(self._review, session, number, notice=str(error))
            return self._with_cookie(HTMLResponse(page, 400), session)
        if not self._store.add_answer(answer, after=int(after)) and not self._is_there(answer):
            page = item_page(self._review, session, number, notice=ANSWERED_ELSEWHERE)
            return self._with_cookie(HTMLResponse(page, 409), session)
        return self._with_cookie(self._open_after(reviewer, number), session)

    def _is_there(self, answer: Answer) -> bool:
        """Say whether the same was answered already: a form that was sent twice."""
        stands = self._store.standing(answer.reviewer).get(answer.item)
        if stands is None:
            return False
        return replace(self._store.answer(stands.number), seconds=answer.seconds, at=answer.at) == answer

    def _take_back(self, reviewer: str, number: int) -> Response:
        self._store.undo(reviewer, number, at=now())  # a form that was sent twice takes nothing more back
        return _see(f"/item/{self._review.number(reviewer, self._store.item_of(number))}")

    async def _form(self, request: Request) -> dict[str, str]:
        try:
            return await read_form(request)
        except TooLarge:
            raise HTTPException(413, "That was more than fits on this page; nothing was written.") from None
        except ClientDisconnect:  # nobody reads what comes now
            raise HTTPException(400, "The form did not arrive whole; nothing was written.") from None

    def _session(self, request: Request) -> Session | None:
        return self._keys.session(request.cookies.get(self._cookie_name, ""))

    def _let_in(self, request: Request) -> Session:
        session = self._session(request)
        if session is None:
            raise HTTPException(403, NOT_LET_IN)
        return session

    def _with_cookie(self, response: Response, session: Session) -> Response:
        response.set_cookie(self._cookie_name, self._keys.cookie(session), httponly=True, samesite="strict", path="/")
        return response

    def _number(self, digits: str) -> int:
        """Read the number of an item; of any more digits than items have, Python would refuse to make one."""
        number = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else 0
        if not 1 <= number <= self._review.total:
            raise HTTPException(404, f"There are items 1 to {self._review.total:,}.")
        return number

    def _open_after(self, reviewer: str, number: int) -> Response:
        found = self._review.open_after(reviewer, number)
        return _see("/done" if found is None else f"/item/{found}")


def _style(request: Request) -> Response:
    return Response(style(), media_type="text/css")


def _script(request: Request) -> Response:
    return Response(script(), media_type="text/javascript")


def _see(place: str) -> Response:
    return RedirectResponse(place, status_code=303)
