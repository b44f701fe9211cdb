"""What can be told to be wrong in an instant, before torch is loaded."""

import difflib
import os
import shlex
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from schemas.errors import DpoError, InputError, UsageError
from schemas.terminal import path_text, printable
from trainer.checkpoint.places import checkpoints_of, is_finished, is_of_run, is_run
from trainer.config.environment import check_environment, folder_problem
from trainer.config.sections import POLICY_FOLDER, TrainConfig
from trainer.data.prompts import read_frame, read_system_prompt
from trainer.data.sources import check_dataset
from trainer.data.template import read_template
from trainer.launch.number import refuse_wrong_number_of_processes
from trainer.launch.profiles import refuse_missing_deepspeed

MODEL_REMEDY = "name a local folder or another hub name with --model (a reference: reference.model_name=)"


def preflight(config: TrainConfig, *, starts_processes: bool = False) -> None:
    """Look at what a run needs: its processes and how they share the model, its files, model, run folder, environment.

    Args:
        starts_processes: What is called next starts the processes, where no launcher has.

    Raises:
        InputError: there are no pairs, no model or no template where the configuration says; all are named.
        UsageError: the run folder is in use, something of the environment is missing, a file of Accelerate's can't be
            used, or a launcher has started another number of processes.
        DpoError: the run folder can't be made.
    """
    refuse_wrong_number_of_processes(config, starts_processes=starts_processes)
    refuse_missing_deepspeed(config)
    _refuse_missing_inputs(config)
    if os.environ.get("RANK", "0") == "0":  # the other processes may come after this one has made the folder
        _refuse_missing_checkpoint(config)
        _refuse_used_run_folder(config)
    refuse_unwritable_folder(config.output_dir)
    check_environment(config)


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
            merge = printable(f"dpo export {shlex.quote(model_name)} -o NEW")
            raise InputError(
                f"model {printable(model_name)}: the folder holds adapters alone; merge them first: {merge}"
            )
        raise InputError(f"model {printable(model_name)}: the folder has no config.json, so no model; {MODEL_REMEDY}")
    elif is_path or path.exists():
        raise InputError(f"model {printable(model_name)}: no such folder; {MODEL_REMEDY}")


def refuse_used_folder(path: Path, remedy: str = "") -> None:
    """Keep what is there from being mixed with or replaced by something new.

    Raises:
        UsageError: the path is taken by a file, or by a folder that holds something.
    """
    if os.path.exists(path) and (not path.is_dir() or any(path.iterdir())):  # noqa: PTH110 (never raises)
        raise UsageError(f"{path_text(path)}: exists and is not empty; name a new folder with -o (output_dir){remedy}")


def _refuse_used_run_folder(config: TrainConfig) -> None:
    """Keep an earlier run from being mixed with this one, unless it is the one that is gone on with."""
    path, resume = config.output_dir, config.checkpointing.resume
    is_there = is_run(path)
    if not is_there or resume == "never":
        refuse_used_folder(path, ", or go on with the run in there: --resume auto" if is_there else "")
    elif resume != "auto" and not is_of_run(resume, config):
        refuse_used_folder(path)
    elif (path / POLICY_FOLDER).exists() and not is_finished(config):
        raise UsageError(
            f"{path_text(path)}: the run is finished; go on from one of its steps in a new folder: "
            f"--resume {path_text(checkpoints_of(config))}/step_N -o NEW"
        )


def _refuse_missing_checkpoint(config: TrainConfig) -> None:
    """Tell a mistyped path at once: a run that was to go on never begins anew.

    Raises:
        InputError: there is no such folder.
    """
    resume = config.checkpointing.resume
    if isinstance(resume, Path) and not resume.is_dir():
        meant = difflib.get_close_matches(str(resume), ("auto", "never"), n=1)
        raise InputError(
            f"checkpointing.resume={path_text(resume)}: no such folder"
            + (f"; did you mean {meant[0]}?" if meant else "")
        )


def refuse_unwritable_folder(path: Path) -> None:
    """Try whether a folder can be made there, rather than find out when the policy is to be saved.

    Raises:
        DpoError: it can't.
    """
    if (problem := folder_problem(path)) is not None:
        raise DpoError(f"{path_text(path)}: can't be written: {problem}")
