"""`dpo review`: a local page on which people judge pairs."""

from pathlib import Path
from typing import Annotated

import typer

from schemas.errors import DpoError


def review_command(
    places: Annotated[list[Path], typer.Argument(metavar="PAIRS|SAMPLES", help="What to look at.", show_default=False)],
) -> None:
    """A local page on which people judge pairs.

    Example: dpo review dpo_train.jsonl
    """
    raise DpoError("under construction")
