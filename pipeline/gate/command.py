"""`dpo validate`: its options, which become an order that pipeline/gate/order.py carries out."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from schemas.errors import UsageError

if TYPE_CHECKING:
    from pipeline.gate.outputs import Outputs
    from pipeline.gate.settings import GateSettings

ROWS, RULES, REPORTS, VERDICT, RUN = (
    "What the rows are",
    "What is found",
    "What is reported",
    "What fails",
    "How the work is done",
)
MAX_FINDINGS = 20
MAX_WORKERS = 1024
"""More than any machine has cores; each is a process, so a slip of the finger would take the machine down."""


def validate_command(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Rollouts or preference pairs: files (JSONL, .gz, .zst, .parquet), folders, quoted globs, URLs, or "
            "- for stdin.",
            show_default=False,
        ),
    ] = None,
    kind: Annotated[
        Literal["rollout", "binary_preference", "preference", "trl"] | None,
        typer.Option(
            metavar="KIND",
            rich_help_panel=ROWS,
            help="rollout, binary_preference, preference or trl.",
            show_default="told by the first row",
        ),
    ] = None,
    schema: Annotated[
        Path | None,
        typer.Option(metavar="FILE", rich_help_panel=ROWS, help="JSON Schema of your own, instead of ours."),
    ] = None,
    prompt_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", rich_help_panel=ROWS, help="What the rows call prompt."),
    ] = None,
    chosen_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", rich_help_panel=ROWS, help="What they call chosen."),
    ] = None,
    rejected_key: Annotated[
        str | None,
        typer.Option(metavar="KEY", rich_help_panel=ROWS, help="What they call rejected."),
    ] = None,
    against: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=RULES,
            help="Rows whose prompts must not be in FILES, such as those of validation; may be given again.",
        ),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", rich_help_panel=RULES, help="tokenizer.json of the policy, or its folder, to count tokens."
        ),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", rich_help_panel=RULES, help="Tokens that prompt and response may have."),
    ] = None,
    error: Annotated[
        list[str] | None,
        typer.Option(metavar="RULE", rich_help_panel=RULES, help="Rules that are errors: a,b, or given again; or all."),
    ] = None,
    warn: Annotated[
        list[str] | None, typer.Option(metavar="RULE", rich_help_panel=RULES, help="Rules that are warnings.")
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(metavar="RULE", rich_help_panel=RULES, help="Rules that are left out.")
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            rich_help_panel=RULES,
            help="Where a rule begins to find something, such as max-length-ratio=3; none keeps it silent.",
        ),
    ] = None,
    balance_by: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            rich_help_panel=RULES,
            help="Key of the rows whose values are to be balanced; may be given again.",
            show_default="agent, environment, preference_type",
        ),
    ] = None,
    list_rules: Annotated[
        bool,
        typer.Option("--list-rules", rich_help_panel=RULES, help="Show all rules and limits as they are set, and end."),
    ] = False,
    output_format: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FORMAT[=FILE]",
            rich_help_panel=REPORTS,
            help="json, jsonl, junit, sarif, github or markdown, to stdout or a file; may be given again. human is "
            "the report on stderr, which is left out where another goes to stdout.",
            show_default="human",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", rich_help_panel=REPORTS, help="The same as --output-format json.")
    ] = False,
    max_findings: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            rich_help_panel=REPORTS,
            help="Findings that the report for people shows; all are counted.",
            show_default=str(MAX_FINDINGS),
        ),
    ] = None,
    fail_on: Annotated[
        Literal["error", "warning"] | None,
        typer.Option(
            metavar="error|warning",
            rich_help_panel=VERDICT,
            help="The least severity that ends with exit code 1.",
            show_default="error",
        ),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(metavar="FILE", rich_help_panel=VERDICT, help="Known findings, which don't count."),
    ] = None,
    write_baseline: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=VERDICT,
            help="Write all that is found as known to a file; only what is new fails then.",
        ),
    ] = None,
    max_errors: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", rich_help_panel=VERDICT, help="Stop reading after so many errors."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            rich_help_panel=RUN,
            help="TOML file of options.",
            show_default="nearest .dpo-validate.toml or pyproject.toml with [tool.dpo.validate]",
        ),
    ] = None,
    no_config: Annotated[bool, typer.Option("--no-config", rich_help_panel=RUN, help="Look for no such file.")] = False,
    num_workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            min=1,
            max=MAX_WORKERS,
            metavar="N",
            rich_help_panel=RUN,
            help="Processes.",
            show_default="one for each core",
        ),
    ] = None,
) -> None:
    """Check rollouts and preference pairs: each row, rows against one another, and the whole.

    Exits with 1 on findings that are errors, 2 on misuse, 3 where a file can't be read (the others are checked).

    Example: dpo validate dpo_train.jsonl --against dpo_val.jsonl
    """
    from pipeline.gate.config_file import find_config, read_config
    from pipeline.gate.outputs import outputs_told
    from pipeline.gate.rules import Severity
    from pipeline.gate.told import Told, laid_over, limits_told, refuse_all, settings_of, severities_told
    from schemas.validation import Kind

    switched = {"ignore": ignore or (), "error": error or (), "warn": warn or ()}
    severities, problems = severities_told(switched, dashes="--")
    limits, problems_of_limits = limits_told(limit or ())
    refuse_all([*problems, *problems_of_limits])
    told = Told(
        severities,
        limits,
        Severity(fail_on) if fail_on else None,
        max_errors,
        max_findings,
        max_tokens,
        tokenizer,
        schema,
        tuple(against or ()),
        Kind(kind) if kind else None,
        prompt_key,
        chosen_key,
        rejected_key,
        tuple(balance_by or ()),
        baseline,
    )
    if config and no_config:
        raise UsageError("--config and --no-config can't be together")
    if write_baseline and max_errors:
        raise UsageError("--write-baseline and --max-errors can't be together: the baseline would not be whole")
    outputs = outputs_told(output_format or (), as_json=as_json)
    configured = None if no_config else read_config(config) if config else find_config()
    told = laid_over(told, configured.told) if configured else told
    settings = settings_of(told)
    if list_rules:
        _list_rules(settings, outputs)
        return
    if not files:
        raise UsageError("no files; name rollouts or preference pairs, such as dpo_train.jsonl, or - for stdin")
    from pipeline.gate.order import Order, carry_out

    used = configured and configured.path
    order = Order(tuple(files), settings, told, outputs, used, write_baseline, told.max_findings or MAX_FINDINGS)
    raise typer.Exit(carry_out(order, num_workers=num_workers))


def _list_rules(settings: "GateSettings", outputs: "Outputs") -> None:
    from pipeline.gate.listing import print_rules, rules_as_json
    from schemas.terminal import stdout_console

    formats = [output.form.value for output in outputs.wanted]
    if outputs.paths or formats not in ([], ["json"]):
        raise UsageError("--list-rules goes to stdout, for people or with --json")
    if sys.stdout is None:
        raise UsageError("stdout is closed, where --list-rules goes to")
    if formats:
        typer.echo(json.dumps({"rules": rules_as_json(settings)}))
    else:
        print_rules(settings, stdout_console())
