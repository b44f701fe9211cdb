"""`dpo eval`: measure a policy on preference pairs."""

from pathlib import Path
from typing import Annotated

import typer

from schemas.errors import DpoError


def eval_command(
    places: Annotated[list[Path], typer.Argument(metavar="MODEL PAIRS", help="What to look at.", show_default=False)],
) -> None:
    """Measure a policy on preference pairs.

    Example: dpo eval runs/x dpo_val.jsonl
    """
    raise DpoError("under construction")
