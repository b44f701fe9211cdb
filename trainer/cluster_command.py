"""`dpo cluster`: a job file that runs `dpo train` on a cluster."""

import os
from pathlib import Path
from typing import Annotated

import typer

from schemas.errors import UsageError
from trainer.commands import (
    AccelerateConfig,
    BatchSize,
    Beta,
    ConfigFile,
    Epochs,
    LossName,
    Lr,
    MaxLength,
    MaxSteps,
    Model,
    Output,
    PushToHub,
    Told,
    Validation,
    told_apart,
)
from trainer.jobs.scheduler import Scheduler

JOB = "Job"


def cluster_command(
    scheduler: Annotated[
        Scheduler,
        typer.Argument(help="Whose file: of Slurm's sbatch, of sky jobs launch, of kubectl apply.", show_default=False),
    ],
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
    accelerate_config: AccelerateConfig = None,
    nodes: Annotated[
        int | None, typer.Option(min=1, help="Nodes of the run. cluster.num_nodes=", rich_help_panel=JOB)
    ] = None,
    gpus_per_node: Annotated[
        str | None,
        typer.Option(
            metavar="N|none",
            help="GPUs of each node, with a process each; none: the CPU. cluster.gpus_per_node=",
            show_default="8",
            rich_help_panel=JOB,
        ),
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="Kind of GPU, such as H100 (slurm, skypilot).", rich_help_panel=JOB),
    ] = None,
    cpus_per_task: Annotated[
        int, typer.Option(min=1, metavar="N", help="CPUs of each process.", rich_help_panel=JOB)
    ] = 8,
    mem: Annotated[
        int | None, typer.Option(min=1, metavar="GIB", help="Memory of each node in GiB.", rich_help_panel=JOB)
    ] = None,
    time: Annotated[
        str | None,
        typer.Option(help="Time limit of one start (slurm).", show_default="24:00:00", rich_help_panel=JOB),
    ] = None,
    partition: Annotated[str | None, typer.Option(help="Partition (slurm).", rich_help_panel=JOB)] = None,
    account: Annotated[str | None, typer.Option(help="Account (slurm).", rich_help_panel=JOB)] = None,
    setup: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COMMAND",
            help="Line of the shell that has dpo found or installed; several in their order (slurm, skypilot).",
            rich_help_panel=JOB,
        ),
    ] = None,
    image: Annotated[
        str | None, typer.Option(help="Container image with dpo in it (k8s, skypilot).", rich_help_panel=JOB)
    ] = None,
    bucket: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Bucket that keeps the run of one node (skypilot).", rich_help_panel=JOB),
    ] = None,
    volume: Annotated[
        str | None,
        typer.Option(
            help="Volume, or claim of one, that keeps the run (skypilot, k8s).",
            show_default="dpo (k8s)",
            rich_help_panel=JOB,
        ),
    ] = None,
    spot: Annotated[
        bool, typer.Option("--spot", help="Take machines that may be taken away (skypilot).", rich_help_panel=JOB)
    ] = False,
    name: Annotated[str, typer.Option(help="Name of the job.", rich_help_panel=JOB)] = "dpo",
    script: Annotated[
        Path | None,
        typer.Option("--script", "-O", metavar="FILE", help="File to write.", show_default="stdout"),
    ] = None,
) -> None:
    """Print a job file that trains on a cluster, and goes on by itself after time limits and preemption.

    Takes what dpo train takes, and checks it likewise; pairs and model need not be on this machine.
    Example: dpo cluster slurm dpo_train.jsonl --model my-model -o runs/x --nodes 2
    """
    from schemas.atomic import atomic_writer
    from schemas.terminal import path_text, stderr_console
    from trainer.jobs.command_line import resolved_line
    from trainer.jobs.job import Asked, Job
    from trainer.jobs.kubernetes import kubernetes_job
    from trainer.jobs.skypilot import MOUNT, skypilot_task
    from trainer.jobs.slurm import slurm_script

    short = {
        "--output": output,
        "--model": model,
        "--validation": validation,
        "--loss": loss,
        "--beta": beta,
        "--lr": lr,
        "--epochs": epochs,
        "--max-steps": max_steps,
        "--batch-size": batch_size,
        "--max-length": max_length,
        "--push-to-hub": push_to_hub,
        "--accelerate-config": accelerate_config,
    }
    asked = Asked(
        name=name,
        cpus_per_task=cpus_per_task,
        mem=mem,
        time=time,
        partition=partition,
        account=account,
        gpu=gpu,
        setup=tuple(setup or []),
        image=image,
        bucket=bucket,
        volume=volume,
        spot=spot,
    )
    asked.check(scheduler)
    pairs, overrides = told_apart(arguments or [])
    line, config = resolved_line(
        arguments or [],
        pairs=pairs,
        overrides=overrides,
        config_file=config_file,
        options={option: value for option, value in short.items() if value is not None},
        num_nodes=nodes,
        gpus_per_node=gpus_per_node,
        output_folder=f"{MOUNT}/runs" if scheduler == "skypilot" else "runs",
    )
    write = {"slurm": slurm_script, "skypilot": skypilot_task, "k8s": kubernetes_job}[scheduler]
    job = Job(line, config, asked)
    text = write(job)
    for note in job.notes:
        stderr_console().print(note, soft_wrap=True)
    if script is None:
        typer.echo(text, nl=False)
        return
    if os.path.lexists(script):
        raise UsageError(f"{path_text(script)}: exists; name a new file with -O")
    with atomic_writer(script) as file:
        file.write(text.encode())
