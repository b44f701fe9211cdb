"""`dpo compare`: two collections of rollouts of the same held-out tasks, before and after training."""

import importlib.util
import json
import math
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipeline.commands import AcrossAgents, AsJson, MaxLineMb, NumWorkers
from pipeline.reasoning import ReasoningPolicy
from pipeline.settings import MAX_LINE_BYTES, Format, RewardField, Settings
from schemas.errors import DpoError, UsageError
from schemas.extras import missing_package
from schemas.terminal import path_text, stderr_console

if TYPE_CHECKING:  # takes Polars with it
    from pipeline.comparison.compare import Comparison

MIB = 1 << 20
PACKAGES = ("jinja2", "matplotlib")


def compare_command(
    before: Annotated[
        Path,
        typer.Argument(
            metavar="BEFORE",
            help="Rollouts of the policy before: a file (JSONL, .gz, .zst), a folder, a quoted glob, a URL.",
            show_default=False,
        ),
    ],
    after: Annotated[
        Path,
        typer.Argument(metavar="AFTER", help="Rollouts of the same tasks by the policy after.", show_default=False),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Page to write, such as compare.html.", show_default="none"),
    ] = None,
    threshold: Annotated[float, typer.Option(help="The least reward that passes, for pass@k.")] = 0.5,
    reward_field: Annotated[
        str,
        typer.Option(
            "--reward-field",
            metavar="FIELD",
            help="Field of the reward, such as reward_components.style, or a weighted sum: 0.7*a+0.3*b.",
        ),
    ] = "reward",
    num_examples: Annotated[
        int,
        typer.Option(
            "--examples",
            min=0,
            help="Tasks that lost and that gained most, with their texts: so many on the page, at most 3 here.",
        ),
    ] = 10,
    fail_if_worse: Annotated[
        bool,
        typer.Option("--fail-if-worse", help="Exit with 1 if the whole interval of the mean reward is below zero."),
    ] = False,
    reasoning: Annotated[
        Literal["keep", "strip"], typer.Option(help="Show and measure answers with their reasoning, or without.")
    ] = "keep",
    across_agents: AcrossAgents = False,
    as_json: AsJson = False,
    max_line_mb: MaxLineMb = MAX_LINE_BYTES // MIB,
    num_workers: NumWorkers = None,
) -> None:
    """Compare two collections of rollouts of the same held-out tasks.

    Mean reward, pass@k, lengths, by agent and with intervals; the tasks that lost and gained most, with both texts.

    Example: dpo compare before.jsonl after.jsonl -o compare.html
    """
    if not math.isfinite(threshold):
        raise UsageError(f"--threshold {threshold}: expected a finite number")
    settings = Settings(
        format=Format.PREFERENCE,  # holds tool calls and several turns too
        threshold=threshold,
        reward_field=RewardField.parse(reward_field),
        reasoning=ReasoningPolicy(reasoning),
        allow_truncated_rejected=True,  # what was cut was scored too
        across_files=True,
        across_agents=across_agents,
        max_line_bytes=max_line_mb * MIB,
    )
    if output is not None:
        _refuse_output(output, [before, after])
        _require_report()
    from pipeline.comparison.compare import compare_rollouts
    from pipeline.intake import Machinery

    signal.siginterrupt(signal.SIGINT, True)  # Polars makes reads go on after Ctrl-C; a pipe would then never end
    comparison = compare_rollouts([before], [after], settings, Machinery(num_workers), num_examples=num_examples)
    if output is not None:
        _write_page(comparison, output)  # first, for who reads stdout may stop early: | head
    if as_json:
        typer.echo(json.dumps(comparison.as_dict()))
    else:
        from pipeline.comparison.show import show_comparison

        show_comparison(comparison)
    if output is not None:
        stderr_console().print(f"wrote {path_text(output)}", soft_wrap=True)
    if fail_if_worse and comparison.verdict == "worse":
        change = comparison.overall.reward.change
        raise DpoError(
            f"AFTER is worse: mean reward {change.mean:+.3f}, interval [{change.low:+.3f}, {change.high:+.3f}]"
        )


def _refuse_output(output: Path, sides: list[Path]) -> None:
    """Say before the work that the page can't be written there.

    Raises:
        UsageError: it would replace an input.
        DpoError: no file can be made there.
    """
    from pipeline.sources import expanded
    from schemas.atomic import refuse_unwritable

    refuse_unwritable(output)
    if output.is_file() and any(path.exists() and path.samefile(output) for path in expanded(sides)):
        raise UsageError(f"{path_text(output)}: is an input too; name another file")


def _require_report() -> None:
    """Say before the work that the page can't be made.

    Raises:
        UsageError: a package of the extra report is missing.
    """
    for name in PACKAGES:
        if importlib.util.find_spec(name) is None:
            raise missing_package("dpo compare --output", name, "report")


def _write_page(comparison: "Comparison", output: Path) -> None:
    from schemas.atomic import atomic_writer
    from views.comparison.page import comparison_page

    page = comparison_page(comparison).encode("utf-8", "replace")
    with atomic_writer(output) as stream:
        stream.write(page)
