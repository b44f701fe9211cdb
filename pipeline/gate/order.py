"""Carrying out what `dpo validate` was asked for: checking the files, writing the reports and the baseline."""

import signal
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from pipeline.gate.baseline import Collected, read_baseline, write_baseline
from pipeline.gate.listing import what_is_missing
from pipeline.gate.outputs import Outputs, findings_heard, refuse_outputs, write_reports
from pipeline.gate.report import Report
from pipeline.gate.reports.human import print_report
from pipeline.gate.rules import Rule, Severity
from pipeline.gate.run import Machinery, check_files, files_of
from pipeline.gate.settings import GateSettings
from pipeline.gate.told import Told
from schemas.errors import DpoError, InputError
from schemas.terminal import counted, path_text, stderr_console


@dataclass(frozen=True)
class Order:
    """What the command was asked for, command line and configuration together."""

    files: tuple[Path, ...]
    settings: GateSettings
    told: Told
    outputs: Outputs
    config: Path | None  # that was used
    baseline_to_write: Path | None
    max_findings: int  # of each file, for people

    @property
    def baseline(self) -> Path | None:
        """Name the file of the known findings; all are looked at where a new one is to be written."""
        return None if self.baseline_to_write else self.told.baseline

    @property
    def fail_on(self) -> Severity:
        """Give the least severity that fails."""
        return self.told.fail_on or Severity.ERROR


def carry_out(order: Order, *, num_workers: int | None) -> int:
    """Check the files, write what was asked for, and give the exit code that the findings ask for.

    Raises:
        DpoError: something can't be used, read or written; the reports are there all the same where they can be.
    """
    told, settings = order.told, order.settings
    files, against = files_of(order.files), files_of(told.against)
    written = [*order.outputs.paths, *filter(None, [order.baseline_to_write])]
    read = filter(None, (told.schema, told.tokenizer, order.baseline, order.config))
    refuse_outputs(written, [*files, *against, *read])
    known = read_baseline(order.baseline) if order.baseline else None
    collected = Collected()
    signal.siginterrupt(signal.SIGINT, True)  # Polars makes reads go on after Ctrl-C; a pipe would then never end
    with findings_heard(order.outputs) as hear:
        report = check_files(
            files,
            settings,
            against=against,
            baseline=known,
            max_errors=None if order.baseline_to_write else told.max_errors,
            hear=collected.add if order.baseline_to_write else hear,
            machinery=Machinery(num_workers),
        )
    if order.baseline_to_write:
        report = _all_known(report, len(collected))
        if not report.unreadable:
            write_baseline(order.baseline_to_write, collected)
    problems = write_reports(order.outputs, report, order.fail_on)
    if order.outputs.shows_human and (report.files or not report.unreadable):  # else the error says it all
        _print_human(order, report, stderr_console(), is_written=not problems)
    if report.unreadable:
        raise InputError("; ".join([*problems, *report.unreadable]))
    if problems:
        raise DpoError("; ".join(problems))
    return report.exit_code(order.fail_on)


def _all_known(report: Report, number: int) -> Report:
    """Give the report as it is once all that was found is in the baseline."""
    files = tuple(replace(file, num_errors=0, num_warnings=0, counts={}) for file in report.files)
    return replace(report, files=files, counts={}, findings=(), known=number)


def _print_human(order: Order, report: Report, console: Console, *, is_written: bool) -> None:
    """Print the report, before it what it was made with, and behind it what was written."""
    if order.config:
        console.print(f"configuration: {path_text(order.config)}", soft_wrap=True)
    for rule in _asked_for(order.told):
        if needs := what_is_missing(rule, order.settings):
            console.print(f"{rule}: finds nothing without {needs}", soft_wrap=True)
    print_report(report, console, max_findings=order.max_findings, fail_on=order.fail_on)
    for output in order.outputs.wanted:
        if output.path and is_written:
            console.print(f"wrote {path_text(output.path)} ({output.form})", soft_wrap=True)
    if path := order.baseline_to_write:
        number = counted(report.known, "known finding")
        was_written = f"wrote {number} to {path_text(path)}"
        console.print(f"{path_text(path)}: not written" if report.unreadable else was_written, soft_wrap=True)


def _asked_for(told: Told) -> list[Rule]:
    """Name the rules that somebody wants to find something, one by one."""
    if len(told.severities) == len(Rule):  # by `all`
        return []
    return [rule for rule, severity in told.severities.items() if severity is not Severity.IGNORE]
