"""`dpo review`: a local page on which people judge pairs."""

import contextlib
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from schemas.errors import UsageError
from schemas.extras import needing_extra

if TYPE_CHECKING:
    from views.review.store import Store

BEGIN = "A review that begins"
OUTCOME = "What came of a review"


def review_command(
    place: Annotated[
        Path,
        typer.Argument(
            metavar="PAIRS|SAMPLES|REVIEW",
            help="Pairs in any form that dpo train reads, answers of dpo eval --generate, samples.jsonl of a run; or "
            "the .sqlite file of a review, to go on with it.",
            show_default=False,
        ),
    ],
    store: Annotated[
        Path | None,
        typer.Option(
            "--store", metavar="FILE", help="Where the answers are kept.", show_default="PAIRS.review.sqlite, beside it"
        ),
    ] = None,
    reviewer: Annotated[
        str | None, typer.Option("--reviewer", metavar="NAME", help="Who reviews.", show_default="asked on the page")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0: a free one.")] = 0,
    should_open: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    ratings: Annotated[
        bool, typer.Option("--ratings/--no-ratings", help="Also ask for 1 to 5 for each of two responses.")
    ] = True,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Judge so many items; a higher one later adds some.", rich_help_panel=BEGIN),
    ] = None,
    order: Annotated[
        Literal["file", "random"] | None,
        typer.Option(
            help="Order of the items, and which ones --limit takes; random is another one for each reviewer.",
            show_default="random",
            rich_help_panel=BEGIN,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Of the order, and of which response stands left.", show_default="0", rich_help_panel=BEGIN),
    ] = None,
    should_agree: Annotated[
        bool, typer.Option("--agreement", help="Show what people said and how far they agree.", rich_help_panel=OUTCOME)
    ] = False,
    export: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write what people said, or for argilla a folder.", rich_help_panel=OUTCOME),
    ] = None,
    form: Annotated[
        Literal["binary", "preference", "labels", "argilla", "label-studio"],
        typer.Option(
            "--format",
            metavar="FORM",
            help="Pairs (binary or preference), labels for collect-pairs, or the items for argilla or label-studio.",
            rich_help_panel=OUTCOME,
        ),
    ] = "binary",
    consensus: Annotated[
        Literal["majority", "unanimous", "any"],
        typer.Option(help="Of several people: when they count as one.", rich_help_panel=OUTCOME),
    ] = "majority",
    notes: Annotated[
        bool, typer.Option("--notes/--no-notes", help="Write people's notes into pairs.", rich_help_panel=OUTCOME)
    ] = True,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print agreement or account as JSON on stdout.", rich_help_panel=OUTCOME)
    ] = False,
) -> None:
    """A local page on which people judge pairs: blind, with the keyboard, several reviewers; Ctrl-C ends it.

    Every answer is on disk before the next item is shown; the same command goes on where it was.
    Example: dpo review dpo_train.jsonl --limit 50
    """
    if should_agree or export is not None:
        from views.review.outcome import Outcome, tell_outcome

        wanted = Outcome(should_agree, export, form, consensus, notes=notes, as_json=as_json)
        tell_outcome(place, wanted, store_path=store)
        return
    told = {
        "--json": as_json,
        "--format": form != "binary",
        "--consensus": consensus != "majority",
        "--no-notes": not notes,
    }
    if names := [name for name, is_told in told.items() if is_told]:
        raise UsageError(f"{', '.join(names)}: about what came of a review, so it needs --agreement or --export")
    with needing_extra("dpo review", "review"):
        from views.review.begin import Wanted, open_review
        from views.review.serving import Served, serve
        from views.review.session import spelled_as_known, tidy_name

    name = tidy_name(reviewer or "")
    if reviewer is not None and not name:
        raise UsageError("--reviewer: is empty; give a name, or leave it out to be asked on the page")
    begun = open_review(place, store_path=store, wanted=Wanted(limit=limit, seed=seed, order=order))
    path = begun.store.path
    with contextlib.closing(begun.store):
        _tell(*begun.notes)
        name = spelled_as_known(name, begun.store.reviewers())
        serve(
            begun.store,
            Served(rates=ratings, reviewer=name, export=f"{_command(path)} --export reviewed.jsonl"),
            port=port,
            opened=lambda address, for_once: _tell_opened(begun.store, address, for_once if should_open else ""),
        )
        _tell_ended(begun.store)


def _tell_opened(store: "Store", address: str, to_open: str) -> None:
    from schemas.terminal import counted, path_text

    _tell(
        f"{counted(len(store.keys), 'item')} to judge; answers are kept in {path_text(store.path)}",
        f"open {address}",
        "Ctrl-C ends the review; the same command goes on with it",
    )
    if to_open:
        import webbrowser

        webbrowser.open(to_open)


def _tell_ended(store: "Store") -> None:
    """Say how far everyone came, and what comes next."""
    total = len(store.keys)
    done = [f"{name} {num:,} of {total:,}" for name, num in store.reviewers().items()]
    _tell(f"ended; answered: {', '.join(done)}" if done else "ended; nothing was answered yet")
    _tell(f"go on with: {_command(store.path)}")
    if done:
        _tell(f"export with: {_command(store.path)} --export reviewed.jsonl")


def _command(path: Path) -> str:
    return f"dpo review {shlex.quote(str(path))}"


def _tell(*lines: str) -> None:
    from schemas.terminal import printable, stderr_console

    for line in lines:
        stderr_console().print(printable(line), soft_wrap=True)
