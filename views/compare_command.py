"""`dpo compare`: two collections of rollouts of the same tasks side by side."""

from pathlib import Path
from typing import Annotated

import typer

from schemas.errors import DpoError


def compare_command(
    places: Annotated[list[Path], typer.Argument(metavar="BEFORE AFTER", help="What to look at.", show_default=False)],
) -> None:
    """Two collections of rollouts of the same tasks side by side.

    Example: dpo compare before.jsonl after.jsonl
    """
    raise DpoError("under construction")
