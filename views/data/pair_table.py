"""What the report knows of every pair: a slim row of numbers, whether it is from a file or could be made of rollouts.

Texts are not in it: of a file of 100,000 pairs only those that are shown are ever held.
"""

import contextlib
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.gate.pair.keys import key_of
from pipeline.gate.pair.view import view_of
from pipeline.gate.whole.figures import is_number
from pipeline.pairing import Pairing
from pipeline.scan import IS_TRUNCATED
from pipeline.table import Rollouts
from schemas.errors import DpoError, UsageError
from schemas.forms import DEFAULT_KEYS, Form, form_of
from schemas.lines import LineError
from schemas.preference import PreferencePair, pairs_of_rows
from schemas.rows import NumberedRow, read_rows
from schemas.streams import place_text
from schemas.terminal import bare_excerpt

NO_ENVIRONMENT = "(no agent named)"
MOST_NAME = 200
"""Characters of an agent's name that it is known by."""
MOST_NAMES = 10
MOST_TELLING_ROWS = 1_000
"""At the beginning of a file, where one is looked for that tells the form of all."""

COLUMNS = {
    "file": "i",
    "row": "q",  # its line, or its place in a table
    "prompt": "Q",  # equal for equal prompts
    "chosen": "Q",  # equal for equal responses to one prompt
    "rejected": "Q",
    "environment": "i",  # position in the names
    "chosen_length": "q",  # characters
    "rejected_length": "q",
    "chosen_reward": "d",  # nan: none
    "rejected_reward": "d",
    "chosen_truncated": "b",
    "rejected_truncated": "b",
}
DTYPES = {"b": pl.Int8, "i": pl.Int32, "q": pl.Int64, "Q": pl.UInt64, "d": pl.Float64}


@dataclass(frozen=True)
class PairTable:
    """Pairs as numbers; `frame` has COLUMNS, rewards null where there is none, and margin."""

    frame: pl.DataFrame
    environments: list[str]
    files: list[Path] = field(default_factory=list)
    forms: list[Form | None] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.frame)


def table_of_files(paths: Sequence[Path], advance: Callable[[int], None] = lambda amount: None) -> PairTable:
    """Read the pairs of files, one after another; rows that are no pairs are passed over, for the gate tells of them.

    Raises:
        InputError: a file can't be read.
    """
    columns: dict[str, Any] = {name: array(code) for name, code in COLUMNS.items()}
    names: dict[str, int] = {}
    forms = [form_of_file(path) for path in paths]
    for number, (path, form) in enumerate(zip(paths, forms, strict=True)):
        if form is None:
            continue
        at = [0]
        rows = _watched(read_rows(path, advance), at)
        pairs = pairs_of_rows(rows, shown=place_text(path), form=form)
        with contextlib.suppress(DpoError):  # raised behind the last row, where some are no pairs
            for pair in pairs:
                environment = names.setdefault(environment_name(pair.environment), len(names))
                values = (number, at[0], *_figures(pair, environment))
                for column, value in zip(columns.values(), values, strict=True):
                    column.append(value)
    series = [pl.Series(name, column, dtype=DTYPES[COLUMNS[name]]) for name, column in columns.items()]
    return PairTable(_with_margin(pl.DataFrame(series)), list(names), list(paths), forms)


def table_of_rollouts(rollouts: Rollouts, pairing: Pairing) -> PairTable:
    """Give the same of the pairs that could be made of rollouts."""
    ranked, pairs = rollouts.ranked, pairing.pairs
    sides: dict[str, pl.Series] = {}
    for side in ("chosen", "rejected"):
        places = pairs[side]
        sides |= {
            side: ranked["response"].gather(places),
            f"{side}_length": ranked["num_chars"].gather(places),
            f"{side}_reward": ranked["reward"].gather(places),
            f"{side}_truncated": ranked["flags"].gather(places).cast(pl.Int64) & IS_TRUNCATED,
        }
    told = {"prompt": pairs["group"], "environment": ranked["agent"].gather(pairs["chosen"])}
    frame = pl.DataFrame(told | sides).with_columns(file=0, row=pl.lit(0))
    return PairTable(_with_margin(frame.select(*COLUMNS)), [environment_name(agent) for agent in rollouts.agents])


def environment_name(agent: str | None) -> str:
    """Give the name that an environment has on pages; agents name them."""
    return agent[:MOST_NAME] if agent else NO_ENVIRONMENT


def refuse_unknown(environment: str | None, names: Sequence[str]) -> None:
    """Tell that nothing is of the environment that was asked for.

    Raises:
        UsageError: none of the names is it.
    """
    if environment is not None and environment[:MOST_NAME] not in names:
        known = ", ".join(map(bare_excerpt, names[:MOST_NAMES])) or "none"
        raise UsageError(f"--environment {bare_excerpt(environment)}: nothing is of it; there are: {known}")


def form_of_file(path: Path) -> Form | None:
    """Tell the form of a file's pairs by its first row that has one; None where none has."""
    rows = islice(read_rows(path), MOST_TELLING_ROWS)
    forms = (form_of(row, DEFAULT_KEYS) for _, row in rows if not isinstance(row, LineError))
    return next((form for form in forms if form is not None), None)


def _watched(rows: Iterable[NumberedRow], at: list[int]) -> Iterator[NumberedRow]:
    """Keep the number of the row that a pair is made of."""
    for number, row in rows:
        at[0] = number
        yield number, row


def _figures(pair: PreferencePair, environment: int) -> tuple[float, ...]:
    view = view_of({}, pair)
    prompt = view.prompt_key
    beginning = prompt.to_bytes(8)
    return (
        prompt,
        key_of(beginning + view.chosen_bytes),
        key_of(beginning + view.rejected_bytes),
        environment,
        len(view.chosen),
        len(view.rejected),
        float(pair.chosen_reward) if is_number(pair.chosen_reward) else float("nan"),
        float(pair.rejected_reward) if is_number(pair.rejected_reward) else float("nan"),
        pair.chosen_truncated,
        pair.rejected_truncated,
    )


def _with_margin(frame: pl.DataFrame) -> pl.DataFrame:
    rewards = [pl.col(f"{side}_reward").fill_nan(None) for side in ("chosen", "rejected")]
    most = sys.float_info.max
    margin = (rewards[0] - rewards[1]).clip(-most, most)
    return frame.with_columns(*rewards, margin=margin)
