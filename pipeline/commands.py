"""The commands of this half, `dpo collect-pairs` and `dpo inspect`: parse, call one function, print."""

import json
import signal
from pathlib import Path
from typing import Annotated

import typer

from pipeline.reasoning import ReasoningPolicy
from pipeline.settings import MAX_LINE_BYTES, DuplicateKeys, Format, Margin, RewardField, Settings, Strategy
from schemas.errors import DpoError

MIB = 1 << 20
CHOICE, NOISE, IDENTITY, SPLIT, WORK = (
    "Which pairs",
    "What counts as a response",
    "What belongs together",
    "Split",
    "How the work is done",
)

Rollouts = Annotated[
    list[Path],
    typer.Argument(
        help="Rollouts: files (JSONL, .gz, .zst), folders, quoted globs, URLs, or - for stdin.", show_default=False
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
RewardFieldText = Annotated[
    str,
    typer.Option(
        "--reward-field",
        metavar="FIELD",
        rich_help_panel=CHOICE,
        help="Field of the reward, such as reward_components.style, or a weighted sum: 0.7*a+0.3*b.",
    ),
]
Threshold = Annotated[
    float,
    typer.Option(rich_help_panel=CHOICE, help="The least reward of a correct response, for correct-wrong."),
]
Reasoning = Annotated[
    ReasoningPolicy,
    typer.Option(rich_help_panel=NOISE, help="Keep reasoning in one form, strip it, or drop responses without."),
]
AcrossFiles = Annotated[
    bool,
    typer.Option("--across-files", rich_help_panel=IDENTITY, help="Pair rollouts of one task from different files."),
]
AcrossAgents = Annotated[
    bool,
    typer.Option("--across-agents", rich_help_panel=IDENTITY, help="Pair rollouts of one task by different agents."),
]
AllowTruncated = Annotated[
    bool,
    typer.Option(
        "--allow-truncated-rejected",
        rich_help_panel=NOISE,
        help="Use responses that were cut by a limit, as rejected ones only.",
    ),
]
MaxLineMb = Annotated[
    int, typer.Option(min=1, rich_help_panel=WORK, help="Longest line that is read, in MiB; longer ones are dropped.")
]
NumWorkers = Annotated[
    int | None,
    typer.Option("--workers", min=1, rich_help_panel=WORK, help="Processes.", show_default="one for each core"),
]


def collect_pairs_command(
    rollouts: Rollouts,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="File for the pairs: .jsonl, .jsonl.gz, .jsonl.zst or .parquet."),
    ] = Path("dpo_train.jsonl"),
    form: Annotated[
        Format, typer.Option("--format", metavar="FORM", help="binary or preference (NeMo RL), or trl.")
    ] = (Format.BINARY),
    strategy: Annotated[
        Strategy,
        typer.Option(
            metavar="STRATEGY",
            rich_help_panel=CHOICE,
            help="Which pairs of a prompt are taken: all, best-worst, best-lower-tail, correct-wrong, random, top or "
            "length-matched.",
        ),
    ] = Strategy.ALL,
    num_pairs: Annotated[
        int | None, typer.Option(min=1, rich_help_panel=CHOICE, help="Pairs per prompt, for random and top.")
    ] = None,
    min_margin: Annotated[
        str,
        typer.Option(
            metavar="NUMBER[sd]",
            rich_help_panel=CHOICE,
            help="Least difference of the two rewards; 0.5sd is half a standard deviation of the agent's rewards.",
        ),
    ] = "0.1",
    threshold: Threshold = 0.5,
    min_chosen_reward: Annotated[
        float | None, typer.Option(rich_help_panel=CHOICE, help="Least reward of a chosen response.")
    ] = None,
    max_rejected_reward: Annotated[
        float | None, typer.Option(rich_help_panel=CHOICE, help="Greatest reward of a rejected response.")
    ] = None,
    max_length_ratio: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=CHOICE, help="Greatest ratio of the longer to the shorter response, in characters."
        ),
    ] = None,
    max_pairs_per_prompt: Annotated[
        int | None, typer.Option(min=1, rich_help_panel=CHOICE, help="Pairs to keep of each prompt, drawn by the seed.")
    ] = None,
    max_pairs_per_agent: Annotated[
        int | None,
        typer.Option(
            min=1, rich_help_panel=CHOICE, help="Pairs to keep of each agent, from as many prompts as possible."
        ),
    ] = None,
    reward_field: RewardFieldText = "reward",
    seed: Annotated[int, typer.Option(rich_help_panel=CHOICE, help="Seed of all that is drawn.")] = 0,
    reasoning: Reasoning = ReasoningPolicy.KEEP,
    allow_truncated_rejected: AllowTruncated = False,
    across_files: AcrossFiles = False,
    across_agents: AcrossAgents = False,
    duplicate_keys: Annotated[
        DuplicateKeys,
        typer.Option(
            rich_help_panel=IDENTITY, help="Different rollouts of a file with the same task and rollout index."
        ),
    ] = DuplicateKeys.KEEP,
    validation_fraction: Annotated[
        float, typer.Option(rich_help_panel=SPLIT, help="Share of the prompts for validation, in a file of its own.")
    ] = 0.0,
    test_fraction: Annotated[
        float, typer.Option(rich_help_panel=SPLIT, help="Share of the prompts for a test, in a file of its own.")
    ] = 0.0,
    sources: Annotated[
        bool, typer.Option("--sources/--no-sources", help="Write file and line of both rollouts into each row.")
    ] = True,
    token_ids: Annotated[
        bool,
        typer.Option("--token-ids", help="Write the token ids that the policy sampled into each row, where known."),
    ] = False,
    labels: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=CHOICE,
            help="What people say of pairs, as dpo review --format labels writes it; it counts more than rewards.",
        ),
    ] = None,
    rejects: Annotated[
        Path | None, typer.Option(help="File for the rows that are in no pair, each with its reason.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the account and write nothing.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show an example line for each reason.")] = False,
    as_json: AsJson = False,
    max_line_mb: MaxLineMb = MAX_LINE_BYTES // MIB,
    num_workers: NumWorkers = None,
    scratch: Annotated[
        Path | None,
        typer.Option(rich_help_panel=WORK, help="Folder for temporary files.", show_default="the folder of the output"),
    ] = None,
) -> None:
    """Make preference pairs of NeMo Gym rollouts.

    Groups the rollouts by prompt and task, pairs those whose rewards are a margin apart, accounts for every row.

    Example: dpo collect-pairs rollouts.jsonl -o dpo_train.jsonl --min-margin 0.1
    """
    settings = Settings(
        format=form,
        strategy=strategy,
        num_pairs=num_pairs,
        threshold=threshold,
        min_margin=Margin.parse(min_margin),
        min_chosen_reward=min_chosen_reward,
        max_rejected_reward=max_rejected_reward,
        max_length_ratio=max_length_ratio,
        max_pairs_per_prompt=max_pairs_per_prompt,
        max_pairs_per_agent=max_pairs_per_agent,
        reward_field=RewardField.parse(reward_field),
        reasoning=reasoning,
        allow_truncated_rejected=allow_truncated_rejected,
        duplicate_keys=duplicate_keys,
        across_files=across_files,
        across_agents=across_agents,
        validation_fraction=validation_fraction,
        test_fraction=test_fraction,
        seed=seed,
        sources=sources,
        token_ids=token_ids,
        labels=labels,
        max_line_bytes=max_line_mb * MIB,
    )
    from pipeline.collect import collect_pairs
    from pipeline.intake import Machinery

    signal.siginterrupt(signal.SIGINT, True)  # Polars makes reads go on after Ctrl-C; a pipe would then never end
    collection = collect_pairs(
        rollouts,
        None if dry_run else output,
        settings,
        Machinery(num_workers, scratch_parent=scratch),
        rejects=None if dry_run else rejects,
    )
    from pipeline.show import show_collection, show_outputs, why_no_pairs

    if as_json:
        typer.echo(json.dumps(collection.as_dict()))
    else:
        show_collection(collection, settings, verbose=verbose)
        show_outputs(collection, rejects=None if dry_run else rejects, dry_run=dry_run)
    if not collection.attrition.pairs:
        raise DpoError(why_no_pairs(collection, settings))


def inspect_command(
    rollouts: Rollouts,
    form: Annotated[Format, typer.Option("--format", help="Count as usable what this form of pairs can hold.")] = (
        Format.BINARY
    ),
    threshold: Annotated[float, typer.Option(help="The least reward that passes.")] = 0.5,
    reward_field: RewardFieldText = "reward",
    reasoning: Reasoning = ReasoningPolicy.KEEP,
    allow_truncated_rejected: AllowTruncated = False,
    across_files: AcrossFiles = False,
    across_agents: AcrossAgents = False,
    as_json: AsJson = False,
    max_line_mb: MaxLineMb = MAX_LINE_BYTES // MIB,
    num_workers: NumWorkers = None,
) -> None:
    """Show what rollouts are good for, before pairing them.

    Tasks that always, sometimes and never pass, rewards, lengths, what can't be used, how many pairs there are.

    Example: dpo inspect rollouts.jsonl
    """
    settings = Settings(
        format=form,
        threshold=threshold,
        reward_field=RewardField.parse(reward_field),
        reasoning=reasoning,
        allow_truncated_rejected=allow_truncated_rejected,
        across_files=across_files,
        across_agents=across_agents,
        max_line_bytes=max_line_mb * MIB,
    )
    from pipeline.inspection import inspect_rollouts
    from pipeline.intake import Machinery

    signal.siginterrupt(signal.SIGINT, True)  # as above
    inspection = inspect_rollouts(rollouts, settings, Machinery(num_workers))
    if as_json:
        typer.echo(json.dumps(inspection.as_dict()))
    else:
        from pipeline.show import show_inspection

        show_inspection(inspection)
    if not inspection.rollouts:
        raise DpoError("no usable rollouts; dpo collect-pairs --dry-run --verbose shows a line for each reason")
