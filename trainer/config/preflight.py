"""What can be told to be wrong in an instant, before torch is loaded."""

import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from schemas.errors import DpoError, InputError, UsageError
from schemas.terminal import path_text
from trainer.config.environment import check_environment, folder_problem
from trainer.config.sections import TrainConfig
from trainer.data.prompts import read_frame, read_system_prompt
from trainer.data.sources import check_dataset
from trainer.data.template import read_template

MODEL_REMEDY = "name a local folder or another hub name with --model (a reference: reference.model_name=)"


def preflight(config: TrainConfig, arguments: Sequence[str] = ()) -> None:
    """Look at what a run needs: its number of processes, its files, model, run folder, and its environment.

    Args:
        arguments: Of the command line, for the line that would start the run as it is wanted.

    Raises:
        InputError: there are no pairs, no model or no template where the configuration says; all are named.
        UsageError: the run folder is in use, something of the environment is missing, or the launcher is the wrong one.
        DpoError: the run folder can't be made.
    """
    refuse_wrong_number_of_processes(config, arguments)
    _refuse_missing_inputs(config)
    if os.environ.get("RANK", "0") == "0":  # the other processes may come after this one has made the folder
        refuse_used_folder(config.output_dir)
    refuse_unwritable_folder(config.output_dir)
    check_environment(config)


def refuse_wrong_number_of_processes(config: TrainConfig, arguments: Sequence[str] = ()) -> None:
    """Keep a run that is meant for many processes from running on one.

    Raises:
        UsageError: cluster.* says another number of processes than the launcher has started.
    """
    found = int(os.environ.get("WORLD_SIZE", "1"))
    nodes = config.cluster.num_nodes
    given = config.cluster.gpus_per_node
    here = given if isinstance(given, int) else found // nodes or 1
    wanted = here * nodes
    if found == wanted:
        return
    rest = shlex.join(arguments) if arguments else "train …"
    on_nodes = f" --nnodes {nodes} --node-rank RANK --master-addr HOST" if nodes > 1 else ""
    more = f" --num_machines {nodes} --machine_rank RANK --main_process_ip HOST --main_process_port 29500"
    raise UsageError(
        f"cluster.gpus_per_node={config.cluster.gpus_per_node}, cluster.num_nodes={nodes}: number of processes: "
        f"expected {wanted}, got {found}; start it with: torchrun{on_nodes} --nproc-per-node {here} -m cli {rest}\n"
        f"  or: accelerate launch --multi_gpu --num_processes {wanted}{more if nodes > 1 else ''} -m cli {rest}"
    )


def _refuse_missing_inputs(config: TrainConfig) -> None:
    problems = [error for look in _looks(config) if (error := _failure(look)) is not None]
    if not problems:
        return
    kind = InputError if any(isinstance(error, InputError) for error in problems) else UsageError
    texts = [str(error) for error in problems]
    raise kind(texts[0] if len(texts) == 1 else "\n  ".join(["inputs that can't be read:", *texts]))


def _looks(config: TrainConfig) -> Iterator[Callable[[], object]]:
    """Yield a look at each path of the configuration that is read."""
    for dataset in (*config.data.train, *config.data.validation_sets.values()):
        yield partial(check_dataset, dataset)
        yield partial(read_system_prompt, dataset)
        yield partial(read_frame, dataset)
    yield partial(refuse_missing_folder, config.policy.model_name)
    if config.reference.model_name is not None:
        yield partial(refuse_missing_folder, config.reference.model_name)
    yield partial(read_template, config.policy.tokenizer)


def _failure(look: Callable[[], object]) -> DpoError | None:
    try:
        look()
    except (InputError, UsageError) as error:
        return error
    except OSError as error:  # of a name that no file can have
        return InputError(f"{path_text(Path(str(error.filename)))}: {error.strerror or error}")
    return None


def refuse_missing_folder(model_name: str) -> None:
    """Tell a mistyped path at once, instead of asking the hub for it.

    Raises:
        InputError: the name is a path where no model is.
    """
    path = Path(model_name)
    is_path = model_name.startswith((".", "~", os.sep)) or model_name.count("/") > 1
    if path.is_dir():
        if (path / "config.json").is_file():
            return
        if (path / "adapter_config.json").is_file():
            merge = f"dpo export {shlex.quote(model_name)} -o NEW"
            raise InputError(f"model {model_name}: the folder holds adapters alone; merge them first: {merge}")
        raise InputError(f"model {model_name}: the folder has no config.json, so no model; {MODEL_REMEDY}")
    elif is_path or path.exists():
        raise InputError(f"model {model_name}: no such folder; {MODEL_REMEDY}")


def refuse_used_folder(path: Path) -> None:
    """Keep an earlier run from being mixed with or replaced by this one.

    Raises:
        UsageError: the path is taken by a file, or by a folder that holds something.
    """
    if os.path.exists(path) and (not path.is_dir() or any(path.iterdir())):  # noqa: PTH110 (never raises)
        raise UsageError(f"{path_text(path)}: exists and is not empty; name a new folder with -o (output_dir)")


def refuse_unwritable_folder(path: Path) -> None:
    """Try whether a folder can be made there, rather than find out when the policy is to be saved.

    Raises:
        DpoError: it can't.
    """
    if (problem := folder_problem(path)) is not None:
        raise DpoError(f"{path_text(path)}: can't be written: {problem}")
