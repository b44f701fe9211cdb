"""`dpo report`: a page that shows data, a run, several runs or an evaluation."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.settings import Format
from schemas.errors import UsageError
from schemas.extras import needing_extra
from views.data.options import DataOptions, Sort

DATA = "Rollouts and pairs"
USUAL = DataOptions()


def report_command(
    places: Annotated[
        list[Path],
        typer.Argument(
            metavar="PLACE...",
            help="Rollouts or preference pairs; the folder of a run, or of several to compare; that of an evaluation.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The page.",
            show_default="report.html, in the folder of the run or evaluation, else here",
        ),
    ] = None,
    plots: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Of runs: where each plot goes as SVG and PNG too.",
            show_default="plots/ in the run's folder",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the numbers behind the page as JSON; a page comes with -o only.")
    ] = False,
    num_pairs: Annotated[
        int,
        typer.Option("--pairs", help="Pairs to show side by side; of rollouts, at most 8 tasks.", rich_help_panel=DATA),
    ] = USUAL.num_pairs,
    sort: Annotated[Sort, typer.Option(help="Which of them, and in what order.", rich_help_panel=DATA)] = USUAL.sort,
    environment: Annotated[
        str | None, typer.Option(metavar="NAME", help="Show those of one environment.", rich_help_panel=DATA)
    ] = USUAL.environment,
    min_margin: Annotated[
        float | None, typer.Option(help="Show pairs with at least this reward margin.", rich_help_panel=DATA)
    ] = USUAL.min_margin,
    max_margin: Annotated[
        float | None, typer.Option(help="Show pairs with at most this reward margin.", rich_help_panel=DATA)
    ] = USUAL.max_margin,
    seed: Annotated[int, typer.Option(help="Of the choice of what is shown.", rich_help_panel=DATA)] = USUAL.seed,
    threshold: Annotated[
        float, typer.Option(help="Least reward of a rollout that passes.", rich_help_panel=DATA)
    ] = USUAL.threshold,
    form: Annotated[
        Format, typer.Option("--format", help="What pairs of rollouts would be written as.", rich_help_panel=DATA)
    ] = USUAL.form,
    num_workers: Annotated[
        int | None, typer.Option("--workers", help="Processes that read rollouts.", rich_help_panel=DATA)
    ] = USUAL.num_workers,
    title: Annotated[str | None, typer.Option(help="Heading of the page.", rich_help_panel=DATA)] = USUAL.title,
) -> None:
    """Make a page, in one file, of rollouts, preference pairs, a training, several of them, or an evaluation.

    Prints the page's path. Example: dpo report runs/first
    """
    options = DataOptions(
        num_pairs=num_pairs,
        sort=sort,
        environment=environment,
        min_margin=min_margin,
        max_margin=max_margin,
        seed=seed,
        threshold=threshold,
        form=form,
        num_workers=num_workers,
        title=title,
    )
    with needing_extra("dpo report", "report"):
        numbers, page = _made(places, output, plots, options, as_json=as_json)
    typer.echo(json.dumps(numbers, allow_nan=False) if as_json else page)


def _made(
    places: list[Path], output: Path | None, plots: Path | None, options: DataOptions, *, as_json: bool
) -> tuple[Mapping[str, Any], Path]:
    """Make the page, where one is wanted; give the numbers behind it, and where it is."""
    from views.report_places import Kind, asked_for, refuse_foreign

    asked = asked_for(places, output)
    page = None if as_json and output is None else asked.page
    if page is not None:
        refuse_foreign(page)
    if plots is not None and asked.kind not in (Kind.RUN, Kind.RUNS):
        raise UsageError("--plots is for runs")
    if asked.kind is Kind.DATA:
        from views.data.report import data_report

        return data_report(asked.places, page, options), asked.page
    if plots is not None and page is None:
        raise UsageError("--plots goes with a page, and --json makes one with -o only; name it")
    if options != USUAL:
        raise UsageError(f"options for rollouts and pairs were given (see dpo report --help), and {asked.named}")
    folder = plots or asked.plots_folder
    match asked.kind:
        case Kind.RUN:
            return _run(asked.places[0], page, folder), asked.page
        case Kind.RUNS:
            return _runs(asked.places, page, folder), asked.page
        case _:
            return _evaluation(asked.places[0], page), asked.page


def _run(place: Path, page: Path | None, plots_folder: Path | None) -> Mapping[str, Any]:
    from views.run.folder import read_run
    from views.run.numbers import json_of

    run = read_run(place)
    if page is not None:
        from views.run.page import write_run_page

        write_run_page(run, page, plots_folder=plots_folder)
    return json_of(run)


def _runs(places: tuple[Path, ...], page: Path | None, plots_folder: Path | None) -> Mapping[str, Any]:
    from views.run.folder import read_run
    from views.run.names import named_runs
    from views.run.numbers import json_of_several

    runs = {name: read_run(place) for name, place in named_runs(places).items()}
    if page is not None:
        from views.run.several import write_runs_page

        write_runs_page(runs, page, plots_folder=plots_folder)
    return json_of_several(runs)


def _evaluation(place: Path, page: Path | None) -> Mapping[str, Any]:
    from views.report_places import read_evaluation

    numbers = read_evaluation(place)
    if page is not None:
        from views.evaluation.page import write_evaluation_page

        write_evaluation_page(place, page)
    return numbers
