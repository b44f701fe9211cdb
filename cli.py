"""The `dpo` command: parses, calls one function of a stage, prints.

The commands of the data half lie in pipeline/commands.py and pipeline/gate/command.py, those of the trainer in
trainer/commands.py and trainer/*_command.py, those that show pages in views/*_command.py.

Data and JSON go to stdout, everything for people to stderr. Each command imports its stage when it runs, so that
`dpo --help` starts fast and no command but `train`, `eval` and `export` ever imports torch.
"""

import contextlib
import itertools
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from pipeline.commands import collect_pairs_command, inspect_command
from pipeline.gate.command import validate_command
from schemas.errors import EXIT_INTERNAL, EXIT_STOPPED, DpoError, UsageError
from trainer.cluster_command import cluster_command
from trainer.commands import config_app, train_command
from trainer.eval_command import eval_command
from trainer.export_command import export_command
from views.compare_command import compare_command
from views.report_command import report_command
from views.review_command import review_command

EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

Schema = Literal["rollout", "binary", "preference", "trl", "train-config"]
SCHEMAS: dict[Schema, str] = {"binary": "binary_preference", "train-config": "train_config"}

app = typer.Typer(
    name="dpo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="From NeMo Gym rollouts to a DPO-trained policy.\n\n"
    "Exit codes: 0 done, 1 the work failed or findings, 2 wrong options or configuration, "
    "3 unreadable input, 4 a fault of dpo itself, 75 a training that was asked to stop and can be resumed.",
)


def main() -> None:
    """Run the command; turn each error into a message on stderr and the documented exit code."""
    _open_stderr()
    begins_again = _begins_again(sys.argv[1:])
    for number in (signal.SIGTERM, signal.SIGHUP, *([signal.SIGUSR1] if begins_again else [])):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, _leave_to_begin_again if begins_again else _terminated)
    try:
        exit_code = app(standalone_mode=False, prog_name="dpo") or 0
        if exit_code == EXIT_INTERRUPTED:  # Typer has turned Ctrl-C into a code already
            _leave_interrupted()
        sys.exit(exit_code)
    except DpoError as error:
        if error.is_told_elsewhere:
            sys.exit(error.exit_code)
        _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        _leave_interrupted()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains at exit
        sys.exit(1)
    except OSError as error:  # of stdout or the disk, which no stage can foresee
        _fail(f"can't go on: {error.strerror or error}", DpoError.exit_code)
    except Exception as error:
        if hasattr(error, "format_message"):  # Typer's own usage errors, whose classes have no public name
            if not error.format_message():  # dpo without arguments: its help is all there is to say
                error.show()  # type: ignore[attr-defined]
                sys.exit(UsageError.exit_code)
            _fail(_usage_message(error), UsageError.exit_code)
        from schemas.secrets import without_secrets

        print(without_secrets(traceback.format_exc()), file=sys.stderr, end="")  # noqa: T201
        _fail(f"this is a fault of dpo {_version()}; please report it with the lines above", EXIT_INTERNAL)


def _open_stderr() -> None:
    """Let what is told go nowhere if stderr was closed (`2>&-`); Python has None in its place then."""
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 (until the end)


def _begins_again(arguments: list[str]) -> bool:
    """Say whether this is a training that goes on where it was when it is started again."""
    told = {f"{one}={other}" for one, other in itertools.pairwise(arguments)} | {*arguments}
    return arguments[:1] == ["train"] and not told.isdisjoint({"--resume=auto", "checkpointing.resume=auto"})


def _terminated(*_: object) -> None:
    _fail("terminated", EXIT_TERMINATED)


def _leave_to_begin_again(*_: object) -> None:
    """End before anything was begun; later a training has its own way with signals."""
    os.write(2, b"dpo: stopped: before the first step; the same command begins again\n")
    os._exit(EXIT_STOPPED)


def _fail(message: str, exit_code: int) -> None:
    from schemas.terminal import STDERR, harmless

    rank = os.environ.get("RANK", "0")
    kind = "stopped" if exit_code == EXIT_STOPPED else "error"
    prefix = f"dpo: {kind}: " if rank == "0" else f"dpo: {kind} (rank {rank}): "
    text = prefix + "\n".join(map(harmless, message.split("\n")))
    print(f"{text}\n", end="", file=STDERR)  # at once: other processes write there too
    sys.exit(exit_code)


def _leave_interrupted() -> NoReturn:
    """End at once: all is cleaned up, and Python, if it saw the interrupt in a library, would end by its signal."""
    try:
        _fail("interrupted", EXIT_INTERRUPTED)
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(EXIT_INTERRUPTED)


def _usage_message(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "dpo"
    message: str = error.format_message()  # type: ignore[attr-defined]
    message = " ".join(message.replace("Value error, ", "").split()).rstrip(".")  # pydantic's words for a wrong choice
    return f"{message} (see: {command} --help)"


def _version() -> str:
    from importlib.metadata import version  # takes longer to import than all of dpo

    return version("dpo")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dpo {_version()}")
        raise typer.Exit


@app.callback()
def _dpo(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


app.command("collect-pairs")(collect_pairs_command)
app.command("inspect")(inspect_command)
app.command("validate")(validate_command)
app.command("train")(train_command)
app.command("cluster")(cluster_command)
app.command("report")(report_command)
app.command("eval")(eval_command)
app.command("compare")(compare_command)
app.command("review")(review_command)
app.command("export")(export_command)


@app.command("schema")
def schema_command(
    kind: Annotated[Schema, typer.Argument(help="Which rows, or train-config: what --config holds.")],
) -> None:
    """Print the JSON Schema of rollouts, of preference pairs in each form, or of the configuration of dpo train.

    Example: dpo schema train-config > train_config.schema.json
    """
    from importlib.resources import files

    typer.echo((files("schemas") / f"{SCHEMAS.get(kind, kind)}.schema.json").read_text(encoding="utf-8"), nl=False)


app.add_typer(config_app)


if __name__ == "__main__":
    main()
