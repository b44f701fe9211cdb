"""`dpo export`: a trained policy as a folder, or a repository of the hub, that others load."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from schemas.errors import UsageError
from schemas.extras import needing_extra

Repository = Annotated[
    str | None,
    typer.Option("--push-to-hub", metavar="REPO", help="Upload the folder to this repository too, such as me/policy."),
]


def export_command(
    source: Annotated[
        Path, typer.Argument(metavar="RUN_OR_POLICY", help="Folder of a run, or of a policy.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="New folder for what is exported.", show_default=False)
    ],
    merge: Annotated[
        bool,
        typer.Option("--merge/--adapter", help="The whole model, adapters merged in; or the adapters alone."),
    ] = True,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option(help="Type of the weights of a whole model.", show_default="float32"),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(metavar="best|last|step_N", help="Which policy of the run.", show_default="last"),
    ] = None,
    push_to_hub: Repository = None,
    private: Annotated[
        bool, typer.Option("--private/--public", help="Who sees the repository, where the upload makes it.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")] = False,
) -> None:
    """Write a trained policy as a folder that from_pretrained loads.

    Prints the folder on stdout.
    Example: dpo export runs/x -o exported --checkpoint best --dtype bfloat16
    """
    from trainer.config.preflight import refuse_unwritable_folder, refuse_used_folder

    if not merge and dtype is not None:
        raise UsageError("--dtype is about a whole model; adapters are exported as they were trained")
    refuse_used_folder(output)
    refuse_unwritable_folder(output)
    with needing_extra("dpo export", "train"):
        from trainer.save.export import export, find_source
        from trainer.save.hub import push, refuse_wrong_name
    if push_to_hub is not None:
        refuse_wrong_name(push_to_hub)
    found = find_source(source, checkpoint)
    _say(f"exporting {found.policy}")
    done = export(found, output, as_adapter=not merge, dtype=dtype or "float32", place=push_to_hub)
    what = "the adapters" if done.kind == "adapter" else f"the model in {done.dtype}"
    _say(f"wrote {what}, {done.num_bytes / 1e6:,.1f} MB, to {output}")
    url = None
    if push_to_hub is not None:
        url = push(output, push_to_hub, private=private)
        _say(f"pushed to {url}")
    typer.echo(json.dumps(done.as_dict() | {"url": url}) if as_json else str(output))


def _say(text: str) -> None:
    from schemas.terminal import printable, stderr_console

    stderr_console().print(printable(text), soft_wrap=True)
