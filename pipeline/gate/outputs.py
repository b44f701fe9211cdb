"""Where the reports go: formats to files or to stdout, told before the work where that can't be.

What goes to stdout is the result of the command, so the report for people, which is on stderr, is left out then unless
`human` is asked for too.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pipeline.gate.finding import Finding
from pipeline.gate.found import Hear
from pipeline.gate.report import Report
from pipeline.gate.reports import github, jsonl
from pipeline.gate.reports.formats import OutputFormat, render
from pipeline.gate.rules import Severity
from pipeline.gate.told import no_such
from schemas.atomic import atomic_writer, refuse_unwritable
from schemas.errors import DpoError, UsageError
from schemas.streams import STDIN, as_url
from schemas.terminal import bare_excerpt, path_text

STDOUT = "-"

Write = Callable[[str], None]


class Output(NamedTuple):
    """One format for programs, and where it goes."""

    form: OutputFormat
    path: Path | None = None  # None: stdout


class Outputs(NamedTuple):
    """All that a run has to write."""

    wanted: tuple[Output, ...]
    shows_human: bool

    @property
    def paths(self) -> tuple[Path, ...]:
        """Name the files."""
        return tuple(output.path for output in self.wanted if output.path is not None)


def outputs_told(texts: Sequence[str], *, as_json: bool) -> Outputs:
    """Read `FORMAT[=FILE]` of the command line.

    Raises:
        UsageError: one of them is none, or two of them go to one place.
    """
    wanted = [Output(OutputFormat.JSON)] if as_json else []
    shows_human = False
    for text in texts:
        name, equals, place = text.partition("=")
        if name not in [*OutputFormat]:
            raise UsageError(f"--output-format {bare_excerpt(text)}: {no_such('format', name, [*OutputFormat])}")
        if equals and not place:
            raise UsageError(f"--output-format {bare_excerpt(text)}: expected a file behind the =")
        if name == OutputFormat.HUMAN:
            if equals:
                raise UsageError(f"--output-format {bare_excerpt(text)}: the report for people goes to stderr alone")
            shows_human = True
            continue
        output = Output(OutputFormat(name), Path(place) if equals and place != STDOUT else None)
        if output not in wanted or output.path:
            wanted.append(output)
    to_stdout = [output.form for output in wanted if output.path is None]
    if len(to_stdout) > 1:
        raise UsageError(f"{' and '.join(to_stdout)} can't both go to stdout; name a file: {to_stdout[-1]}=FILE")
    if to_stdout and sys.stdout is None:
        raise UsageError(f"stdout is closed; name a file: {to_stdout[0]}=FILE")
    return Outputs(tuple(wanted), shows_human or not to_stdout)


def refuse_outputs(written: Sequence[Path], read: Iterable[Path]) -> None:
    """Tell before the work that a file can't be written, or would be lost.

    Raises:
        UsageError: a file is written twice, or is read too.
        DpoError: there can be no file.
    """
    inputs = {os.path.realpath(path) for path in read if path != STDIN and not as_url(path)}
    seen: set[str] = set()
    for path in written:
        place = os.path.realpath(path)
        if place in seen and not _is_device(path):
            raise UsageError(f"{path_text(path)}: is to be written twice; name two files")
        if place in inputs and not _is_device(path):
            raise UsageError(f"{path_text(path)}: is an input too, and would be lost")
        seen.add(place)
        refuse_unwritable(path)


@contextmanager
def findings_heard(outputs: Outputs) -> Iterator[Hear]:
    """Give what is to be called with each finding; files of findings are there whole once the block ends."""
    with contextlib.ExitStack() as stack:
        writers = [
            _stdout_writer(stack, outputs) if output.path is None else _file_writer(stack, output.path)
            for output in outputs.wanted
            if output.form is OutputFormat.JSONL
        ]

        def hear(finding: Finding, severity: Severity) -> None:
            if writers:
                line = jsonl.line(finding, severity) + "\n"
                for write in writers:
                    write(line)

        yield hear


def write_reports(outputs: Outputs, report: Report, fail_on: Severity) -> list[str]:
    """Write all formats but those that were written as findings came; give what is wrong where one can't be.

    stdout comes last, as it may be closed.
    """
    problems = []
    whole = [output for output in outputs.wanted if output.form is not OutputFormat.JSONL]
    for output in sorted(whole, key=lambda output: output.path is None):
        try:
            with contextlib.ExitStack() as stack:
                write = _stdout_writer(stack, outputs) if output.path is None else _file_writer(stack, output.path)
                write(render(output.form, report, fail_on=fail_on))
        except DpoError as error:
            problems.append(str(error))
    if any(output.form is OutputFormat.GITHUB for output in outputs.wanted):
        try:
            github.append_summary(report, fail_on)
        except DpoError as error:
            problems.append(str(error))
    return problems


def _file_writer(stack: contextlib.ExitStack, path: Path) -> Write:
    stream = stack.enter_context(atomic_writer(path))

    def write(text: str) -> None:
        stream.write(_encoded(text))

    return write


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


@dataclass
class _Stdout:
    """stdout in UTF-8, whatever the terminal has. Where its reader goes away, the files are still to be written."""

    goes_on: bool
    is_gone: bool = False

    def write(self, text: str) -> None:
        if not self.is_gone:
            with self._while_there():
                sys.stdout.buffer.write(_encoded(text))

    def flush(self) -> None:
        with self._while_there():
            sys.stdout.flush()

    @contextmanager
    def _while_there(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            self.is_gone = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains at exit
            if not self.goes_on:
                raise


def _stdout_writer(stack: contextlib.ExitStack, outputs: Outputs) -> Write:
    stdout = _Stdout(goes_on=bool(outputs.paths))
    stack.callback(stdout.flush)
    return stdout.write


def _is_device(path: Path) -> bool:
    """Tell /dev/null and /dev/stderr, which may be named twice, from files."""
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)  # noqa: PTH110, PTH112, PTH113
