"""`dpo report`: a page that shows data, a run or an evaluation."""

from pathlib import Path
from typing import Annotated

import typer

from schemas.errors import DpoError


def report_command(
    places: Annotated[
        list[Path], typer.Argument(metavar="PAIRS|ROLLOUTS|RUN", help="What to look at.", show_default=False)
    ],
) -> None:
    """A page that shows data, a run or an evaluation.

    Example: dpo report rollouts.jsonl -o report.html
    """
    raise DpoError("under construction")
