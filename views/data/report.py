"""`dpo report PAIRS|ROLLOUTS`: a page on data, whichever of the two it is.

Example: data_report([Path("rollouts.jsonl")], Path("report.html"), DataOptions())
"""

from collections.abc import Iterator, Sequence
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any

from pipeline.gate.run import files_of
from schemas.atomic import atomic_writer, refuse_unwritable
from schemas.errors import InputError, UsageError
from schemas.forms import DEFAULT_KEYS, form_of
from schemas.lines import LineError, decode_tolerant, read_lines
from schemas.rows import is_read_by_lines, read_rows
from schemas.streams import STDIN, as_url, place_text
from schemas.terminal import path_text
from schemas.validation import Kind, detect_kind, shape_of
from views.data.options import DataOptions

NUM_TELLING_ROWS = 200


class DataKind(StrEnum):
    """What the rows of files are."""

    ROLLOUTS = "rollouts"
    PAIRS = "pairs"


class NeitherError(InputError):
    """A file holds neither rollouts nor pairs."""


def data_report(places: Sequence[Path], output: Path | None, options: DataOptions) -> dict[str, Any]:
    """Write the page of a report on rollouts or pairs, and give all its numbers; without an output, only those.

    Raises:
        InputError: a file can't be read, or holds neither rollouts nor pairs.
        UsageError: the files hold both, or the output is one of them.
        DpoError: the page can't be written, or a process died.
    """
    if STDIN in places:
        raise UsageError("-: a report reads its input more than once; write it to a file first")
    paths = files_of(places)
    if output is not None:
        _refuse_output(output, paths)
    kind, paths = kind_of_files(paths, named=places)
    if kind is DataKind.ROLLOUTS:
        from views.data.rollout_data import read_rollouts

        rollouts = read_rollouts(places, options)
        if rollouts.attrition.rows and not rollouts.attrition.parsed:
            met = "; ".join(rollouts.examples.values())
            raise InputError(f"no row is a rollout ({met}); tasks without answers need gym eval run --input FILE first")
        if output is not None:
            from views.data.rollout_page import rollout_page

            _write(output, rollout_page(rollouts, options))
        return {"kind": kind.value, **_advice_of_rollouts(rollouts), **rollouts.as_dict()}
    from views.data.pair_data import read_pair_files

    pairs = read_pair_files(paths, options)
    if output is not None:
        from views.data.pair_page import pair_page

        _write(output, pair_page(pairs, options))
    from views.data.advice import pair_advice

    return {"kind": kind.value, "advice": _as_dicts(pair_advice(pairs.figures)), **pairs.as_dict()}


def kind_of_files(paths: Sequence[Path], *, named: Sequence[Path]) -> tuple[DataKind, list[Path]]:
    """Say what files hold, by their first rows, and which to read; files without rows count as pairs.

    Of a folder, files that hold neither rollouts nor pairs are passed over, as long as others do.

    Raises:
        InputError: one can't be read, or holds neither.
        UsageError: some hold rollouts, others pairs.
    """
    found: dict[DataKind, Path] = {}
    read, other = [], None
    for path in paths:
        try:
            kind = _kind_of_file(path)
        except NeitherError as error:
            if path in named:
                raise
            other = other or error
            continue
        read.append(path)
        if kind is not None:
            found.setdefault(kind, path)
    if other is not None and not found:
        raise other
    if len(found) > 1:
        raise UsageError(
            f"{place_text(found[DataKind.ROLLOUTS])}: holds rollouts, and {place_text(found[DataKind.PAIRS])} pairs; "
            "a report is on one of the two, so name only those"
        )
    return next(iter(found), DataKind.PAIRS), read


def _kind_of_file(path: Path) -> DataKind | None:
    other: object = None
    num_rows = 0
    for row in _first_rows(path):
        num_rows += 1
        if detect_kind(row) is Kind.ROLLOUT:
            return DataKind.ROLLOUTS
        if form_of(row, DEFAULT_KEYS) is not None:
            return DataKind.PAIRS
        other = row if other is None else other
    if num_rows:
        got = "rows that are no JSON" if other is None else shape_of(other)
        raise NeitherError(f"{place_text(path)}: got {got}, expected rollouts of NeMo Gym, or preference pairs")
    return None


def _first_rows(path: Path) -> Iterator[object]:
    """Give the first rows; None stands for one that is no JSON, and of rollouts those with NaN are JSON too."""
    if not is_read_by_lines(path):
        for _, row in islice(read_rows(path), NUM_TELLING_ROWS):
            yield None if isinstance(row, LineError) else row
        return
    for line in islice(read_lines(path), NUM_TELLING_ROWS):
        try:
            yield decode_tolerant(line.content)
        except LineError:
            yield None


def _refuse_output(output: Path, paths: Sequence[Path]) -> None:
    if output.is_file() and any(not as_url(path) and path.exists() and path.samefile(output) for path in paths):
        raise UsageError(f"{path_text(output)}: is an input too; name another file")
    refuse_unwritable(output)


def _write(output: Path, page: str) -> None:
    with atomic_writer(output) as stream:
        stream.write(page.encode("utf-8", "backslashreplace"))


def _advice_of_rollouts(data: Any) -> dict[str, Any]:
    from views.data.advice import rollout_advice
    from views.data.flow import flow_dict

    advice = rollout_advice(data.inspection, data.attrition, data.figures)
    return {"advice": _as_dicts(advice), "attrition": flow_dict(data.attrition)}


def _as_dicts(advice: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"seen": seen, "remedy": remedy} for seen, remedy in advice]
