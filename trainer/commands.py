"""The commands of this half, `dpo train` and `dpo config`: parse, call one function, print.

What is heavy is imported when a command runs: pydantic by all of them, torch by `dpo train` alone.
"""

import json
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from schemas.errors import DpoError, StoppedError, UsageError
from schemas.extras import needing_extra

if TYPE_CHECKING:
    from trainer.config.listing import Option
    from trainer.config.sections import TrainConfig
    from trainer.imports.importing import Imported

DATA, MODEL, LOSS, LENGTH, RUN = "Data", "Model", "Loss", "Length of the run", "How it is run"
SETTING = re.compile(r"^(?:\+\+?)?[A-Za-z_][\w\-]*(?:\.[^=/]*)?=|^~[A-Za-z_][\w.\-]*(?:=|$)", re.DOTALL)

Told = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PAIRS|key=value",
        help="Files of preference pairs to train on, several as a mixture, and settings such as dpo.seed=7; "
        "`dpo config list` has all settings.",
        show_default=False,
    ),
]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help="YAML file of settings.", rich_help_panel=RUN),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Folder for the run.", show_default="runs/<time>", rich_help_panel=RUN),
]
Model = Annotated[
    str | None, typer.Option(help="Policy to start from: folder or hub name. policy.model_name=", rich_help_panel=MODEL)
]
Validation = Annotated[
    Path | None, typer.Option(help="Pairs to validate on. data.validation.data_path=", rich_help_panel=DATA)
]
LossName = Annotated[
    str | None, typer.Option(metavar="NAME", help="Preference loss, such as ipo. loss.name=", rich_help_panel=LOSS)
]
Beta = Annotated[
    float | None,
    typer.Option(help="Strength of the hold to the reference. dpo.reference_policy_kl_penalty=", rich_help_panel=LOSS),
]
Lr = Annotated[float | None, typer.Option(help="Highest learning rate. policy.optimizer.lr=", rich_help_panel=MODEL)]
Epochs = Annotated[int | None, typer.Option(help="Passes over the pairs. dpo.max_num_epochs=", rich_help_panel=LENGTH)]
MaxSteps = Annotated[
    int | None, typer.Option(help="Stop after so many steps. dpo.max_num_steps=", rich_help_panel=LENGTH)
]
BatchSize = Annotated[
    int | None, typer.Option(help="Pairs of one step. policy.train_global_batch_size=", rich_help_panel=LENGTH)
]
MaxLength = Annotated[
    int | None,
    typer.Option(help="Most tokens of prompt and response. policy.max_total_sequence_length=", rich_help_panel=DATA),
]
Resume = Annotated[
    str | None,
    typer.Option(
        metavar="auto|PATH|never",
        help="Go on from the newest whole checkpoint in the folder of -o, or from PATH. checkpointing.resume=",
        show_default="never",
        rich_help_panel=RUN,
    ),
]
ResumeAnyway = Annotated[
    bool | None,
    typer.Option(
        "--resume-anyway",
        help="Go on though data, model, reference or loss are other ones. checkpointing.resume_anyway=true",
        show_default=False,
        rich_help_panel=RUN,
    ),
]
Gpus = Annotated[
    str | None,
    typer.Option(
        metavar="auto|N|none",
        help="Processes on this node, one for each GPU; none: the CPU. cluster.gpus_per_node=",
        show_default="auto",
        rich_help_panel=RUN,
    ),
]
AccelerateConfig = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE",
        help="How processes share the model: ddp, fsdp2, hsdp, zero2, zero3, or a file of Accelerate's. "
        "cluster.accelerate_config=",
        show_default="ddp",
        rich_help_panel=RUN,
    ),
]
PushToHub = Annotated[
    str | None,
    typer.Option(metavar="REPO", help="Publish the policy at the end, privately. hub.repo_id=", rich_help_panel=RUN),
]

config_app = typer.Typer(
    name="config",
    no_args_is_help=True,
    help="Show, list and import configurations; train nothing.",
)


def train_command(
    arguments: Told = None,
    config_file: ConfigFile = None,
    output: Output = None,
    model: Model = None,
    validation: Validation = None,
    loss: LossName = None,
    beta: Beta = None,
    lr: Lr = None,
    epochs: Epochs = None,
    max_steps: MaxSteps = None,
    batch_size: BatchSize = None,
    max_length: MaxLength = None,
    push_to_hub: PushToHub = None,
    gpus: Gpus = None,
    accelerate_config: AccelerateConfig = None,
    resume: Resume = None,
    resume_anyway: ResumeAnyway = None,
    self_check: Annotated[
        bool | None,
        typer.Option(
            "--self-check/--no-self-check",
            help="Compute part of the first row in the model's own way too, and stop where the log-probs differ. "
            "policy.self_check=",
            show_default="self-check",
            rich_help_panel=RUN,
        ),
    ] = None,
    dry: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Only say what would happen: pairs, steps, rows, attention, memory. Loads no weights, writes nothing.",
            rich_help_panel=RUN,
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train a policy with DPO on preference pairs.

    Prints the folder of the trained policy on stdout. Starts a process for
    each GPU; runs under accelerate launch, torchrun and srun too.
    Example: dpo train dpo_train.jsonl --model data/samples/policy dpo.max_num_epochs=2
    """
    from trainer.config.preflight import preflight
    from trainer.config.settings import resolve
    from trainer.launch.launcher import launch, take_place
    from trainer.run.signals import Signals

    pairs, overrides = told_apart(arguments or [])
    short = {
        "policy.model_name": model,
        "output_dir": output,
        "data.validation.data_path": validation,
        "loss.name": loss,
        "dpo.reference_policy_kl_penalty": beta,
        "policy.optimizer.lr": lr,
        "dpo.max_num_epochs": epochs,
        "dpo.max_num_steps": max_steps,
        "policy.train_global_batch_size": batch_size,
        "policy.max_total_sequence_length": max_length,
        "hub.repo_id": push_to_hub,
        "cluster.gpus_per_node": gpus,
        "cluster.accelerate_config": accelerate_config,
        "checkpointing.resume": resume,
        "checkpointing.resume_anyway": resume_anyway,
        "policy.self_check": self_check,
    }
    options = {key: value for key, value in short.items() if value is not None}
    signals = Signals(begins_again=resume == "auto" or "checkpointing.resume=auto" in overrides)
    with signals.listening():
        config = resolve(overrides, train_data_path=pairs, config_file=config_file, options=options)
        signals.begins_again = config.checkpointing.resume == "auto"
        take_place(config)
        preflight(config, starts_processes=True)
        if dry:
            _show_plan(config, as_json=as_json)
            return
        with needing_extra("dpo train", "train"):
            if (exit_code := launch(config, sys.argv[1:], meanwhile=signals.left_alone)) is not None:
                sys.exit(exit_code)
            from trainer.run.loop import train  # which takes long on a cluster
        result = train(config, signals=signals)
    if result is None:  # on every process but the main one
        return
    if as_json or result.finished:
        typer.echo(json.dumps(result.as_dict()) if as_json else str(result.policy_dir))
    if not result.finished:
        raise StoppedError(result.shortfall)


def told_apart(arguments: list[str]) -> tuple[list[Path], list[str]]:
    """Tell files of pairs from settings: a setting has a dotted key before its `=`, and is no file.

    Raises:
        UsageError: an argument is empty, which as a path would be this folder.
    """
    if "" in arguments:
        raise UsageError("an argument is empty, as where a variable of the shell is not set")
    settings = [text for text in arguments if SETTING.match(text) and not os.path.exists(text)]  # noqa: PTH110 (never raises)
    return [Path(text) for text in arguments if text not in settings], settings


@config_app.command("show")
def show_command(arguments: Told = None, config_file: ConfigFile = None, as_json: AsJson = False) -> None:
    """Print the configuration of a run as YAML, with the default beside what differs from it.

    Takes what `dpo train` takes: pairs, a file, settings. What it prints is a file for --config.
    Example: dpo config show --config my.yaml dpo.seed=7
    """
    from trainer.config.settings import check, has_data
    from trainer.config.show import config_tree, differing_yaml
    from trainer.config.told import tell

    pairs, overrides = told_apart(arguments or [])
    told = tell(overrides, pairs=pairs, config_file=config_file, options={})
    tree = config_tree(check(told, needs_data=has_data(told.tree)), told)
    typer.echo(json.dumps(tree) if as_json else differing_yaml(tree), nl=as_json)


@config_app.command("list")
def list_command(
    pattern: Annotated[
        str, typer.Argument(help="Words of key or meaning, or a glob such as 'policy.lora.*'.", show_default="all")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """List every setting with its default, what it may be, and its meaning.

    Example: dpo config list warmup
    """
    from trainer.config.listing import list_options

    found = list_options(pattern)
    if not found:
        raise DpoError(f"no setting has {pattern!r} in its key or meaning; dpo config list has them all")
    if as_json:
        typer.echo(json.dumps([option.as_dict() for option in found]))
    else:
        _print_options(found)


@config_app.command("import")
def import_command(
    arguments: Annotated[
        list[str],
        typer.Argument(metavar="OLD.yaml|key=value", help="YAML or JSON file, and its settings.", show_default=False),
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write.", show_default="stdout")] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 where a key is lost that changes the run.")
    ] = False,
) -> None:
    """Turn a configuration of NeMo RL, NeMo Gym's example, an older tutorial or TRL into one for dpo.

    Prints YAML on stdout, and says on stderr what became of each key.
    Example: dpo config import examples/configs/dpo.yaml -o my.yaml
    """
    from trainer.imports.importing import import_config, imported_yaml

    files, settings = told_apart(arguments)
    if len(files) > 1:
        raise UsageError(f"{len(files)} files to import; expected one, and settings as key=value")
    imported = import_config(files[0] if files else None, settings)
    _print_notes(imported)
    if not imported.settings:
        raise DpoError("nothing was carried, so there is no configuration to write")
    text = imported_yaml(imported)
    if output is None:
        typer.echo(text, nl=False)
    else:
        _write_new(output, text)
    if strict and imported.lost:
        raise typer.Exit(1)


def _write_new(path: Path, text: str) -> None:
    from schemas.terminal import path_text

    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise UsageError(f"{path_text(path)}: exists; name a new file with -o") from error
    except OSError as error:
        raise DpoError(f"{path_text(path)}: can't be written: {error.strerror or error}") from error


def _print_options(found: "list[Option]") -> None:
    from rich.table import Table

    from schemas.terminal import stdout_console

    table = Table(box=None, pad_edge=False)
    for title in ("key", "default", "values", "meaning"):
        table.add_column(title, overflow="fold", no_wrap=title == "key")
    for option in found:
        table.add_row(option.key, option.default, option.values, option.meaning)
    stdout_console().print(table)


def _print_notes(imported: "Imported") -> None:
    from schemas.terminal import printable, stderr_console

    console = stderr_console()
    for note in imported.notes:
        console.print(printable(str(note)), soft_wrap=True)
    console.print(imported.summary)


def _show_plan(config: "TrainConfig", *, as_json: bool) -> None:
    with needing_extra("dpo train", "train"):
        from trainer.cost.dry_run import dry_run
    plan = dry_run(config)
    if plan is None:  # on every process but the main one
        return
    if as_json:
        typer.echo(json.dumps(plan.as_dict()))
    else:
        plan.show()
